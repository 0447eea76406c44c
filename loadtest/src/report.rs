//! What one generator run found: the JSON between `generate` and everything that starts it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// Everything in it is about the measured window, the errors about the whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub seconds: f64,
    /// Responses (or echoes) that came whole and as expected.
    pub requests: u64,
    /// Body (or stream) bytes received.
    pub bytes: u64,
    pub errors: Errors,
    /// Connections that the other side closed between two requests; each was opened again.
    pub reconnects: u64,
    pub latency: Latency,
    /// The fewest and the most requests that any one connection carried.
    pub per_connection: [u64; 2],
    /// The processes given by `--watch`.
    pub watched: Usage,
    /// Their system calls, if `--count-syscalls`.
    pub watched_syscalls: Option<u64>,
    /// The generator itself.
    pub generator_cpu_ns: u64,
    /// The processes given by `--beside`: what shares our core.
    pub beside_cpu_ns: u64,
}

/// Requests that failed, by what the client saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Another status than 200.
    pub status: u64,
    /// A body of another length than asked for.
    pub length: u64,
    /// Not HTTP.
    pub malformed: u64,
    /// Refused, reset or ended with a request on it.
    pub connection: u64,
    /// Not answered by the end.
    pub unanswered: u64,
    /// How many of all these were POSTs.
    pub posts: u64,
}

impl Errors {
    pub fn total(&self) -> u64 {
        self.status + self.length + self.malformed + self.connection + self.unanswered
    }
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// For latencies of 1 ns to 100 s, to three digits; what is beyond counts as 100 s.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("the bounds are in order")
}

impl Latency {
    /// From a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

impl Report {
    pub fn parse(json: &str) -> std::io::Result<Report> {
        serde_json::from_str(json).map_err(|error| std::io::Error::other(error.to_string()))
    }

    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// CPU of the watched processes, in microseconds per request.
    pub fn cpu_us_per_request(&self) -> f64 {
        self.watched.cpu_ns as f64 / 1e3 / self.requests as f64
    }

    /// CPU of the watched processes, in milliseconds per 10⁹ bytes.
    pub fn cpu_ms_per_gb(&self) -> f64 {
        self.watched.cpu_ns as f64 / 1e6 / (self.bytes as f64 / 1e9)
    }

    pub fn switches_per_request(&self) -> f64 {
        let switches = self.watched.voluntary_switches + self.watched.involuntary_switches;
        switches as f64 / self.requests as f64
    }

    /// How much of its core the watched processes used, 0 to 1.
    pub fn watched_share(&self) -> f64 {
        self.watched.cpu_ns as f64 / 1e9 / self.seconds
    }

    /// How much of the other core the generator and the origin used, 0 to 1.
    pub fn load_share(&self) -> f64 {
        (self.generator_cpu_ns + self.beside_cpu_ns) as f64 / 1e9 / self.seconds
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let Latency { mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = self.latency;
        let Errors { status, length, malformed, connection, unanswered, posts } = self.errors;
        let [fewest, most] = self.per_connection;
        format!(
            "{} requests in {:.2} s: {:.0}/s, {:.1} MB/s\n\
             latency µs: mean {mean_us:.0}, p50 {p50_us:.0}, p90 {p90_us:.0}, p99 {p99_us:.0}, \
             p99.9 {p999_us:.0}, max {max_us:.0}\n\
             errors: {} (status {status}, length {length}, malformed {malformed}, connection \
             {connection}, unanswered {unanswered}; {posts} of them POSTs), {} reconnects\n\
             per connection: {fewest} to {most} requests",
            self.requests,
            self.seconds,
            self.rate(),
            self.bytes as f64 / 1e6 / self.seconds,
            self.errors.total(),
            self.reconnects,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_there_and_back() {
        let report = Report { requests: 3, seconds: 1.5, ..Report::default() };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(Report::parse(&json).unwrap(), report);
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut histogram = histogram();
        for value_us in 1..=1000u64 {
            histogram.saturating_record(value_us * 1000);
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p999_us - 999.0).abs() < 1.0, "{latency:?}");
    }
}

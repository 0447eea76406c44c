//! The counters as Prometheus text (exposition format 0.0.4).
//!
//! `METRICS` is the one definition of every `ringside_*` metric: its name, its kind, its words,
//! its labels and where its samples come from. What INTERFACE.md names and is not here is not
//! counted yet.

use std::fmt::Write;

use super::counters::{Counters, Exchanges, Listener, OTHER_CODE, Service};
use super::histogram::Histogram;
use super::names::Names;
use crate::plan::EndpointState;

/// What is known of the process itself, beside its counters.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub version: &'a str,
    pub node: Node<'a>,
    pub generation: u64,
    /// When that generation went live, in seconds since 1970.
    pub applied_at_s: f64,
    /// `io_uring` or `epoll`.
    pub io_backend: &'a str,
    /// Why that one.
    pub io_reason: &'a str,
    /// `None` without an access log.
    pub access_log_dropped: Option<u64>,
    /// The services of the plan that is live, each with how many endpoints it has in each state.
    pub endpoints: Vec<(&'a str, [usize; EndpointState::ALL.len()])>,
}

/// Who this proxy is; empty where the config does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node<'a> {
    pub id: &'a str,
    pub service: &'a str,
    pub zone: &'a str,
}

/// Appends all metrics to `out`; `workers` are the workers' counters in the order of their numbers.
pub fn render(out: &mut String, names: &Names, workers: &[Counters], facts: &Facts<'_>) {
    let mut all = Counters::new();
    for worker in workers {
        all.merge(worker);
    }
    // A row that only appears with the first request is one that no alert can wait for.
    all.cover(names);
    // An exchange that began long ago may have counted for a name that is forgotten.
    all.forget(names);
    let sources = Sources { names, workers, all: &all, facts };
    for metric in METRICS {
        let Metric { name, kind, help, .. } = metric;
        let kind_name = kind.name();
        write_to(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind_name}\n"));
        (metric.samples)(&sources, &mut Samples { out, metric });
    }
}

/// Where samples are taken from.
struct Sources<'a> {
    names: &'a Names,
    workers: &'a [Counters],
    /// The sum of `workers`.
    all: &'a Counters,
    facts: &'a Facts<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric: everything that is ever said about it.
struct Metric {
    name: &'static str,
    kind: Kind,
    /// One line without a backslash.
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&Sources<'_>, &mut Samples<'_>),
}

const EXCHANGE_LABELS: &[&str] = &["listener", "route", "service"];

static METRICS: &[Metric] = &[
    Metric {
        name: "ringside_requests_total",
        kind: Kind::Counter,
        help: "Exchanges that have ended, by what the client was sent and why.",
        labels: &["listener", "route", "service", "code", "grpc_status", "cause"],
        samples: requests,
    },
    Metric {
        name: "ringside_request_duration_seconds",
        kind: Kind::Histogram,
        help: "First byte of the request to last byte of the response, of exchanges that reached \
               an upstream.",
        labels: EXCHANGE_LABELS,
        samples: |sources, samples| {
            for row in &sources.all.exchanges {
                samples.histogram(&exchange_labels(sources.names, row), &row.duration);
            }
        },
    },
    Metric {
        name: "ringside_upstream_first_byte_seconds",
        kind: Kind::Histogram,
        help: "Last byte of the request out to first byte of the response in.",
        labels: &["service"],
        samples: |sources, samples| {
            for (name, service) in services(sources) {
                samples.histogram(&[name], &service.first_byte);
            }
        },
    },
    Metric {
        name: "ringside_proxy_overhead_seconds",
        kind: Kind::Histogram,
        help: "What ringside itself added to exchanges that reached an upstream.",
        labels: &[],
        samples: |sources, samples| samples.histogram(&[], &sources.all.overhead),
    },
    Metric {
        name: "ringside_connections_active",
        kind: Kind::Gauge,
        help: "Downstream connections that are open.",
        labels: &["listener"],
        samples: |sources, samples| {
            per_listener(sources, samples, |listener| listener.active as f64);
        },
    },
    Metric {
        name: "ringside_connections_total",
        kind: Kind::Counter,
        help: "Downstream connections that were accepted.",
        labels: &["listener"],
        samples: |sources, samples| {
            per_listener(sources, samples, |listener| listener.total as f64);
        },
    },
    Metric {
        name: "ringside_connections_closed_total",
        kind: Kind::Counter,
        help: "Downstream connections that were closed; no cause: as they should.",
        labels: &["listener", "cause"],
        samples: |sources, samples| {
            for (name, listener) in listeners(sources) {
                for (cause, count) in &listener.closed {
                    samples.value(&[name, cause.unwrap_or_default()], *count as f64);
                }
            }
        },
    },
    Metric {
        name: "ringside_upstream_connections_active",
        kind: Kind::Gauge,
        help: "Upstream connections that are open, idle ones too.",
        labels: &["service"],
        samples: |sources, samples| {
            per_service(sources, samples, |service| service.active as f64);
        },
    },
    Metric {
        name: "ringside_upstream_connections_total",
        kind: Kind::Counter,
        help: "Upstream connections that were made.",
        labels: &["service"],
        samples: |sources, samples| {
            per_service(sources, samples, |service| service.total as f64);
        },
    },
    Metric {
        name: "ringside_upstream_connections_reused_total",
        kind: Kind::Counter,
        help: "Requests that went out on a connection that had carried another one before.",
        labels: &["service"],
        samples: |sources, samples| {
            per_service(sources, samples, |service| service.reused as f64);
        },
    },
    Metric {
        name: "ringside_upstream_pending",
        kind: Kind::Gauge,
        help: "Requests that wait for an upstream connection.",
        labels: &["service"],
        samples: |sources, samples| {
            per_service(sources, samples, |service| service.pending as f64);
        },
    },
    Metric {
        name: "ringside_service_endpoints",
        kind: Kind::Gauge,
        help: "Endpoints of a service, by what is known of them; nobody checks their health yet.",
        labels: &["service", "state"],
        samples: |sources, samples| {
            for (service, counts) in &sources.facts.endpoints {
                for (state, count) in EndpointState::ALL.iter().zip(counts) {
                    samples.value(&[service, state.name()], *count as f64);
                }
            }
        },
    },
    Metric {
        name: "ringside_bytes_total",
        kind: Kind::Counter,
        help: "Bytes over downstream connections; in: from the downstream.",
        labels: &["listener", "direction"],
        samples: |sources, samples| {
            for (name, listener) in listeners(sources) {
                samples.value(&[name, "in"], listener.bytes_in as f64);
                samples.value(&[name, "out"], listener.bytes_out as f64);
            }
        },
    },
    Metric {
        name: "ringside_config_generation",
        kind: Kind::Gauge,
        help: "The plan that is live.",
        labels: &[],
        samples: |sources, samples| samples.value(&[], sources.facts.generation as f64),
    },
    Metric {
        name: "ringside_config_applied_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When that plan went live.",
        labels: &[],
        samples: |sources, samples| samples.value(&[], sources.facts.applied_at_s),
    },
    Metric {
        name: "ringside_worker_connections_active",
        kind: Kind::Gauge,
        help: "Downstream connections that are open on this worker.",
        labels: &["worker"],
        samples: |sources, samples| {
            per_worker(sources, |worker, counters| {
                samples.value(&[worker], counters.connections_active as f64);
            });
        },
    },
    Metric {
        name: "ringside_worker_requests_total",
        kind: Kind::Counter,
        help: "Exchanges that have ended on this worker.",
        labels: &["worker"],
        samples: |sources, samples| {
            per_worker(sources, |worker, counters| {
                samples.value(&[worker], counters.requests as f64);
            });
        },
    },
    Metric {
        name: "ringside_worker_loop_lag_seconds",
        kind: Kind::Histogram,
        help: "How long an event that was ready waited for the loop to come round.",
        labels: &["worker"],
        samples: |sources, samples| {
            per_worker(sources, |worker, counters| {
                samples.histogram(&[worker], &counters.loop_lag);
            });
        },
    },
    Metric {
        name: "ringside_io_backend_info",
        kind: Kind::Gauge,
        help: "How the event loops talk to the kernel, and why so.",
        labels: &["backend", "reason"],
        samples: |sources, samples| {
            samples.value(&[sources.facts.io_backend, sources.facts.io_reason], 1.0);
        },
    },
    Metric {
        name: "ringside_access_log_dropped_total",
        kind: Kind::Counter,
        help: "Access records that were lost because the output could not keep up.",
        labels: &[],
        samples: |sources, samples| {
            if let Some(dropped) = sources.facts.access_log_dropped {
                samples.value(&[], dropped as f64);
            }
        },
    },
    Metric {
        name: "ringside_build_info",
        kind: Kind::Gauge,
        help: "The program that runs, and as whom.",
        labels: &["version", "node", "service", "zone"],
        samples: |sources, samples| {
            let Node { id, service, zone } = sources.facts.node;
            samples.value(&[sources.facts.version, id, service, zone], 1.0);
        },
    },
];

fn requests(sources: &Sources<'_>, samples: &mut Samples<'_>) {
    for row in &sources.all.exchanges {
        let [listener, route, service] = exchange_labels(sources.names, row);
        for outcome in &row.outcomes {
            let mut digits = itoa::Buffer::new();
            let code = match outcome.code {
                OTHER_CODE => "other",
                code => digits.format(code),
            };
            let cause = outcome.cause.unwrap_or_default();
            samples.value(&[listener, route, service, code, "", cause], outcome.count as f64);
        }
    }
}

/// The values of [`EXCHANGE_LABELS`].
fn exchange_labels<'a>(names: &'a Names, row: &Exchanges) -> [&'a str; 3] {
    let route = row.key.route.map_or("", |route| names.route_name(route));
    let service = row.key.service.map_or("", |service| names.service_name(service));
    [names.listener_name(row.key.listener), route, service]
}

fn listeners<'a>(sources: &Sources<'a>) -> impl Iterator<Item = (&'a str, &'a Listener)> {
    let listeners = sources.names.listeners();
    listeners.filter_map(|(id, name)| Some((name, sources.all.listeners.get(&id)?)))
}

fn services<'a>(sources: &Sources<'a>) -> impl Iterator<Item = (&'a str, &'a Service)> {
    let services = sources.names.services();
    services.filter_map(|(id, name)| Some((name, sources.all.services.get(&id)?)))
}

fn per_listener(sources: &Sources<'_>, samples: &mut Samples<'_>, value: fn(&Listener) -> f64) {
    for (name, listener) in listeners(sources) {
        samples.value(&[name], value(listener));
    }
}

fn per_service(sources: &Sources<'_>, samples: &mut Samples<'_>, value: fn(&Service) -> f64) {
    for (name, service) in services(sources) {
        samples.value(&[name], value(service));
    }
}

fn per_worker(sources: &Sources<'_>, mut sample: impl FnMut(&str, &Counters)) {
    for (worker, counters) in sources.workers.iter().enumerate() {
        sample(itoa::Buffer::new().format(worker), counters);
    }
}

/// Takes the samples of one metric.
struct Samples<'a> {
    out: &'a mut String,
    metric: &'static Metric,
}

impl Samples<'_> {
    /// One sample; `labels` are the values of the metric's labels, in their order.
    fn value(&mut self, labels: &[&str], value: f64) {
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        debug_assert_eq!(self.metric.kind, Kind::Histogram);
        for (bound, count) in histogram.cumulative() {
            self.line("_bucket", labels, Some(bound), count as f64);
        }
        let count = histogram.count() as f64;
        self.line("_bucket", labels, Some(f64::INFINITY), count);
        self.line("_sum", labels, None, histogram.sum_seconds());
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<f64>, value: f64) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        self.out.push_str(self.metric.name);
        self.out.push_str(suffix);
        let mut open = '{';
        for (name, value) in self.metric.labels.iter().zip(labels) {
            self.out.push(open);
            write_to(self.out, format_args!("{name}=\""));
            write_label_value(self.out, value);
            self.out.push('"');
            open = ',';
        }
        if let Some(bound) = bound {
            self.out.push(open);
            match bound.is_finite() {
                true => write_to(self.out, format_args!("le=\"{bound}\"")),
                false => self.out.push_str("le=\"+Inf\""),
            }
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
        write_to(self.out, format_args!(" {value}\n"));
    }
}

/// Backslash, quote and newline are the three that the format escapes in a label's value.
fn write_label_value(out: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn write_to(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::counters::{Direction, Exchange, Upstream};

    fn facts() -> Facts<'static> {
        Facts {
            version: "0.1.0",
            node: Node { id: "web-1", service: "web", zone: "" },
            generation: 3,
            applied_at_s: 1.5,
            io_backend: "epoll",
            io_reason: "io_uring_setup: \"forbidden\"",
            access_log_dropped: Some(4),
            endpoints: vec![("shop", [2, 1, 0])],
        }
    }

    fn rendered(names: &Names, workers: &[Counters]) -> String {
        let mut out = String::new();
        render(&mut out, names, workers, &facts());
        out
    }

    fn sample() -> String {
        let mut names = Names::default();
        let (web, route, shop) = (names.listener("web"), names.route("api"), names.service("shop"));
        let (mut one, mut two) = (Counters::new(), Counters::new());
        one.connection_opened(web);
        one.bytes(web, Direction::In, 120);
        one.connection_closed(web, Some("keep_alive_timeout"));
        one.loop_lag(Duration::from_micros(3));
        two.connection_opened(web);
        two.upstream_opened(shop);
        two.upstream_reused(shop);
        two.upstream_waiting(shop);
        let ok = Exchange {
            listener: web,
            route: Some(route),
            service: Some(shop),
            code: 200,
            cause: None,
            duration: Duration::from_micros(300),
            upstream: Some(Upstream {
                first_byte: Some(Duration::from_micros(200)),
                overhead: Duration::from_micros(5),
            }),
        };
        one.exchange(&ok);
        two.exchange(&ok);
        let no_route = Some("no_route");
        two.exchange(&Exchange {
            route: None,
            service: None,
            code: 404,
            cause: no_route,
            upstream: None,
            ..ok
        });
        rendered(&names, &[one, two])
    }

    #[test]
    fn samples_are_named_and_labelled_as_in_the_interface() {
        let text = sample();
        let expected = [
            r#"ringside_requests_total{listener="web",route="api",service="shop",code="200",grpc_status="",cause=""} 2"#,
            r#"ringside_requests_total{listener="web",route="",service="",code="404",grpc_status="",cause="no_route"} 1"#,
            r#"ringside_request_duration_seconds_bucket{listener="web",route="api",service="shop",le="0.00025"} 0"#,
            r#"ringside_request_duration_seconds_bucket{listener="web",route="api",service="shop",le="0.0005"} 2"#,
            r#"ringside_request_duration_seconds_bucket{listener="web",route="api",service="shop",le="+Inf"} 2"#,
            r#"ringside_request_duration_seconds_sum{listener="web",route="api",service="shop"} 0.0006"#,
            r#"ringside_request_duration_seconds_count{listener="web",route="api",service="shop"} 2"#,
            r#"ringside_upstream_first_byte_seconds_count{service="shop"} 2"#,
            r#"ringside_proxy_overhead_seconds_bucket{le="0.000005"} 2"#,
            r#"ringside_proxy_overhead_seconds_count 2"#,
            r#"ringside_connections_active{listener="web"} 1"#,
            r#"ringside_connections_total{listener="web"} 2"#,
            r#"ringside_connections_closed_total{listener="web",cause="keep_alive_timeout"} 1"#,
            r#"ringside_upstream_connections_active{service="shop"} 1"#,
            r#"ringside_upstream_connections_total{service="shop"} 1"#,
            r#"ringside_upstream_connections_reused_total{service="shop"} 1"#,
            r#"ringside_upstream_pending{service="shop"} 1"#,
            r#"ringside_bytes_total{listener="web",direction="in"} 120"#,
            r#"ringside_bytes_total{listener="web",direction="out"} 0"#,
            r#"ringside_service_endpoints{service="shop",state="healthy"} 2"#,
            r#"ringside_service_endpoints{service="shop",state="ejected"} 1"#,
            r#"ringside_config_generation 3"#,
            r#"ringside_config_applied_timestamp_seconds 1.5"#,
            r#"ringside_worker_connections_active{worker="0"} 0"#,
            r#"ringside_worker_connections_active{worker="1"} 1"#,
            r#"ringside_worker_requests_total{worker="1"} 2"#,
            r#"ringside_worker_loop_lag_seconds_count{worker="0"} 1"#,
            r#"ringside_io_backend_info{backend="epoll",reason="io_uring_setup: \"forbidden\""} 1"#,
            r#"ringside_access_log_dropped_total 4"#,
            r#"ringside_build_info{version="0.1.0",node="web-1",service="web",zone=""} 1"#,
        ];
        for line in expected {
            assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
        }
    }

    #[test]
    fn what_was_never_touched_is_zero() {
        let mut names = Names::default();
        names.listener("web");
        names.listener("edge");
        names.service("shop");
        let text = rendered(&names, &[Counters::new()]);
        for line in [
            r#"ringside_connections_active{listener="edge"} 0"#,
            r#"ringside_connections_total{listener="web"} 0"#,
            r#"ringside_bytes_total{listener="web",direction="in"} 0"#,
            r#"ringside_upstream_first_byte_seconds_count{service="shop"} 0"#,
            r#"ringside_upstream_connections_active{service="shop"} 0"#,
            r#"ringside_upstream_connections_total{service="shop"} 0"#,
            r#"ringside_upstream_pending{service="shop"} 0"#,
        ] {
            assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
        }
    }

    /// Every line is a comment or a sample of the metric that was announced last.
    #[test]
    fn every_sample_stands_under_its_type() {
        let text = sample();
        let mut announced = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                announced = rest.split(' ').next().unwrap();
            } else if !line.starts_with("# HELP ") {
                assert!(line.starts_with(announced), "{line} under {announced}");
                let (_, value) = line.rsplit_once(' ').unwrap();
                value.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let mut seen = Vec::new();
        for Metric { name, kind, help, .. } in METRICS {
            assert!(!seen.contains(name), "{name} twice");
            seen.push(name);
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(!help.contains(['\\', '\n']) && help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        write_label_value(&mut out, "a\\b\"c\nd é");
        assert_eq!(out, r#"a\\b\"c\nd é"#);
    }
}

//! `loadtest soak`: mixed load for ten minutes; memory and descriptors must stay flat.
//!
//! Five loads run side by side: small requests at a rate, POSTs with bodies, chunked answers, long
//! answers, and clients that come and go. Memory and descriptors of the proxy are sampled
//! meanwhile; after the warm-up the line through the samples must not rise.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Entry, LOAD_CORE};
use crate::peer::{self, Setup};
use crate::process::{self, Folder, Process};
use crate::report::Report;
use crate::{memory, statistics, syscall, usage};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// The binary to measure; without it `ringside` beside this program
    #[arg(long)]
    ringside: Option<PathBuf>,
    /// Soak a peer instead (a check of this program)
    #[arg(long, value_enum, default_value = "ringside")]
    program: Soaked,
    /// Between two samples
    #[arg(long, default_value_t = 5.0)]
    every: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Soaked {
    Ringside,
    RingsideEpoll,
    Nginx,
    Haproxy,
    Envoy,
}

/// Samples from the first part of the run are warm-up.
const WARMUP: f64 = 0.3;
/// What counts as flat: growth over the measured part, as a share of what was there, or less than
/// so much altogether.
const GROWTH_MAX: f64 = 0.05;
const GROWTH_MAX_BYTES: f64 = 1024.0 * 1024.0;
const GROWTH_MAX_DESCRIPTORS: f64 = 16.0;
/// Connections that come and go, each time.
const CHURN: usize = 50;

struct Sample {
    at_s: f64,
    pss: f64,
    descriptors: f64,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    syscall::raise_descriptor_limit()?;
    let installed = peer::find(arguments.ringside.as_deref());
    if matches!(arguments.program, Soaked::Ringside | Soaked::RingsideEpoll) {
        peer::require_ringside(&installed)?;
    }
    let folder = Folder::new()?;
    let (_origin, origin) =
        Process::start_ourselves("origin", &["origin"], Some(LOAD_CORE), folder.path())?;
    let setup = match arguments.program {
        Soaked::Ringside => Setup::Ringside,
        Soaked::RingsideEpoll => Setup::RingsideEpoll,
        Soaked::Nginx => Setup::Nginx,
        Soaked::Haproxy => Setup::Haproxy,
        Soaked::Envoy => Setup::Envoy,
    };
    let started = Contestant::start(Entry::Program(setup), &installed, origin, folder.path())?;
    let none = || io::Error::other(format!("no {} here: install it", setup.name()));
    let mut proxy = started.ok_or_else(none)?;

    let seconds = f64::from(arguments.seconds);
    let loads = start_loads(&proxy, arguments.seconds)?;
    let pids = proxy.pids();
    let begin = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    let mut churn_errors = 0;
    println!("{:>7}  {:>10}  {:>11}", "s", "PSS KiB", "descriptors");
    while begin.elapsed().as_secs_f64() < seconds {
        let next = begin + Duration::from_secs_f64((samples.len() + 1) as f64 * arguments.every);
        while Instant::now() < next {
            churn_errors += churn(&proxy);
            let pause = Duration::from_millis(100); // between two waves of short-lived clients
            thread::sleep(pause.min(next.saturating_duration_since(Instant::now())));
        }
        proxy.check_alive()?;
        let sample = Sample {
            at_s: begin.elapsed().as_secs_f64(),
            pss: usage::pss_bytes(&pids) as f64,
            descriptors: usage::descriptors(&pids) as f64,
        };
        println!("{:>7.0}  {:>10.0}  {:>11}", sample.at_s, sample.pss / 1024.0, sample.descriptors);
        samples.push(sample);
    }

    let mut requests = 0;
    let mut errors = churn_errors;
    for (name, load) in loads {
        let report = Report::parse(&load.output()?)?;
        println!("{name}: {}", report.to_text().lines().next().unwrap_or_default());
        requests += report.requests;
        errors += report.errors.total();
    }
    println!("{requests} requests, {errors} errors");
    let flat = judge(&samples, seconds);
    Ok(if flat && errors == 0 && requests > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_loads(
    proxy: &Contestant,
    seconds: u32,
) -> io::Result<Vec<(&'static str, process::Running)>> {
    let loads: [(&str, &[&str]); 4] = [
        ("small", &["--connections", "64", "--rate", "2000"]),
        (
            "posts",
            &["--connections", "16", "--rate", "200", "--posts-every", "1", "--body", "65536"],
        ),
        ("chunked", &["--connections", "16", "--rate", "100", "--path", "/chunked/65536"]),
        ("long", &["--connections", "8", "--rate", "20", "--path", "/bytes/1048576"]),
    ];
    let start = |(name, load): (&'static str, &[&str])| {
        let url = format!("http://{}", proxy.address);
        let seconds = seconds.to_string();
        let common = ["generate", "--url", &url, "--seconds", &seconds, "-o", "json"];
        let words: Vec<String> = common.iter().chain(load).map(|w| (*w).to_owned()).collect();
        Ok((name, process::spawn_ourselves(&words, Some(LOAD_CORE))?))
    };
    loads.into_iter().map(start).collect()
}

/// Clients that come, ask once and go, some of them without asking; returns how many failed.
fn churn(proxy: &Contestant) -> u64 {
    let failed = |index: usize| {
        if index.is_multiple_of(5) {
            std::net::TcpStream::connect(proxy.address).is_err()
        } else {
            memory::served(proxy.address).is_err()
        }
    };
    (0..CHURN).filter(|index| failed(*index)).count() as u64
}

/// Prints how much memory and descriptors grew after the warm-up; true if they did not.
fn judge(samples: &[Sample], seconds: f64) -> bool {
    let warm: Vec<&Sample> = samples.iter().filter(|s| s.at_s >= seconds * WARMUP).collect();
    if warm.len() < 3 {
        println!("too few samples after the warm-up to say anything: run longer");
        return false;
    }
    let line = |of: fn(&Sample) -> f64| {
        let points: Vec<_> = warm.iter().map(|s| (s.at_s, of(s))).collect();
        let growth = statistics::slope(&points) * (warm[warm.len() - 1].at_s - warm[0].at_s);
        let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
        (growth, statistics::median(&values))
    };
    let (pss, pss_middle) = line(|sample| sample.pss);
    let (fds, fds_middle) = line(|sample| sample.descriptors);
    println!(
        "after the warm-up: PSS {:+.0} KiB of {:.0}, descriptors {fds:+.1} of {fds_middle:.0}",
        pss / 1024.0,
        pss_middle / 1024.0,
    );
    is_flat(pss, pss_middle, GROWTH_MAX_BYTES) && is_flat(fds, fds_middle, GROWTH_MAX_DESCRIPTORS)
}

fn is_flat(growth: f64, middle: f64, growth_max: f64) -> bool {
    growth <= (middle * GROWTH_MAX).max(growth_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pss: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> f64) -> bool {
        let sample = |second| {
            let at_s = f64::from(second);
            Sample { at_s, pss: pss(at_s), descriptors: descriptors(at_s) }
        };
        judge(&(0..100).map(sample).collect::<Vec<_>>(), 100.0)
    }

    #[test]
    fn a_leak_is_seen_and_a_warm_up_is_not_one() {
        const MIB: f64 = 1024.0 * 1024.0;
        assert!(judged(|_| 10.0 * MIB, |_| 100.0));
        assert!(judged(|s| s.min(25.0) * MIB, |s| s.min(25.0) * 10.0));
        assert!(!judged(|s| 10.0 * MIB + s * 50_000.0, |_| 100.0));
        assert!(!judged(|_| 10.0 * MIB, |s| 100.0 + s));
    }

    #[test]
    fn a_short_run_says_nothing() {
        assert!(!judge(&[], 1.0));
    }
}

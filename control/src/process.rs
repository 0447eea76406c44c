//! The `process_*` metrics, read from `/proc/self` when they are asked for.
//!
//! Names and meanings are those of Prometheus' own client libraries. A value that cannot be read
//! (no `/proc`, as in some sandboxes) is left out.

use std::fmt::Write;
use std::fs;

/// Clock ticks per second in `/proc`: `USER_HZ`, 100 on every Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// `VmRSS` is in kB whatever the page size, unlike `statm`.
const BYTES_PER_KIB: u64 = 1024;

/// One metric: everything that is ever said about it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    read: fn() -> Option<f64>,
}

const METRICS: [Metric; 5] = [
    Metric {
        name: "process_cpu_seconds_total",
        kind: "counter",
        help: "User and system CPU time spent.",
        read: cpu_seconds,
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: "gauge",
        help: "Resident memory.",
        read: resident_bytes,
    },
    Metric {
        name: "process_open_fds",
        kind: "gauge",
        help: "Open file descriptors.",
        read: open_descriptors,
    },
    Metric {
        name: "process_max_fds",
        kind: "gauge",
        help: "The soft limit of open file descriptors.",
        read: descriptors_max,
    },
    Metric {
        name: "process_start_time_seconds",
        kind: "gauge",
        help: "When the process started, in seconds since 1970.",
        read: start_time,
    },
];

/// Appends them as Prometheus text.
pub(crate) fn render(out: &mut String) {
    for metric in &METRICS {
        if let Some(value) = (metric.read)() {
            let Metric { name, kind, help, .. } = metric;
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
                .expect("a String takes everything");
        }
    }
}

/// Field `number` of `/proc/self/stat`, counted as in proc_pid_stat(5), from 1. The second is the
/// program's name and may hold spaces and parentheses: count from behind it.
fn stat(number: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let (user, system) = (stat(14)?, stat(15)?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn start_time() -> Option<f64> {
    let stat_text = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat_text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat(22)? / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = kib.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some((kib * BYTES_PER_KIB) as f64)
}

/// The listing holds the descriptor that lists: one less.
fn open_descriptors() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// Left out when it is `unlimited`.
fn descriptors_max() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let limits = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_there_and_plausible() {
        for metric in &METRICS {
            let value = (metric.read)();
            assert!(value.is_some_and(|value| value >= 0.0), "{}: {value:?}", metric.name);
        }
        assert!(start_time().unwrap() > 1.6e9);
        assert!(resident_bytes().unwrap() > 100_000.0);
    }
}

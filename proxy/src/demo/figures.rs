//! The demo's live figures.

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

/// What the visitors have seen.
#[derive(Default)]
pub(super) struct Figures {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of this second.
    latencies: Vec<Duration>,
    total: Total,
    /// What the sidecars' workers had used at the end of the last second, in nanoseconds.
    cpu_ns: u64,
}

/// All that was asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Total {
    pub(super) requests: u64,
    pub(super) failed: u64,
}

impl Figures {
    pub(super) fn record(&self, latency: Duration, good: bool) {
        let mut state = self.lock();
        state.total.requests += 1;
        state.total.failed += u64::from(!good);
        state.latencies.push(latency);
    }

    pub(super) fn total(&self) -> Total {
        self.lock().total
    }

    /// A line about the second that has passed.
    pub(super) fn second(&self) -> String {
        let mut state = self.lock();
        let mut latencies = std::mem::take(&mut state.latencies);
        let cpu_ns = worker_cpu_ns();
        let spent = cpu_ns.saturating_sub(std::mem::replace(&mut state.cpu_ns, cpu_ns));
        let failed = state.total.failed;
        drop(state);
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            let index = (last as f64 * share).round() as usize;
            latencies.get(index).copied().unwrap_or_default().as_micros()
        };
        let requests = latencies.len();
        // Three hops each.
        let per_hop_us = spent as f64 / 1e3 / (3 * requests.max(1)) as f64;
        format!(
            "{requests:>6} requests/s   p50 {:>5} µs   p99 {:>6} µs   proxy CPU {per_hop_us:>5.1} µs \
             per hop   failed {failed}",
            at(0.5),
            at(0.99),
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// CPU time of this process's worker threads.
fn worker_cpu_ns() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let workers = tasks.map(|task| task.path()).filter(|task| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("worker-"))
    });
    workers
        .filter_map(|task| {
            let times = fs::read_to_string(task.join("schedstat")).ok()?;
            times.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

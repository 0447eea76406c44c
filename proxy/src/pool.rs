//! Idle connections to one endpoint: last in, first out, bounded, and never older than the endpoint
//! lets them grow.
//!
//! Pure: what a connection is, is the caller's, and so is the clock. A moment is the time since any
//! origin that stays the same.

use std::time::Duration;

/// The idle connections to one endpoint.
#[derive(Debug)]
pub struct IdlePool<T> {
    /// The one given back last is at the end: it is the least likely to be closed by the upstream,
    /// and the others may grow old enough to be let go.
    idle: Vec<Idle<T>>,
    limits: PoolLimits,
    patience: Patience,
}

/// What a pool may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections that stay idle. For a moment there may be more: many exchanges may end at once, and
    /// the next requests want their connections again.
    pub idle: usize,
    /// How long one may be idle; `None`: as long as the upstream lets it.
    pub idle_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Idle<T> {
    connection: T,
    since: Duration,
    /// When it is let go.
    until: Duration,
}

/// What an upstream's own behaviour says about how long a connection may be idle.
///
/// An upstream that closes a connection which was idle for some time will do so again; a request
/// that meets the close on its way is lost, or must be replayed. So what is observed shortens the
/// time we keep connections, to three quarters, and is forgotten slowly.
#[derive(Debug, Default)]
struct Patience {
    observed: Option<Observed>,
}

#[derive(Debug)]
struct Observed {
    idle: Duration,
    at: Duration,
}

/// So many times its bound a pool may hold for a moment.
const BURST: usize = 16;
/// That moment: what is beyond the bound and was idle longer is let go.
const BURST_IDLE: Duration = Duration::from_millis(250);

/// An observation counts this long.
const MEMORY: Duration = Duration::from_secs(60);
/// Shorter observations are not of an idle timeout: the upstream closed for another reason.
const OBSERVED_MIN: Duration = Duration::from_millis(100);

impl<T> IdlePool<T> {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> IdlePool<T> {
        IdlePool { idle: Vec::new(), limits, patience: Patience::default() }
    }

    /// What it may hold from now on; what is idle by then stays as long as it was promised.
    pub fn set_limits(&mut self, limits: PoolLimits) {
        self.limits = limits;
    }

    /// How many connections are idle.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Keeps a connection. `announced` is how long the upstream said it keeps it
    /// (`Keep-Alive: timeout=…`). Gives one back that is to be closed instead: this one where the
    /// pool may hold none, the oldest where it is full.
    #[must_use = "what is given back is to be closed"]
    pub fn put(&mut self, connection: T, now: Duration, announced: Option<Duration>) -> Option<T> {
        let patience = [
            self.limits.idle_timeout,
            self.patience.expect(now),
            // A second is how precisely it is announced.
            announced.map(|timeout| timeout.saturating_sub(Duration::from_secs(1))),
        ];
        let patience = patience.into_iter().flatten().min();
        if self.limits.idle == 0 || patience == Some(Duration::ZERO) {
            return Some(connection);
        }
        let until = patience.map_or(Duration::MAX, |patience| now.saturating_add(patience));
        let full = self.idle.len() >= self.limits.idle.saturating_mul(BURST);
        let evicted = full.then(|| self.idle.remove(0).connection);
        self.idle.push(Idle { connection, since: now, until });
        evicted
    }

    /// Takes the connection that was used last, passing over those for which `usable` is false;
    /// what is passed over, and what is too old, is dropped.
    pub fn take(&mut self, now: Duration, mut usable: impl FnMut(&T) -> bool) -> Option<T> {
        while let Some(idle) = self.idle.pop() {
            if idle.until > now && usable(&idle.connection) {
                return Some(idle.connection);
            }
            if idle.until > now {
                self.patience.observe(now - idle.since, now);
            }
        }
        None
    }

    /// Drops those that are too old, those that are too many, and those that are not `alive`. Returns when the next one will
    /// be too old.
    pub fn sweep(&mut self, now: Duration, mut alive: impl FnMut(&T) -> bool) -> Duration {
        let patience = &mut self.patience;
        // The oldest come first.
        let mut surplus = self.idle.len().saturating_sub(self.limits.idle);
        self.idle.retain(|idle| {
            if surplus > 0 && now.saturating_sub(idle.since) >= BURST_IDLE {
                surplus -= 1;
                return false;
            }
            if idle.until <= now {
                return false;
            }
            let alive = alive(&idle.connection);
            if !alive {
                patience.observe(now - idle.since, now);
            }
            alive
        });
        self.idle.iter().map(|idle| idle.until).min().unwrap_or(Duration::MAX)
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.idle.clear();
    }
}

impl Patience {
    /// The upstream closed a connection that had been idle so long.
    fn observe(&mut self, idle: Duration, now: Duration) {
        if idle < OBSERVED_MIN {
            return;
        }
        if self.expect(now).is_none_or(|expected| idle < expected) {
            self.observed = Some(Observed { idle, at: now });
        }
    }

    /// How long an idle connection may be trusted, as far as the upstream has shown.
    fn expect(&self, now: Duration) -> Option<Duration> {
        let observed = self.observed.as_ref()?;
        (now - observed.at < MEMORY).then(|| observed.idle * 3 / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pool(idle: usize, timeout_ms: u64) -> IdlePool<u32> {
        let idle_timeout = Some(Duration::from_millis(timeout_ms));
        IdlePool::new(PoolLimits { idle, idle_timeout })
    }

    #[test]
    fn the_last_in_is_the_first_out() {
        let mut pool = pool(2, 5_000);
        assert_eq!(pool.put(1, at(0), None), None);
        assert_eq!(pool.put(2, at(1), None), None);
        assert_eq!(pool.take(at(3), |_| true), Some(2));
        assert_eq!(pool.take(at(3), |_| true), Some(1));
        assert_eq!(pool.take(at(3), |_| true), None);
    }

    #[test]
    fn a_burst_is_kept_for_a_moment_and_the_oldest_go() {
        let mut pool = pool(2, 5_000);
        for n in 0..32 {
            assert_eq!(pool.put(n, at(u64::from(n)), None), None);
        }
        assert_eq!(pool.put(32, at(32), None), Some(0), "sixteen times the bound is too many");
        pool.sweep(at(200), |_| true);
        assert_eq!(pool.len(), 32);
        pool.sweep(at(300), |_| true);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take(at(300), |_| true), Some(32));
    }

    #[test]
    fn what_is_too_old_or_unusable_is_not_given_out() {
        let mut pool = pool(8, 5_000);
        for (n, ms) in [(1, 0), (2, 10), (3, 20)] {
            assert_eq!(pool.put(n, at(ms), None), None);
        }
        assert_eq!(pool.take(at(30), |n| *n != 3), Some(2));
        assert_eq!(pool.take(at(5_001), |_| true), None, "5 s idle");
        assert!(pool.is_empty());
    }

    #[test]
    fn what_the_upstream_announces_is_undercut() {
        let mut pool = pool(8, 60_000);
        let announced = Some(Duration::from_secs(3));
        assert_eq!(pool.put(1, at(0), announced), None);
        assert_eq!(pool.sweep(at(1_999), |_| true), at(2_000));
        assert_eq!(pool.sweep(at(2_000), |_| true), Duration::MAX);
        assert_eq!(pool.put(1, at(0), Some(Duration::from_secs(1))), Some(1), "not worth keeping");
    }

    #[test]
    fn what_the_upstream_does_is_learned_and_forgotten() {
        let mut pool = pool(8, 60_000);
        assert_eq!(pool.put(1, at(0), None), None);
        pool.sweep(at(1_000), |_| false);
        assert_eq!(pool.put(2, at(1_000), None), None);
        assert_eq!(pool.sweep(at(1_001), |_| true), at(1_750), "three quarters of a second");
        pool.clear();
        assert_eq!(pool.put(3, at(70_000), None), None);
        assert_eq!(pool.sweep(at(70_001), |_| true), at(130_000));
    }

    #[test]
    fn a_pool_of_none_keeps_none() {
        assert_eq!(pool(0, 5_000).put(1, at(0), None), Some(1));
    }
}

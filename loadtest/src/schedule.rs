//! When each request of an open-loop run is due.
//!
//! The schedule is a pure function of the request's number, so a generator that falls behind
//! neither skips nor shifts anything: latency is counted from the time that was planned, and no
//! stall is hidden (coordinated omission).

/// A constant rate from a starting point; all times are nanoseconds on one clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    number: u64,
}

impl Schedule {
    /// `rate` in requests per second, above zero.
    pub(crate) fn new(start_ns: u64, rate: f64) -> Schedule {
        Schedule { start_ns, interval_ns: 1e9 / rate, number: 0 }
    }

    /// When the next request is due.
    pub(crate) fn due_ns(&self) -> u64 {
        // Computed from the number each time: an interval added up would drift.
        self.start_ns + (self.number as f64 * self.interval_ns) as u64
    }

    /// The next request was sent; returns when it had been due.
    pub(crate) fn advance(&mut self) -> u64 {
        let due = self.due_ns();
        self.number += 1;
        due
    }
}

impl Iterator for Schedule {
    type Item = u64;

    /// When each request from here on is due, without end.
    fn next(&mut self) -> Option<u64> {
        Some(self.advance())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_without_drift() {
        let mut schedule = Schedule::new(1_000, 30_000.0);
        for _ in 0..30_000 * 60 {
            schedule.advance();
        }
        assert_eq!(schedule.due_ns(), 60_000_001_000);
    }

    #[test]
    fn falling_behind_moves_nothing() {
        let mut schedule = Schedule::new(0, 1_000.0);
        let late: Vec<u64> = schedule.by_ref().take(3).collect();
        assert_eq!(late, [0, 1_000_000, 2_000_000]);
    }
}

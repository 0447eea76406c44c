//! Whether this proxy wants traffic.

/// The phases of a process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No worker serves yet.
    Starting,
    /// The plan is live on every worker.
    Ready,
    /// Told to take no new traffic, until told otherwise.
    Aside,
    /// Told to stop: serves what comes, but wants nothing new.
    Draining,
}

impl Phase {
    /// Why `/readyz` says no, or `None` if it says yes.
    pub(crate) fn not_ready_because(self) -> Option<&'static str> {
        match self {
            Phase::Starting => Some("starting"),
            Phase::Ready => None,
            Phase::Aside | Phase::Draining => Some("draining"),
        }
    }

    /// What `/v1/status` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Aside => "drained",
            Phase::Draining => "draining",
        }
    }
}

//! Whether this proxy wants traffic.

/// The phases of a process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No worker serves yet.
    Starting,
    /// The plan is live on every worker.
    Ready,
    /// Told to stop: serves what comes, but wants nothing new.
    Draining,
}

impl Phase {
    /// Why `/readyz` says no, or `None` if it says yes.
    pub(crate) fn not_ready_because(self) -> Option<&'static str> {
        match self {
            Phase::Starting => Some("starting"),
            Phase::Ready => None,
            Phase::Draining => Some("draining"),
        }
    }
}

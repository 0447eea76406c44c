//! What goes wrong in a simulated network, and how often.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// How often something happens, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance(u16);

impl Chance {
    /// Not at all.
    pub const NEVER: Chance = Chance(0);

    /// `n` times in a thousand.
    ///
    /// # Panics
    /// If `n` is more than 1,000.
    pub const fn per_mille(n: u16) -> Chance {
        assert!(n <= 1000);
        Chance(n)
    }

    /// Draws.
    pub(crate) fn strikes(self, rng: &mut Rng) -> bool {
        self != Chance::NEVER && rng.u16(0..1000) < self.0
    }
}

/// The fault plan of a simulated network. Those called *losses* end connections; all others must
/// not be seen above the reactor, except by their time.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Every segment travels at least this long …
    pub latency: Duration,
    /// … and up to this much longer; so what is sent on two sockets may change places, and what is
    /// sent on one does not.
    pub jitter: Duration,
    /// A segment that meets a congested link …
    pub slow: Chance,
    /// … travels up to this much longer still.
    pub slow_by: Duration,
    /// A completion that is reported late: of a receive, a send, a connect, a cancel …
    pub late: Chance,
    /// … by up to this much.
    pub late_by: Duration,
    /// What one direction of a connection holds, sent and not yet read, in bytes; drawn for each.
    pub socket_bytes: RangeInclusive<usize>,
    /// What travels at once, in bytes; drawn for each segment.
    pub segment_bytes: RangeInclusive<usize>,
    /// A receive that brings less than there is.
    pub short_read: Chance,
    /// A socket that takes less than it has room for.
    pub short_write: Chance,
    /// A send that completes before all of it is taken.
    pub short_send: Chance,
    /// A receive that finds no buffer although there are some.
    pub out_of_buffers: Chance,
    /// A multishot receive that ends: with its last data, or after it without.
    pub ended_receive: Chance,
    /// A multishot accept that ends with its last connection.
    pub ended_accept: Chance,
    /// A poll that tells of readiness where there is none.
    pub false_ready: Chance,
    /// A completion for a socket that is gone.
    pub stale: Chance,
    /// A process that cannot have another pipe.
    pub no_pipe: Chance,
    /// An accept that ends for want of descriptors. The connection stays in the backlog.
    pub out_of_descriptors: Chance,
    /// Loss: both ends of a connection are reset in place of a segment's arrival; what had arrived
    /// and was not read is lost.
    pub reset: Chance,
    /// Loss: a connect is refused although somebody listens.
    pub refuse: Chance,
    /// Loss: a connect is not answered, and fails after two minutes.
    pub unanswered: Chance,
}

impl Faults {
    /// A network that does all that is asked of it, with a little latency.
    pub fn none() -> Faults {
        Faults {
            latency: Duration::from_micros(10),
            jitter: Duration::ZERO,
            slow: Chance::NEVER,
            slow_by: Duration::ZERO,
            late: Chance::NEVER,
            late_by: Duration::ZERO,
            socket_bytes: 256 * 1024..=256 * 1024,
            segment_bytes: 64 * 1024..=64 * 1024,
            short_read: Chance::NEVER,
            short_write: Chance::NEVER,
            short_send: Chance::NEVER,
            out_of_buffers: Chance::NEVER,
            ended_receive: Chance::NEVER,
            ended_accept: Chance::NEVER,
            false_ready: Chance::NEVER,
            stale: Chance::NEVER,
            no_pipe: Chance::NEVER,
            out_of_descriptors: Chance::NEVER,
            reset: Chance::NEVER,
            refuse: Chance::NEVER,
            unanswered: Chance::NEVER,
        }
    }

    /// Everything that a kernel may do to us short of ending a connection: whatever runs on it must
    /// come to the same results as with [`Faults::none`], later.
    pub fn unkind() -> Faults {
        Faults {
            jitter: Duration::from_micros(200),
            slow: Chance::per_mille(20),
            slow_by: Duration::from_millis(50),
            late: Chance::per_mille(200),
            late_by: Duration::from_micros(300),
            socket_bytes: 64..=32 * 1024,
            segment_bytes: 1..=3000,
            short_read: Chance::per_mille(200),
            short_write: Chance::per_mille(200),
            short_send: Chance::per_mille(100),
            out_of_buffers: Chance::per_mille(50),
            ended_receive: Chance::per_mille(100),
            ended_accept: Chance::per_mille(200),
            false_ready: Chance::per_mille(100),
            stale: Chance::per_mille(500),
            no_pipe: Chance::per_mille(300),
            ..Faults::none()
        }
    }

    /// [`Faults::unkind`], and losses.
    pub fn hostile() -> Faults {
        Faults {
            out_of_descriptors: Chance::per_mille(20),
            reset: Chance::per_mille(2),
            refuse: Chance::per_mille(50),
            unanswered: Chance::per_mille(10),
            ..Faults::unkind()
        }
    }
}

impl Default for Faults {
    /// [`Faults::none`].
    fn default() -> Faults {
        Faults::none()
    }
}

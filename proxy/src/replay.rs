//! Whether a request may be sent once more, on a new connection, without having been asked to retry.
//!
//! An idle connection may be closed by the upstream at the very moment at which a request is sent on
//! it. That is no failure of the upstream, and the client should not see it. What makes it safe are
//! facts, not hopes (INTERFACE.md, "Replay").

/// A try that ended without any byte of a response, of a request of which all that was sent on is
/// still here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// The connection had carried a request before.
    pub is_reused: bool,
    /// RFC 9110 §9.2.2: doing it twice is doing it once.
    pub is_idempotent: bool,
    /// Bytes of the request that the kernel had taken; `None` if that is not known.
    pub kernel_took: Option<usize>,
}

/// Whether the request is sent once more.
pub fn may_replay(this: &Try) -> bool {
    let nothing_left = this.kernel_took == Some(0);
    this.is_reused && (nothing_left || this.is_idempotent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_facts_allow_it() {
        let rows = [
            // reused, idempotent, taken => replay
            (true, true, Some(100), true),
            (true, true, None, true),
            (true, true, Some(0), true),
            (true, false, Some(100), false),
            (true, false, Some(1), false),
            (true, false, None, false),
            (true, false, Some(0), true),
            (false, true, Some(0), false),
            (false, true, Some(100), false),
        ];
        for (is_reused, is_idempotent, kernel_took, expected) in rows {
            let this = Try { is_reused, is_idempotent, kernel_took };
            assert_eq!(may_replay(&this), expected, "{this:?}");
        }
    }
}

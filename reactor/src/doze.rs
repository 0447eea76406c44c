//! The agreement by which a worker sleeps and is woken, apart from what it sleeps on.
//!
//! A worker announces that it is about to wait, and then looks once more whether something was
//! queued; who queues something looks after that whether the worker has announced it. So either the
//! worker sees what was queued, or the other sees that it must be woken. Every access is a
//! read-modify-write: each reads what the one before it left, so that one release and one acquire
//! always meet. (`tests/doze.rs` tries all interleavings.)

use crate::doze_atomics::{AtomicBool, Ordering};

/// Whether a worker is in, or about to enter, a wait that only a signal ends.
pub(crate) struct Doze(AtomicBool);

impl Doze {
    pub(crate) fn new() -> Doze {
        Doze(AtomicBool::new(false))
    }

    /// For who has queued something: whether the worker is to be signalled, now, by the caller.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }

    /// For the worker, before it waits. `false`: something is queued, do not wait.
    pub(crate) fn begin(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.0.swap(true, Ordering::AcqRel);
        if is_empty() {
            return true;
        }
        self.end();
        false
    }

    /// For the worker, after its wait.
    pub(crate) fn end(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

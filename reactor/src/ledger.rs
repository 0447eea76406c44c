//! A worker's memory budget: what is held for peers beyond the fixed receive buffers.
//!
//! Whoever holds memory for a connection has a [`Charge`] for it. The ledger refuses nothing by
//! itself: from half of the budget on, streams receive no more than a buffer at a time; at the whole,
//! those above refuse new work.

use std::cell::Cell;
use std::rc::Rc;

/// See the module's text.
pub(crate) struct Ledger {
    used: Cell<usize>,
    limit: Cell<usize>,
}

impl Ledger {
    /// Without a limit.
    pub(crate) fn new() -> Rc<Ledger> {
        Rc::new(Ledger { used: Cell::new(0), limit: Cell::new(usize::MAX) })
    }

    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }

    /// Bytes that are charged.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    /// Half of the budget is used: receive little at a time.
    pub(crate) fn is_short(&self) -> bool {
        self.used.get() > self.limit.get() / 2
    }

    /// All of it is used: take on no new work.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used.get() >= self.limit.get()
    }

    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.used.set(self.used.get() + bytes);
        Charge { ledger: self.clone(), bytes }
    }
}

/// Memory that somebody holds; given back when dropped.
pub struct Charge {
    ledger: Rc<Ledger>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.used.set(self.ledger.used.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_come_and_go() {
        let ledger = Ledger::new();
        ledger.set_limit(100);
        let first = ledger.charge(60);
        assert!(ledger.is_short() && !ledger.is_exhausted());
        let second = ledger.charge(40);
        assert!(ledger.is_exhausted());
        drop(first);
        assert_eq!(ledger.used(), 40);
        drop(second);
        assert!(!ledger.is_short());
    }
}

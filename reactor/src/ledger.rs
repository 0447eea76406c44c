//! The memory budget: what is held for peers beyond the fixed receive buffers.
//!
//! Whoever holds memory for a connection has a [`Charge`] for it. Nothing is refused here: from half
//! of the budget on, streams receive no more than a buffer at a time; at the whole, those above refuse
//! new work.
//!
//! A [`Budget`] is of the process, and its workers share it by leases: a worker counts its charges by
//! itself and goes to the shared count only for a next lease, or to give one back. So the shared count
//! is too high by at most [`Budget::lease`] and what was just given back, for each worker.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// Bytes that the workers of a process may hold together. Clones are the same budget.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    limit: usize,
    /// By all workers.
    leased: CachePadded<AtomicUsize>,
}

impl Budget {
    /// The largest lease, in bytes.
    const LEASE_MAX: usize = 64 * 1024;

    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Budget {
        Budget(Arc::new(Shared { limit, leased: CachePadded::new(AtomicUsize::new(0)) }))
    }

    /// In bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// What workers have of it, in bytes; some of that they may not use yet.
    pub fn leased(&self) -> usize {
        self.0.leased.load(Ordering::Relaxed)
    }

    /// What is leased at a time: small enough that the idle leases of many workers are a small part.
    fn lease(&self) -> usize {
        (self.0.limit / 1024).clamp(1, Budget::LEASE_MAX)
    }
}

/// A worker's account; see the module's text.
pub(crate) struct Ledger {
    used: Cell<usize>,
    /// `used <= leased` wherever there is a budget.
    leased: Cell<usize>,
    budget: Cell<Option<Budget>>,
}

impl Ledger {
    /// Without a limit.
    pub(crate) fn new() -> Rc<Ledger> {
        Rc::new(Ledger { used: Cell::new(0), leased: Cell::new(0), budget: Cell::new(None) })
    }

    /// Charges to `budget` from now on. Nothing may be charged yet.
    pub(crate) fn share(&self, budget: Budget) {
        assert_eq!(self.used.get(), 0, "a budget is there before what it pays for");
        self.settle(0);
        self.budget.set(Some(budget));
    }

    /// Bytes that this worker has charged.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    /// Half of the budget is used: receive little at a time.
    pub(crate) fn is_short(&self) -> bool {
        self.look(|leased, limit| leased > limit / 2)
    }

    /// All of it is used: take on no new work.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.look(|leased, limit| leased >= limit)
    }

    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.settle(self.used.get() + bytes);
        Charge { ledger: self.clone(), bytes }
    }

    fn look(&self, judge: impl Fn(usize, usize) -> bool) -> bool {
        self.with_budget(|budget| {
            let shared = &*budget.0;
            judge(shared.leased.load(Ordering::Relaxed), shared.limit)
        })
        .unwrap_or(false)
    }

    /// Changes what is used, and leases or gives back where that takes it.
    fn settle(&self, used: usize) {
        self.used.set(used);
        self.with_budget(|budget| {
            let (lease, leased) = (budget.lease(), self.leased.get());
            let wanted = used.next_multiple_of(lease);
            // A little is kept, so that one charge that comes and goes costs nothing.
            let kept = if used == 0 { 0 } else { wanted + lease };
            if used > leased {
                budget.0.leased.fetch_add(wanted - leased, Ordering::Relaxed);
                self.leased.set(wanted);
            } else if leased > kept {
                budget.0.leased.fetch_sub(leased - kept, Ordering::Relaxed);
                self.leased.set(kept);
            }
        });
    }

    fn with_budget<T>(&self, look: impl FnOnce(&Budget) -> T) -> Option<T> {
        let budget = self.budget.take()?;
        let found = look(&budget);
        self.budget.set(Some(budget));
        Some(found)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle(0);
    }
}

/// Memory that somebody holds; given back when dropped.
pub struct Charge {
    ledger: Rc<Ledger>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.settle(self.ledger.used.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_come_and_go() {
        let ledger = Ledger::new();
        ledger.share(Budget::new(100));
        let first = ledger.charge(60);
        assert!(ledger.is_short() && !ledger.is_exhausted());
        let second = ledger.charge(40);
        assert!(ledger.is_exhausted());
        drop(first);
        assert_eq!(ledger.used(), 40);
        drop(second);
        assert!(!ledger.is_short());
    }

    #[test]
    fn one_worker_may_use_all_and_the_others_see_it() {
        let budget = Budget::new(1 << 20);
        let workers = [Ledger::new(), Ledger::new(), Ledger::new()];
        workers.iter().for_each(|worker| worker.share(budget.clone()));
        let most = workers[0].charge((1 << 20) - 1);
        assert!(workers.iter().all(|worker| worker.is_short()));
        let rest = workers[1].charge(1);
        assert!(workers.iter().all(|worker| worker.is_exhausted()));
        drop((most, rest));
        assert!(workers.iter().all(|worker| !worker.is_short() && !worker.is_exhausted()));
        assert_eq!(budget.0.leased.load(Ordering::Relaxed), 0, "all is given back");
    }

    #[test]
    fn the_shared_count_is_never_too_low_and_little_too_high() {
        let budget = Budget::new(1 << 20);
        let ledger = Ledger::new();
        ledger.share(budget.clone());
        let mut rng = fastrand::Rng::with_seed(1);
        let mut charges = Vec::new();
        for _ in 0..10_000 {
            match rng.bool() {
                true => charges.push(ledger.charge(rng.usize(..20_000))),
                false => drop(charges.pop()),
            }
            let leased = budget.0.leased.load(Ordering::Relaxed);
            assert!(leased >= ledger.used() && leased <= ledger.used() + 2 * budget.lease());
        }
    }
}

//! Memory that is used again: what an exchange needs for its time is leased, not allocated.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// More than this is not kept: after a burst its memory goes back.
const KEPT: usize = 1024;

/// So much of a slot's future is read when it goes on, more or less: what waits is at its beginning.
const EXPECTED: usize = 2048;

/// What can be used again.
pub trait Reusable: Default {
    /// Forgets what it was used for, but keeps the memory, unless that was for something unusual.
    fn reset(&mut self);
}

/// Values waiting to be used again.
pub struct Spare<T: Reusable>(Rc<RefCell<Vec<Box<T>>>>);

impl<T: Reusable> Spare<T> {
    /// A value that was used before, and was reset, or a new one.
    pub fn lease(&self) -> Lease<T> {
        let value = self.0.borrow_mut().pop().unwrap_or_default();
        Lease { value: Some(value), home: self.0.clone() }
    }
}

impl<T: Reusable> Default for Spare<T> {
    fn default() -> Spare<T> {
        Spare(Rc::default())
    }
}

/// A value on loan; goes back when dropped.
pub struct Lease<T: Reusable> {
    /// `None` only while being dropped.
    value: Option<Box<T>>,
    home: Rc<RefCell<Vec<Box<T>>>>,
}

impl<T: Reusable> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect("taken only by drop")
    }
}

impl<T: Reusable> DerefMut for Lease<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("taken only by drop")
    }
}

impl<T: Reusable> Drop for Lease<T> {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.len() < KEPT
            && let Some(mut value) = self.value.take()
        {
            value.reset();
            home.push(value);
        }
    }
}

/// Memory for jobs that are futures of one type. An idle connection holds none: its exchange gets a
/// slot when a request begins to arrive, and gives it back at the end.
///
/// A slot's future is made once and serves job after job ([`Desk::next`], [`Desk::done`]), because
/// making it anew would copy all of its memory, kilobytes of which hardly any mean something yet.
pub struct Slots<J, O, F> {
    make: fn(Rc<Desk<J, O>>) -> F,
    free: RefCell<Vec<Slot<J, O, F>>>,
}

struct Slot<J, O, F> {
    desk: Rc<Desk<J, O>>,
    future: Pin<Box<F>>,
}

/// Where a slot's future takes its jobs from, and puts their outcomes.
pub struct Desk<J, O> {
    job: Cell<Option<J>>,
    outcome: Cell<Option<O>>,
}

impl<J, O> Desk<J, O> {
    /// The next job.
    pub async fn next(&self) -> J {
        // Whoever brings a job polls the slot, so nobody need be woken.
        poll_fn(|_| self.job.take().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// The job is done.
    pub fn done(&self, outcome: O) {
        self.outcome.set(Some(outcome));
    }
}

impl<J, O, F: Future> Slots<J, O, F> {
    /// No slots yet; `make` makes the future of each.
    pub fn new(make: fn(Rc<Desk<J, O>>) -> F) -> Slots<J, O, F> {
        Slots { make, free: RefCell::default() }
    }

    /// Does a job in a slot.
    pub fn run(self: &Rc<Self>, job: J) -> Running<J, O, F> {
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let desk = Rc::new(Desk { job: Cell::new(None), outcome: Cell::new(None) });
            Slot { future: Box::pin((self.make)(desk.clone())), desk }
        });
        slot.desk.job.set(Some(job));
        Running { slot: Some(slot), home: self.clone() }
    }
}

/// See [`Slots::run`].
pub struct Running<J, O, F> {
    /// `None` once the job is done. Dropped before that, the job and its slot end together.
    slot: Option<Slot<J, O, F>>,
    home: Rc<Slots<J, O, F>>,
}

impl<J, O, F: Future> Future for Running<J, O, F> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        let slot = self.slot.as_mut().expect("polled again after it was done");
        let _ = slot.future.as_mut().poll(cx);
        let Some(outcome) = slot.desk.outcome.take() else {
            reactor::expect(&*slot.future, EXPECTED);
            return Poll::Pending;
        };
        let slot = self.slot.take().expect("looked at above");
        let mut free = self.home.free.borrow_mut();
        if free.len() < KEPT {
            free.push(slot);
        }
        drop(free);
        Poll::Ready(outcome)
    }
}

//! Memory that is used again: what an exchange needs for its time is leased, not allocated.

use std::cell::RefCell;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// More than this is not kept: after a burst its memory goes back.
const KEPT: usize = 1024;

/// Values waiting to be used again.
pub struct Spare<T>(Rc<RefCell<Vec<Box<T>>>>);

impl<T: Default> Spare<T> {
    /// A value that was used before, as its last user left it, or a new one.
    pub fn lease(&self) -> Lease<T> {
        let value = self.0.borrow_mut().pop().unwrap_or_default();
        Lease { value: Some(value), home: self.0.clone() }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Spare<T> {
        Spare(Rc::default())
    }
}

/// A value on loan; goes back when dropped.
pub struct Lease<T> {
    /// `None` only while being dropped.
    value: Option<Box<T>>,
    home: Rc<RefCell<Vec<Box<T>>>>,
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect("taken only by drop")
    }
}

impl<T> DerefMut for Lease<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("taken only by drop")
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.len() < KEPT {
            home.extend(self.value.take());
        }
    }
}

/// Memory for futures of one type. An idle connection holds none: its exchange gets a slot when a
/// request begins to arrive, and gives it back at the end.
pub struct Slots<F>(RefCell<Vec<Slot<F>>>);

type Slot<F> = Pin<Box<Option<F>>>;

impl<F> Default for Slots<F> {
    fn default() -> Slots<F> {
        Slots(RefCell::default())
    }
}

impl<F: Future> Slots<F> {
    /// Runs `future` in a slot.
    pub fn run(self: &Rc<Self>, future: F) -> Running<F> {
        let mut slot = self.0.borrow_mut().pop().unwrap_or_else(|| Box::pin(None));
        slot.as_mut().set(Some(future));
        Running { slot: Some(slot), home: self.clone() }
    }
}

/// See [`Slots::run`].
pub struct Running<F> {
    slot: Option<Slot<F>>,
    home: Rc<Slots<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let slot = self.slot.as_mut().expect("taken only by drop");
        let future = slot.as_mut().as_pin_mut().expect("set by `run`");
        future.poll(cx)
    }
}

impl<F> Drop for Running<F> {
    fn drop(&mut self) {
        if let Some(mut slot) = self.slot.take() {
            slot.as_mut().set(None);
            let mut home = self.home.0.borrow_mut();
            if home.len() < KEPT {
                home.push(slot);
            }
        }
    }
}

//! Bounded mailboxes: how threads talk to a worker.
//!
//! Any number of senders on any thread, one receiver on a worker. A full mailbox gives the letter
//! back, and so does one whose receiver is gone: the sender decides what that means. Letters that
//! the receiver leaves unread are dropped with it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::ShardedLock;

struct Shared<T> {
    letters: ArrayQueue<T>,
    /// The receiving task. Taken by the sender that wakes it; a packed waker, so cheap to clone.
    receiver: ShardedLock<Option<Waker>>,
    senders: AtomicUsize,
    /// The receiver is gone.
    closed: AtomicBool,
}

/// Makes a mailbox that holds up to `capacity` letters.
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        letters: ArrayQueue::new(capacity),
        receiver: ShardedLock::new(None),
        senders: AtomicUsize::new(1),
        closed: AtomicBool::new(false),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// Puts letters into a mailbox; can be cloned and sent to other threads.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Takes letters out, in the order in which they came.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Delivers a letter, or gives it back if the mailbox is full or nobody reads it any more.
    pub fn send(&self, letter: T) -> Result<(), T> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(letter);
        }
        self.shared.letters.push(letter)?;
        if self.shared.closed.load(Ordering::SeqCst) {
            // It closed in between, and may have been emptied before this letter came.
            self.shared.empty();
        }
        self.shared.wake();
        Ok(())
    }
}

impl<T> Sender<T> {
    /// Whether the receiver is gone, so that nothing will ever be read.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

impl<T> Shared<T> {
    fn empty(&self) {
        while self.letters.pop().is_some() {}
    }

    fn wake(&self) {
        let receiver = self.receiver.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(waker) = &*receiver {
            waker.wake_by_ref();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.empty();
        // Its worker may end, and a later one have its number.
        *self.shared.receiver.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
}

impl<T> Receiver<T> {
    /// Whether no letter waits.
    pub fn is_empty(&self) -> bool {
        self.shared.letters.is_empty()
    }

    /// The next letter; `None` when every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(letter) = self.shared.letters.pop() {
            return Poll::Ready(Some(letter));
        }
        self.register(cx.waker());
        // A letter, or the last sender's farewell, may have come before the waker was there to see.
        let alone = self.shared.senders.load(Ordering::Acquire) == 0;
        match self.shared.letters.pop() {
            Some(letter) => Poll::Ready(Some(letter)),
            None if alone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn register(&self, waker: &Waker) {
        let current = self.shared.receiver.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if current.as_ref().is_some_and(|current| current.will_wake(waker)) {
            return;
        }
        drop(current);
        let mut current =
            self.shared.receiver.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *current = Some(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_with_a_receiver_that_is_gone() {
        let (sender, receiver) = mailbox(4);
        let letter = Arc::new(());
        assert!(sender.send(letter.clone()).is_ok() && !receiver.is_empty());
        drop(receiver);
        assert_eq!(Arc::strong_count(&letter), 1);
        assert!(sender.send(letter.clone()).is_err());
    }
}

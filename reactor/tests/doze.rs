//! The agreement of `src/doze.rs` under every interleaving, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p reactor --test doze --release`.
#![allow(unexpected_cfgs)]
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};

mod doze_atomics {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
}

#[path = "../src/doze.rs"]
mod doze;

use doze::Doze;

/// A worker as `src/remote.rs` has it: the queue is a count, the eventfd a notification.
struct Worker {
    queued: AtomicUsize,
    doze: Doze,
    event: Notify,
}

impl Worker {
    fn wake(&self) {
        self.queued.fetch_add(1, Ordering::Release);
        if self.doze.interrupt() {
            self.event.notify();
        }
    }

    /// Sleeps, unless there is something to do. A wake that is lost leaves it here: a deadlock, which
    /// loom reports.
    fn turn(&self) {
        if self.doze.begin(|| self.queued.load(Ordering::Acquire) == 0) {
            self.event.wait();
        }
        self.doze.end();
    }
}

fn no_wake_is_lost(wakers: usize, wakes: usize) {
    let mut model = loom::model::Builder::new();
    // Interleavings with more switches than this are without number and show nothing new.
    model.preemption_bound = Some(3);
    model.check(move || {
        let worker = Arc::new(Worker {
            queued: AtomicUsize::new(0),
            doze: Doze::new(),
            event: Notify::new(),
        });
        let threads: Vec<_> = (0..wakers)
            .map(|_| {
                let worker = worker.clone();
                loom::thread::spawn(move || (0..wakes).for_each(|_| worker.wake()))
            })
            .collect();
        let mut seen = 0;
        while seen < wakers * wakes {
            worker.turn();
            seen += worker.queued.swap(0, Ordering::AcqRel);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_waker() {
    no_wake_is_lost(1, 2);
}

#[test]
fn two_wakers() {
    no_wake_is_lost(2, 1);
}

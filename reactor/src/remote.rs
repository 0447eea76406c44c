//! Waking a worker from another thread.
//!
//! Each worker has one [`Remote`]: an inbox of task wakes and an eventfd that its driver watches. A
//! waker writes to the eventfd only when the worker has said that it is about to sleep, so a busy
//! worker costs its wakers no system call.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, RwLock};

use crossbeam_queue::SegQueue;

use crate::doze::Doze;
use crate::sys;

/// Names a worker within the process. A number is used again once its worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(crate) u8);

/// The most workers a process can have at a time.
pub const WORKERS_MAX: usize = 256;

/// What other threads hold of a worker.
pub(crate) struct Remote {
    id: WorkerId,
    wakes: SegQueue<u64>,
    /// Whether the worker is in, or about to enter, a wait that only the eventfd ends.
    doze: Doze,
    event: OwnedFd,
}

/// All workers of the process. Locked when a worker starts or ends and when a thread that is not a
/// worker wakes one; never between requests.
static WORKERS: RwLock<Vec<Option<Arc<Remote>>>> = RwLock::new(Vec::new());

impl Remote {
    /// Registers a worker under the lowest free number.
    pub(crate) fn register() -> std::io::Result<Arc<Remote>> {
        let event = sys::eventfd()?;
        let mut workers = WORKERS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let index = workers.iter().position(Option::is_none).unwrap_or(workers.len());
        if index >= WORKERS_MAX {
            return Err(std::io::Error::other("a process has at most 256 workers"));
        }
        let remote = Arc::new(Remote {
            id: WorkerId(index as u8),
            wakes: SegQueue::new(),
            doze: Doze::new(),
            event,
        });
        if index == workers.len() {
            workers.push(None);
        }
        workers[index] = Some(remote.clone());
        Ok(remote)
    }

    pub(crate) fn unregister(&self) {
        let mut workers = WORKERS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        workers[usize::from(self.id.0)] = None;
    }

    pub(crate) fn id(&self) -> WorkerId {
        self.id
    }

    /// The descriptor that becomes readable when a sleeping worker is woken.
    pub(crate) fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Queues a wake and, if the worker sleeps, ends its wait.
    pub(crate) fn wake(&self, task: u64) {
        self.wakes.push(task);
        if self.doze.interrupt() {
            sys::eventfd_signal(&self.event);
        }
    }

    /// Called by the worker before it waits. `false`: something came in, do not wait.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        self.doze.begin(|| self.wakes.is_empty())
    }

    /// Called by the worker after its wait.
    pub(crate) fn awake(&self) {
        self.doze.end();
    }

    pub(crate) fn has_wakes(&self) -> bool {
        !self.wakes.is_empty()
    }

    pub(crate) fn next_wake(&self) -> Option<u64> {
        self.wakes.pop()
    }
}

/// Wakes a task of a worker from a thread that is not running that worker. Does nothing if the
/// worker is gone.
pub(crate) fn wake(worker: WorkerId, task: u64) {
    let remote = {
        let workers = WORKERS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        workers.get(usize::from(worker.0)).and_then(Clone::clone)
    };
    if let Some(remote) = remote {
        remote.wake(task);
    }
}

//! A single-threaded executor: tasks in a slot map, a run queue, and wakers that are one packed
//! word without a count.
//!
//! A waker is (worker, slot, generation). Waking on the worker's own thread pushes the task onto its
//! run queue; waking from anywhere else goes through the worker's [`Remote`] inbox. Which worker
//! runs on this thread is told by a thread-local that is set only while that worker runs, so several
//! workers can take turns on one thread under the simulator.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use slotmap::{Key as _, KeyData, SlotMap, new_key_type};

use crate::prefetch::prefetch;
use crate::remote::{self, Remote, WorkerId};

new_key_type! {
    pub(crate) struct TaskKey;
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// `None` while the task is being polled.
    future: Option<BoxedTask>,
    /// In the run queue: a second wake changes nothing.
    queued: bool,
    /// What the next poll begins to read, besides the future itself; see [`expect`].
    next: Expected,
}

/// A place in memory; only ever a hint.
#[derive(Clone, Copy)]
struct Expected {
    address: *const u8,
    size: u32,
}

impl Expected {
    const NOTHING: Expected = Expected { address: ptr::null(), size: 0 };
}

/// Tasks whose memory is asked for together.
const AHEAD: usize = 8;
/// So much of a task's future is read at the beginning of its poll, more or less.
const FUTURE_BYTES: usize = 256;

/// Tells the loop that the running task, when it is polled next, will soon read `value`, of which
/// there may be so much to read as `bytes` says.
pub fn expect<T>(value: &T, bytes: usize) {
    let size = bytes.min(size_of::<T>()) as u32;
    // SAFETY: see `wake_packed`.
    if let Some(executor) = unsafe { RUNNING.get().as_ref() } {
        executor.expected.set(Expected { address: ptr::from_ref(value).cast(), size });
    }
}

/// What a task may do in one poll before it goes to the back of the queue.
#[derive(Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) messages: u32,
    pub(crate) bytes: u32,
}

impl Allowance {
    const PER_POLL: Allowance = Allowance { messages: 32, bytes: 64 * 1024 };
}

/// The tasks of one worker.
pub(crate) struct Executor {
    worker: WorkerId,
    remote: Arc<Remote>,
    tasks: RefCell<SlotMap<TaskKey, Task>>,
    queue: RefCell<VecDeque<TaskKey>>,
    /// Of the task whose poll is running, if any.
    allowance: Cell<Allowance>,
    expected: Cell<Expected>,
}

thread_local! {
    /// The executor that is running on this thread at this moment; null between rounds.
    static RUNNING: Cell<*const Executor> = const { Cell::new(ptr::null()) };
}

impl Executor {
    pub(crate) fn new(remote: Arc<Remote>) -> Rc<Executor> {
        Rc::new(Executor {
            worker: remote.id(),
            remote,
            tasks: RefCell::default(),
            queue: RefCell::default(),
            allowance: Cell::new(Allowance::PER_POLL),
            expected: Cell::new(Expected::NOTHING),
        })
    }

    /// Starts a task; it is polled in the next round.
    pub(crate) fn spawn(&self, future: BoxedTask) {
        let task = Task { future: Some(future), queued: true, next: Expected::NOTHING };
        let key = self.tasks.borrow_mut().insert(task);
        self.queue.borrow_mut().push_back(key);
    }

    /// How many tasks live.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Whether a task waits to be polled.
    pub(crate) fn is_runnable(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Makes this executor the running one until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        let before = RUNNING.replace(Rc::as_ptr(self));
        Entered { before, _alive: self.clone() }
    }

    /// Takes over the wakes that came from other threads.
    pub(crate) fn take_foreign_wakes(&self) {
        while let Some(task) = self.remote.next_wake() {
            self.wake(KeyData::from_ffi(task).into());
        }
    }

    /// Polls every task that was runnable when the round began, until `expired` says to stop (it is
    /// asked after every 16 tasks).
    pub(crate) fn round(&self, mut expired: impl FnMut() -> bool) {
        let runnable = self.queue.borrow().len();
        for turn in 0..runnable {
            if turn % AHEAD == 0 {
                self.warm(runnable - turn);
            }
            let Some(key) = self.queue.borrow_mut().pop_front() else { return };
            self.poll(key);
            if turn % 16 == 15 && expired() {
                return;
            }
        }
    }

    /// Takes `bytes` and one message off the running task's allowance. `false` means it is used up:
    /// the task must yield.
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let left = self.allowance.get();
        if left.messages == 0 || left.bytes == 0 {
            return false;
        }
        self.allowance.set(Allowance {
            messages: left.messages - 1,
            bytes: left.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX)),
        });
        true
    }

    /// Drops all tasks, and what their dropping spawns.
    pub(crate) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            self.queue.borrow_mut().clear();
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }

    fn wake(&self, key: TaskKey) {
        // A wake can come while the task map is borrowed only if a future's drop wakes: then the
        // task is gone or queued already by `poll`.
        if let Some(task) = self.tasks.borrow_mut().get_mut(key)
            && !task.queued
        {
            task.queued = true;
            self.queue.borrow_mut().push_back(key);
        }
    }

    /// Asks for the memory of the tasks that are polled next, of which there are `left`.
    fn warm(&self, left: usize) {
        if left == 1 {
            return;
        }
        let (queue, tasks) = (self.queue.borrow(), self.tasks.borrow());
        for key in queue.iter().take(AHEAD.min(left)) {
            let Some(task) = tasks.get(*key) else { continue };
            if let Some(future) = &task.future {
                prefetch(ptr::from_ref(&**future).cast(), FUTURE_BYTES);
            }
            prefetch(task.next.address, task.next.size as usize);
        }
    }

    fn poll(&self, key: TaskKey) {
        let taken = match self.tasks.borrow_mut().get_mut(key) {
            Some(task) => {
                task.queued = false;
                task.future.take()
            }
            None => None,
        };
        let Some(mut future) = taken else { return };
        self.allowance.set(Allowance::PER_POLL);
        self.expected.set(Expected::NOTHING);
        let waker = waker(self.worker, key);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            self.tasks.borrow_mut().remove(key);
            drop(future); // after the borrow: its drop may wake and spawn
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(key) {
            task.future = Some(future);
            task.next = self.expected.get();
        }
    }
}

/// See [`Executor::enter`].
pub(crate) struct Entered {
    before: *const Executor,
    _alive: Rc<Executor>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        RUNNING.set(self.before);
    }
}

// The packed waker: 8 bits of worker, 24 of slot, 32 of generation.
const WORKER_SHIFT: u32 = 56;
const SLOT_SHIFT: u32 = 32;
const SLOTS_MAX: u64 = 1 << (WORKER_SHIFT - SLOT_SHIFT);

fn waker(worker: WorkerId, key: TaskKey) -> Waker {
    let data = pack(worker, key) as usize as *const ();
    // SAFETY: the vtable's functions treat the data as a number only, never as a pointer, own
    // nothing, and may be called from any thread.
    unsafe { Waker::from_raw(RawWaker::new(data, &VTABLE)) }
}

fn pack(worker: WorkerId, key: TaskKey) -> u64 {
    let ffi = key.data().as_ffi();
    let (generation, slot) = (ffi >> 32, ffi & 0xffff_ffff);
    assert!(slot < SLOTS_MAX, "a worker has fewer than 2^24 tasks");
    u64::from(worker.0) << WORKER_SHIFT | slot << SLOT_SHIFT | generation
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| RawWaker::new(data, &VTABLE),
    |data| wake_packed(data as usize as u64),
    |data| wake_packed(data as usize as u64),
    |_| {},
);

fn wake_packed(packed: u64) {
    let worker = WorkerId((packed >> WORKER_SHIFT) as u8);
    let (generation, slot) = (packed & 0xffff_ffff, packed >> SLOT_SHIFT & (SLOTS_MAX - 1));
    let task = generation << 32 | slot;
    let running = RUNNING.get();
    // SAFETY: `RUNNING` is non-null only while an `Entered` guard on this thread keeps the executor
    // alive, and it is reset before the guard lets go.
    match unsafe { running.as_ref() } {
        Some(executor) if executor.worker == worker => {
            executor.wake(KeyData::from_ffi(task).into());
        }
        _ => remote::wake(worker, task),
    }
}

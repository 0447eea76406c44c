//! The loop: run what is runnable, expire timers, go to the kernel once, begin again.

use std::borrow::BorrowMut;
use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::driver::epoll::Epoll;
use crate::driver::uring::Uring;
use crate::driver::{BufferOptions, Driver, DriverStats, Table, Wait};
use crate::executor::Executor;
use crate::ledger::{Budget, Charge};
use crate::pipe::Pipes;
use crate::remote::{Remote, WorkerId};
use crate::time::Instant;
use crate::timer::{TimerKey, Wheel};

/// The longest that tasks run before the loop goes to the kernel again.
const ROUND: Duration = Duration::from_micros(500);

/// Which driver to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// io_uring; an error where it is not to be had.
    IoUring,
    /// epoll.
    Epoll,
}

impl Backend {
    /// The name that config, logs and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
        }
    }
}

/// Whether io_uring with all that the driver needs works for this process: sets up a ring on a
/// thread of its own, tries the features, and tells what was in the way.
pub fn probe_io_uring() -> io::Result<()> {
    let probe = std::thread::spawn(|| -> io::Result<()> {
        let remote = Remote::register()?;
        let tried = Uring::new(BufferOptions { count: 4, size: 64 }, &remote);
        remote.unregister();
        tried.map(drop)
    });
    probe.join().unwrap_or_else(|_| Err(io::Error::other("the self-test panicked")))
}

/// How a worker is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The driver.
    pub backend: Backend,
    /// Its receive buffers.
    pub buffers: BufferOptions,
    /// Seed of [`Reactor::random`].
    pub seed: u64,
}

pub(crate) struct Core {
    pub(crate) driver: Driver,
    pub(crate) table: Table,
    pub(crate) pipes: Pipes,
}

struct Inner {
    core: RefCell<Core>,
    timers: RefCell<Wheel>,
    executor: Rc<Executor>,
    remote: Arc<Remote>,
    now: Cell<Instant>,
    rng: RefCell<fastrand::Rng>,
}

/// A worker's event loop, as its tasks see it. Clones are the same loop.
#[derive(Clone)]
pub struct Reactor(Rc<Inner>);

/// Runs `main` on this thread until it is done, then drops the other tasks and closes what they
/// left open.
pub fn run<F, Fut>(options: Options, main: F) -> io::Result<Fut::Output>
where
    F: FnOnce(Reactor) -> Fut,
    Fut: Future + 'static,
    Fut::Output: 'static,
{
    let remote = Remote::register()?;
    let driver = match options.backend {
        Backend::IoUring => {
            Uring::new(options.buffers, &remote).map(|uring| Driver::Uring(Box::new(uring)))
        }
        Backend::Epoll => {
            Epoll::new(options.buffers, &remote).map(|epoll| Driver::Epoll(Box::new(epoll)))
        }
    };
    let driver = driver.inspect_err(|_| remote.unregister())?;
    let reactor = Reactor::new(driver, remote, options.seed);
    let output = reactor.run_until(main(reactor.clone()));
    reactor.close();
    Ok(output)
}

impl Reactor {
    pub(crate) fn new(driver: Driver, remote: Arc<Remote>, seed: u64) -> Reactor {
        let now = driver.now();
        Reactor(Rc::new(Inner {
            core: RefCell::new(Core { driver, table: Table::default(), pipes: Pipes::default() }),
            timers: RefCell::new(Wheel::new(now)),
            executor: Executor::new(remote.clone()),
            remote,
            now: Cell::new(now),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
        }))
    }

    pub(crate) fn core(&self) -> RefMut<'_, Core> {
        self.0.core.borrow_mut()
    }

    /// This worker's number, unique in the process while it runs.
    pub fn worker(&self) -> WorkerId {
        self.0.remote.id()
    }

    /// Starts a task. It ends when it is done or when the loop ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.executor.spawn(Box::pin(task));
    }

    /// The time at the beginning of this round: good for deadlines, too coarse to measure with.
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// The clock, read now.
    pub fn clock(&self) -> Instant {
        self.core().driver.now()
    }

    /// The time of day, for people; it may jump.
    pub fn wall_clock(&self) -> SystemTime {
        self.core().driver.wall_clock()
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.0.rng.borrow_mut().u64(..)
    }

    /// The random numbers that [`Reactor::random`] will give, for whoever wants to know beforehand.
    pub fn random_ahead(&self) -> impl FnMut() -> u64 + Clone + use<> {
        let mut rng = self.0.rng.borrow().clone();
        move || rng.u64(..)
    }

    /// An empty vector to write into and to send: with the capacity of one that was sent before.
    pub fn take_vec(&self) -> Vec<u8> {
        self.core().table.sockets.take_vec()
    }

    /// Gives back a vector that was not sent after all.
    pub fn keep_vec(&self, vec: Vec<u8>) {
        self.core().table.sockets.keep_vec(vec);
    }

    /// Ends once `deadline` has passed.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { reactor: self.clone(), deadline, armed: None }
    }

    /// Ends after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// What `future` gives, or `None` if `deadline` passes first.
    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F, Sleep> {
        Timeout { future, sleep: self.sleep_until(deadline) }
    }

    /// Lets the other tasks run first.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Charges what is held for peers beyond the receive buffers to `budget`, which other workers
    /// share. To be said before anything is served.
    pub fn share_memory(&self, budget: Budget) {
        self.core().driver.ledger().share(budget);
    }

    /// Charges memory that is held for a peer to the budget, until the charge is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.core().driver.ledger().charge(bytes)
    }

    /// Bytes that this worker has charged.
    pub fn memory_used(&self) -> usize {
        self.core().driver.ledger().used()
    }

    /// Whether the budget is used up: no new work should be taken on.
    pub fn is_out_of_memory(&self) -> bool {
        self.core().driver.ledger().is_exhausted()
    }

    pub(crate) fn spend(&self, bytes: usize) -> bool {
        self.0.executor.spend(bytes)
    }

    /// How many tasks, sockets and timers live, and how many receive buffers are in use.
    pub fn census(&self) -> Census {
        let core = self.core();
        let held = core.driver.held_buffers();
        Census {
            tasks: self.0.executor.tasks(),
            sockets: core.table.sockets.len(),
            timers: self.0.timers.borrow().len(),
            buffers: held,
        }
    }

    /// What the driver did so far.
    pub fn driver_stats(&self) -> DriverStats {
        self.core().driver.stats()
    }

    fn run_until<Fut>(&self, main: Fut) -> Fut::Output
    where
        Fut: Future + 'static,
        Fut::Output: 'static,
    {
        let output: Rc<Cell<Option<Fut::Output>>> = Rc::default();
        let slot = output.clone();
        self.spawn(async move { slot.set(Some(main.await)) });
        let _entered = self.0.executor.enter();
        loop {
            self.run_ready();
            if let Some(output) = output.take() {
                return output;
            }
            self.wait(Instant::FAR);
        }
    }

    /// Runs the tasks that are ready.
    pub(crate) fn run_ready(&self) {
        let inner = &*self.0;
        inner.executor.take_foreign_wakes();
        let end = inner.now.get() + ROUND;
        inner.executor.round(|| self.clock() >= end);
    }

    /// One turn of a simulated worker: what happened, the time, and then the tasks.
    pub(crate) fn step(&self) {
        let _entered = self.0.executor.enter();
        self.wait(Instant::FAR);
        self.run_ready();
    }

    /// When a simulated worker has something to do: now, later, or not by itself.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let inner = &*self.0;
        if inner.executor.is_runnable() || inner.remote.has_wakes() {
            return Some(self.clock());
        }
        let timer = inner.timers.borrow().next_deadline();
        let driver = match &self.core().driver {
            Driver::Sim(sim) => sim.next_due(),
            Driver::Uring(_) | Driver::Epoll(_) => None,
        };
        timer.into_iter().chain(driver).min()
    }

    /// Goes to the kernel, and waits there unless tasks are ready, but not beyond `until`.
    pub(crate) fn wait(&self, until: Instant) {
        let inner = &*self.0;
        let wait = if inner.executor.is_runnable() || inner.remote.has_wakes() {
            Wait::Not
        } else {
            let deadline = inner.timers.borrow().next_deadline().unwrap_or(Instant::FAR);
            Wait::Until(deadline.min(until))
        };
        let mut core = inner.core.borrow_mut();
        let core = &mut *core;
        core.driver.turn(&mut core.table, &inner.remote, wait);
        inner.now.set(core.driver.now());
        inner.timers.borrow_mut().expire(inner.now.get());
    }

    /// Drops all tasks and waits until nothing of theirs is with the kernel.
    pub(crate) fn close(&self) {
        let _entered = self.0.executor.enter();
        self.0.executor.clear();
        let mut core = self.core();
        let core = &mut *core;
        core.driver.quiesce(&mut core.table);
        if core.table.sockets.len() > 0 {
            // Something is still with the kernel after a second: better leaked than freed.
            std::mem::forget(std::mem::take(&mut core.table));
        }
        self.0.remote.unregister();
    }
}

/// What lives in a worker: for tests that nothing leaks, and for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Tasks.
    pub tasks: usize,
    /// Sockets, closing ones included.
    pub sockets: usize,
    /// Timers.
    pub timers: usize,
    /// Receive buffers that views hold.
    pub buffers: usize,
}

/// See [`Reactor::sleep_until`].
///
/// One that lasts, and whose deadline is only ever moved on, costs nothing: its timer stays where it
/// is, and when that fires, it is set anew for the deadline of then.
pub struct Sleep {
    reactor: Reactor,
    deadline: Instant,
    armed: Option<Armed>,
}

/// A timer that was set.
struct Armed {
    timer: TimerKey,
    /// It has not fired before this.
    due: Instant,
    waker: Waker,
}

impl Sleep {
    /// Moves the deadline. A later one costs nothing until the earlier one has passed.
    pub fn reset(&mut self, deadline: Instant) {
        if self.armed.as_ref().is_some_and(|armed| deadline < armed.due) {
            self.disarm();
        }
        self.deadline = deadline;
    }

    /// What `future` gives, or `None` if the deadline passes first.
    pub fn limit<F: Future>(&mut self, future: F) -> Timeout<F, &mut Sleep> {
        Timeout { future, sleep: self }
    }

    fn disarm(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.reactor.0.timers.borrow_mut().cancel(armed.timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.reactor.now();
        if self.deadline <= now {
            return Poll::Ready(());
        }
        if self.deadline == Instant::FAR {
            return Poll::Pending;
        }
        let Sleep { reactor, deadline, armed } = &mut *self;
        if let Some(armed) = armed
            && now < armed.due
        {
            if armed.waker.will_wake(cx.waker()) {
                return Poll::Pending;
            }
            if reactor.0.timers.borrow_mut().rewake(armed.timer, cx.waker()) {
                armed.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
        }
        let mut timers = reactor.0.timers.borrow_mut();
        if let Some(armed) = armed.take() {
            timers.cancel(armed.timer);
        }
        let waker = cx.waker().clone();
        let timer = timers.insert(*deadline, waker.clone());
        *armed = Some(Armed { timer, due: *deadline, waker });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// See [`Reactor::timeout_at`] and [`Sleep::limit`]. A struct and not an `async fn`: that would hold
/// its argument twice, as given and as pinned, and what waits within what waits would double with each
/// layer.
pub struct Timeout<F, S> {
    /// Pinned with the struct.
    future: F,
    sleep: S,
}

impl<F: Future, S: BorrowMut<Sleep>> Future for Timeout<F, S> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        // SAFETY: nothing is moved out of `this`; `future` is reached pinned only, here, and dropped
        // in place, since neither `Drop` nor `Unpin` is implemented by hand.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        Pin::new(this.sleep.borrow_mut()).poll(cx).map(|()| None)
    }
}

/// The outcome of [`race`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first future was done.
    First(A),
    /// The second was, and the first was not.
    Second(B),
}

/// Runs both until one is done; the other is dropped. The first wins a tie.
pub async fn race<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|cx| {
        if let Poll::Ready(output) = first.as_mut().poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// Runs both until both are done.
pub async fn both<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut two) = (None, None);
    poll_fn(|cx| {
        if one.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(cx)
        {
            one = Some(output);
        }
        if two.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(cx)
        {
            two = Some(output);
        }
        match (one.take(), two.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            unfinished => {
                (one, two) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

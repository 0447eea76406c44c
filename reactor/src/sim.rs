//! A deterministic simulation: workers on one thread, a network in memory, a clock that jumps, and
//! faults drawn from a seed.
//!
//! A [`Simulation`] runs the unmodified code of several workers (proxies, clients, origins) over the
//! third driver. The same seed gives the same run, to the last event ([`Simulation::trace_hash`]), at
//! the speed of the machine: nothing is ever waited for. What may go wrong, and how often, is a plan
//! ([`Faults`]).
//!
//! ```
//! use std::time::Duration;
//! use reactor::sim::{Faults, Outcome, Simulation};
//! use reactor::{Address, BufferOptions, Listener, Piece};
//!
//! let mut sim = Simulation::new(7, Faults::unkind());
//! let socket = sim.bind(&Address::Ip("10.9.9.9:80".parse().unwrap())).unwrap();
//! let address = socket.address().clone();
//! sim.spawn_worker(BufferOptions::default(), |reactor| async move {
//!     let mut listener = Listener::new(&reactor, socket);
//!     let stream = reactor.adopt(listener.accept().await.unwrap().unwrap());
//!     let hello = stream.recv().await.unwrap().unwrap();
//!     assert!(b"hello".starts_with(&hello));
//! });
//! sim.spawn_worker(BufferOptions::default(), |reactor| async move {
//!     let stream = reactor.connect(&address).await.unwrap();
//!     stream.send([Piece::Static(b"hello")]).await.unwrap();
//! });
//! assert_eq!(sim.run(Duration::from_secs(10)), Outcome::Done);
//! ```
//!
//! What it leaves to others: threads (a letter from a real thread is no part of the seed), and file
//! descriptors (a simulated worker must not be given a real [`ListenSocket`]).

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::address::Address;
use crate::driver::sim::Sim;
use crate::driver::{BufferOptions, Driver};
use crate::listener::ListenSocket;
use crate::remote::Remote;
use crate::runtime::Reactor;
use crate::time::Instant;

mod faults;
pub(crate) mod world;

pub use faults::{Chance, Faults};
use world::{Mark, World};

/// What a turn of a worker takes. Without it a task that only yields would stop the clock.
const TURN: Duration = Duration::from_micros(1);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every worker's main future is done.
    Done,
    /// The virtual time was over first.
    TimeOver,
    /// Somebody is not done, and nothing can ever happen any more: all wait for each other.
    Stuck,
}

/// Workers, and the network between them.
pub struct Simulation {
    network: Network,
    workers: Vec<Worker>,
}

struct Worker {
    reactor: Reactor,
    done: Rc<Cell<bool>>,
    closed: bool,
}

impl Simulation {
    /// A world without workers.
    pub fn new(seed: u64, faults: Faults) -> Simulation {
        let world = World::new(seed, faults);
        Simulation { network: Network(Arc::new(Mutex::new(world))), workers: Vec::new() }
    }

    /// The network, to bind more listeners while it runs.
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    /// Binds and listens in the simulated network.
    pub fn bind(&self, address: &Address) -> io::Result<ListenSocket> {
        self.network.bind(address)
    }

    /// Adds a worker that runs `main`. When that is done the worker ends, as in [`crate::run`]: its
    /// other tasks are dropped, and what they left open is closed.
    ///
    /// # Panics
    /// If the process has no memory for the buffers, or 256 workers already.
    pub fn spawn_worker<F, Fut>(&mut self, buffers: BufferOptions, main: F)
    where
        F: FnOnce(Reactor) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let remote = Remote::register().expect("a process has at most 256 workers");
        let driver = Sim::new(buffers, self.network.clone()).expect("memory for receive buffers");
        let seed = self.network.lock().rng().u64(..);
        let reactor = Reactor::new(Driver::Sim(Box::new(driver)), remote, seed);
        let done = Rc::new(Cell::new(false));
        let (main, finished) = (main(reactor.clone()), done.clone());
        reactor.spawn(async move {
            main.await;
            finished.set(true);
        });
        self.workers.push(Worker { reactor, done, closed: false });
    }

    /// Lets the world run until every main is done, or for `limit` of virtual time.
    pub fn run(&mut self, limit: Duration) -> Outcome {
        let end = self.now() + limit;
        loop {
            self.close_finished();
            if self.workers.iter().all(|worker| worker.closed) {
                return Outcome::Done;
            }
            self.network.lock().deliver();
            if let Some(worker) = self.pick_runnable() {
                self.workers[worker].reactor.step();
                let mut world = self.network.lock();
                world.mark(Mark::Step, worker as RawFd, 0);
                let now = world.now() + TURN;
                world.advance_to(now);
            } else {
                let Some(next) = self.next_event() else { return Outcome::Stuck };
                self.network.lock().advance_to(next.min(end));
            }
            if self.now() >= end {
                return Outcome::TimeOver;
            }
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// A hash of everything that happened so far: what arrived where, when and with which bytes,
    /// what was reported, and which worker took which turn.
    pub fn trace_hash(&self) -> u64 {
        self.network.lock().trace()
    }

    fn close_finished(&mut self) {
        for worker in &mut self.workers {
            if worker.done.get() && !mem::replace(&mut worker.closed, true) {
                worker.reactor.close();
            }
        }
    }

    fn open_workers(&self) -> impl Iterator<Item = (usize, &Worker)> {
        self.workers.iter().enumerate().filter(|(_, worker)| !worker.closed)
    }

    /// One of the workers that have something to do now.
    fn pick_runnable(&self) -> Option<usize> {
        let now = self.now();
        let runnable: Vec<usize> = self
            .open_workers()
            .filter(|(_, worker)| worker.reactor.next_due().is_some_and(|due| due <= now))
            .map(|(index, _)| index)
            .collect();
        let mut world = self.network.lock();
        (!runnable.is_empty()).then(|| runnable[world.rng().usize(..runnable.len())])
    }

    /// When something happens next, if all workers sleep.
    fn next_event(&self) -> Option<Instant> {
        let due = self.open_workers().filter_map(|(_, worker)| worker.reactor.next_due()).min();
        let arrival = self.network.lock().next_event();
        due.into_iter().chain(arrival).min()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        for worker in self.workers.iter().filter(|worker| !worker.closed) {
            worker.reactor.close();
        }
    }
}

/// A handle of the simulated network. Its state is behind a lock only so that listening sockets and
/// accepted connections may be sent in letters, as real ones are; there is one thread.
#[derive(Clone)]
pub struct Network(Arc<Mutex<World>>);

impl Network {
    /// Binds and listens in the simulated network. A port of 0 becomes a free one; a listener at
    /// `0.0.0.0` or `::` takes connections to every address at its port.
    pub fn bind(&self, address: &Address) -> io::Result<ListenSocket> {
        let bound = self.lock().bind(address);
        let (socket, address) = bound.map_err(io::Error::from_raw_os_error)?;
        Ok(ListenSocket::simulated(SimSocket { network: self.clone(), socket }, address))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a connection from a listener's backlog.
    pub(crate) fn accept(&self, listener: RawFd) -> Option<SimSocket> {
        let socket = self.lock().accept(listener)?;
        Some(SimSocket { network: self.clone(), socket })
    }
}

/// Owns a simulated socket, as an `OwnedFd` does a real one.
pub(crate) struct SimSocket {
    network: Network,
    socket: RawFd,
}

impl SimSocket {
    /// No socket has this number.
    const NONE: RawFd = -1;

    pub(crate) fn fd(&self) -> RawFd {
        self.socket
    }

    /// Gives the socket up to whoever closes it by its number.
    pub(crate) fn into_raw(mut self) -> RawFd {
        mem::replace(&mut self.socket, SimSocket::NONE)
    }

    /// Takes a connection from this listener's backlog.
    pub(crate) fn accept(&self) -> Option<SimSocket> {
        self.network.accept(self.socket)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.lock().close(self.socket);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.socket)
    }
}

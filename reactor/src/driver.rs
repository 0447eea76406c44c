//! One interface, three drivers: [`uring`], [`epoll`] and [`sim`].
//!
//! A driver takes operations on sockets and reports each of them to the tables in
//! [`crate::socket`] and [`crate::listener`]. The operations are completion-shaped; the epoll driver
//! performs them when the descriptor is ready.

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use socket2::{SockAddr, SockRef, Socket as OsSocket, Type};

use crate::address::{Address, prepare};
use crate::buffer::Group;
use crate::ledger::Ledger;
use crate::listener::{ListenerKey, Listeners};
use crate::pipe::Pipe;
use crate::remote::Remote;
use crate::socket::{Interest, Side, SocketKey, Sockets};
use crate::sys;
use crate::time::Instant;

pub(crate) mod epoll;
pub(crate) mod sim;
pub(crate) mod uring;

use epoll::Epoll;
use sim::Sim;
use uring::Uring;

/// What the drivers act on.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) sockets: Sockets,
    pub(crate) listeners: Listeners,
}

/// How long a turn may wait for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Look, do not wait: there are tasks to run.
    Not,
    /// Until something comes, or this moment.
    Until(Instant),
}

/// Receive buffers, one group a side.
pub(crate) type Groups = [Rc<Group>; Side::ALL.len()];

/// How many receive buffers a worker has, and their size.
#[derive(Debug, Clone, Copy)]
pub struct BufferOptions {
    /// Buffers per group; a power of two, at most 32,768. The kernel is given a quarter of them at
    /// first, and more when it runs out.
    pub count: u16,
    /// Bytes in one buffer.
    pub size: usize,
}

impl Default for BufferOptions {
    fn default() -> BufferOptions {
        BufferOptions { count: 256, size: 2048 }
    }
}

impl BufferOptions {
    pub(crate) fn groups(self) -> io::Result<Groups> {
        let ledger = Ledger::new();
        let group = || Group::new(self.count, self.size, &ledger);
        Ok([group()?, group()?])
    }
}

/// How often the loop went to the kernel, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Calls of `io_uring_enter` or `epoll_wait`.
    pub enters: u64,
    /// Operations handed to the kernel.
    pub submissions: u64,
    /// Completions (uring) or readiness events (epoll).
    pub completions: u64,
    /// Receives that found no buffer.
    pub starved: u64,
}

/// Which driver carries a worker.
pub(crate) enum Driver {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
    Sim(Box<Sim>),
}

macro_rules! each {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Driver::Uring($driver) => $call,
            Driver::Epoll($driver) => $call,
            Driver::Sim($driver) => $call,
        }
    };
}

impl Driver {
    /// A new socket that is to connect to `target`.
    pub(crate) fn open(&mut self, target: &SockAddr) -> io::Result<RawFd> {
        if let Driver::Sim(sim) = self {
            return Ok(sim.open(&Address::from_sockaddr(target)));
        }
        let socket = OsSocket::new(target.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
        prepare(&socket, target)?;
        Ok(socket.into_raw_fd())
    }

    /// Takes up an accepted socket.
    pub(crate) fn adopt(&mut self, table: &mut Table, key: SocketKey) {
        match self {
            Driver::Uring(_) => {}
            Driver::Epoll(epoll) => epoll.adopt(table, key),
            Driver::Sim(sim) => sim.adopt(table, key),
        }
    }

    /// Receives what comes, up to the socket's allowance, until that is used up.
    pub(crate) fn recv(&mut self, table: &mut Table, key: SocketKey) {
        each!(self, driver => driver.recv(table, key));
    }

    /// Asks for the receive back; its own completion retires it.
    pub(crate) fn cancel_recv(&mut self, table: &mut Table, key: SocketKey) {
        each!(self, driver => driver.cancel_recv(table, key));
    }

    /// Sends the socket's send operation.
    pub(crate) fn send(&mut self, table: &mut Table, key: SocketKey) {
        each!(self, driver => driver.send(table, key));
    }

    /// Connects to the address in the socket.
    pub(crate) fn connect(&mut self, table: &mut Table, key: SocketKey) {
        each!(self, driver => driver.connect(table, key));
    }

    /// Tells when the socket is ready, once.
    pub(crate) fn poll(&mut self, table: &mut Table, key: SocketKey, interest: Interest) {
        each!(self, driver => driver.poll(table, key, interest));
    }

    /// Ends whatever the driver has of a socket whose stream is gone.
    pub(crate) fn abandon(&mut self, table: &mut Table, key: SocketKey) {
        each!(self, driver => driver.abandon(table, key));
    }

    /// Accepts connections until cancelled or failed.
    pub(crate) fn accept(&mut self, table: &mut Table, key: ListenerKey) {
        each!(self, driver => driver.accept(table, key));
    }

    /// Stops accepting.
    pub(crate) fn cancel_accept(&mut self, table: &mut Table, key: ListenerKey) {
        each!(self, driver => driver.cancel_accept(table, key));
    }

    /// Ends one direction, or both.
    pub(crate) fn shutdown(&mut self, fd: RawFd, how: Shutdown) {
        each!(self, driver => driver.shutdown(fd, how));
    }

    /// Closes a descriptor of which the driver has nothing any more.
    pub(crate) fn close(&mut self, fd: RawFd) {
        each!(self, driver => driver.close(fd));
    }

    /// Hands over what was asked for, waits, and reports what came.
    pub(crate) fn turn(&mut self, table: &mut Table, remote: &Remote, wait: Wait) {
        match self {
            Driver::Uring(uring) => uring.turn(table, remote, wait),
            Driver::Epoll(epoll) => epoll.turn(table, remote, wait),
            // Who waits for what is the simulation's to know: nobody sleeps here.
            Driver::Sim(sim) => sim.turn(table),
        }
    }

    /// The clock, read now.
    pub(crate) fn now(&self) -> Instant {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => {
                Instant::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC))
            }
            Driver::Sim(sim) => sim.now(),
        }
    }

    /// The time of day. The simulator's first day is the epoch's.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => SystemTime::now(),
            Driver::Sim(sim) => SystemTime::UNIX_EPOCH + Duration::from_nanos(sim.now().as_nanos()),
        }
    }

    /// Looks whether the kernel has data or an end of the stream for this socket.
    pub(crate) fn peek(&self, fd: RawFd) -> sys::Peek {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => sys::peek(fd),
            Driver::Sim(sim) => sim.peek(fd),
        }
    }

    /// A new pipe; an error where there is none to be had.
    pub(crate) fn pipe(&self) -> io::Result<Pipe> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => Pipe::new(),
            Driver::Sim(sim) => sim.pipe(),
        }
    }

    /// Moves up to `max` received bytes into the pipe, now; 0 at the end of the stream.
    pub(crate) fn splice_in(&self, fd: RawFd, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => {
                sys::splice(fd, pipe.descriptors().0, max, false)
            }
            Driver::Sim(sim) => sim.splice_in(fd, pipe, max),
        }
    }

    /// Moves what the pipe holds into the socket, as far as that takes it now. `more`: there will be
    /// a next one soon.
    pub(crate) fn splice_out(&self, pipe: &mut Pipe, fd: RawFd, more: bool) -> io::Result<usize> {
        match self {
            Driver::Uring(_) | Driver::Epoll(_) => {
                sys::splice(pipe.descriptors().1, fd, pipe.filled, more)
            }
            Driver::Sim(sim) => sim.splice_out(pipe, fd),
        }
    }

    /// Makes closing the descriptor send a reset.
    pub(crate) fn reset_on_close(&self, fd: RawFd) {
        if let Driver::Sim(sim) = self {
            return sim.reset_on_close(fd);
        }
        // SAFETY: the descriptor is an open socket's.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // Unix sockets have no resets; there the end is just an end.
        let _ = SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO));
    }

    /// The error that the kernel has for this socket; it tells each once.
    pub(crate) fn error(&self, fd: RawFd) -> Option<i32> {
        if let Driver::Sim(sim) = self {
            return sim.error(fd);
        }
        // SAFETY: the descriptor is an open socket's.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        SockRef::from(&fd).take_error().ok().flatten()?.raw_os_error()
    }

    pub(crate) fn peer_address(&self, fd: RawFd) -> io::Result<Address> {
        if let Driver::Sim(sim) = self {
            return sim.peer_address(fd);
        }
        // SAFETY: the descriptor is an open socket's.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        SockRef::from(&fd).peer_addr().map(|peer| Address::from_sockaddr(&peer))
    }

    /// Ends everything that is still with the driver and closes all sockets, so that no memory is
    /// written after it is freed.
    pub(crate) fn quiesce(&mut self, table: &mut Table) {
        each!(self, driver => driver.quiesce(table));
    }

    /// The worker's memory budget.
    pub(crate) fn ledger(&self) -> &Rc<Ledger> {
        each!(self, driver => driver.groups[0].ledger())
    }

    /// How many receive buffers are in views.
    pub(crate) fn held_buffers(&self) -> usize {
        let held = |group: &Rc<Group>| group.held();
        each!(self, driver => driver.groups.iter().map(held).sum())
    }

    pub(crate) fn stats(&self) -> DriverStats {
        each!(self, driver => driver.stats)
    }
}

//! The epoll driver: the same interface over readiness, for where io_uring is forbidden.
//!
//! Every socket is registered once, edge-triggered in both directions. An operation is tried when it
//! is asked for (a send at once, a receive in the next turn) and again when an edge says so; an edge
//! for which nothing was asked is forgotten, because the next operation tries first anyway.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use slotmap::{Key as _, KeyData};
use socket2::SockRef;

use crate::driver::{BufferOptions, DriverStats, Groups, Table, Wait};
use crate::listener::{Accepted, Descriptor, ListenerKey};
use crate::remote::Remote;
use crate::socket::{AfterSend, Interest, Received, Segments, SocketKey};
use crate::sys;
use crate::time::Instant;

/// Events taken in one turn.
const EVENTS: usize = 512;
/// Connections accepted from one listener in one turn.
const ACCEPTS: usize = 64;

/// Marks a listener's key; slots stay below 2^28.
const LISTENER: u64 = 1 << 31;
/// The worker's eventfd.
const EVENT: u64 = u64::MAX;

/// See the module's text.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    pub(crate) groups: Groups,
    event_fd: RawFd,
    events: Vec<libc::epoll_event>,
    /// Sockets whose receive is to be tried.
    reads: VecDeque<SocketKey>,
    /// Sockets whose receive found no buffer, in order.
    starved: VecDeque<SocketKey>,
    pub(crate) stats: DriverStats,
}

impl Epoll {
    pub(crate) fn new(buffers: BufferOptions, remote: &Remote) -> io::Result<Epoll> {
        let epoll = sys::epoll_create()?;
        sys::epoll_add(&epoll, remote.event_fd(), libc::EPOLLIN | libc::EPOLLET, EVENT)?;
        Ok(Epoll {
            epoll,
            groups: buffers.groups()?,
            event_fd: remote.event_fd(),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            reads: VecDeque::new(),
            starved: VecDeque::new(),
            stats: DriverStats::default(),
        })
    }

    /// Registers a connected socket.
    pub(crate) fn adopt(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        if let Err(error) = sys::epoll_add(&self.epoll, socket.fd, events, key.data().as_ffi()) {
            // Out of memory or over the user's watch limit: the stream ends with that error.
            let errno = error.raw_os_error().unwrap_or(libc::ENOMEM);
            let _ = table.sockets.received(key, Received::Failed(errno), false);
        }
    }

    pub(crate) fn recv(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        (socket.recv.armed, socket.recv.drained) = (true, false);
        self.stats.submissions += 1;
        self.reads.push_back(key);
    }

    pub(crate) fn cancel_recv(&mut self, table: &mut Table, key: SocketKey) {
        if let Some(socket) = table.sockets.get(key) {
            // Nothing is with the kernel, so there is nothing to wait for.
            socket.recv.armed = false;
        }
    }

    pub(crate) fn send(&mut self, table: &mut Table, key: SocketKey) {
        self.stats.submissions += 1;
        loop {
            let Some(socket) = table.sockets.get(key) else { return };
            let fd = socket.fd;
            let Some(op) = socket.send.op.as_mut() else { return };
            match send_once(fd, op.rest()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                    if table.sockets.sent(key, result) == AfterSend::Done {
                        return;
                    }
                }
            }
        }
    }

    pub(crate) fn connect(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let Some(connect) = socket.connect.as_mut() else { return };
        self.stats.submissions += 1;
        connect.armed = true;
        // SAFETY: the descriptor is the socket's, open until it is reaped.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
        let result = SockRef::from(&fd).connect(&connect.address);
        // Registered only now: a socket that is not connecting yet reports a hang-up.
        self.adopt(table, key);
        match result {
            Ok(()) => table.sockets.connected(key, Ok(())),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                table.sockets.connected(key, Err(errno));
            }
        }
    }

    pub(crate) fn poll(&mut self, table: &mut Table, key: SocketKey, interest: Interest) {
        let Some(socket) = table.sockets.get(key) else { return };
        // Who polls to read or to write has just been told EAGAIN: the next edge is still to come.
        socket.poll_state(interest).armed = true;
        if interest == Interest::Error && socket.recv.end_is_near {
            table.sockets.ready(key, interest);
        }
    }

    pub(crate) fn abandon(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        if !socket.aborted {
            sys::shutdown(socket.fd, Shutdown::Both);
        }
        socket.recv.armed = false;
        if let Some(connect) = &mut socket.connect {
            connect.armed = false;
        }
        if let Some(polls) = &mut socket.poll {
            polls.iter_mut().for_each(|poll| poll.armed = false);
        }
        table.sockets.sent(key, Err(libc::ECANCELED));
    }

    pub(crate) fn accept(&mut self, table: &mut Table, key: ListenerKey) {
        let Some(accepting) = table.listeners.get(key) else { return };
        self.stats.submissions += 1;
        accepting.armed = true;
        let events = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
        let data = key.data().as_ffi() | LISTENER;
        if let Err(error) = sys::epoll_add(&self.epoll, accepting.fd, events, data) {
            let errno = error.raw_os_error().unwrap_or(libc::ENOMEM);
            table.listeners.accepted(key, Err(errno), false);
        }
    }

    pub(crate) fn cancel_accept(&mut self, table: &mut Table, key: ListenerKey) {
        let Some(accepting) = table.listeners.get(key) else { return };
        sys::epoll_remove(&self.epoll, accepting.fd);
        table.listeners.accepted(key, Err(libc::ECANCELED), false);
    }

    pub(crate) fn shutdown(&mut self, fd: RawFd, how: Shutdown) {
        sys::shutdown(fd, how);
    }

    pub(crate) fn close(&mut self, fd: RawFd) {
        sys::close(fd);
    }

    pub(crate) fn turn(&mut self, table: &mut Table, remote: &Remote, wait: Wait) {
        self.rearm_starved(table);
        let now = || Instant::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC));
        let patience = match wait {
            Wait::Until(deadline) if self.reads.is_empty() && remote.prepare_to_sleep() => {
                deadline.since(now())
            }
            _ => Duration::ZERO,
        };
        // A deadline that is not a whole number of milliseconds is waited for to its end.
        let timeout = patience.as_nanos().div_ceil(1_000_000).min(3_600_000) as i32;
        let mut events = mem::take(&mut self.events);
        self.stats.enters += 1;
        let got = match sys::epoll_wait(&self.epoll, &mut events, timeout) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => panic!("epoll_wait failed: {error}"),
        };
        remote.awake();
        self.stats.completions += got as u64;
        for event in &events[..got] {
            self.happened(table, event.u64, event.events as i32);
        }
        self.events = events;
        for _ in 0..self.reads.len() {
            let Some(key) = self.reads.pop_front() else { break };
            self.try_recv(table, key);
        }
    }

    fn happened(&mut self, table: &mut Table, data: u64, events: i32) {
        if data == EVENT {
            sys::eventfd_drain(self.event_fd);
            return;
        }
        let key = KeyData::from_ffi(data & !LISTENER);
        if data & LISTENER != 0 {
            self.try_accept(table, ListenerKey::from(key));
            return;
        }
        let key = SocketKey::from(key);
        let ended = libc::EPOLLERR | libc::EPOLLHUP;
        let readable = events & (libc::EPOLLIN | libc::EPOLLRDHUP | ended) != 0;
        let writable = events & (libc::EPOLLOUT | ended) != 0;
        let Some(socket) = table.sockets.get(key) else { return };
        // Also with the edge of the connect: whoever accepts, speaks and closes at once has no other.
        socket.recv.end_is_near |= events & (libc::EPOLLRDHUP | ended) != 0;
        if socket.connect.as_ref().is_some_and(|connect| connect.armed) {
            if writable {
                // SAFETY: the descriptor is the socket's, open until it is reaped.
                let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
                let failed = SockRef::from(&fd).take_error().unwrap_or_else(Some);
                let errno = failed.map(|error| error.raw_os_error().unwrap_or(libc::EIO));
                table.sockets.connected(key, errno.map_or(Ok(()), Err));
            }
            return;
        }
        if readable && socket.recv.armed {
            self.reads.push_back(key);
        }
        let (polled, sending) = (socket.poll.is_some(), socket.send.op.is_some());
        if polled {
            let armed = Interest::ALL.map(|interest| socket.poll_state(interest).armed);
            if readable && armed[Interest::Read as usize] {
                table.sockets.ready(key, Interest::Read);
            }
            if writable && armed[Interest::Write as usize] {
                table.sockets.ready(key, Interest::Write);
            }
            if events & ended != 0 && armed[Interest::Error as usize] {
                table.sockets.ready(key, Interest::Error);
            }
        }
        if writable && sending {
            self.send(table, key);
        }
    }

    /// Receives until the socket has nothing, its allowance is used up, or buffers run out.
    fn try_recv(&mut self, table: &mut Table, key: SocketKey) {
        let mut brought = false;
        loop {
            let Some(socket) = table.sockets.get(key) else { return };
            if !socket.recv.armed {
                return;
            }
            let group = &self.groups[socket.side as usize];
            // When memory is short, one buffer is enough for now.
            let enough = brought && group.ledger().is_short();
            let allowance = if enough { 0 } else { socket.recv_allowance() as usize };
            if allowance == 0 {
                let _ = table.sockets.received(key, Received::Nothing, false);
                return;
            }
            let Some(id) = group.take() else {
                self.stats.starved += 1;
                self.starved.push_back(key);
                let _ = table.sockets.received(key, Received::NoBuffer, false);
                return;
            };
            let room = group.buffer_size().min(allowance);
            let ends = socket.recv.end_is_near;
            // SAFETY: the buffer is the driver's until `fill` or `put_back`.
            let received = unsafe { sys::recv(socket.fd, group.address(id), room) };
            if let Ok(len @ 1..) = received {
                let buf = group.fill(id, len);
                brought = true;
                if let Some(socket) = table.sockets.get(key) {
                    socket.recv.drained = len < room;
                }
                let _ = table.sockets.received(key, Received::Data(buf), true);
                if len < room && !ends {
                    // The socket was emptied, and what comes next has an edge of its own.
                    return;
                }
                continue;
            }
            group.put_back(id);
            let (what, more) = match received {
                Ok(_) => (Received::Eof, false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(socket) = table.sockets.get(key) {
                        socket.recv.drained = true;
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => (Received::Failed(error.raw_os_error().unwrap_or(libc::EIO)), false),
            };
            // Only ends get here, so there is nothing to arm again.
            let _ = table.sockets.received(key, what, more);
            return;
        }
    }

    fn rearm_starved(&mut self, table: &mut Table) {
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else { return };
            let Some(socket) = table.sockets.get(key) else { continue };
            if self.groups[socket.side as usize].free() == 0 {
                self.starved.push_front(key);
                return;
            }
            socket.recv.starved = false;
            if socket.wants_recv() {
                self.recv(table, key);
            }
        }
    }

    fn try_accept(&mut self, table: &mut Table, key: ListenerKey) {
        for _ in 0..ACCEPTS {
            let Some(accepting) = table.listeners.get(key) else { return };
            let fd = accepting.fd;
            match sys::accept(fd) {
                Ok(fd) => table.listeners.accepted(key, Ok(Accepted(Descriptor::Os(fd))), true),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    if errno == libc::EAGAIN {
                        return;
                    }
                    // As a multishot accept would: it ends, and the next call begins anew.
                    sys::epoll_remove(&self.epoll, fd);
                    table.listeners.accepted(key, Err(errno), false);
                    return;
                }
            }
        }
    }

    pub(crate) fn quiesce(&mut self, table: &mut Table) {
        for key in table.sockets.keys() {
            if let Some(socket) = table.sockets.get(key) {
                socket.begin_close();
            }
            self.abandon(table, key);
            if let Some(fd) = table.sockets.reap(key) {
                sys::close(fd);
            }
        }
    }
}

fn send_once(fd: RawFd, rest: Segments<'_>) -> io::Result<usize> {
    match rest {
        Segments::One(bytes) => sys::send(fd, bytes),
        // SAFETY: the message names memory of the send operation, which is alive.
        Segments::Many(message) => unsafe { sys::sendmsg(fd, message) },
    }
}

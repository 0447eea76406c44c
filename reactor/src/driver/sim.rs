//! The simulating driver: the same interface over [`crate::sim`], for tests.
//!
//! It reports as io_uring does, which is the harder contract: nothing within the call that asks for
//! it, everything in [`Sim::turn`]; a receive stays armed and brings many buffers; a cancel is a
//! race, and only the operation's own completion retires it; the bytes of a send may have been
//! answered before its completion comes. What asks for an operation that the driver still has, two
//! sends on one socket say, fails an assertion here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::address::Address;
use crate::buffer::Group;
use crate::driver::{BufferOptions, DriverStats, Groups, Table};
use crate::listener::{Accepted, Descriptor, ListenerKey};
use crate::pipe::Pipe;
use crate::sim::Network;
use crate::sim::world::{Mark, Taken};
use crate::socket::{AfterRecv, AfterSend, Interest, Received, Side, SocketKey};
use crate::sys::Peek;
use crate::time::Instant;

/// See the module's text.
pub(crate) struct Sim {
    network: Network,
    /// This worker's number in the network.
    worker: usize,
    pub(crate) groups: Groups,
    /// Buffers that the simulated kernel has been given for this turn, by side.
    published: [usize; Side::ALL.len()],
    /// Sockets that found no buffer, in order, by side.
    starved: [VecDeque<SocketKey>; Side::ALL.len()],
    /// What the simulated kernel has in hand.
    operations: BTreeMap<(SocketKey, What), Operation>,
    accepts: BTreeMap<ListenerKey, Operation>,
    /// Whose socket a number is.
    keys: BTreeMap<RawFd, SocketKey>,
    /// What the simulated kernel does next, in the order of time and then of asking.
    agenda: BTreeMap<(Instant, u64), Deed>,
    /// Counts operations and deeds.
    sequence: u64,
    pub(crate) stats: DriverStats,
}

/// What an operation is for. A socket has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Recv,
    Send,
    Connect,
    PollRead,
    PollWrite,
    PollError,
}

impl What {
    const ALL: [What; 6] =
        [What::Recv, What::Send, What::Connect, What::PollRead, What::PollWrite, What::PollError];

    fn poll(interest: Interest) -> What {
        match interest {
            Interest::Read => What::PollRead,
            Interest::Write => What::PollWrite,
            Interest::Error => What::PollError,
        }
    }
}

/// An operation that was asked for and has not completed.
#[derive(Debug)]
struct Operation {
    /// Tells it from an earlier one of the same socket and kind.
    id: u64,
    fd: RawFd,
    /// An attempt is on the agenda.
    scheduled: bool,
    cancelling: bool,
    /// Decided already: only its report is on the agenda, and no cancel finds it.
    decided: bool,
    /// Of a receive: bytes that it may still bring. Of a send: bytes that it has taken.
    amount: usize,
}

/// Something that the simulated kernel will do. One that finds another operation than it was meant
/// for does nothing.
#[derive(Debug)]
enum Deed {
    Try {
        key: SocketKey,
        what: What,
        id: u64,
    },
    Cancel {
        key: SocketKey,
        what: What,
        id: u64,
    },
    Sent {
        key: SocketKey,
        id: u64,
        result: Result<usize, i32>,
    },
    TryAccept {
        key: ListenerKey,
        id: u64,
    },
    CancelAccept {
        key: ListenerKey,
        id: u64,
    },
    /// Completions of a socket that is gone: they must find nothing.
    Stale {
        key: SocketKey,
    },
}

// What the reactor asks for.
impl Sim {
    pub(crate) fn new(buffers: BufferOptions, network: Network) -> io::Result<Sim> {
        let worker = network.lock().add_worker();
        Ok(Sim {
            network,
            worker,
            groups: buffers.groups()?,
            published: [0; Side::ALL.len()],
            starved: Default::default(),
            operations: BTreeMap::new(),
            accepts: BTreeMap::new(),
            keys: BTreeMap::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            stats: DriverStats::default(),
        })
    }

    pub(crate) fn open(&mut self, target: &Address) -> RawFd {
        self.network.lock().open(self.worker, target)
    }

    pub(crate) fn adopt(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let ours = self.network.lock().adopt(socket.fd, self.worker);
        assert!(ours, "a simulated worker serves connections of its own network");
        self.keys.insert(socket.fd, key);
    }

    pub(crate) fn recv(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        (socket.recv.armed, socket.recv.drained) = (true, false);
        let cap = self.groups[socket.side as usize].cap(socket.recv_allowance());
        self.begin(key, What::Recv, socket.fd, cap as usize);
    }

    pub(crate) fn cancel_recv(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        if socket.recv.armed {
            socket.recv.cancelling = true;
            self.cancel(key, What::Recv);
        }
    }

    pub(crate) fn send(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        self.begin(key, What::Send, socket.fd, 0);
    }

    pub(crate) fn connect(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let Some(connect) = socket.connect.as_mut() else { return };
        connect.armed = true;
        self.keys.insert(socket.fd, key);
        self.network.lock().connect(socket.fd);
        self.begin(key, What::Connect, socket.fd, 0);
    }

    pub(crate) fn poll(&mut self, table: &mut Table, key: SocketKey, interest: Interest) {
        let Some(socket) = table.sockets.get(key) else { return };
        socket.poll_state(interest).armed = true;
        self.begin(key, What::poll(interest), socket.fd, 0);
    }

    pub(crate) fn abandon(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        if !socket.aborted {
            self.shutdown(socket.fd, Shutdown::Both);
        }
        for what in What::ALL {
            self.cancel(key, what);
        }
    }

    pub(crate) fn accept(&mut self, table: &mut Table, key: ListenerKey) {
        let Some(accepting) = table.listeners.get(key) else { return };
        accepting.armed = true;
        self.stats.submissions += 1;
        self.network.lock().watch(accepting.fd, self.worker);
        let operation = self.operation(accepting.fd, 0);
        let before = self.accepts.insert(key, operation);
        assert!(before.is_none(), "one accept per listener");
        self.schedule_accept(key);
    }

    pub(crate) fn cancel_accept(&mut self, _table: &mut Table, key: ListenerKey) {
        let Some(operation) = self.accepts.get(&key) else { return };
        let deed = Deed::CancelAccept { key, id: operation.id };
        self.plan(deed);
    }

    pub(crate) fn shutdown(&mut self, fd: RawFd, how: Shutdown) {
        self.network.lock().shutdown(fd, how);
    }

    pub(crate) fn close(&mut self, fd: RawFd) {
        let mut world = self.network.lock();
        world.close(fd);
        let stale = world.strikes(|faults| faults.stale);
        drop(world);
        if let Some(key) = self.keys.remove(&fd)
            && stale
        {
            self.plan(Deed::Stale { key });
        }
    }

    pub(crate) fn reset_on_close(&self, fd: RawFd) {
        self.network.lock().reset_on_close(fd);
    }

    pub(crate) fn error(&self, fd: RawFd) -> Option<i32> {
        self.network.lock().is_reset(fd).then_some(libc::ECONNRESET)
    }

    pub(crate) fn peer_address(&self, fd: RawFd) -> io::Result<Address> {
        let address = self.network.lock().peer_address(fd);
        address.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    pub(crate) fn peek(&self, fd: RawFd) -> Peek {
        self.network.lock().peek(fd)
    }

    pub(crate) fn now(&self) -> Instant {
        self.network.lock().now()
    }

    pub(crate) fn pipe(&self) -> io::Result<Pipe> {
        let none = self.network.lock().strikes(|faults| faults.no_pipe);
        if none { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(Pipe::in_memory()) }
    }

    /// Moves received bytes into the pipe; 0 at the end of the stream.
    pub(crate) fn splice_in(&self, fd: RawFd, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        match self.network.lock().receive(fd, max) {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Taken::Eof) => Ok(0),
            Some(Taken::Failed(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Taken::Data(bytes)) => {
                pipe.memory().extend(&bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Moves the pipe's bytes into the socket, as many as it takes.
    pub(crate) fn splice_out(&self, pipe: &mut Pipe, fd: RawFd) -> io::Result<usize> {
        let mut world = self.network.lock();
        let room = world.room(fd, true).map_err(io::Error::from_raw_os_error)?;
        let most = room.min(pipe.memory().len());
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = world.shorten(most);
        let bytes: Vec<u8> = pipe.memory().drain(..len).collect();
        world.send(fd, &bytes);
        Ok(len)
    }

    /// Ends everything that is still with the driver and closes all sockets.
    pub(crate) fn quiesce(&mut self, table: &mut Table) {
        for key in table.sockets.keys() {
            if let Some(socket) = table.sockets.get(key) {
                socket.begin_close();
            }
            for what in What::ALL {
                self.retire_cancelled(table, key, what);
            }
            if let Some(fd) = table.sockets.reap(key) {
                self.close(fd);
            }
        }
        self.accepts.clear();
        self.agenda.clear();
    }
}

// The order of things.
impl Sim {
    fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn operation(&mut self, fd: RawFd, amount: usize) -> Operation {
        let id = self.next_number();
        Operation { id, fd, scheduled: false, cancelling: false, decided: false, amount }
    }

    fn begin(&mut self, key: SocketKey, what: What, fd: RawFd, amount: usize) {
        self.stats.submissions += 1;
        let operation = self.operation(fd, amount);
        let before = self.operations.insert((key, what), operation);
        assert!(before.is_none(), "at most one {what:?} of a socket is with the driver");
        self.schedule(key, what);
    }

    /// Puts an attempt of an operation on the agenda, unless one is there.
    fn schedule(&mut self, key: SocketKey, what: What) {
        let Some(operation) = self.operations.get_mut(&(key, what)) else { return };
        if !operation.decided && !std::mem::replace(&mut operation.scheduled, true) {
            let id = operation.id;
            self.plan(Deed::Try { key, what, id });
        }
    }

    fn schedule_accept(&mut self, key: ListenerKey) {
        let Some(operation) = self.accepts.get_mut(&key) else { return };
        if !std::mem::replace(&mut operation.scheduled, true) {
            let id = operation.id;
            self.plan(Deed::TryAccept { key, id });
        }
    }

    fn cancel(&mut self, key: SocketKey, what: What) {
        let Some(operation) = self.operations.get_mut(&(key, what)) else { return };
        if !std::mem::replace(&mut operation.cancelling, true) {
            let id = operation.id;
            self.plan(Deed::Cancel { key, what, id });
        }
    }

    fn plan(&mut self, deed: Deed) {
        let when = self.network.lock().report_time();
        let number = self.next_number();
        self.agenda.insert((when, number), deed);
    }

    /// When this worker's next turn has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let world = self.network.lock();
        let fed = Side::ALL.iter().any(|&side| {
            !self.starved[side as usize].is_empty() && self.groups[side as usize].free() > 0
        });
        if fed || world.has_changed(self.worker) {
            return Some(world.now());
        }
        self.agenda.first_key_value().map(|((when, _), _)| *when)
    }

    /// Does what is due, and reports it.
    pub(crate) fn turn(&mut self, table: &mut Table) {
        self.stats.enters += 1;
        self.publish();
        self.rearm_starved(table);
        let changed = self.network.lock().take_changed(self.worker);
        for fd in changed {
            self.changed(fd);
        }
        let later = self.agenda.split_off(&(self.now(), u64::MAX));
        let due = std::mem::replace(&mut self.agenda, later);
        for deed in due.into_values() {
            self.perform(table, deed);
        }
    }

    fn changed(&mut self, fd: RawFd) {
        if let Some(&key) = self.keys.get(&fd) {
            What::ALL.into_iter().for_each(|what| self.schedule(key, what));
        }
        let of_this =
            |(key, operation): (&ListenerKey, &Operation)| (operation.fd == fd).then_some(*key);
        let accepts: Vec<ListenerKey> = self.accepts.iter().filter_map(of_this).collect();
        accepts.into_iter().for_each(|key| self.schedule_accept(key));
    }

    /// The simulated kernel gets a quarter of the buffers in each turn.
    fn publish(&mut self) {
        for (published, group) in self.published.iter_mut().zip(&self.groups) {
            *published = (group.count() / 4).max(1).min(group.free());
        }
    }

    /// Arms again, in the order in which they starved, as many sockets as there are buffers.
    fn rearm_starved(&mut self, table: &mut Table) {
        for side in Side::ALL {
            let mut buffers = self.published[side as usize];
            while buffers > 0 {
                let Some(key) = self.starved[side as usize].pop_front() else { break };
                let Some(socket) = table.sockets.get(key) else { continue };
                socket.recv.starved = false;
                if socket.wants_recv() {
                    self.recv(table, key);
                    buffers -= 1;
                }
            }
        }
    }
}

// What the simulated kernel does.
impl Sim {
    fn perform(&mut self, table: &mut Table, deed: Deed) {
        match deed {
            Deed::Try { key, what, id } => {
                let Some(operation) = self.found(key, what, id) else { return };
                operation.scheduled = false;
                match what {
                    What::Recv => self.try_recv(table, key),
                    What::Send => self.try_send(table, key),
                    What::Connect => self.try_connect(table, key),
                    What::PollRead => self.try_poll(table, key, Interest::Read),
                    What::PollWrite => self.try_poll(table, key, Interest::Write),
                    What::PollError => self.try_poll(table, key, Interest::Error),
                }
            }
            Deed::Cancel { key, what, id } => {
                if self.found(key, what, id).is_some_and(|operation| !operation.decided) {
                    self.retire_cancelled(table, key, what);
                }
            }
            Deed::Sent { key, id, result } => {
                if self.found(key, What::Send, id).is_some() {
                    self.report_sent(table, key, result);
                }
            }
            Deed::TryAccept { key, id } => self.try_accept(table, key, id),
            Deed::CancelAccept { key, id } => {
                if self.accepts.get(&key).is_some_and(|operation| operation.id == id) {
                    self.accepts.remove(&key);
                    table.listeners.accepted(key, Err(libc::ECANCELED), false);
                }
            }
            Deed::Stale { key } => self.report_stale(table, key),
        }
        self.stats.completions += 1;
    }

    fn found(&mut self, key: SocketKey, what: What, id: u64) -> Option<&mut Operation> {
        self.operations.get_mut(&(key, what)).filter(|operation| operation.id == id)
    }

    /// After an operation's last completion: closes the socket, if its stream has left it and that
    /// was the last of it.
    fn close_if_left(&mut self, table: &mut Table, key: SocketKey) {
        if let Some(fd) = table.sockets.reap(key) {
            self.close(fd);
        }
    }

    fn mark(&self, fd: RawFd, amount: usize) {
        self.network.lock().mark(Mark::Report, fd, amount as u64);
    }

    /// Receives until there is nothing, or the receive ends.
    fn try_recv(&mut self, table: &mut Table, key: SocketKey) {
        while let Some((what, more)) = self.receive_once(table, key) {
            if !more {
                self.operations.remove(&(key, What::Recv));
            }
            let after = table.sockets.received(key, what, more);
            if !more {
                if after == AfterRecv::Rearm {
                    self.recv(table, key);
                }
                self.close_if_left(table, key);
                return;
            }
        }
    }

    /// What one step of a receive brings, and whether it stays armed; none: it goes on waiting.
    fn receive_once(&mut self, table: &mut Table, key: SocketKey) -> Option<(Received, bool)> {
        let side = table.sockets.get(key)?.side;
        let operation = self.operations.get_mut(&(key, What::Recv))?;
        let fd = operation.fd;
        let mut world = self.network.lock();
        if operation.amount == 0 {
            return Some((Received::Nothing, false));
        }
        if !world.is_ready(fd, Interest::Read) {
            return None;
        }
        let group = &self.groups[side as usize];
        let no_buffer = self.published[side as usize] == 0 || group.free() == 0;
        if no_buffer || world.strikes(|faults| faults.out_of_buffers) {
            self.stats.starved += 1;
            self.starved[side as usize].push_back(key);
            return Some((Received::NoBuffer, false));
        }
        let room = group.buffer_size().min(operation.amount);
        match world.receive(fd, room)? {
            Taken::Eof => Some((Received::Eof, false)),
            Taken::Failed(errno) => Some((Received::Failed(errno), false)),
            Taken::Data(bytes) => {
                operation.amount -= bytes.len();
                self.published[side as usize] -= 1;
                world.mark(Mark::Report, fd, bytes.len() as u64);
                // At its cap it ends with the data, as io_uring's; a fault ends it either way.
                let mut more = operation.amount > 0;
                if world.strikes(|faults| faults.ended_receive) {
                    operation.amount = 0;
                    more = world.rng().bool();
                }
                let drained = more && !world.is_ready(fd, Interest::Read);
                drop(world);
                let data = fill(group, &bytes);
                table.sockets.get(key)?.recv.drained = drained;
                Some((Received::Data(data), more))
            }
        }
    }

    fn try_send(&mut self, table: &mut Table, key: SocketKey) {
        let Some(operation) = self.operations.get_mut(&(key, What::Send)) else { return };
        let Some(socket) = table.sockets.get(key) else { return };
        let Some(op) = socket.send.op.as_ref() else { return };
        let mut world = self.network.lock();
        // An error after some bytes is left for the next send to find: this one tells the bytes.
        let (fd, taken) = (operation.fd, operation.amount);
        let result = match world.room(fd, taken == 0) {
            Ok(0) => return,
            Err(errno) if taken == 0 => {
                // Told at once: who receives after this finds an end that is none.
                drop(world);
                self.report_sent(table, key, Err(errno));
                return;
            }
            Err(_) => Ok(taken),
            Ok(room) => {
                let bytes = op.copy_rest(taken, room);
                let len = world.shorten(bytes.len());
                world.send(fd, &bytes[..len]);
                operation.amount += len;
                let all = operation.amount == op.unsent();
                if !all && !world.strikes(|faults| faults.short_send) {
                    drop(world);
                    self.schedule(key, What::Send);
                    return;
                }
                Ok(operation.amount)
            }
        };
        operation.decided = true;
        let id = operation.id;
        drop(world);
        self.plan(Deed::Sent { key, id, result });
    }

    fn report_sent(&mut self, table: &mut Table, key: SocketKey, result: Result<usize, i32>) {
        let Some(operation) = self.operations.remove(&(key, What::Send)) else { return };
        self.mark(operation.fd, *result.as_ref().unwrap_or(&0));
        if table.sockets.sent(key, result) == AfterSend::Continue {
            self.send(table, key);
        }
        self.close_if_left(table, key);
    }

    fn try_connect(&mut self, table: &mut Table, key: SocketKey) {
        let Some(operation) = self.operations.get(&(key, What::Connect)) else { return };
        let connected = self.network.lock().connected(operation.fd);
        if let Some(result) = connected {
            self.mark(operation.fd, result.is_ok().into());
            self.operations.remove(&(key, What::Connect));
            table.sockets.connected(key, result);
            self.close_if_left(table, key);
        }
    }

    fn try_poll(&mut self, table: &mut Table, key: SocketKey, interest: Interest) {
        let what = What::poll(interest);
        let Some(operation) = self.operations.get(&(key, what)) else { return };
        let mut world = self.network.lock();
        let ready = world.is_ready(operation.fd, interest);
        if ready || world.strikes(|faults| faults.false_ready) {
            drop(world);
            self.mark(operation.fd, 0);
            self.operations.remove(&(key, what));
            table.sockets.ready(key, interest);
            self.close_if_left(table, key);
        }
    }

    /// Ends an operation by a cancel.
    fn retire_cancelled(&mut self, table: &mut Table, key: SocketKey, what: What) {
        let Some(operation) = self.operations.remove(&(key, what)) else { return };
        self.mark(operation.fd, 0);
        match what {
            What::Recv => {
                // Whoever asked for the cancel may have left since, and receiving goes on.
                let after = table.sockets.received(key, Received::Nothing, false);
                if after == AfterRecv::Rearm {
                    self.recv(table, key);
                }
            }
            What::Send => {
                let taken = operation.amount;
                let result = if taken > 0 { Ok(taken) } else { Err(libc::ECANCELED) };
                table.sockets.sent(key, result);
            }
            What::Connect => table.sockets.connected(key, Err(libc::ECANCELED)),
            What::PollRead => table.sockets.ready(key, Interest::Read),
            What::PollWrite => table.sockets.ready(key, Interest::Write),
            What::PollError => table.sockets.ready(key, Interest::Error),
        }
        self.close_if_left(table, key);
    }

    fn try_accept(&mut self, table: &mut Table, key: ListenerKey, id: u64) {
        let Some(operation) = self.accepts.get_mut(&key) else { return };
        if operation.id != id {
            return;
        }
        operation.scheduled = false;
        let fd = operation.fd;
        loop {
            if self.network.lock().strikes(|faults| faults.out_of_descriptors) {
                self.accepts.remove(&key);
                table.listeners.accepted(key, Err(libc::EMFILE), false);
                return;
            }
            let Some(socket) = self.network.accept(fd) else { return };
            self.mark(socket.fd(), 0);
            let ended = self.network.lock().strikes(|faults| faults.ended_accept);
            if ended {
                self.accepts.remove(&key);
            }
            let accepted = Accepted(Descriptor::Simulated(socket));
            table.listeners.accepted(key, Ok(accepted), !ended);
            if ended {
                return;
            }
        }
    }

    /// Tells the table of a socket that is gone. Its slot may have been given away: the key's
    /// generation has to keep this from its new owner.
    fn report_stale(&mut self, table: &mut Table, key: SocketKey) {
        assert!(table.sockets.get(key).is_none(), "a key is never used again");
        let group = &self.groups[Side::Downstream as usize];
        if group.free() > 0 {
            let stray = fill(group, b"stale");
            assert_eq!(table.sockets.received(key, Received::Data(stray), true), AfterRecv::Done);
        }
        assert_eq!(table.sockets.received(key, Received::Eof, false), AfterRecv::Done);
        assert_eq!(table.sockets.sent(key, Ok(1)), AfterSend::Done);
        table.sockets.connected(key, Err(libc::ECONNREFUSED));
        table.sockets.ready(key, Interest::Read);
        assert_eq!(table.sockets.reap(key), None);
    }
}

fn fill(group: &Rc<Group>, bytes: &[u8]) -> crate::Buf {
    let id = group.take().expect("looked before");
    group.fill_from(id, bytes)
}

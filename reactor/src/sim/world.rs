//! The simulated network: sockets, what is on its way between them, and the clock.
//!
//! Plain data, moved by [`World::deliver`] only: what a worker does to a socket becomes an event that
//! arrives later, and what arrives makes a socket *changed* for the worker that serves it. Everything
//! is ordered by time and then by the order of its making, so a run is decided by the seed alone.
//!
//! It behaves as Linux' TCP where that can be told from above: an orderly end is a segment behind the
//! data; closing with unread data resets; data for a closed socket is answered with a reset; the
//! error of a reset is told once, to whoever asks first, and after that receiving looks like an end.
//! It is harder than Linux in one thing: a reset takes what has arrived and was not read (unless the
//! orderly end has arrived too), and it overtakes what is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Shutdown;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use fastrand::Rng;

use crate::address::Address;
use crate::sim::faults::{Chance, Faults};
use crate::socket::Interest;
use crate::sys::Peek;
use crate::time::Instant;

/// Where the clock begins: late enough that nobody gets away with subtracting from it.
const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// Simulated sockets are numbered from here, so that none is taken for a real descriptor.
const FIRST_SOCKET: RawFd = 1 << 24;
/// Ports given to who asks for none.
const FIRST_PORT: u16 = 32_768;
/// Connections that wait to be accepted from one listener.
const BACKLOG: usize = 4096;
/// A connection that found the backlog full is tried again after this, as TCP does …
const SYN_AGAIN: Duration = Duration::from_secs(1);
/// … and given up after this.
const SYN_PATIENCE: Duration = Duration::from_secs(127);

/// The network and everything in it.
pub(crate) struct World {
    now: Instant,
    rng: Rng,
    faults: Faults,
    trace: u64,
    /// Of the event made last.
    sequence: u64,
    events: BTreeMap<(Instant, u64), Event>,
    ends: BTreeMap<RawFd, End>,
    listeners: BTreeMap<RawFd, Listening>,
    /// By worker: sockets of which there is news.
    changed: Vec<BTreeSet<RawFd>>,
    next_socket: RawFd,
    next_port: u16,
}

/// One end of a connection.
struct End {
    /// The worker to tell of changes; none before it is adopted.
    worker: Option<usize>,
    local: Address,
    remote: Address,
    /// None until connected.
    peer: Option<RawFd>,
    /// What became of the connect.
    connected: Option<Result<(), i32>>,
    /// Arrived and not read.
    inbox: VecDeque<u8>,
    /// The peer's orderly end has arrived.
    ended: bool,
    /// The connection was reset; `error` until somebody was told.
    dead: bool,
    error: Option<i32>,
    read_shut: bool,
    write_shut: bool,
    /// Sent, and not known to be read by the peer; at most `capacity`.
    outstanding: usize,
    capacity: usize,
    /// When what was sent last arrives: the next thing does not arrive earlier.
    last_arrival: Instant,
    reset_on_close: bool,
}

struct Listening {
    address: Address,
    queue: VecDeque<RawFd>,
    workers: BTreeSet<usize>,
}

/// Something on its way.
#[derive(Debug)]
enum Event {
    Syn {
        client: RawFd,
        give_up: Instant,
    },
    Connected {
        client: RawFd,
        server: RawFd,
    },
    NotConnected {
        client: RawFd,
        errno: i32,
    },
    Data {
        from: RawFd,
        to: RawFd,
        bytes: Vec<u8>,
    },
    End {
        to: RawFd,
    },
    Reset {
        to: RawFd,
    },
    /// The peer has read.
    Window {
        to: RawFd,
        bytes: usize,
    },
}

/// What receiving brings.
#[derive(Debug)]
pub(crate) enum Taken {
    Data(Vec<u8>),
    Eof,
    Failed(i32),
}

/// What the trace is made of, besides time, sockets and lengths.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Step,
    Syn,
    Connected,
    NotConnected,
    Data,
    End,
    Reset,
    Window,
    Report,
}

// Setting up, and the clock.
impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> World {
        World {
            now: START,
            rng: Rng::with_seed(seed),
            faults,
            trace: 0xcbf2_9ce4_8422_2325,
            sequence: 0,
            events: BTreeMap::new(),
            ends: BTreeMap::new(),
            listeners: BTreeMap::new(),
            changed: Vec::new(),
            next_socket: FIRST_SOCKET,
            next_port: FIRST_PORT,
        }
    }

    /// Makes room for one more worker and returns its number.
    pub(crate) fn add_worker(&mut self) -> usize {
        self.changed.push(BTreeSet::new());
        self.changed.len() - 1
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Moves the clock forward; what was due until then arrives with [`World::deliver`].
    pub(crate) fn advance_to(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time does not run back");
        self.now = now;
    }

    /// When the next thing arrives.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((when, _), _)| *when)
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    /// Takes something that happened into the trace.
    pub(crate) fn mark(&mut self, mark: Mark, socket: RawFd, amount: u64) {
        for word in [mark as u64, self.now.as_nanos(), socket as u64, amount] {
            self.mix(word);
        }
    }

    fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Draws one of the faults.
    pub(crate) fn strikes(&mut self, which: impl FnOnce(&Faults) -> Chance) -> bool {
        which(&self.faults).strikes(&mut self.rng)
    }

    /// When something is reported that happens now.
    pub(crate) fn report_time(&mut self) -> Instant {
        let late = self.strikes(|faults| faults.late);
        let by = if late { self.up_to(self.faults.late_by) } else { Duration::ZERO };
        self.now + by
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.rng.u64(0..=longest.as_nanos() as u64))
    }

    fn travel_time(&mut self) -> Duration {
        let mut time = self.faults.latency + self.up_to(self.faults.jitter);
        if self.strikes(|faults| faults.slow) {
            time += self.up_to(self.faults.slow_by);
        }
        time
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((when, self.sequence), event);
    }

    /// Sends an event on its way; it may overtake others.
    fn soon(&mut self, event: Event) {
        let when = self.now + self.travel_time();
        self.at(when, event);
    }

    /// Sends an event on its way behind all that `from` has sent.
    fn in_order(&mut self, from: RawFd, event: Event) {
        let mut when = self.now + self.travel_time();
        if let Some(end) = self.ends.get_mut(&from) {
            when = when.max(end.last_arrival);
            end.last_arrival = when;
        }
        self.at(when, event);
    }

    fn tell(&mut self, socket: RawFd) {
        if let Some(worker) = self.ends.get(&socket).and_then(|end| end.worker) {
            self.changed[worker].insert(socket);
        }
    }

    /// Whether there is news for a worker.
    pub(crate) fn has_changed(&self, worker: usize) -> bool {
        !self.changed[worker].is_empty()
    }

    /// The sockets of which a worker is to be told something.
    pub(crate) fn take_changed(&mut self, worker: usize) -> BTreeSet<RawFd> {
        std::mem::take(&mut self.changed[worker])
    }
}

// Listening and connecting.
impl World {
    /// Binds and listens. The address comes back with a port where 0 was asked for.
    pub(crate) fn bind(&mut self, address: &Address) -> Result<(RawFd, Address), i32> {
        let mut address = address.clone();
        if let Address::Ip(ip) = &mut address
            && ip.port() == 0
        {
            ip.set_port(self.free_port());
        }
        if self.listeners.values().any(|listening| listening.address == address) {
            return Err(libc::EADDRINUSE);
        }
        let socket = self.number();
        let listening = Listening {
            address: address.clone(),
            queue: VecDeque::new(),
            workers: BTreeSet::new(),
        };
        self.listeners.insert(socket, listening);
        Ok((socket, address))
    }

    fn number(&mut self) -> RawFd {
        self.next_socket += 1;
        self.next_socket
    }

    fn free_port(&mut self) -> u16 {
        let taken = |world: &World, port| {
            let port_of = |listening: &Listening| listening.address.ip().map(|ip| ip.port());
            world.listeners.values().any(|listening| port_of(listening) == Some(port))
        };
        loop {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !taken(self, self.next_port) {
                return self.next_port;
            }
        }
    }

    /// Who listens on `target`: on that address, or else on all addresses at that port.
    fn listener_at(&self, target: &Address) -> Option<RawFd> {
        let exact = |listening: &Listening| listening.address == *target;
        let wild = |listening: &Listening| match (&listening.address, target) {
            (Address::Ip(bound), Address::Ip(target)) => {
                bound.ip().is_unspecified() && bound.port() == target.port()
            }
            _ => false,
        };
        let find = |matches: &dyn Fn(&Listening) -> bool| {
            self.listeners.iter().find(|(_, listening)| matches(listening)).map(|(fd, _)| *fd)
        };
        find(&exact).or_else(|| find(&wild))
    }

    /// A socket of `worker` that is to connect to `target`.
    pub(crate) fn open(&mut self, worker: usize, target: &Address) -> RawFd {
        let local = self.source_for(worker, target);
        let mut end = self.new_end(local, target.clone());
        end.worker = Some(worker);
        let socket = self.number();
        self.ends.insert(socket, end);
        socket
    }

    /// Each worker is a host of its own, except to itself.
    fn source_for(&mut self, worker: usize, target: &Address) -> Address {
        let Address::Ip(target) = target else { return Address::Unix("".into()) };
        let host = worker as u16 + 1;
        let ip = match target.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::from(0x0a00_0000 | u32::from(host)).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into(),
        };
        Address::Ip(SocketAddr::new(ip, self.free_port()))
    }

    fn new_end(&mut self, local: Address, remote: Address) -> End {
        End {
            worker: None,
            local,
            remote,
            peer: None,
            connected: None,
            inbox: VecDeque::new(),
            ended: false,
            dead: false,
            error: None,
            read_shut: false,
            write_shut: false,
            outstanding: 0,
            capacity: self.rng.usize(self.faults.socket_bytes.clone()),
            last_arrival: self.now,
            reset_on_close: false,
        }
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, client: RawFd) {
        let give_up = self.now + SYN_PATIENCE;
        if self.strikes(|faults| faults.unanswered) {
            self.at(give_up, Event::NotConnected { client, errno: libc::ETIMEDOUT });
        } else if self.strikes(|faults| faults.refuse) {
            self.soon(Event::NotConnected { client, errno: libc::ECONNREFUSED });
        } else {
            self.soon(Event::Syn { client, give_up });
        }
    }

    /// What became of the connect; none while it is on its way.
    pub(crate) fn connected(&self, client: RawFd) -> Option<Result<(), i32>> {
        self.ends.get(&client).map_or(Some(Err(libc::EBADF)), |end| end.connected)
    }

    fn syn(&mut self, client: RawFd, give_up: Instant) {
        let Some(end) = self.ends.get(&client) else { return };
        let (local, remote) = (end.local.clone(), end.remote.clone());
        let Some(listener) = self.listener_at(&remote) else {
            let errno = match remote {
                Address::Unix(_) => libc::ENOENT,
                Address::Ip(_) | Address::Abstract(_) => libc::ECONNREFUSED,
            };
            self.soon(Event::NotConnected { client, errno });
            return;
        };
        if self.listeners[&listener].queue.len() >= BACKLOG {
            let event = match self.now + SYN_AGAIN < give_up {
                true => Event::Syn { client, give_up },
                false => Event::NotConnected { client, errno: libc::ETIMEDOUT },
            };
            self.at(self.now + SYN_AGAIN, event);
            return;
        }
        let mut end = self.new_end(remote, local);
        end.peer = Some(client);
        end.connected = Some(Ok(()));
        let server = self.number();
        self.ends.insert(server, end);
        // What the server sends comes behind this.
        self.in_order(server, Event::Connected { client, server });
        let listening = self.listeners.get_mut(&listener).expect("found above");
        listening.queue.push_back(server);
        for worker in listening.workers.clone() {
            self.changed[worker].insert(listener);
        }
    }

    /// From now on `worker` is told of connections at this listener.
    pub(crate) fn watch(&mut self, listener: RawFd, worker: usize) {
        if let Some(listening) = self.listeners.get_mut(&listener) {
            listening.workers.insert(worker);
        }
    }

    /// Takes a connection from a listener's backlog.
    pub(crate) fn accept(&mut self, listener: RawFd) -> Option<RawFd> {
        self.listeners.get_mut(&listener)?.queue.pop_front()
    }

    /// From now on `worker` is told of this socket's changes. `false`: there is no such socket here.
    pub(crate) fn adopt(&mut self, socket: RawFd, worker: usize) -> bool {
        let Some(end) = self.ends.get_mut(&socket) else { return false };
        end.worker = Some(worker);
        true
    }

    pub(crate) fn peer_address(&self, socket: RawFd) -> Option<Address> {
        self.ends.get(&socket).map(|end| end.remote.clone())
    }
}

// Moving bytes, and ending.
impl World {
    /// Up to `max` bytes, or how receiving ended; none if it is to be waited for.
    pub(crate) fn receive(&mut self, socket: RawFd, max: usize) -> Option<Taken> {
        let short = self.strikes(|faults| faults.short_read);
        let Some(end) = self.ends.get_mut(&socket) else {
            return Some(Taken::Failed(libc::EBADF));
        };
        if end.inbox.is_empty() {
            return end.receive_end();
        }
        let most = end.inbox.len().min(max);
        let len = if short { self.rng.usize(1..=most) } else { most };
        let bytes = take_front(&mut end.inbox, len);
        if let Some(to) = end.peer {
            self.soon(Event::Window { to, bytes: len });
        }
        Some(Taken::Data(bytes))
    }

    /// How much the socket takes now, or the error that sending has. With `take` the error of a
    /// reset is told now, and not again.
    pub(crate) fn room(&mut self, socket: RawFd, take: bool) -> Result<usize, i32> {
        let Some(end) = self.ends.get_mut(&socket) else { return Err(libc::EBADF) };
        if end.dead || end.write_shut {
            let error = if take { end.error.take() } else { end.error };
            return Err(error.unwrap_or(libc::EPIPE));
        }
        Ok(end.capacity - end.outstanding)
    }

    /// Draws how much of `len` bytes a socket takes that has room for them.
    pub(crate) fn shorten(&mut self, len: usize) -> usize {
        let short = self.strikes(|faults| faults.short_write);
        if short { self.rng.usize(1..=len) } else { len }
    }

    /// Sends what there is room for.
    pub(crate) fn send(&mut self, socket: RawFd, mut bytes: &[u8]) {
        let end = self.ends.get_mut(&socket).expect("asked for its room");
        end.outstanding += bytes.len();
        assert!(end.outstanding <= end.capacity, "no more is sent than there is room for");
        let Some(to) = end.peer else { return };
        while !bytes.is_empty() {
            let most = self.rng.usize(self.faults.segment_bytes.clone()).max(1);
            let (segment, rest) = bytes.split_at(most.min(bytes.len()));
            self.in_order(socket, Event::Data { from: socket, to, bytes: segment.to_vec() });
            bytes = rest;
        }
    }

    /// Whether an attempt in this direction would not have to wait.
    pub(crate) fn is_ready(&self, socket: RawFd, interest: Interest) -> bool {
        let Some(end) = self.ends.get(&socket) else { return true };
        match interest {
            Interest::Read => !end.inbox.is_empty() || end.ended || end.dead || end.read_shut,
            Interest::Write => end.dead || end.write_shut || end.outstanding < end.capacity,
            Interest::Error => end.dead,
        }
    }

    /// Whether the peer has reset the connection.
    pub(crate) fn is_reset(&self, socket: RawFd) -> bool {
        self.ends.get(&socket).is_none_or(|end| end.dead)
    }

    /// Looks whether there is anything to receive.
    pub(crate) fn peek(&mut self, socket: RawFd) -> Peek {
        let Some(end) = self.ends.get_mut(&socket) else { return Peek::Something };
        if !end.inbox.is_empty() {
            return Peek::Something;
        }
        match end.receive_end() {
            None => Peek::Empty,
            Some(Taken::Failed(errno)) => Peek::Failed(errno),
            Some(_) => Peek::Something,
        }
    }

    /// Ends the sending direction, or both.
    pub(crate) fn shutdown(&mut self, socket: RawFd, how: Shutdown) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        end.read_shut |= how != Shutdown::Write;
        let first = !std::mem::replace(&mut end.write_shut, true) && !end.dead;
        let peer = end.peer;
        if first && let Some(to) = peer {
            self.in_order(socket, Event::End { to });
        }
        self.tell(socket);
    }

    pub(crate) fn reset_on_close(&mut self, socket: RawFd) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.reset_on_close = true;
        }
    }

    /// Closes a connection's end, or a listener with all that waits in its backlog.
    pub(crate) fn close(&mut self, socket: RawFd) {
        if let Some(listening) = self.listeners.remove(&socket) {
            for waiting in listening.queue {
                self.reset_on_close(waiting);
                self.close(waiting);
            }
            return;
        }
        let Some(end) = self.ends.get(&socket) else { return };
        if let (Some(to), false) = (end.peer, end.dead) {
            if end.reset_on_close || !end.inbox.is_empty() {
                self.soon(Event::Reset { to });
            } else if !end.write_shut {
                self.in_order(socket, Event::End { to });
            }
        }
        self.ends.remove(&socket);
    }

    /// Lets everything arrive that is due.
    pub(crate) fn deliver(&mut self) {
        while let Some(first) = self.events.first_entry() {
            if first.key().0 > self.now {
                return;
            }
            let event = first.remove();
            self.arrive(event);
        }
    }

    fn arrive(&mut self, event: Event) {
        match event {
            Event::Syn { client, give_up } => {
                self.mark(Mark::Syn, client, 0);
                self.syn(client, give_up);
            }
            Event::Connected { client, server } => {
                self.mark(Mark::Connected, client, 0);
                self.client_connected(client, server);
            }
            Event::NotConnected { client, errno } => {
                self.mark(Mark::NotConnected, client, errno as u64);
                self.connect_failed(client, errno);
            }
            Event::Data { from, to, bytes } => {
                self.mark(Mark::Data, to, bytes.len() as u64);
                self.data(from, to, &bytes);
            }
            Event::End { to } => {
                self.mark(Mark::End, to, 0);
                if let Some(end) = self.ends.get_mut(&to) {
                    end.ended = !end.dead;
                }
                self.tell(to);
            }
            Event::Reset { to } => {
                self.mark(Mark::Reset, to, 0);
                self.reset(to);
            }
            Event::Window { to, bytes } => {
                self.mark(Mark::Window, to, bytes as u64);
                if let Some(end) = self.ends.get_mut(&to) {
                    end.outstanding -= bytes;
                }
                self.tell(to);
            }
        }
    }

    fn client_connected(&mut self, client: RawFd, server: RawFd) {
        let Some(end) = self.ends.get_mut(&client) else {
            // Given up in the meantime.
            self.soon(Event::Reset { to: server });
            return;
        };
        if end.connected.is_some() {
            return;
        }
        end.connected = Some(Ok(()));
        end.peer = Some(server);
        if end.write_shut {
            self.in_order(client, Event::End { to: server });
        }
        self.tell(client);
    }

    fn connect_failed(&mut self, client: RawFd, errno: i32) {
        if let Some(end) = self.ends.get_mut(&client) {
            end.connected.get_or_insert(Err(errno));
            end.dead = true;
        }
        self.tell(client);
    }

    fn data(&mut self, from: RawFd, to: RawFd, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        if self.strikes(|faults| faults.reset) {
            self.reset(from);
            self.reset(to);
            return;
        }
        match self.ends.get_mut(&to) {
            Some(end) if !end.dead => end.inbox.extend(bytes),
            Some(_) => {}
            // Closed: nobody will read this.
            None => self.soon(Event::Reset { to: from }),
        }
        self.tell(to);
    }

    fn reset(&mut self, socket: RawFd) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        if std::mem::replace(&mut end.dead, true) {
            return;
        }
        end.connected.get_or_insert(Err(libc::ECONNREFUSED));
        if end.ended {
            // All there was has arrived; only sending fails.
            end.error = Some(libc::EPIPE);
        } else {
            end.inbox.clear();
            end.error = Some(libc::ECONNRESET);
        }
        self.tell(socket);
    }
}

impl End {
    /// How receiving ended, if it did and all that arrived is read.
    fn receive_end(&mut self) -> Option<Taken> {
        if self.ended {
            return Some(Taken::Eof);
        }
        if self.dead {
            return Some(self.error.take().map_or(Taken::Eof, Taken::Failed));
        }
        self.read_shut.then_some(Taken::Eof)
    }
}

fn take_front(queue: &mut VecDeque<u8>, len: usize) -> Vec<u8> {
    let (front, back) = queue.as_slices();
    let mut taken = Vec::with_capacity(len);
    taken.extend_from_slice(&front[..len.min(front.len())]);
    let rest = len - taken.len();
    taken.extend_from_slice(&back[..rest]);
    queue.drain(..len);
    taken
}

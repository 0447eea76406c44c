//! The sockets of one worker: what is with the kernel, what has arrived, who waits.
//!
//! Drivers translate between the kernel (or the simulator) and the transitions here; streams read the
//! outcome. Nothing in this file makes a system call.
//!
//! Three rules hold for every socket:
//! - at most one receive, one send, one connect and one poll of each kind are with the driver;
//! - memory named by a send lives in its [`SendOp`] until the driver reports the last completion;
//! - a closed stream's slot, and its descriptor, live until nothing of it is with the driver.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::task::Waker;

use slotmap::{SlotMap, new_key_type};
use smallvec::SmallVec;

use crate::buffer::Buf;

new_key_type! {
    /// Names a socket of a worker; stale once the socket is gone.
    pub(crate) struct SocketKey;
}

/// Which buffers a socket receives into. Requests cannot starve responses: they do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Whoever connected to us.
    Downstream,
    /// Whom we connected to.
    Upstream,
}

impl Side {
    pub(crate) const ALL: [Side; 2] = [Side::Downstream, Side::Upstream];
}

/// Why nothing more can be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {
    /// The peer reset the connection.
    Reset,
    /// The kernel gave the peer up (keep-alive, retransmissions).
    TimedOut,
    /// The stream was shut down on our side.
    Cancelled,
    /// Another error of the kernel, by its number.
    Other(i32),
}

/// Why a send ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendError {
    /// Bytes of this send that the kernel had taken.
    pub sent: usize,
    /// What ended it.
    pub why: RecvError,
}

impl RecvError {
    pub(crate) fn from_errno(errno: i32) -> RecvError {
        match errno {
            libc::ECONNRESET | libc::EPIPE => RecvError::Reset,
            libc::ETIMEDOUT => RecvError::TimedOut,
            libc::ECANCELED => RecvError::Cancelled,
            other => RecvError::Other(other),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Reset => f.write_str("the peer reset the connection"),
            RecvError::TimedOut => f.write_str("the connection timed out"),
            RecvError::Cancelled => f.write_str("the connection was shut down on this side"),
            RecvError::Other(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.why, self.sent)
    }
}

impl std::error::Error for RecvError {}
impl std::error::Error for SendError {}

/// A part of what is sent.
#[derive(Debug)]
pub enum Piece {
    /// Received bytes going on, without a copy.
    Buf(Buf),
    /// Written bytes; the vector is used again by [`crate::Reactor::take_vec`].
    Vec(Vec<u8>),
    /// Bytes that never change.
    Static(&'static [u8]),
}

#[allow(clippy::len_without_is_empty)] // an empty piece is not sent, so nobody asks
impl Piece {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Buf(buf) => buf,
            Piece::Vec(vec) => vec,
            Piece::Static(bytes) => bytes,
        }
    }
}

impl From<Buf> for Piece {
    fn from(buf: Buf) -> Piece {
        Piece::Buf(buf)
    }
}

impl From<Vec<u8>> for Piece {
    fn from(vec: Vec<u8>) -> Piece {
        Piece::Vec(vec)
    }
}

impl From<&'static [u8]> for Piece {
    fn from(bytes: &'static [u8]) -> Piece {
        Piece::Static(bytes)
    }
}

/// Memory segments named by one submission. More pieces go out in further submissions.
const SEGMENTS: usize = 8;
/// Sends up to this size are expected to be taken whole.
const SHORT: usize = 16 * 1024;

/// A send: its memory, and how far it got. Boxed, so that the kernel may hold addresses into it.
pub(crate) struct SendOp {
    pieces: SmallVec<[Piece; 4]>,
    /// The first piece that is not sent whole, and how much of it is sent.
    at: usize,
    offset: usize,
    sent: usize,
    segments: [libc::iovec; SEGMENTS],
    message: libc::msghdr,
}

/// What the driver is to send next.
pub(crate) enum Segments<'a> {
    One(&'a [u8]),
    Many(&'a libc::msghdr),
}

impl SendOp {
    fn new() -> SendOp {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a msghdr is plain data for which zero is the empty message.
        let message = unsafe { std::mem::zeroed() };
        SendOp {
            pieces: SmallVec::new(),
            at: 0,
            offset: 0,
            sent: 0,
            segments: [none; SEGMENTS],
            message,
        }
    }

    fn begin(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        self.pieces.extend(pieces.into_iter().filter(|piece| !piece.bytes().is_empty()));
        (self.at, self.offset, self.sent) = (0, 0, 0);
    }

    fn is_done(&self) -> bool {
        self.at == self.pieces.len()
    }

    /// The unsent rest, as memory that stays where it is until [`SendOp::advance`].
    pub(crate) fn rest(&mut self) -> Segments<'_> {
        if self.at + 1 == self.pieces.len() {
            return Segments::One(&self.pieces[self.at].bytes()[self.offset..]);
        }
        let mut skip = self.offset;
        let mut count = 0;
        for (segment, piece) in self.segments.iter_mut().zip(&self.pieces[self.at..]) {
            let bytes = &piece.bytes()[skip..];
            skip = 0;
            *segment = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
            count += 1;
        }
        self.message.msg_iov = self.segments.as_mut_ptr();
        self.message.msg_iovlen = count;
        Segments::Many(&self.message)
    }

    /// Whether a socket that has room at all most likely takes it in one go.
    pub(crate) fn is_short(&self) -> bool {
        self.pieces.len() <= SEGMENTS && self.unsent() <= SHORT
    }

    /// How many bytes [`SendOp::rest`] has, were it not for the bound on segments.
    pub(crate) fn unsent(&self) -> usize {
        let pieces = &self.pieces[self.at..];
        pieces.iter().map(|piece| piece.bytes().len()).sum::<usize>() - self.offset
    }

    /// A copy of up to `max` unsent bytes, from the one after the first `skip` on.
    pub(crate) fn copy_rest(&self, skip: usize, max: usize) -> Vec<u8> {
        let (mut skip, mut copy) = (self.offset + skip, Vec::new());
        for piece in &self.pieces[self.at..] {
            let bytes = piece.bytes();
            let from = skip.min(bytes.len());
            skip -= from;
            let len = (bytes.len() - from).min(max - copy.len());
            copy.extend_from_slice(&bytes[from..from + len]);
        }
        copy
    }

    fn advance(&mut self, mut taken: usize) {
        self.sent += taken;
        while taken > 0 {
            let left = self.pieces[self.at].bytes().len() - self.offset;
            if taken < left {
                self.offset += taken;
                return;
            }
            taken -= left;
            (self.at, self.offset) = (self.at + 1, 0);
        }
    }
}

/// What is received of bulk before it is relayed: a head, and some.
const BULK_HIGH_WATER: u32 = 8 * 1024;

/// The receiving half of a socket.
#[derive(Default)]
pub(crate) struct Receiving {
    arrived: SmallVec<[Buf; 2]>,
    arrived_bytes: u32,
    /// More than this is not asked for before some of it is taken.
    pub(crate) high_water: u32,
    /// Bulk is expected, which is to stay in the kernel.
    pub(crate) bulk: bool,
    /// A receive is with the driver.
    pub(crate) armed: bool,
    /// The last receive found no more with the kernel, and is still there to tell of what comes.
    pub(crate) drained: bool,
    /// A cancel of that receive is on its way.
    pub(crate) cancelling: bool,
    /// In the line of sockets that wait for buffers.
    pub(crate) starved: bool,
    /// A relay takes what comes, past the receives: none begins.
    pub(crate) stopped: bool,
    /// The kernel has told of the end, or of an error, that follows what is still to be received
    /// (epoll: such an edge comes once).
    pub(crate) end_is_near: bool,
    /// A reset was told elsewhere than in a receive, and what receiving tells next as an end of the
    /// stream is that reset.
    was_reset: bool,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Eof,
    Failed(RecvError),
}

/// The sending half of a socket.
#[derive(Default)]
pub(crate) struct Sending {
    pub(crate) op: Option<Box<SendOp>>,
    outcome: Option<Result<usize, SendError>>,
    waker: Option<Waker>,
    /// Was in flight when the stream was cut: nobody waits for it any more.
    pub(crate) given_up: bool,
}

/// Waiting for readiness of one kind, as splicing does.
#[derive(Default)]
pub(crate) struct Polling {
    /// A poll is with the driver.
    pub(crate) armed: bool,
    pub(crate) ready: bool,
    pub(crate) waker: Option<Waker>,
}

/// A connect on its way.
pub(crate) struct Connecting {
    /// The driver reads this until it is done.
    pub(crate) address: Box<socket2::SockAddr>,
    /// With the driver.
    pub(crate) armed: bool,
    pub(crate) outcome: Option<Result<(), i32>>,
    pub(crate) waker: Option<Waker>,
}

/// One socket.
pub(crate) struct Socket {
    pub(crate) fd: RawFd,
    pub(crate) side: Side,
    pub(crate) recv: Receiving,
    pub(crate) send: Sending,
    pub(crate) connect: Option<Box<Connecting>>,
    /// Readiness, by [`Interest`]; allocated when it is first asked for.
    pub(crate) poll: Option<Box<[Polling; Interest::ALL.len()]>>,
    /// Errors are not looked for before something is received: the kernel says that there is one, and
    /// it is none.
    pub(crate) unwatched: bool,
    /// Whatever waits on the stream ends, see [`crate::Stream::cut`].
    pub(crate) cut: bool,
    /// The stream was dropped.
    pub(crate) closing: bool,
    /// The stream is to end with a reset, so no orderly shutdown goes before it.
    pub(crate) aborted: bool,
}

/// What to poll for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read = 0,
    Write = 1,
    /// A reset, while nothing can be received that would tell of it. May be told of wrongly.
    Error = 2,
}

impl Interest {
    pub(crate) const ALL: [Interest; 3] = [Interest::Read, Interest::Write, Interest::Error];
}

impl Receiving {
    pub(crate) fn arrived_bytes(&self) -> u32 {
        self.arrived_bytes
    }

    fn high_water(&self) -> u32 {
        if self.bulk { self.high_water.min(BULK_HIGH_WATER) } else { self.high_water }
    }
}

impl Socket {
    /// Whether the driver still has an operation of this socket.
    fn is_with_driver(&self) -> bool {
        self.recv.armed
            || self.send.op.is_some()
            || self.connect.as_ref().is_some_and(|connect| connect.armed)
            || self.poll.as_ref().is_some_and(|polls| polls.iter().any(|poll| poll.armed))
    }

    /// How much may be asked for; 0 while enough has arrived.
    pub(crate) fn recv_allowance(&self) -> u32 {
        self.recv.high_water().saturating_sub(self.recv.arrived_bytes)
    }

    /// Whether a receive should be handed to the driver now.
    pub(crate) fn wants_recv(&self) -> bool {
        let recv = &self.recv;
        !recv.armed
            && !recv.starved
            && !recv.stopped
            && !self.closing
            && recv.end.is_none()
            // Not at each buffer that is taken: what piles up in the meantime comes in one go.
            && recv.arrived_bytes <= recv.high_water() / 8
    }

    /// Ends everything that waits on the stream, as if the peer had reset it.
    pub(crate) fn cut(&mut self) {
        self.cut = true;
        self.send.given_up = self.send.op.is_some();
        self.recv.end.get_or_insert(End::Failed(RecvError::Reset));
        let polls = self.poll.iter_mut().flat_map(|polls| polls.iter_mut());
        let wakers = polls.filter_map(|poll| poll.waker.take());
        wakers.chain(self.recv.waker.take()).chain(self.send.waker.take()).for_each(Waker::wake);
    }

    /// Receives may begin again; who waits for one asks for it now.
    pub(crate) fn resume_recv(&mut self) {
        self.recv.stopped = false;
        if let Some(waker) = self.recv.waker.take() {
            waker.wake();
        }
    }

    /// Whether nothing has arrived and nothing ended: fit to carry a next exchange.
    pub(crate) fn is_quiet(&self) -> bool {
        self.recv.arrived.is_empty() && self.recv.end.is_none()
    }

    /// An attempt other than a receive failed. The kernel tells of a reset once, to whatever asks
    /// first; a receive after that finds an end like an orderly one, which it is not. (Where the
    /// orderly end had come before the reset, the error is `EPIPE`, and an end is an end.)
    pub(crate) fn failed(&mut self, errno: i32) {
        self.recv.was_reset |= errno == libc::ECONNRESET;
    }

    /// Whether an end that is found now is that of a reset; see [`Socket::failed`].
    pub(crate) fn was_reset(&self) -> bool {
        self.recv.was_reset
    }

    /// The length of what is taken next.
    pub(crate) fn first_arrived(&self) -> Option<usize> {
        self.recv.arrived.first().map(|buf| buf.len())
    }

    /// The stream is gone: what arrived is dropped, and so is what still will.
    pub(crate) fn begin_close(&mut self) {
        self.closing = true;
        self.recv.arrived.clear();
        self.recv.arrived_bytes = 0;
    }

    pub(crate) fn take_arrived(&mut self) -> Option<Buf> {
        if self.recv.arrived.is_empty() {
            return None;
        }
        let buf = self.recv.arrived.remove(0);
        self.recv.arrived_bytes -= buf.len() as u32;
        Some(buf)
    }

    /// Puts back what was taken and not used, to be taken first.
    pub(crate) fn untake(&mut self, buf: Buf) {
        if !buf.is_empty() {
            self.recv.arrived_bytes += buf.len() as u32;
            self.recv.arrived.insert(0, buf);
        }
    }

    /// How receiving ended, once all that arrived is taken.
    pub(crate) fn recv_end(&self) -> Option<Result<Option<Buf>, RecvError>> {
        self.recv.end.map(|end| match end {
            End::Eof => Ok(None),
            End::Failed(error) => Err(error),
        })
    }

    pub(crate) fn wait_recv(&mut self, waker: &Waker) {
        store(&mut self.recv.waker, waker);
    }

    pub(crate) fn wait_sent(&mut self, waker: &Waker) {
        store(&mut self.send.waker, waker);
    }

    pub(crate) fn take_sent(&mut self) -> Option<Result<usize, SendError>> {
        self.send.outcome.take()
    }

    pub(crate) fn poll_state(&mut self, interest: Interest) -> &mut Polling {
        &mut self.poll.get_or_insert_default()[interest as usize]
    }
}

/// Keeps `waker` in `slot` unless it is there already.
pub(crate) fn store(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(kept) => kept.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

/// What a receive brought.
pub(crate) enum Received {
    Data(Buf),
    Eof,
    Failed(i32),
    /// The group had no buffer; nothing was lost.
    NoBuffer,
    /// The receive ended without data or news: its cap was reached, or it was cancelled.
    Nothing,
}

/// What the driver does after a receive's completion.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum AfterRecv {
    /// It ended before its time: receive again, since nobody may be there to ask for it.
    Rearm,
    Done,
}

/// What the driver does after a send's completion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterSend {
    /// Submit the rest.
    Continue,
    Done,
}

/// How many send operations and vectors are kept for reuse.
const SPARE_OPS: usize = 1024;
const SPARE_VECS: usize = 256;
/// A larger vector is not kept.
const SPARE_VEC_BYTES: usize = 16 * 1024;

/// The sockets of a worker.
#[derive(Default)]
pub(crate) struct Sockets {
    slots: SlotMap<SocketKey, Socket>,
    #[expect(clippy::vec_box, reason = "a box goes on to the next send, and is not made anew")]
    spare_ops: Vec<Box<SendOp>>,
    spare_vecs: Vec<Vec<u8>>,
}

impl Sockets {
    pub(crate) fn insert(&mut self, fd: RawFd, side: Side, high_water: u32) -> SocketKey {
        self.slots.insert(Socket {
            fd,
            side,
            recv: Receiving { high_water, ..Receiving::default() },
            send: Sending::default(),
            connect: None,
            poll: None,
            unwatched: false,
            cut: false,
            closing: false,
            aborted: false,
        })
    }

    pub(crate) fn get(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.slots.get_mut(key)
    }

    /// Reads a little of each socket, so that all of them are on their way from memory at once.
    pub(crate) fn warm(&self, keys: impl Iterator<Item = SocketKey>) {
        let sockets = keys.filter_map(|key| self.slots.get(key));
        let touched = sockets.map(|socket| {
            let ends = [socket.recv.waker.is_some(), socket.send.waker.is_some(), socket.closing];
            ends.into_iter().filter(|end| *end).count()
        });
        std::hint::black_box(touched.sum::<usize>());
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn keys(&self) -> Vec<SocketKey> {
        self.slots.keys().collect()
    }

    /// An empty vector, with the capacity of an earlier one.
    pub(crate) fn take_vec(&mut self) -> Vec<u8> {
        self.spare_vecs.pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    pub(crate) fn keep_vec(&mut self, vec: Vec<u8>) {
        keep_vec(&mut self.spare_vecs, vec);
    }

    /// Begins a send. `false`: there was nothing to send, and it is done.
    ///
    /// # Panics
    /// If a send of this socket is with the driver: at most one is in flight.
    pub(crate) fn begin_send(
        &mut self,
        key: SocketKey,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> bool {
        let mut op = self.spare_ops.pop().unwrap_or_else(|| Box::new(SendOp::new()));
        op.begin(pieces);
        let socket = &mut self.slots[key];
        assert!(socket.send.op.is_none(), "one send in flight per socket");
        if op.is_done() {
            socket.send.outcome = Some(Ok(0));
            self.keep_op(op);
            return false;
        }
        socket.send.outcome = None;
        socket.send.given_up = false;
        socket.send.op = Some(op);
        true
    }

    /// A completion of the receive. `more`: the receive stays with the driver.
    pub(crate) fn received(&mut self, key: SocketKey, what: Received, more: bool) -> AfterRecv {
        let Some(socket) = self.slots.get_mut(key) else { return AfterRecv::Done };
        socket.unwatched = false;
        let recv = &mut socket.recv;
        if !more {
            recv.armed = false;
            recv.cancelling = false;
        }
        match what {
            Received::Data(buf) if !socket.closing => {
                recv.arrived_bytes += buf.len() as u32;
                recv.arrived.push(buf);
            }
            Received::Data(_) => {}
            Received::Eof if recv.was_reset => recv.end = Some(End::Failed(RecvError::Reset)),
            Received::Eof => recv.end = Some(End::Eof),
            Received::Failed(errno) => recv.end = Some(End::Failed(RecvError::from_errno(errno))),
            Received::NoBuffer => recv.starved = true,
            Received::Nothing => {}
        }
        if let Some(waker) = recv.waker.take() {
            waker.wake();
        }
        if socket.wants_recv() { AfterRecv::Rearm } else { AfterRecv::Done }
    }

    /// Whether nothing happens when the send of this socket completes, but that its memory is free.
    pub(crate) fn nobody_waits_for_sent(&self, key: SocketKey) -> bool {
        let socket = self.slots.get(key);
        socket.is_some_and(|socket| !socket.closing && socket.send.waker.is_none())
    }

    /// A completion of the send: bytes taken, or an error number.
    pub(crate) fn sent(&mut self, key: SocketKey, result: Result<usize, i32>) -> AfterSend {
        let Some(socket) = self.slots.get_mut(key) else { return AfterSend::Done };
        let Some(op) = socket.send.op.as_mut() else { return AfterSend::Done };
        if let Ok(taken) = result {
            op.advance(taken);
            if !op.is_done() && !socket.closing {
                return AfterSend::Continue;
            }
        }
        if let Err(errno) = result {
            socket.failed(errno);
        }
        let socket = &mut self.slots[key];
        let op = socket.send.op.take().expect("looked at above");
        socket.send.outcome = Some(match result {
            Ok(_) => Ok(op.sent),
            Err(errno) => Err(SendError { sent: op.sent, why: RecvError::from_errno(errno) }),
        });
        if let Some(waker) = socket.send.waker.take() {
            waker.wake();
        }
        self.keep_op(op);
        AfterSend::Done
    }

    fn keep_op(&mut self, mut op: Box<SendOp>) {
        for piece in op.pieces.drain(..) {
            if let Piece::Vec(vec) = piece {
                keep_vec(&mut self.spare_vecs, vec);
            }
        }
        if self.spare_ops.len() < SPARE_OPS {
            self.spare_ops.push(op);
        }
    }

    /// The connect is decided: `Err` has the error number.
    pub(crate) fn connected(&mut self, key: SocketKey, result: Result<(), i32>) {
        let Some(socket) = self.slots.get_mut(key) else { return };
        let Some(connect) = socket.connect.as_mut() else { return };
        connect.armed = false;
        connect.outcome = Some(result);
        if let Some(waker) = connect.waker.take() {
            waker.wake();
        }
    }

    /// The socket is ready, or will be no more: the next attempt tells.
    pub(crate) fn ready(&mut self, key: SocketKey, interest: Interest) {
        let Some(socket) = self.slots.get_mut(key) else { return };
        let poll = socket.poll_state(interest);
        poll.armed = false;
        poll.ready = true;
        if let Some(waker) = poll.waker.take() {
            waker.wake();
        }
    }

    /// Removes the socket if its stream is gone and the driver has nothing of it; returns the
    /// descriptor to close.
    pub(crate) fn reap(&mut self, key: SocketKey) -> Option<RawFd> {
        let socket = self.slots.get(key)?;
        if !socket.closing || socket.is_with_driver() {
            return None;
        }
        self.slots.remove(key).map(|socket| socket.fd)
    }
}

fn keep_vec(spare: &mut Vec<Vec<u8>>, mut vec: Vec<u8>) {
    if spare.len() < SPARE_VECS && vec.capacity() <= SPARE_VEC_BYTES {
        vec.clear();
        spare.push(vec);
    }
}

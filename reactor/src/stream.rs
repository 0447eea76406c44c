//! Connected byte streams: receive, send, relay, close.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use smallvec::SmallVec;

use crate::address::Address;
use crate::buffer::Buf;
use crate::listener::Accepted;
use crate::pipe::Pipe;
use crate::runtime::{Core, Reactor};
use crate::socket::{
    Connecting, Interest, Piece, RecvError, SendError, Side, Socket, SocketKey, store,
};
use crate::sys::Peek;

/// What may have arrived and not been taken before a stream stops receiving, in bytes.
const HIGH_WATER: u32 = 64 * 1024;

/// A connected TCP or Unix stream. Dropping it closes it at once: what was not sent is lost, so wait
/// for [`Stream::sent`] first.
///
/// The methods take `&self`: one task may wait in both directions.
pub struct Stream {
    reactor: Reactor,
    key: SocketKey,
}

/// How a [`Stream::relay`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// As many bytes as were asked for have gone over.
    Complete,
    /// The source ended first.
    Eof,
    /// The source failed.
    Source(RecvError),
    /// The sink failed.
    Sink(RecvError),
}

/// What this machine lacked when a [`Reactor::connect`] failed without the peer's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Of file descriptors, in the process or the system.
    Descriptors,
    /// Of local ports towards this address.
    Ports,
}

impl Shortage {
    /// The shortage behind a failed connect, if it was one.
    pub fn behind(error: &io::Error) -> Option<Shortage> {
        match error.raw_os_error()? {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                Some(Shortage::Descriptors)
            }
            libc::EADDRNOTAVAIL | libc::EADDRINUSE => Some(Shortage::Ports),
            _ => None,
        }
    }
}

impl Reactor {
    /// Serves a connection that some worker accepted.
    pub fn adopt(&self, accepted: Accepted) -> Stream {
        let stream = self.register(accepted.into_raw(), Side::Downstream);
        let mut core = self.core();
        let core = &mut *core;
        core.driver.adopt(&mut core.table, stream.key);
        stream
    }

    /// Connects. The future may be dropped at any time; there is no time limit of its own. Whether
    /// it failed for want of something on this side says [`Shortage::behind`].
    pub async fn connect(&self, address: &Address) -> io::Result<Stream> {
        let target = address.to_sockaddr()?;
        let fd = self.core().driver.open(&target)?;
        let stream = self.register(fd, Side::Upstream);
        stream.start_connect(target);
        stream.connected().await?;
        Ok(stream)
    }

    fn register(&self, fd: i32, side: Side) -> Stream {
        let key = self.core().table.sockets.insert(fd, side, HIGH_WATER);
        Stream { reactor: self.clone(), key }
    }
}

impl Stream {
    fn start_connect(&self, target: socket2::SockAddr) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        self.socket(core).connect = Some(Box::new(Connecting {
            address: Box::new(target),
            armed: false,
            outcome: None,
            waker: None,
        }));
        core.driver.connect(&mut core.table, self.key);
    }

    async fn connected(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let socket = self.socket(&mut core);
            let connect = socket.connect.as_mut().expect("started above");
            let Some(outcome) = connect.outcome else {
                store(&mut connect.waker, cx.waker());
                return Poll::Pending;
            };
            socket.connect = None;
            Poll::Ready(outcome.map_err(io::Error::from_raw_os_error))
        })
        .await
    }

    fn socket<'a>(&self, core: &'a mut Core) -> &'a mut Socket {
        core.table.sockets.get(self.key).expect("a socket lives as long as its stream")
    }

    /// The next bytes that arrive; `None` at the end of the stream. Data arrives whether or not
    /// somebody waits, up to a bound; dropping the future loses nothing.
    pub fn recv(&self) -> impl Future<Output = Result<Option<Buf>, RecvError>> + '_ {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// See [`Stream::recv`].
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Buf>, RecvError>> {
        let mut core = self.reactor.core();
        let core = &mut *core;
        let socket = self.socket(core);
        if let Some(first) = socket.first_arrived() {
            if !self.reactor.spend(first) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let buf = socket.take_arrived();
            if socket.wants_recv() {
                core.driver.recv(&mut core.table, self.key);
            }
            return Poll::Ready(Ok(buf));
        }
        if let Some(end) = socket.recv_end() {
            return Poll::Ready(end);
        }
        socket.wait_recv(cx.waker());
        if socket.wants_recv() {
            core.driver.recv(&mut core.table, self.key);
        }
        Poll::Pending
    }

    /// Ends when something has arrived or the stream has ended; takes nothing.
    pub fn readable(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let core = &mut *core;
            let socket = self.socket(core);
            if !socket.is_quiet() {
                return Poll::Ready(());
            }
            socket.wait_recv(cx.waker());
            if socket.wants_recv() {
                core.driver.recv(&mut core.table, self.key);
            }
            Poll::Pending
        })
    }

    /// Gives bytes back that were received and not used; the next [`Stream::recv`] has them first.
    pub fn unrecv(&self, buf: Buf) {
        self.socket(&mut self.reactor.core()).untake(buf);
    }

    /// Begins to receive without waiting, so that an end of the stream is noticed.
    pub fn arm(&self) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        if self.socket(core).wants_recv() {
            core.driver.recv(&mut core.table, self.key);
        }
    }

    /// Whether nothing arrived and nothing ended, asking the kernel only where it may have more than
    /// it has told: after a relay, or where a receive stopped at a limit.
    pub fn is_drained(&self) -> bool {
        let mut core = self.reactor.core();
        let socket = self.socket(&mut core);
        if socket.recv.armed && socket.recv.drained {
            return socket.is_quiet();
        }
        drop(core);
        self.is_quiet_now()
    }

    /// Ends when the stream has: `Ok` if the peer closed it, whether or not what arrived before is
    /// taken. While so much has arrived that nothing more is received, only a reset is noticed, and
    /// that not behind an orderly end.
    pub fn ended(&self) -> impl Future<Output = Result<(), RecvError>> + '_ {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let core = &mut *core;
            let socket = self.socket(core);
            if let Some(end) = socket.recv_end() {
                return Poll::Ready(end.map(drop));
            }
            socket.wait_recv(cx.waker());
            if socket.wants_recv() {
                core.driver.recv(&mut core.table, self.key);
            } else if !socket.recv.armed
                && let Some(error) = self.watch_for_reset(core, cx)
            {
                return Poll::Ready(Err(error));
            }
            Poll::Pending
        })
    }

    fn watch_for_reset(&self, core: &mut Core, cx: &Context<'_>) -> Option<RecvError> {
        let socket = self.socket(core);
        if socket.unwatched {
            return None;
        }
        let fd = socket.fd;
        let poll = socket.poll_state(Interest::Error);
        store(&mut poll.waker, cx.waker());
        let (armed, ready) = (poll.armed, std::mem::take(&mut poll.ready));
        if ready {
            let error = core.driver.error(fd);
            let socket = self.socket(core);
            // Such as the peer's orderly end, which is told of again and again.
            socket.unwatched = error.is_none();
            socket.failed(error?);
            return error.map(RecvError::from_errno);
        }
        if !armed {
            core.driver.poll(&mut core.table, self.key, Interest::Error);
        }
        None
    }

    /// How many bytes of the send that was started last the kernel has taken; `None` while it is on
    /// its way.
    pub fn taken(&self) -> Option<usize> {
        match self.socket(&mut self.reactor.core()).take_sent()? {
            Ok(taken) => Some(taken),
            Err(error) => Some(error.sent),
        }
    }

    /// Whether the stream has ended, or failed, and all that arrived before is taken.
    pub fn has_ended(&self) -> bool {
        let mut core = self.reactor.core();
        let socket = self.socket(&mut core);
        socket.first_arrived().is_none() && socket.recv_end().is_some()
    }

    /// Whether a relay into this stream waits for it to take bytes.
    pub fn waits_to_write(&self) -> bool {
        let mut core = self.reactor.core();
        let socket = self.socket(&mut core);
        socket.send.op.is_some()
            || socket.poll.as_ref().is_some_and(|poll| poll[Interest::Write as usize].armed)
    }

    /// Whether nothing arrived and nothing ended, as far as this loop has been told.
    pub fn is_quiet(&self) -> bool {
        self.socket(&mut self.reactor.core()).is_quiet()
    }

    /// Whether nothing arrived and nothing ended, asking the kernel too: one system call, for what
    /// must not go out on a connection that is closed already.
    pub fn is_quiet_now(&self) -> bool {
        let mut core = self.reactor.core();
        let core = &mut *core;
        let socket = self.socket(core);
        if !socket.is_quiet() {
            return false;
        }
        let fd = socket.fd;
        let seen = core.driver.peek(fd);
        if let Peek::Failed(errno) = seen {
            self.socket(core).failed(errno);
        }
        seen == Peek::Empty
    }

    /// How much may arrive before it is taken, in bytes. A receive that is armed already keeps to
    /// what was set before.
    pub fn set_high_water(&self, bytes: u32) {
        self.socket(&mut self.reactor.core()).recv.high_water = bytes;
    }

    /// Says whether what comes next is bulk that will be relayed. Of that only a little is received, so
    /// that most of it is still in the kernel when the relay begins. A receive that is armed already
    /// keeps to what was said before.
    pub fn expect_bulk(&self, bulk: bool) {
        self.socket(&mut self.reactor.core()).recv.bulk = bulk;
    }

    /// Lets no more than `bytes` arrive before it is taken, if it is more now.
    pub fn limit_high_water(&self, bytes: u32) {
        let mut core = self.reactor.core();
        let recv = &mut self.socket(&mut core).recv;
        recv.high_water = recv.high_water.min(bytes);
    }

    /// Begins to send. The memory is the reactor's until the last completion, whatever becomes of
    /// this stream's futures.
    ///
    /// # Panics
    /// If a send is in flight: wait for [`Stream::sent`].
    pub fn start_send(&self, pieces: impl IntoIterator<Item = Piece>) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        if core.table.sockets.begin_send(self.key, pieces) {
            core.driver.send(&mut core.table, self.key);
        }
    }

    /// The outcome of the send that was started last: the number of bytes, all of them; or the
    /// error, with the number that the kernel had taken. Reported once.
    pub fn sent(&self) -> impl Future<Output = Result<usize, SendError>> + '_ {
        poll_fn(|cx| self.poll_sent(cx))
    }

    /// See [`Stream::sent`].
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<Result<usize, SendError>> {
        let mut core = self.reactor.core();
        let socket = self.socket(&mut core);
        if let Some(outcome) = socket.take_sent() {
            return Poll::Ready(outcome);
        }
        if socket.send.op.is_none() {
            return Poll::Ready(Ok(0));
        }
        if socket.send.given_up {
            return Poll::Ready(Err(SendError { sent: 0, why: RecvError::Reset }));
        }
        socket.wait_sent(cx.waker());
        Poll::Pending
    }

    /// Whether a send is on its way.
    pub fn is_sending(&self) -> bool {
        self.socket(&mut self.reactor.core()).send.op.is_some()
    }

    /// Sends, and waits until the kernel has taken all of it.
    pub async fn send(&self, pieces: impl IntoIterator<Item = Piece>) -> Result<usize, SendError> {
        self.start_send(pieces);
        self.sent().await
    }

    /// Tells the peer that nothing more comes. Receiving goes on.
    pub fn shutdown_write(&self) {
        self.shutdown(Shutdown::Write);
    }

    /// Ends both directions; what waits on this stream is told so.
    pub fn shutdown_both(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// Ends what waits on this stream, as a reset by the peer would. If nothing is being sent there may
    /// be a last word.
    pub fn cut(&self) {
        self.socket(&mut self.reactor.core()).cut();
    }

    fn shutdown(&self, how: Shutdown) {
        let mut core = self.reactor.core();
        let fd = self.socket(&mut core).fd;
        core.driver.shutdown(fd, how);
    }

    /// Makes dropping this stream a reset: the peer must not take what it has got so far for all there
    /// was.
    pub fn reset_on_close(&self) {
        let mut core = self.reactor.core();
        let socket = self.socket(&mut core);
        socket.aborted = true;
        let fd = socket.fd;
        core.driver.reset_on_close(fd);
    }

    /// The peer's address.
    pub fn peer_address(&self) -> io::Result<Address> {
        let mut core = self.reactor.core();
        let fd = self.socket(&mut core).fd;
        core.driver.peer_address(fd)
    }

    /// Sends `lead` to `sink`, then moves up to `limit` bytes from here to there without a copy in
    /// user space: the bytes that were received already together with `lead`, the others by
    /// `splice(2)` through a pipe that comes back empty. Adds what went over of them to `moved` as it
    /// goes, so that an observer sees progress.
    ///
    /// No send may be in flight on `sink`.
    pub async fn relay(
        &self,
        lead: impl IntoIterator<Item = Piece>,
        sink: &Stream,
        limit: u64,
        moved: &std::cell::Cell<u64>,
    ) -> RelayEnd {
        let alone = Alone::with(self);
        self.stop_receiving().await;
        let mut pieces: SmallVec<[Piece; 8]> = lead.into_iter().collect();
        let mut arrived = 0;
        while let Some(buf) = self.take_up_to(limit - arrived) {
            arrived += buf.len() as u64;
            pieces.push(Piece::Buf(buf));
        }
        if let Err(error) = sink.send(pieces).await {
            return RelayEnd::Sink(error.why);
        }
        moved.set(moved.get() + arrived);
        let left = limit - arrived;
        if left == 0 {
            return RelayEnd::Complete;
        }
        if let Some(end) = self.socket(&mut self.reactor.core()).recv_end() {
            return match end {
                Err(error) => RelayEnd::Source(error),
                Ok(_) => RelayEnd::Eof,
            };
        }
        let Ok(mut pipe) = self.pipe() else {
            drop(alone);
            return self.relay_copying(sink, left, moved).await;
        };
        let end = self.splice_through(&mut pipe, sink, left, moved).await;
        self.reactor.core().pipes.keep(pipe);
        end
    }

    /// Of what has arrived, the first piece, up to `max` bytes of it.
    fn take_up_to(&self, max: u64) -> Option<Buf> {
        if max == 0 {
            return None;
        }
        let mut buf = self.take_arrived()?;
        if buf.len() as u64 > max {
            let now = buf.split_to(max as usize);
            self.unrecv(std::mem::replace(&mut buf, now));
        }
        Some(buf)
    }

    /// Out of pipes: the same, by way of receive buffers.
    async fn relay_copying(
        &self,
        sink: &Stream,
        mut left: u64,
        moved: &std::cell::Cell<u64>,
    ) -> RelayEnd {
        while left > 0 {
            let mut buf = match self.recv().await {
                Ok(Some(buf)) => buf,
                Ok(None) => return RelayEnd::Eof,
                Err(error) => return RelayEnd::Source(error),
            };
            if buf.len() as u64 > left {
                let now = buf.split_to(left as usize);
                self.unrecv(std::mem::replace(&mut buf, now));
            }
            let len = buf.len() as u64;
            if let Err(error) = sink.send([Piece::Buf(buf)]).await {
                return RelayEnd::Sink(error.why);
            }
            moved.set(moved.get() + len);
            left -= len;
        }
        RelayEnd::Complete
    }

    async fn splice_through(
        &self,
        pipe: &mut Pipe,
        sink: &Stream,
        limit: u64,
        moved: &std::cell::Cell<u64>,
    ) -> RelayEnd {
        let (mut left, mut ended) = (limit, None);
        // The pipe was the limit, not what had arrived.
        let mut more = false;
        loop {
            // As much in as fits; then all of it out.
            let room = pipe.capacity.saturating_sub(pipe.filled) as u64;
            if left > 0 && ended.is_none() && room > 0 {
                match self.splice_in(pipe, room.min(left) as usize) {
                    Ok(0) => ended = Some(self.relay_end()),
                    Ok(len) => {
                        pipe.filled += len;
                        left -= len as u64;
                        more = len as u64 == room && left > 0;
                    }
                    Err(error) if would_block(&error) => {
                        more = false;
                        if self.is_cut() {
                            return RelayEnd::Source(RecvError::Reset);
                        }
                        if pipe.filled == 0 {
                            self.until_ready(Interest::Read).await;
                            continue;
                        }
                    }
                    Err(error) => ended = Some(RelayEnd::Source(recv_error(&error))),
                }
            }
            if pipe.filled == 0 {
                if let Some(ended) = ended {
                    return ended;
                }
                if left == 0 {
                    return RelayEnd::Complete;
                }
                continue;
            }
            // Only where more is there now: the kernel holds back what is less than a segment.
            match sink.splice_out(pipe, more && ended.is_none()) {
                Ok(len) => {
                    pipe.filled -= len;
                    moved.set(moved.get() + len as u64);
                    if !self.reactor.spend(len) {
                        self.reactor.yield_now().await;
                    }
                }
                Err(error) if would_block(&error) && sink.is_cut() => {
                    return RelayEnd::Sink(RecvError::Reset);
                }
                Err(error) if would_block(&error) => sink.until_ready(Interest::Write).await,
                Err(error) => return RelayEnd::Sink(recv_error(&error)),
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.socket(&mut self.reactor.core()).cut
    }

    /// What the end that `splice(2)` finds is: an orderly one, or a reset that was told already.
    fn relay_end(&self) -> RelayEnd {
        match self.socket(&mut self.reactor.core()).was_reset() {
            true => RelayEnd::Source(RecvError::Reset),
            false => RelayEnd::Eof,
        }
    }

    fn pipe(&self) -> io::Result<Pipe> {
        let mut core = self.reactor.core();
        core.pipes.take().map_or_else(|| core.driver.pipe(), Ok)
    }

    fn splice_in(&self, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        let mut core = self.reactor.core();
        let fd = self.socket(&mut core).fd;
        let result = core.driver.splice_in(fd, pipe, max);
        self.note_failure(&mut core, &result);
        result
    }

    fn splice_out(&self, pipe: &mut Pipe, more: bool) -> io::Result<usize> {
        let mut core = self.reactor.core();
        let fd = self.socket(&mut core).fd;
        let result = core.driver.splice_out(pipe, fd, more);
        self.note_failure(&mut core, &result);
        result
    }

    fn note_failure(&self, core: &mut Core, result: &io::Result<usize>) {
        if let Err(error) = result {
            self.socket(core).failed(error.raw_os_error().unwrap_or(0));
        }
    }

    /// How many bytes have arrived and are not taken.
    pub fn arrived_bytes(&self) -> usize {
        self.socket(&mut self.reactor.core()).recv.arrived_bytes() as usize
    }

    /// What has arrived, without waiting.
    pub fn take_arrived(&self) -> Option<Buf> {
        self.socket(&mut self.reactor.core()).take_arrived()
    }

    /// Ends the armed receive, so that what comes next stays in the kernel for `splice`.
    async fn stop_receiving(&self) {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let core = &mut *core;
            let socket = self.socket(core);
            if !socket.recv.armed {
                return Poll::Ready(());
            }
            socket.wait_recv(cx.waker());
            core.driver.cancel_recv(&mut core.table, self.key);
            // A driver without a kernel between may be done with it at once.
            if self.socket(core).recv.armed { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    async fn until_ready(&self, interest: Interest) {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let core = &mut *core;
            let poll = self.socket(core).poll_state(interest);
            if std::mem::take(&mut poll.ready) {
                return Poll::Ready(());
            }
            store(&mut poll.waker, cx.waker());
            if !poll.armed {
                core.driver.poll(&mut core.table, self.key, interest);
            }
            // Who waits looks for himself.
            if self.socket(core).cut { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// While this lives, nothing is received from a stream but by who holds it: a receive that began on
/// the side, because buffers came back or somebody waits for the end, would take bytes out of turn.
struct Alone<'a>(&'a Stream);

impl<'a> Alone<'a> {
    fn with(stream: &'a Stream) -> Alone<'a> {
        let mut core = stream.reactor.core();
        let recv = &mut stream.socket(&mut core).recv;
        (recv.stopped, recv.drained) = (true, false);
        drop(core);
        Alone(stream)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.socket(&mut self.0.reactor.core()).resume_recv();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        let socket = self.socket(core);
        socket.begin_close();
        core.driver.abandon(&mut core.table, self.key);
        if let Some(fd) = core.table.sockets.reap(self.key) {
            core.driver.close(fd);
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn recv_error(error: &io::Error) -> RecvError {
    RecvError::from_errno(error.raw_os_error().unwrap_or(libc::EIO))
}

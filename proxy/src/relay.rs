//! Bytes from one side to the other: bodies, and tunnels.
//!
//! A body goes on as it comes, straight from the receive buffers, or, where much of it is still to
//! come and its end is known by number or by the connection's end, by `splice(2)` without being read
//! at all.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use reactor::{Buf, Either, Instant, Piece, Reactor, RecvError, RelayEnd, SendError, Stream, race};
use smallvec::SmallVec;

use crate::error::Malformed;
use crate::http1::body::BodyReader;

/// From so many remaining bytes on, splicing is cheaper than copying.
const SPLICE_MIN: u64 = 16 * 1024;
/// Pieces that are gathered into one send.
const GATHER: usize = 8;
/// A tunnel in which this much is sent at once carries bulk …
const TUNNEL_BULK: u64 = 4 * 1024;
/// … and splices this much before it looks again.
const TUNNEL_BURST: u64 = 16 << 20;
/// A body that fits here behind its head is copied to it and goes out in one piece.
pub const INLINE_MAX: usize = 4096;

/// How long each side may keep the other waiting; `None`: for ever.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the next byte from the source.
    pub source: Option<Duration>,
    /// For the sink to take some bytes.
    pub sink: Option<Duration>,
}

/// Why a body did not go over whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The source's connection ended within the body.
    SourceEnded,
    /// The source's connection was reset or failed.
    SourceFailed(RecvError),
    /// The source sent nothing for too long.
    SourceIdle,
    /// What the source sent is no body.
    Malformed(Malformed),
    /// More content than allowed.
    TooLarge,
    /// The sink's connection failed.
    SinkFailed(SendError),
    /// The sink took nothing for too long.
    SinkIdle,
}

/// A body on its way.
pub struct Body<'a> {
    pub reactor: &'a Reactor,
    pub from: &'a Stream,
    pub to: &'a Stream,
    pub reader: &'a mut BodyReader,
    pub patience: Patience,
    /// Content bytes that are allowed.
    pub size_max: u64,
    /// Counts the bytes that go out.
    pub moved: &'a Cell<u64>,
}

impl Body<'_> {
    /// Sends `head`, then the body to its end. Nothing may be in flight on `to`; at the end the last
    /// piece may still be.
    pub async fn send_after(&mut self, head: Vec<u8>) -> Result<(), BodyError> {
        let mut batch = Batch::new(head);
        // What this source sends next will be like this.
        self.from.expect_bulk(self.spliceable() >= SPLICE_MIN);
        while !self.reader.is_done() {
            let left = self.spliceable();
            if left.saturating_sub(self.from.arrived_bytes() as u64) >= SPLICE_MIN {
                self.splice(&mut batch, left).await?;
                if !self.reader.is_done() {
                    break; // the end of the connection was the end of the body
                }
                continue;
            }
            match self.next(batch.is_empty()).await? {
                Arrived::Bytes(buf) => {
                    self.take(buf, &mut batch)?;
                    if !batch.is_full() {
                        continue;
                    }
                }
                Arrived::Nothing => {}
                Arrived::End => break,
            }
            self.flush(&mut batch).await?;
        }
        if !batch.is_empty() {
            self.settle().await?;
            self.count(&batch);
            self.to.start_send(batch.pieces);
        }
        Ok(())
    }

    /// How many of the bytes to come need not be looked at.
    fn spliceable(&self) -> u64 {
        match self.reader.length_left() {
            Some(left) => left,
            None if self.reader.may_end_here() => u64::MAX,
            None => 0,
        }
    }

    /// What arrives next, if something is there or we are to `wait` for it.
    async fn next(&self, wait: bool) -> Result<Arrived, BodyError> {
        if !wait && self.from.is_quiet() {
            return Ok(Arrived::Nothing);
        }
        let deadline = self.patience.source.map_or(Instant::FAR, |p| self.reactor.now() + p);
        match self.reactor.timeout_at(deadline, self.from.recv()).await {
            None => Err(BodyError::SourceIdle),
            Some(Ok(Some(buf))) => Ok(Arrived::Bytes(buf)),
            Some(Ok(None)) if self.reader.may_end_here() => Ok(Arrived::End),
            Some(Ok(None)) => Err(BodyError::SourceEnded),
            Some(Err(error)) => Err(BodyError::SourceFailed(error)),
        }
    }

    /// Adds what belongs to the body to the batch and gives the rest back.
    fn take(&mut self, mut buf: Buf, batch: &mut Batch) -> Result<(), BodyError> {
        while !buf.is_empty() {
            let step = self.reader.advance(&buf).map_err(BodyError::Malformed)?;
            self.size_max =
                self.size_max.checked_sub(step.content as u64).ok_or(BodyError::TooLarge)?;
            batch.push_copy(self.reader.lead());
            let mut pass = buf.split_to(step.consumed);
            pass.truncate(step.pass.end);
            pass.advance(step.pass.start);
            batch.push(pass);
            if step.done {
                break;
            }
        }
        self.from.unrecv(buf);
        Ok(())
    }

    async fn flush(&mut self, batch: &mut Batch) -> Result<(), BodyError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        self.count(batch);
        self.to.start_send(batch.pieces.drain(..));
        self.settle().await
    }

    fn count(&self, batch: &Batch) {
        let bytes: usize = batch.pieces.iter().map(Piece::len).sum();
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// Waits until the sink has taken what was sent.
    async fn settle(&self) -> Result<(), BodyError> {
        let deadline = self.patience.sink.map_or(Instant::FAR, |p| self.reactor.now() + p);
        match self.reactor.timeout_at(deadline, self.to.sent()).await {
            None => Err(BodyError::SinkIdle),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(BodyError::SinkFailed(error)),
        }
    }

    /// Sends the batch, and all that is to come without looking at it. A length beyond what is
    /// allowed was refused with the head.
    async fn splice(&mut self, batch: &mut Batch, left: u64) -> Result<(), BodyError> {
        self.settle().await?;
        self.count(batch);
        self.reader.pass_by();
        let before = self.moved.get();
        let relay = pin!(self.from.relay(batch.pieces.drain(..), self.to, left, self.moved));
        let end = watched(self.reactor, relay, self.moved, self.patience, self.to).await;
        self.reader.skip(self.moved.get() - before);
        match end {
            Ok(RelayEnd::Complete) => Ok(()),
            Ok(RelayEnd::Eof) if self.reader.may_end_here() => Ok(()),
            Ok(RelayEnd::Eof) => Err(BodyError::SourceEnded),
            Ok(RelayEnd::Source(error)) => Err(BodyError::SourceFailed(error)),
            Ok(RelayEnd::Sink(why)) => Err(BodyError::SinkFailed(SendError { sent: 0, why })),
            Err(error) => Err(error),
        }
    }
}

enum Arrived {
    Bytes(Buf),
    Nothing,
    /// The end of the connection, which properly ends this body.
    End,
}

/// Pieces to go out together.
struct Batch {
    pieces: SmallVec<[Piece; GATHER]>,
}

impl Batch {
    fn new(head: Vec<u8>) -> Batch {
        let mut pieces = SmallVec::new();
        if !head.is_empty() {
            pieces.push(Piece::Vec(head));
        }
        Batch { pieces }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn is_full(&self) -> bool {
        self.pieces.len() >= GATHER
    }

    fn push(&mut self, buf: Buf) {
        if !buf.is_empty() {
            self.pieces.push(Piece::Buf(buf));
        }
    }

    fn push_copy(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            _ if bytes.is_empty() => {}
            Some(Piece::Vec(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Vec(bytes.to_vec())),
        }
    }
}

/// Runs a relay until it ends, or until nothing has moved for as long as the side that is waited for
/// may take.
async fn watched(
    reactor: &Reactor,
    mut relay: Pin<&mut impl Future<Output = RelayEnd>>,
    moved: &Cell<u64>,
    patience: Patience,
    sink: &Stream,
) -> Result<RelayEnd, BodyError> {
    let shortest = patience.source.into_iter().chain(patience.sink).min();
    let Some(shortest) = shortest else { return Ok(relay.await) };
    let mut last = (moved.get(), reactor.now());
    loop {
        let look = reactor.now() + shortest;
        if let Some(end) = reactor.timeout_at(look, relay.as_mut()).await {
            return Ok(end);
        }
        if moved.get() != last.0 {
            last = (moved.get(), reactor.now());
            continue;
        }
        let (limit, error) = match sink.waits_to_write() {
            true => (patience.sink, BodyError::SinkIdle),
            false => (patience.source, BodyError::SourceIdle),
        };
        if limit.is_some_and(|limit| reactor.now() - last.1 >= limit) {
            return Err(error);
        }
    }
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides said that they were done.
    Closed,
    /// No byte went either way for too long.
    Idle,
    /// The downstream's connection failed.
    DownFailed,
    /// The upstream's connection failed.
    UpFailed,
}

/// When one side was reset, what it had sent before may go on to the other as long as it is taken.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Relays both ways until both sides are done, one fails, or neither says anything for `idle`.
/// A side that ends its sending is told on to the other, which may go on. Whatever else ends it, both
/// are reset: an orderly end would pass a part for the whole.
pub async fn tunnel(
    reactor: &Reactor,
    down: &Stream,
    up: &Stream,
    idle: Option<Duration>,
    bytes: &Traffic,
) -> TunnelEnd {
    let unfinished = Unfinished([down, up]);
    let mut work = pin!(async {
        let inward = one_way(down, up, [TunnelEnd::DownFailed, TunnelEnd::UpFailed], &bytes.inward);
        let outward =
            one_way(up, down, [TunnelEnd::UpFailed, TunnelEnd::DownFailed], &bytes.outward);
        let (mut inward, mut outward) = (pin!(inward), pin!(outward));
        match race(inward.as_mut(), outward.as_mut()).await {
            Either::First(Ok(())) => outward.await,
            Either::Second(Ok(())) => inward.await,
            Either::First(failed) | Either::Second(failed) => failed,
        }
    });
    // The side that was reset, which who waits for the other does not see.
    let mut reset = None;
    loop {
        let before = bytes.total();
        let patience = if reset.is_some() { Some(LAST_BYTES) } else { idle };
        let look = patience.map_or(Instant::FAR, |patience| reactor.now() + patience);
        let news = poll_fn(|cx| {
            if let Poll::Ready(ended) = work.as_mut().poll(cx) {
                return Poll::Ready(Either::First(ended));
            }
            let sides = [(down, TunnelEnd::DownFailed), (up, TunnelEnd::UpFailed)];
            let failed = sides.into_iter().find(|(side, _)| {
                reset.is_none() && matches!(pin!(side.ended()).poll(cx), Poll::Ready(Err(_)))
            });
            failed.map_or(Poll::Pending, |(_, failed)| Poll::Ready(Either::Second(failed)))
        });
        match reactor.timeout_at(look, news).await {
            Some(Either::First(Ok(()))) => {
                unfinished.finish();
                return TunnelEnd::Closed;
            }
            Some(Either::First(Err(failed))) => return failed,
            Some(Either::Second(failed)) => reset = Some(failed),
            None if bytes.total() != before => {}
            None => return reset.unwrap_or(TunnelEnd::Idle),
        }
    }
}

/// Resets both sides of a tunnel that ends before it is finished.
struct Unfinished<'a>([&'a Stream; 2]);

impl Unfinished<'_> {
    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|side| side.reset_on_close());
    }
}

/// Bytes that have gone over, each way.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the downstream.
    pub inward: Cell<u64>,
    /// To the downstream.
    pub outward: Cell<u64>,
}

impl Traffic {
    fn total(&self) -> u64 {
        self.inward.get() + self.outward.get()
    }
}

/// One direction of a tunnel, until the source comes to its end; else what the failure of the source,
/// or of the sink, is called.
async fn one_way(
    from: &Stream,
    to: &Stream,
    [source_failed, sink_failed]: [TunnelEnd; 2],
    moved: &Cell<u64>,
) -> Result<(), TunnelEnd> {
    let mut bulk = false;
    loop {
        // Small messages go on as they come, bulk without being read.
        let before = moved.get();
        let end = match bulk {
            true => bulk_message(from, to, moved).await,
            false => one_message(from, to, moved).await,
        };
        bulk = moved.get() - before >= TUNNEL_BULK;
        match end {
            RelayEnd::Complete => {}
            RelayEnd::Eof => break,
            RelayEnd::Source(_) => return Err(source_failed),
            RelayEnd::Sink(_) => return Err(sink_failed),
        }
    }
    to.sent().await.map_err(|_| sink_failed)?;
    to.shutdown_write();
    Ok(())
}

async fn bulk_message(from: &Stream, to: &Stream, moved: &Cell<u64>) -> RelayEnd {
    match to.sent().await {
        Ok(_) => from.relay([], to, TUNNEL_BURST, moved).await,
        Err(error) => RelayEnd::Sink(error.why),
    }
}

/// Waits for what comes next and begins to send it. Nobody waits for the end of that: the loop need
/// not wake for it.
async fn one_message(from: &Stream, to: &Stream, moved: &Cell<u64>) -> RelayEnd {
    let mut batch = Batch { pieces: SmallVec::new() };
    let mut bytes = 0;
    loop {
        match from.recv().await {
            Ok(Some(buf)) => {
                bytes += buf.len() as u64;
                batch.push(buf);
            }
            Ok(None) if batch.is_empty() => return RelayEnd::Eof,
            Err(error) if batch.is_empty() => return RelayEnd::Source(error),
            Ok(None) | Err(_) => break,
        }
        if batch.is_full() || from.is_quiet() {
            break;
        }
    }
    if let Err(error) = to.sent().await {
        return RelayEnd::Sink(error.why);
    }
    to.start_send(batch.pieces);
    moved.set(moved.get() + bytes);
    RelayEnd::Complete
}

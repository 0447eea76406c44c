//! A downstream HTTP connection: waits for a request, runs its exchange, waits for the next.
//!
//! While it waits it holds no buffer and no memory of an exchange; the size of its future is asserted
//! in a test.

use std::cell::Cell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use reactor::{Instant, Sleep, Stream};

use crate::error::Cause;
use crate::http1::encode::IpText;
use crate::plan::{Listener, ListenerKind};
use crate::spare::Slots;
use crate::telemetry::names::ListenerId;
use crate::worker::{ConnectionKey, Worker};

/// What follows an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A further request may come.
    Request,
    /// The response is complete, but the client may still be sending: close so that it can read it.
    Linger,
    /// Nothing more can be said.
    Close,
}

/// So long is read and thrown away what a client still sends after its last response, and so long it
/// may pause. A close with unread bytes would reset the connection, and the response with it.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// Who has connected sends a first request before this, as a rule.
const SETTLED: Duration = Duration::from_millis(500);

/// A connection from a client.
pub struct Connection {
    pub stream: Stream,
    listener: Cell<ListenerId>,
    /// Counts this one among those that its listener serves; none once it is let go.
    served: Cell<Option<Arc<CachePadded<AtomicUsize>>>>,
    pub key: ConnectionKey,
    /// `None` over a Unix socket.
    pub peer: Option<Peer>,
    began: Instant,
    idle: Cell<bool>,
    /// Why it was cut off, if it was.
    cut: Cell<Option<Cause>>,
    ended_by: Cell<Option<Cause>>,
    /// What ended it stands in an exchange's record.
    recorded: Cell<bool>,
}

/// Who is at the other end.
pub struct Peer {
    pub ip: IpAddr,
    pub text: IpText,
    /// What it says of its clients is believed.
    pub is_trusted: bool,
}

impl Connection {
    pub fn new(
        listener: &Listener,
        key: ConnectionKey,
        stream: Stream,
        began: Instant,
    ) -> Connection {
        let address = stream.peer_address().ok().and_then(|address| address.ip());
        let peer = address.map(|address| {
            let ip = address.ip();
            let is_trusted = match &listener.kind {
                ListenerKind::Http(http) => http.trusts(ip),
                ListenerKind::Tcp(_) => false,
            };
            Peer { ip, text: IpText::new(ip), is_trusted }
        });
        Connection {
            stream,
            listener: Cell::new(listener.id),
            served: Cell::new(Some(listener.served.clone())),
            key,
            peer,
            began,
            idle: Cell::new(true),
            cut: Cell::new(None),
            ended_by: Cell::new(None),
            recorded: Cell::new(false),
        }
    }

    /// The listener that has it.
    pub fn listener(&self) -> ListenerId {
        self.listener.get()
    }

    /// Another listener has it from now on.
    pub fn move_to(&self, listener: &Listener) {
        self.let_go();
        listener.served.fetch_add(1, Ordering::Relaxed);
        self.served.set(Some(listener.served.clone()));
        self.listener.set(listener.id);
    }

    /// It is none of its listener's any more.
    pub fn let_go(&self) {
        if let Some(served) = self.served.take() {
            served.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// When it was accepted.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Its time is over, for this reason: what goes on on it ends now.
    pub fn cut(&self, cause: Cause) {
        self.cut.set(Some(cause));
        self.stream.cut();
    }

    /// What `cause` is called if it is our doing.
    pub fn blame(&self, cause: Cause) -> Cause {
        match cause {
            Cause::ClientGone => self.cut.get().unwrap_or(cause),
            cause => cause,
        }
    }

    /// Notes that an exchange's record tells why it ends.
    pub fn note_recorded(&self) {
        self.recorded.set(true);
    }

    /// Why it was ended, if no exchange's record tells.
    pub fn unrecorded(&self) -> Option<Cause> {
        self.ended_by().filter(|_| !self.recorded.get())
    }

    /// Whether closing it loses nothing, as far as anybody can know: no request is on its way, not
    /// even the first one of a client that has just connected.
    pub fn rests(&self, now: Instant) -> bool {
        let settled = now - self.began >= SETTLED;
        self.idle.get() && settled && !self.stream.is_sending() && self.stream.is_quiet_now()
    }

    /// Whether it waits for a request.
    pub fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// It does not wait for a request any more.
    pub fn set_busy(&self) {
        self.idle.set(false);
    }

    /// Notes why the connection is ended, for log and metric; the first reason stands.
    pub fn end_by(&self, cause: Cause) {
        if self.ended_by.get().is_none() {
            self.ended_by.set(Some(cause));
        }
    }

    /// Why it was ended, if not as it should.
    pub fn ended_by(&self) -> Option<Cause> {
        self.ended_by.get()
    }
}

/// An exchange to be run: on this worker, on this connection.
pub type Job = (Rc<Worker>, Rc<Connection>);

/// Serves a connection until it ends. Its exchanges run in `slots`.
pub async fn serve<F: Future>(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    slots: Rc<Slots<Job, Next, F>>,
) {
    let mut first = true;
    let mut patience = worker.reactor.sleep_until(Instant::FAR);
    let next = loop {
        if !request_begins(&worker, &connection, first, &mut patience).await {
            // A client that has closed its sending direction still waits for the last response.
            let owes = connection.stream.is_sending() && connection.ended_by().is_none();
            break if owes { Next::Linger } else { Next::Close };
        }
        first = false;
        connection.set_busy();
        match slots.run((worker.clone(), connection.clone())).await {
            Next::Request => connection.idle.set(true),
            last => break last,
        }
    };
    if next == Next::Linger {
        linger(&worker, &connection).await;
    }
    worker.record_connection(&connection, None);
    worker.dismiss(&connection);
}

/// Waits for the first byte of a request; false if none will come. `patience` is used again and again.
async fn request_begins(
    worker: &Worker,
    connection: &Connection,
    first: bool,
    patience: &mut Sleep,
) -> bool {
    let stream = &connection.stream;
    let timeouts = timeouts(worker, connection);
    let began = worker.reactor.now();
    let until = |limit: Option<Duration>| limit.map_or(Instant::FAR, |limit| began + limit);
    // A client that connects and says nothing is slow with its head; one that was served rests.
    let (deadline, cause) = match first {
        true => (until(timeouts.head), Cause::HeaderTimeout),
        false => (until(timeouts.keep_alive), Cause::KeepAliveTimeout),
    };
    let write = until(timeouts.write);
    // Whether the last response is taken nobody tells us, so it is looked at.
    let mut look = if stream.is_sending() { write.min(deadline) } else { deadline };
    loop {
        patience.reset(look);
        if patience.limit(stream.readable()).await.is_some() {
            return !stream.has_ended();
        }
        match stream.is_sending() {
            true if look >= write => {
                connection.end_by(Cause::WriteTimeout);
                // A part must not pass for the whole.
                stream.reset_on_close();
                return false;
            }
            true => look = write,
            false if look >= deadline => {
                connection.end_by(cause);
                return false;
            }
            false => look = deadline,
        }
    }
}

/// Who waits does not hold on to a plan.
fn timeouts(worker: &Worker, connection: &Connection) -> config::ListenerTimeouts {
    let plan = worker.plan_of(connection.listener());
    plan.listener(connection.listener()).map(|listener| listener.timeouts).unwrap_or_default()
}

/// Says that nothing more comes, and reads what the client is still sending, within bounds.
async fn linger(worker: &Worker, connection: &Connection) {
    let stream = &connection.stream;
    let write = timeouts(worker, connection).write;
    let deadline = write.map_or(Instant::FAR, |limit| worker.reactor.now() + limit);
    match worker.reactor.timeout_at(deadline, stream.sent()).await {
        Some(Ok(_)) => {}
        Some(Err(_)) => return,
        None => {
            connection.end_by(Cause::WriteTimeout);
            // A part must not pass for the whole.
            return stream.reset_on_close();
        }
    }
    stream.shutdown_write();
    let deadline = worker.reactor.now() + LINGER;
    let drain = async {
        let mut idle = worker.reactor.sleep(LINGER_IDLE);
        while let Some(Ok(Some(_))) = idle.limit(stream.recv()).await {
            idle.reset(worker.reactor.now() + LINGER_IDLE);
        }
    };
    worker.reactor.timeout_at(deadline, drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of three arguments returns, without calling it.
    fn size_of_returned<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    /// What its exchanges need is in their slots.
    #[test]
    fn the_task_of_an_idle_connection_is_small() {
        let task = size_of_returned(serve::<std::future::Ready<()>>);
        assert!(task <= 512, "{task} bytes");
    }
}

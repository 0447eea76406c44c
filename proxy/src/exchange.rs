//! An exchange: one request and its response, from the client's first byte to its record.
//!
//! `Exchange::run` is the whole way of a request, in order. What decides is elsewhere, and pure:
//! what a head means ([`crate::http1`]), which route takes it ([`crate::route`]), which endpoint
//! ([`balancer`]), which idle connection ([`crate::pool`]), whether a request may be sent again
//! ([`crate::replay`]), what a failure is called ([`crate::error`]).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use reactor::{Buf, Instant, Piece, RecvError, Stream};

use crate::downstream::connection::{Connection, Job, Next};
use crate::error::{Cause, Malformed, Shortage};
use crate::http::{Method, Version};
use crate::http1::body::{BodyReader, Emit};
use crate::http1::encode::{
    Forward, OwnResponse, Proto, Respond, encode_own_response, encode_request, encode_response,
};
use crate::http1::framing::Framing;
use crate::http1::head::{
    Asked, HeadLimits, INTERIM_RESPONSES_MAX, Parsed, RequestHead, ResponseHead, parse_request,
    parse_response,
};
use crate::plan::{HttpListener, ListenerKind, Route};
use crate::record::Record;
use crate::relay::{self, Body, BodyError, INLINE_MAX, Patience, Traffic, TunnelEnd};
use crate::replay::{Try, may_replay};
use crate::spare::Desk;
use crate::upstream::{self, Attempt, Upstream};
use crate::worker::Worker;

/// A client that has said all it wants to say may close its sending direction and still wait for the
/// answer; one that has left looks the same. So the answer has this long to begin.
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The upstream's head may be as large as ours.
const RESPONSE_HEAD: HeadLimits =
    HeadLimits { header_size: 64 << 10, header_count: 256, target_size: 0 };

/// What an exchange needs while it lasts; used again by the next one.
#[derive(Default)]
pub struct Memory {
    request: Request,
    response: Response,
}

/// A request as it is being sent on.
#[derive(Default)]
pub struct Request {
    pub head: RequestHead,
    /// The bytes that the head was parsed from.
    pub bytes: Vec<u8>,
    /// What goes upstream first: the new head, and the body where it was here already and is small.
    /// Kept, so that it can be sent again.
    wire: Vec<u8>,
}

#[derive(Default)]
struct Response {
    head: ResponseHead,
    /// The bytes that the head was parsed from.
    bytes: Vec<u8>,
}

/// Larger vectors are not kept for the next exchange.
const KEPT_BYTES: usize = 16 * 1024;

impl Memory {
    /// Lets go of what only an unusual exchange needed.
    fn trim(&mut self) {
        for bytes in [&mut self.request.bytes, &mut self.request.wire, &mut self.response.bytes] {
            if bytes.capacity() > KEPT_BYTES {
                *bytes = Vec::new();
            }
        }
    }
}

/// How an exchange ends other than by the upstream's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// No request came: nothing to answer, nothing to record.
    Nothing,
    /// The upstream's connection ended before any byte of a response.
    Unanswered(Cause),
    /// Anything else that the client is told, if it can still be told.
    Because(Cause),
}

/// How the client's side of the connection ended.
enum Ended {
    /// It sends no more; whether it still reads is not known.
    Closed,
    Reset,
}

/// An upstream connection with the request on it.
struct Sent {
    attempt: Attempt,
    upstream: Upstream,
    is_reused: bool,
}

/// Which connection a request goes out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// An idle one of the pool, else a new one.
    Any,
    /// A new one.
    New,
}

struct Exchange<'a> {
    worker: &'a Rc<Worker>,
    down: &'a Connection,
    http: &'a HttpListener,
    record: Record,
}

/// Runs exchanges, one after another, in one slot.
pub async fn exchanges(desk: Rc<Desk<Job, Next>>) {
    loop {
        let (worker, down) = desk.next().await;
        desk.done(exchange(worker, down).await);
    }
}

/// Runs one exchange on a connection on which a request has begun to arrive.
async fn exchange(worker: Rc<Worker>, down: Rc<Connection>) -> Next {
    let ListenerKind::Http(http) = &worker.plan.listeners[down.listener].kind else {
        unreachable!("exchanges are of http listeners");
    };
    let mut memory = worker.memory.lease();
    let record = Record::begin(worker.reactor.now());
    let exchange = Exchange { worker: &worker, down: &down, http, record };
    let next = match exchange.run(&mut memory).await {
        Ok(next) => next,
        Err(Failure::Nothing) => return Next::Close,
        Err(Failure::Unanswered(cause) | Failure::Because(cause)) => {
            exchange.fail(&memory.request, cause).await
        }
    };
    exchange.record.end(&worker, &down, &memory.request);
    memory.trim();
    next
}

impl Exchange<'_> {
    /// The way of a request.
    async fn run(&self, memory: &mut Memory) -> Result<Next, Failure> {
        let Memory { request, response } = memory;
        self.receive_request(request).await?;
        let route = self.route(request)?;
        if request.head.method == Method::Connect {
            return self.connect(route).await;
        }
        let Some(total) = route.timeouts.total else {
            return self.forward(request, response, route).await;
        };
        let deadline = self.record.began() + total;
        let forward = self.forward(request, response, route);
        let forwarded = self.worker.reactor.timeout_at(deadline, forward).await;
        forwarded.unwrap_or(Err(Failure::Because(Cause::TotalTimeout)))
    }

    /// Sends the request to an upstream, and its response to the client.
    async fn forward(
        &self,
        request: &mut Request,
        response: &mut Response,
        route: &Route,
    ) -> Result<Next, Failure> {
        let mut body = BodyReader::new(request.head.framing, Emit::Wire);
        self.encode(request, &mut body, route)?;
        let kept = body.position();

        let mut sent = self.send(request, route, On::Any).await?;
        let mut result = self.converse(request, &mut body, response, route, &sent).await;
        // What of the body went on after the first bytes is gone.
        if let Err(Failure::Unanswered(_)) = result
            && body.position() == kept
            && may_replay(&sent.facts(request, &body))
        {
            drop(sent);
            sent = self.send(request, route, On::New).await?;
            result = self.converse(request, &mut body, response, route, &sent).await;
        }
        let next = result?;
        self.keep(sent, &response.head);
        Ok(next)
    }

    /// Reads the request's head, and gives what follows it back to the connection.
    async fn receive_request(&self, request: &mut Request) -> Result<(), Failure> {
        let timeouts = &self.worker.plan.listeners[self.down.listener].timeouts;
        let deadline = deadline(self.worker.reactor.now(), timeouts.head);
        request.bytes.clear();
        request.head.clear();
        // Of a head that comes in pieces.
        let mut charge = None;
        loop {
            if charge.is_some() && self.worker.reactor.is_out_of_memory() {
                return Err(Failure::Because(self.worker.overloaded(Shortage::Memory)));
            }
            let received = self.worker.reactor.timeout_at(deadline, self.down.stream.recv()).await;
            let mut buf = match received {
                None => return Err(Failure::Because(Cause::HeaderTimeout)),
                Some(Ok(Some(buf))) => buf,
                Some(Ok(None) | Err(_)) if request.bytes.is_empty() => {
                    return Err(Failure::Nothing);
                }
                Some(Ok(None) | Err(_)) => return Err(Failure::Because(Cause::ClientGone)),
            };
            let before = request.bytes.len();
            request.bytes.extend_from_slice(&buf);
            let parsed = parse_request(&request.bytes, &self.http.head_limits, &mut request.head);
            match parsed.map_err(|reject| Failure::Because(reject.cause))? {
                Parsed::Partial => {
                    charge = Some(self.worker.reactor.charge(request.bytes.capacity()));
                }
                Parsed::Complete { len } => {
                    request.bytes.truncate(len);
                    buf.advance(len - before);
                    self.down.stream.unrecv(buf);
                    self.record.head_read(len);
                    let bodiless =
                        matches!(request.head.framing, Framing::None | Framing::Length(0));
                    self.record.is_whole.set(bodiless);
                    drop(charge);
                    return match self.worker.reactor.is_out_of_memory() {
                        true => Err(Failure::Because(self.worker.overloaded(Shortage::Memory))),
                        false => Ok(()),
                    };
                }
            }
        }
    }

    /// Which route takes the request.
    fn route(&self, request: &Request) -> Result<&Route, Failure> {
        let (head, bytes) = (&request.head, &request.bytes);
        let found =
            self.http.router.lookup(head.host(bytes), head.path(bytes), head.method_token(bytes));
        let found = found.map(|id| id.0 as usize);
        self.record.route.set(found);
        match found {
            Some(index) => Ok(&self.worker.plan.routes[index]),
            None if head.method == Method::Connect => {
                Err(Failure::Because(Cause::ConnectNotAllowed))
            }
            None => Err(Failure::Because(Cause::NoRoute)),
        }
    }

    /// Writes what goes upstream first: the new head, and what of the body has arrived with it.
    fn encode(
        &self,
        request: &mut Request,
        body: &mut BodyReader,
        route: &Route,
    ) -> Result<(), Failure> {
        if let (Framing::Length(length), Some(max)) = (request.head.framing, self.http.body_size)
            && length > max
        {
            return Err(Failure::Because(Cause::BodyTooLarge));
        }
        let random = || self.worker.reactor.random();
        let request_id = self.record.request_id.set([random(), random()]);
        let forwarded = &self.http.forwarded;
        let peer = self.down.peer.as_ref();
        // RFC 9112 §3.2: HTTP/1.1 has a Host; what HTTP/1.0 left out, the endpoint is called.
        let nameless = request.head.host(&request.bytes).is_empty();
        let endpoints = &self.worker.plan.services[route.service].endpoints;
        let host = endpoints.first().filter(|_| nameless);
        let forward = Forward {
            client_ip: peer.filter(|_| forwarded.x_forwarded_for).map(|p| p.text.as_bytes()),
            proto: forwarded.x_forwarded_proto.then_some(Proto::Http),
            request_id: forwarded.x_request_id.then_some(&request_id[..]),
            via: forwarded.via,
            trust: peer.is_some_and(|peer| peer.is_trusted),
            host: host.map(|endpoint| endpoint.text.as_bytes()),
            target: None,
            close: false,
        };
        request.wire.clear();
        encode_request(&mut request.wire, &request.head, &request.bytes, &forward);
        let arrived = inline(&mut request.wire, body, || self.down.stream.take_arrived());
        let (rest, taken) =
            arrived.map_err(|malformed| Failure::Because(Cause::BadRequest(malformed)))?;
        self.record.body_read(taken);
        give_back(&self.down.stream, rest);
        self.record.is_whole.set(body.is_done());
        match self.http.body_size {
            // Of chunks, which say no length, this is the first that is known.
            Some(max) if taken as u64 > max && request.head.framing == Framing::Chunked => {
                Err(Failure::Because(Cause::BodyTooLarge))
            }
            _ => Ok(()),
        }
    }

    /// Gets a connection and begins to send the request on it.
    async fn send(&self, request: &Request, route: &Route, on: On) -> Result<Sent, Failure> {
        let attempt = Attempt::begin(self.worker, route.service).map_err(Failure::Because)?;
        self.record.attempt(attempt.endpoint);
        // What must not be sent twice does not go onto a connection that has just ended.
        let certain = !request.head.method.is_idempotent();
        let pooled = match on {
            On::Any => self.worker.upstreams.reuse(self.worker, &attempt, certain),
            On::New => None,
        };
        let is_reused = pooled.is_some();
        let mut upstream = match pooled {
            Some(upstream) => upstream,
            None => self.dial(&attempt).await?,
        };
        upstream.requests += 1;
        let mut wire = self.worker.reactor.take_vec();
        wire.extend_from_slice(&request.wire);
        upstream.stream.start_send([Piece::Vec(wire)]);
        self.record.sent(self.worker.reactor.clock());
        Ok(Sent { attempt, upstream, is_reused })
    }

    async fn dial(&self, attempt: &Attempt) -> Result<Upstream, Failure> {
        let connecting = pin!(upstream::dial(self.worker, attempt));
        match self.unless_client_leaves(connecting).await {
            Some(connected) => connected.map_err(Failure::Because),
            None => Err(Failure::Because(Cause::ClientGone)),
        }
    }

    /// Sends the rest of the request, and beside that receives the response and sends it on.
    async fn converse(
        &self,
        request: &Request,
        body: &mut BodyReader,
        response: &mut Response,
        route: &Route,
        sent: &Sent,
    ) -> Result<Next, Failure> {
        let uploaded = Cell::new(None);
        if body.is_done() {
            uploaded.set(Some(self.worker.reactor.now()));
            return self.respond(request, response, route, sent, &uploaded).await;
        }
        let upload = pin!(self.upload(body, route, sent, &uploaded));
        let respond = pin!(self.respond(request, response, route, sent, &uploaded));
        beside(upload, respond).await
    }

    /// Sends the rest of the request's body. Fails only where the client is to blame: what the
    /// upstream has to say it says in its response.
    async fn upload(
        &self,
        body: &mut BodyReader,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<(), Failure> {
        let timeouts = &self.worker.plan.listeners[self.down.listener].timeouts;
        let mut body = Body {
            reactor: &self.worker.reactor,
            from: &self.down.stream,
            to: &sent.upstream.stream,
            reader: body,
            patience: Patience { source: timeouts.body_idle, sink: route.timeouts.stream_idle },
            size_max: self.http.body_size.unwrap_or(u64::MAX),
            moved: &self.record.bytes_in,
        };
        let cause = match body.send_after(Vec::new()).await {
            Ok(()) => {
                uploaded.set(Some(self.worker.reactor.now()));
                self.record.is_whole.set(true);
                return Ok(());
            }
            Err(BodyError::SinkFailed(_)) => return Ok(()),
            Err(BodyError::SinkIdle) => Cause::StreamIdleTimeout,
            Err(BodyError::SourceEnded | BodyError::SourceFailed(_)) => Cause::ClientGone,
            Err(BodyError::SourceIdle) => Cause::BodyTimeout,
            Err(BodyError::Malformed(malformed)) => Cause::BadRequest(malformed),
            Err(BodyError::TooLarge) => Cause::BodyTooLarge,
        };
        Err(Failure::Because(cause))
    }

    /// Receives the response and sends it on.
    async fn respond(
        &self,
        request: &Request,
        response: &mut Response,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Next, Failure> {
        let client = request.head.version;
        let mut interim = 0;
        let mut out = loop {
            self.receive_response(request, response, route, sent, uploaded).await?;
            let mut out = self.worker.reactor.take_vec();
            if !response.head.is_interim() {
                break out;
            }
            interim += 1;
            if interim > INTERIM_RESPONSES_MAX {
                let flood = Cause::UpstreamBadResponse(Malformed::TooManyInterim);
                return Err(Failure::Because(flood));
            }
            // RFC 9110 §15.2: HTTP/1.0 has no interim responses.
            if client == Version::Http11 {
                let respond = Respond { client, keep_alive: true, ..Respond::default() };
                encode_response(&mut out, &response.head, &response.bytes, &respond);
                self.settle().await?;
                self.record.sent_out(out.len());
                self.down.stream.start_send([Piece::Vec(out)]);
            }
        };
        self.record.first_byte(self.worker.reactor.now());
        self.record.status.set(response.head.status);
        if response.head.tunnel {
            let respond = Respond { client, keep_alive: true, ..self.respond_with() };
            encode_response(&mut out, &response.head, &response.bytes, &respond);
            return self.tunnel(&sent.upstream, out, route).await;
        }

        // RFC 9112 §7.1: an HTTP/1.0 client does not know chunks.
        let unchunked = client == Version::Http10 && response.head.framing == Framing::Chunked;
        let (framing, emit) = match unchunked {
            true => (Framing::UntilClose, Emit::Content),
            false => (response.head.framing, Emit::Wire),
        };
        // A client that has not sent its whole body would take what it still sends for a request.
        let keep_alive = request.head.keep_alive()
            && uploaded.get().is_some()
            && framing != Framing::UntilClose
            && !self.worker.is_draining();
        let respond = Respond { client, keep_alive, framing, ..self.respond_with() };
        encode_response(&mut out, &response.head, &response.bytes, &respond);
        let mut body = BodyReader::new(response.head.framing, emit);
        let from = &sent.upstream.stream;
        let arrived = inline(&mut out, &mut body, || from.take_arrived());
        let (rest, _) = arrived.map_err(|malformed| {
            self.record.status.set(0); // nothing of it was sent
            Failure::Because(Cause::UpstreamBadResponse(malformed))
        })?;
        give_back(from, rest);
        self.settle().await?;
        if body.is_done() {
            self.record.sent_out(out.len());
            self.down.stream.start_send([Piece::Vec(out)]);
        } else {
            self.download(out, &mut body, route, sent).await?;
        }
        match keep_alive {
            true => Ok(Next::Request),
            false => Ok(Next::Linger),
        }
    }

    fn respond_with(&self) -> Respond {
        Respond { via: self.http.forwarded.via, ..Respond::default() }
    }

    /// Reads the next response head; what follows it stays with the upstream's stream.
    async fn receive_response(
        &self,
        request: &Request,
        response: &mut Response,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<(), Failure> {
        let asked = Asked { method: request.head.method, upgrade: request.head.upgrade };
        response.bytes.clear();
        response.head.clear();
        loop {
            let received = self.receive_within(route, sent, uploaded).await?;
            let mut buf = match received {
                Ok(Some(buf)) => buf,
                ended => {
                    let cause = match ended {
                        Err(RecvError::Reset) => Cause::UpstreamReset,
                        _ => Cause::UpstreamClosed,
                    };
                    let silent = response.bytes.is_empty() && !self.record.has_interim.get();
                    return Err(match silent {
                        true => Failure::Unanswered(cause),
                        false => Failure::Because(cause),
                    });
                }
            };
            let before = response.bytes.len();
            response.bytes.extend_from_slice(&buf);
            let parsed = parse_response(&response.bytes, &RESPONSE_HEAD, asked, &mut response.head);
            match parsed.map_err(|reject| Failure::Because(reject.cause))? {
                Parsed::Partial => {}
                Parsed::Complete { len } => {
                    response.bytes.truncate(len);
                    buf.advance(len - before);
                    sent.upstream.stream.unrecv(buf);
                    self.record.has_interim.set(true);
                    return Ok(());
                }
            }
        }
    }

    /// Receives from the upstream while the client waits; the response's time runs from the request's
    /// last byte on.
    async fn receive_within(
        &self,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Result<Option<Buf>, RecvError>, Failure> {
        let Some(patience) = route.timeouts.response else {
            return self.receive_from(sent, uploaded).await;
        };
        loop {
            let now = self.worker.reactor.now();
            let deadline = uploaded.get().unwrap_or(now) + patience;
            if deadline <= now {
                return Err(Failure::Because(Cause::ResponseTimeout));
            }
            let receive = self.receive_from(sent, uploaded);
            if let Some(received) = self.worker.reactor.timeout_at(deadline, receive).await {
                return received;
            }
        }
    }

    async fn receive_from(
        &self,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Result<Option<Buf>, RecvError>, Failure> {
        let receive = pin!(sent.upstream.stream.recv());
        if uploaded.get().is_none() {
            // The upload notices when the client leaves.
            return Ok(receive.await);
        }
        self.unless_client_leaves(receive).await.ok_or(Failure::Because(Cause::ClientGone))
    }

    /// Sends `head` and the response's body, as it comes.
    async fn download(
        &self,
        head: Vec<u8>,
        body: &mut BodyReader,
        route: &Route,
        sent: &Sent,
    ) -> Result<(), Failure> {
        let timeouts = &self.worker.plan.listeners[self.down.listener].timeouts;
        let mut body = Body {
            reactor: &self.worker.reactor,
            from: &sent.upstream.stream,
            to: &self.down.stream,
            reader: body,
            patience: Patience { source: route.timeouts.stream_idle, sink: timeouts.write },
            size_max: u64::MAX,
            moved: &self.record.bytes_out,
        };
        let sending = pin!(body.send_after(head));
        let sent = self.unless_client_left(sending).await;
        let cause = match sent {
            None => Cause::ClientGone,
            Some(Ok(())) => return Ok(()),
            Some(Err(BodyError::SourceEnded | BodyError::SourceFailed(_))) => {
                Cause::UpstreamTruncated
            }
            Some(Err(BodyError::SourceIdle)) => Cause::StreamIdleTimeout,
            Some(Err(BodyError::Malformed(malformed))) => Cause::UpstreamBadResponse(malformed),
            Some(Err(BodyError::SinkFailed(_) | BodyError::TooLarge)) => Cause::ClientGone,
            Some(Err(BodyError::SinkIdle)) => Cause::WriteTimeout,
        };
        Err(Failure::Because(cause))
    }

    /// CONNECT: a tunnel to the route's service, whatever address the client named.
    async fn connect(&self, route: &Route) -> Result<Next, Failure> {
        let attempt = Attempt::begin(self.worker, route.service).map_err(Failure::Because)?;
        self.record.attempt(attempt.endpoint);
        let upstream = self.dial(&attempt).await?;
        self.record.status.set(200);
        let established = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
        self.tunnel(&upstream, established, route).await
    }

    /// Sends `head`; from then on bytes are only bytes.
    async fn tunnel(
        &self,
        upstream: &Upstream,
        head: Vec<u8>,
        route: &Route,
    ) -> Result<Next, Failure> {
        self.settle().await?;
        let down = &self.down.stream;
        self.record.sent_out(head.len());
        if down.send([Piece::Vec(head)]).await.is_err() {
            return Err(Failure::Because(Cause::ClientGone));
        }
        let traffic = Traffic::default();
        let reactor = &self.worker.reactor;
        let idle = route.timeouts.stream_idle;
        let end = relay::tunnel(reactor, down, &upstream.stream, idle, &traffic).await;
        self.record.body_read(traffic.inward.get() as usize);
        self.record.sent_out(traffic.outward.get() as usize);
        match end {
            TunnelEnd::Closed => Ok(Next::Close),
            TunnelEnd::Idle => Err(Failure::Because(Cause::StreamIdleTimeout)),
            TunnelEnd::DownFailed => Err(Failure::Because(Cause::ClientGone)),
            TunnelEnd::UpFailed => Err(Failure::Because(Cause::UpstreamTruncated)),
        }
    }

    /// Waits until what was sent to the client before is taken, so that more can be sent.
    async fn settle(&self) -> Result<(), Failure> {
        if !self.down.stream.is_sending() {
            return Ok(());
        }
        let timeouts = &self.worker.plan.listeners[self.down.listener].timeouts;
        let deadline = deadline(self.worker.reactor.now(), timeouts.write);
        match self.worker.reactor.timeout_at(deadline, self.down.stream.sent()).await {
            None => Err(Failure::Because(Cause::WriteTimeout)),
            Some(Err(_)) => Err(Failure::Because(Cause::ClientGone)),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// What `future` gives, or `None` if the client leaves first. One that has only closed its
    /// sending direction is given some time for the answer to begin.
    async fn unless_client_leaves<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        match self.until_client_ends(future.as_mut()).await {
            Ok(output) => Some(output),
            Err(Ended::Reset) => None,
            Err(Ended::Closed) => {
                let deadline = self.worker.reactor.now() + HALF_CLOSE_GRACE;
                self.worker.reactor.timeout_at(deadline, future).await
            }
        }
    }

    /// The same for a response that is on its way: one that has closed its sending direction stays
    /// as long as bytes go to it.
    async fn unless_client_left<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        match self.until_client_ends(future.as_mut()).await {
            Ok(output) => return Some(output),
            Err(Ended::Reset) => return None,
            Err(Ended::Closed) => {}
        }
        loop {
            let before = self.record.bytes_out.get();
            let deadline = self.worker.reactor.now() + HALF_CLOSE_GRACE;
            let output = self.worker.reactor.timeout_at(deadline, future.as_mut()).await;
            if output.is_some() || self.record.bytes_out.get() == before {
                return output;
            }
        }
    }

    /// What `future` gives, or how the client's side ended first.
    async fn until_client_ends<F: Future>(
        &self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Ended> {
        let mut ended = pin!(self.down.stream.ended());
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            ended.as_mut().poll(cx).map(|end| match end {
                Ok(()) => Err(Ended::Closed),
                Err(_) => Err(Ended::Reset),
            })
        })
        .await
    }

    /// Gives the upstream connection back to its pool, if nothing speaks against it.
    fn keep(&self, sent: Sent, response: &ResponseHead) {
        let Sent { attempt, upstream, .. } = sent;
        // After an early response it may still wait for the rest of this request, and would take
        // the next one for it.
        if response.keep_alive() && self.record.is_whole.get() {
            let announced = response.keep_alive_timeout;
            let announced = announced.map(|seconds| Duration::from_secs(u64::from(seconds)));
            self.worker.upstreams.keep(self.worker, &attempt, upstream, announced);
        }
    }

    /// Tells the client why there is no response, or, if it cannot be told any more, cuts it off.
    async fn fail(&self, request: &Request, cause: Cause) -> Next {
        self.record.cause.set(Some(cause));
        let begun = self.record.status.get() != 0;
        if cause == Cause::ClientGone || cause == Cause::WriteTimeout {
            self.down.end_by(cause);
        }
        if begun || cause == Cause::ClientGone || cause == Cause::WriteTimeout {
            if !begun {
                self.record.status.set(cause.status());
            }
            // The client must not take a part for the whole.
            self.down.stream.reset_on_close();
            return Next::Close;
        }
        if self.settle().await.is_err() {
            return Next::Close;
        }
        self.record.status.set(cause.status());
        // What follows a body that was not read to its end could not be told from it.
        let keep_alive = self.record.is_whole.get()
            && request.head.keep_alive()
            && !matches!(cause, Cause::BadRequest(_))
            && !self.worker.is_draining();
        let mut out = self.worker.reactor.take_vec();
        encode_own_response(
            &mut out,
            &OwnResponse {
                cause,
                expose: self.http.expose,
                node_id: self.worker.plan.node_id.as_bytes(),
                client: request.head.version,
                keep_alive,
                head_request: request.head.method == Method::Head,
                retry_after: None,
                date: None,
            },
        );
        self.record.sent_out(out.len());
        self.down.stream.start_send([Piece::Vec(out)]);
        if keep_alive { Next::Request } else { Next::Linger }
    }
}

impl Sent {
    /// What is known when the connection ended without a response.
    fn facts(&self, request: &Request, body: &BodyReader) -> Try {
        Try {
            is_reused: self.is_reused,
            is_idempotent: request.head.method.is_idempotent(),
            is_whole: body.is_done(),
            kernel_took: self.upstream.stream.taken(),
        }
    }
}

/// Runs both until `main` is done; a failure of `side` ends it early.
async fn beside<T, E>(
    mut side: Pin<&mut impl Future<Output = Result<(), E>>>,
    mut main: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> Result<T, E> {
    let mut side_is_done = false;
    poll_fn(|cx| {
        if !side_is_done && let Poll::Ready(result) = side.as_mut().poll(cx) {
            if let Err(error) = result {
                return Poll::Ready(Err(error));
            }
            side_is_done = true;
        }
        main.as_mut().poll(cx)
    })
    .await
}

/// Copies what has arrived of a body behind its head, while it is small. Returns what of the last
/// buffer is not the body's, and how many bytes were.
fn inline(
    out: &mut Vec<u8>,
    body: &mut BodyReader,
    mut arrived: impl FnMut() -> Option<Buf>,
) -> Result<(Option<Buf>, usize), Malformed> {
    let mut taken = 0;
    while !body.is_done() && out.len() < INLINE_MAX {
        let Some(mut buf) = arrived() else { break };
        while !buf.is_empty() {
            let step = body.advance(&buf)?;
            out.extend_from_slice(body.lead());
            out.extend_from_slice(&buf[step.pass]);
            taken += step.consumed;
            buf.advance(step.consumed);
            if step.done {
                return Ok((Some(buf), taken));
            }
        }
    }
    Ok((None, taken))
}

fn give_back(stream: &Stream, rest: Option<Buf>) {
    if let Some(rest) = rest {
        stream.unrecv(rest);
    }
}

fn deadline(from: Instant, patience: Option<Duration>) -> Instant {
    patience.map_or(Instant::FAR, |patience| from + patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_returned<A, R>(_: impl Fn(A) -> R) -> usize {
        size_of::<R>()
    }

    /// A thousand exchanges at a time are a thousand of these. Whoever takes a future by value and
    /// pins it holds it twice: take `Pin<&mut F>`.
    #[test]
    fn an_exchange_is_a_page_of_memory_or_little_more() {
        let slot = size_of_returned(exchanges);
        assert!(slot <= 4608, "{slot} bytes");
    }
}

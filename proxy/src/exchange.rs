//! An exchange: one request and its response, from the client's first byte to its record.
//!
//! `Exchange::run` is the whole way of a request, in order. What decides is elsewhere, and pure:
//! what a head means ([`crate::http1`]), which route takes it ([`crate::route`]), which endpoint
//! ([`balancer`]), which idle connection ([`crate::pool`]), whether a request may be sent again
//! ([`crate::replay`]), what a failure is called ([`crate::error`]).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use reactor::{Buf, Charge, Instant, Piece, RecvError, Sleep, Stream};

use crate::downstream::connection::{Connection, Job, Next};
use crate::edits::Edits;
use crate::error::{Cause, Malformed, Shortage};
use crate::http::location::Location;
use crate::http::rewrite::NewPrefix;
use crate::http::{Method, Version};
use crate::http1::body::{BodyReader, Emit};
use crate::http1::encode::{
    Answer, Forward, OwnResponse, Proto, Respond, encode_answer, encode_own_response,
    encode_request, encode_response,
};
use crate::http1::fields::Shown;
use crate::http1::framing::Framing;
use crate::http1::head::{
    Asked, INTERIM_RESPONSES_MAX, Parsed, ResponseHead, parse_request, parse_response,
};
use crate::messages::{Request, Response};
use crate::plan::{self, Action, Backend, HttpListener, Listener, ListenerKind, Plan, Route};
use crate::record::Record;
use crate::relay::{self, Body, BodyError, INLINE_MAX, Patience, Traffic, TunnelEnd};
use crate::replay::{Try, may_replay};
use crate::route;
use crate::spare::{Desk, Lease};
use crate::upstream::{self, Attempt, Upstream};
use crate::worker::Worker;

/// A client that has said all it wants to say may close its sending direction and still wait for the
/// answer; one that has left looks the same. So the answer has this long to begin.
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(1);

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

/// What comes of an exchange that has not failed.
enum Outcome {
    Next(Next),
    /// From now on bytes are only bytes.
    Tunnel(Tunnel),
}

/// A tunnel that is open. It may last for days, so it has all it needs and holds no plan.
struct Tunnel {
    _attempt: Attempt,
    upstream: Upstream,
    idle: Option<Duration>,
    /// The whole exchange's.
    deadline: Instant,
}

/// What an exchange leaves behind that has had its response.
struct Answered {
    next: Next,
    /// The upstream takes a further request on this connection.
    upstream_stays: bool,
    /// How long it said that it keeps the connection.
    announced: Option<Duration>,
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

/// Where a request goes.
struct Way<'p> {
    route: &'p Route,
    forward: &'p plan::Forward,
    backend: &'p Backend,
    /// What of the path the route's match took.
    matched: usize,
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
    /// The one plan that the exchange sees.
    plan: &'a Plan,
    listener: &'a Listener,
    http: &'a HttpListener,
    record: Record,
    /// The slot's: for waits for an upstream, exchange after exchange.
    patience: &'a RefCell<Option<Sleep>>,
}

/// Runs exchanges, one after another, in one slot.
pub async fn exchanges(desk: Rc<Desk<Job, Next>>) {
    let patience = RefCell::new(None);
    loop {
        let (worker, down) = desk.next().await;
        desk.done(exchange(worker, down, &patience).await);
    }
}

/// Runs one exchange on a connection on which a request has begun to arrive.
async fn exchange(
    worker: Rc<Worker>,
    down: Rc<Connection>,
    patience: &RefCell<Option<Sleep>>,
) -> Next {
    let plan = worker.plan_of(down.listener());
    // A connection's listener is there, and an http listener, for as long as the connection.
    let Some(listener) = plan.listener(down.listener()) else { return Next::Close };
    let ListenerKind::Http(http) = &listener.kind else { return Next::Close };
    let mut request = worker.requests.lease();
    let record = Record::begin(worker.reactor.now());
    let (worker, down) = (&worker, &down);
    let exchange = Exchange { worker, down, plan: &plan, listener, http, record, patience };
    let outcome = match exchange.run(&mut request).await {
        Ok(outcome) => outcome,
        Err(Failure::Nothing) => return Next::Close,
        Err(Failure::Unanswered(cause) | Failure::Because(cause)) => {
            Outcome::Next(exchange.fail(&request, cause).await)
        }
    };
    let record = exchange.record;
    let parties = record.parties(&plan, listener);
    match outcome {
        Outcome::Next(next) => {
            record.end(worker, &parties, down, &request);
            next
        }
        Outcome::Tunnel(tunnel) => {
            let parties = parties.into_owned();
            drop(plan);
            if let Err(cause) = tunnel.carry(worker, down, &record).await {
                let cause = down.blame(cause);
                record.cause.set(Some(cause));
                cut_off(down, cause);
            }
            record.end(worker, &parties, down, &request);
            Next::Close
        }
    }
}

/// Ends a connection whose client must not take a part for the whole.
fn cut_off(down: &Connection, cause: Cause) {
    if cause == Cause::ClientGone || cause == Cause::WriteTimeout {
        down.end_by(cause);
        down.note_recorded();
    }
    down.stream.reset_on_close();
}

impl Exchange<'_> {
    /// The way of a request.
    async fn run(&self, request: &mut Request) -> Result<Outcome, Failure> {
        self.receive_request(request).await?;
        let (route, matched) = self.route(request)?;
        let way = match &route.action {
            Action::Forward(forward) => {
                Way { route, forward, backend: self.split(route, forward), matched }
            }
            Action::Redirect(redirect) => {
                let plan::Redirect { to, edits } = &**redirect;
                let next = self.answer(request, to.status, "", edits, Some((to, matched))).await?;
                return Ok(Outcome::Next(next));
            }
            Action::Respond(respond) => {
                let plan::Respond { status, body, edits } = &**respond;
                let next = self.answer(request, *status, body, edits, None).await?;
                return Ok(Outcome::Next(next));
            }
        };
        let Some(total) = route.timeouts.total else {
            return self.carry_out(request, &way).await;
        };
        let deadline = self.record.began() + total;
        let carried_out = self.carry_out(request, &way);
        let carried_out = self.worker.reactor.timeout_at(deadline, carried_out).await;
        carried_out.unwrap_or(Err(Failure::Because(Cause::TotalTimeout)))
    }

    async fn carry_out(&self, request: &mut Request, way: &Way<'_>) -> Result<Outcome, Failure> {
        match request.head.method {
            Method::Connect => self.connect(way).await,
            _ => self.forward(request, way).await,
        }
    }

    /// Sends the request to an upstream, and its response to the client.
    async fn forward(&self, request: &mut Request, way: &Way<'_>) -> Result<Outcome, Failure> {
        let mut body = BodyReader::new(request.head.framing, Emit::Wire);
        let inlined = self.begin_body(request, &mut body)?;
        let kept = body.position();

        let mut sent = self.send(request, way, On::Any).await?;
        let mut result = self.converse(request, &mut body, inlined, way, &sent).await;
        // What of the body went on after the first bytes is gone.
        if let Err(Failure::Unanswered(_)) = result
            && body.is_at(kept)
            && may_replay(&sent.facts(request))
        {
            drop(sent);
            self.record.begins_anew(self.worker.reactor.clock());
            sent = self.send(request, way, On::New).await?;
            result = self.converse(request, &mut body, inlined, way, &sent).await;
        }
        let Some(answered) = result? else {
            return Ok(self.tunnel(sent.attempt, sent.upstream, way.route));
        };
        let next = answered.next;
        self.keep(sent, &answered);
        Ok(Outcome::Next(next))
    }

    /// Reads the request's head, and gives what follows it back to the connection.
    async fn receive_request(&self, request: &mut Request) -> Result<(), Failure> {
        let timeouts = &self.listener.timeouts;
        let deadline = deadline(self.worker.reactor.now(), timeouts.head);
        // Of a head that comes in pieces.
        let mut charge = None;
        loop {
            if charge.is_some() && self.worker.reactor.is_out_of_memory() {
                return Err(Failure::Because(self.worker.overloaded(Shortage::Memory)));
            }
            let received = self.worker.reactor.timeout_at(deadline, self.down.stream.recv()).await;
            let mut buf = match received {
                Some(Ok(Some(buf))) => buf,
                // RFC 9112 §2.2: an empty line after a body begins no request.
                ended if request.bytes.is_empty() || request.bytes == b"\r\n" => {
                    if ended.is_none() {
                        self.down.end_by(Cause::KeepAliveTimeout);
                    }
                    return Err(Failure::Nothing);
                }
                None => return Err(Failure::Because(Cause::HeaderTimeout)),
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
                    if self.http.normalize_path {
                        request.head.normalize_path(&mut request.bytes);
                    }
                    self.down.stream.unrecv(buf);
                    self.record.head_read(self.worker.reactor.now(), len);
                    let bodiless =
                        matches!(request.head.framing, Framing::None | Framing::Length(0));
                    self.record.is_whole.set(bodiless);
                    request.charge(&self.worker.reactor);
                    return match self.worker.reactor.is_out_of_memory() {
                        true => Err(Failure::Because(self.worker.overloaded(Shortage::Memory))),
                        false => Ok(()),
                    };
                }
            }
        }
    }

    /// Which route takes the request, and how much of its path that names.
    fn route(&self, request: &Request) -> Result<(&Route, usize), Failure> {
        let (head, bytes) = (&request.head, &request.bytes);
        let found = self.http.router.lookup(&route::Request {
            host: head.host(bytes),
            path: head.path(bytes),
            method: head.method_token(bytes),
            query: head.query(bytes),
            fields: self.shown(request),
            source_ip: self.down.peer.as_ref().map(|peer| peer.ip),
        });
        let index = found.map(|chosen| chosen.route.0 as usize);
        self.record.route.set(index);
        match found.zip(index) {
            Some((chosen, index)) => Ok((&self.plan.routes[index], chosen.matched)),
            None if head.method == Method::Connect => {
                Err(Failure::Because(Cause::ConnectNotAllowed))
            }
            None => Err(Failure::Because(Cause::NoRoute)),
        }
    }

    /// The request's fields, as far as they count here.
    fn shown<'r>(&self, request: &'r Request) -> Shown<'r> {
        let trust = self.down.peer.as_ref().is_some_and(|peer| peer.is_trusted);
        request.head.fields.shown(&request.bytes, trust)
    }

    /// Which of the route's backends takes the request.
    fn split<'p>(&self, route: &Route, forward: &'p plan::Forward) -> &'p Backend {
        if let [only] = &*forward.backends {
            return only;
        }
        let mut splits = self.worker.splits.borrow_mut();
        let point = splits.next(route.id, || self.worker.reactor.random());
        &forward.backends[forward.weights.pick(point)]
    }

    /// Answers as the route says, without an upstream. `redirect`: where to, and how much of the path
    /// the match took.
    async fn answer(
        &self,
        request: &mut Request,
        status: u16,
        body: &str,
        edits: &Edits,
        redirect: Option<(&config::Redirect, usize)>,
    ) -> Result<Next, Failure> {
        if request.head.method != Method::Connect {
            // What has come of a small body is read, so that the connection can stay.
            let mut body = BodyReader::new(request.head.framing, Emit::Wire);
            self.begin_body(request, &mut body)?;
        }
        self.settle().await?;
        let (head, bytes) = (&request.head, &request.bytes);
        let location = redirect.map(|(redirect, matched)| Location {
            redirect,
            scheme: self.shown(request).scheme(),
            host: head.host(bytes),
            path: head.path(bytes),
            query: head.query(bytes),
            matched,
        });
        if location.is_some_and(|location| !location.has_host()) {
            return Err(Failure::Because(Cause::BadRequest(Malformed::MissingHost)));
        }
        let keep_alive = self.stays(request);
        let (client, head_request) = (head.version, head.method == Method::Head);
        let date = self.worker.date();
        let answer =
            Answer { status, location, body, date, edits, client, keep_alive, head_request };
        let mut out = self.worker.reactor.take_vec();
        encode_answer(&mut out, &answer);
        self.record.status.set(status);
        self.record.sent_out(out.len());
        self.down.stream.start_send([Piece::Vec(out)]);
        Ok(if keep_alive { Next::Request } else { Next::Linger })
    }

    /// Takes what of the body has arrived with the head, if it is small. Returns how many bytes of
    /// content that was.
    fn begin_body(&self, request: &mut Request, body: &mut BodyReader) -> Result<u64, Failure> {
        let allowed = self.http.body_size.unwrap_or(u64::MAX);
        if let Framing::Length(length) = request.head.framing
            && length > allowed
        {
            return Err(Failure::Because(Cause::BodyTooLarge));
        }
        let arrived = inline(&mut request.body, body, || self.down.stream.take_arrived());
        let Inlined { rest, taken, content } =
            arrived.map_err(|malformed| Failure::Because(Cause::BadRequest(malformed)))?;
        self.record.body_read(taken);
        give_back(&self.down.stream, rest);
        self.record.is_whole.set(body.is_done());
        // Of chunks, which say no length, this is the first that is known.
        match content > allowed {
            true => Err(Failure::Because(Cause::BodyTooLarge)),
            false => Ok(content),
        }
    }

    /// Writes the head that goes upstream.
    fn encode(&self, wire: &mut Vec<u8>, request: &Request, way: &Way<'_>, attempt: &Attempt) {
        let forwarded = &self.http.forwarded;
        let peer = self.down.peer.as_ref();
        let trust = peer.is_some_and(|peer| peer.is_trusted);
        let request_id = (forwarded.x_request_id && request.believed_id(trust).is_none())
            .then(|| self.record.request_id.get(|| self.worker.reactor.random()));
        // RFC 9112 §3.2: HTTP/1.1 has a Host; what HTTP/1.0 left out, the endpoint is called.
        let nameless = request.head.host(&request.bytes).is_empty();
        let endpoint = &attempt.replica.endpoint;
        let host = way.forward.host.as_deref().map(str::as_bytes);
        let prefix = way.forward.prefix.as_deref();
        let forward = Forward {
            client_ip: peer.filter(|_| forwarded.x_forwarded_for).map(|p| p.text.as_bytes()),
            proto: forwarded.x_forwarded_proto.then_some(Proto::Http),
            request_id: request_id.as_ref().map(|id| &id[..]),
            via: forwarded.via,
            trust,
            host: host.or(nameless.then_some(endpoint.text.as_bytes())),
            prefix: prefix.map(|prefix| NewPrefix { prefix, matched: way.matched }),
            edits: &way.backend.request_edits,
            close: false,
        };
        encode_request(wire, &request.head, &request.bytes, &forward);
    }

    /// Gets a connection and begins to send the request on it.
    async fn send(&self, request: &Request, way: &Way<'_>, on: On) -> Result<Sent, Failure> {
        let service = &self.plan.services[way.backend.service];
        let attempt =
            Attempt::begin(self.worker, service, &way.backend.labels).map_err(Failure::Because)?;
        self.record.attempt(way.backend.service, attempt.replica.clone());
        // What cannot be sent twice does not go onto a connection that has just ended.
        let certain = !request.head.method.is_idempotent() || !self.record.is_whole.get();
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
        self.encode(&mut wire, request, way, &attempt);
        wire.extend_from_slice(&request.body);
        upstream.stream.start_send([Piece::Vec(wire)]);
        self.record.sent(self.worker.reactor.clock());
        Ok(Sent { attempt, upstream, is_reused })
    }

    async fn dial(&self, attempt: &Attempt) -> Result<Upstream, Failure> {
        let began = self.worker.reactor.clock();
        let connecting = pin!(upstream::dial(self.worker, attempt));
        let connected = self.unless_client_leaves(connecting, || true).await;
        self.record.dialed(self.worker.reactor.clock() - began);
        match connected {
            Some(connected) => connected.map_err(Failure::Because),
            None => Err(Failure::Because(Cause::ClientGone)),
        }
    }

    /// Sends the rest of the request, and beside that receives the response and sends it on. `None`:
    /// that opened a tunnel.
    /// `inlined`: how much of the body's content went with the head.
    async fn converse(
        &self,
        request: &Request,
        body: &mut BodyReader,
        inlined: u64,
        way: &Way<'_>,
        sent: &Sent,
    ) -> Result<Option<Answered>, Failure> {
        let uploaded = Cell::new(None);
        if body.is_done() {
            uploaded.set(Some(self.worker.reactor.now()));
            return self.respond(request, way, sent, &uploaded).await;
        }
        let upload = pin!(self.upload(body, inlined, way.route, sent, &uploaded));
        let respond = pin!(self.respond(request, way, sent, &uploaded));
        beside(upload, respond).await
    }

    /// Sends the rest of the request's body. Fails only where the client is to blame: what the
    /// upstream has to say it says in its response.
    async fn upload(
        &self,
        body: &mut BodyReader,
        inlined: u64,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<(), Failure> {
        let timeouts = &self.listener.timeouts;
        let mut body = Body {
            reactor: &self.worker.reactor,
            from: &self.down.stream,
            to: &sent.upstream.stream,
            reader: body,
            patience: Patience { source: timeouts.body_idle, sink: route.timeouts.stream_idle },
            size_max: self.http.body_size.map_or(u64::MAX, |max| max - inlined),
            moved: &self.record.bytes_in,
        };
        let cause = match body.send_after(Vec::new()).await {
            Ok(()) => {
                uploaded.set(Some(self.worker.reactor.now()));
                self.record.is_whole.set(true);
                self.record.uploaded(self.worker.reactor.now());
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

    /// Receives the response and sends it on. `None`: it opens a tunnel.
    async fn respond(
        &self,
        request: &Request,
        way: &Way<'_>,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Option<Answered>, Failure> {
        let route = way.route;
        let client = request.head.version;
        let mut interim = 0;
        let (mut out, response) = loop {
            let response = self.receive_response(request, route, sent, uploaded).await?;
            let mut out = self.worker.reactor.take_vec();
            if !response.head.is_interim() {
                break (out, response);
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
        let status = response.head.status;
        if response.head.tunnel {
            let respond =
                Respond { client, keep_alive: true, ..self.respond_with(way, &response.head) };
            encode_response(&mut out, &response.head, &response.bytes, &respond);
            drop(response);
            self.begin_tunnel(status, out).await?;
            return Ok(None);
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
            && !self.worker.is_leaving(self.down.listener());
        let respond =
            Respond { client, keep_alive, framing, ..self.respond_with(way, &response.head) };
        encode_response(&mut out, &response.head, &response.bytes, &respond);
        let mut body = BodyReader::new(response.head.framing, emit);
        let announced = response.head.keep_alive_timeout;
        let answered = Answered {
            next: if keep_alive { Next::Request } else { Next::Linger },
            upstream_stays: response.head.keep_alive(),
            announced: announced.map(|seconds| Duration::from_secs(u64::from(seconds))),
        };
        drop(response);

        let from = &sent.upstream.stream;
        let arrived = inline(&mut out, &mut body, || from.take_arrived());
        let arrived = arrived.map_err(|malformed| {
            Failure::Because(Cause::UpstreamBadResponse(malformed)) // nothing of it was sent
        })?;
        give_back(from, arrived.rest);
        self.settle().await?;
        self.record.status.set(status);
        if body.is_done() {
            self.record.sent_out(out.len());
            self.down.stream.start_send([Piece::Vec(out)]);
        } else {
            self.download(out, &mut body, route, sent).await?;
        }
        Ok(Some(answered))
    }

    fn respond_with<'p>(&self, way: &Way<'p>, head: &ResponseHead) -> Respond<'p> {
        let date = (!head.is_dated()).then(|| self.worker.date());
        let edits = &way.backend.response_edits;
        Respond { via: self.http.forwarded.via, date, edits, ..Respond::default() }
    }

    /// Reads the next response head; what follows it stays with the upstream's stream.
    async fn receive_response(
        &self,
        request: &Request,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Lease<Response>, Failure> {
        let asked = Asked { method: request.head.method, upgrade: request.head.upgrade };
        let limits = &self.http.head_limits;
        let mut begun: Option<(Lease<Response>, Charge)> = None;
        loop {
            let received = self.receive_within(request, route, sent, uploaded).await?;
            let mut buf = match received {
                Ok(Some(buf)) => buf,
                ended => {
                    let cause = match ended {
                        Err(RecvError::Reset) => Cause::UpstreamReset,
                        _ => Cause::UpstreamClosed,
                    };
                    let silent = begun.is_none() && !self.record.has_answer.get();
                    return Err(match silent {
                        true => Failure::Unanswered(cause),
                        false => Failure::Because(cause),
                    });
                }
            };
            let mut response = match begun.take() {
                Some((response, _)) => response,
                None => self.worker.responses.lease(),
            };
            let Response { head, bytes } = &mut *response;
            let before = bytes.len();
            bytes.extend_from_slice(&buf);
            let parsed = parse_response(bytes, limits, asked, head);
            match parsed.map_err(|reject| Failure::Because(reject.cause))? {
                Parsed::Partial => {
                    let charge = self.worker.reactor.charge(response.bytes.capacity());
                    begun = Some((response, charge));
                }
                Parsed::Complete { len } => {
                    bytes.truncate(len);
                    buf.advance(len - before);
                    sent.upstream.stream.unrecv(buf);
                    self.record.has_answer.set(true);
                    return Ok(response);
                }
            }
        }
    }

    /// Receives from the upstream while the client waits; the response's time runs from the request's
    /// last byte on.
    async fn receive_within(
        &self,
        request: &Request,
        route: &Route,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Result<Option<Buf>, RecvError>, Failure> {
        let (patience, cause) = match (route.timeouts.response, route.timeouts.stream_idle) {
            (Some(response), _) => (response, Cause::ResponseTimeout),
            (None, Some(idle)) => (idle, Cause::StreamIdleTimeout),
            (None, None) => return self.receive_from(sent, uploaded).await,
        };
        let began = self.worker.reactor.now();
        let taken = self.record.bytes_in.get();
        loop {
            let now = self.worker.reactor.now();
            // A client that waits for a 100 sends no last byte before the upstream has said it.
            let waits = request.head.expects_continue
                && !self.record.has_answer.get()
                && request.body.is_empty()
                && self.record.bytes_in.get() == taken;
            let from = match uploaded.get() {
                Some(uploaded) if cause == Cause::ResponseTimeout => uploaded,
                Some(uploaded) => uploaded.max(began),
                None if waits => began,
                None => now,
            };
            let deadline = from + patience;
            if deadline <= now {
                return Err(Failure::Because(cause));
            }
            let mut receive = pin!(self.receive_from(sent, uploaded));
            self.set_patience(deadline);
            let received = poll_fn(|cx| match receive.as_mut().poll(cx) {
                Poll::Ready(received) => Poll::Ready(Some(received)),
                Poll::Pending => self.poll_patience(cx).map(|()| None),
            });
            if let Some(received) = received.await {
                return received;
            }
        }
    }

    fn set_patience(&self, deadline: Instant) {
        match &mut *self.patience.borrow_mut() {
            Some(patience) => patience.reset(deadline),
            none => *none = Some(self.worker.reactor.sleep_until(deadline)),
        }
    }

    fn poll_patience(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.patience.borrow_mut() {
            Some(patience) => Pin::new(patience).poll(cx),
            None => Poll::Pending,
        }
    }

    /// Receives from the upstream unless the client leaves. While the request's body still comes, its
    /// upload notices an end within it.
    async fn receive_from(
        &self,
        sent: &Sent,
        uploaded: &Cell<Option<Instant>>,
    ) -> Result<Result<Option<Buf>, RecvError>, Failure> {
        let receive = pin!(sent.upstream.stream.recv());
        let received = self.unless_client_leaves(receive, || uploaded.get().is_some()).await;
        received.ok_or(Failure::Because(Cause::ClientGone))
    }

    /// Sends `head` and the response's body, as it comes.
    async fn download(
        &self,
        head: Vec<u8>,
        body: &mut BodyReader,
        route: &Route,
        sent: &Sent,
    ) -> Result<(), Failure> {
        let timeouts = &self.listener.timeouts;
        let before = self.record.bytes_out.get();
        self.record.streams();
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
        // What is wrong at once can still be said in words.
        let unsent = self.record.bytes_out.get() == before;
        let cause = match sent {
            None => Cause::ClientGone,
            Some(Ok(())) => return Ok(()),
            Some(Err(BodyError::SourceEnded)) if unsent => Cause::UpstreamClosed,
            Some(Err(BodyError::SourceFailed(_))) if unsent => Cause::UpstreamReset,
            Some(Err(BodyError::SourceEnded | BodyError::SourceFailed(_))) => {
                Cause::UpstreamTruncated
            }
            Some(Err(BodyError::SourceIdle)) => Cause::StreamIdleTimeout,
            Some(Err(BodyError::Malformed(malformed))) => Cause::UpstreamBadResponse(malformed),
            Some(Err(BodyError::SinkFailed(_) | BodyError::TooLarge)) => Cause::ClientGone,
            Some(Err(BodyError::SinkIdle)) => Cause::WriteTimeout,
        };
        if unsent {
            self.record.status.set(0);
        }
        Err(Failure::Because(cause))
    }

    /// CONNECT: a tunnel to the route's service, whatever address the client named.
    async fn connect(&self, way: &Way<'_>) -> Result<Outcome, Failure> {
        let service = &self.plan.services[way.backend.service];
        let attempt =
            Attempt::begin(self.worker, service, &way.backend.labels).map_err(Failure::Because)?;
        self.record.attempt(way.backend.service, attempt.replica.clone());
        let upstream = self.dial(&attempt).await?;
        let established = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
        self.begin_tunnel(200, established).await?;
        Ok(self.tunnel(attempt, upstream, way.route))
    }

    /// Sends `head`, which says `status`.
    async fn begin_tunnel(&self, status: u16, head: Vec<u8>) -> Result<(), Failure> {
        self.settle().await?;
        self.record.status.set(status);
        self.record.streams();
        self.record.sent_out(head.len());
        match self.down.stream.send([Piece::Vec(head)]).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::Because(Cause::ClientGone)),
        }
    }

    fn tunnel(&self, attempt: Attempt, upstream: Upstream, route: &Route) -> Outcome {
        let (idle, began) = (route.timeouts.stream_idle, self.record.began());
        let deadline = deadline(began, route.timeouts.total);
        Outcome::Tunnel(Tunnel { _attempt: attempt, upstream, idle, deadline })
    }

    /// Waits until what was sent to the client before is taken, so that more can be sent.
    async fn settle(&self) -> Result<(), Failure> {
        if !self.down.stream.is_sending() {
            return Ok(());
        }
        let timeouts = &self.listener.timeouts;
        let deadline = deadline(self.worker.reactor.now(), timeouts.write);
        match self.worker.reactor.timeout_at(deadline, self.down.stream.sent()).await {
            None => Err(Failure::Because(Cause::WriteTimeout)),
            Some(Err(_)) => Err(Failure::Because(Cause::ClientGone)),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// What `future` gives, or `None` if the client leaves first. One that has only closed its sending
    /// direction, while that is `watched`, is given some time for the answer to begin.
    async fn unless_client_leaves<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
        watched: impl Fn() -> bool,
    ) -> Option<T> {
        match self.until_client_ends(future.as_mut(), watched).await {
            Ok(output) => Some(output),
            Err(Ended::Reset) => None,
            Err(Ended::Closed) => {
                let deadline = self.worker.reactor.now() + HALF_CLOSE_GRACE;
                self.worker.reactor.timeout_at(deadline, future).await
            }
        }
    }

    /// The same for a response that is on its way: one that has closed its sending direction stays
    /// as long as bytes go to it, or are on their way to it, which would reset one that has left.
    async fn unless_client_left<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        match self.until_client_ends(future.as_mut(), || true).await {
            Ok(output) => return Some(output),
            Err(Ended::Reset) => return None,
            Err(Ended::Closed) => {}
        }
        loop {
            let before = self.record.bytes_out.get();
            let deadline = self.worker.reactor.now() + HALF_CLOSE_GRACE;
            let output = self.worker.reactor.timeout_at(deadline, future.as_mut()).await;
            let moves = self.record.bytes_out.get() != before || self.down.stream.waits_to_write();
            if output.is_some() || !moves {
                return output;
            }
        }
    }

    /// What `future` gives, or how the client's side ended first: in order only while that is
    /// `watched`.
    async fn until_client_ends<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        watched: impl Fn() -> bool,
    ) -> Result<F::Output, Ended> {
        let mut ended = pin!(self.down.stream.ended());
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            match ended.as_mut().poll(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(Err(Ended::Reset)),
                Poll::Ready(Ok(())) if watched() => Poll::Ready(Err(Ended::Closed)),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Gives the upstream connection back to its pool, if nothing speaks against it.
    fn keep(&self, sent: Sent, answered: &Answered) {
        let Sent { attempt, upstream, .. } = sent;
        // After an early response it may still wait for the rest of this request, and would take
        // the next one for it.
        if answered.upstream_stays && self.record.is_whole.get() {
            self.worker.upstreams.keep(self.worker, &attempt, upstream, answered.announced);
        }
    }

    /// Whether the connection can carry a further request after an answer of our own.
    fn stays(&self, request: &Request) -> bool {
        // What follows a body that was not read to its end could not be told from it; and what
        // follows a CONNECT was meant for a tunnel, and is no request.
        self.record.is_whole.get()
            && request.head.method != Method::Connect
            && request.head.keep_alive()
            && !self.worker.is_leaving(self.down.listener())
    }

    /// Tells the client why there is no response, or, if it cannot be told any more, cuts it off.
    async fn fail(&self, request: &Request, cause: Cause) -> Next {
        let cause = self.down.blame(cause);
        self.record.cause.set(Some(cause));
        let begun = self.record.status.get() != 0;
        if begun || cause == Cause::ClientGone || cause == Cause::WriteTimeout {
            if !begun {
                self.record.status.set(Cause::ClientGone.status());
            }
            cut_off(self.down, cause);
            return Next::Close;
        }
        if self.settle().await.is_err() {
            self.record.status.set(Cause::ClientGone.status());
            return Next::Close;
        }
        self.record.status.set(cause.status());
        let keep_alive = self.stays(request) && !matches!(cause, Cause::BadRequest(_));
        let mut out = self.worker.reactor.take_vec();
        encode_own_response(
            &mut out,
            &OwnResponse {
                cause,
                expose: self.http.expose,
                node_id: self.plan.node_id.as_bytes(),
                date: self.worker.date(),
                client: request.head.version,
                keep_alive,
                head_request: request.head.method == Method::Head,
            },
        );
        self.record.sent_out(out.len());
        self.down.stream.start_send([Piece::Vec(out)]);
        if keep_alive { Next::Request } else { Next::Linger }
    }
}

impl Tunnel {
    /// Carries bytes both ways until the peers have had enough; else what ended it.
    async fn carry(
        &self,
        worker: &Worker,
        down: &Connection,
        record: &Record,
    ) -> Result<(), Cause> {
        let (reactor, traffic) = (&worker.reactor, Traffic::default());
        let carried =
            relay::tunnel(reactor, &down.stream, &self.upstream.stream, self.idle, &traffic);
        let end = reactor.timeout_at(self.deadline, carried).await;
        record.body_read(traffic.inward.get() as usize);
        record.sent_out(traffic.outward.get() as usize);
        match end {
            Some(TunnelEnd::Closed) => Ok(()),
            Some(TunnelEnd::Idle) => Err(Cause::StreamIdleTimeout),
            Some(TunnelEnd::DownFailed) => Err(Cause::ClientGone),
            Some(TunnelEnd::UpFailed) => Err(Cause::UpstreamTruncated),
            None => Err(Cause::TotalTimeout),
        }
    }
}

impl Sent {
    /// What is known when the connection ended without a response.
    fn facts(&self, request: &Request) -> Try {
        Try {
            is_reused: self.is_reused,
            is_idempotent: request.head.method.is_idempotent(),
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

/// What [`inline`] took.
struct Inlined {
    /// Of the last buffer, what is not the body's.
    rest: Option<Buf>,
    /// Bytes, framing included.
    taken: usize,
    /// Bytes of content.
    content: u64,
}

/// Copies what has arrived of a body behind its head, while it is small.
fn inline(
    out: &mut Vec<u8>,
    body: &mut BodyReader,
    mut arrived: impl FnMut() -> Option<Buf>,
) -> Result<Inlined, Malformed> {
    let mut inlined = Inlined { rest: None, taken: 0, content: 0 };
    while !body.is_done() && out.len() < INLINE_MAX {
        let Some(mut buf) = arrived() else { break };
        while !buf.is_empty() {
            let step = body.advance(&buf)?;
            out.extend_from_slice(body.lead());
            out.extend_from_slice(&buf[step.pass]);
            inlined.taken += step.consumed;
            inlined.content += step.content as u64;
            buf.advance(step.consumed);
            if step.done {
                inlined.rest = Some(buf);
                return Ok(inlined);
            }
        }
    }
    Ok(inlined)
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
        assert!(slot <= 5120, "{slot} bytes");
    }
}

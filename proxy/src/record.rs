//! What is remembered of an exchange while it runs, and written down once, at its end.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use reactor::Instant;

use crate::downstream::connection::Connection;
use crate::error::Cause;
use crate::messages::Request;
use crate::plan::{Listener, Plan};
use crate::request_id::RequestId;
use crate::telemetry::access::Access;
use crate::telemetry::counters::{self, Direction};
use crate::telemetry::names::{ListenerId, RouteId, ServiceId};
use crate::upstream::Replica;
use crate::worker::Worker;

/// The state of one exchange that is of no consequence for its course.
pub struct Record {
    began: Instant,
    has_head: Cell<bool>,
    /// The request is read to its end.
    pub is_whole: Cell<bool>,
    /// By the plan's index.
    pub route: Cell<Option<usize>>,
    /// By the plan's index; of no meaning without an attempt.
    service: Cell<usize>,
    endpoint: RefCell<Option<Rc<Replica>>>,
    attempts: Cell<u32>,
    pub request_id: RequestId,
    /// What the client was told; 0 until then.
    pub status: Cell<u16>,
    /// Why ringside answered or cut off by itself.
    pub cause: Cell<Option<Cause>>,
    /// Something of a response has come.
    pub has_answer: Cell<bool>,
    /// When the head was complete.
    complete: Cell<Instant>,
    /// What connecting took.
    dialed: Cell<Duration>,
    /// When the request went out: its head, or the last of a body that came after it.
    sent: Cell<Option<Instant>>,
    /// A body came after the head, so that the time until then is the client's.
    uploads: Cell<bool>,
    first_byte: Cell<Option<Instant>>,
    /// The response goes on as it comes.
    streams: Cell<bool>,
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
}

/// Who took part in an exchange: their numbers, and their names.
pub struct Parties<'p> {
    listener: (ListenerId, Cow<'p, str>),
    /// `None` if no route took it.
    route: Option<(RouteId, Cow<'p, str>)>,
    /// `None` if it was not sent towards a service.
    service: Option<(ServiceId, Cow<'p, str>)>,
}

impl Parties<'_> {
    /// Without the plan that they were found in.
    pub fn into_owned(self) -> Parties<'static> {
        fn own<Id>((id, name): (Id, Cow<'_, str>)) -> (Id, Cow<'static, str>) {
            (id, Cow::Owned(name.into_owned()))
        }
        Parties {
            listener: own(self.listener),
            route: self.route.map(own),
            service: self.service.map(own),
        }
    }
}

impl Record {
    pub fn begin(now: Instant) -> Record {
        Record {
            began: now,
            has_head: Cell::new(false),
            is_whole: Cell::new(false),
            route: Cell::new(None),
            service: Cell::new(0),
            endpoint: RefCell::new(None),
            attempts: Cell::new(0),
            request_id: RequestId::default(),
            status: Cell::new(0),
            cause: Cell::new(None),
            has_answer: Cell::new(false),
            complete: Cell::new(now),
            dialed: Cell::new(Duration::ZERO),
            sent: Cell::new(None),
            uploads: Cell::new(false),
            first_byte: Cell::new(None),
            streams: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
        }
    }

    /// When the exchange began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The request's head is read; it had so many bytes.
    pub fn head_read(&self, now: Instant, bytes: usize) {
        self.has_head.set(true);
        self.complete.set(now);
        self.body_read(bytes);
    }

    /// Bytes came from the client.
    pub fn body_read(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    /// Bytes go to the client.
    pub fn sent_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// An endpoint of a service is tried.
    pub fn attempt(&self, service: usize, endpoint: Rc<Replica>) {
        self.service.set(service);
        self.endpoint.replace(Some(endpoint));
        self.attempts.set(self.attempts.get() + 1);
    }

    /// Connecting took so long, whatever came of it.
    pub fn dialed(&self, time: Duration) {
        self.dialed.set(self.dialed.get() + time);
    }

    /// The request goes out.
    pub fn sent(&self, now: Instant) {
        self.sent.set(Some(now));
    }

    /// The last of a body that came after its head goes out.
    pub fn uploaded(&self, now: Instant) {
        self.uploads.set(true);
        if self.first_byte.get().is_none() {
            self.sent.set(Some(now));
        }
    }

    /// The request is to go out once more: what was before was the upstream's time.
    pub fn begins_anew(&self, now: Instant) {
        self.complete.set(now);
        self.dialed.set(Duration::ZERO);
    }

    /// The response goes on as it comes, so that its time is the peers'.
    pub fn streams(&self) {
        self.streams.set(true);
    }

    /// The final response begins.
    pub fn first_byte(&self, now: Instant) {
        self.first_byte.set(Some(now));
    }

    /// Who took part. `plan` is the exchange's, and has its listener.
    pub fn parties<'p>(&self, plan: &'p Plan, listener: &'p Listener) -> Parties<'p> {
        let route = self.route.get().map(|index| &plan.routes[index]);
        let service = (self.attempts.get() > 0).then(|| &plan.services[self.service.get()]);
        Parties {
            listener: (listener.id, Cow::Borrowed(&listener.name)),
            route: route.map(|route| (route.id, Cow::Borrowed(&*route.name))),
            service: service.map(|service| (service.id, Cow::Borrowed(&*service.name))),
        }
    }

    /// Writes it down.
    pub fn end(
        &self,
        worker: &Worker,
        parties: &Parties<'_>,
        down: &Connection,
        request: &Request,
    ) {
        let Parties { listener: (listener, listener_name), route, service } = parties;
        let now = worker.reactor.clock();
        let cause = self.cause.get();
        let mut counters = worker.counters.borrow_mut();
        counters.exchange(&counters::Exchange {
            listener: *listener,
            route: route.as_ref().map(|(id, _)| *id),
            service: service.as_ref().map(|(id, _)| *id),
            code: self.status.get(),
            cause: cause.map(Cause::name),
            duration: now - self.began,
            upstream: self.sent.get().map(|sent| self.upstream(sent, now)),
        });
        counters.bytes(*listener, Direction::In, self.bytes_in.get());
        counters.bytes(*listener, Direction::Out, self.bytes_out.get());
        drop(counters);
        if !worker.samples_access() {
            return;
        }
        let has_head = self.has_head.get();
        let endpoint = self.endpoint.borrow();
        let endpoint = endpoint.as_ref().map(|replica| &replica.endpoint);
        let trust = down.peer.as_ref().is_some_and(|peer| peer.is_trusted);
        let made = self.request_id.text();
        let made = made.as_ref().map_or(&b""[..], |id| &id[..]);
        let request_id = request.believed_id(trust).filter(|_| has_head).unwrap_or(made);
        let (head, bytes) = (&request.head, &request.bytes);
        worker.record_access(&Access {
            time: worker.reactor.wall_clock() - (now - self.began),
            listener: listener_name,
            route: route.as_ref().map_or("", |(_, name)| name),
            service: service.as_ref().map_or("", |(_, name)| name),
            endpoint: endpoint.map_or("", |endpoint| &endpoint.name),
            method: if has_head { head.method_token(bytes) } else { b"" },
            path: if has_head { head.target(bytes) } else { b"" },
            protocol: if has_head { head.version.name() } else { "" },
            status: self.status.get(),
            cause: cause.map_or("", Cause::name),
            duration: now - self.began,
            first_byte: self.first_byte.get().map(|first| first - self.began),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            request_id,
            source_ip: down.peer.as_ref().map_or(b"", |peer| peer.text.as_bytes()),
            attempts: self.attempts.get(),
        });
    }

    /// The times of an exchange that reached an upstream. What is ours: from the request's head to its
    /// departure, without connecting, and from the response's arrival to its departure, where it
    /// was here whole.
    fn upstream(&self, sent: Instant, now: Instant) -> counters::Upstream {
        let first_byte = self.first_byte.get();
        let out = (sent - self.complete.get()).saturating_sub(self.dialed.get());
        let back = first_byte.filter(|_| !self.streams.get()).map_or(Duration::ZERO, |at| now - at);
        counters::Upstream {
            first_byte: first_byte.map(|first| first - sent),
            overhead: if self.uploads.get() { back } else { out + back },
        }
    }
}

//! One worker's counters: plain integers that only this worker touches.
//!
//! Rows are made when their listener, route or service is first seen; from then on counting is a
//! look-up and an addition, without an allocation. Gauges are counted up and down here as well, so
//! a worker's copy is right by itself and the sum over the workers is the process'.
//!
//! Causes are the names of [`crate::error::Cause`]; taking them as text keeps this file free of
//! who is to blame.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::histogram::{EXCHANGE, Histogram, OWN};
use super::names::{ListenerId, Names, RouteId, ServiceId};

/// Different (code, cause) pairs that one row tells apart. Codes come from upstreams, and a hostile
/// one may send every number; what comes after that many is counted as one.
const OUTCOMES_MAX: usize = 64;
/// Stands for the codes beyond [`OUTCOMES_MAX`]; no status is 0.
pub(super) const OTHER_CODE: u16 = 0;

/// How an exchange ended, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub listener: ListenerId,
    /// `None` if no route took it.
    pub route: Option<RouteId>,
    /// `None` if it was not sent towards a service.
    pub service: Option<ServiceId>,
    /// What the client was sent, or 499 if it had gone.
    pub code: u16,
    /// Why ringside answered or cut off by itself; `None` if the upstream's word stands.
    pub cause: Option<&'static str>,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// What the upstream and ringside took; `None` if no upstream was reached.
    pub upstream: Option<Upstream>,
}

/// The times of an exchange that reached an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// From the request's last byte out to the response's first byte in; `None` if none came.
    pub first_byte: Option<Duration>,
    /// What ringside itself added: the time in which neither peer was waited for.
    pub overhead: Duration,
}

/// Which way bytes went, as the downstream sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the downstream.
    In,
    /// To the downstream.
    Out,
}

/// Everything that a worker counts.
#[derive(Clone, Debug)]
pub struct Counters {
    pub(super) exchanges: Vec<Exchanges>,
    /// Where in `exchanges` a key's row is.
    rows: HashMap<Key, usize, FixedState>,
    /// The row that was counted last: most often it is the next one too, and saves the look-up.
    last_row: usize,
    pub(super) listeners: HashMap<ListenerId, Listener, FixedState>,
    pub(super) services: HashMap<ServiceId, Service, FixedState>,
    pub(super) overhead: Histogram,
    pub(super) loop_lag: Histogram,
    /// All exchanges: the sum over `exchanges`.
    pub(super) requests: u64,
    /// Downstream connections: the sum over `listeners`.
    pub(super) connections_active: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) listener: ListenerId,
    pub(super) route: Option<RouteId>,
    pub(super) service: Option<ServiceId>,
}

/// The exchanges of one listener by one route with one service.
#[derive(Clone, Debug)]
pub(super) struct Exchanges {
    pub(super) key: Key,
    /// At most [`OUTCOMES_MAX`] and one for the rest; a handful in real life, so a scan is quick.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) duration: Histogram,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) code: u16,
    pub(super) cause: Option<&'static str>,
    pub(super) count: u64,
}

/// One listener's connections and bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub(super) active: i64,
    pub(super) total: u64,
    /// By cause, `None` for a connection that ended as it should; as many as there are causes.
    pub(super) closed: Vec<(Option<&'static str>, u64)>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// One service's upstream connections.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) active: i64,
    pub(super) total: u64,
    pub(super) reused: u64,
    pub(super) pending: i64,
    pub(super) first_byte: Histogram,
}

impl Default for Service {
    fn default() -> Service {
        let first_byte = Histogram::new(&EXCHANGE);
        Service { active: 0, total: 0, reused: 0, pending: 0, first_byte }
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters::new()
    }
}

impl Counters {
    pub fn new() -> Counters {
        Counters {
            exchanges: Vec::new(),
            // A fixed seed: keys are our own numbers, and the simulator's runs must repeat.
            rows: HashMap::default(),
            last_row: 0,
            listeners: HashMap::default(),
            services: HashMap::default(),
            overhead: Histogram::new(&OWN),
            loop_lag: Histogram::new(&OWN),
            requests: 0,
            connections_active: 0,
        }
    }

    /// An exchange has ended. Once for each.
    pub fn exchange(&mut self, exchange: &Exchange) {
        let Exchange { listener, route, service, code, cause, duration, upstream } = *exchange;
        self.requests += 1;
        let row = self.row(Key { listener, route, service });
        row.count(code, cause, 1);
        let Some(upstream) = upstream else { return };
        row.duration.record(duration);
        self.overhead.record(upstream.overhead);
        if let (Some(service), Some(first_byte)) = (service, upstream.first_byte) {
            self.service(service).first_byte.record(first_byte);
        }
    }

    /// A downstream connection was accepted. Each is followed by one `connection_closed`.
    pub fn connection_opened(&mut self, listener: ListenerId) {
        self.connections_active += 1;
        let listener = self.listener(listener);
        listener.active += 1;
        listener.total += 1;
    }

    /// A downstream connection is closed; `cause` is `None` if it ended as it should.
    pub fn connection_closed(&mut self, listener: ListenerId, cause: Option<&'static str>) {
        self.connections_active -= 1;
        let listener = self.listener(listener);
        listener.active -= 1;
        listener.count_closed(cause, 1);
    }

    /// Another listener has a downstream connection that is open.
    pub fn connection_moved(&mut self, from: ListenerId, to: ListenerId) {
        self.listener(from).active -= 1;
        self.listener(to).active += 1;
    }

    /// Bytes that went over downstream connections.
    pub fn bytes(&mut self, listener: ListenerId, direction: Direction, count: u64) {
        let listener = self.listener(listener);
        match direction {
            Direction::In => listener.bytes_in += count,
            Direction::Out => listener.bytes_out += count,
        }
    }

    /// A new upstream connection is up. Each is followed by one `upstream_closed`.
    pub fn upstream_opened(&mut self, service: ServiceId) {
        let service = self.service(service);
        service.active += 1;
        service.total += 1;
    }

    pub fn upstream_closed(&mut self, service: ServiceId) {
        self.service(service).active -= 1;
    }

    /// A request went out on a connection that had carried another one before.
    pub fn upstream_reused(&mut self, service: ServiceId) {
        self.service(service).reused += 1;
    }

    /// A request begins to wait for an upstream connection. Each is followed by one
    /// `upstream_waited`.
    pub fn upstream_waiting(&mut self, service: ServiceId) {
        self.service(service).pending += 1;
    }

    pub fn upstream_waited(&mut self, service: ServiceId) {
        self.service(service).pending -= 1;
    }

    /// How long an event that was ready waited for the loop to come round.
    pub fn loop_lag(&mut self, lag: Duration) {
        self.loop_lag.record(lag);
    }

    /// Makes a row for each listener and service, so that what was never touched is there and zero.
    pub(super) fn cover(&mut self, names: &Names) {
        for (id, _) in names.listeners() {
            self.listener(id);
        }
        for (id, _) in names.services() {
            self.service(id);
        }
    }

    /// Drops the rows of names that are forgotten.
    pub fn forget(&mut self, names: &Names) {
        self.listeners.retain(|id, _| !names.listener_name(*id).is_empty());
        self.services.retain(|id, _| !names.service_name(*id).is_empty());
        self.exchanges.retain(|row| row.key.is_known(names));
        let rows = self.exchanges.iter().enumerate().map(|(place, row)| (row.key, place));
        self.rows = rows.collect();
        self.last_row = 0;
    }

    /// Adds another worker's counters.
    pub fn merge(&mut self, other: &Counters) {
        for theirs in &other.exchanges {
            let ours = self.row(theirs.key);
            for outcome in &theirs.outcomes {
                ours.count(outcome.code, outcome.cause, outcome.count);
            }
            ours.duration.merge(&theirs.duration);
        }
        for (id, theirs) in &other.listeners {
            self.listener(*id).merge(theirs);
        }
        for (id, theirs) in &other.services {
            self.service(*id).merge(theirs);
        }
        self.overhead.merge(&other.overhead);
        self.loop_lag.merge(&other.loop_lag);
        self.requests += other.requests;
        self.connections_active += other.connections_active;
    }

    /// How many exchanges each route took; a route may be there several times.
    pub fn requests_by_route(&self) -> impl Iterator<Item = (RouteId, u64)> {
        self.exchanges.iter().filter_map(|row| {
            let count = row.outcomes.iter().map(|outcome| outcome.count).sum();
            Some((row.key.route?, count))
        })
    }

    fn row(&mut self, key: Key) -> &mut Exchanges {
        let exchanges = &mut self.exchanges;
        if exchanges.get(self.last_row).is_none_or(|row| row.key != key) {
            self.last_row = *self.rows.entry(key).or_insert_with(|| {
                exchanges.push(Exchanges::new(key));
                exchanges.len() - 1
            });
        }
        &mut exchanges[self.last_row]
    }

    fn listener(&mut self, id: ListenerId) -> &mut Listener {
        self.listeners.entry(id).or_default()
    }

    fn service(&mut self, id: ServiceId) -> &mut Service {
        self.services.entry(id).or_default()
    }
}

impl Key {
    pub(super) fn is_known(&self, names: &Names) -> bool {
        let Key { listener, route, service } = *self;
        !names.listener_name(listener).is_empty()
            && route.is_none_or(|route| !names.route_name(route).is_empty())
            && service.is_none_or(|service| !names.service_name(service).is_empty())
    }
}

impl Exchanges {
    fn new(key: Key) -> Exchanges {
        Exchanges { key, outcomes: Vec::new(), duration: Histogram::new(&EXCHANGE) }
    }

    fn count(&mut self, code: u16, cause: Option<&'static str>, count: u64) {
        let same = |outcome: &&mut Outcome| outcome.code == code && outcome.cause == cause;
        if let Some(outcome) = self.outcomes.iter_mut().find(same) {
            outcome.count += count;
        } else if self.outcomes.len() < OUTCOMES_MAX {
            self.outcomes.push(Outcome { code, cause, count });
        } else {
            self.count_other(count);
        }
    }

    fn count_other(&mut self, count: u64) {
        match self.outcomes.iter_mut().find(|outcome| outcome.code == OTHER_CODE) {
            Some(outcome) => outcome.count += count,
            None => self.outcomes.push(Outcome { code: OTHER_CODE, cause: None, count }),
        }
    }
}

impl Listener {
    fn count_closed(&mut self, cause: Option<&'static str>, count: u64) {
        match self.closed.iter_mut().find(|closed| closed.0 == cause) {
            Some(closed) => closed.1 += count,
            None => self.closed.push((cause, count)),
        }
    }

    fn merge(&mut self, other: &Listener) {
        self.active += other.active;
        self.total += other.total;
        for (cause, count) in &other.closed {
            self.count_closed(*cause, *count);
        }
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

impl Service {
    fn merge(&mut self, other: &Service) {
        self.active += other.active;
        self.total += other.total;
        self.reused += other.reused;
        self.pending += other.pending;
        self.first_byte.merge(&other.first_byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Exchange {
        fn key(&self) -> Key {
            Key { listener: self.listener, route: self.route, service: self.service }
        }
    }

    fn ended(listener: ListenerId, code: u16, cause: Option<&'static str>) -> Exchange {
        let duration = Duration::from_millis(1);
        Exchange { listener, route: None, service: None, code, cause, duration, upstream: None }
    }

    #[test]
    fn only_what_reached_an_upstream_has_a_duration() {
        let mut names = Names::default();
        let (web, shop) = (names.listener("web"), names.service("shop"));
        let mut counters = Counters::new();
        counters.exchange(&ended(web, 404, Some("no_route")));
        assert_eq!(counters.exchanges[0].duration.count(), 0);
        let us = Duration::from_micros;
        let upstream = Some(Upstream { first_byte: Some(us(700)), overhead: us(4) });
        counters.exchange(&Exchange { service: Some(shop), upstream, ..ended(web, 200, None) });
        assert_eq!(counters.exchanges[1].duration.count(), 1);
        assert_eq!(counters.services[&shop].first_byte.count(), 1);
        assert_eq!((counters.overhead.count(), counters.requests), (1, 2));
    }

    #[test]
    fn outcomes_are_bounded_and_none_is_lost() {
        let web = Names::default().listener("web");
        let mut counters = Counters::new();
        for round in 0..3 {
            for code in 100..1000 {
                counters.exchange(&ended(web, code, None));
                counters.exchange(&ended(web, code, Some("upstream_reset")));
            }
            let row = &counters.exchanges[0];
            assert_eq!(row.outcomes.len(), OUTCOMES_MAX + 1);
            let counted: u64 = row.outcomes.iter().map(|outcome| outcome.count).sum();
            assert_eq!(counted, (round + 1) * 1800);
        }
    }

    #[test]
    fn merging_adds_rows_by_key() {
        let mut names = Names::default();
        let (web, edge) = (names.listener("web"), names.listener("edge"));
        let (mut one, mut two) = (Counters::new(), Counters::new());
        one.exchange(&ended(web, 200, None));
        two.exchange(&ended(edge, 200, None));
        two.exchange(&ended(web, 200, None));
        two.exchange(&ended(web, 503, Some("draining")));
        two.connection_opened(edge);
        two.connection_opened(edge);
        two.connection_closed(edge, Some("keep_alive_timeout"));
        two.bytes(edge, Direction::Out, 7);
        one.merge(&two);
        let row = one.exchanges.iter().find(|row| row.key.listener == web).unwrap();
        let counts: Vec<_> = row.outcomes.iter().map(|o| (o.code, o.cause, o.count)).collect();
        assert_eq!(counts, [(200, None, 2), (503, Some("draining"), 1)]);
        let edge = &one.listeners[&edge];
        assert_eq!((edge.active, edge.total, edge.bytes_out), (1, 2, 7));
        assert_eq!(edge.closed, [(Some("keep_alive_timeout"), 1)]);
        assert_eq!((one.requests, one.connections_active), (4, 1));
    }

    #[test]
    fn rows_go_with_their_names() {
        let mut names = Names::default();
        let (web, old) = (names.listener("web"), names.route("old"));
        let mut counters = Counters::new();
        let by = |route| Exchange { route: Some(route), ..ended(web, 200, None) };
        counters.exchange(&by(old));
        let mut last = old;
        for turn in 0..1_000 {
            names = names.next();
            names.listener("web");
            last = names.route(&turn.to_string());
            names.settle();
            counters.exchange(&by(last));
            counters.forget(&names);
            assert!(counters.exchanges.len() <= 300);
        }
        counters.exchange(&by(last));
        counters.exchange(&by(old));
        counters.exchange(&by(last));
        assert_eq!(counters.row(by(last).key()).outcomes[0].count, 3);
        assert_eq!(counters.row(by(old).key()).outcomes[0].count, 1, "of one that lasts for long");
        counters.forget(&names);
        assert!(!counters.rows.contains_key(&by(old).key()));
        assert_eq!(counters.requests, 1_004);
    }
}

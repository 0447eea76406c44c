//! Upstream connections and, per service, the pools that keep the idle ones.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Labels;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::{Instant, Reactor, Stream};

use crate::plan::{Endpoint, Plan, Service};
use crate::pool::IdlePool;
use crate::telemetry::names::ServiceId;
use crate::upstream::service::ServiceState;
use crate::upstream::{Attempt, Busy};
use crate::worker::{Worker, moment};

/// A connection to an endpoint. While idle in a pool its receive stays armed, so that its end, or
/// bytes that nobody asked for, are noticed.
pub struct Upstream {
    pub stream: Stream,
    pub opened: Instant,
    /// Requests that it has carried.
    pub requests: usize,
    gauge: Gauge,
}

/// Counts an upstream connection as active while it lives.
struct Gauge {
    counters: Rc<Counted>,
    service: ServiceId,
}

/// Connections that were closed since the worker last looked: closing happens where the counters
/// may be borrowed already.
#[derive(Default)]
pub(super) struct Counted {
    closed: RefCell<Vec<ServiceId>>,
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.counters.closed.borrow_mut().push(self.service);
    }
}

/// What a worker knows of its services, by their numbers.
#[derive(Default)]
pub struct Upstreams {
    services: RefCell<HashMap<ServiceId, Rc<ServiceState>, FixedState>>,
    counted: Rc<Counted>,
}

impl Upstreams {
    /// The state of a service, made where it is asked for first.
    pub(super) fn state(&self, worker: &Worker, service: &Arc<Service>) -> Rc<ServiceState> {
        if let Some(state) = self.services.borrow().get(&service.id) {
            return state.clone();
        }
        // The exchange may be older than the newest plan.
        let plan = worker.plan();
        let newest = plan.services.iter().find(|newest| newest.id == service.id);
        let mut rng = || worker.reactor.random();
        let state = Rc::new(ServiceState::new(newest.unwrap_or(service), &mut rng));
        self.services.borrow_mut().insert(service.id, state.clone());
        state
    }

    /// Takes over what a new plan says: touches only what it changed.
    pub fn update(&self, reactor: &Reactor, plan: &Plan) {
        let mut rng = || reactor.random();
        let mut services = self.services.borrow_mut();
        let mut stay = 0;
        for service in &plan.services {
            if let Some(state) = services.get(&service.id) {
                state.update(service, &mut rng);
                stay += 1;
            }
        }
        if stay < services.len() {
            let there: HashSet<_> = plan.services.iter().map(|service| service.id).collect();
            let gone = services.extract_if(|id, _| !there.contains(id));
            gone.for_each(|(_, gone)| gone.retire());
        }
    }

    /// Takes up a new connection.
    pub(super) fn opened(&self, worker: &Worker, service: ServiceId, stream: Stream) -> Upstream {
        worker.counters.borrow_mut().upstream_opened(service);
        stream.limit_high_water(worker.plan().stream_buffer());
        Upstream {
            stream,
            opened: worker.reactor.now(),
            requests: 0,
            gauge: Gauge { counters: self.counted.clone(), service },
        }
    }

    /// An idle connection to the attempt's endpoint, the one used last. With `certain`, the kernel is
    /// asked too whether it has ended: for requests that must not be sent twice.
    pub fn reuse(&self, worker: &Worker, attempt: &Attempt, certain: bool) -> Option<Upstream> {
        let usable = |upstream: &Upstream| match certain {
            true => upstream.stream.is_quiet_now(),
            false => upstream.stream.is_quiet(),
        };
        let mut pool = attempt.replica.pool().borrow_mut();
        let upstream = pool.take(moment(worker.reactor.now()), usable)?;
        worker.counters.borrow_mut().upstream_reused(upstream.gauge.service);
        Some(upstream)
    }

    /// Keeps a connection whose exchange is over and left nothing behind. `announced` is how long
    /// the upstream keeps it.
    pub fn keep(
        &self,
        worker: &Worker,
        attempt: &Attempt,
        upstream: Upstream,
        announced: Option<Duration>,
    ) {
        let now = worker.reactor.now();
        let worn = attempt.with_service(|service| {
            let pool = &service.pool;
            pool.max_requests.is_some_and(|max| upstream.requests >= max.get())
                || pool.max_age.is_some_and(|max| now - upstream.opened >= max)
        });
        let is_busy = upstream.stream.is_sending() || !upstream.stream.is_drained();
        if worn || is_busy || !attempt.replica.is_current() {
            return;
        }
        upstream.stream.arm();
        let evicted = attempt.replica.pool().borrow_mut().put(upstream, moment(now), announced);
        drop(evicted);
    }

    /// Lets go of connections that ended or are too old, and counts those that were closed.
    pub fn sweep(&self, worker: &Worker) {
        let now = moment(worker.reactor.now());
        for state in self.services.borrow().values() {
            state.each_pool(|pool| {
                pool.sweep(now, |upstream| upstream.stream.is_quiet());
            });
        }
        self.count(worker);
    }

    /// Brings the counters up to date.
    pub fn count(&self, worker: &Worker) {
        let mut counters = worker.counters.borrow_mut();
        for service in self.counted.closed.borrow_mut().drain(..) {
            counters.upstream_closed(service);
        }
    }

    /// The endpoint that the next request to the service goes to, if it wants these labels and comes
    /// before any other; nothing moves by that.
    pub fn peek(
        &self,
        service: &Arc<Service>,
        labels: &Labels,
        rng: &mut impl FnMut() -> u64,
    ) -> Option<Arc<Endpoint>> {
        match self.services.borrow().get(&service.id) {
            Some(state) => state.peek(labels, rng),
            None => ServiceState::new(service, rng).peek(labels, rng),
        }
    }

    /// The endpoints that there is something to do with.
    pub fn busy(&self) -> Vec<Busy> {
        let mut busy = Vec::new();
        for state in self.services.borrow().values() {
            state.add_busy(&mut busy);
        }
        busy
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        for state in self.services.borrow().values() {
            state.each_pool(IdlePool::clear);
        }
    }
}

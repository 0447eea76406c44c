//! Upstream connections and, per service, the pools that keep the idle ones.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use balancer::Balancer;
use reactor::{Instant, Reactor, Stream};

use crate::plan::Plan;
use crate::pool::{IdlePool, PoolLimits};
use crate::telemetry::names::ServiceId;
use crate::upstream::Attempt;
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

/// What a worker knows of its services: balancers and pools, by the plan's service index.
pub struct Upstreams {
    services: Vec<ServiceState>,
    counted: Rc<Counted>,
}

struct ServiceState {
    balancer: RefCell<Balancer>,
    /// By endpoint.
    pools: Vec<RefCell<IdlePool<Upstream>>>,
}

impl Upstreams {
    pub fn new(reactor: &Reactor, plan: &Plan) -> Upstreams {
        let services = plan.services.iter().map(|service| {
            let limits = PoolLimits {
                idle: service.pool.idle_per_endpoint,
                idle_timeout: service.pool.idle_timeout,
            };
            let endpoints = service.endpoints.iter();
            let weights =
                endpoints.clone().map(|endpoint| balancer::Endpoint::new(endpoint.weight));
            let mut rng = || reactor.random();
            ServiceState {
                balancer: RefCell::new(Balancer::new(service.policy, weights.collect(), &mut rng)),
                pools: endpoints.map(|_| RefCell::new(IdlePool::new(limits))).collect(),
            }
        });
        Upstreams { services: services.collect(), counted: Rc::default() }
    }

    pub(super) fn balancer(&self, service: usize) -> &RefCell<Balancer> {
        &self.services[service].balancer
    }

    /// Takes up a new connection.
    pub(super) fn opened(&self, worker: &Worker, service: usize, stream: Stream) -> Upstream {
        let id = worker.plan.services[service].id;
        worker.counters.borrow_mut().upstream_opened(id);
        stream.limit_high_water(worker.plan.stream_buffer());
        Upstream {
            stream,
            opened: worker.reactor.now(),
            requests: 0,
            gauge: Gauge { counters: self.counted.clone(), service: id },
        }
    }

    /// An idle connection to the attempt's endpoint, the one used last. With `certain`, the kernel is
    /// asked too whether it has ended: for requests that must not be sent twice.
    pub fn reuse(&self, worker: &Worker, attempt: &Attempt, certain: bool) -> Option<Upstream> {
        let pool = &self.services[attempt.service].pools[attempt.endpoint];
        let usable = |upstream: &Upstream| match certain {
            true => upstream.stream.is_quiet_now(),
            false => upstream.stream.is_quiet(),
        };
        let upstream = pool.borrow_mut().take(moment(worker.reactor.now()), usable)?;
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
        let pool = &worker.plan.services[attempt.service].pool;
        let now = worker.reactor.now();
        let worn = pool.max_requests.is_some_and(|max| upstream.requests >= max.get())
            || pool.max_age.is_some_and(|max| now - upstream.opened >= max);
        if worn || upstream.stream.is_sending() || !upstream.stream.is_drained() {
            return;
        }
        upstream.stream.arm();
        let pool = &self.services[attempt.service].pools[attempt.endpoint];
        let evicted = pool.borrow_mut().put(upstream, moment(now), announced);
        drop(evicted);
    }

    /// Lets go of connections that ended or are too old, and counts those that were closed.
    pub fn sweep(&self, worker: &Worker) {
        let now = moment(worker.reactor.now());
        for pool in self.services.iter().flat_map(|service| &service.pools) {
            pool.borrow_mut().sweep(now, |upstream| upstream.stream.is_quiet());
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

    /// Closes all idle connections.
    pub fn clear(&self) {
        for pool in self.services.iter().flat_map(|service| &service.pools) {
            pool.borrow_mut().clear();
        }
    }
}

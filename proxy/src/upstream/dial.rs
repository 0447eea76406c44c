//! Picking an endpoint, and connecting to it.

use std::rc::Rc;

use crate::error::{Cause, Lack, Shortage};
use crate::telemetry::names::ServiceId;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// A try at an endpoint. The balancer counts it as active while it lives.
pub struct Attempt {
    worker: Rc<Worker>,
    pub service: usize,
    pub endpoint: usize,
}

impl Attempt {
    /// Picks an endpoint of the service.
    pub fn begin(worker: &Rc<Worker>, service: usize) -> Result<Attempt, Cause> {
        let mut rng = || worker.reactor.random();
        let mut balancer = worker.upstreams.balancer(service).borrow_mut();
        let picked = balancer.pick(&mut rng, |_| true);
        let endpoint = picked.ok_or(Cause::NoEndpoint(Lack::Empty))?;
        balancer.started(endpoint);
        Ok(Attempt { worker: worker.clone(), service, endpoint })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.worker.upstreams.balancer(self.service).borrow_mut().finished(self.endpoint);
    }
}

/// Connects to the attempt's endpoint.
pub async fn dial(worker: &Worker, attempt: &Attempt) -> Result<Upstream, Cause> {
    let service = &worker.plan.services[attempt.service];
    let address = &service.endpoints[attempt.endpoint].address;
    let deadline = worker.reactor.now() + service.connect_timeout;
    let waiting = Waiting::begin(worker, service.id);
    let connected = worker.reactor.timeout_at(deadline, worker.reactor.connect(address)).await;
    drop(waiting);
    match connected {
        None => Err(Cause::ConnectTimeout),
        Some(Err(error)) => Err(match reactor::Shortage::behind(&error) {
            None => Cause::ConnectFailed,
            Some(reactor::Shortage::Descriptors) => worker.overloaded(Shortage::Descriptors),
            Some(reactor::Shortage::Ports) => worker.overloaded(Shortage::Ports),
        }),
        Some(Ok(stream)) => Ok(worker.upstreams.opened(worker, attempt.service, stream)),
    }
}

/// Counts an exchange as waiting for an upstream connection while it lives.
struct Waiting<'a> {
    worker: &'a Worker,
    service: ServiceId,
}

impl Waiting<'_> {
    fn begin(worker: &Worker, service: ServiceId) -> Waiting<'_> {
        worker.counters.borrow_mut().upstream_waiting(service);
        Waiting { worker, service }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.worker.counters.borrow_mut().upstream_waited(self.service);
    }
}

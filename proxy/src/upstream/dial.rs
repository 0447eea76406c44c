//! Picking an endpoint, and connecting to it.

use std::rc::Rc;
use std::sync::Arc;

use config::Labels;

use crate::error::{Cause, Shortage};
use crate::plan::Service;
use crate::telemetry::names::ServiceId;
use crate::upstream::Upstream;
use crate::upstream::service::{Replica, ServiceState};
use crate::worker::Worker;

/// A try at an endpoint. The balancer counts it as active while it lives.
pub struct Attempt {
    state: Rc<ServiceState>,
    pub replica: Rc<Replica>,
}

impl Attempt {
    /// Picks an endpoint of the service that has these labels.
    pub fn begin(
        worker: &Worker,
        service: &Arc<Service>,
        labels: &Labels,
    ) -> Result<Attempt, Cause> {
        let state = worker.upstreams.state(worker, service);
        match state.start(labels, &mut || worker.reactor.random()) {
            Some(replica) => Ok(Attempt { state, replica }),
            None => Err(state.why_none(labels)),
        }
    }

    /// Looks at its service, as the newest plan has it.
    pub(super) fn with_service<T>(&self, look: impl FnOnce(&Service) -> T) -> T {
        self.state.with_service(look)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.state.finished(&self.replica);
    }
}

/// Connects to the attempt's endpoint.
pub async fn dial(worker: &Worker, attempt: &Attempt) -> Result<Upstream, Cause> {
    let (id, timeout) = attempt.with_service(|service| (service.id, service.connect_timeout));
    let address = &attempt.replica.endpoint.address;
    let deadline = worker.reactor.now() + timeout;
    let waiting = Waiting::begin(worker, id);
    let connected = worker.reactor.timeout_at(deadline, worker.reactor.connect(address)).await;
    drop(waiting);
    match connected {
        None => Err(Cause::ConnectTimeout),
        Some(Err(error)) => Err(match reactor::Shortage::behind(&error) {
            None => Cause::ConnectFailed,
            Some(reactor::Shortage::Descriptors) => worker.overloaded(Shortage::Descriptors),
            Some(reactor::Shortage::Ports) => worker.overloaded(Shortage::Ports),
        }),
        Some(Ok(stream)) => Ok(worker.upstreams.opened(worker, id, stream)),
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

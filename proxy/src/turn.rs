//! What a worker would do with the next request of a route, for whoever asks beforehand.

use std::sync::Arc;

use crate::plan::{Action, Backend, Endpoint, Plan};
use crate::worker::Worker;

/// Where the next request goes that a worker gets by a route, if it comes before any other.
pub struct Turn {
    /// Which of the route's backends.
    pub backend: usize,
    /// Which endpoint, for each of the backends, if it were that one; `None` where there is none to
    /// pick.
    pub endpoints: Vec<Option<Arc<Endpoint>>>,
}

impl Turn {
    /// Takes the steps of an exchange, with the random numbers that it would draw, and leaves
    /// everything as it is. `route` is a place in the plan; for one that does not forward there is
    /// nothing to tell.
    pub fn of(worker: &Worker, plan: &Plan, route: usize) -> Turn {
        let route = &plan.routes[route];
        let Action::Forward(forward) = &route.action else {
            return Turn { backend: 0, endpoints: Vec::new() };
        };
        let mut rng = worker.reactor.random_ahead();
        let backend = match &*forward.backends {
            [_] => 0,
            _ => forward.weights.pick(worker.splits.borrow().peek(route.id, &mut rng)),
        };
        let endpoint = |backend: &Backend| {
            let service = &plan.services[backend.service];
            worker.upstreams.peek(service, &backend.labels, &mut rng.clone())
        };
        Turn { backend, endpoints: forward.backends.iter().map(endpoint).collect() }
    }
}

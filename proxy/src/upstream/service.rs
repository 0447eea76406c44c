//! What a worker knows of one service, from plan to plan: its replicas, and the balancer that picks
//! among them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use balancer::Balancer;
use hashbrown::HashMap;
use reactor::Address;

use crate::plan::{Endpoint, Service};
use crate::pool::{IdlePool, PoolLimits};
use crate::upstream::Upstream;

/// A service's state on one worker. Made when the first request goes there; what a new plan leaves
/// in the service keeps its connections and its requests in flight.
pub(super) struct ServiceState {
    service: RefCell<Arc<Service>>,
    balancer: RefCell<Balancer>,
    /// As in the balancer.
    replicas: RefCell<Vec<Rc<Replica>>>,
}

/// An endpoint's state on one worker.
pub struct Replica {
    pub endpoint: Arc<Endpoint>,
    pool: RefCell<IdlePool<Upstream>>,
    /// Where the balancer has it; `None` when it is no longer of the service.
    place: Cell<Option<usize>>,
}

impl ServiceState {
    /// `rng` decides where the balancer begins.
    pub(super) fn new(service: &Arc<Service>, rng: &mut impl FnMut() -> u64) -> ServiceState {
        let balancer = Balancer::new(service.policy, Vec::new(), rng);
        let state = ServiceState {
            service: RefCell::new(service.clone()),
            balancer: RefCell::new(balancer),
            replicas: RefCell::default(),
        };
        state.replace_replicas(service, rng);
        state
    }

    /// Looks at the service, as the newest plan has it.
    pub(super) fn with_service<T>(&self, look: impl FnOnce(&Service) -> T) -> T {
        look(&self.service.borrow())
    }

    /// Takes over what a new plan says of the service.
    pub(super) fn update(&self, service: &Arc<Service>, rng: &mut impl FnMut() -> u64) {
        if Arc::ptr_eq(&self.service.borrow(), service) {
            return;
        }
        self.replace_replicas(service, rng);
        *self.service.borrow_mut() = service.clone();
    }

    /// Replicas that stay keep their pools and what is in flight; of the others idle connections are
    /// closed, and busy ones are not kept.
    fn replace_replicas(&self, service: &Service, rng: &mut impl FnMut() -> u64) {
        let limits = PoolLimits {
            idle: service.pool.idle_per_endpoint,
            idle_timeout: service.pool.idle_timeout,
        };
        let old = self.replicas.take();
        let mut known: HashMap<&Address, &Rc<Replica>> =
            old.iter().map(|replica| (&replica.endpoint.address, replica)).collect();
        let mut balanced = Vec::with_capacity(service.endpoints.len());
        let mut replicas = Vec::with_capacity(service.endpoints.len());
        {
            let before = self.balancer.borrow();
            for (place, endpoint) in service.endpoints.iter().enumerate() {
                let mut entry = balancer::Endpoint::new(endpoint.weight);
                let replica = match known.remove(&endpoint.address) {
                    Some(replica) => {
                        if let Some(old) = replica.place.replace(Some(place)) {
                            entry.active = before.endpoints()[old].active;
                        }
                        replica.pool.borrow_mut().set_limits(limits);
                        replica.clone()
                    }
                    None => Rc::new(Replica {
                        endpoint: endpoint.clone(),
                        pool: RefCell::new(IdlePool::new(limits)),
                        place: Cell::new(Some(place)),
                    }),
                };
                balanced.push(entry);
                replicas.push(replica);
            }
        }
        known.into_values().for_each(|gone| gone.retire());
        *self.balancer.borrow_mut() = Balancer::new(service.policy, balanced, rng);
        *self.replicas.borrow_mut() = replicas;
    }

    /// Picks a replica for a request; see [`ServiceState::finished`].
    pub(super) fn start(&self, rng: &mut impl FnMut() -> u64) -> Option<Rc<Replica>> {
        let mut balancer = self.balancer.borrow_mut();
        let place = balancer.pick(rng, |_| true)?;
        balancer.started(place);
        Some(self.replicas.borrow()[place].clone())
    }

    /// A request that was started there has ended.
    pub(super) fn finished(&self, replica: &Replica) {
        if let Some(place) = replica.place.get() {
            self.balancer.borrow_mut().finished(place);
        }
    }

    /// The pools of all replicas.
    pub(super) fn each_pool(&self, mut look: impl FnMut(&mut IdlePool<Upstream>)) {
        for replica in &*self.replicas.borrow() {
            look(&mut replica.pool.borrow_mut());
        }
    }

    /// The service is no longer there.
    pub(super) fn retire(&self) {
        self.replicas.borrow().iter().for_each(|replica| replica.retire());
    }
}

impl Replica {
    pub(super) fn pool(&self) -> &RefCell<IdlePool<Upstream>> {
        &self.pool
    }

    /// Whether connections to it are worth keeping.
    pub(super) fn is_current(&self) -> bool {
        self.place.get().is_some()
    }

    fn retire(&self) {
        self.place.set(None);
        self.pool.borrow_mut().clear();
    }
}

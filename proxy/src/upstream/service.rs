//! What a worker knows of one service, from plan to plan: its replicas, and the balancers that pick
//! among them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use balancer::Balancer;
use config::Labels;
use hashbrown::HashMap;
use reactor::Address;
use smallvec::SmallVec;

use crate::error::{Cause, Lack};
use crate::plan::{Discovery, Endpoint, EndpointState, Service};
use crate::pool::{IdlePool, PoolLimits};
use crate::telemetry::names::ServiceId;
use crate::upstream::Upstream;

/// A service's state on one worker. Made when the first request goes there; what a new plan leaves
/// in the service keeps its connections and its requests in flight.
pub(super) struct ServiceState {
    service: RefCell<Arc<Service>>,
    /// In the service's order.
    replicas: RefCell<Vec<Rc<Replica>>>,
    /// The whole service, then its subsets.
    groups: RefCell<Vec<Group>>,
}

/// Replicas that are picked among: those that have some labels, and that nobody took out.
struct Group {
    labels: Labels,
    /// Whether an endpoint has the labels, and be it one that was taken out.
    is_known: bool,
    balancer: Balancer,
    /// As in the balancer.
    members: Vec<Rc<Replica>>,
}

/// An endpoint's state on one worker.
pub struct Replica {
    pub endpoint: Arc<Endpoint>,
    pool: RefCell<IdlePool<Upstream>>,
    /// Requests that were sent to it and have not ended.
    active: Cell<u32>,
    /// The groups that it is in, by index, and where their balancers have it.
    places: RefCell<SmallVec<[(usize, usize); 1]>>,
    /// Whether connections to it are worth keeping.
    is_current: Cell<bool>,
}

/// What a worker has to do with an endpoint.
pub struct Busy {
    pub service: ServiceId,
    pub endpoint: Arc<Endpoint>,
    /// Exchanges, tunnels and TCP connections that have not ended.
    pub requests: usize,
    /// Connections that wait for the next request.
    pub idle: usize,
}

impl ServiceState {
    /// `rng` decides where the balancers begin.
    pub(super) fn new(service: &Arc<Service>, rng: &mut impl FnMut() -> u64) -> ServiceState {
        let state = ServiceState {
            service: RefCell::new(service.clone()),
            replicas: RefCell::default(),
            groups: RefCell::default(),
        };
        state.replace_replicas(service);
        state.regroup(service, rng);
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
        self.replace_replicas(service);
        self.regroup(service, rng);
        *self.service.borrow_mut() = service.clone();
    }

    /// Replicas that stay keep their pools and what is in flight; of the others idle connections are
    /// closed, and busy ones are not kept.
    fn replace_replicas(&self, service: &Service) {
        let limits = PoolLimits {
            idle: service.pool.idle_per_endpoint,
            idle_timeout: service.pool.idle_timeout,
        };
        let old = self.replicas.take();
        let mut known: HashMap<&Address, &Rc<Replica>> =
            old.iter().map(|replica| (&replica.endpoint.address, replica)).collect();
        let replicas = service.endpoints.iter().map(|endpoint| {
            let replica = match known.remove(&endpoint.address) {
                Some(replica) => {
                    replica.pool.borrow_mut().set_limits(limits);
                    replica.clone()
                }
                None => Rc::new(Replica::new(endpoint.clone(), limits)),
            };
            match endpoint.state {
                EndpointState::Healthy | EndpointState::Ejected => replica.is_current.set(true),
                EndpointState::Draining => replica.retire(),
            }
            replica
        });
        let replicas = replicas.collect();
        known.into_values().for_each(|gone| gone.retire());
        *self.replicas.borrow_mut() = replicas;
    }

    /// Makes the balancers anew.
    fn regroup(&self, service: &Service, rng: &mut impl FnMut() -> u64) {
        let replicas = self.replicas.borrow();
        for group in self.groups.take() {
            group.members.iter().for_each(|replica| replica.places.borrow_mut().clear());
        }
        let whole = Labels::default();
        let groups = [&whole].into_iter().chain(&service.subsets).enumerate();
        let groups = groups.map(|(index, labels)| {
            let mut balanced = Vec::new();
            let mut members = Vec::new();
            let all = replicas.iter().zip(&service.endpoints);
            let mut known = all.filter(|(_, endpoint)| endpoint.labels.include(labels)).peekable();
            let is_known = known.peek().is_some();
            for (replica, endpoint) in known {
                if endpoint.state == EndpointState::Healthy {
                    replica.places.borrow_mut().push((index, members.len()));
                    let active = replica.active.get();
                    balanced.push(balancer::Endpoint { weight: endpoint.weight, active });
                    members.push(replica.clone());
                }
            }
            let balancer = Balancer::new(service.policy, balanced, rng);
            Group { labels: labels.clone(), is_known, balancer, members }
        });
        *self.groups.borrow_mut() = groups.collect();
    }

    /// Picks a replica that has these labels for a request; see [`ServiceState::finished`].
    pub(super) fn start(
        &self,
        labels: &Labels,
        rng: &mut impl FnMut() -> u64,
    ) -> Option<Rc<Replica>> {
        let mut groups = self.groups.borrow_mut();
        let (index, place) = match groups.iter().position(|group| group.labels == *labels) {
            Some(index) => (index, groups[index].balancer.pick(rng, |_| true)?),
            None => {
                // The exchange is older than the newest plan, in which nobody asks for this any more.
                let Group { balancer, members, .. } = &mut groups[0];
                (0, balancer.pick(rng, |place| members[place].endpoint.labels.include(labels))?)
            }
        };
        let replica = groups[index].members[place].clone();
        replica.active.set(replica.active.get() + 1);
        for (group, place) in &*replica.places.borrow() {
            groups[*group].balancer.started(*place);
        }
        Some(replica)
    }

    /// The endpoint that [`ServiceState::start`] would pick.
    pub(super) fn peek(
        &self,
        labels: &Labels,
        rng: &mut impl FnMut() -> u64,
    ) -> Option<Arc<Endpoint>> {
        let groups = self.groups.borrow();
        let group = groups.iter().find(|group| group.labels == *labels)?;
        let place = group.balancer.clone().pick(rng, |_| true)?;
        Some(group.members[place].endpoint.clone())
    }

    /// Why no replica was picked.
    pub(super) fn why_none(&self, labels: &Labels) -> Cause {
        let groups = self.groups.borrow();
        let is_known =
            |labels: &Labels| groups.iter().any(|group| group.labels == *labels && group.is_known);
        if is_known(labels) {
            return Cause::NoHealthyEndpoint;
        }
        Cause::NoEndpoint(match self.service.borrow().discovery {
            _ if is_known(&Labels::default()) => Lack::NoSuchSubset,
            Discovery::Static => Lack::Empty,
            Discovery::Pushed => Lack::NeverPushed,
            Discovery::Dns => Lack::DnsFailed,
        })
    }

    /// A request that was started there has ended.
    pub(super) fn finished(&self, replica: &Replica) {
        replica.active.set(replica.active.get().saturating_sub(1));
        let mut groups = self.groups.borrow_mut();
        for (group, place) in &*replica.places.borrow() {
            groups[*group].balancer.finished(*place);
        }
    }

    /// The pools of all replicas.
    pub(super) fn each_pool(&self, mut look: impl FnMut(&mut IdlePool<Upstream>)) {
        for replica in &*self.replicas.borrow() {
            look(&mut replica.pool.borrow_mut());
        }
    }

    /// Adds the replicas that there is something to do with.
    pub(super) fn add_busy(&self, busy: &mut Vec<Busy>) {
        let service = self.service.borrow().id;
        for replica in &*self.replicas.borrow() {
            let (requests, idle) = (replica.active.get() as usize, replica.pool.borrow().len());
            if requests + idle > 0 {
                let endpoint = replica.endpoint.clone();
                busy.push(Busy { service, endpoint, requests, idle });
            }
        }
    }

    /// The service is no longer there.
    pub(super) fn retire(&self) {
        self.replicas.borrow().iter().for_each(|replica| replica.retire());
    }
}

impl Replica {
    fn new(endpoint: Arc<Endpoint>, limits: PoolLimits) -> Replica {
        Replica {
            endpoint,
            pool: RefCell::new(IdlePool::new(limits)),
            active: Cell::new(0),
            places: RefCell::default(),
            is_current: Cell::new(true),
        }
    }

    pub(super) fn pool(&self) -> &RefCell<IdlePool<Upstream>> {
        &self.pool
    }

    /// Whether connections to it are worth keeping.
    pub(super) fn is_current(&self) -> bool {
        self.is_current.get()
    }

    fn retire(&self) {
        self.is_current.set(false);
        self.pool.borrow_mut().clear();
    }
}

//! The plan: a config, compiled into what the data plane reads.
//!
//! A plan is immutable. An exchange sees one plan from start to end; a worker reads it without a
//! lock. This is the one place where config becomes the types of the other crates.
//!
//! What a new config leaves as it was is shared with the plan before: the same `Arc`, so that a
//! worker sees by its address that there is nothing to do.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use balancer::Policy;
use config::Labels;
pub use control::EndpointState;
use crossbeam_utils::CachePadded;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::Address;
use smallvec::SmallVec;

use crate::edits::Edits;
use crate::http1::encode::Expose;
use crate::http1::head::HeadLimits;
use crate::node::host_name;
use crate::route::{self, Router};
use crate::split::Weights;
use crate::telemetry::names::{ListenerId, Names, RouteId, ServiceId};

/// Keys the routers' hashes. Hosts and paths come from the config, so nobody outside chooses what
/// collides.
const ROUTER_SEED: u64 = 0x726f_7574_6573;

/// The compiled, immutable form of a config.
#[derive(Clone)]
pub struct Plan {
    /// Counts the configs of this process, from 1. New endpoints make no generation.
    pub generation: u64,
    /// Of the config's text.
    pub hash: String,
    /// `node.id`, or the host's name.
    pub node_id: Box<str>,
    /// `node.service`.
    pub node_service: Option<Box<str>>,
    /// `node.zone`.
    pub node_zone: Option<Box<str>>,
    /// By the indices that the config gave them.
    pub listeners: Vec<Arc<Listener>>,
    /// Where in `listeners` each number's listener is.
    places: HashMap<ListenerId, usize, FixedState>,
    /// By the indices that the config gave them.
    pub services: Vec<Arc<Service>>,
    /// By [`route::RouteId`].
    pub routes: Arc<[Route]>,
    /// What the numbers in counters stand for.
    pub names: Arc<Names>,
    /// How a drain goes.
    pub shutdown: config::Shutdown,
    /// Of the process.
    pub limits: config::Limits,
    /// Of a million exchanges, so many are logged; `None`: none is, and nothing else either.
    pub access_sample: Option<u32>,
}

/// A socket that we accept on.
pub struct Listener {
    pub name: Box<str>,
    pub id: ListenerId,
    pub address: Address,
    pub kind: ListenerKind,
    pub timeouts: config::ListenerTimeouts,
    /// Connections that this listener serves at a time, over all workers.
    pub connections: Option<usize>,
    /// How many it serves, over all workers and plans.
    pub served: Arc<CachePadded<AtomicUsize>>,
}

/// What is spoken on a listener.
pub enum ListenerKind {
    Http(Box<HttpListener>),
    Tcp(TcpListener),
}

/// What an HTTP listener needs.
pub struct HttpListener {
    pub head_limits: HeadLimits,
    pub body_size: Option<u64>,
    pub normalize_path: bool,
    pub router: Router,
    pub forwarded: config::Forwarded,
    pub expose: Expose,
}

/// What a TCP listener needs.
pub struct TcpListener {
    pub service: usize,
    pub idle_timeout: Option<Duration>,
}

/// What to do with the requests of a route.
pub struct Route {
    pub name: Box<str>,
    pub id: RouteId,
    /// By their indices in the plan.
    pub listeners: SmallVec<[u16; 4]>,
    pub action: Action,
    pub timeouts: config::RouteTimeouts,
}

/// What becomes of a request.
pub enum Action {
    Forward(Forward),
    Redirect(Box<Redirect>),
    Respond(Box<Respond>),
}

/// Where requests go, and what of them is made anew.
pub struct Forward {
    /// Never empty.
    pub backends: Box<[Backend]>,
    pub weights: Weights,
    /// In place of what the match took of the path.
    pub prefix: Option<Box<str>>,
    pub host: Option<Box<str>>,
}

/// One of the sides that a route's requests go to.
pub struct Backend {
    pub service: usize,
    /// Only endpoints that have all of these; one of the service's subsets.
    pub labels: Labels,
    /// The route's and its own.
    pub request_edits: Edits,
    pub response_edits: Edits,
}

/// A new address, as an answer.
pub struct Redirect {
    pub to: config::Redirect,
    pub edits: Edits,
}

/// An answer without a service.
pub struct Respond {
    pub status: u16,
    pub body: Box<str>,
    pub edits: Edits,
}

/// A named set of replicas.
#[derive(Clone, PartialEq)]
pub struct Service {
    pub name: Box<str>,
    pub id: ServiceId,
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What backends ask of endpoints, where they ask for something.
    pub subsets: Vec<Labels>,
    pub discovery: Discovery,
    pub policy: Policy,
    pub pool: config::Pool,
    pub connect_timeout: Duration,
}

/// Where a service's endpoints come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// From the config.
    Static,
    /// Over REST; what was there before holds until the first push, and they outlive the config that
    /// they came to.
    Pushed,
    /// What was there before holds until DNS has answered.
    Dns,
}

/// One replica.
#[derive(Clone, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    /// As the `host` of requests without one says it.
    pub text: Box<str>,
    /// As the config spells it, for logs.
    pub name: Box<str>,
    pub weight: u32,
    pub labels: Labels,
    pub state: EndpointState,
}

impl Plan {
    /// Compiles a checked config. `before` is the plan that it follows: numbers of names go on, and
    /// what is the same is shared.
    pub fn compile(
        config: &config::Config,
        hash: &str,
        generation: u64,
        before: Option<&Plan>,
    ) -> Arc<Plan> {
        let mut names = before.map_or_else(Names::default, |plan| plan.names.next());
        let served = |id| before.and_then(|plan| plan.listener(id)).map(|old| old.served.clone());
        let listeners = config.listeners.iter().enumerate();
        let listeners = listeners.map(|(index, listener)| {
            let name = listener.name.as_str();
            let mut id = names.listener(name);
            // Connections that speak HTTP stay with the listener that did.
            if before.and_then(|plan| plan.listener(id)).is_some_and(|old| !old.is_like(listener)) {
                id = names.other_listener(name);
            }
            let served = served(id).unwrap_or_default();
            Arc::new(compile_listener(config, index, listener, id, served))
        });
        let listeners: Vec<_> = listeners.collect();
        let known = before.map(|plan| &plan.services[..]).unwrap_or_default().iter();
        let known: HashMap<&str, &Arc<Service>> = known.map(|old| (&*old.name, old)).collect();
        let subsets = subsets(config);
        let services = config.services.iter().zip(subsets).map(|(service, subsets)| {
            let mut service = compile_service(service, subsets, &mut names);
            let Some(old) = known.get(&*service.name) else { return Arc::new(service) };
            match service.discovery.keeps() {
                true => service.endpoints.clone_from(&old.endpoints),
                false => keep_states(&mut service.endpoints, &old.endpoints),
            }
            if ***old == service { Arc::clone(old) } else { Arc::new(service) }
        });
        let services = services.collect();
        let routes = config.routes.iter().map(|route| compile_route(route, &mut names)).collect();
        names.settle();
        let node_id = config.node.id.clone().unwrap_or_else(host_name);
        Arc::new(Plan {
            generation,
            hash: hash.to_owned(),
            node_id: node_id.as_str().into(),
            node_service: config.node.service.as_deref().map(Into::into),
            node_zone: config.node.zone.as_deref().map(Into::into),
            places: listeners.iter().map(|listener| listener.id).zip(0..).collect(),
            listeners,
            services,
            routes,
            names: Arc::new(names),
            shutdown: config.shutdown.clone(),
            limits: config.limits.clone(),
            access_sample: config.access_log.as_ref().map(|log| log.sample.per_million()),
        })
    }
}

impl Listener {
    /// Whether what it has begun to speak on a connection the other could go on with.
    pub fn could_be(&self, other: &Listener) -> bool {
        mem::discriminant(&self.kind) == mem::discriminant(&other.kind)
    }

    /// Whether it serves what the other does, HTTP or TCP.
    fn is_like(&self, other: &config::Listener) -> bool {
        matches!(
            (&self.kind, &other.kind),
            (ListenerKind::Http(_), config::ListenerKind::Http(_))
                | (ListenerKind::Tcp(_), config::ListenerKind::Tcp(_))
        )
    }
}

impl Plan {
    /// The same plan with other endpoints of some services, by their names.
    ///
    /// # Errors
    /// The name of which there is no service.
    pub fn with_endpoints(
        &self,
        sets: &[(String, Vec<config::Endpoint>)],
    ) -> Result<Arc<Plan>, String> {
        let mut plan = self.clone();
        let mut sets: HashMap<&str, &[config::Endpoint]> =
            sets.iter().map(|(name, endpoints)| (&**name, &**endpoints)).collect();
        for service in &mut plan.services {
            if let Some(endpoints) = sets.remove(&*service.name) {
                let endpoints = endpoints.iter().map(|one| Arc::new(compile_endpoint(one)));
                let mut endpoints: Vec<Arc<Endpoint>> = endpoints.collect();
                keep_states(&mut endpoints, &service.endpoints);
                *service = Arc::new(Service { endpoints, ..(**service).clone() });
            }
        }
        match sets.into_keys().next() {
            Some(unknown) => Err(unknown.to_owned()),
            None => Ok(Arc::new(plan)),
        }
    }

    /// The same plan with one endpoint in another state.
    ///
    /// # Errors
    /// What there is not: the service or the endpoint.
    pub fn with_state(
        &self,
        name: &str,
        endpoint: &config::Address,
        state: EndpointState,
    ) -> Result<Arc<Plan>, String> {
        let mut plan = self.clone();
        let service = plan.services.iter_mut().find(|known| *known.name == *name);
        let service = service.ok_or_else(|| format!("there is no service {name}"))?;
        let wanted = address(endpoint);
        let mut changed = Service::clone(service);
        let found = changed.endpoints.iter_mut().find(|known| known.address == wanted);
        let found = found.ok_or_else(|| format!("{name} has no endpoint {endpoint}"))?;
        *found = Arc::new(Endpoint { state, ..Endpoint::clone(found) });
        *service = Arc::new(changed);
        Ok(Arc::new(plan))
    }

    /// The listener with this number, if this plan has it.
    pub fn listener(&self, id: ListenerId) -> Option<&Arc<Listener>> {
        self.places.get(&id).map(|place| &self.listeners[*place])
    }

    /// How much may arrive on one stream before it is taken, in bytes. An exchange has two streams,
    /// and what arrived on each may be on its way out of the other too.
    pub fn stream_buffer(&self) -> u32 {
        u32::try_from(self.limits.connection_buffer / 4).unwrap_or(u32::MAX).max(1)
    }
}

impl Service {
    /// How many endpoints there are in each state, as in [`EndpointState::ALL`].
    pub fn count_by_state(&self) -> [usize; EndpointState::ALL.len()] {
        EndpointState::ALL
            .map(|state| self.endpoints.iter().filter(|one| one.state == state).count())
    }
}

impl Discovery {
    /// Whether endpoints stay that the service had before, whatever they came by.
    fn keeps(self) -> bool {
        match self {
            Discovery::Static => false,
            Discovery::Pushed | Discovery::Dns => true,
        }
    }
}

impl HttpListener {
    /// Whether what this peer says of the client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.forwarded.trust.iter().any(|network| network.contains(peer.to_canonical()))
    }
}

/// For each service, what routes ask of its endpoints.
fn subsets(config: &config::Config) -> Vec<Vec<Labels>> {
    let mut subsets = vec![Vec::new(); config.services.len()];
    for route in &config.routes {
        let config::Action::Forward(backends) = &route.action else { continue };
        for backend in backends.iter().filter(|backend| !backend.labels.is_empty()) {
            let known: &mut Vec<Labels> = &mut subsets[backend.service];
            if !known.contains(&backend.labels) {
                known.push(backend.labels.clone());
            }
        }
    }
    subsets
}

/// What an operator made of an endpoint outlives the set that it was in.
fn keep_states(endpoints: &mut [Arc<Endpoint>], before: &[Arc<Endpoint>]) {
    for old in before.iter().filter(|old| old.state != EndpointState::Healthy) {
        if let Some(new) = endpoints.iter_mut().find(|new| new.address == old.address) {
            *new = Arc::new(Endpoint { state: old.state, ..Endpoint::clone(new) });
        }
    }
}

fn compile_listener(
    config: &config::Config,
    index: usize,
    listener: &config::Listener,
    id: ListenerId,
    served: Arc<CachePadded<AtomicUsize>>,
) -> Listener {
    let kind = match &listener.kind {
        config::ListenerKind::Http(http) => {
            ListenerKind::Http(Box::new(compile_http(config, index, listener, http)))
        }
        config::ListenerKind::Tcp(tcp) => {
            ListenerKind::Tcp(TcpListener { service: tcp.service, idle_timeout: tcp.idle_timeout })
        }
    };
    Listener {
        name: listener.name.as_str().into(),
        id,
        address: address(&listener.address),
        kind,
        timeouts: listener.timeouts,
        connections: listener.limits.connections.map(|limit| limit.get()),
        served,
    }
}

fn compile_http(
    config: &config::Config,
    index: usize,
    listener: &config::Listener,
    http: &config::HttpListener,
) -> HttpListener {
    let routes: Vec<route::Route> = config
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.listeners.contains(&index))
        .map(|(id, route)| matcher(id, route))
        .collect();
    let limits = &config.limits;
    HttpListener {
        head_limits: HeadLimits {
            header_size: http.header_size,
            header_count: limits.header_count.get(),
            target_size: limits.target_size,
        },
        body_size: limits.body_size.map(|size| size as u64),
        normalize_path: http.normalize_path,
        router: Router::new(&routes, ROUTER_SEED),
        forwarded: listener.forwarded.clone(),
        expose: match listener.expose_causes {
            config::ExposeCauses::None => Expose::None,
            config::ExposeCauses::Name => Expose::Name,
            config::ExposeCauses::Full => Expose::Full,
        },
    }
}

/// What the router is told of a route.
fn matcher(id: usize, route: &config::Route) -> route::Route {
    let hosts = route.hosts.iter().map(|host| match host {
        config::HostPattern::Any => route::HostPattern::Any,
        config::HostPattern::Exact(name) => route::HostPattern::Exact(name.clone()),
        config::HostPattern::Wildcard(suffix) => route::HostPattern::Suffix(suffix.clone()),
    });
    let matches = route.matches.iter().map(|condition| route::Match {
        path: match &condition.path {
            None => route::PathPattern::Any,
            Some(config::PathMatch::Exact(path)) => route::PathPattern::Exact(path.clone()),
            Some(config::PathMatch::Prefix(path)) => route::PathPattern::Prefix(path.clone()),
            Some(config::PathMatch::Regex(regex)) => route::PathPattern::Regex(regex.clone()),
        },
        methods: condition.methods.clone(),
        conditions: route::Conditions {
            headers: condition.headers.clone(),
            cookies: condition.cookies.clone(),
            query: condition.query.clone(),
            source_ips: condition.source_ips.clone(),
        },
    });
    route::Route {
        id: route::RouteId(u32::try_from(id).expect("a config has fewer than 2^32 routes")),
        name: route.name.as_str().to_owned(),
        priority: route.priority,
        hosts: hosts.collect(),
        matches: matches.collect(),
    }
}

fn compile_route(route: &config::Route, names: &mut Names) -> Route {
    let action = match &route.action {
        config::Action::Forward(backends) => Action::Forward(Forward {
            weights: Weights::new(backends.iter().map(|backend| backend.weight)),
            backends: backends.iter().map(|backend| compile_backend(route, backend)).collect(),
            prefix: route.rewrite.prefix.as_deref().map(Into::into),
            host: route.rewrite.host.as_deref().map(Into::into),
        }),
        config::Action::Redirect(to) => Action::Redirect(Box::new(Redirect {
            to: to.clone(),
            edits: Edits::new(&[&route.response_headers]),
        })),
        config::Action::Respond(respond) => Action::Respond(Box::new(Respond {
            status: respond.status,
            body: respond.body.as_str().into(),
            edits: Edits::new(&[&route.response_headers]),
        })),
    };
    Route {
        name: route.name.as_str().into(),
        id: names.route(route.name.as_str()),
        listeners: route.listeners.iter().map(|index| *index as u16).collect(),
        action,
        timeouts: route.timeouts.clone(),
    }
}

fn compile_backend(route: &config::Route, backend: &config::Backend) -> Backend {
    Backend {
        service: backend.service,
        labels: backend.labels.clone(),
        request_edits: Edits::new(&[&route.request_headers, &backend.request_headers]),
        response_edits: Edits::new(&[&route.response_headers, &backend.response_headers]),
    }
}

fn compile_service(service: &config::Service, subsets: Vec<Labels>, names: &mut Names) -> Service {
    let endpoints = service.source.endpoints().iter();
    let endpoints = endpoints.map(|endpoint| Arc::new(compile_endpoint(endpoint)));
    Service {
        name: service.name.as_str().into(),
        id: names.service(service.name.as_str()),
        endpoints: endpoints.collect(),
        subsets,
        discovery: match service.source {
            config::Source::Endpoints(_) => Discovery::Static,
            config::Source::Pushed { .. } => Discovery::Pushed,
            config::Source::Dns(_) => Discovery::Dns,
        },
        policy: match service.balance {
            config::Balance::RoundRobin => Policy::RoundRobin,
            config::Balance::LeastRequest => Policy::LeastRequest,
        },
        pool: service.pool.clone(),
        connect_timeout: service.connect_timeout,
    }
}

fn compile_endpoint(endpoint: &config::Endpoint) -> Endpoint {
    Endpoint {
        address: address(&endpoint.address),
        text: match &endpoint.address {
            config::Address::Ip(ip) => ip.to_string().into(),
            config::Address::Unix(_) | config::Address::Abstract(_) => "localhost".into(),
        },
        name: endpoint.address.to_string().into(),
        weight: endpoint.weight,
        labels: endpoint.labels.clone(),
        state: EndpointState::Healthy,
    }
}

fn address(address: &config::Address) -> Address {
    match address {
        config::Address::Ip(ip) => Address::Ip(*ip),
        config::Address::Unix(path) => Address::Unix(path.clone()),
        config::Address::Abstract(name) => Address::Abstract(name.clone()),
    }
}

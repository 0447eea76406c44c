//! What is shown of a running data plane, as JSON: what the plan says, what the process shares, and
//! what workers answer when they are looked at.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashMap;
use reactor::Address;
use serde_json::{Value as Json, json};

use crate::downstream::connection::Connection;
use crate::plan::{Action, Backend, Endpoint, Listener, ListenerKind, Plan, Route, Service};
use crate::plane::Open;
use crate::telemetry::counters::Counters;
use crate::telemetry::names::{RouteId, ServiceId};
use crate::upstream::Busy;
use crate::worker::{Crew, Worker};

/// Name, address with its real port, and kind of each listener.
pub fn listeners(plan: &Plan, sockets: &[Open]) -> Json {
    let both = plan.listeners.iter().zip(sockets);
    let one = |(listener, open): (&Arc<Listener>, &Open)| {
        json!({
            "name": listener.name,
            "address": open.socket.address().to_string(),
            "kind": match listener.kind {
                ListenerKind::Http(_) => "http",
                ListenerKind::Tcp(_) => "tcp",
            },
            "connections": listener.served.load(Ordering::Relaxed),
        })
    };
    both.map(one).collect()
}

/// What is bounded, and how much of that is taken.
pub fn limits(plan: &Plan, crew: &Crew) -> Json {
    let config::Limits {
        memory: _,
        connections: _,
        header_size,
        header_count,
        target_size,
        body_size,
        connection_buffer,
    } = &plan.limits;
    let listeners = plan.listeners.iter().map(|listener| {
        let used = listener.served.load(Ordering::Relaxed);
        json!({ "name": listener.name, "connections": bounded(listener.connections, used) })
    });
    json!({
        "memory": bounded(Some(crew.memory.limit()), crew.memory.leased()),
        "connections": bounded(Some(crew.connections_max), crew.connections()),
        "listeners": listeners.collect::<Vec<_>>(),
        "header_size": header_size,
        "header_count": header_count,
        "target_size": target_size,
        "body_size": body_size,
        "connection_buffer": connection_buffer,
    })
}

fn bounded(limit: Option<usize>, used: usize) -> Json {
    json!({ "limit": limit, "used": used })
}

/// Each endpoint of each service, with what all workers together have to do with it.
pub fn endpoints(plan: &Plan, busy: &[Vec<Busy>]) -> Json {
    let mut sums: HashMap<(ServiceId, &Address), (usize, usize)> = HashMap::new();
    for one in busy.iter().flatten() {
        let sum = sums.entry((one.service, &one.endpoint.address)).or_default();
        *sum = (sum.0 + one.requests, sum.1 + one.idle);
    }
    let all = plan
        .services
        .iter()
        .flat_map(|service| service.endpoints.iter().map(move |endpoint| (service, endpoint)));
    let one = |(service, endpoint): (&Arc<Service>, &Arc<Endpoint>)| {
        let sum = sums.get(&(service.id, &endpoint.address)).copied();
        let (requests, idle) = sum.unwrap_or_default();
        json!({
            "service": service.name,
            "address": endpoint.name,
            "weight": endpoint.weight,
            "labels": endpoint.labels.to_json(),
            "state": endpoint.state.name(),
            "requests": requests,
            "idle_connections": idle,
        })
    };
    all.map(one).collect()
}

/// Each route, what it does and how many requests it took.
pub fn routes(plan: &Plan, counters: &[Counters]) -> Json {
    let mut requests: HashMap<RouteId, u64> = HashMap::new();
    for (route, count) in counters.iter().flat_map(Counters::requests_by_route) {
        *requests.entry(route).or_default() += count;
    }
    let one = |route: &Route| {
        let listeners = route.listeners.iter().map(|index| &*plan.listeners[*index as usize].name);
        let mut shown = json!({
            "name": route.name,
            "listeners": listeners.collect::<Vec<_>>(),
            "requests": requests.get(&route.id).copied().unwrap_or_default(),
        });
        shown["action"] = match &route.action {
            Action::Respond(_) => "respond",
            Action::Redirect(_) => "redirect",
            Action::Forward(forward) => {
                let shares = forward.backends.iter().zip(forward.weights.shares());
                let side = |(backend, share): (&Backend, f64)| {
                    json!({
                        "service": plan.services[backend.service].name,
                        "labels": backend.labels.to_json(),
                        "probability": share,
                    })
                };
                shown["backends"] = shares.map(side).collect();
                "forward"
            }
        }
        .into();
        shown
    };
    plan.routes.iter().map(one).collect()
}

/// A connection from a client, as its worker sees it.
pub struct Client {
    /// Empty where that has no plan any more.
    listener: String,
    peer: Option<Address>,
    age: Duration,
    is_idle: bool,
}

/// Some of a worker's connections, at most so many: for each the kernel is asked who it is.
pub fn clients(worker: &Worker, most: usize) -> Vec<Client> {
    let now = worker.reactor.now();
    let name = |id| {
        let plan = worker.plan_of(id);
        plan.listener(id).map_or(String::new(), |listener| listener.name.to_string())
    };
    worker.with_connections(|connections| {
        let client = |connection: &Connection| Client {
            listener: name(connection.listener()),
            peer: connection.stream.peer_address().ok(),
            age: now - connection.began(),
            is_idle: connection.is_idle(),
        };
        connections.take(most).map(client).collect()
    })
}

/// Connections from clients, the oldest first.
pub fn connections(clients: &[Vec<Client>]) -> Json {
    let workers = clients.iter().enumerate();
    let all = workers.flat_map(|(worker, clients)| clients.iter().map(move |one| (worker, one)));
    let mut all: Vec<(usize, &Client)> = all.collect();
    all.sort_by_key(|(_, client)| Reverse(client.age));
    let one = |(worker, client): (usize, &Client)| {
        json!({
            "worker": worker,
            "listener": client.listener,
            // Nobody has a name at the other end of a Unix socket.
            "peer": client.peer.as_ref().and_then(Address::ip).map(|ip| ip.to_string()),
            "age_s": client.age.as_secs_f64(),
            "state": if client.is_idle { "idle" } else { "busy" },
        })
    };
    all.into_iter().map(one).collect()
}

//! Named sets of replicas, how one of them is picked and how connections to them are kept.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::address::{Address, endpoint_address};
use crate::definition::{Key, Kind, Object, Words};
use crate::dns::{DNS, Dns, dns};
use crate::labels::{Labels, labels};
use crate::name::{Name, name};
use crate::reader::{list, not_yet, or_none, word};
use crate::report::{Problem, Report};
use crate::source::Span;
use crate::tree::{Node, Value};
use crate::units::{duration, limit_duration, number};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Name,
    pub source: Source,
    pub balance: Balance,
    pub pool: Pool,
    pub connect_timeout: Duration,
}

/// Where a service's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From here. Never empty; no address twice.
    Endpoints(Vec<Endpoint>),
    /// By `PUT /v1/services/NAME/endpoints`.
    Pushed {
        /// So long after the start the process is not ready before there are some.
        wait_at_start: Duration,
    },
    /// By asking for them, again and again.
    Dns(Dns),
}

impl Source {
    /// The endpoints that the config itself names.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Source::Endpoints(endpoints) => endpoints,
            Source::Pushed { .. } | Source::Dns(_) => &[],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    /// `1..=65535`
    pub weight: u32,
    pub labels: Labels,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
}

/// Idle connections that are kept for the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Zero: none is kept.
    pub idle_per_endpoint: usize,
    pub idle_timeout: Option<Duration>,
    /// After so many, a connection is not used again.
    pub max_requests: Option<NonZeroUsize>,
    pub max_age: Option<Duration>,
}

const BALANCE: Words<Balance> = Words {
    accepted: &[("round_robin", Balance::RoundRobin), ("least_request", Balance::LeastRequest)],
    not_yet: &["peak_ewma", "random", "maglev", "ring_hash"],
};

const PROTOCOL: Words<()> = Words { accepted: &[("http1", ())], not_yet: &["http2", "auto"] };

pub(crate) const SERVICE: Object = Object {
    name: "a service",
    about: "A named set of replicas.",
    one_of: &["endpoints", "dns", "pushed", "kubernetes", "original_destination"],
    keys: &[
        Key::required("name", Kind::Name, "Told in logs and metrics; routes name it."),
        Key::default("protocol", Kind::Word(&PROTOCOL), "http1", "What its replicas speak."),
        Key::not_yet("virtual_addresses"),
        Key::optional(
            "endpoints",
            Kind::List(&Kind::Object(&ENDPOINT)),
            "Its replicas; at least one.",
        ),
        Key::optional("dns", Kind::Object(&DNS), "Its replicas are found by DNS."),
        Key::optional(
            "pushed",
            Kind::Object(&PUSHED),
            "Its replicas come by `PUT /v1/services/NAME/endpoints`.",
        ),
        Key::not_yet("kubernetes"),
        Key::not_yet("original_destination"),
        Key::default("balance", Kind::Word(&BALANCE), "round_robin", "How a replica is picked."),
        Key::default("pool", Kind::Object(&POOL), "{}", "Idle connections kept for later."),
        Key::default("connect_timeout", Kind::Duration, "1s", "Until a connection stands."),
        Key::not_yet("circuit"),
        Key::not_yet("retry_budget"),
        Key::not_yet("health"),
        Key::not_yet("outlier"),
        Key::not_yet("slow_start"),
        Key::not_yet("admission"),
        Key::not_yet("panic_below"),
        Key::not_yet("proxy_protocol"),
        Key::not_yet("tls"),
    ],
};

pub(crate) const PUSHED: Object = Object {
    name: "pushed",
    about: "A service whose replicas are pushed.",
    one_of: &[],
    keys: &[Key::default(
        "wait_at_start",
        Kind::Duration,
        "10s",
        "So long the process is not ready before there are some; `0s` does not wait.",
    )],
};

pub(crate) const ENDPOINT: Object = Object {
    name: "an endpoint",
    about: "One replica.",
    one_of: &[],
    keys: &[
        Key::required("address", Kind::Address, "Its IP and port, or Unix socket."),
        Key::default("weight", Kind::Number, "1", "Its share beside the others', 1 to 65535."),
        Key::not_yet("zone"),
        Key::not_yet("priority"),
        Key::default("labels", Kind::Labels, "{}", "What backends of routes choose it by."),
        Key::not_yet("identity"),
        Key::not_yet("tls"),
    ],
};

pub(crate) const POOL: Object = Object {
    name: "pool",
    about: "Idle upstream connections that are kept for the next request.",
    one_of: &[],
    keys: &[
        Key::default("idle_per_endpoint", Kind::Number, "64", "Kept at most; 0 keeps none."),
        Key::default("idle_timeout", Kind::OrNone(&Kind::Duration), "5s", "Kept so long."),
        Key::default("max_requests", Kind::OrNone(&Kind::Number), "none", "Requests on one."),
        Key::default("max_age", Kind::OrNone(&Kind::Duration), "1h", "Used so long."),
    ],
};

pub(crate) fn service(node: &Node, report: &mut Report<'_>) -> Option<Service> {
    let mut fields = report.fields(node, &SERVICE)?;
    let name = fields.get("name", name);
    let protocol = fields.get("protocol", |node, report| word(node, report, &PROTOCOL));
    let endpoints = fields.find("endpoints", endpoints);
    let dns = fields.find("dns", dns);
    let pushed = fields.find("pushed", pushed);
    let balance = fields.get("balance", balance);
    let pool = fields.get("pool", pool);
    let connect_timeout = fields.get("connect_timeout", limit_duration);
    protocol?;
    let source = match (endpoints?, dns?, pushed?) {
        (Some(endpoints), None, None) => Source::Endpoints(endpoints),
        (None, Some(dns), None) => Source::Dns(dns),
        (None, None, Some(pushed)) => pushed,
        // The choice was reported when the object was opened.
        _ => return None,
    };
    Some(Service {
        name: name?,
        source,
        balance: balance?,
        pool: pool?,
        connect_timeout: connect_timeout?,
    })
}

fn pushed(node: &Node, report: &mut Report<'_>) -> Option<Source> {
    let mut fields = report.fields(node, &PUSHED)?;
    let wait_at_start = fields.get("wait_at_start", duration);
    Some(Source::Pushed { wait_at_start: wait_at_start? })
}

fn endpoints(node: &Node, report: &mut Report<'_>) -> Option<Vec<Endpoint>> {
    let endpoints = endpoint_list(node, report)?;
    if endpoints.is_empty() {
        let hint = "add one: `- { address: 127.0.0.1:9080 }`";
        report.add(Problem::error(node.span, "a service needs at least one endpoint").hint(hint));
        return None;
    }
    Some(endpoints)
}

/// Endpoints of one service, no address twice.
pub(crate) fn endpoint_list(node: &Node, report: &mut Report<'_>) -> Option<Vec<Endpoint>> {
    let mut first_at: HashMap<Address, Span> = HashMap::new();
    list(node, report, |node, report| {
        let endpoint = endpoint(node, report)?;
        if let Some(first) = first_at.insert(endpoint.address.clone(), node.span) {
            let message = format!("the endpoint {} is there twice", endpoint.address);
            let hint = "to give it more of the traffic, use `weight`";
            report.add(Problem::error(node.span, message).related(first, "first here").hint(hint));
            return None;
        }
        Some(endpoint)
    })
}

fn endpoint(node: &Node, report: &mut Report<'_>) -> Option<Endpoint> {
    if let Some(scalar) = node.as_scalar() {
        let message = format!("an endpoint is a map, not {}", node.describe());
        let hint = format!("write `{{ address: {} }}`", scalar.text.escape_debug());
        report.add(Problem::error(node.span, message).hint(hint));
        return None;
    }
    let mut fields = report.fields(node, &ENDPOINT)?;
    let address = fields.get("address", endpoint_address);
    let weight = fields.get("weight", |node, report| number(node, report, 1, 65_535));
    let labels = fields.get("labels", labels);
    Some(Endpoint { address: address?, weight: weight? as u32, labels: labels? })
}

fn balance(node: &Node, report: &mut Report<'_>) -> Option<Balance> {
    if let Value::Map(entries) = &node.value
        && let Some(entry) = entries.first()
        && BALANCE.not_yet.contains(&entry.key.as_str())
    {
        let what = format!("balance by {}", entry.key);
        report.add(not_yet(entry.key_span, &what).hint("today it is round_robin | least_request"));
        return None;
    }
    word(node, report, &BALANCE)
}

fn pool(node: &Node, report: &mut Report<'_>) -> Option<Pool> {
    let mut fields = report.fields(node, &POOL)?;
    let idle_per_endpoint = fields.get("idle_per_endpoint", |n, r| number(n, r, 0, 100_000));
    let idle_timeout = fields.get("idle_timeout", |n, r| or_none(n, r, limit_duration));
    let max_requests = fields.get("max_requests", |n, r| or_none(n, r, max_requests));
    let max_age = fields.get("max_age", |n, r| or_none(n, r, limit_duration));
    Some(Pool {
        idle_per_endpoint: idle_per_endpoint? as usize,
        idle_timeout: idle_timeout?,
        max_requests: max_requests?,
        max_age: max_age?,
    })
}

fn max_requests(node: &Node, report: &mut Report<'_>) -> Option<NonZeroUsize> {
    crate::units::count(node, report, u32::MAX)
}

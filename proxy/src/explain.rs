//! Why a request goes where it goes: the routes that are tried, the first condition of each that does
//! not hold, and what is done with the request in the end.
//!
//! The same reader, the same normal form and the same [`crate::route::Router`] answer here that serve
//! requests; nothing is matched a second time. Of a process that runs, its workers are asked where the
//! next request would go ([`Turn`]). No request is sent, and no state moves.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use balancer::Policy;
use config::{Condition, Labels, Network, Test};
use serde_json::{Value, json};

use crate::edits::Edits;
use crate::error::Cause;
use crate::http::location::Location;
use crate::http::rewrite::NewPrefix;
use crate::http1::head::{Parsed, RequestHead, parse_request};
use crate::plan::{self, Action, EndpointState, HttpListener, ListenerKind, Plan};
use crate::route::{self, Considered, Failed, PathPattern};
use crate::turn::Turn;

/// A request, as somebody would ask for it.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub method: &'a str,
    /// `http://host[:port]/path?query`, or from `/` on; for CONNECT `host:port`.
    pub url: &'a str,
    /// A `host` among them counts for more than the URL's.
    pub headers: &'a [(String, String)],
    /// Who connects; `None` as over a Unix socket.
    pub source_ip: Option<IpAddr>,
}

/// Answers a question that came as JSON, `{method, url, headers: {NAME: VALUE}, from, listener}`. An
/// error says what is unclear.
pub fn answer(plan: &Plan, question: &Value) -> Result<Explanation, String> {
    let known = ["method", "url", "headers", "from", "listener"];
    let map = question.as_object().ok_or("a question is {method, url, headers, from, listener}")?;
    if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}; there are {}", known.join(", ")));
    }
    let text = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("{key} is a text")),
    };
    let headers = match map.get("headers") {
        None | Some(Value::Null) => Vec::new(),
        Some(given) => headers_of(given).ok_or(
            "headers are a map {NAME: VALUE}, or a list [[NAME, VALUE]] where one repeats",
        )?,
    };
    let source_ip = text("from")?.map(|ip| ip.parse().map_err(|_| "from is an IP address"));
    let question = Question {
        method: text("method")?.unwrap_or("GET"),
        url: text("url")?.ok_or("a question has a url")?,
        headers: &headers,
        source_ip: source_ip.transpose()?,
    };
    let listener = find_listener(plan, text("listener")?)?;
    explain(plan, listener, &question)
}

fn headers_of(given: &Value) -> Option<Vec<(String, String)>> {
    let pair = |name: &str, value: &Value| Some((name.to_owned(), value.as_str()?.to_owned()));
    match given {
        Value::Object(map) => map.iter().map(|(name, value)| pair(name, value)).collect(),
        Value::Array(list) => list
            .iter()
            .map(|item| match &item.as_array()?[..] {
                [name, value] => pair(name.as_str()?, value),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// The listener of that name, or the only one that has routes.
pub fn find_listener(plan: &Plan, wanted: Option<&str>) -> Result<usize, String> {
    let http: Vec<usize> = (0..plan.listeners.len())
        .filter(|index| matches!(plan.listeners[*index].kind, ListenerKind::Http(_)))
        .collect();
    let names: Vec<&str> = http.iter().map(|index| &*plan.listeners[*index].name).collect();
    let names = names.join(", ");
    match wanted {
        Some(wanted) => plan
            .listeners
            .iter()
            .position(|listener| *listener.name == *wanted)
            .ok_or_else(|| format!("there is no listener {wanted:?}; there are {names}")),
        None => match http[..] {
            [only] => Ok(only),
            [] => Err("there is no http listener, and so no route".to_owned()),
            _ => Err(format!("there are several http listeners; say --listener, one of {names}")),
        },
    }
}

/// What becomes of a request, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub listener: String,
    pub method: String,
    pub host: String,
    /// In the form in which it is matched, without the query.
    pub path: String,
    pub query: String,
    pub source_ip: Option<IpAddr>,
    /// In the order in which they are tried, up to the one that takes the request.
    pub tried: Vec<Tried>,
    /// Where none takes it: some of those whose path or host does not fit.
    pub near: Vec<Tried>,
    /// Matches that come after the one that takes it, or want another path or host.
    pub untried: usize,
    pub outcome: Outcome,
}

/// One match of a route.
#[derive(Clone, Debug)]
pub struct Tried {
    pub route: String,
    /// Its place among the route's `matches`, from 0.
    pub index: usize,
    /// `None`: it takes the request.
    pub failed: Option<Unmet>,
}

/// A condition that does not hold.
#[derive(Clone, Debug)]
pub struct Unmet {
    /// `host`, `path`, `method`, `header`, `cookie`, `query` or `source_ips`.
    pub condition: &'static str,
    /// What it wants, in words; empty for `host`.
    pub wants: String,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// The request, or that no route takes it, is answered with this.
    Refused(Cause),
    Redirect {
        route: String,
        status: u16,
        location: String,
    },
    Respond {
        route: String,
        status: u16,
        body: String,
    },
    Forward(Box<Forwarding>),
}

/// How a request goes on.
#[derive(Clone, Debug)]
pub struct Forwarding {
    pub route: String,
    /// The route's place in the plan.
    pub route_index: usize,
    /// With its query, as the service gets it; empty for CONNECT.
    pub target: String,
    /// As the service gets it; empty: the endpoint's address.
    pub host: String,
    pub sides: Vec<Side>,
    pub timeouts: config::RouteTimeouts,
}

/// One of the route's backends.
#[derive(Clone, Debug)]
pub struct Side {
    pub service: String,
    /// Only endpoints that have these.
    pub labels: Labels,
    /// That a request goes here, from 0 to 1.
    pub probability: f64,
    pub request_edits: Edits,
    pub response_edits: Edits,
    pub policy: Policy,
    pub connect_timeout: Duration,
    pub endpoints: Vec<EndpointShare>,
    /// Which of the endpoints comes next: on the worker that gets the next connection, or everywhere if
    /// there is only one.
    pub next: Option<usize>,
    /// Which comes next on each worker that was asked.
    pub turns: Vec<Option<usize>>,
    /// Of each worker that was asked, whether its next request goes here.
    pub is_next_on: Vec<bool>,
}

#[derive(Clone, Debug)]
pub struct EndpointShare {
    pub address: String,
    pub weight: u32,
    pub state: EndpointState,
    /// Of the requests that come to this side, from 0 to 1, while all are equally busy.
    pub probability: f64,
}

/// Of those that are not tried, so many are named.
const NEAR_MAX: usize = 20;

/// Explains a request to a listener, which is an http listener by its index in the plan. An error is a
/// question that is no request, in words.
pub fn explain(
    plan: &Plan,
    listener: usize,
    question: &Question<'_>,
) -> Result<Explanation, String> {
    let name = &plan.listeners[listener].name;
    let ListenerKind::Http(http) = &plan.listeners[listener].kind else {
        return Err(format!("the listener {name} speaks tcp, and routes are for http"));
    };
    let mut bytes = question.head()?;
    let mut head = RequestHead::default();
    let parsed = parse_request(&bytes, &http.head_limits, &mut head);
    let mut explanation = Explanation {
        listener: name.to_string(),
        method: question.method.to_owned(),
        host: String::new(),
        path: String::new(),
        query: String::new(),
        source_ip: question.source_ip,
        tried: Vec::new(),
        near: Vec::new(),
        untried: 0,
        outcome: Outcome::Refused(Cause::NoRoute),
    };
    match parsed {
        Ok(Parsed::Complete { .. }) => {}
        Ok(Parsed::Partial) => return Err("this is not a whole request".to_owned()),
        Err(reject) => {
            explanation.outcome = Outcome::Refused(reject.cause);
            return Ok(explanation);
        }
    }
    if http.normalize_path {
        head.normalize_path(&mut bytes);
    }
    explanation.fill(plan, http, &head, &bytes);
    Ok(explanation)
}

impl Question<'_> {
    /// The request's head, as a client would send it.
    fn head(&self) -> Result<Vec<u8>, String> {
        let fields = self.headers.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let mut texts = [self.method, self.url].into_iter().chain(fields);
        if let Some(text) = texts.find(|text| text.contains(['\r', '\n', '\0'])) {
            return Err(format!("{text:?} has a line end in it"));
        }
        let url = self.url.split('#').next().unwrap_or_default();
        let absolute = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let (authority, target) = match absolute {
            _ if self.method == "CONNECT" => (url, url),
            Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
            None if url.starts_with('/') || url == "*" => ("", url),
            None => {
                let hint = "write http://HOST/PATH, or /PATH with -H 'host: HOST'";
                return Err(format!("{url:?} is not a URL; {hint}"));
            }
        };
        let root = if target.starts_with('/') || self.method == "CONNECT" || target == "*" {
            ""
        } else {
            "/"
        };
        let names_host = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        if authority.is_empty() && !names_host {
            return Err("the request is for no host; add -H 'host: HOST'".to_owned());
        }
        let mut head = format!("{} {root}{target} HTTP/1.1\r\n", self.method);
        if !names_host {
            head.push_str(&format!("host: {authority}\r\n"));
        }
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Ok(head.into_bytes())
    }
}

impl Explanation {
    fn fill(&mut self, plan: &Plan, http: &HttpListener, head: &RequestHead, bytes: &[u8]) {
        let request = route::Request {
            host: head.host(bytes),
            path: head.path(bytes),
            method: head.method_token(bytes),
            query: head.query(bytes),
            fields: head.fields.shown(bytes, self.source_ip.is_some_and(|ip| http.trusts(ip))),
            source_ip: self.source_ip,
        };
        self.host = text(request.host);
        self.path = text(request.path);
        self.query = text(request.query);
        let considered = http.router.consider(&request);
        let taken = considered.iter().position(|considered| considered.failed.is_none());
        let is_tried = |c: &Considered<'_>| !matches!(c.failed, Some(Failed::Path | Failed::Host));
        // A regex is a path that is tried, and told with the others that do not fit.
        let end = taken.map_or(considered.len(), |taken| taken + 1);
        let (tried, near): (Vec<_>, Vec<_>) =
            considered[..end].iter().partition(|considered| is_tried(considered));
        self.tried = tried.into_iter().map(|considered| Tried::of(plan, considered)).collect();
        if taken.is_none() {
            let near = near.into_iter().take(NEAR_MAX);
            self.near = near.map(|considered| Tried::of(plan, considered)).collect();
        }
        self.untried = considered.len() - self.tried.len() - self.near.len();
        self.outcome = match taken.map(|taken| &considered[taken]) {
            None if request.method == b"CONNECT" => Outcome::Refused(Cause::ConnectNotAllowed),
            None => Outcome::Refused(Cause::NoRoute),
            Some(considered) => {
                outcome(plan, considered.route.0 as usize, considered.matched, &request)
            }
        };
    }

    /// Whether a route takes the request.
    pub fn is_taken(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused(_))
    }
}

fn outcome(plan: &Plan, index: usize, matched: usize, request: &route::Request<'_>) -> Outcome {
    let route = &plan.routes[index];
    let name = route.name.to_string();
    match &route.action {
        Action::Respond(respond) => {
            let (status, body) = (respond.status, respond.body.to_string());
            Outcome::Respond { route: name, status, body }
        }
        Action::Redirect(redirect) => {
            let location = Location {
                redirect: &redirect.to,
                scheme: request.fields.scheme(),
                host: request.host,
                path: request.path,
                query: request.query,
                matched,
            };
            let mut out = Vec::new();
            location.write(&mut out);
            Outcome::Redirect { route: name, status: redirect.to.status, location: text(&out) }
        }
        Action::Forward(forward) => {
            let mut target = Vec::new();
            match forward.prefix.as_deref() {
                Some(prefix) => NewPrefix { prefix, matched }.write(&mut target, request.path),
                None => target.extend_from_slice(request.path),
            }
            target.extend_from_slice(request.query);
            let host = forward.host.as_deref().map_or_else(|| text(request.host), str::to_owned);
            let sides = forward.backends.iter().zip(forward.weights.shares());
            let sides = sides.map(|(backend, share)| Side::of(plan, backend, share));
            Outcome::Forward(Box::new(Forwarding {
                route: name,
                route_index: index,
                target: text(&target),
                host,
                sides: sides.collect(),
                timeouts: route.timeouts.clone(),
            }))
        }
    }
}

impl Side {
    fn of(plan: &Plan, backend: &plan::Backend, probability: f64) -> Side {
        let service = &plan.services[backend.service];
        let members = || service.endpoints.iter().filter(|e| e.labels.include(&backend.labels));
        let share = |endpoint: &plan::Endpoint| match endpoint.state {
            EndpointState::Healthy => f64::from(endpoint.weight),
            EndpointState::Ejected | EndpointState::Draining => 0.0,
        };
        let sum: f64 = members().map(|endpoint| share(endpoint)).sum();
        let endpoints = members().map(|endpoint| EndpointShare {
            address: endpoint.name.to_string(),
            weight: endpoint.weight,
            state: endpoint.state,
            probability: if sum > 0.0 { share(endpoint) / sum } else { 0.0 },
        });
        let endpoints: Vec<EndpointShare> = endpoints.collect();
        let mut usable =
            endpoints.iter().zip(0..).filter(|(endpoint, _)| endpoint.probability > 0.0);
        let only = match (usable.next(), usable.next()) {
            (Some((_, at)), None) => Some(at),
            _ => None,
        };
        Side {
            service: service.name.to_string(),
            labels: backend.labels.clone(),
            probability,
            request_edits: backend.request_edits.clone(),
            response_edits: backend.response_edits.clone(),
            policy: service.policy,
            connect_timeout: service.connect_timeout,
            endpoints,
            next: only,
            turns: Vec::new(),
            is_next_on: Vec::new(),
        }
    }

    /// Whose turn it is here, in words: nothing where nobody was asked.
    fn told(turns: impl Iterator<Item = bool>) -> String {
        let turns: Vec<bool> = turns.collect();
        let workers = turns.iter().zip(0..).filter(|(is_next, _)| **is_next);
        let workers: Vec<String> =
            workers.map(|(_, worker): (_, usize)| worker.to_string()).collect();
        match &workers[..] {
            [] => String::new(),
            _ if workers.len() == turns.len() => "  next".to_owned(),
            [only] => format!("  next on worker {only}"),
            _ => format!("  next on workers {}", workers.join(", ")),
        }
    }

    /// Why it would be the next endpoint.
    fn why(&self) -> &'static str {
        match self.policy {
            _ if self.endpoints.is_empty() && self.labels.is_empty() => "it has no endpoint",
            _ if self.endpoints.is_empty() => "no endpoint has these labels",
            _ if self.endpoints.iter().all(|e| e.probability == 0.0) => "all are taken out",
            _ if self.endpoints.iter().any(|e| e.probability == 1.0) => "there is only one",
            Policy::RoundRobin if !self.turns.is_empty() => "in turn, each as often as its weight",
            Policy::RoundRobin => "in turn, each as often as its weight; a worker begins anywhere",
            Policy::LeastRequest => "the less busy of two drawn by weight",
        }
    }

    /// What each worker would do with its next request.
    fn workers_json(&self) -> Vec<Value> {
        let turns = self.turns.iter().zip(&self.is_next_on).enumerate();
        let one = |(worker, (turn, is_next)): (usize, (&Option<usize>, &bool))| {
            let endpoint = turn.map(|at| &self.endpoints[at].address);
            json!({ "worker": worker, "chosen": is_next, "next": endpoint })
        };
        turns.map(one).collect()
    }
}

impl Tried {
    fn of(plan: &Plan, considered: &Considered<'_>) -> Tried {
        let route = &plan.routes[considered.route.0 as usize];
        Tried {
            route: route.name.to_string(),
            index: considered.index,
            failed: considered.failed.map(|failed| Unmet::of(failed, considered)),
        }
    }
}

impl Unmet {
    fn of(failed: Failed, considered: &Considered<'_>) -> Unmet {
        let listed = |pick: fn(&route::Conditions) -> &[Condition], at: usize| {
            let condition = considered.conditions.and_then(|all| pick(all).get(at));
            condition.map(in_words).unwrap_or_default()
        };
        let (condition, wants) = match failed {
            Failed::Host => ("host", String::new()),
            Failed::Path => ("path", path_in_words(&considered.path)),
            Failed::Method => ("method", methods_in_words(considered.methods)),
            Failed::Header(at) => ("header", listed(|all| &all.headers, at)),
            Failed::Cookie(at) => ("cookie", listed(|all| &all.cookies, at)),
            Failed::Query(at) => ("query", listed(|all| &all.query, at)),
            Failed::SourceIp => {
                let networks = considered.conditions.map(|all| &all.source_ips[..]);
                let networks = networks.unwrap_or_default().iter().map(Network::to_string);
                ("source_ips", networks.collect::<Vec<_>>().join(", "))
            }
        };
        Unmet { condition, wants }
    }
}

fn path_in_words(path: &PathPattern) -> String {
    match path {
        PathPattern::Any => "any".to_owned(),
        PathPattern::Exact(path) => format!("exact {path}"),
        PathPattern::Prefix(path) => format!("prefix {path}"),
        PathPattern::Regex(regex) => format!("regex {}", regex.as_str()),
    }
}

fn methods_in_words(methods: &[Box<[u8]>]) -> String {
    match methods {
        [] => "any but CONNECT".to_owned(),
        methods => methods.iter().map(|method| text(method)).collect::<Vec<_>>().join(", "),
    }
}

fn in_words(condition: &Condition) -> String {
    let Condition { name, test, negated } = condition;
    let not = if *negated { "not " } else { "" };
    match test {
        Test::Present => format!("{name} {not}present"),
        Test::Exact(text) => format!("{name} {not}exact {text}"),
        Test::Prefix(text) => format!("{name} {not}prefix {text}"),
        Test::Regex(regex) => format!("{name} {not}regex {}", regex.as_str()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::RoundRobin => "round_robin",
        Policy::LeastRequest => "least_request",
    }
}

impl Explanation {
    /// For clients of the REST interface: for programs, and as `text` for people.
    pub fn to_answer(&self) -> Value {
        let mut answer = self.to_json();
        answer["text"] = self.to_string().into();
        answer
    }

    /// How the request goes on, if it does.
    pub fn forwarding(&mut self) -> Option<&mut Forwarding> {
        match &mut self.outcome {
            Outcome::Forward(forwarding) => Some(forwarding),
            Outcome::Refused(_) | Outcome::Redirect { .. } | Outcome::Respond { .. } => None,
        }
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let tried = |list: &[Tried]| -> Vec<Value> {
            list.iter()
                .map(|Tried { route, index, failed }| {
                    let failed = failed.as_ref();
                    let failed =
                        failed.map(|f| json!({ "condition": f.condition, "wants": f.wants }));
                    json!({ "route": route, "match": index, "failed": failed })
                })
                .collect()
        };
        let mut value = json!({
            "listener": self.listener,
            "request": {
                "method": self.method,
                "host": self.host,
                "path": self.path,
                "query": self.query,
                "source_ip": self.source_ip.map(|ip| ip.to_string()),
            },
            "tried": tried(&self.tried),
            "near": tried(&self.near),
            "untried": self.untried,
        });
        let outcome = match &self.outcome {
            Outcome::Refused(cause) => json!({
                "outcome": "refused",
                "status": cause.status(),
                "cause": cause.name(),
                "detail": cause.detail(),
                "hint": cause.hint(),
            }),
            Outcome::Redirect { route, status, location } => json!({
                "outcome": "redirect", "route": route, "status": status, "location": location,
            }),
            Outcome::Respond { route, status, body } => json!({
                "outcome": "respond", "route": route, "status": status, "body": body,
            }),
            Outcome::Forward(forwarding) => forwarding.to_json(),
        };
        if let (Value::Object(value), Value::Object(outcome)) = (&mut value, outcome) {
            value.extend(outcome);
        }
        value
    }
}

impl Forwarding {
    /// Notes what the workers would do next, of which `first` gets the next connection.
    pub fn take_turns(&mut self, turns: &[Turn], first: usize) {
        for (side, at) in self.sides.iter_mut().zip(0..) {
            let place = |turn: &Turn| {
                let endpoint = turn.endpoints.get(at)?.as_ref()?;
                side.endpoints.iter().position(|known| *known.address == *endpoint.name)
            };
            side.turns = turns.iter().map(place).collect();
            side.is_next_on = turns.iter().map(|turn| turn.backend == at).collect();
            side.next = side.next.or(side.turns.get(first).copied().flatten());
        }
    }

    fn to_json(&self) -> Value {
        let ms = |limit: Option<Duration>| limit.map(|limit| limit.as_millis() as u64);
        let sides = self.sides.iter().map(|side| {
            let endpoints = side.endpoints.iter().map(|endpoint| {
                json!({
                    "address": endpoint.address,
                    "weight": endpoint.weight,
                    "state": endpoint.state.name(),
                    "probability": endpoint.probability,
                })
            });
            json!({
                "service": side.service,
                "labels": side.labels.to_json(),
                "probability": side.probability,
                "request_headers": edits_json(&side.request_edits),
                "response_headers": edits_json(&side.response_edits),
                "balance": policy(side.policy),
                "connect_timeout_ms": ms(Some(side.connect_timeout)),
                "endpoints": endpoints.collect::<Vec<_>>(),
                "next": side.next.map(|next| &side.endpoints[next].address),
                "workers": side.workers_json(),
                "why": side.why(),
            })
        });
        json!({
            "outcome": "forward",
            "route": self.route,
            "target": self.target,
            "host": self.host,
            "backends": sides.collect::<Vec<_>>(),
            "timeouts": {
                "response_ms": ms(self.timeouts.response),
                "stream_idle_ms": ms(self.timeouts.stream_idle),
                "total_ms": ms(self.timeouts.total),
            },
        })
    }
}

fn edits_json(edits: &Edits) -> Value {
    json!({
        "drop": edits.dropped().map(text).collect::<Vec<_>>(),
        "write": text(edits.lines()).lines().collect::<Vec<_>>(),
    })
}

/// For people.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { listener, method, host, path, query, source_ip, .. } = self;
        write!(f, "request   {method} {host}{path}{query} on {listener}")?;
        match source_ip {
            Some(ip) => writeln!(f, " from {ip}")?,
            None => writeln!(f, " from an unknown source")?,
        }
        let listed = || self.tried.iter().chain(&self.near);
        let width = listed().map(|tried| tried.label().len()).max().unwrap_or(0);
        for (tried, at) in listed().zip(0..) {
            let head = if at == 0 { "tried" } else { "" };
            write!(f, "{head:<9} {:<width$}  ", tried.label())?;
            match &tried.failed {
                None => writeln!(f, "takes it")?,
                Some(Unmet { condition, wants }) if wants.is_empty() => {
                    writeln!(f, "no: {condition}")?;
                }
                Some(Unmet { condition, wants }) => writeln!(f, "no: {condition} {wants}")?,
            }
        }
        if self.untried > 0 {
            let head = if listed().next().is_none() { "tried" } else { "" };
            let what = "come later, or want another path or host";
            writeln!(f, "{head:<9} ({} more {what})", self.untried)?;
        }
        match &self.outcome {
            Outcome::Refused(cause) => {
                let (status, name) = (cause.status(), cause.name());
                writeln!(f, "answer    {status} {name}: {}", cause.hint())
            }
            Outcome::Redirect { route, status, location } => {
                writeln!(f, "route     {route}\nanswer    {status} to {location}")
            }
            Outcome::Respond { route, status, body } => {
                writeln!(f, "route     {route}\nanswer    {status}, {} bytes", body.len())
            }
            Outcome::Forward(forwarding) => forwarding.fmt(f),
        }
    }
}

impl Tried {
    fn label(&self) -> String {
        format!("{}[{}]", self.route, self.index)
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: Option<Duration>| match limit {
            Some(limit) => format!("{limit:?}"),
            None => "none".to_owned(),
        };
        writeln!(f, "route     {}", self.route)?;
        if !self.target.is_empty() {
            writeln!(f, "sends     {} with host {}", self.target, self.host)?;
        }
        let config::RouteTimeouts { response, stream_idle, total } = &self.timeouts;
        writeln!(
            f,
            "timeouts  response {}, stream_idle {}, total {}",
            limit(*response),
            limit(*stream_idle),
            limit(*total)
        )?;
        for side in &self.sides {
            write!(f, "{:>7}   {}", percent(side.probability), side.service)?;
            if !side.labels.is_empty() {
                write!(f, " with {}", side.labels)?;
            }
            match self.sides.len() {
                1 => writeln!(f)?,
                _ => writeln!(f, "{}", Side::told(side.is_next_on.iter().copied()))?,
            }
            for (edits, what) in
                [(&side.request_edits, "request"), (&side.response_edits, "response")]
            {
                for name in edits.dropped() {
                    writeln!(f, "          {what} without {}", text(name))?;
                }
                for line in text(edits.lines()).lines() {
                    writeln!(f, "          {what} with {line}")?;
                }
            }
            writeln!(f, "          {}: {}", policy(side.policy), side.why())?;
            for (endpoint, at) in side.endpoints.iter().zip(0..) {
                let next = match (&side.turns[..], side.next) {
                    ([], Some(next)) if next == at => "  next".to_owned(),
                    (turns, _) => Side::told(turns.iter().map(|turn| *turn == Some(at))),
                };
                let share = percent(endpoint.probability);
                write!(f, "          {share:>7} {}{next}", endpoint.address)?;
                match endpoint.state {
                    EndpointState::Healthy => writeln!(f)?,
                    state => writeln!(f, "  {}", state.name())?,
                }
            }
        }
        Ok(())
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
listeners:
  - { name: web, address: "127.0.0.1:0", http: {} }
  - { name: db, address: "127.0.0.1:0", tcp: { service: blue } }
services:
  - { name: blue, endpoints: [{ address: "10.0.0.1:80", weight: 3 }, { address: "10.0.0.2:80" }] }
  - { name: green, balance: least_request, endpoints: [{ address: "10.0.0.3:80" }] }
  - { name: red, endpoints: [{ address: "10.0.0.4:80", labels: { version: v1 } }, { address: "10.0.0.5:80", labels: { version: v2 } }] }
routes:
  - name: beta
    hosts: [a]
    matches: [{ path: { prefix: /api }, headers: [{ name: x-group, exact: beta, not: true }] }, { path: { prefix: /api }, source_ips: [10.0.0.0/8] }]
    backends: [{ service: blue, weight: 90, request_headers: { set: { x-a: b }, remove: [x-c] } }, { service: green, weight: 10 }]
    rewrite: { prefix: /v2, host: inner }
  - { name: posts, hosts: [a], matches: [{ path: { exact: /api/x }, methods: [POST] }], respond: { status: 201, body: made } }
  - { name: versions, hosts: [c], backends: [{ service: red, labels: { version: v2 } }, { service: red, labels: { version: v3 } }] }
  - { name: moved, hosts: [b], redirect: { scheme: https } }
  - { name: elsewhere, hosts: [a], matches: [{ path: { regex: "/else.*" } }], respond: {} }
"#;

    fn ask(method: &str, url: &str, headers: &[(&str, &str)], from: Option<&str>) -> Explanation {
        let loaded = config::parse("test", CONFIG, config::Format::Yaml).unwrap();
        let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let source_ip = from.map(|ip| ip.parse().unwrap());
        let question = Question { method, url, headers: &headers, source_ip };
        explain(&plan, 0, &question).unwrap()
    }

    #[test]
    fn the_table_says_it_all() {
        let explanation =
            ask("GET", "http://A:81/else/../api/x?q=1#f", &[("X-Group", "beta")], Some("10.1.2.3"));
        let expect = "\
request   GET A:81/api/x?q=1 on web from 10.1.2.3
tried     posts[0]  no: method POST
          beta[0]   no: header x-group not exact beta
          beta[1]   takes it
          (3 more come later, or want another path or host)
route     beta
sends     /v2/x?q=1 with host inner
timeouts  response 15s, stream_idle 300s, total none
  90.0%   blue
          request without x-a
          request without x-c
          request with x-a: b
          round_robin: in turn, each as often as its weight; a worker begins anywhere
            75.0% 10.0.0.1:80
            25.0% 10.0.0.2:80
  10.0%   green
          least_request: there is only one
           100.0% 10.0.0.3:80  next
";
        assert_eq!(explanation.to_string(), expect);
        let value = explanation.to_json();
        assert_eq!(value["outcome"], "forward");
        assert_eq!(value["backends"][0]["probability"], 0.9);
        assert_eq!(value["backends"][1]["next"], "10.0.0.3:80");
        assert_eq!(value["tried"][1]["failed"]["wants"], "x-group not exact beta");
        assert_eq!(value["timeouts"]["response_ms"], 15_000);
    }

    #[test]
    fn where_no_route_takes_it_the_near_ones_are_named() {
        let explanation = ask("GET", "/x", &[("host", "a")], None);
        assert!(!explanation.is_taken());
        let table = explanation.to_string();
        for line in [
            "no: path prefix /api\n",
            "no: path exact /api/x\n",
            "no: path regex /else.*\n",
            "moved[0]      no: host\n",
            "answer    404 no_route: ",
        ] {
            assert!(table.contains(line), "no {line:?} in\n{table}");
        }
        let explanation = ask("CONNECT", "a:443", &[], None);
        assert_eq!(explanation.to_json()["cause"], "connect_not_allowed");
    }

    #[test]
    fn answers_of_our_own() {
        let explanation = ask("POST", "http://a/api/x", &[], None);
        assert!(explanation.to_string().contains("answer    201, 4 bytes\n"), "{explanation}");
        let explanation = ask("GET", "http://b:80/x", &[], None);
        assert!(
            explanation.to_string().contains("answer    302 to https://b/x\n"),
            "{explanation}"
        );
    }

    #[test]
    fn endpoints_are_told_by_labels_and_state() {
        let loaded = config::parse("test", CONFIG, config::Format::Yaml).unwrap();
        let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
        let question = Question { method: "GET", url: "http://c/", headers: &[], source_ip: None };
        let table = |plan: &Plan| explain(plan, 0, &question).unwrap().to_string();
        let before = table(&plan);
        assert!(before.contains("red with version=v2\n          round_robin: there is only one\n           100.0% 10.0.0.5:80  next\n"), "{before}");
        assert!(
            before.contains(
                "red with version=v3\n          round_robin: no endpoint has these labels\n"
            ),
            "{before}"
        );
        let address: config::Address = "10.0.0.5:80".parse().unwrap();
        let plan = plan.with_state("red", &address, EndpointState::Ejected).unwrap();
        let after = table(&plan);
        assert!(
            after.contains(
                "round_robin: all are taken out\n             0.0% 10.0.0.5:80  ejected\n"
            ),
            "{after}"
        );
    }

    #[test]
    fn the_turns_of_workers_are_told() {
        let loaded = config::parse("test", CONFIG, config::Format::Yaml).unwrap();
        let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
        let headers = [("x-group".to_owned(), "alpha".to_owned())];
        let url = "http://a/api/y";
        let question = Question { method: "GET", url, headers: &headers, source_ip: None };
        let mut explanation = explain(&plan, 0, &question).unwrap();
        let turn = |backend, blue: usize| {
            let endpoints = vec![
                Some(plan.services[0].endpoints[blue].clone()),
                Some(plan.services[1].endpoints[0].clone()),
            ];
            Turn { backend, endpoints }
        };
        let turns = [turn(0, 1), turn(1, 0), turn(0, 1)];
        explanation.forwarding().unwrap().take_turns(&turns, 1);
        let table = explanation.to_string();
        for line in [
            "90.0%   blue  next on workers 0, 2\n",
            "75.0% 10.0.0.1:80  next on worker 1\n",
            "25.0% 10.0.0.2:80  next on workers 0, 2\n",
            "10.0%   green  next on worker 1\n",
            "100.0% 10.0.0.3:80  next\n",
        ] {
            assert!(table.contains(line), "no {line:?} in\n{table}");
        }
        let blue = &explanation.to_json()["backends"][0];
        assert_eq!(blue["next"], "10.0.0.1:80", "of the worker that is next to get a connection");
        let third = json!({ "worker": 2, "chosen": true, "next": "10.0.0.2:80" });
        assert_eq!(blue["workers"][2], third);
    }

    #[test]
    fn what_is_no_request_is_refused_as_it_would_be() {
        let refused = ask("GET", "http://a/x y", &[], None);
        assert_eq!(refused.to_json()["cause"], "bad_request");
        let refused = ask("GET", "http://a/", &[("content-length", "x")], None);
        assert!(!refused.is_taken());
        let loaded = config::parse("test", CONFIG, config::Format::Yaml).unwrap();
        let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
        for (listener, url, headers) in [
            (1, "http://a/", vec![]),
            (0, "a/x", vec![]),
            (0, "/x", vec![]),
            (0, "http://a/\r\nx: y", vec![]),
            (0, "http://a/", vec![("x".to_owned(), "a\nb".to_owned())]),
        ] {
            let question = Question { method: "GET", url, headers: &headers, source_ip: None };
            assert!(explain(&plan, listener, &question).is_err(), "{url}");
        }
    }
}

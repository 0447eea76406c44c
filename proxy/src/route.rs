//! Which route a request takes.
//!
//! A [`Router`] is built once per plan from plain [`Route`]s and then only read. A look-up
//! allocates nothing, and what it costs is set by the config: a hash for an exact host, a binary
//! search among the wildcard hosts and one among a host's paths. Each byte of host and path is
//! compared about once, however many labels and segments a client makes of them. Conditions cost a
//! pass over the headers or the query each, where host and path have led to them.
//!
//! The rules (INTERFACE.md): the highest `priority` first; then the best host, exact before the
//! longest wildcard before any; then the best path, exact before a regex, the longer pattern first,
//! before the longest prefix; then a route that names methods before one that takes all; then the
//! more conditions on headers (and cookies), then the more on the query; then the name. What fits
//! no route of its best path is tried with the next one, and what fits no route of its best host
//! with the next host. CONNECT opens a tunnel, so it is taken only where it is named.
//!
//! [`Router::consider`] tells the same walk, step by step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::net::IpAddr;

use config::{Condition, Network, Regex};
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::http::host::{Ipv6Text, strip_port};
use crate::http::{cookie, query};
use crate::http1::fields::Shown;
use crate::prefixes::Prefixes;

/// The number that whoever built the router gave a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u32);

/// One route, as plain data.
#[derive(Clone, Debug)]
pub struct Route {
    pub id: RouteId,
    /// The last tie-breaker: the lesser name wins.
    pub name: String,
    /// Higher first.
    pub priority: i32,
    /// Empty: any.
    pub hosts: Vec<HostPattern>,
    /// Any one of these; empty: everything.
    pub matches: Vec<Match>,
}

/// What a host must be; without port, in any case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    Any,
    Exact(String),
    /// `Suffix("x")` is `*.x`: one or more labels, then `.x`.
    Suffix(String),
}

impl HostPattern {
    /// `*`, `*.suffix` or a name.
    pub fn parse(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            _ if text == "*" => HostPattern::Any,
            Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
            None => HostPattern::Exact(text.to_owned()),
        }
    }
}

/// Conditions of which all must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub path: PathPattern,
    /// Empty: any but CONNECT. Case-sensitive tokens.
    pub methods: Vec<String>,
    pub conditions: Conditions,
}

/// What a path (without query) must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathPattern {
    #[default]
    Any,
    Exact(String),
    /// On whole segments: `/api` takes `/api`, `/api/` and `/api/x`, not `/apix`. A slash at its
    /// end makes no difference; `/` is any path.
    Prefix(String),
    Regex(Regex),
}

/// What must hold beside host, path and method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub headers: Vec<Condition>,
    pub cookies: Vec<Condition>,
    pub query: Vec<Condition>,
    /// Any one of these; empty: any source.
    pub source_ips: Vec<Network>,
}

/// What a route is chosen by.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// As it was sent, with its port or without.
    pub host: &'a [u8],
    /// Without the query.
    pub path: &'a [u8],
    /// As a token.
    pub method: &'a [u8],
    /// With its question mark, or empty.
    pub query: &'a [u8],
    pub fields: Shown<'a>,
    /// `None` over a Unix socket.
    pub source_ip: Option<IpAddr>,
}

/// The route of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub route: RouteId,
    /// How many bytes of the path its match named: an exact path all, no path none.
    pub matched: usize,
}

/// Routes, ordered and indexed. Immutable.
#[derive(Debug)]
pub struct Router {
    hasher: SeedableRandomState,
    exact: HashTable<(Box<[u8]>, Paths)>,
    /// Their names are backwards, so that a suffix is a prefix.
    suffixes: Prefixes<Paths>,
    any: Paths,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    /// The highest priority among them.
    priority: i32,
    /// By path. A prefix is without a slash at its end; the empty one is any path.
    index: Prefixes<SmallVec<[Candidate; 1]>>,
    /// The longest pattern first.
    regexes: Box<[Candidate]>,
}

/// A route that is left when host and path fit. Of one path, the best come first.
#[derive(Debug)]
struct Candidate {
    priority: i32,
    route: RouteId,
    /// The place of its match within the route.
    index: u32,
    /// It wants the whole path, not a prefix.
    is_whole: bool,
    /// `None`: every method but CONNECT, whatever else the request says.
    wants: Option<Box<Wants>>,
}

#[derive(Debug)]
struct Wants {
    /// Empty: any but CONNECT.
    methods: Vec<Box<[u8]>>,
    /// Of the whole path.
    regex: Option<Regex>,
    conditions: Conditions,
}

/// Longer names are no host (RFC 1035 §2.3.4).
const HOST_SIZE_MAX: usize = 255;

impl Router {
    /// `seed` keys the hashes: the same seed, the same memory layout.
    pub fn new(routes: &[Route], seed: u64) -> Router {
        // The shared part is fixed for the same reason.
        static SHARED: SharedSeed = SharedSeed::from_u64(0x7269_6e67_7369_6465);
        let hasher = SeedableRandomState::with_seed(seed, &SHARED);
        let mut by_host: BTreeMap<HostPattern, PathsBuilder> = BTreeMap::new();
        let any_host = [HostPattern::Any];
        for route in routes {
            let hosts = if route.hosts.is_empty() { &any_host[..] } else { &route.hosts };
            for host in hosts {
                let host = match host {
                    HostPattern::Any => HostPattern::Any,
                    HostPattern::Exact(name) => HostPattern::Exact(name.to_ascii_lowercase()),
                    HostPattern::Suffix(name) => HostPattern::Suffix(name.to_ascii_lowercase()),
                };
                by_host.entry(host).or_default().insert(route);
            }
        }
        let (mut exact, mut any, mut suffixes) = (HashTable::new(), Paths::default(), Vec::new());
        for (host, paths) in by_host {
            let paths = paths.build();
            match host {
                HostPattern::Any => any = paths,
                HostPattern::Suffix(name) => suffixes.push((backwards(name.as_bytes()), paths)),
                HostPattern::Exact(name) => {
                    let name: Box<[u8]> = name.into_bytes().into();
                    let hash = hasher.hash_one(&*name);
                    exact.insert_unique(hash, (name, paths), |(name, _)| hasher.hash_one(&**name));
                }
            }
        }
        Router { hasher, exact, suffixes: Prefixes::new(suffixes, b'.'), any }
    }

    /// The route of a request. No allocation.
    pub fn lookup(&self, request: &Request<'_>) -> Option<Chosen> {
        let mut best: Option<(i32, Chosen)> = None;
        self.visit_hosts(request.host, |paths| {
            if best.is_none_or(|(priority, _)| paths.priority > priority) {
                paths.visit(request.path, |candidate, matched| {
                    let better = best.is_none_or(|(priority, _)| candidate.priority > priority);
                    if better && candidate.failure(request).is_none() {
                        let chosen = Chosen { route: candidate.route, matched };
                        best = Some((candidate.priority, chosen));
                    }
                    // The rest of this path is no better; another may be, at a higher priority.
                    match best {
                        Some((priority, _)) if priority >= paths.priority => Go::Home,
                        Some((priority, _)) if priority >= candidate.priority => Go::NextPath,
                        _ => Go::On,
                    }
                });
            }
        });
        best.map(|(_, chosen)| chosen)
    }

    /// The host patterns that take this host, the best first.
    fn visit_hosts<'a>(&'a self, host: &[u8], mut visit: impl FnMut(&'a Paths)) {
        let host = strip_port(host);
        // The root's dot says that a name is whole, and hardly anybody writes it.
        let host = host.strip_suffix(b".").unwrap_or(host);
        let mut spelled = Ipv6Text::default();
        let host = if host.first() == Some(&b'[') { spelled.canonical(host) } else { host };
        let mut lower = [0; HOST_SIZE_MAX];
        // A longer host fits `any` alone.
        if let Some(lower) = lower.get_mut(..host.len()) {
            lower.iter_mut().zip(host).for_each(|(to, byte)| *to = byte.to_ascii_lowercase());
            if let Some((_, paths)) = self.exact_host(lower) {
                visit(paths);
            }
            if !self.suffixes.is_empty() {
                lower.reverse();
                for (suffix, paths) in self.suffixes.of(lower) {
                    // At least one byte and the dot before the suffix.
                    if host.len() >= suffix + 2 {
                        visit(paths);
                    }
                }
            }
        }
        visit(&self.any);
    }

    fn exact_host(&self, host: &[u8]) -> Option<&(Box<[u8]>, Paths)> {
        if self.exact.is_empty() {
            return None;
        }
        self.exact.find(self.hasher.hash_one(host), |(known, _)| **known == *host)
    }
}

/// Why a match does not take a request. Of a list of conditions, which one, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Host,
    Path,
    Method,
    Header(usize),
    Cookie(usize),
    Query(usize),
    SourceIp,
}

/// One match of a route, and what comes of it.
#[derive(Clone, Debug)]
pub struct Considered<'a> {
    pub route: RouteId,
    /// The place of the match within the route.
    pub index: usize,
    /// As in [`Chosen`]; 0 where host or path do not fit.
    pub matched: usize,
    /// The first condition that does not hold; `None`: it takes the request.
    pub failed: Option<Failed>,
    pub path: PathPattern,
    /// Empty: any but CONNECT.
    pub methods: &'a [Box<[u8]>],
    /// `None`: there are none.
    pub conditions: Option<&'a Conditions>,
}

impl Router {
    /// All matches in the order in which they are preferred, each with what comes of it: the first
    /// that takes the request is what [`Router::lookup`] gives. Those whose path does not fit follow,
    /// then those whose host does not; of these no order is said.
    pub fn consider<'a>(&'a self, request: &Request<'_>) -> Vec<Considered<'a>> {
        let mut hosts: Vec<&Paths> = Vec::new();
        let mut tried = Vec::new();
        self.visit_hosts(request.host, |paths| {
            hosts.push(paths);
            paths.visit(request.path, |candidate, matched| {
                tried.push((candidate, matched, candidate.failure(request)));
                Go::On
            });
        });
        // Within one priority they came in their order.
        tried.sort_by_key(|(candidate, ..)| Reverse(candidate.priority));
        let exact = self.exact.iter().map(|(_, paths)| paths);
        let all = exact.chain(self.suffixes.values()).chain([&self.any]);
        let mut elsewhere: Vec<&Paths> = all.collect();
        elsewhere.retain(|paths| !hosts.iter().any(|host| std::ptr::eq(*host, *paths)));
        let patterns = hosts.iter().chain(&elsewhere).flat_map(|paths| paths.patterns());
        let mut patterns: HashMap<*const Candidate, PathPattern> = patterns.collect();
        let mut considered: Vec<Considered<'_>> = Vec::new();
        let mut tell = |candidate: &'a Candidate, matched, failed| {
            // Each is told once.
            let Some(path) = patterns.remove(&std::ptr::from_ref(candidate)) else { return };
            let wants = candidate.wants.as_deref();
            considered.push(Considered {
                route: candidate.route,
                index: candidate.index as usize,
                matched,
                failed,
                path,
                methods: wants.map_or(&[], |wants| &wants.methods),
                conditions: wants.map(|wants| &wants.conditions),
            });
        };
        tried.into_iter().for_each(|(candidate, matched, failed)| tell(candidate, matched, failed));
        for (paths, failed) in [(hosts, Failed::Path), (elsewhere, Failed::Host)] {
            let left = paths.into_iter().flat_map(Paths::candidates);
            left.for_each(|candidate| tell(candidate, 0, Some(failed)));
        }
        considered
    }
}

/// What to look at after a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    /// The next path of this host.
    NextPath,
    /// Nothing more of this host.
    Home,
}

impl Paths {
    /// The candidates of all paths that take this one, the best path first, and how much of the path
    /// each names. Regexes are left to the candidates.
    #[inline]
    fn visit<'a>(&'a self, path: &[u8], mut visit: impl FnMut(&'a Candidate, usize) -> Go) {
        let mut entries = self.index.of(path).peekable();
        if let Some(&(len, candidates)) = entries.peek()
            && len == path.len()
            && visit_all(candidates, true, len, &mut visit) == Go::Home
        {
            return;
        }
        // These are in the order of their patterns first, so nothing is over before the last.
        for candidate in &self.regexes {
            if visit(candidate, path.len()) == Go::Home {
                return;
            }
        }
        for (len, candidates) in entries {
            if visit_all(candidates, false, len, &mut visit) == Go::Home {
                return;
            }
        }
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.regexes.iter().chain(self.index.values().flatten())
    }

    /// What path each candidate wants.
    fn patterns(&self) -> impl Iterator<Item = (*const Candidate, PathPattern)> {
        let regexes = self.regexes.iter().filter_map(|candidate| {
            let regex = candidate.wants.as_ref()?.regex.clone()?;
            Some((std::ptr::from_ref(candidate), PathPattern::Regex(regex)))
        });
        let others = self.index.entries().flat_map(|(key, candidates)| {
            let path = String::from_utf8_lossy(&key).into_owned();
            candidates.iter().map(move |candidate| {
                let pattern = match path.as_str() {
                    path if candidate.is_whole => PathPattern::Exact(path.to_owned()),
                    "" => PathPattern::Any,
                    path => PathPattern::Prefix(path.to_owned()),
                };
                (std::ptr::from_ref(candidate), pattern)
            })
        });
        regexes.chain(others)
    }
}

/// Those of the candidates of one path that want it whole, or as a prefix.
#[inline]
fn visit_all<'a>(
    candidates: &'a [Candidate],
    is_whole: bool,
    matched: usize,
    visit: &mut impl FnMut(&'a Candidate, usize) -> Go,
) -> Go {
    let wanted = candidates.iter().filter(|candidate| candidate.is_whole == is_whole);
    let mut ways = wanted.map(|candidate| visit(candidate, matched));
    ways.find(|go| *go != Go::On).unwrap_or(Go::On)
}

impl Candidate {
    /// The first condition that does not hold; host and path fit, but for a regex.
    #[inline]
    fn failure(&self, request: &Request<'_>) -> Option<Failed> {
        match &self.wants {
            None => (request.method == b"CONNECT").then_some(Failed::Method),
            Some(wants) => wants.failure(request),
        }
    }
}

impl Wants {
    fn failure(&self, request: &Request<'_>) -> Option<Failed> {
        let takes_method = match self.methods.is_empty() {
            true => request.method != b"CONNECT",
            false => self.methods.iter().any(|method| **method == *request.method),
        };
        if !takes_method {
            return Some(Failed::Method);
        }
        if self.regex.as_ref().is_some_and(|regex| !regex.is_match(request.path.iter().copied())) {
            return Some(Failed::Path);
        }
        let Conditions { headers, cookies, query, source_ips } = &self.conditions;
        let failed = |list: &[Condition], holds: fn(&Condition, &Request<'_>) -> bool| {
            list.iter().position(|condition| holds(condition, request))
        };
        if let Some(at) = failed(headers, |c, r| has_header(c, r) == c.negated) {
            return Some(Failed::Header(at));
        }
        if let Some(at) = failed(cookies, |c, r| has_cookie(c, r) == c.negated) {
            return Some(Failed::Cookie(at));
        }
        if let Some(at) = failed(query, |c, r| has_parameter(c, r) == c.negated) {
            return Some(Failed::Query(at));
        }
        let is_from = |ip| source_ips.iter().any(|network| network.contains(ip));
        let takes_source = source_ips.is_empty() || request.source_ip.is_some_and(is_from);
        (!takes_source).then_some(Failed::SourceIp)
    }
}

/// Whether one of the values passes the test, whatever that is for.
fn has_header(condition: &Condition, request: &Request<'_>) -> bool {
    let mut values = request.fields.values(&condition.name);
    values.any(|value| condition.test.takes(value.iter().copied()))
}

fn has_cookie(condition: &Condition, request: &Request<'_>) -> bool {
    let mut cookies = request.fields.values("cookie").flat_map(cookie::pairs);
    cookies.any(|(name, value)| {
        name == condition.name.as_bytes() && condition.test.takes(value.iter().copied())
    })
}

fn has_parameter(condition: &Condition, request: &Request<'_>) -> bool {
    query::parameters(request.query).any(|(name, value)| {
        query::decoded(name).eq(condition.name.bytes())
            && condition.test.takes(query::decoded(value))
    })
}

/// The routes of one host pattern, while they are collected.
#[derive(Default)]
struct PathsBuilder {
    paths: BTreeMap<Vec<u8>, Vec<Draft>>,
    /// With the length of its pattern.
    regexes: Vec<(Reverse<usize>, Draft)>,
}

/// A candidate, and by what those of one path are sorted.
struct Draft {
    rank: (Reverse<i32>, bool, Reverse<usize>, Reverse<usize>, String, u32),
    candidate: Candidate,
}

impl PathsBuilder {
    fn insert(&mut self, route: &Route) {
        let everything = [Match::default()];
        let matches = if route.matches.is_empty() { &everything[..] } else { &route.matches };
        for (condition, index) in matches.iter().zip(0..) {
            let draft = Draft::new(route, condition, index);
            let path = match &condition.path {
                PathPattern::Any => "",
                PathPattern::Exact(path) => path,
                PathPattern::Prefix(path) => path.trim_end_matches('/'),
                PathPattern::Regex(regex) => {
                    self.regexes.push((Reverse(regex.as_str().len()), draft));
                    continue;
                }
            };
            self.paths.entry(path.as_bytes().to_vec()).or_default().push(draft);
        }
    }

    fn build(mut self) -> Paths {
        self.regexes.sort_by(|(a_len, a), (b_len, b)| (a_len, &a.rank).cmp(&(b_len, &b.rank)));
        let regexes = self.regexes.into_iter().map(|(_, draft)| draft.candidate).collect();
        let paths = self.paths.into_iter().map(|(path, mut drafts)| {
            drafts.sort_by(|a, b| a.rank.cmp(&b.rank));
            (path, drafts.into_iter().map(|draft| draft.candidate).collect())
        });
        let index = Prefixes::new(paths.collect(), b'/');
        let mut paths = Paths { priority: i32::MIN, index, regexes };
        let highest = paths.candidates().map(|candidate| candidate.priority).max();
        paths.priority = highest.unwrap_or(i32::MIN);
        paths
    }
}

impl Draft {
    fn new(route: &Route, condition: &Match, index: u32) -> Draft {
        let Match { path, methods, conditions } = condition;
        let regex = match path {
            PathPattern::Regex(regex) => Some(regex.clone()),
            PathPattern::Any | PathPattern::Exact(_) | PathPattern::Prefix(_) => None,
        };
        let wants_all =
            regex.is_none() && methods.is_empty() && *conditions == Conditions::default();
        let wants = (!wants_all).then(|| {
            let methods = methods.iter().map(|method| method.as_bytes().into()).collect();
            Box::new(Wants { methods, regex, conditions: conditions.clone() })
        });
        let rank = (
            Reverse(route.priority),
            methods.is_empty(),
            Reverse(conditions.headers.len() + conditions.cookies.len()),
            Reverse(conditions.query.len()),
            route.name.clone(),
            index,
        );
        let is_whole = matches!(path, PathPattern::Exact(_));
        let candidate =
            Candidate { priority: route.priority, route: route.id, index, is_whole, wants };
        Draft { rank, candidate }
    }
}

fn backwards(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{HeadLimits, Parsed, RequestHead, parse_request};
    use config::Test;
    use proptest::prelude::*;

    fn route(name: &str, hosts: &[&str], matches: &[Match]) -> Route {
        Route {
            id: RouteId(0),
            name: name.to_owned(),
            priority: 0,
            hosts: hosts.iter().map(|host| HostPattern::parse(host)).collect(),
            matches: matches.to_vec(),
        }
    }

    fn exact(path: &str) -> Match {
        Match { path: PathPattern::Exact(path.to_owned()), ..Match::default() }
    }

    fn prefix(path: &str) -> Match {
        Match { path: PathPattern::Prefix(path.to_owned()), ..Match::default() }
    }

    fn regex(pattern: &str) -> Match {
        Match { path: PathPattern::Regex(pattern.parse().unwrap()), ..Match::default() }
    }

    /// `name` has the value, or, for an empty one, is there at all.
    fn condition(name: &str, value: &str) -> Condition {
        let test = match value {
            "" => Test::Present,
            value => Test::Exact(value.to_owned()),
        };
        Condition { name: name.to_owned(), test, negated: false }
    }

    fn where_(conditions: Conditions) -> Match {
        Match { conditions, ..Match::default() }
    }

    /// A request, as plain data.
    #[derive(Clone, Debug, Default)]
    struct Asked {
        method: String,
        host: String,
        path: String,
        query: String,
        headers: Vec<(String, String)>,
        source_ip: Option<IpAddr>,
    }

    impl Asked {
        /// `METHOD host path[?query] [name:value]...`
        fn parse(text: &str) -> Asked {
            let mut words = text.split(' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (method, host, target) = (word(), word(), word());
            let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
            let headers = words.map(|word| word.split_once(':').unwrap());
            let headers = headers.map(|(name, value)| (name.to_owned(), value.replace('_', " ")));
            Asked {
                method,
                host,
                path: path.to_owned(),
                query: query.to_owned(),
                headers: headers.collect(),
                source_ip: None,
            }
        }

        fn with<T>(&self, ask: impl FnOnce(&Request<'_>) -> T) -> T {
            let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", headers.collect::<String>());
            let mut head = RequestHead::default();
            let parsed = parse_request(bytes.as_bytes(), &HeadLimits::default(), &mut head);
            assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "{bytes}");
            ask(&Request {
                host: self.host.as_bytes(),
                path: self.path.as_bytes(),
                method: self.method.as_bytes(),
                query: self.query.as_bytes(),
                fields: head.fields.shown(bytes.as_bytes(), false),
                source_ip: self.source_ip,
            })
        }
    }

    fn with(method: &str, condition: Match) -> Match {
        Match { methods: vec![method.to_owned()], ..condition }
    }

    /// Looks each request up and expects the name of a route, or `-`.
    fn check(routes: &[Route], rows: &[(&str, &str)]) {
        let mut routes = routes.to_vec();
        for (place, route) in routes.iter_mut().enumerate() {
            route.id = RouteId(place as u32);
        }
        let router = Router::new(&routes, 7);
        for (request, expect) in rows {
            let found = Asked::parse(request).with(|request| router.lookup(request));
            let name = found.map_or("-", |chosen| &routes[chosen.route.0 as usize].name);
            assert_eq!(name, *expect, "{request}");
        }
    }

    #[test]
    fn hosts_exact_then_longest_wildcard_then_any() {
        check(
            &[
                route("any", &[], &[]),
                route("star", &["*"], &[exact("/star")]),
                route("short", &["*.example.com"], &[]),
                route("long", &["*.a.example.com"], &[]),
                route("exact", &["B.example.COM"], &[]),
                route("six", &["[::1]"], &[]),
            ],
            &[
                ("GET b.example.com /", "exact"),
                ("GET B.EXAMPLE.com:8080 /", "exact"),
                ("GET c.example.com /", "short"),
                ("GET c.b.example.com /", "short"),
                ("GET a.example.com /", "short"),
                ("GET b.a.example.com:1 /", "long"),
                ("GET example.com /", "any"),
                ("GET .example.com /", "any"),
                ("GET xexample.com /", "any"),
                ("GET [::1]:80 /", "six"),
                ("GET [::2]:80 /", "any"),
                ("GET  /", "any"),
                ("GET other /star", "star"),
            ],
        );
    }

    #[test]
    fn paths_exact_then_longest_prefix_on_segments() {
        check(
            &[
                route("root", &["a"], &[prefix("/")]),
                route("api", &["a"], &[prefix("/api")]),
                route("slash", &["a"], &[prefix("/slash/")]),
                route("deep", &["a"], &[prefix("/api/v1")]),
                route("exact", &["a"], &[exact("/api/v1/x")]),
                route("only", &["b"], &[exact("/")]),
            ],
            &[
                ("GET a /", "root"),
                ("GET a /api", "api"),
                ("GET a /api/", "api"),
                ("GET a /api/x", "api"),
                ("GET a /apix", "root"),
                ("GET a /API", "root"),
                ("GET a /slash", "slash"),
                ("GET a /slash/x", "slash"),
                ("GET a /slashx", "root"),
                ("GET a /api/v1", "deep"),
                ("GET a /api/v1/x", "exact"),
                ("GET a /api/v1/x/", "deep"),
                ("GET a /api/v11", "api"),
                ("OPTIONS a *", "root"),
                ("CONNECT a ", "-"),
                ("GET b /", "only"),
                ("GET b /x", "-"),
                ("GET c /", "-"),
            ],
        );
    }

    #[test]
    fn methods_then_names() {
        check(
            &[
                route("b", &["a"], &[prefix("/")]),
                route("a", &["a"], &[prefix("/")]),
                route("z", &["a"], &[with("GET", prefix("/"))]),
                route("y", &["a"], &[with("POST", exact("/x"))]),
            ],
            &[
                ("GET a /", "z"),
                ("POST a /", "a"),
                ("get a /", "a"),
                ("POST a /x", "y"),
                ("GET a /x", "z"),
            ],
        );
    }

    #[test]
    fn what_fits_no_route_of_its_host_tries_the_next() {
        check(
            &[
                route("any", &[], &[prefix("/any")]),
                route("wide", &["*.com"], &[with("GET", prefix("/wide"))]),
                route("exact", &["a.com"], &[exact("/exact")]),
            ],
            &[
                ("GET a.com /exact", "exact"),
                ("GET a.com /wide", "wide"),
                ("POST a.com /wide", "-"),
                ("GET a.com /any", "any"),
                ("GET a.com /none", "-"),
            ],
        );
    }

    #[test]
    fn connect_is_taken_only_where_it_is_named() {
        check(
            &[
                route("any", &[], &[with("CONNECT", Match::default())]),
                route("tunnel", &["a"], &[with("CONNECT", Match::default())]),
                route("web", &["a"], &[]),
                route("first", &["*.com"], &[with("GET", prefix("/")), prefix("/")]),
                route("none", &["b"], &[exact("/"), prefix("/")]),
            ],
            &[
                ("CONNECT a:443 ", "tunnel"),
                ("GET a /", "web"),
                ("CONNECT b:443 ", "any"),
                ("CONNECT x.com:443 ", "any"),
                ("connect b /", "none"),
                ("GET c /", "-"),
            ],
        );
        check(&[route("all", &[], &[])], &[("CONNECT a:443 ", "-"), ("CONNECT  ", "-")]);
    }

    #[test]
    fn priority_comes_before_everything() {
        let mut low = route("exact", &["a"], &[exact("/x")]);
        low.priority = -1;
        let mut high = route("high", &[], &[prefix("/x")]);
        high.priority = 1;
        check(
            &[low, high, route("middle", &["a"], &[])],
            &[("GET a /x", "high"), ("GET a /", "middle"), ("GET b /", "-")],
        );
    }

    #[test]
    fn a_host_longer_than_any_name_fits_any_alone() {
        let long = "a.".repeat(200);
        let routes = [route("any", &[], &[]), route("suffix", &["*.a"], &[])];
        check(&routes, &[(&format!("GET {long}a /"), "any"), ("GET a.a /", "suffix")]);
    }

    #[test]
    fn regexes_come_after_exact_paths_and_before_prefixes_the_longer_first() {
        check(
            &[
                route("prefix", &[], &[prefix("/api/v1")]),
                route("exact", &[], &[exact("/api/v1/x")]),
                route("short", &[], &[regex("/api/.*")]),
                route("long", &[], &[regex("/api/v[0-9]+/y.*")]),
                route("posts", &[], &[with("POST", regex("/API/.*"))]),
                route("a", &[], &[regex("/API/.*")]),
            ],
            &[
                ("GET h /api/v1/x", "exact"),
                ("GET h /api/v1/y/z", "long"),
                ("GET h /api/v1/z", "short"),
                ("GET h /api", "-"),
                ("GET h /xapi/v1", "-"),
                ("GET h /API/", "a"),
                ("POST h /API/", "posts"),
            ],
        );
    }

    #[test]
    fn the_more_conditions_come_first_and_all_have_to_hold() {
        let header = |name, value| condition(name, value);
        let two = Conditions {
            headers: vec![header("x-a", "1")],
            cookies: vec![condition("c", "2")],
            ..Conditions::default()
        };
        let one = Conditions { headers: vec![header("x-a", "")], ..Conditions::default() };
        let query = Conditions { query: vec![condition("q", "a b")], ..Conditions::default() };
        let not = Condition { negated: true, ..condition("q", "1") };
        let no_q = Conditions { query: vec![not], ..Conditions::default() };
        check(
            &[
                route("a-any", &["h"], &[]),
                route("two", &["h"], &[where_(two)]),
                route("one", &["h"], &[where_(one)]),
                route("query", &["h"], &[where_(query)]),
                route("not", &["n"], &[where_(no_q)]),
            ],
            &[
                ("GET h /", "a-any"),
                ("GET h / X-A:9", "one"),
                ("GET h / x-a:9 x-a:1 cookie:b=1;_c=2", "two"),
                ("GET h / x-a:1 cookie:c=3", "one"),
                ("GET h /?q=a%20b&q=2", "query"),
                ("GET h /?q=a+b x-a:", "one"),
                ("GET h /?q=A+b", "a-any"),
                ("GET n /", "not"),
                ("GET n /?q=1", "-"),
                ("GET n /?q=2&q=1", "-"),
                ("GET n /?q=2", "not"),
                // It ends at this hop.
                ("GET h / connection:x-a x-a:1", "a-any"),
            ],
        );
    }

    #[test]
    fn what_a_client_claims_is_no_condition_unless_it_is_trusted() {
        let bytes =
            b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nx-ringside-cause: x\r\n\
            upgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        let mut head = RequestHead::default();
        parse_request(bytes, &HeadLimits::default(), &mut head).unwrap();
        for (name, trust, shown) in [
            ("x-forwarded-for", false, 0),
            ("x-forwarded-for", true, 1),
            ("x-ringside-cause", true, 0),
            ("upgrade", false, 1),
        ] {
            assert_eq!(head.fields.shown(bytes, trust).values(name).count(), shown, "{name}");
        }
    }

    #[test]
    fn a_source_is_of_one_of_the_networks_and_is_known() {
        let file = "listeners: [{ name: l, address: '127.0.0.1:0', http: {} }]\n\
            routes: [{ name: r, matches: [{ source_ips: [10.0.0.0/8, 'fd00::/8'] }], respond: {} }]";
        let loaded = config::parse("test", file, config::Format::Yaml).unwrap();
        let source_ips = loaded.config.routes[0].matches[0].source_ips.clone();
        let conditions = Conditions { source_ips, ..Conditions::default() };
        let router = Router::new(&[route("r", &[], &[where_(conditions)])], 1);
        for (source, takes) in [
            (Some("10.1.2.3"), true),
            (Some("::ffff:10.1.2.3"), true),
            (Some("fd00::1"), true),
            (Some("11.0.0.1"), false),
            (None, false),
        ] {
            let source_ip = source.map(|ip| ip.parse().unwrap());
            let asked = Asked { source_ip, ..Asked::parse("GET a /") };
            assert_eq!(asked.with(|r| router.lookup(r)).is_some(), takes, "{source:?}");
        }
    }

    #[test]
    fn what_matched_of_the_path_is_told() {
        let router = Router::new(
            &[route("r", &[], &[exact("/x"), prefix("/api/"), with("PUT", Match::default())])],
            1,
        );
        for (request, matched) in
            [("GET a /x", 2), ("GET a /api/b", 4), ("GET a /api", 4), ("PUT a /b", 0)]
        {
            let chosen = Asked::parse(request).with(|request| router.lookup(request)).unwrap();
            assert_eq!(chosen.matched, matched, "{request}");
        }
    }

    #[test]
    fn what_was_considered_says_what_failed_first() {
        let beta = Conditions { headers: vec![condition("x", "b")], ..Conditions::default() };
        let mut routes = vec![
            route("beta", &["a"], &[where_(beta)]),
            route("posts", &["a"], &[with("POST", prefix("/x"))]),
            route("other", &["b"], &[]),
            route("elsewhere", &["a"], &[prefix("/y")]),
            route("any", &[], &[]),
        ];
        for (route, id) in routes.iter_mut().zip(0..) {
            route.id = RouteId(id);
        }
        let router = Router::new(&routes, 1);
        let considered = Asked::parse("GET a /x/y").with(|request| router.consider(request));
        let told: Vec<_> = considered
            .iter()
            .map(|c| (routes[c.route.0 as usize].name.as_str(), c.failed))
            .collect();
        let expect = [
            ("posts", Some(Failed::Method)),
            ("beta", Some(Failed::Header(0))),
            ("any", None),
            ("elsewhere", Some(Failed::Path)),
            ("other", Some(Failed::Host)),
        ];
        assert_eq!(told, expect);
    }

    /// The rules, read once more from INTERFACE.md and applied to every match in turn.
    fn reference(routes: &[Route], asked: &Asked) -> Option<RouteId> {
        let host = asked.host.split(':').next().unwrap().to_ascii_lowercase();
        let (path, method) = (asked.path.as_str(), asked.method.as_str());
        let host_rank = |pattern: &HostPattern| match pattern {
            HostPattern::Any => Some((0, 0)),
            HostPattern::Suffix(s) => {
                let rest = host.strip_suffix(&s.to_ascii_lowercase())?.strip_suffix('.')?;
                (!rest.is_empty()).then_some((1, s.len()))
            }
            HostPattern::Exact(name) => (name.to_ascii_lowercase() == host).then_some((2, 0)),
        };
        let path_rank = |pattern: &PathPattern| match pattern {
            PathPattern::Any => Some((0, 0)),
            PathPattern::Prefix(p) => {
                let p = p.trim_end_matches('/');
                let rest = path.strip_prefix(p)?;
                let whole = p.is_empty() || rest.is_empty() || rest.starts_with('/');
                whole.then_some((0, p.len()))
            }
            PathPattern::Regex(regex) => {
                regex.is_match(path.bytes()).then_some((1, regex.as_str().len()))
            }
            PathPattern::Exact(p) => (p == path).then_some((2, 0)),
        };
        let holds = |condition: &Condition, values: Vec<&str>| {
            let passes = |value: &&str| match &condition.test {
                Test::Present => true,
                Test::Exact(text) => text == value,
                Test::Prefix(text) => value.starts_with(text.as_str()),
                Test::Regex(regex) => regex.is_match(value.bytes()),
            };
            values.iter().any(passes) != condition.negated
        };
        let headers = |name: &str| -> Vec<&str> {
            let same = asked.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            same.map(|(_, value)| value.as_str()).collect()
        };
        let pairs = |text: &'_ str, separator, name: &str| -> Vec<String> {
            let pairs =
                text.split(separator).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).collect()
        };
        let everything = [Match::default()];
        let any_host = [HostPattern::Any];
        let mut best = None;
        for route in routes {
            let hosts = if route.hosts.is_empty() { &any_host[..] } else { &route.hosts };
            let matches = if route.matches.is_empty() { &everything[..] } else { &route.matches };
            for (host, condition) in hosts.iter().flat_map(|h| matches.iter().map(move |m| (h, m)))
            {
                let (Some(host), Some(path)) = (host_rank(host), path_rank(&condition.path)) else {
                    continue;
                };
                let named = condition.methods.iter().any(|m| m == method);
                if !named && (!condition.methods.is_empty() || method == "CONNECT") {
                    continue;
                }
                let wants = &condition.conditions;
                let cookies = |name: &str| pairs(&headers("cookie").join("; "), "; ", name);
                let query = |name: &str| match asked.query.strip_prefix('?') {
                    Some(query) => pairs(query, "&", name),
                    None => Vec::new(),
                };
                let all = wants.headers.iter().all(|c| holds(c, headers(&c.name)))
                    && wants.cookies.iter().all(|c| {
                        let values = cookies(&c.name);
                        holds(c, values.iter().map(String::as_str).collect())
                    })
                    && wants.query.iter().all(|c| {
                        let values = query(&c.name);
                        holds(c, values.iter().map(String::as_str).collect())
                    });
                if !all {
                    continue;
                }
                let counts = (wants.headers.len() + wants.cookies.len(), wants.query.len());
                let name = Reverse(route.name.clone());
                let rank = (route.priority, host, path, named, counts, name);
                if best.as_ref().is_none_or(|(known, _)| rank > *known) {
                    best = Some((rank, route.id));
                }
            }
        }
        best.map(|(_, id)| id)
    }

    fn hosts() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "*", "a", "b.a", "*.a", "*.b.a", "c.b.a", "*.com", "A", "*.B.a", "x.a",
        ])
    }

    fn paths() -> impl Strategy<Value = PathPattern> {
        let paths = vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b"];
        let path = prop::sample::select(paths).prop_map(str::to_owned);
        prop_oneof![
            Just(PathPattern::Any),
            path.clone().prop_map(PathPattern::Exact),
            path.prop_map(PathPattern::Prefix),
            prop::sample::select(vec!["/a.*", "/b.*", "/[ab]/b", ".*"])
                .prop_map(|pattern| PathPattern::Regex(pattern.parse().unwrap())),
        ]
    }

    fn conditions() -> impl Strategy<Value = Vec<Condition>> {
        let tests = prop::sample::select(vec![
            Test::Present,
            Test::Exact("1".to_owned()),
            Test::Prefix("1".to_owned()),
            Test::Regex("1?2".parse().unwrap()),
        ]);
        let names = prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
        let condition = (names, tests, any::<bool>());
        let condition =
            condition.prop_map(|(name, test, negated)| Condition { name, test, negated });
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(condition, 1..3)]
    }

    fn matches() -> impl Strategy<Value = Match> {
        let method = prop::sample::select(vec!["GET", "POST", "CONNECT"]).prop_map(str::to_owned);
        let methods = prop::collection::vec(method, 0..2);
        let all = (paths(), methods, conditions(), conditions(), conditions());
        all.prop_map(|(path, methods, headers, cookies, query)| {
            let source_ips = Vec::new();
            Match { path, methods, conditions: Conditions { headers, cookies, query, source_ips } }
        })
    }

    prop_compose! {
        fn routes()(parts in prop::collection::vec((
            -1..2i32,
            prop::collection::vec(hosts(), 0..3),
            prop::collection::vec(matches(), 0..3),
        ), 0..24)) -> Vec<Route> {
            let route = |(place, (priority, hosts, matches)): (usize, (i32, Vec<&str>, _))| Route {
                id: RouteId(place as u32),
                // Not in the order of the ids.
                name: format!("{:02}", place * 7 % 29),
                priority,
                hosts: hosts.into_iter().map(HostPattern::parse).collect(),
                matches,
            };
            parts.into_iter().enumerate().map(route).collect()
        }
    }

    prop_compose! {
        fn requests()(
            host in "([abcx]|com){0,1}(\\.[abA]){0,3}(:80)?",
            path in "(/[ab]{0,2}){1,4}",
            method in "GET|POST|PUT|CONNECT",
            query in "(\\?([abc]=[123]{0,2})(&[abc]=[123]{0,2}){0,2})?",
            headers in prop::collection::vec(("[abAc]", "[123]{0,2}"), 0..4),
            cookies in prop::collection::vec("[abc]=[123]{0,2}(; [abc]=[123]{0,2})?", 0..3),
        ) -> Asked {
            let mut headers = headers;
            headers.extend(cookies.into_iter().map(|cookie| ("Cookie".to_owned(), cookie)));
            Asked { method, host, path, query, headers, source_ip: None }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn like_the_reference(routes in routes(), seed: u64, asked in requests()) {
            let router = Router::new(&routes, seed);
            let found = asked.with(|request| router.lookup(request));
            prop_assert_eq!(found.map(|chosen| chosen.route), reference(&routes, &asked));
            // What it tells of its way ends in the same.
            let considered = asked.with(|request| router.consider(request));
            let first = considered.iter().find(|considered| considered.failed.is_none());
            let first = first.map(|c| Chosen { route: c.route, matched: c.matched });
            prop_assert_eq!(found, first);
            let matches = routes.iter().map(|r| r.hosts.len().max(1) * r.matches.len().max(1));
            prop_assert_eq!(considered.len(), matches.sum::<usize>());
        }
    }
}

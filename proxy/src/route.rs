//! Which route a request takes: by priority, host, path, method and name, in this order.
//!
//! A [`Router`] is built once per plan from plain [`Route`]s and then only read. A look-up costs
//! a few hash probes: one for the host, one per distinct length among the wildcard hosts and path
//! prefixes that the config holds (never per label or segment that a client sends), and no
//! allocation.
//!
//! The rules (INTERFACE.md): the highest `priority` first; then the best host, exact before the
//! longest wildcard before any; then the best path, exact before the longest prefix; then a route
//! that names methods before one that takes all; then the name. What fits no route of its best
//! path is tried with the next one, and what fits no route of its best host with the next host.
//! CONNECT opens a tunnel, so it is taken only where it is named.

use std::hash::BuildHasher as _;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashTable;

use crate::http::host::strip_port;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Routes, ordered and indexed. Immutable.
#[derive(Debug)]
pub struct Router {
    hasher: SeedableRandomState,
    /// One per priority, the highest first.
    levels: Vec<Level>,
}

/// The routes of one priority.
#[derive(Debug, Default)]
struct Level {
    priority: i32,
    exact: Table<Paths>,
    suffix: Table<Paths>,
    any: Paths,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    exact: Table<Vec<Candidate>>,
    /// Keys without a slash at the end; the empty key is any path.
    prefix: Table<Vec<Candidate>>,
}

/// A route that is left when host and path fit; the best first.
#[derive(Debug)]
struct Candidate {
    methods: Vec<Box<[u8]>>,
    name: Box<str>,
    route: RouteId,
}

/// Longer names are no host (RFC 1035 §2.3.4).
const HOST_SIZE_MAX: usize = 255;

impl Router {
    /// `seed` keys the hashes: the same seed, the same memory layout.
    pub fn new(routes: &[Route], seed: u64) -> Router {
        // The shared part is fixed for the same reason.
        static SHARED: SharedSeed = SharedSeed::from_u64(0x7269_6e67_7369_6465);
        let hasher = SeedableRandomState::with_seed(seed, &SHARED);
        let mut router = Router { hasher, levels: Vec::new() };
        for route in routes {
            router.insert(route);
        }
        for level in &mut router.levels {
            level.exact.values_mut().for_each(Paths::sort);
            level.suffix.values_mut().for_each(Paths::sort);
            level.any.sort();
        }
        router
    }

    fn insert(&mut self, route: &Route) {
        let place = self.levels.partition_point(|level| level.priority > route.priority);
        if self.levels.get(place).is_none_or(|level| level.priority != route.priority) {
            let level = Level { priority: route.priority, ..Level::default() };
            self.levels.insert(place, level);
        }
        let level = &mut self.levels[place];
        let any_host = [HostPattern::Any];
        let hosts = if route.hosts.is_empty() { &any_host[..] } else { &route.hosts };
        for host in hosts {
            let paths = match host {
                HostPattern::Any => &mut level.any,
                HostPattern::Exact(name) => {
                    let name = name.to_ascii_lowercase();
                    level.exact.entry(&self.hasher, name.as_bytes())
                }
                HostPattern::Suffix(name) => {
                    let name = name.to_ascii_lowercase();
                    level.suffix.entry(&self.hasher, name.as_bytes())
                }
            };
            paths.insert(&self.hasher, route);
        }
    }

    /// The route of a request: `host` as it was sent, with its port or without; `path` without
    /// its query; `method` as a token. No allocation.
    pub fn lookup(&self, host: &[u8], path: &[u8], method: &[u8]) -> Option<RouteId> {
        let host = strip_port(host);
        let mut lower = [0; HOST_SIZE_MAX];
        // A longer host fits `any` alone.
        let host = match lower.get_mut(..host.len()) {
            Some(lower) => {
                lower.copy_from_slice(host);
                lower.make_ascii_lowercase();
                &*lower
            }
            None => &[],
        };
        self.levels.iter().find_map(|level| {
            let exact = level.exact.get(&self.hasher, host);
            let suffixes = level.suffix.lens.iter().filter_map(|&len| {
                let start = host.len().checked_sub(len)?;
                // At least one byte and the dot before the suffix.
                let is_whole = start >= 2 && host[start - 1] == b'.';
                is_whole.then(|| level.suffix.get(&self.hasher, &host[start..])).flatten()
            });
            let hosts = exact.into_iter().chain(suffixes).chain([&level.any]);
            hosts.filter_map(|paths| paths.lookup(&self.hasher, path, method)).next()
        })
    }
}

impl Paths {
    fn insert(&mut self, hasher: &SeedableRandomState, route: &Route) {
        let everything = [Match::default()];
        let matches = if route.matches.is_empty() { &everything[..] } else { &route.matches };
        for condition in matches {
            let candidates = match &condition.path {
                PathPattern::Any => self.prefix.entry(hasher, b""),
                PathPattern::Exact(path) => self.exact.entry(hasher, path.as_bytes()),
                PathPattern::Prefix(path) => {
                    self.prefix.entry(hasher, path.trim_end_matches('/').as_bytes())
                }
            };
            candidates.push(Candidate {
                methods: condition.methods.iter().map(|m| m.as_bytes().into()).collect(),
                name: route.name.as_str().into(),
                route: route.id,
            });
        }
    }

    fn sort(&mut self) {
        let rank = |c: &Candidate| (c.methods.is_empty(), c.name.clone());
        for candidates in self.exact.values_mut().chain(self.prefix.values_mut()) {
            candidates.sort_by_key(rank);
        }
    }

    fn lookup(&self, hasher: &SeedableRandomState, path: &[u8], method: &[u8]) -> Option<RouteId> {
        let exact = self.exact.get(hasher, path);
        let prefixes = self.prefix.lens.iter().filter_map(|&len| {
            let (start, rest) = path.split_at_checked(len)?;
            let is_whole = len == 0 || matches!(rest.first(), None | Some(b'/'));
            is_whole.then(|| self.prefix.get(hasher, start)).flatten()
        });
        let mut candidates = exact.into_iter().chain(prefixes).flatten();
        candidates.find(|candidate| candidate.takes(method)).map(|candidate| candidate.route)
    }
}

impl Candidate {
    fn takes(&self, method: &[u8]) -> bool {
        match self.methods.is_empty() {
            true => method != b"CONNECT",
            false => self.methods.iter().any(|m| **m == *method),
        }
    }
}

/// A map from byte strings that also knows which lengths its keys have, the longest first.
#[derive(Debug)]
struct Table<V> {
    entries: HashTable<(Box<[u8]>, V)>,
    lens: Vec<usize>,
}

impl<V> Default for Table<V> {
    fn default() -> Table<V> {
        Table { entries: HashTable::new(), lens: Vec::new() }
    }
}

impl<V: Default> Table<V> {
    fn entry(&mut self, hasher: &SeedableRandomState, key: &[u8]) -> &mut V {
        let place = self.lens.partition_point(|&len| len > key.len());
        if self.lens.get(place) != Some(&key.len()) {
            self.lens.insert(place, key.len());
        }
        let hash = hasher.hash_one(key);
        let entry = self.entries.entry(
            hash,
            |(known, _)| **known == *key,
            |(known, _)| hasher.hash_one(&**known),
        );
        &mut entry.or_insert_with(|| (key.into(), V::default())).into_mut().1
    }

    fn get(&self, hasher: &SeedableRandomState, key: &[u8]) -> Option<&V> {
        // Most tables are empty, and most keys of attackers have no length that is here.
        if self.entries.is_empty() {
            return None;
        }
        let found = self.entries.find(hasher.hash_one(key), |(known, _)| **known == *key);
        found.map(|(_, value)| value)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        Match { path: PathPattern::Exact(path.to_owned()), methods: Vec::new() }
    }

    fn prefix(path: &str) -> Match {
        Match { path: PathPattern::Prefix(path.to_owned()), methods: Vec::new() }
    }

    fn with(method: &str, condition: Match) -> Match {
        Match { methods: vec![method.to_owned()], ..condition }
    }

    /// Looks `METHOD host path` up and expects the name of a route, or `-`.
    fn check(routes: &[Route], rows: &[(&str, &str)]) {
        let mut routes = routes.to_vec();
        for (place, route) in routes.iter_mut().enumerate() {
            route.id = RouteId(place as u32);
        }
        let router = Router::new(&routes, 7);
        for (request, expect) in rows {
            let [method, host, path] = request.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{request}")
            };
            let found = router.lookup(host.as_bytes(), path.as_bytes(), method.as_bytes());
            let name = found.map_or("-", |id| &routes[id.0 as usize].name);
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

    /// The rules, read once more from INTERFACE.md and applied to every pattern in turn.
    fn reference(routes: &[Route], host: &str, path: &str, method: &str) -> Option<RouteId> {
        let host = host.split(':').next().unwrap().to_ascii_lowercase();
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
            PathPattern::Exact(p) => (p == path).then_some((1, 0)),
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
                let name = std::cmp::Reverse(route.name.clone());
                let rank = (route.priority, host, path, named, name);
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
        ]
    }

    fn conditions() -> impl Strategy<Value = Match> {
        let method = prop::sample::select(vec!["GET", "POST", "CONNECT"]).prop_map(str::to_owned);
        (paths(), prop::collection::vec(method, 0..2))
            .prop_map(|(path, methods)| Match { path, methods })
    }

    prop_compose! {
        fn routes()(parts in prop::collection::vec((
            -1..2i32,
            prop::collection::vec(hosts(), 0..3),
            prop::collection::vec(conditions(), 0..3),
        ), 0..12)) -> Vec<Route> {
            let route = |(place, (priority, hosts, matches)): (usize, (i32, Vec<&str>, _))| Route {
                id: RouteId(place as u32),
                // Not in the order of the ids.
                name: format!("{}", place * 7 % 13),
                priority,
                hosts: hosts.into_iter().map(HostPattern::parse).collect(),
                matches,
            };
            parts.into_iter().enumerate().map(route).collect()
        }
    }

    proptest! {
        #[test]
        fn like_the_reference(
            routes in routes(),
            seed: u64,
            host in "([abcx]|com){0,1}(\\.[abA]){0,3}(:80)?",
            path in "(/[ab]{0,2}){1,4}",
            method in "GET|POST|PUT|CONNECT",
        ) {
            let router = Router::new(&routes, seed);
            let found = router.lookup(host.as_bytes(), path.as_bytes(), method.as_bytes());
            prop_assert_eq!(found, reference(&routes, &host, &path, &method));
        }
    }
}

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

use std::hash::{BuildHasher, Hash as _, Hasher as _};

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
    /// Empty: any. Case-sensitive tokens.
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
        self.methods.is_empty() || self.methods.iter().any(|m| **m == *method)
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
        let hash = hash_of(hasher, key);
        let entry = self.entries.entry(
            hash,
            |(known, _)| **known == *key,
            |(known, _)| hash_of(hasher, known),
        );
        &mut entry.or_insert_with(|| (key.into(), V::default())).into_mut().1
    }

    fn get(&self, hasher: &SeedableRandomState, key: &[u8]) -> Option<&V> {
        // Most tables are empty, and most keys of attackers have no length that is here.
        if self.entries.is_empty() {
            return None;
        }
        let found = self.entries.find(hash_of(hasher, key), |(known, _)| **known == *key);
        found.map(|(_, value)| value)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

fn hash_of(hasher: &SeedableRandomState, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    key.hash(&mut state);
    state.finish()
}

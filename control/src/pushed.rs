//! Endpoints that are pushed: which version of each service's set is live, and what a push makes of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use config::{Config, Endpoint, EndpointChange, EndpointPush, Source};
use serde_json::{Value as Json, json};

use crate::state_dir::seconds_since_1970;

/// The sets that were pushed, by service.
#[derive(Default)]
pub(crate) struct Pushed {
    sets: Mutex<HashMap<String, Set>>,
}

/// What was pushed to one service last.
#[derive(Clone)]
pub(crate) struct Set {
    pub(crate) version: u64,
    /// Sorted by address, so that sets compare.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) at: SystemTime,
}

/// Why a push changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no service of this name.
    NoService(String),
    /// Its endpoints come from elsewhere, from where.
    NotPushed(String, &'static str),
    /// This version is live already, or a higher one.
    Stale { service: String, live: u64 },
    /// An edit of what was never there.
    NothingToEdit(String),
}

impl Pushed {
    /// What the pushes make of the sets that are live: all of them, or none. Those that say what is
    /// live already are not among what comes back.
    pub(crate) fn accept(
        &self,
        config: &Config,
        pushes: Vec<(String, EndpointPush)>,
    ) -> Result<Vec<(String, Set)>, Refused> {
        let sets = self.sets();
        let mut accepted = Vec::new();
        for (name, push) in pushes {
            let service = config.services.iter().find(|service| *service.name == *name);
            match service.map(|service| &service.source) {
                None => return Err(Refused::NoService(name)),
                Some(Source::Endpoints(_)) => {
                    return Err(Refused::NotPushed(name, "are in the config"));
                }
                Some(Source::Dns(_)) => return Err(Refused::NotPushed(name, "come by DNS")),
                Some(Source::Pushed { .. }) => {}
            }
            let live = sets.get(&name);
            let endpoints = match push.change {
                EndpointChange::Replace(endpoints) => endpoints,
                EndpointChange::Edit { upsert, remove } => {
                    let Some(live) = live else { return Err(Refused::NothingToEdit(name)) };
                    let is_new = |old: &&Endpoint| {
                        !remove.contains(&old.address)
                            && upsert.iter().all(|new| new.address != old.address)
                    };
                    let stay: Vec<Endpoint> =
                        live.endpoints.iter().filter(is_new).cloned().collect();
                    stay.into_iter().chain(upsert).collect()
                }
            };
            let mut endpoints = endpoints;
            endpoints.sort_by_cached_key(|endpoint| endpoint.address.to_string());
            match live {
                Some(live) if push.version == live.version && endpoints == live.endpoints => {}
                Some(live) if push.version <= live.version => {
                    return Err(Refused::Stale { service: name, live: live.version });
                }
                _ => {
                    let set = Set { version: push.version, endpoints, at: SystemTime::now() };
                    accepted.push((name, set));
                }
            }
        }
        Ok(accepted)
    }

    /// They are live from now on.
    pub(crate) fn keep(&self, accepted: Vec<(String, Set)>) {
        self.sets().extend(accepted);
    }

    /// Forgets the sets of services that are not there any more, or not pushed. Says whether there
    /// were any.
    pub(crate) fn retain(&self, config: &Config) -> bool {
        let pushed = config.services.iter().filter(|s| matches!(s.source, Source::Pushed { .. }));
        let pushed: HashSet<&str> = pushed.map(|service| service.name.as_str()).collect();
        let mut sets = self.sets();
        let before = sets.len();
        sets.retain(|name, _| pushed.contains(&**name));
        sets.len() < before
    }

    pub(crate) fn get(&self, name: &str) -> Option<Set> {
        self.sets().get(name).cloned()
    }

    /// A service that nobody has pushed to yet and that is worth waiting for.
    pub(crate) fn missing(&self, config: &Config, started: Instant) -> Option<String> {
        let sets = self.sets();
        let age = started.elapsed();
        let mut missing = config.services.iter().filter(|service| match service.source {
            Source::Pushed { wait_at_start } => {
                age < wait_at_start && !sets.contains_key(&*service.name)
            }
            Source::Endpoints(_) | Source::Dns(_) => false,
        });
        missing.next().map(|service| service.name.to_string())
    }

    /// All sets, as they are kept for a restart.
    pub(crate) fn to_json(&self) -> Json {
        to_json(self.sets().iter())
    }

    /// When each set came.
    pub(crate) fn times(&self) -> Vec<(String, SystemTime)> {
        self.sets().iter().map(|(name, set)| (name.clone(), set.at)).collect()
    }

    fn sets(&self) -> MutexGuard<'_, HashMap<String, Set>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets as they are kept for a restart, by service.
pub(crate) fn to_json<'s>(sets: impl Iterator<Item = (&'s String, &'s Set)>) -> Json {
    let sets = sets.map(|(name, set)| {
        let endpoints = set.endpoints.iter().map(|endpoint| {
            json!({
                "address": endpoint.address.to_string(),
                "weight": endpoint.weight,
                "labels": endpoint.labels.to_json(),
            })
        });
        let set = json!({
            "version": set.version,
            "at_s": seconds_since_1970(set.at),
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        (name.clone(), set)
    });
    Json::Object(sets.collect())
}

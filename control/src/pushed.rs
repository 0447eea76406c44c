//! Endpoints that are pushed: which version of each service's set is live, and what a push makes of it.
//!
//! A service that leaves the config leaves its set here, for as long as a generation that has the
//! service can be gone back to: it is given back when the service comes back. A restart ends that.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use config::{Config, Endpoint, EndpointChange, EndpointPush, Source};
use serde_json::{Value as Json, json};

use crate::state_dir::seconds_since_1970;

/// So much of what services left is kept, counted in endpoints, and one more for each set.
const GONE_MAX: usize = 65_536;

/// The sets that were pushed, by service.
#[derive(Default)]
pub(crate) struct Pushed {
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    live: HashMap<String, Set>,
    /// Of services that are not there any more, or not pushed. No service is in both.
    gone: HashMap<String, Gone>,
}

/// What a service left.
struct Gone {
    set: Set,
    /// The last generation that had the service.
    generation: u64,
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
            let live = sets.live.get(&name);
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
        self.sets().live.extend(accepted);
    }

    /// What services of a new config left when they went, so that they begin with it.
    pub(crate) fn left(&self, config: &Config) -> Vec<(String, Vec<Endpoint>)> {
        let sets = self.sets();
        if sets.gone.is_empty() {
            return Vec::new();
        }
        let back = |name: &str| Some((name.to_owned(), sets.gone.get(name)?.set.endpoints.clone()));
        pushed(config).filter_map(back).collect()
    }

    /// A config is live after generation `before`, and its services have back what they left. Keeps
    /// what others leave, while the generations from `oldest` on can be gone back to. Says whether
    /// the sets that are live have become others.
    pub(crate) fn follow(&self, config: &Config, before: u64, oldest: u64) -> bool {
        let pushed: HashSet<&str> = pushed(config).collect();
        let Sets { live, gone } = &mut *self.sets();
        let leave: Vec<(String, Set)> =
            live.extract_if(|name, _| !pushed.contains(&**name)).collect();
        let back: Vec<(String, Gone)> =
            gone.extract_if(|name, _| pushed.contains(&**name)).collect();
        let changes = !leave.is_empty() || !back.is_empty();
        live.extend(back.into_iter().map(|(name, gone)| (name, gone.set)));
        let leave = leave.into_iter();
        gone.extend(leave.map(|(name, set)| (name, Gone { set, generation: before })));
        gone.retain(|_, gone| gone.generation >= oldest);
        forget_some(gone, GONE_MAX);
        changes
    }

    pub(crate) fn get(&self, name: &str) -> Option<Set> {
        self.sets().live.get(name).cloned()
    }

    /// A service that nobody has pushed to yet and that is worth waiting for.
    pub(crate) fn missing(&self, config: &Config, started: Instant) -> Option<String> {
        let sets = self.sets();
        let age = started.elapsed();
        let mut missing = config.services.iter().filter(|service| match service.source {
            Source::Pushed { wait_at_start } => {
                age < wait_at_start && !sets.live.contains_key(&*service.name)
            }
            Source::Endpoints(_) | Source::Dns(_) => false,
        });
        missing.next().map(|service| service.name.to_string())
    }

    /// All sets that are live, as they are kept for a restart.
    pub(crate) fn to_json(&self) -> Json {
        to_json(self.sets().live.iter())
    }

    /// When each set came.
    pub(crate) fn times(&self) -> Vec<(String, SystemTime)> {
        self.sets().live.iter().map(|(name, set)| (name.clone(), set.at)).collect()
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
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

/// The names of the services that are pushed to.
fn pushed(config: &Config) -> impl Iterator<Item = &str> {
    let pushed = config.services.iter().filter(|s| matches!(s.source, Source::Pushed { .. }));
    pushed.map(|service| &*service.name)
}

/// Forgets what left first, until the rest counts no more than `most`.
fn forget_some(gone: &mut HashMap<String, Gone>, most: usize) {
    let size = |gone: &Gone| gone.set.endpoints.len() + 1;
    let mut sum: usize = gone.values().map(size).sum();
    if sum <= most {
        return;
    }
    let mut order: Vec<(u64, String)> =
        gone.iter().map(|(name, gone)| (gone.generation, name.clone())).collect();
    order.sort();
    for (_, name) in order {
        if sum <= most {
            return;
        }
        sum -= gone.remove(&name).as_ref().map_or(0, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(services: &str) -> Config {
        let listeners = "listeners: [{ name: a, address: 127.0.0.1:1, http: {} }]";
        let text = format!("version: 1\n{listeners}\nservices: [{services}]\n");
        config::parse("a", &text, config::Format::Yaml).unwrap().config
    }

    fn push(pushed: &Pushed, config: &Config, name: &str, version: u64) -> Result<(), Refused> {
        let text = format!(r#"{{"version":{version},"endpoints":[{{"address":"127.0.0.1:1"}}]}}"#);
        let push = EndpointPush::replacement("a", text.as_bytes()).unwrap();
        pushed.keep(pushed.accept(config, vec![(name.to_owned(), push)])?);
        Ok(())
    }

    #[test]
    fn a_service_that_comes_back_has_what_it_left() {
        let with = config("{ name: a, pushed: {} }");
        let fixed = config("{ name: a, endpoints: [{ address: 127.0.0.1:2 }] }");
        let without = config("");
        let pushed = Pushed::default();
        push(&pushed, &with, "a", 7).unwrap();
        let at = pushed.get("a").unwrap().at;
        for other in [&without, &fixed] {
            assert!(pushed.left(other).is_empty());
            assert!(pushed.follow(other, 1, 1));
            assert!(pushed.get("a").is_none());
            assert!(pushed.times().is_empty() && pushed.to_json() == json!({}));
            assert!(!pushed.follow(other, 2, 1), "nothing leaves twice");
            assert_eq!(pushed.left(&with)[0].1.len(), 1);
            assert!(pushed.follow(&with, 3, 1));
            let set = pushed.get("a").unwrap();
            assert_eq!((set.version, set.at), (7, at));
            assert!(pushed.left(&with).is_empty(), "it has them");
        }
        let stale = Refused::Stale { service: "a".to_owned(), live: 7 };
        assert_eq!(push(&pushed, &with, "a", 6), Err(stale));
    }

    #[test]
    fn what_was_left_is_forgotten_with_the_last_generation_that_has_it() {
        let with = config("{ name: a, pushed: {} }");
        let without = config("");
        let pushed = Pushed::default();
        push(&pushed, &with, "a", 7).unwrap();
        pushed.follow(&without, 5, 1);
        pushed.follow(&without, 6, 5);
        assert_eq!(pushed.left(&with).len(), 1);
        assert!(!pushed.follow(&without, 7, 6));
        assert!(pushed.left(&with).is_empty());
    }

    #[test]
    fn what_is_left_has_a_bound() {
        let with = config("{ name: a, pushed: {} }, { name: b, pushed: {} }");
        let pushed = Pushed::default();
        push(&pushed, &with, "a", 1).unwrap();
        push(&pushed, &with, "b", 1).unwrap();
        pushed.follow(&config("{ name: b, pushed: {} }"), 1, 1);
        pushed.follow(&config(""), 2, 1);
        let mut sets = pushed.sets();
        forget_some(&mut sets.gone, 4);
        assert_eq!(sets.gone.len(), 2, "two endpoints, two sets");
        forget_some(&mut sets.gone, 3);
        assert!(
            sets.gone.len() == 1 && sets.gone.contains_key("b"),
            "the one that left first goes"
        );
    }
}

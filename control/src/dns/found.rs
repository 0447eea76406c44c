//! What DNS said last of each service.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use config::{Config, Dns, Endpoint, Source};
use tokio::time::Instant;

use super::lookup::Broken;

/// The endpoints of a service, or in words why there are none.
pub(super) type Heard = Result<(Vec<Endpoint>, Option<Broken>), String>;

/// What was found, by service.
#[derive(Default)]
pub(crate) struct Found {
    services: Mutex<HashMap<String, Answered>>,
}

/// What is known of one service.
#[derive(Clone)]
pub(crate) struct Answered {
    question: Dns,
    /// The last good answer; sorted by address.
    pub(crate) endpoints: Vec<Endpoint>,
    /// When that came; `None` if none did.
    pub(crate) at: Option<SystemTime>,
    /// What was wrong with the last answer.
    pub(crate) failure: Option<String>,
    /// When it is asked for again.
    due: Instant,
    succeeded: u64,
    failed: u64,
}

impl Answered {
    /// A first answer, that came just now.
    pub(super) fn now(question: Dns, endpoints: Vec<Endpoint>, due: Instant) -> Answered {
        let at = Some(SystemTime::now());
        Answered { question, endpoints, at, failure: None, due, succeeded: 1, failed: 0 }
    }

    /// The same for another service, which has not asked itself.
    pub(super) fn inherited(&self) -> Answered {
        Answered { succeeded: 0, failed: 0, ..self.clone() }
    }
}

/// What follows from an answer.
pub(super) struct Follows {
    /// These have to become live.
    pub(super) endpoints: Option<Vec<Endpoint>>,
    /// Somebody should know.
    pub(super) say: Option<String>,
}

impl Found {
    /// Takes an answer in; `due` is when it is asked for again.
    pub(super) fn hear(
        &self,
        service: &str,
        question: &Dns,
        heard: Heard,
        due: Instant,
    ) -> Follows {
        let mut services = self.services();
        let known = services.get(service).filter(|known| known.question == *question);
        let is_first = known.is_none();
        if is_first {
            let new = Answered {
                question: question.clone(),
                endpoints: Vec::new(),
                at: None,
                failure: None,
                due,
                succeeded: 0,
                failed: 0,
            };
            services.insert(service.to_owned(), new);
        }
        let known = services.get_mut(service).expect("it was put there");
        known.due = due;
        match heard {
            Ok((mut endpoints, broken)) => {
                known.succeeded += 1;
                known.at = Some(SystemTime::now());
                // Of what nobody can tell, what was found before stays.
                let kept = broken.and_then(|broken| {
                    let kept = known.endpoints.iter().filter(|old| broken.part.has(&old.address));
                    let kept: Vec<Endpoint> = kept.cloned().collect();
                    (!kept.is_empty()).then_some((broken.why, kept))
                });
                if let Some((why, kept)) = kept {
                    let why =
                        format!("{why}; the {} endpoints that may be among those stay", kept.len());
                    endpoints.extend(kept);
                    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
                    endpoints.dedup_by(|a, b| a.address == b.address);
                    let changes = endpoints != known.endpoints;
                    known.endpoints.clone_from(&endpoints);
                    let say = (known.failure.as_ref() != Some(&why)).then(|| why.clone());
                    known.failure = Some(why);
                    return Follows { endpoints: changes.then_some(endpoints), say };
                }
                let is_back = known.failure.take().is_some();
                let count = endpoints.len();
                let changes = is_first || endpoints != known.endpoints;
                if changes {
                    known.endpoints.clone_from(&endpoints);
                }
                Follows {
                    endpoints: changes.then_some(endpoints),
                    say: is_back.then(|| format!("it is found again, with {count} endpoints")),
                }
            }
            Err(why) => {
                known.failed += 1;
                let kept = known.endpoints.len();
                let say = (known.failure.as_ref() != Some(&why)).then(|| match kept {
                    0 => format!("{why}; it has no endpoint"),
                    _ => format!("{why}; the {kept} endpoints that were found before stay"),
                });
                known.failure = Some(why);
                // What an earlier question found is no answer to this one.
                Follows { endpoints: is_first.then(Vec::new), say }
            }
        }
    }

    /// What is known of a service.
    pub(crate) fn get(&self, service: &str) -> Option<Answered> {
        self.services().get(service).cloned()
    }

    /// Until when a service has no need to ask, if that is known.
    pub(super) fn due(&self, service: &str, question: &Dns) -> Option<Instant> {
        let services = self.services();
        let known = services.get(service).filter(|known| known.question == *question)?;
        Some(known.due)
    }

    /// The services of a new config that are not live with that question, each with the question and
    /// with what another one knows, if one asks the same. Who is live asks already.
    pub(super) fn newcomers(
        &self,
        live: &Config,
        config: &Config,
    ) -> Vec<(String, Dns, Option<Answered>)> {
        let asks = live.services.iter().filter(|service| matches!(service.source, Source::Dns(_)));
        let asks: HashMap<&str, &Source> =
            asks.map(|service| (service.name.as_str(), &service.source)).collect();
        let services = self.services();
        let mut answers: HashMap<&Dns, &Answered> = HashMap::new();
        for known in services.values().filter(|known| known.at.is_some()) {
            let newest = answers.entry(&known.question).or_insert(known);
            if newest.at < known.at {
                *newest = known;
            }
        }
        let newcomer = |service: &config::Service| {
            let Source::Dns(question) = &service.source else { return None };
            let own = services.get(&*service.name);
            if asks.get(&*service.name) == Some(&&service.source)
                || own.is_some_and(|own| own.question == *question)
            {
                return None;
            }
            let known = answers.get(question).map(|known| known.inherited());
            Some((service.name.to_string(), question.clone(), known))
        };
        config.services.iter().filter_map(newcomer).collect()
    }

    /// A config is live, with what its new services began with. Forgets services that are not there
    /// any more, or not found by DNS.
    pub(crate) fn follow(&self, config: &Config, first: Vec<(String, Answered)>) {
        let mut services = self.services();
        services.extend(first);
        if services.is_empty() {
            return;
        }
        let found = config.services.iter().filter(|s| matches!(s.source, Source::Dns(_)));
        let found: HashSet<&str> = found.map(|service| service.name.as_str()).collect();
        services.retain(|name, _| found.contains(&**name));
    }

    /// When each service was found last.
    pub(crate) fn times(&self) -> Vec<(String, SystemTime)> {
        let services = self.services();
        services.iter().filter_map(|(name, known)| Some((name.clone(), known.at?))).collect()
    }

    /// Appends how often each was asked for, as Prometheus text.
    pub(crate) fn render(&self, out: &mut String) {
        let services = self.services();
        if services.is_empty() {
            return;
        }
        let name = "ringside_dns_lookups_total";
        out.push_str(&format!(
            "# HELP {name} Questions to DNS, by how they ended.\n# TYPE {name} counter\n"
        ));
        let mut sorted: Vec<_> = services.iter().collect();
        sorted.sort_by_key(|(service, _)| service.as_str());
        for (service, known) in sorted {
            for (result, count) in [("found", known.succeeded), ("failed", known.failed)] {
                let labels = format!("service=\"{service}\",result=\"{result}\"");
                out.push_str(&format!("{name}{{{labels}}} {count}\n"));
            }
        }
    }

    fn services(&self) -> MutexGuard<'_, HashMap<String, Answered>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup::{Failure, Part};
    use super::*;

    #[test]
    fn the_last_good_answer_stays_until_there_is_a_better_one() {
        let found = Found::default();
        let question = Dns::Srv { name: "_http._tcp.a".to_owned() };
        let address = "127.0.0.1:1".parse().unwrap();
        let endpoints = vec![Endpoint { address, weight: 1, labels: config::Labels::default() }];
        let hear = |heard: Result<&[Endpoint], &str>| {
            let heard = heard.map(|found| (found.to_vec(), None)).map_err(str::to_owned);
            let follows = found.hear("a", &question, heard, Instant::now());
            (follows.endpoints, follows.say)
        };
        let (set, said) = hear(Err("SERVFAIL"));
        assert_eq!(set, Some(Vec::new()), "what was live before was for another question");
        assert_eq!(said.unwrap(), "SERVFAIL; it has no endpoint");
        assert_eq!(hear(Err("SERVFAIL")), (None, None), "not said twice");
        let (set, said) = hear(Ok(&endpoints));
        assert_eq!(set, Some(endpoints.clone()));
        assert_eq!(said.unwrap(), "it is found again, with 1 endpoints");
        let at = found.get("a").unwrap().at.unwrap();
        let (set, said) = hear(Err("no answer"));
        assert_eq!(set, None);
        assert_eq!(said.unwrap(), "no answer; the 1 endpoints that were found before stay");
        assert_eq!(found.get("a").unwrap().at, Some(at), "its age is that of the answer");
        assert_eq!(hear(Ok(&endpoints)).0, None, "the workers have it");
    }

    #[test]
    fn of_a_family_that_cannot_be_told_what_was_found_stays() {
        let found = Found::default();
        let question = Dns::Host { name: "a".to_owned(), port: 1 };
        let endpoint = |address: &str| Endpoint {
            address: address.parse().unwrap(),
            weight: 1,
            labels: config::Labels::default(),
        };
        let (v4, v6) = (endpoint("10.0.0.1:1"), endpoint("[fd00::1]:1"));
        let why = Failure::Refused { name: "a".to_owned(), code: "SERVFAIL".to_owned() };
        let broken = |part| Some(Broken { part, why: why.clone() });
        let hear = |endpoints: &[&Endpoint], broken| {
            let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
            let follows = found.hear("a", &question, Ok((endpoints, broken)), Instant::now());
            (follows.endpoints, follows.say)
        };
        // Where none were found, none are missed.
        assert_eq!(hear(&[&v6], broken(Part::V4)), (Some(vec![v6.clone()]), None));
        assert_eq!(hear(&[&v4, &v6], None).0, Some(vec![v4.clone(), v6.clone()]));
        let (set, said) = hear(&[&v6], broken(Part::V4));
        assert_eq!(set, None);
        let said = said.unwrap();
        assert!(said.ends_with("SERVFAIL; the 1 endpoints that may be among those stay"), "{said}");
        assert_eq!(hear(&[&v6], broken(Part::V4)), (None, None), "not said twice");
        assert!(found.get("a").unwrap().failure.is_some());
        let (set, said) = hear(&[&v6], None);
        assert_eq!(set, Some(vec![v6]), "now it is told that there is none");
        assert!(said.unwrap().starts_with("it is found again"));
    }

    #[test]
    fn who_asks_the_same_begins_with_the_same_answer() {
        let config = |services: &str| {
            let listeners = "listeners: [{ name: a, address: 127.0.0.1:1, http: {} }]";
            let text = format!("version: 1\n{listeners}\nservices: [{services}]\n");
            config::parse("a", &text, config::Format::Yaml).unwrap().config
        };
        let found = Found::default();
        let question = Dns::Host { name: "a.shop".to_owned(), port: 1 };
        let address = "127.0.0.1:1".parse().unwrap();
        let endpoints = vec![Endpoint { address, weight: 1, labels: config::Labels::default() }];
        let due = Instant::now() + std::time::Duration::from_secs(60);
        let asks = |name: &str, port: u16| {
            format!("{{ name: {name}, dns: {{ name: a.shop, port: {port} }} }}")
        };
        let (none, other) = (config(""), config(&asks("other", 1)));
        assert!(found.newcomers(&other, &other).is_empty(), "it asks already");
        let known = |config: &Config| {
            let newcomers = found.newcomers(&none, config).into_iter();
            let known: Vec<_> = newcomers
                .map(|(name, _, known)| (name, known.map(|known| known.endpoints)))
                .collect();
            known
        };
        let nothing = || vec![("other".to_owned(), None)];
        assert_eq!(known(&other), nothing(), "nobody knows");
        found.hear("old", &question, Err("SERVFAIL".to_owned()), due);
        assert_eq!(known(&other), nothing(), "no answer is none to inherit");
        found.hear("old", &question, Ok((endpoints.clone(), None)), due);
        assert_eq!(known(&config(&asks("old", 1))), [], "it has its own");
        assert_eq!(known(&config(&asks("other", 2))), nothing(), "it asks something else");
        assert_eq!(known(&other), [("other".to_owned(), Some(endpoints.clone()))]);
        let inherited = found.newcomers(&none, &other).into_iter();
        let inherited = inherited.filter_map(|(name, _, known)| Some((name, known?))).collect();
        let at = found.get("old").unwrap().at;
        found.follow(&other, inherited);
        assert!(found.get("old").is_none());
        assert_eq!(found.get("other").unwrap().at, at);
        assert_eq!(found.due("other", &question), Some(due));
        let follows = found.hear("other", &question, Ok((endpoints, None)), due);
        assert_eq!(follows.endpoints, None, "the workers have it");
    }
}

//! Services that are found by DNS: one task for each, that asks, tells what it heard, and sleeps for
//! as long as the answer counts.
//!
//! A start waits for no answer: a service that has none yet has no endpoint. A change of what is live
//! waits for the first answers of its new services, but not for long: requests that went elsewhere a
//! moment ago find endpoints. A question that failed leaves what was there before, and its age is a
//! metric. What many hear at once becomes live at once.

mod chain;
mod found;
mod lookup;
mod shares;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config::{Config, Dns, Resolver, Source};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use self::found::Heard;
pub(crate) use self::found::{Answered, Found};
use self::lookup::{Failure, Servers};
use crate::data_plane::DataPlane;
use crate::state::State;

/// So many names are asked for at a time.
const AT_ONCE: usize = 64;
/// So many answers become live together.
const TOGETHER: usize = 1024;
/// The pause after the first failure; each further one doubles it, up to the other.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A change of what is live waits so long for the first answers of its new services, and whatever comes
/// after it waits too.
const FIRST_WITHIN: Duration = Duration::from_millis(100);

/// Asks for a service until it is dropped.
struct Asking {
    question: Dns,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a task heard.
struct News {
    service: String,
    question: Dns,
    heard: Heard,
    /// When it is asked for again.
    due: Instant,
}

/// Keeps the endpoints of all services that are found by DNS as they ought to be.
pub(crate) async fn follow<P: DataPlane>(state: Arc<State<P>>) {
    let (tell, mut told) = mpsc::channel(TOGETHER);
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking: HashMap<String, Asking> = HashMap::new();
    let mut known: Option<Resolver> = None;
    let mut servers: Option<Result<Arc<Servers>, Failure>> = None;
    let mut generation = 0;
    let mut news = Vec::new();
    loop {
        let newest = state.desired.newest();
        if generation != newest.number {
            generation = newest.number;
            let config = &newest.loaded.config;
            let resolver = &config.resolver;
            let before = known.replace(resolver.clone());
            // What other servers said is asked for at once.
            let counts = before.is_none_or(|before| before == *resolver);
            if !counts {
                asking.clear();
                servers = None;
            }
            let questions = config.services.iter().filter_map(|service| match &service.source {
                Source::Dns(question) => Some((service.name.as_str(), question)),
                Source::Endpoints(_) | Source::Pushed { .. } => None,
            });
            let questions: HashMap<&str, &Dns> = questions.collect();
            asking.retain(|name, asking| questions.get(&**name) == Some(&&asking.question));
            for (name, question) in questions {
                if asking.contains_key(name) {
                    continue;
                }
                let servers = servers.get_or_insert_with(|| Servers::new(resolver).map(Arc::new));
                let service = name.to_owned();
                let due = state.desired.found.due(name, question).filter(|_| counts);
                let task = ask(
                    servers.clone(),
                    (resolver.min_ttl, resolver.max_ttl),
                    at_once.clone(),
                    (service, question.clone()),
                    due,
                    tell.clone(),
                );
                let asked = Asking { question: question.clone(), task: tokio::spawn(task) };
                asking.insert(name.to_owned(), asked);
            }
        }
        tokio::select! {
            () = state.desired.changed() => {}
            _ = told.recv_many(&mut news, TOGETHER) => state.take(std::mem::take(&mut news)).await,
        }
    }
}

/// What the new services of a config begin with: what others know that ask the same, or what DNS says
/// at once. Of a service that is not among them nothing is known; it is asked for later as any other.
pub(crate) async fn first_answers(
    found: &Found,
    live: &Config,
    config: &Config,
) -> Vec<(String, Answered)> {
    let mut first = Vec::new();
    let mut unknown: HashMap<Dns, Vec<String>> = HashMap::new();
    for (service, question, known) in found.newcomers(live, config) {
        match known {
            Some(known) => first.push((service, known)),
            None => unknown.entry(question).or_default().push(service),
        }
    }
    if unknown.is_empty() {
        return first;
    }
    let resolver = &config.resolver;
    // Whoever asks again says what is wrong with them.
    let Ok(client) = Servers::new(resolver).and_then(|servers| servers.client()) else {
        return first;
    };
    let (at_once, give_up) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now() + FIRST_WITHIN);
    let mut asked = JoinSet::new();
    for (question, services) in unknown {
        let (client, at_once) = (client.clone(), at_once.clone());
        asked.spawn(async move {
            // It is closed by nobody.
            let _turn = at_once.acquire().await;
            let answer = client.ask(&question).await;
            (question, services, answer)
        });
    }
    while let Ok(Some(answered)) = timeout_at(give_up, asked.join_next()).await {
        let Ok((question, services, Ok(answer))) = answered else { continue };
        let due = Instant::now() + answer.ttl.clamp(resolver.min_ttl, resolver.max_ttl);
        let known = Answered::now(question, answer.found, due);
        let mut services = services.into_iter();
        first.extend(services.next().map(|asked| (asked, known.clone())));
        first.extend(services.map(|other| (other, known.inherited())));
    }
    first
}

/// Asks for one service again and again, the first time when that is due.
async fn ask(
    servers: Result<Arc<Servers>, Failure>,
    (min_ttl, max_ttl): (Duration, Duration),
    at_once: Arc<Semaphore>,
    (service, question): (String, Dns),
    due: Option<Instant>,
    tell: mpsc::Sender<News>,
) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
    let mut failures = 0;
    loop {
        let client = servers.as_ref().map_err(Failure::clone).and_then(|servers| servers.client());
        let heard = match client {
            Ok(client) => {
                // It is closed by nobody.
                let _turn = at_once.acquire().await;
                client.ask(&question).await
            }
            Err(why) => Err(why),
        };
        let pause = match &heard {
            Ok(answer) => {
                failures = 0;
                answer.ttl.clamp(min_ttl, max_ttl)
            }
            Err(_) => {
                failures += 1;
                pause_after(failures).max(min_ttl)
            }
        };
        let heard = heard.map(|answer| (answer.found, answer.broken));
        let heard = heard.map_err(|failure| failure.to_string());
        let due = Instant::now() + pause;
        let news = News { service: service.clone(), question: question.clone(), heard, due };
        if tell.send(news).await.is_err() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

fn pause_after(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_MAX)
}

impl<P: DataPlane> State<P> {
    /// Makes live what was heard, as far as anybody still asks for it.
    async fn take(self: &Arc<Self>, news: Vec<News>) {
        let _turn = self.desired.take_turn().await;
        let newest = self.desired.newest();
        let services = newest.loaded.config.services.iter();
        let live: HashMap<&str, &Source> =
            services.map(|service| (service.name.as_str(), &service.source)).collect();
        let mut sets = Vec::new();
        for News { service, question, heard, due } in news {
            if live.get(&*service).is_some_and(|source| **source == Source::Dns(question.clone())) {
                let said = self.desired.found.hear(&service, &question, heard, due);
                if let Some(said) = said.say {
                    self.desired.say(format_args!("dns: service {service}: {said}"));
                }
                sets.extend(said.endpoints.map(|endpoints| (service, endpoints)));
            }
        }
        if !sets.is_empty()
            && let Err(why) = self.tell_endpoints(&sets)
        {
            self.desired.say(format_args!("dns: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_asked_about_less_and_less_often() {
        let pauses: Vec<u64> = [1, 2, 3, 5, 6, 40].map(|n| pause_after(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 16, 30, 30]);
    }
}

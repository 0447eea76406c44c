//! What control asks of the data plane, and how a worker answers.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A worker that takes longer to answer is stuck: its longest turn is some milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The data plane as control sees it: workers that are told what to serve, and asked how they are.
///
/// All methods are called on the control thread and must not block. What has to be asked of the
/// workers is a message in each one's mailbox: see [`of_all`].
pub trait DataPlane: Send + Sync + 'static {
    /// How many workers there are.
    fn workers(&self) -> usize;

    /// Asks each worker whether it is there.
    fn answers(&self) -> impl Future<Output = Result<(), Silent>> + Send;

    /// What all workers have counted, as Prometheus text.
    fn metrics(&self) -> impl Future<Output = Result<String, Silent>> + Send;

    /// Each endpoint of each service, with what all workers together have to do with it.
    fn endpoints(&self) -> impl Future<Output = Result<Json, Silent>> + Send;

    /// Connections from clients, at most `most` of each worker.
    fn connections(&self, most: usize) -> impl Future<Output = Result<Json, Silent>> + Send;

    /// Each route, what it does and how many requests it took.
    fn routes(&self) -> impl Future<Output = Result<Json, Silent>> + Send;

    /// The newest generation, and the earlier ones that exchanges which go on still use; ascending.
    fn generations_in_use(&self) -> Vec<u64>;

    /// What is bounded, and how much of that is taken.
    fn limits(&self) -> Json;

    /// Name, address with its real port, and kind of each listener.
    fn listeners(&self) -> Json;

    /// Where a request would go, and why; or what is unclear in the question.
    fn explain(&self, question: &Json) -> impl Future<Output = Result<Json, String>> + Send;

    /// Makes a config live: opens what it needs, and if that works tells every worker, whose answer
    /// says that it is live there. `answers` has one for each worker, in order; one that is dropped
    /// says that the worker will not have it. `known` are endpoints that services of the config begin
    /// with, by their names, where they do not come from the config. May take some milliseconds for
    /// large configs.
    ///
    /// # Errors
    /// Nothing has changed.
    fn apply(
        &self,
        loaded: &config::Loaded,
        known: &[(String, Vec<config::Endpoint>)],
        generation: u64,
        answers: Vec<Answer<()>>,
    ) -> Result<(), Refusal>;

    /// The same for the endpoints of some services, by their names.
    ///
    /// # Errors
    /// There is no such service; nothing has changed.
    fn apply_endpoints(
        &self,
        services: &[(String, Vec<config::Endpoint>)],
        answers: Vec<Answer<()>>,
    ) -> Result<(), String>;

    /// Takes one endpoint of a service out, or puts it back.
    ///
    /// # Errors
    /// What there is not: the service or the endpoint. Nothing has changed.
    fn set_endpoint(
        &self,
        service: &str,
        endpoint: &config::Address,
        state: EndpointState,
        answers: Vec<Answer<()>>,
    ) -> Result<(), String>;

    /// Frees what workers have given back.
    fn tidy(&self);

    /// Gives memory back to the kernel that was needed for a change.
    fn give_memory_back(&self);

    /// Whether connections are sent away as they rest.
    fn set_aside(&self, aside: bool);

    /// Ends the process as SIGTERM does.
    fn quit(&self);
}

/// The workers that did not answer in time, by number; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent(Vec<usize>);

impl Silent {
    pub(crate) fn numbers(&self) -> &[usize] {
        &self.0
    }
}

/// For people: which workers, and what to check.
impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        write!(
            f,
            "no answer from worker {} ({} s are allowed); see its thread in `top -H` or a stack trace",
            numbers.join(", "),
            ANSWER_WITHIN.as_secs(),
        )
    }
}

/// What all workers answer, in order, or which of them are silent. All are asked at once, by `ask`,
/// which is given each one's number and puts the [`Answer`] into its mailbox; where that is full, it
/// drops it, which counts as silence.
pub fn of_all<T>(
    workers: usize,
    ask: impl Fn(usize, Answer<T>),
) -> impl Future<Output = Result<Vec<T>, Silent>> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let asked = (0..workers).map(|worker| {
        let (sender, answer) = oneshot::channel();
        ask(worker, Answer(sender));
        answer
    });
    let asked: Vec<_> = asked.collect();
    async move {
        let mut answers = Vec::with_capacity(asked.len());
        let mut silent = Vec::new();
        for (worker, answer) in asked.into_iter().enumerate() {
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(_)) | Err(_) => silent.push(worker),
            }
        }
        if silent.is_empty() { Ok(answers) } else { Err(Silent(silent)) }
    }
}

/// What an operator made of an endpoint. It stays with the address, through new configs and new sets
/// of endpoints, until that is of the service no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Healthy,
    /// It gets no requests; its idle connections stay as long as they are kept anyway.
    Ejected,
    /// It gets no requests, and its connections are closed as they rest.
    Draining,
}

impl EndpointState {
    pub const ALL: [EndpointState; 3] =
        [EndpointState::Healthy, EndpointState::Ejected, EndpointState::Draining];

    /// As metrics and REST call it.
    pub fn name(self) -> &'static str {
        match self {
            EndpointState::Healthy => "healthy",
            EndpointState::Ejected => "ejected",
            EndpointState::Draining => "draining",
        }
    }
}

/// Why a valid config cannot be live on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of the key in the config that asks for what cannot be had.
    pub path: String,
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The way back to control for one answer. Dropping it says that there will be none.
#[derive(Debug)]
pub struct Answer<T>(pub(crate) oneshot::Sender<T>);

impl<T> Answer<T> {
    /// Answers, from any thread, without waiting. If control has given up, nothing happens.
    pub fn send(self, answer: T) {
        // The value comes back if nobody waits for it any more: no one is left to tell.
        let _ = self.0.send(answer);
    }
}

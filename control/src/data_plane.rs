//! What control asks of the data plane, and how a worker answers.

use tokio::sync::oneshot;

/// The data plane as control sees it: workers that can be asked for their counters.
///
/// All methods are called on the control thread and must not wait: they put a message into a
/// worker's mailbox and return. Where the mailbox is full, they drop the [`Answer`], which counts as
/// silence.
pub trait DataPlane: Send + Sync + 'static {
    /// The counters of one worker: a copy, made by the worker itself.
    type Counters: Send + 'static;
    /// What one worker has to do with which endpoints.
    type Busy: Send + 'static;

    /// How many workers there are.
    fn workers(&self) -> usize;

    /// Asks worker `worker`, `0 <= worker < workers()`, to answer with its counters.
    fn counters(&self, worker: usize, answer: Answer<Self::Counters>);

    /// Appends the counters of all workers, in the order of their numbers, to `out` as Prometheus
    /// text.
    fn render(&self, counters: &[Self::Counters], out: &mut String);

    /// Makes a config live: opens what it needs, and if that works tells every worker, whose answer
    /// says that it is live there. `answers` has one for each worker, in order; one that is dropped
    /// says that the worker will not have it. May take some milliseconds for large configs.
    ///
    /// # Errors
    /// Nothing has changed.
    fn apply(
        &self,
        loaded: &config::Loaded,
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

    /// Asks a worker what it has to do with which endpoints.
    fn busy(&self, worker: usize, answer: Answer<Self::Busy>);

    /// Each endpoint of each service, with what all workers together have to do with it.
    fn endpoints(&self, busy: &[Self::Busy]) -> Vec<serde_json::Value>;

    /// Frees what workers have given back.
    fn tidy(&self);

    /// Whether connections are sent away as they rest.
    fn set_aside(&self, aside: bool);

    /// Ends the process as SIGTERM does.
    fn quit(&self);

    /// Name, address with its real port, and kind of each listener.
    fn listeners(&self) -> Vec<serde_json::Value>;

    /// Where a request would go, and why; or what is unclear in the question.
    fn explain(&self, question: &serde_json::Value) -> Result<serde_json::Value, String>;
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

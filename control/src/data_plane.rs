//! What control asks of the data plane, and how a worker answers.

use std::sync::Arc;

use tokio::sync::oneshot;

/// The data plane as control sees it: workers that can be asked for their counters.
///
/// All methods are called on the control thread and must not wait: they put a message into a
/// worker's mailbox and return. Where the mailbox is full, they drop the [`Answer`], which counts as
/// silence.
pub trait DataPlane: Send + Sync + 'static {
    /// The counters of one worker: a copy, made by the worker itself.
    type Counters: Send + 'static;

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

impl<P: DataPlane> DataPlane for Arc<P> {
    type Counters = P::Counters;

    fn workers(&self) -> usize {
        P::workers(self)
    }

    fn counters(&self, worker: usize, answer: Answer<Self::Counters>) {
        P::counters(self, worker, answer);
    }

    fn render(&self, counters: &[Self::Counters], out: &mut String) {
        P::render(self, counters, out);
    }

    fn apply(
        &self,
        loaded: &config::Loaded,
        generation: u64,
        answers: Vec<Answer<()>>,
    ) -> Result<(), Refusal> {
        P::apply(self, loaded, generation, answers)
    }

    fn apply_endpoints(
        &self,
        services: &[(String, Vec<config::Endpoint>)],
        answers: Vec<Answer<()>>,
    ) -> Result<(), String> {
        P::apply_endpoints(self, services, answers)
    }

    fn tidy(&self) {
        P::tidy(self);
    }

    fn set_aside(&self, aside: bool) {
        P::set_aside(self, aside);
    }

    fn quit(&self) {
        P::quit(self);
    }

    fn listeners(&self) -> Vec<serde_json::Value> {
        P::listeners(self)
    }

    fn explain(&self, question: &serde_json::Value) -> Result<serde_json::Value, String> {
        P::explain(self, question)
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

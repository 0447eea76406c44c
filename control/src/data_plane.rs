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

    /// How many workers there are.
    fn workers(&self) -> usize;

    /// Asks worker `worker`, `0 <= worker < workers()`, to answer with its counters.
    fn counters(&self, worker: usize, answer: Answer<Self::Counters>);

    /// Appends the counters of all workers, in the order of their numbers, to `out` as Prometheus
    /// text.
    fn render(&self, counters: &[Self::Counters], out: &mut String);
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

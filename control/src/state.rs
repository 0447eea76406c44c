//! What the handlers share: the data plane, the phase, the version; and the one question they ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::data_plane::{Answer, DataPlane};
use crate::desired::Desired;
use crate::phase::Phase;
use crate::thread::Program;

/// A worker that takes longer to answer is stuck: its longest turn is some milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct State<P> {
    pub(crate) plane: P,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) set_phase: watch::Sender<Phase>,
    pub(crate) started: Instant,
    pub(crate) program: Program,
    pub(crate) desired: Desired,
}

/// The workers that did not answer in time, by number; never empty.
#[derive(Debug)]
pub(crate) struct Silent(Vec<usize>);

impl Silent {
    pub(crate) fn numbers(&self) -> Vec<usize> {
        self.0.clone()
    }

    /// For people: which workers, and what to check.
    pub(crate) fn reason(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        format!(
            "no answer from worker {} ({} s are allowed); see its thread in `top -H` or a stack trace",
            numbers.join(", "),
            ANSWER_WITHIN.as_secs(),
        )
    }
}

impl<P: DataPlane> State<P> {
    /// The counters of all workers, or which of them are silent. All are asked at once.
    pub(crate) async fn counters(self: &Arc<Self>) -> Result<Vec<P::Counters>, Silent> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let asked: Vec<_> = (0..self.plane.workers()).map(|worker| self.ask(worker)).collect();
        let mut counters = Vec::with_capacity(asked.len());
        let mut silent = Vec::new();
        for (worker, answer) in asked.into_iter().enumerate() {
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => counters.push(answer),
                Ok(Err(_)) | Err(_) => silent.push(worker),
            }
        }
        if silent.is_empty() { Ok(counters) } else { Err(Silent(silent)) }
    }

    fn ask(&self, worker: usize) -> oneshot::Receiver<P::Counters> {
        let (sender, receiver) = oneshot::channel();
        self.plane.counters(worker, Answer(sender));
        receiver
    }
}

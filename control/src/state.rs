//! What the handlers share: the data plane, the phase, the version, and how workers are told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;

use crate::auth::Guard;
use crate::data_plane::{Answer, DataPlane};
use crate::desired::{Desired, in_background};
use crate::events::Events;
use crate::phase::Phase;
use crate::pushed::{self, Set};
use crate::thread::Program;

/// Who listens to events holds a connection for long.
pub(crate) const LISTENING_MAX: usize = 32;
/// Pushed endpoints are not written down more often.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// The pause after that failed.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct State<P> {
    pub(crate) plane: Arc<P>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) set_phase: watch::Sender<Phase>,
    pub(crate) started: Instant,
    pub(crate) program: Program,
    pub(crate) desired: Desired,
    /// Of admin.
    pub(crate) guard: Guard,
    /// Workers have given something back that is to be freed.
    pub(crate) given_back: Notify,
    /// When pushed endpoints were written down last; who does it holds it.
    pub(crate) endpoints_saved: Mutex<Option<Instant>>,
    pub(crate) events: Events,
    /// Who may listen to them at a time.
    pub(crate) listening: Arc<Semaphore>,
}

impl<P: DataPlane> State<P> {
    /// Why this proxy wants no traffic, if it wants none.
    pub(crate) fn not_ready_because(&self) -> Option<String> {
        if let Some(reason) = self.phase.borrow().not_ready_because() {
            return Some(reason.to_owned());
        }
        if self.desired.awaits_push() {
            return Some("waiting for a config: PUT /v1/config, or `ringside push`".to_owned());
        }
        let newest = self.desired.newest();
        let missing = self.desired.pushed.missing(&newest.loaded.config, self.started.into_std());
        missing.map(|service| format!("waiting for the endpoints of {service}"))
    }

    /// Makes live what was pushed to services before a restart, as old as it is.
    pub(crate) fn restore_endpoints(&self) {
        let Some(dir) = &self.desired.state_dir else { return };
        let saved = match dir.endpoints() {
            Ok(saved) => saved,
            Err(error) => {
                let path = dir.path().display();
                return self.desired.say(format_args!(
                    "pushed endpoints in {path} cannot be used, so they have to be pushed again: {error}"
                ));
            }
        };
        let newest = self.desired.newest();
        for (name, push, at) in saved {
            // A service that is gone, or whose endpoints come from elsewhere now, needs none.
            let accepted = self.desired.pushed.accept(&newest.loaded.config, vec![(name, push)]);
            let Ok(mut accepted) = accepted else { continue };
            accepted.iter_mut().for_each(|(_, set)| set.at = at);
            let sets: Vec<_> =
                accepted.iter().map(|(name, set)| (name.clone(), set.endpoints.clone())).collect();
            // They are the config's services, and nobody waits for the workers here.
            let answers = (0..self.plane.workers()).map(|_| Answer(oneshot::channel().0));
            if self.plane.apply_endpoints(&sets, answers.collect()).is_ok() {
                self.desired.pushed.keep(accepted);
            }
        }
    }

    /// Tells every worker of new endpoints, by service. What comes back counts the workers that have
    /// them.
    pub(crate) fn tell_endpoints(
        self: &Arc<Self>,
        sets: &[(String, Vec<config::Endpoint>)],
    ) -> Result<watch::Receiver<usize>, String> {
        let told = self.tell(|answers| self.plane.apply_endpoints(sets, answers))?;
        for (service, endpoints) in sets {
            let data = json!({ "service": service, "endpoints": endpoints.len() });
            self.events.tell("endpoints_changed", &data);
        }
        Ok(told)
    }

    /// Tells every worker something. What comes back counts those that have it.
    pub(crate) fn tell<E>(
        self: &Arc<Self>,
        tell: impl FnOnce(Vec<Answer<()>>) -> Result<(), E>,
    ) -> Result<watch::Receiver<usize>, E> {
        let workers = 0..self.plane.workers();
        let (answers, heard): (Vec<_>, Vec<_>) = workers.map(|_| oneshot::channel()).unzip();
        tell(answers.into_iter().map(Answer).collect())?;
        let (count, live) = watch::channel(0);
        tokio::spawn(self.clone().count(heard, count));
        Ok(live)
    }

    /// Notes sets that are about to be live, so that a process that is killed has them again.
    pub(crate) async fn note_endpoints(&self, accepted: &[(String, Set)]) -> io::Result<()> {
        let Some(dir) = self.desired.state_dir.clone() else { return Ok(()) };
        let note = pushed::to_json(accepted.iter().map(|(name, set)| (name, set)));
        in_background(move || dir.note_endpoints(&note)).await
    }

    /// Writes pushed endpoints down: at once, or within a second of the last time, because pushes may
    /// come a hundred times in one. What fails is tried again.
    pub(crate) fn save_endpoints_soon(self: &Arc<Self>) {
        if self.desired.state_dir.is_none()
            || self.desired.saves_endpoints.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let state = self.clone();
        tokio::spawn(async move {
            let mut failed = false;
            loop {
                let last = *state.endpoints_saved.lock().await;
                tokio::time::sleep_until(last.map_or_else(Instant::now, |at| at + SAVE_AFTER))
                    .await;
                let saving = state.clone();
                let saved = tokio::task::spawn_blocking(move || saving.save_endpoints()).await;
                // A panic there was reported.
                let Ok(Err(error)) = saved else { return };
                if !std::mem::replace(&mut failed, true) {
                    state.desired.say(format_args!(
                        "pushed endpoints are live and not kept for a restart, which is tried again: \
                         {error}"
                    ));
                }
                tokio::time::sleep(SAVE_AGAIN).await;
            }
        });
    }

    /// Writes pushed endpoints down if that is due. Blocks.
    pub(crate) fn save_endpoints(&self) -> io::Result<()> {
        let Some(dir) = &self.desired.state_dir else { return Ok(()) };
        let mut last = self.endpoints_saved.blocking_lock();
        if !self.desired.saves_endpoints.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        *last = Some(Instant::now());
        // Between two pushes, so that what is noted is either among these or noted anew.
        let sets = {
            let _turn = self.desired.take_turn_blocking();
            dir.begin_notes_anew().map(|()| self.desired.pushed.to_json())
        };
        let saved = sets.and_then(|sets| dir.save_endpoints(&sets));
        if saved.is_err() {
            self.desired.saves_endpoints.store(true, Ordering::Relaxed);
        }
        saved
    }
}

//! The config that ought to be live, and how a new one becomes it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use config::{Failure, Loaded};
use tokio::sync::{Mutex as Turn, oneshot};

use crate::data_plane::{Answer, DataPlane};
use crate::phase::Phase;
use crate::state::State;

/// The desired config: where it comes from, and what is live of it.
pub(crate) struct Desired {
    files: Vec<PathBuf>,
    say: fn(fmt::Arguments<'_>),
    /// Whoever changes the config has it: one change at a time, each on top of the one before.
    turn: Turn<()>,
    live: Mutex<Live>,
}

/// What the workers were told last.
#[derive(Clone)]
struct Live {
    generation: u64,
    loaded: Arc<Loaded>,
}

impl Desired {
    pub(crate) fn new(files: Vec<PathBuf>, loaded: Loaded, say: fn(fmt::Arguments<'_>)) -> Desired {
        let live = Live { generation: 1, loaded: Arc::new(loaded) };
        Desired { files, say, turn: Turn::new(()), live: Mutex::new(live) }
    }

    /// Generation and hash of what is live.
    pub(crate) fn live(&self) -> (u64, String) {
        let live = self.current();
        (live.generation, live.loaded.hash.clone())
    }

    fn current(&self) -> Live {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<P: DataPlane> State<P> {
    /// Reads the files again, and makes live what is new in them.
    pub(crate) async fn reload(&self) {
        let say = self.desired.say;
        let _turn = self.desired.turn.lock().await;
        if *self.phase.borrow() == Phase::Draining {
            say(format_args!("reload: draining, so the config stays as it is"));
            return;
        }
        let files = self.desired.files.clone();
        // A large config takes a second, in which probes want their answer.
        let loaded = tokio::task::spawn_blocking(move || config::load(&files)).await;
        let loaded = match loaded {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(Failure::Invalid(diagnostics))) => {
                say(format_args!(
                    "reload: the config is invalid, the old one stays\n{diagnostics}"
                ));
                return;
            }
            Ok(Err(unreadable)) => {
                say(format_args!("reload: {unreadable}; the config stays as it is"));
                return;
            }
            Err(panic) => {
                say(format_args!("reload: {panic}; the config stays as it is"));
                return;
            }
        };
        let before = self.desired.current();
        if loaded.hash == before.loaded.hash {
            say(format_args!("reload: nothing has changed"));
            return;
        }
        if let Some(key) = before.loaded.config.boot_change(&loaded.config) {
            say(format_args!(
                "reload: restart_required: `{key}` is read at start only; the config stays as it is"
            ));
            return;
        }
        let generation = before.generation + 1;
        let workers = self.plane.workers();
        let (answers, heard): (Vec<_>, Vec<_>) = (0..workers).map(|_| oneshot::channel()).unzip();
        let answers = answers.into_iter().map(Answer).collect();
        if let Err(refusal) = self.plane.apply(&loaded, generation, answers) {
            let crate::Refusal { path, message, hint } = refusal;
            say(format_args!("reload: {path}: {message}; {hint}; the config stays as it is"));
            return;
        }
        let hash = loaded.hash.clone();
        let live = Live { generation, loaded: Arc::new(loaded) };
        *self.desired.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        let acknowledged = self.acknowledged(heard).await;
        self.plane.tidy();
        say(format_args!(
            "config generation {generation}, hash {hash}, is live on {acknowledged} of {workers} workers"
        ));
    }
}

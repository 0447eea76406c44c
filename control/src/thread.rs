//! The thread itself: started, told of phases, ended.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use config::Auth;
use serde_json::json;
use tokio::runtime::{self, Runtime};
use tokio::sync::{Mutex, Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;

use crate::api;
use crate::auth::Guard;
use crate::connection::{self, Hosts};
use crate::data_plane::DataPlane;
use crate::desired::{Because, Desired, Initial};
use crate::dns;
use crate::events::Events;
use crate::listen::{Bound, Listen};
use crate::phase::Phase;
use crate::probes;
use crate::state::{LISTENING_MAX, State};
use crate::watch::Watch;

/// What to serve, and where.
pub struct Options {
    pub admin: Option<Listen>,
    /// To start without admin, where it cannot be had, is no option.
    pub needs_admin: bool,
    /// Who may ask admin.
    pub auth: Auth,
    pub probes: Option<Listen>,
    pub program: Program,
    /// What the workers were started with, as generation 1.
    pub initial: Initial,
    /// Tells whoever started the process a fact.
    pub say: fn(fmt::Arguments<'_>),
    /// Called first on the thread, before it starts others.
    pub on_thread: fn(),
    /// Hears that the files are read again (`true`), and that this is over, whatever came of it.
    pub reloading: fn(bool),
}

/// What `/version` says of the program.
#[derive(Clone, Debug)]
pub struct Program {
    pub version: String,
    /// `io_uring` or `epoll`.
    pub io_backend: String,
}

/// The running control thread. Dropping it without [`Control::shutdown`] ends it as well.
#[derive(Debug)]
pub struct Control {
    phase: watch::Sender<Phase>,
    reload: Arc<Notify>,
    admin: Option<Listen>,
    probes: Option<Listen>,
    /// Ends the thread when it is dropped.
    running: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Binds the listeners and starts the thread; the phase is [`Phase::Starting`].
///
/// # Errors
/// A listener that could not be bound, with its address and what to check; or the thread or its
/// runtime could not be made.
pub fn start<P: DataPlane>(options: Options, plane: Arc<P>) -> io::Result<Control> {
    let admin = match &options.admin {
        Some(listen) if !options.needs_admin => Bound::admin_if_free(listen, options.say),
        listen => listen.as_ref().map(Bound::admin).transpose()?,
    };
    let probes = options.probes.as_ref().map(Bound::probes).transpose()?;
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let (running, ended) = oneshot::channel();
    let Options { program, initial, auth, say, on_thread, reloading, .. } = options;
    let guard = match admin {
        Some(_) => {
            let state = initial.state.as_ref().map(|state| state.path());
            let tell = |path: &Path| say(format_args!("admin token: in {}", path.display()));
            Guard::new(&auth, state, tell)?
        }
        None => Guard::Open,
    };
    let desired = Desired::new(initial, plane.workers(), say);
    let (set_phase, started) = (phase.clone(), Instant::now());
    let state = Arc::new(State {
        plane,
        phase: phase_seen,
        set_phase,
        started,
        program,
        desired,
        guard,
        given_back: Notify::new(),
        endpoints_saved: Mutex::new(None),
        events: Events::default(),
        listening: Arc::new(Semaphore::new(LISTENING_MAX)),
    });
    state.restore_endpoints();
    let reload = Arc::new(Notify::new());
    let told = reload.clone();
    let admin_address = admin.as_ref().map(|bound| bound.address.clone());
    let probes_address = probes.as_ref().map(|bound| bound.address.clone());
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
        on_thread();
        run(runtime, state, admin, probes, (&told, reloading), ended);
    })?;
    Ok(Control {
        phase,
        reload,
        admin: admin_address,
        probes: probes_address,
        running: Some(running),
        thread: Some(thread),
    })
}

/// Serves until `ended` says so. What is still in flight then is cut off by the runtime's end.
fn run<P: DataPlane>(
    runtime: Runtime,
    state: Arc<State<P>>,
    admin: Option<Bound>,
    probes: Option<Bound>,
    (reload, reloading): (&Notify, fn(bool)),
    ended: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        if let Some(bound) = admin {
            let hosts = Hosts::of_admin(&bound.address);
            tokio::spawn(connection::serve(
                bound.socket,
                api::router(state.clone()),
                hosts,
                connection::ADMIN_WITHIN,
            ));
        }
        if let Some(bound) = probes {
            let routes = probes::router(state.clone());
            tokio::spawn(connection::serve(
                bound.socket,
                routes,
                Hosts::Any,
                connection::PROBE_WITHIN,
            ));
        }
        let reloads = async {
            loop {
                reload.notified().await;
                reloading(true);
                state.reload(Because::Told).await;
                reloading(false);
            }
        };
        tokio::spawn(watch_files(state.clone()));
        tokio::spawn(dns::follow(state.clone()));
        tokio::spawn(tell_phases(state.clone()));
        tokio::spawn(state.clone().tidy_up());
        tokio::spawn(state.clone().keep_files());
        tokio::select! {
            // An error is the drop of the sender, which means the same.
            _ = ended => {}
            () = reloads => {}
        }
    });
    // Whoever is in the middle of a change has the turn, and gives it back.
    drop(runtime);
    if let Err(error) = state.save_endpoints() {
        state.desired.say(format_args!("pushed endpoints are not kept for a restart: {error}"));
    }
}

/// Reads the files again when they may have changed, if they have the last word.
async fn watch_files<P: DataPlane>(state: Arc<State<P>>) {
    let Some(files) = state.desired.watched() else { return };
    match Watch::new(files) {
        Ok(mut watch) => {
            // They may have changed since they were read at start; what was wrong then was said.
            if state.desired.began_with_files() {
                state.reload(Because::Changed).await;
            }
            loop {
                watch.changed().await;
                state.reload(Because::Changed).await;
            }
        }
        Err(error) => state.desired.say(format_args!(
            "the config's folder is not watched, so a change needs a SIGHUP: {error}"
        )),
    }
}

/// Tells those who listen of every phase.
async fn tell_phases<P: DataPlane>(state: Arc<State<P>>) {
    let mut phases = state.phase.clone();
    while phases.changed().await.is_ok() {
        let phase = *phases.borrow_and_update();
        state.events.tell("phase", &json!({ "phase": phase.name() }));
    }
}

impl Control {
    /// What `/readyz` says from now on.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Reads the files again, and makes live what is new in them. Says what came of it.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Where admin listens, with its real port.
    pub fn admin_address(&self) -> Option<&Listen> {
        self.admin.as_ref()
    }

    /// Where the probes listen, with their real port.
    pub fn probes_address(&self) -> Option<&Listen> {
        self.probes.as_ref()
    }

    /// Closes the listeners, removes the socket's file and waits for the thread to end.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // While we listen there, nobody else has put a socket of its own in its place.
        for listen in [&self.admin, &self.probes].into_iter().flatten() {
            if let Listen::Unix(path) = listen {
                // Gone already is as good; the next start removes a stale one anyway.
                let _ = fs::remove_file(path);
            }
        }
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

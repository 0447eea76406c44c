//! `ringside run`: the process. Reads the config, opens what must be open, starts control and the
//! workers, says one line per fact, and waits for signals.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use config::{Auth, Config, Io};
use control::{Control, Initial, Listen, Phase, Source};
use crossbeam_utils::CachePadded;
use reactor::{Backend, BufferOptions, Signal, Signals};

use crate::access_writer::AccessWriter;
use crate::cpus::{Cpus, Placement};
use crate::initial::initial;
use crate::plan::{Listener, Plan};
use crate::plane::{Open, Plane, bind_hint};
use crate::say::say;
use crate::service_manager::{self, State};
use crate::worker::{self, Command, Crew, Setup};

/// Commands that wait for a worker before more are refused.
const MAILBOX: usize = 1024;

/// Descriptors that are not connections: rings, logs, admin, pipes.
const DESCRIPTORS_RESERVED: u64 = 256;

/// As mimalloc does by itself: workers use again what they free.
const KEEP_FREED_MEMORY: Duration = Duration::from_millis(10);

/// How often a drain looks whether it is over.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// What the command line overrides.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub workers: Option<std::num::NonZeroUsize>,
    pub io: Option<Io>,
    pub admin: Option<config::Address>,
    pub source: Source,
    /// The state directory.
    pub state: Option<PathBuf>,
}

/// Why the process could not start, in words that say what to do.
#[derive(Debug)]
pub enum StartError {
    Config(config::Failure),
    Bind { listener: String, address: String, error: io::Error },
    IoUring(io::Error),
    AccessLog(io::Error),
    Control(io::Error),
    State(io::Error),
    Worker(io::Error),
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(config::Failure::Invalid(diagnostics)) => {
                let text = diagnostics.render(crate::check::colours());
                write!(f, "the config is invalid\n{text}")
            }
            StartError::Config(unreadable) => unreadable.fmt(f),
            StartError::Bind { listener, address, error } => {
                let hint = bind_hint(error.kind());
                write!(f, "listener {listener}: cannot listen on {address}: {error}; {hint}")
            }
            StartError::IoUring(error) => {
                write!(
                    f,
                    "io: io_uring was asked for and does not work here: {error}; use io: auto"
                )
            }
            StartError::AccessLog(error) => write!(f, "access_log: {error}"),
            StartError::Control(error) => write!(f, "admin or probes: {error}"),
            StartError::State(error) => write!(f, "state_dir: {error}"),
            StartError::Worker(error) => write!(f, "a worker did not start: {error}"),
            StartError::System(error) => write!(f, "{error}"),
        }
    }
}

/// Runs until told to stop.
pub fn run(files: &[PathBuf], overrides: &Overrides) -> Result<(), StartError> {
    // To read a config takes many times what is left of it.
    reactor::keep_freed_memory(Duration::ZERO);
    let signals = Signals::block().map_err(StartError::System)?;
    let initial = initial(files, overrides)?;
    let (sender, signals) = listen_to(signals);
    let mut process = Process::start(initial, overrides, Some(sender))?;
    service_manager::tell(State::Ready, "serving config generation 1");
    while let Ok(signal) = signals.recv() {
        match signal {
            Signal::Terminate => break,
            other => process.answer(other),
        }
    }
    service_manager::tell(State::Stopping, "draining: finishing what is open");
    process.drain();
    let mut is_hurried = false;
    while !process.is_drained() {
        match signals.recv_timeout(DRAIN_LOOK) {
            Ok(Signal::Terminate) if !is_hurried => {
                is_hurried = true;
                say(format_args!("told to stop again: what is still open is closed now"));
                service_manager::status("draining: closing what is still open");
                process.hurry();
            }
            Ok(Signal::Terminate) | Err(RecvTimeoutError::Timeout) => {}
            Ok(other) => process.answer(other),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    process.end();
    Ok(())
}

/// Signals as they come, from a thread that ends with the process: who drains waits for them and for
/// the workers.
fn listen_to(signals: Signals) -> (mpsc::Sender<Signal>, mpsc::Receiver<Signal>) {
    let (sender, receiver) = mpsc::channel();
    let listens = sender.clone();
    std::thread::spawn(move || while listens.send(signals.wait()).is_ok() {});
    (sender, receiver)
}

/// A running data plane.
pub struct Process {
    plane: Arc<Plane>,
    control: Control,
    workers: Vec<JoinHandle<()>>,
    crew: Arc<Crew>,
    access: Arc<AccessWriter>,
    /// When the drain began.
    draining: Option<Instant>,
}

impl Process {
    /// Starts everything; when it returns, connections are accepted and it is ready. `on_quit` hears of
    /// those who ask over REST that it end.
    pub fn start(
        initial: Initial,
        overrides: &Overrides,
        on_quit: Option<mpsc::Sender<Signal>>,
    ) -> Result<Process, StartError> {
        let loaded = &initial.loaded;
        for warning in loaded.warnings.render(crate::check::colours()).lines() {
            say(format_args!("{warning}"));
        }
        // Refused in some sandboxes: then memory is coarser, and nothing else is.
        let _ = reactor::refuse_huge_pages();
        let config = &loaded.config;
        let connections_max = affordable(config.limits.connections)?.get();
        let plan = Plan::compile(config, &loaded.hash, 1, None);
        let workers = overrides.workers.map_or(config.workers, config::Workers::Count);
        let placement = Cpus::detect().place(workers, config.pin);
        let io = overrides.io.unwrap_or(config.io);
        let start = |backend| start_loops(backend, &placement);
        let (io, loops) = choose_io(io, reactor::probe_io_uring, start)?;
        announce(config, connections_max, &plan, &initial, &placement, &io);

        let open = |listener: &Arc<Listener>| {
            Open::bind(listener).map_err(|error| StartError::Bind {
                listener: listener.name.to_string(),
                address: listener.address.to_string(),
                error,
            })
        };
        let sockets: Vec<Open> = plan.listeners.iter().map(open).collect::<Result<_, _>>()?;
        let access = Arc::new(AccessWriter::new(placement.workers));
        let sinks = access.follow(config.access_log.as_ref()).map_err(StartError::AccessLog)?;
        let (mailboxes, receivers): (Vec<_>, Vec<_>) =
            (0..placement.workers).map(|_| reactor::mailbox(MAILBOX)).unzip();
        let crew = Arc::new(Crew {
            memory: reactor::Budget::new(plan.limits.memory),
            load: (0..placement.workers).map(|_| CachePadded::default()).collect(),
            mailboxes,
            connections_max,
            accepting: AtomicUsize::new(0),
        });
        let (home, returned) = mpsc::channel();
        let plane = Arc::new(Plane::new(
            plan.clone(),
            sockets.clone(),
            crew.clone(),
            returned,
            (io.backend.name(), io.reason.clone()),
            access.clone(),
            on_quit,
        ));
        let control = start_control(initial, overrides, &plane, &io)?;

        let mut workers = Vec::new();
        let mut sinks = sinks.into_iter();
        for (index, (worker, mailbox)) in loops.into_iter().zip(receivers).enumerate() {
            let setup = Setup {
                index,
                plan: plan.clone(),
                home: home.clone(),
                crew: crew.clone(),
                mailbox,
                listeners: sockets.iter().map(|open| open.socket.clone()).collect(),
                access: sinks.next(),
            };
            // One that has panicked by now is noticed as any other.
            let _ = worker.setup.send(setup);
            workers.push(worker.thread);
        }
        for (listener, open) in plan.listeners.iter().zip(&sockets) {
            say(format_args!("listener {}: {}", listener.name, open.socket.address()));
        }
        if let Some(address) = control.admin_address() {
            say(format_args!("admin: {address}"));
        }
        if let Some(address) = control.probes_address() {
            say(format_args!("probes: {address}"));
        }
        reactor::give_memory_back();
        reactor::keep_freed_memory(KEEP_FREED_MEMORY);
        control.set_phase(Phase::Ready);
        say(format_args!("ready"));
        Ok(Process { plane, control, workers, crew, access, draining: None })
    }

    /// Where a listener listens, with its real port.
    pub fn address(&self, listener: &str) -> Option<reactor::Address> {
        self.plane.address(listener)
    }

    /// Where the probes are served, if they are, over TCP.
    pub fn probes(&self) -> Option<std::net::SocketAddr> {
        match self.control.probes_address()? {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        }
    }

    /// Does what a signal asks for; to stop is for others.
    fn answer(&self, signal: Signal) {
        match signal {
            Signal::Terminate => {}
            Signal::User1 => self.reopen_logs(),
            Signal::Hangup => self.control.reload(),
            Signal::User2 => {
                say(format_args!("SIGUSR2: upgrading the binary is not supported yet; restart"));
            }
        }
    }

    fn reopen_logs(&self) {
        if let Err(error) = self.access.reopen() {
            say(format_args!("access_log: cannot open it again, the old file stays: {error}"));
        }
    }

    /// Begins to finish what is begun.
    pub fn drain(&mut self) {
        self.draining = Some(Instant::now());
        self.control.set_phase(Phase::Draining);
        self.plane.close();
        self.tell(|| Command::Drain);
        // Who reads this finds it true: of the probes, and of every answer from now on.
        say(format_args!("draining"));
    }

    /// Moves the drain's deadline to now.
    pub fn hurry(&self) {
        self.tell(|| Command::Hurry);
    }

    /// Whether nothing is open any more.
    pub fn is_drained(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    fn tell(&self, command: fn() -> Command) {
        for (mailbox, worker) in self.crew.mailboxes.iter().zip(&self.workers) {
            // A full mailbox is emptied soon; one that nobody reads any more is a worker's that died.
            while mailbox.send(command()).is_err() && !worker.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Waits until all is drained, and ends.
    pub fn end(self) {
        for worker in self.workers {
            let _ = worker.join();
        }
        self.control.shutdown();
        self.access.shutdown();
        if let Some(begun) = self.draining {
            say(format_args!("drained in {:.1} s", begun.elapsed().as_secs_f64()));
        }
    }
}

/// Which driver, and why.
struct ChosenIo {
    backend: Backend,
    reason: String,
}

/// Starts the workers' loops on the driver that `io` asks for, or where that is left to us, on epoll
/// if io_uring does not work here. io_uring is tried only where it may be used.
fn choose_io<T>(
    io: Io,
    probe: impl FnOnce() -> io::Result<()>,
    mut start: impl FnMut(Backend) -> io::Result<T>,
) -> Result<(ChosenIo, T), StartError> {
    let mut on = |backend, reason: String| {
        let started = start(backend).map_err(StartError::Worker)?;
        Ok((ChosenIo { backend, reason }, started))
    };
    match io {
        Io::Epoll => on(Backend::Epoll, "io: epoll".to_owned()),
        Io::IoUring => {
            probe().map_err(StartError::IoUring)?;
            on(Backend::IoUring, "io: io_uring".to_owned())
        }
        Io::Auto => {
            let passed = "the self-test passed".to_owned();
            let error = match probe().map(|()| on(Backend::IoUring, passed)) {
                Ok(Err(StartError::Worker(error))) => {
                    format!("a worker could not have io_uring: {error}")
                }
                Err(error) => format!("io_uring does not work here: {error}"),
                Ok(started) => return started,
            };
            on(Backend::Epoll, error)
        }
    }
}

/// Starts each worker's loop; if one cannot be made, there is none.
fn start_loops(backend: Backend, placement: &Placement) -> io::Result<Vec<worker::Idle>> {
    let (ready, started) = mpsc::channel();
    let workers = (0..placement.workers).map(|index| {
        let options =
            reactor::Options { backend, buffers: BufferOptions::default(), seed: seed(index) };
        let core = placement.cores.as_ref().map(|cores| cores[index]);
        worker::start(index, options, core, ready.clone())
    });
    let workers: Vec<worker::Idle> = workers.collect::<io::Result<_>>()?;
    drop(ready);
    let result = workers
        .iter()
        .try_for_each(|_| started.recv().unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
    match result {
        Ok(()) => Ok(workers),
        Err(error) => {
            for worker::Idle { thread, setup } in workers {
                drop(setup);
                // What it has taken of the machine is given back before another try.
                let _ = thread.join();
            }
            Err(error)
        }
    }
}

/// Cuts the connection limit to what the descriptor limit allows, loudly.
fn affordable(limit: std::num::NonZeroUsize) -> Result<std::num::NonZeroUsize, StartError> {
    let descriptors = reactor::raise_descriptor_limit().map_err(StartError::System)?;
    // Each connection may need one upstream.
    let room = descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2;
    let room = std::num::NonZeroUsize::new(room as usize).unwrap_or(std::num::NonZeroUsize::MIN);
    if room < limit {
        say(format_args!(
            "limits.connections cut from {limit} to {room}: the process may open {descriptors} \
             descriptors; raise that (ulimit -Hn) or lower the limit"
        ));
    }
    Ok(limit.min(room))
}

fn start_control(
    initial: Initial,
    overrides: &Overrides,
    plane: &Arc<Plane>,
    io: &ChosenIo,
) -> Result<Control, StartError> {
    let config = &initial.loaded.config;
    let configured = config.admin.as_ref();
    let admin = overrides.admin.as_ref().or(configured.map(|admin| &admin.address));
    let auth = admin_auth(config, overrides);
    let admin = admin.map(listen).transpose()?;
    let needs_admin = overrides.admin.is_some() || configured.is_some_and(|it| !it.is_optional);
    let probes = config.probes.as_ref().map(|probes| listen(&probes.address)).transpose()?;
    let options = control::Options {
        admin,
        needs_admin,
        auth,
        probes,
        program: control::Program {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            io_backend: io.backend.name().to_owned(),
        },
        initial,
        say,
        // Where that is forbidden, a push costs the workers what it costs.
        on_thread: || drop(reactor::stand_back()),
        reloading: |begins| match begins {
            true => service_manager::tell(State::Reloading, "reading the config again"),
            false => service_manager::tell(State::Ready, "serving"),
        },
    };
    control::start(options, plane.clone()).map_err(StartError::Control)
}

/// Who may ask admin. Elsewhere than the config says it is as guarded as that says, and on TCP always.
pub(crate) fn admin_auth(config: &Config, overrides: &Overrides) -> Auth {
    match (&config.admin, &overrides.admin) {
        (Some(admin), _) if !admin.is_optional => admin.auth.clone(),
        (_, Some(config::Address::Ip(_))) => Auth::Token(Vec::new()),
        (_, _) => Auth::None,
    }
}

fn listen(address: &config::Address) -> Result<Listen, StartError> {
    match address {
        config::Address::Ip(ip) => Ok(Listen::Tcp(*ip)),
        config::Address::Unix(path) => Ok(Listen::Unix(path.clone())),
        // From the command line: the config holds none.
        config::Address::Abstract(name) => Err(StartError::Control(io::Error::other(format!(
            "unix:@{name}: an abstract socket has no file mode to protect it; use a path"
        )))),
    }
}

/// One line per fact.
fn announce(
    config: &Config,
    connections_max: usize,
    plan: &Plan,
    initial: &Initial,
    placement: &Placement,
    io: &ChosenIo,
) {
    let files: Vec<String> = initial.files.iter().map(|file| file.display().to_string()).collect();
    let cores = match &placement.cores {
        Some(cores) => format!("pinned to cores {cores:?}"),
        None => "not pinned".to_owned(),
    };
    let (workers, reason) = (placement.workers, placement.reason);
    say(format_args!("version {}", env!("CARGO_PKG_VERSION")));
    say(format_args!(
        "config generation {}, hash {}, from {} ({})",
        plan.generation,
        plan.hash,
        files.join(", "),
        initial.origin
    ));
    say(format_args!("workers {workers}, {cores} ({reason})"));
    say(format_args!("io {} ({})", io.backend.name(), io.reason));
    say(format_args!(
        "memory: connections {} x up to {} bytes each, bounded by limits.memory {} bytes",
        connections_max, config.limits.connection_buffer, config.limits.memory
    ));
}

fn seed(worker: usize) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    now as u64
        ^ u64::from(std::process::id()) << 32
        ^ (worker as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which driver is chosen where io_uring works as told, in the self-test and for the workers.
    fn chosen(io: Io, probed: bool, started: bool) -> Result<(&'static str, String), String> {
        let works = |works: bool| match works {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        };
        let start = |backend| works(started || backend == Backend::Epoll);
        let chosen = choose_io(io, || works(probed), start);
        chosen.map(|(io, ())| (io.backend.name(), io.reason)).map_err(|error| error.to_string())
    }

    #[test]
    fn all_workers_are_on_epoll_where_one_cannot_have_io_uring() {
        let auto = |probed, started| chosen(Io::Auto, probed, started).unwrap();
        assert_eq!(auto(true, true), ("io_uring", "the self-test passed".to_owned()));
        let (driver, reason) = auto(true, false);
        assert!(driver == "epoll" && reason.contains("out of memory"), "{reason}");
        let (driver, reason) = auto(false, false);
        assert!(driver == "epoll" && reason.contains("does not work here"), "{reason}");
        assert_eq!(chosen(Io::IoUring, true, true).unwrap().0, "io_uring");
        for (probed, started) in [(false, true), (true, false)] {
            assert!(chosen(Io::IoUring, probed, started).is_err(), "asked for, so not replaced");
        }
    }

    #[test]
    fn who_asks_for_epoll_gets_no_self_test() {
        let probe = || panic!("io_uring is not tried");
        let (chosen, ()) =
            choose_io(Io::Epoll, probe, |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(chosen.backend, Backend::Epoll);
    }
}

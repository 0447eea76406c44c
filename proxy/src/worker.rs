//! A worker: one core's thread, its event loop, and everything that it owns while serving.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_utils::CachePadded;
use reactor::{
    AcceptError, Accepted, BACKLOG, Budget, Either, Instant, ListenSocket, Listener, Reactor,
    Receiver, Sender, both, race,
};
use slotmap::{SlotMap, new_key_type};

use crate::downstream;
use crate::downstream::connection::Connection;
use crate::downstream::tcp::Tunnelled;
use crate::error::{Cause, Shortage};
use crate::exchange;
use crate::messages::{Request, Response};
use crate::plan::{ListenerKind, Plan};
use crate::say::say_aside;
use crate::spare::{Slots, Spare};
use crate::split::Points;
use crate::telemetry::access::{Access, AccessRecord};
use crate::telemetry::counters::Counters;
use crate::upstream::Upstreams;

new_key_type! {
    /// Names a downstream connection of this worker.
    pub struct ConnectionKey;
}

/// When accepting failed, the next attempt comes after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// A shortage is said anew only after this long without it.
const QUIET: Duration = Duration::from_secs(10);
/// How often the closing of idle upstream connections is looked after.
const SWEEP: Duration = Duration::from_millis(250);
/// How often a draining worker looks for connections that have become idle.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How long connections that were cut at the deadline may take to notice, to say so, and to write
/// their record.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How often the loop's lag is measured.
const LAG_PROBE: Duration = Duration::from_millis(100);

/// What other threads ask of a worker.
pub enum Command {
    /// Serve this connection, which another worker accepted.
    Serve { listener: usize, accepted: Accepted },
    /// Give a copy of the counters.
    Snapshot(control::Answer<Counters>),
    /// Finish what is begun and end.
    Drain,
    /// Nobody waits any longer: the drain's deadline is now.
    Hurry,
}

/// What the workers share: how many connections each serves, how to write to it, and the memory
/// budget. The counters are touched once per connection, the budget once per lease: the exceptions to
/// "nothing shared".
pub struct Crew {
    pub memory: Budget,
    pub load: Vec<CachePadded<AtomicUsize>>,
    pub mailboxes: Vec<Sender<Command>>,
    /// Connections that the process serves at a time.
    pub connections_max: usize,
    /// Per listener, how many it serves.
    pub listeners: Vec<CachePadded<AtomicUsize>>,
    /// How many workers may still accept, each counted once per listener.
    pub accepting: AtomicUsize,
}

impl Crew {
    /// The worker that serves fewest connections; counted there from now on.
    fn assign(&self) -> usize {
        let loads = self.load.iter().map(|load| load.load(Ordering::Relaxed));
        let (least, _) = loads.enumerate().min_by_key(|(_, load)| *load).expect("a worker");
        self.load[least].fetch_add(1, Ordering::Relaxed);
        least
    }

    fn connections(&self) -> usize {
        self.load.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// Whether nobody serves, and nobody will: connections are counted before they are handed over,
    /// and by those who accept.
    fn is_done(&self) -> bool {
        self.accepting.load(Ordering::Acquire) == 0 && self.connections() == 0
    }
}

/// A worker's state, shared by its tasks.
pub struct Worker {
    pub reactor: Reactor,
    pub plan: Arc<Plan>,
    pub upstreams: Upstreams,
    pub counters: RefCell<Counters>,
    /// Memory of heads, used again.
    pub requests: Spare<Request>,
    pub responses: Spare<Response>,
    /// Where each route's split between its backends is; outlives plans.
    pub splits: RefCell<Points>,
    index: usize,
    crew: Arc<Crew>,
    connections: RefCell<SlotMap<ConnectionKey, Rc<Connection>>>,
    draining: Cell<bool>,
    access: Option<RefCell<AccessSink>>,
    /// When work was refused last for want of something.
    overloaded: Cell<Option<Instant>>,
}

/// Where access records go.
pub struct AccessSink {
    pub sink: control::Sink<AccessRecord>,
    /// Of a million exchanges, so many are logged.
    pub sample: u32,
}

/// What a worker is started with.
pub struct Setup {
    pub index: usize,
    pub plan: Arc<Plan>,
    pub crew: Arc<Crew>,
    pub mailbox: Receiver<Command>,
    /// By the plan's listener indices.
    pub listeners: Vec<ListenSocket>,
    pub access: Option<AccessSink>,
}

/// Serves until told to drain, and then until that is done.
pub async fn serve(reactor: Reactor, setup: Setup) {
    let Setup { index, plan, crew, mut mailbox, listeners, access } = setup;
    let upstreams = Upstreams::new(&reactor, &plan);
    reactor.share_memory(crew.memory.clone());
    let worker = Rc::new(Worker {
        reactor: reactor.clone(),
        plan,
        upstreams,
        counters: RefCell::new(Counters::new()),
        requests: Spare::default(),
        responses: Spare::default(),
        splits: RefCell::default(),
        index,
        crew,
        connections: RefCell::default(),
        draining: Cell::new(false),
        access: access.map(RefCell::new),
        overloaded: Cell::new(None),
    });
    let start: Rc<dyn Fn(usize, Accepted)> = {
        let (worker, slots) = (worker.clone(), Rc::new(Slots::new(exchange::exchanges)));
        Rc::new(move |listener, accepted| {
            let connection = worker.admit(listener, accepted);
            let (worker, slots) = (worker.clone(), slots.clone());
            match &worker.plan.listeners[listener].kind {
                ListenerKind::Http(_) => {
                    let serving = downstream::connection::serve(worker.clone(), connection, slots);
                    worker.reactor.spawn(serving);
                }
                ListenerKind::Tcp(tcp) => {
                    let (service, idle) = (tcp.service, tcp.idle_timeout);
                    let serving = downstream::tcp::serve(worker.clone(), connection, service, idle);
                    worker.reactor.spawn(serving);
                }
            }
        })
    };
    let mut stops = Vec::new();
    for (listener, socket) in listeners.into_iter().enumerate() {
        let (stop, stopped) = reactor::mailbox(1);
        stops.push(stop);
        let accept = accept(worker.clone(), listener, socket, stopped, start.clone());
        let crew = worker.crew.clone();
        reactor.spawn(async move {
            accept.await;
            crew.accepting.fetch_sub(1, Ordering::Release);
        });
    }
    let serving = async {
        while let Some(command) = mailbox.recv().await {
            match command {
                Command::Serve { listener, accepted } => start(listener, accepted),
                Command::Snapshot(answer) => answer.send(worker.counters.borrow().clone()),
                Command::Drain => break,
                // Nothing is drained yet.
                Command::Hurry => {}
            }
        }
        worker.drain(&mut mailbox, stops, &*start).await;
    };
    // What has no end of its own ends with the serving.
    race(serving, both(measure_lag(&worker), sweep(&worker))).await;
}

/// Accepts on one listener until told to stop, and hands each connection to the worker that serves
/// fewest.
async fn accept(
    worker: Rc<Worker>,
    listener: usize,
    socket: ListenSocket,
    mut stopped: Receiver<()>,
    start: Rc<dyn Fn(usize, Accepted)>,
) {
    let mut accepting = Listener::new(&worker.reactor, socket);
    let mut failed = None;
    loop {
        match race(accepting.accept(), stopped.recv()).await {
            Either::First(Ok(Some(accepted))) => worker.hand_over(listener, accepted, &*start),
            Either::First(Ok(None)) => return,
            Either::First(Err(error)) => {
                let now = worker.reactor.now();
                if failed.replace(now).is_none_or(|last| now >= last + QUIET) {
                    worker.complain(listener, error);
                }
                worker.reactor.sleep(ACCEPT_PAUSE).await;
            }
            Either::Second(_) => break,
        }
    }
    // Whoever has connected is served, and told to go elsewhere next time.
    accepting.stop();
    while let Ok(Some(accepted)) = accepting.accept().await {
        worker.hand_over(listener, accepted, &*start);
    }
    // Who was connecting has connected.
    worker.reactor.sleep(DRAIN_LOOK).await;
    // All who waited then; those who connect all the while would keep us here for ever.
    for _ in 0..BACKLOG {
        let Some(accepted) = accepting.sweep() else { break };
        worker.hand_over(listener, accepted, &*start);
        worker.reactor.yield_now().await;
    }
}

impl Worker {
    /// Whether the process is going down: nobody is invited to stay.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether this exchange is to be logged.
    pub fn samples_access(&self) -> bool {
        let Some(access) = &self.access else { return false };
        let sample = access.borrow().sample;
        sample >= 1_000_000 || self.reactor.random() % 1_000_000 < u64::from(sample)
    }

    /// Writes an access record; a full queue drops and counts it.
    pub fn record_access(&self, access: &Access<'_>) {
        if let Some(sink) = &self.access {
            sink.borrow_mut().sink.push(|record| record.fill(access));
        }
    }

    fn hand_over(&self, listener: usize, accepted: Accepted, start: &dyn Fn(usize, Accepted)) {
        let crew = &self.crew;
        let limit = self.plan.listeners[listener].connections.unwrap_or(usize::MAX);
        let here = crew.listeners[listener].fetch_add(1, Ordering::Relaxed);
        if crew.connections() >= crew.connections_max || here >= limit {
            crew.listeners[listener].fetch_sub(1, Ordering::Relaxed);
            self.refuse(listener);
            return; // dropping it closes it
        }
        let least = crew.assign();
        if least == self.index {
            start(listener, accepted);
            return;
        }
        let letter = Command::Serve { listener, accepted };
        if let Err(Command::Serve { accepted, .. }) = crew.mailboxes[least].send(letter) {
            // Its mailbox is full, so it is not the less loaded one after all; or it has ended.
            crew.load[least].fetch_sub(1, Ordering::Relaxed);
            crew.load[self.index].fetch_add(1, Ordering::Relaxed);
            start(listener, accepted);
        }
    }

    fn refuse(&self, listener: usize) {
        let mut counters = self.counters.borrow_mut();
        let listener = &self.plan.listeners[listener];
        let cause = Cause::ConnectionLimit.name();
        counters.connection_opened(listener.id);
        counters.connection_closed(listener.id, Some(cause));
        drop(counters);
        if self.samples_access() {
            self.record_access(&Access { cause, ..Access::of(&listener.name, SystemTime::now()) });
        }
    }

    /// Writes down a TCP connection, or why an HTTP connection ended without an exchange that tells.
    pub fn record_connection(&self, connection: &Connection, tunnelled: Option<Tunnelled>) {
        let cause = connection.unrecorded();
        if (cause.is_none() && tunnelled.is_none()) || !self.samples_access() {
            return;
        }
        let duration = self.reactor.now() - connection.began();
        let Tunnelled { service, endpoint, inward, outward } = match &tunnelled {
            Some(tunnelled) => tunnelled,
            None => &Tunnelled::default(),
        };
        let service = tunnelled.is_some().then(|| &self.plan.services[*service]);
        let endpoint = service.zip(*endpoint).map(|(service, at)| &service.endpoints[at]);
        let listener = &self.plan.listeners[connection.listener].name;
        self.record_access(&Access {
            service: service.map_or("", |service| &service.name),
            endpoint: endpoint.map_or("", |endpoint| &endpoint.name),
            protocol: if tunnelled.is_some() { "tcp" } else { "" },
            cause: cause.map_or("", Cause::name),
            duration,
            bytes_in: *inward,
            bytes_out: *outward,
            source_ip: connection.peer.as_ref().map_or(b"", |peer| peer.text.as_bytes()),
            attempts: u32::from(endpoint.is_some()),
            ..Access::of(listener, SystemTime::now() - duration)
        });
    }

    fn admit(&self, listener: usize, accepted: Accepted) -> Rc<Connection> {
        let stream = self.reactor.adopt(accepted);
        stream.limit_high_water(self.plan.stream_buffer());
        self.counters.borrow_mut().connection_opened(self.plan.listeners[listener].id);
        let now = self.reactor.now();
        let mut connections = self.connections.borrow_mut();
        let key = connections.insert_with_key(|key| {
            Rc::new(Connection::new(&self.plan, listener, key, stream, now))
        });
        connections[key].clone()
    }

    /// The connection has ended.
    pub fn dismiss(&self, connection: &Connection) {
        self.connections.borrow_mut().remove(connection.key);
        let id = self.plan.listeners[connection.listener].id;
        let cause = connection.ended_by().map(|cause| cause.name());
        self.counters.borrow_mut().connection_closed(id, cause);
        self.crew.load[self.index].fetch_sub(1, Ordering::Relaxed);
        self.crew.listeners[connection.listener].fetch_sub(1, Ordering::Relaxed);
    }

    /// The cause of refusing work for want of something; says so, once.
    pub fn overloaded(&self, shortage: Shortage) -> Cause {
        let now = self.reactor.now();
        if self.overloaded.replace(Some(now)).is_none_or(|last| now >= last + QUIET) {
            say_aside(format_args!("overloaded: {}", shortage.hint()));
        }
        Cause::Overloaded(shortage)
    }

    fn complain(&self, listener: usize, error: AcceptError) {
        let name = &self.plan.listeners[listener].name;
        say_aside(format_args!(
            "listener {name}: accepting paused: {error}; \
             raise the descriptor limit (ulimit -n) or lower limits.connections"
        ));
    }

    /// Finishes what is begun: idle connections are closed after the grace period, all others at the
    /// deadline.
    async fn drain(
        &self,
        mailbox: &mut Receiver<Command>,
        stops: Vec<Sender<()>>,
        start: &dyn Fn(usize, Accepted),
    ) {
        self.draining.set(true);
        let begun = self.reactor.now();
        let grace = begun + self.plan.shutdown.grace;
        let mut deadline = begun + self.plan.shutdown.deadline;
        // Keep accepting for the grace period: whoever balances onto us has not heard yet.
        let mut stops = Some(stops);
        let mut look = begun;
        while self.reactor.now() < deadline {
            let now = self.reactor.now();
            if now >= look {
                // All end together: until then each answers for itself, and may be handed a
                // connection.
                if self.crew.is_done() {
                    break;
                }
                if now >= grace {
                    drop(stops.take());
                    // Their tasks notice.
                    let connections = self.connections.borrow();
                    let resting = connections.values().filter(|connection| connection.rests(now));
                    resting.for_each(|connection| connection.stream.shutdown_both());
                }
                look = (now + DRAIN_LOOK).min(deadline);
            }
            match self.reactor.timeout_at(look, mailbox.recv()).await {
                Some(Some(Command::Serve { listener, accepted })) => start(listener, accepted),
                Some(Some(Command::Snapshot(answer))) => {
                    answer.send(self.counters.borrow().clone());
                }
                Some(Some(Command::Drain)) => {}
                Some(Some(Command::Hurry)) => deadline = self.reactor.now(),
                Some(None) => self.reactor.sleep_until(look).await,
                None => {}
            }
            self.reactor.yield_now().await;
        }
        for connection in self.connections.borrow().values() {
            connection.cut();
        }
        let give_up = self.reactor.now() + LAST_WORDS;
        while !self.connections.borrow().is_empty() && self.reactor.now() < give_up {
            self.reactor.sleep(DRAIN_LOOK).await;
        }
        for connection in self.connections.borrow().values() {
            connection.stream.reset_on_close();
        }
        self.upstreams.clear();
    }
}

/// Lets upstream connections go that are closed or too old.
async fn sweep(worker: &Worker) {
    loop {
        worker.reactor.sleep(SWEEP).await;
        worker.upstreams.sweep(worker);
    }
}

/// Measures how late the loop comes round: a timer's lateness beyond its tick.
async fn measure_lag(worker: &Worker) {
    loop {
        let due = worker.reactor.clock() + LAG_PROBE;
        worker.reactor.sleep_until(due).await;
        let late = worker.reactor.clock() - due;
        worker.counters.borrow_mut().loop_lag(late.saturating_sub(Duration::from_millis(1)));
    }
}

/// The time since the reactor's origin, for what is pure.
pub fn moment(now: Instant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}

/// A worker's thread with its event loop, which waits to be told what to serve. Dropping it ends the
/// thread.
pub struct Idle {
    pub thread: JoinHandle<()>,
    pub setup: mpsc::Sender<Setup>,
}

/// Starts a worker on a thread of its own, pinned to `core` if one is given. `ready` hears whether its
/// loop could be made.
pub fn start(
    index: usize,
    options: reactor::Options,
    core: Option<usize>,
    ready: mpsc::Sender<io::Result<()>>,
) -> io::Result<Idle> {
    let (setup, told) = mpsc::channel();
    let name = format!("worker-{index}");
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Some(id) = core {
            // Where the mask has changed since, the scheduler decides.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        // Let go of once it has said something: who listens then hears of a worker that panicked.
        let ready = Rc::new(Cell::new(Some(ready)));
        let said = ready.clone();
        let result = reactor::run(options, |reactor| async move {
            let _ = said.take().map(|ready| ready.send(Ok(())));
            // Blocks the loop, in which nothing is yet. No setup: another worker has no loop.
            if let Ok(setup) = told.recv() {
                serve(reactor, setup).await;
            }
        });
        if let (Err(error), Some(ready)) = (result, ready.take()) {
            let _ = ready.send(Err(error));
        }
    })?;
    Ok(Idle { thread, setup })
}

//! A worker: one core's thread, its event loop, and everything that it owns while serving.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

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
use crate::http::date::{DateText, Dates};
use crate::live_plan::LivePlan;
use crate::messages::{Request, Response};
use crate::plan::{self, ListenerKind, Plan};
use crate::say::say_aside;
use crate::spare::{Slots, Spare};
use crate::split::Points;
use crate::telemetry::access::{Access, AccessRecord};
use crate::telemetry::counters::Counters;
use crate::telemetry::names::ListenerId;
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
/// How often the connections of a listener that is gone are looked after, and how long at least:
/// another worker may still hand one over.
const RETIRE_LOOK: Duration = Duration::from_millis(50);
const RETIRE_MIN: Duration = Duration::from_secs(1);
/// How often the loop's lag is measured.
const LAG_PROBE: Duration = Duration::from_millis(100);

/// What other threads ask of a worker.
pub enum Command {
    /// Serve this connection, which another worker accepted.
    Serve { listener: ListenerId, accepted: Accepted },
    /// Take a plan into use.
    Apply(Box<NewPlan>),
    /// Be looked at, between two events: it must not take long.
    Look(Box<dyn FnOnce(&Worker) + Send>),
    /// Send connections away as they rest, or stop to.
    SetAside(bool),
    /// Finish what is begun and end.
    Drain,
    /// Nobody waits any longer: the drain's deadline is now.
    Hurry,
}

/// A mailbox has room for thousands.
const _: () = assert!(size_of::<Command>() <= 24);

/// A plan that a worker takes into use.
pub struct NewPlan {
    pub plan: Arc<Plan>,
    /// In the order of its listeners.
    pub listeners: Vec<ListenSocket>,
    /// Where access records go from now on, if that changes.
    pub access: Option<AccessSink>,
    /// To be called when it is in use.
    pub done: Box<dyn FnOnce() + Send>,
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
    /// How many workers may still accept, each counted once per listener.
    pub accepting: AtomicUsize,
}

impl Crew {
    /// The worker that serves fewest connections; counted there from now on.
    fn assign(&self) -> usize {
        let least = self.idlest();
        self.load[least].fetch_add(1, Ordering::Relaxed);
        least
    }

    /// The worker that gets the next connection.
    pub fn idlest(&self) -> usize {
        let loads = self.load.iter().map(|load| load.load(Ordering::Relaxed));
        let (least, _) = loads.enumerate().min_by_key(|(_, load)| *load).expect("a worker");
        least
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
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
    plan: RefCell<LivePlan>,
    /// Those that the newest plan does not have and that still have connections.
    retired: RefCell<Vec<Retired>>,
    /// Where plans go that are out of use.
    home: mpsc::Sender<Arc<Plan>>,
    accepting: RefCell<Vec<Accepting>>,
    /// Connections from workers that have a newer plan already.
    early: RefCell<Vec<(ListenerId, Accepted)>>,
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
    /// Somebody wants the traffic elsewhere for a while.
    aside: Cell<bool>,
    access: RefCell<Option<AccessSink>>,
    dates: Dates,
    /// When work was refused last for want of something.
    overloaded: Cell<Option<Instant>>,
}

/// A listener that is gone.
struct Retired {
    listener: ListenerId,
    /// The last plan that had it.
    plan: LivePlan,
    /// The one that has its socket now, under another name, and takes its connections over.
    heir: Option<ListenerId>,
}

/// A socket that is accepted from.
struct Accepting {
    /// A new plan may call it otherwise.
    listener: Rc<Cell<ListenerId>>,
    socket: ListenSocket,
    /// Dropping it ends the accepting.
    _stop: Sender<()>,
}

/// What begins to serve a connection.
type Start = Rc<dyn Fn(ListenerId, Accepted)>;

/// Where access records go.
pub type AccessSink = control::Sink<AccessRecord>;

/// What a worker is started with.
pub struct Setup {
    pub index: usize,
    pub plan: Arc<Plan>,
    /// Where plans go that are out of use.
    pub home: mpsc::Sender<Arc<Plan>>,
    pub crew: Arc<Crew>,
    pub mailbox: Receiver<Command>,
    /// By the plan's listener indices.
    pub listeners: Vec<ListenSocket>,
    pub access: Option<AccessSink>,
}

/// Serves until told to drain, and then until that is done.
pub async fn serve(reactor: Reactor, setup: Setup) {
    let Setup { index, plan, home, crew, mut mailbox, listeners, access } = setup;
    reactor.share_memory(crew.memory.clone());
    let worker = Rc::new(Worker {
        reactor: reactor.clone(),
        plan: RefCell::new(LivePlan::new(plan, home.clone())),
        retired: RefCell::default(),
        home,
        accepting: RefCell::default(),
        early: RefCell::default(),
        upstreams: Upstreams::default(),
        counters: RefCell::new(Counters::new()),
        requests: Spare::default(),
        responses: Spare::default(),
        splits: RefCell::default(),
        index,
        crew,
        connections: RefCell::default(),
        draining: Cell::new(false),
        aside: Cell::new(false),
        access: RefCell::new(access),
        dates: Dates::default(),
        overloaded: Cell::new(None),
    });
    let start: Start = {
        let (worker, slots) = (worker.clone(), Rc::new(Slots::new(exchange::exchanges)));
        Rc::new(move |listener, accepted| {
            let plan = worker.plan_of(listener);
            let Some(listener) = plan.listener(listener) else {
                return worker.early.borrow_mut().push((listener, accepted));
            };
            let connection = worker.admit(&plan, listener, accepted);
            let (worker, slots) = (worker.clone(), slots.clone());
            match &listener.kind {
                ListenerKind::Http(_) => {
                    let serving = downstream::connection::serve(worker.clone(), connection, slots);
                    worker.reactor.spawn(serving);
                }
                ListenerKind::Tcp(tcp) => {
                    let (service, idle) = (plan.services[tcp.service].clone(), tcp.idle_timeout);
                    let serving = downstream::tcp::serve(worker.clone(), connection, service, idle);
                    worker.reactor.spawn(serving);
                }
            }
        })
    };
    worker.accept_from(listeners, &start);
    let serving = async {
        while let Some(command) = mailbox.recv().await {
            match command {
                Command::Serve { listener, accepted } => start(listener, accepted),
                Command::Apply(new) => worker.apply(*new, &start),
                Command::Look(look) => look(&worker),
                Command::SetAside(aside) => worker.aside.set(aside),
                Command::Drain => break,
                // Nothing is drained yet.
                Command::Hurry => {}
            }
        }
        worker.drain(&mut mailbox, &start).await;
    };
    // What has no end of its own ends with the serving.
    race(serving, both(measure_lag(&worker), sweep(&worker))).await;
}

/// Accepts on one listener until told to stop, and hands each connection to the worker that serves
/// fewest.
async fn accept(
    worker: Rc<Worker>,
    listener: Rc<Cell<ListenerId>>,
    socket: ListenSocket,
    mut stopped: Receiver<()>,
    start: Start,
) {
    let mut accepting = Listener::new(&worker.reactor, socket);
    let mut failed = None;
    loop {
        match race(accepting.accept(), stopped.recv()).await {
            Either::First(Ok(Some(accepted))) => {
                worker.hand_over(listener.get(), accepted, &*start)
            }
            Either::First(Ok(None)) => return,
            Either::First(Err(error)) => {
                let now = worker.reactor.now();
                if failed.replace(now).is_none_or(|last| now >= last + QUIET) {
                    worker.complain(listener.get(), error);
                }
                worker.reactor.sleep(ACCEPT_PAUSE).await;
            }
            Either::Second(_) => break,
        }
    }
    // Whoever has connected is served, and told to go elsewhere next time.
    accepting.stop();
    while let Ok(Some(accepted)) = accepting.accept().await {
        worker.hand_over(listener.get(), accepted, &*start);
    }
    // Who was connecting has connected.
    worker.reactor.sleep(DRAIN_LOOK).await;
    // All who waited then; those who connect all the while would keep us here for ever.
    for _ in 0..BACKLOG {
        let Some(accepted) = accepting.sweep() else { break };
        worker.hand_over(listener.get(), accepted, &*start);
        worker.reactor.yield_now().await;
    }
}

impl Worker {
    /// The newest plan.
    pub fn plan(&self) -> LivePlan {
        self.plan.borrow().clone()
    }

    /// The newest plan that has this listener.
    pub fn plan_of(&self, listener: ListenerId) -> LivePlan {
        let newest = self.plan.borrow();
        if newest.listener(listener).is_none()
            && let Some(retired) = self.retired.borrow().iter().find(|it| it.listener == listener)
        {
            return retired.plan.clone();
        }
        newest.clone()
    }

    /// Whether nobody on this listener is invited to stay: the process is going down, or the listener
    /// is gone.
    pub fn is_leaving(&self, listener: ListenerId) -> bool {
        self.draining.get() || self.aside.get() || self.plan.borrow().listener(listener).is_none()
    }

    /// What an own response is dated with.
    pub fn date(&self) -> DateText {
        self.dates.of(self.reactor.wall_clock())
    }

    /// Takes a plan into use. Touches only what it changed: sockets, pools and connections of what
    /// stays are left as they are.
    fn apply(self: &Rc<Self>, new: NewPlan, start: &Start) {
        let NewPlan { plan, listeners, access, done } = new;
        if access.is_some() {
            self.access.replace(access);
        }
        self.upstreams.update(&self.reactor, &plan);
        if plan.names.forgotten() != self.plan.borrow().names.forgotten() {
            self.counters.borrow_mut().forget(&plan.names);
            self.splits.borrow_mut().forget(&plan.names);
        }
        let plan = LivePlan::new(plan, self.home.clone());
        let before = self.plan.replace(plan.clone());
        let mut retired = self.retired.borrow_mut();
        let gone = before.listeners.iter().filter(|old| plan.listener(old.id).is_none());
        retired.retain(|it| plan.listener(it.listener).is_none());
        for old in gone {
            let heir = self.heir(old, &plan, &listeners);
            retired.push(Retired { listener: old.id, plan: before.clone(), heir });
            let (worker, id) = (self.clone(), old.id);
            self.reactor.spawn(async move { worker.retire(id).await });
        }
        drop(retired);
        self.accept_from(listeners, start);
        for (listener, accepted) in self.early.take() {
            match self.plan().listener(listener) {
                Some(_) => start(listener, accepted),
                // Not early but late.
                None => drop(self.crew.load[self.index].fetch_sub(1, Ordering::Relaxed)),
            }
        }
        done();
    }

    /// Accepts from these sockets, in the order of the plan's listeners, and from no others.
    fn accept_from(self: &Rc<Self>, sockets: Vec<ListenSocket>, start: &Start) {
        let plan = self.plan();
        let mut before = self.accepting.take();
        let mut accepting = Vec::with_capacity(sockets.len());
        for (listener, socket) in plan.listeners.iter().zip(sockets) {
            let running = before.iter().position(|old| old.socket.is_same(&socket));
            if let Some(place) = running {
                let kept = before.swap_remove(place);
                kept.listener.set(listener.id);
                accepting.push(kept);
                continue;
            }
            let (stop, stopped) = reactor::mailbox(1);
            let id = Rc::new(Cell::new(listener.id));
            let accept = accept(self.clone(), id.clone(), socket.clone(), stopped, start.clone());
            accepting.push(Accepting { listener: id, socket, _stop: stop });
            self.crew.accepting.fetch_add(1, Ordering::Release);
            let crew = self.crew.clone();
            self.reactor.spawn(async move {
                accept.await;
                crew.accepting.fetch_sub(1, Ordering::Release);
            });
        }
        // The others' accepting ends with their stops.
        *self.accepting.borrow_mut() = accepting;
    }

    /// Which listener of a plan has the socket of one that is gone, and speaks as it does. `sockets` are
    /// the plan's.
    fn heir(
        &self,
        old: &plan::Listener,
        plan: &Plan,
        sockets: &[ListenSocket],
    ) -> Option<ListenerId> {
        let accepting = self.accepting.borrow();
        let was = accepting.iter().find(|accepting| accepting.listener.get() == old.id)?;
        let mut new = plan.listeners.iter().zip(sockets);
        let (heir, _) = new.find(|(_, socket)| socket.is_same(&was.socket))?;
        heir.could_be(old).then_some(heir.id)
    }

    /// Gives the connections of a listener that is no longer in the plan to its heir. Without one it sees
    /// them off: those that rest now, the others when they do, and at the drain's deadline all.
    async fn retire(&self, listener: ListenerId) {
        let begun = self.reactor.now();
        let deadline = begun + self.plan().shutdown.deadline;
        let found = || {
            let retired = self.retired.borrow();
            retired.iter().find(|it| it.listener == listener).map(|gone| gone.heir)
        };
        while let Some(heir) = found().filter(|_| !self.draining.get()) {
            let now = self.reactor.now();
            let connections: Vec<Rc<Connection>> = {
                let all = self.connections.borrow();
                all.values().filter(|known| known.listener() == listener).cloned().collect()
            };
            if connections.is_empty() && now >= begun + RETIRE_MIN {
                self.retired.borrow_mut().retain(|it| it.listener != listener);
                return;
            }
            let heir = heir.map(|heir| (heir, self.plan_of(heir)));
            match heir.as_ref().and_then(|(heir, plan)| plan.listener(*heir)) {
                Some(heir) => connections.iter().for_each(|connection| {
                    self.counters.borrow_mut().connection_moved(listener, heir.id);
                    connection.move_to(heir);
                }),
                None => connections.iter().for_each(|connection| match now >= deadline {
                    true => connection.cut(Cause::ListenerRemoved),
                    false if connection.rests(now) => {
                        connection.end_by(Cause::ListenerRemoved);
                        // Its task notices.
                        connection.stream.shutdown_both();
                    }
                    false => {}
                }),
            }
            self.reactor.sleep(RETIRE_LOOK).await;
        }
    }

    /// Whether this exchange is to be logged.
    pub fn samples_access(&self) -> bool {
        match self.plan.borrow().access_sample {
            None => false,
            Some(1_000_000..) => true,
            Some(sample) => self.reactor.random() % 1_000_000 < u64::from(sample),
        }
    }

    /// Writes an access record; a full queue drops and counts it.
    pub fn record_access(&self, access: &Access<'_>) {
        if let Some(sink) = &mut *self.access.borrow_mut() {
            sink.push(|record| record.fill(access));
        }
    }

    fn hand_over(
        &self,
        listener: ListenerId,
        accepted: Accepted,
        start: &dyn Fn(ListenerId, Accepted),
    ) {
        let crew = &self.crew;
        let plan = self.plan_of(listener);
        let Some(limits) = plan.listener(listener) else { return };
        let limit = limits.connections.unwrap_or(usize::MAX);
        let here = limits.served.fetch_add(1, Ordering::Relaxed);
        if crew.connections() >= crew.connections_max || here >= limit {
            limits.served.fetch_sub(1, Ordering::Relaxed);
            self.refuse(limits);
            return; // dropping it closes it
        }
        if self.plan().listener(listener).is_none() {
            // The others may be done with this listener.
            crew.load[self.index].fetch_add(1, Ordering::Relaxed);
            start(listener, accepted);
            return;
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

    fn refuse(&self, listener: &plan::Listener) {
        let mut counters = self.counters.borrow_mut();
        let cause = Cause::ConnectionLimit.name();
        counters.connection_opened(listener.id);
        counters.connection_closed(listener.id, Some(cause));
        drop(counters);
        if self.samples_access() {
            self.record_access(&Access {
                cause,
                ..Access::of(&listener.name, self.reactor.wall_clock())
            });
        }
    }

    /// Writes down a TCP connection, or why an HTTP connection ended without an exchange that tells.
    pub fn record_connection(&self, connection: &Connection, tunnelled: Option<Tunnelled>) {
        let cause = connection.unrecorded();
        if (cause.is_none() && tunnelled.is_none()) || !self.samples_access() {
            return;
        }
        let duration = self.reactor.now() - connection.began();
        let none = Tunnelled::default();
        let Tunnelled { service, endpoint, inward, outward } = tunnelled.as_ref().unwrap_or(&none);
        let endpoint = endpoint.as_ref().map(|replica| &replica.endpoint);
        let plan = self.plan_of(connection.listener());
        let listener = plan.listener(connection.listener());
        let listener = listener.map_or("", |listener| &listener.name);
        self.record_access(&Access {
            service: service.as_ref().map_or("", |service| &service.name),
            endpoint: endpoint.map_or("", |endpoint| &endpoint.name),
            protocol: if tunnelled.is_some() { "tcp" } else { "" },
            cause: cause.map_or("", Cause::name),
            duration,
            bytes_in: *inward,
            bytes_out: *outward,
            source_ip: connection.peer.as_ref().map_or(b"", |peer| peer.text.as_bytes()),
            attempts: u32::from(endpoint.is_some()),
            ..Access::of(listener, self.reactor.wall_clock() - duration)
        });
    }

    fn admit(&self, plan: &Plan, listener: &plan::Listener, accepted: Accepted) -> Rc<Connection> {
        let stream = self.reactor.adopt(accepted);
        stream.limit_high_water(plan.stream_buffer());
        self.counters.borrow_mut().connection_opened(listener.id);
        let now = self.reactor.now();
        let mut connections = self.connections.borrow_mut();
        let key =
            connections.insert_with_key(|key| Rc::new(Connection::new(listener, key, stream, now)));
        connections[key].clone()
    }

    /// Looks at the connections that are open, in no order.
    pub fn with_connections<T>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = &Connection>) -> T,
    ) -> T {
        look(&mut self.connections.borrow().values().map(|connection| &**connection))
    }

    /// The connection has ended.
    pub fn dismiss(&self, connection: &Connection) {
        self.connections.borrow_mut().remove(connection.key);
        let cause = connection.ended_by().map(|cause| cause.name());
        self.counters.borrow_mut().connection_closed(connection.listener(), cause);
        self.crew.load[self.index].fetch_sub(1, Ordering::Relaxed);
        connection.let_go();
    }

    /// The cause of refusing work for want of something; says so, once.
    pub fn overloaded(&self, shortage: Shortage) -> Cause {
        let now = self.reactor.now();
        if self.overloaded.replace(Some(now)).is_none_or(|last| now >= last + QUIET) {
            say_aside(format_args!("overloaded: {}", shortage.hint()));
        }
        Cause::Overloaded(shortage)
    }

    fn complain(&self, listener: ListenerId, error: AcceptError) {
        let plan = self.plan_of(listener);
        let name = plan.listener(listener).map_or("", |listener| &listener.name);
        say_aside(format_args!(
            "listener {name}: accepting paused: {error}; \
             raise the descriptor limit (ulimit -n) or lower limits.connections"
        ));
    }

    /// Finishes what is begun: idle connections are closed after the grace period, all others at the
    /// deadline.
    async fn drain(self: &Rc<Self>, mailbox: &mut Receiver<Command>, start: &Start) {
        self.draining.set(true);
        let begun = self.reactor.now();
        let shutdown = self.plan().shutdown.clone();
        // Keep accepting for the grace period: whoever balances onto us has not heard yet.
        let grace = begun + shutdown.grace;
        let mut deadline = begun + shutdown.deadline;
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
                    self.accepting.take();
                    // Their tasks notice.
                    let connections = self.connections.borrow();
                    let resting = connections.values().filter(|connection| connection.rests(now));
                    resting.for_each(|connection| connection.stream.shutdown_both());
                }
                look = (now + DRAIN_LOOK).min(deadline);
            }
            match self.reactor.timeout_at(look, mailbox.recv()).await {
                Some(Some(Command::Serve { listener, accepted })) => start(listener, accepted),
                Some(Some(Command::Look(look))) => look(self),
                // Another worker may have it already, and hand connections over by it.
                Some(Some(Command::Apply(new))) => {
                    self.apply(*new, start);
                    look = self.reactor.now();
                }
                Some(Some(Command::Drain | Command::SetAside(_))) => {}
                Some(Some(Command::Hurry)) => deadline = self.reactor.now(),
                Some(None) => self.reactor.sleep_until(look).await,
                None => {}
            }
            self.reactor.yield_now().await;
        }
        for connection in self.connections.borrow().values() {
            connection.cut(Cause::Draining);
        }
        let give_up = self.reactor.now() + LAST_WORDS;
        while !self.connections.borrow().is_empty() && self.reactor.now() < give_up {
            self.reactor.sleep(DRAIN_LOOK).await;
        }
        for connection in self.connections.borrow().values() {
            connection.stream.reset_on_close();
        }
        self.upstreams.clear();
        let late = self.early.take().len();
        self.crew.load[self.index].fetch_sub(late, Ordering::Relaxed);
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

//! The data plane as a whole: what is live on the workers, and how it is replaced.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, mem};

use control::{Answer, DataPlane, EndpointState, Refusal, Silent};
use reactor::{Address, ListenSocket, Sender, Signal};
use serde_json::Value as Json;

use crate::access_writer::AccessWriter;
use crate::explain;
use crate::plan::{Listener, Plan};
use crate::say::say;
use crate::socket_file::SocketFile;
use crate::telemetry::counters::Counters;
use crate::telemetry::prometheus::{self, Facts};
use crate::turn::Turn;
use crate::views;
use crate::worker::{AccessSink, Command, Crew, NewPlan, Worker};

/// An address that was let go of is free within this time; looked at that often.
const RELEASED_WITHIN: Duration = Duration::from_millis(500);
const RELEASED_LOOK: Duration = Duration::from_millis(5);

/// What control asks of the workers, and what it knows of them.
pub struct Plane {
    live: Mutex<Live>,
    crew: Arc<Crew>,
    /// Plans that no worker uses any more, to be freed where that keeps nobody waiting.
    returned: Mutex<mpsc::Receiver<Arc<Plan>>>,
    /// The earlier plans, as long as somebody uses them.
    earlier: Mutex<Vec<Weak<Plan>>>,
    io_backend: &'static str,
    io_reason: String,
    access: Arc<AccessWriter>,
    /// Whoever ends the process when it is asked to.
    on_quit: Option<Mutex<mpsc::Sender<Signal>>>,
}

/// The plan that the workers were told last, and what is open for it.
struct Live {
    plan: Arc<Plan>,
    /// In the order of the plan's listeners; none once they are closed.
    sockets: Vec<Open>,
    /// The drain has begun.
    is_closed: bool,
    /// Where the plan before listened and this one does not.
    released: Vec<Address>,
    applied_at_s: f64,
}

/// A listening socket; the file of a Unix socket goes with it.
#[derive(Clone)]
pub struct Open {
    /// What was asked for.
    asked: Address,
    pub socket: ListenSocket,
    _file: Option<Arc<SocketFile>>,
}

impl Open {
    /// Binds, with patience for a predecessor that was killed.
    pub fn bind(listener: &Listener) -> io::Result<Open> {
        Ok(Open::new(&listener.address, ListenSocket::bind(&listener.address)?))
    }

    fn new(asked: &Address, socket: ListenSocket) -> Open {
        let file = match asked {
            Address::Unix(path) => Some(Arc::new(SocketFile::of(path))),
            Address::Ip(_) | Address::Abstract(_) => None,
        };
        Open { asked: asked.clone(), socket, _file: file }
    }

    /// Whether this socket is the one that a listener wants, whatever it was called before.
    fn suits(&self, listener: &Listener, was_called: &str) -> bool {
        let any_port = self.asked.ip().is_some_and(|ip| ip.port() == 0);
        self.asked == listener.address && (!any_port || *listener.name == *was_called)
    }

    fn is_same(&self, other: &Open) -> bool {
        self.socket.is_same(&other.socket)
    }
}

impl Plane {
    /// `plan` is what the workers are started with, and `sockets` what they accept from.
    pub fn new(
        plan: Arc<Plan>,
        sockets: Vec<Open>,
        crew: Arc<Crew>,
        returned: mpsc::Receiver<Arc<Plan>>,
        (io_backend, io_reason): (&'static str, String),
        access: Arc<AccessWriter>,
        on_quit: Option<mpsc::Sender<Signal>>,
    ) -> Plane {
        let (applied_at_s, released) = (seconds_since_1970(), Vec::new());
        let live = Live { plan, sockets, is_closed: false, released, applied_at_s };
        let (live, returned) = (Mutex::new(live), Mutex::new(returned));
        let (earlier, on_quit) = (Mutex::default(), on_quit.map(Mutex::new));
        Plane { live, crew, returned, earlier, io_backend, io_reason, access, on_quit }
    }

    /// Where a listener listens, with its real port.
    pub fn address(&self, listener: &str) -> Option<Address> {
        let live = lock(&self.live);
        let place = live.plan.listeners.iter().position(|known| &*known.name == listener)?;
        live.sockets.get(place).map(|open| open.socket.address().clone())
    }

    /// Lets go of the listening sockets, for good: they close when the workers have done so too.
    pub fn close(&self) {
        let mut live = lock(&self.live);
        live.is_closed = true;
        live.sockets.clear();
    }

    /// What a plan's listeners have open already, and opens the rest.
    fn open(live: &Live, plan: &Plan) -> Result<Vec<Open>, NotOpen> {
        if live.is_closed {
            let refusal = Refusal {
                path: "listeners".to_owned(),
                message: "the listeners are closed: ringside is ending".to_owned(),
                hint: "push it again when it runs again".to_owned(),
            };
            return Err(NotOpen { refusal, will_pass: false });
        }
        let kept = kept(live, plan);
        let is_kept = |open: &&Open| kept.iter().flatten().any(|kept| kept.is_same(open));
        let (staying, leaving): (Vec<&Open>, Vec<&Open>) = live.sockets.iter().partition(is_kept);
        let open = |(index, (listener, kept)): (usize, (&Arc<Listener>, &Option<&Open>))| {
            let address = &listener.address;
            if let Some(open) = kept {
                return Ok(Open { asked: address.clone(), ..(*open).clone() });
            }
            bind(address, &leaving).map(|socket| Open::new(address, socket)).map_err(|error| {
                let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                let is_ours = staying.iter().any(|open| open.socket.address() == address);
                let hint = match is_taken && is_ours {
                    true => "another listener has that port",
                    false => bind_hint(error.kind()),
                };
                let refusal = Refusal {
                    path: format!("listeners[{index}].address"),
                    message: format!("cannot listen on {address}: {error}"),
                    hint: hint.to_owned(),
                };
                NotOpen { refusal, will_pass: is_taken && live.released.contains(address) }
            })
        };
        plan.listeners.iter().zip(&kept).enumerate().map(open).collect()
    }

    fn plan(&self) -> Arc<Plan> {
        lock(&self.live).plan.clone()
    }

    async fn counters(&self) -> Result<Vec<Counters>, Silent> {
        self.of_all(|worker| worker.counters.borrow().clone()).await
    }

    /// What a look at each worker finds.
    async fn of_all<T: Send + 'static>(
        &self,
        look: impl Fn(&Worker) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Silent> {
        let mailboxes = &self.crew.mailboxes;
        let answers = control::of_all(mailboxes.len(), move |worker, answer| {
            let look = look.clone();
            let look = Command::Look(Box::new(move |worker| answer.send(look(worker))));
            // A full mailbox drops the question, which counts as silence.
            let _ = mailboxes[worker].send(look);
        });
        answers.await
    }

    /// A mailbox is full for a moment only; one that is closed is a worker's that has ended.
    fn deliver(&self, mailbox: &Sender<Command>, mut command: Command) {
        while let Err(back) = mailbox.send(command) {
            if mailbox.is_closed() {
                break;
            }
            command = back;
            std::thread::yield_now();
        }
    }

    /// Tells every worker.
    fn tell(
        &self,
        live: &mut Live,
        plan: Arc<Plan>,
        sockets: Vec<Open>,
        sinks: Vec<AccessSink>,
        answers: Vec<Answer<()>>,
    ) {
        let mut sinks = sinks.into_iter();
        for (mailbox, answer) in self.crew.mailboxes.iter().zip(answers) {
            let new = NewPlan {
                plan: plan.clone(),
                listeners: sockets.iter().map(|open| open.socket.clone()).collect(),
                access: sinks.next(),
                done: Box::new(move || answer.send(())),
            };
            self.deliver(mailbox, Command::Apply(Box::new(new)));
        }
        for (listener, open) in plan.listeners.iter().zip(&sockets) {
            if !live.sockets.iter().any(|old| old.is_same(open)) {
                say(format_args!("listener {}: {}", listener.name, open.socket.address()));
            }
        }
        let gone = |old: &&Open| !sockets.iter().any(|open| open.is_same(old));
        let released =
            live.sockets.iter().filter(gone).map(|open| open.socket.address().clone()).collect();
        let applied_at_s = seconds_since_1970();
        let before = mem::replace(
            live,
            Live { plan, sockets, released, applied_at_s, is_closed: live.is_closed },
        );
        let mut earlier = lock(&self.earlier);
        earlier.retain(|plan| plan.strong_count() > 0);
        earlier.push(Arc::downgrade(&before.plan));
    }
}

/// Why the sockets of a plan cannot be had.
struct NotOpen {
    refusal: Refusal,
    /// A worker is about to close what is in the way.
    will_pass: bool,
}

/// The socket of each of a plan's listeners, where it is open already.
fn kept<'l>(live: &'l Live, plan: &Plan) -> Vec<Option<&'l Open>> {
    let names = || live.plan.listeners.iter().map(|old| &*old.name);
    let asked = plan.listeners.iter().map(|listener| {
        let mut known = names().zip(&live.sockets);
        known.find(|(name, open)| open.suits(listener, name)).map(|(_, open)| open)
    });
    let mut kept: Vec<Option<&Open>> = asked.collect();
    // A port that the kernel chose may be written down now.
    for (index, listener) in plan.listeners.iter().enumerate() {
        if kept[index].is_none() {
            let mut same =
                live.sockets.iter().filter(|open| *open.socket.address() == listener.address);
            kept[index] = same.find(|open| !kept.iter().flatten().any(|kept| kept.is_same(open)));
        }
    }
    kept
}

/// Binds where sockets of ours may still be that are `leaving`.
fn bind(address: &Address, leaving: &[&Open]) -> io::Result<ListenSocket> {
    let leaving = leaving.iter().map(|open| &open.socket);
    let in_the_way: Vec<_> = leaving.filter(|open| overlaps(open.address(), address)).collect();
    match in_the_way.is_empty() {
        true => ListenSocket::try_bind(address),
        false => ListenSocket::try_bind_beside(address, &in_the_way),
    }
}

/// Whether they are different, and one takes in the other.
fn overlaps(a: &Address, b: &Address) -> bool {
    let (Some(a), Some(b)) = (a.ip(), b.ip()) else { return false };
    let takes_all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.ip() != b.ip() && takes_all
}

/// What to check when an address cannot be listened on.
pub fn bind_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "another process listens there; `ss -ltnp` tells which",
        io::ErrorKind::PermissionDenied => "ports below 1024 need the capability NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "the address is not of this machine",
        _ => "check the listener's `address`",
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DataPlane for Plane {
    fn workers(&self) -> usize {
        self.crew.mailboxes.len()
    }

    async fn answers(&self) -> Result<(), Silent> {
        self.of_all(|_| ()).await.map(|_| ())
    }

    async fn metrics(&self) -> Result<String, Silent> {
        self.tidy();
        let counters = self.counters().await?;
        let live = lock(&self.live);
        let plan = &live.plan;
        let services = plan.services.iter();
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION"),
            node: prometheus::Node {
                id: &plan.node_id,
                service: plan.node_service.as_deref().unwrap_or_default(),
                zone: plan.node_zone.as_deref().unwrap_or_default(),
            },
            generation: plan.generation,
            applied_at_s: live.applied_at_s,
            io_backend: self.io_backend,
            io_reason: &self.io_reason,
            access_log_dropped: self.access.dropped(),
            endpoints: services.map(|s| (&*s.name, s.count_by_state())).collect(),
        };
        let mut text = String::new();
        prometheus::render(&mut text, &plan.names, &counters, &facts);
        Ok(text)
    }

    async fn endpoints(&self) -> Result<Json, Silent> {
        let busy = self.of_all(|worker| worker.upstreams.busy()).await?;
        Ok(views::endpoints(&self.plan(), &busy))
    }

    async fn connections(&self, most: usize) -> Result<Json, Silent> {
        let clients = self.of_all(move |worker| views::clients(worker, most)).await?;
        Ok(views::connections(&clients))
    }

    async fn routes(&self) -> Result<Json, Silent> {
        let counters = self.counters().await?;
        Ok(views::routes(&self.plan(), &counters))
    }

    fn generations_in_use(&self) -> Vec<u64> {
        self.tidy();
        let newest = self.plan().generation;
        let earlier = lock(&self.earlier);
        let plans = earlier.iter().filter_map(Weak::upgrade);
        let generations: BTreeSet<u64> =
            plans.map(|plan| plan.generation).chain([newest]).collect();
        generations.into_iter().collect()
    }

    fn limits(&self) -> Json {
        views::limits(&self.plan(), &self.crew)
    }

    fn listeners(&self) -> Json {
        let live = lock(&self.live);
        views::listeners(&live.plan, &live.sockets)
    }

    async fn explain(&self, question: &Json) -> Result<Json, String> {
        let plan = self.plan();
        let mut explanation = explain::answer(&plan, question)?;
        if let Some(forwarding) = explanation.forwarding() {
            let (asked, route) = (plan.clone(), forwarding.route_index);
            let turns = self.of_all(move |worker| Turn::of(worker, &asked, route));
            // Where a worker is silent, nobody knows.
            let turns = turns.await.unwrap_or_default();
            forwarding.take_turns(&turns, self.crew.idlest());
        }
        Ok(explanation.to_answer())
    }

    fn apply(
        &self,
        loaded: &config::Loaded,
        known: &[(String, Vec<config::Endpoint>)],
        generation: u64,
        answers: Vec<Answer<()>>,
    ) -> Result<(), Refusal> {
        // Takes long for large ones, in which others look at what is live.
        let compile = |before: &Plan| {
            let plan = Plan::compile(&loaded.config, &loaded.hash, generation, Some(before));
            let plan = if known.is_empty() { Ok(plan) } else { plan.with_endpoints(known) };
            plan.map_err(|name| Refusal {
                path: "services".to_owned(),
                message: format!("endpoints are known of {name}, which is no service"),
                hint: "push it again".to_owned(),
            })
        };
        let mut before = self.plan();
        let mut plan = compile(&before)?;
        let patience = Instant::now() + RELEASED_WITHIN;
        let (mut live, sockets) = loop {
            let live = lock(&self.live);
            if !Arc::ptr_eq(&before, &live.plan) {
                // Changes take turns, so hardly ever.
                before = live.plan.clone();
                plan = compile(&before)?;
            }
            match Plane::open(&live, &plan) {
                Ok(sockets) => break (live, sockets),
                Err(NotOpen { will_pass: true, .. }) if Instant::now() < patience => {
                    // Others look at what is live meanwhile.
                    drop(live);
                    std::thread::sleep(RELEASED_LOOK);
                }
                Err(NotOpen { refusal, .. }) => return Err(refusal),
            }
        };
        let access = self.access.follow(loaded.config.access_log.as_ref());
        let sinks = access.map_err(|error| Refusal {
            path: "access_log.output".to_owned(),
            message: error.to_string(),
            hint: "the access log stays where it is".to_owned(),
        })?;
        self.tell(&mut live, plan, sockets, sinks, answers);
        Ok(())
    }

    fn apply_endpoints(
        &self,
        services: &[(String, Vec<config::Endpoint>)],
        answers: Vec<Answer<()>>,
    ) -> Result<(), String> {
        let mut live = lock(&self.live);
        let plan = live.plan.with_endpoints(services);
        let plan = plan.map_err(|name| format!("there is no service {name}"))?;
        let sockets = live.sockets.clone();
        self.tell(&mut live, plan, sockets, Vec::new(), answers);
        Ok(())
    }

    fn set_endpoint(
        &self,
        service: &str,
        endpoint: &config::Address,
        state: EndpointState,
        answers: Vec<Answer<()>>,
    ) -> Result<(), String> {
        let mut live = lock(&self.live);
        let plan = live.plan.with_state(service, endpoint, state)?;
        let sockets = live.sockets.clone();
        self.tell(&mut live, plan, sockets, Vec::new(), answers);
        Ok(())
    }

    fn tidy(&self) {
        lock(&self.returned).try_iter().for_each(drop);
    }

    fn give_memory_back(&self) {
        reactor::give_memory_back();
    }

    fn set_aside(&self, aside: bool) {
        for mailbox in &self.crew.mailboxes {
            self.deliver(mailbox, Command::SetAside(aside));
        }
    }

    fn quit(&self) {
        if let Some(tell) = &self.on_quit {
            // Nobody listens any more: it ends already.
            let _ = lock(tell).send(Signal::Terminate);
        }
    }
}

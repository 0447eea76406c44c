//! The data plane as a whole: what is live on the workers, and how it is replaced.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use control::{AccessLog, Answer, DataPlane, EndpointState, Refusal};
use hashbrown::HashMap;
use reactor::{Address, ListenSocket, Sender, Signal};
use serde_json::{Value as Json, json};

use crate::explain;
use crate::plan::{Endpoint, Listener, ListenerKind, Plan, Service};
use crate::say::say;
use crate::socket_file::SocketFile;
use crate::telemetry::counters::Counters;
use crate::telemetry::names::ServiceId;
use crate::telemetry::prometheus::{self, Facts};
use crate::upstream::Busy;
use crate::worker::Command;

/// What control asks of the workers, and what it knows of them.
pub struct Plane {
    live: Mutex<Live>,
    mailboxes: Vec<Sender<Command>>,
    /// Plans that no worker uses any more, to be freed where that keeps nobody waiting.
    returned: Mutex<mpsc::Receiver<Arc<Plan>>>,
    io_backend: &'static str,
    io_reason: String,
    access: Option<Arc<AccessLog>>,
    /// Whoever ends the process when it is asked to.
    on_quit: Option<Mutex<mpsc::Sender<Signal>>>,
}

/// The plan that the workers were told last, and what is open for it.
struct Live {
    plan: Arc<Plan>,
    /// In the order of the plan's listeners; none once the drain has begun.
    sockets: Vec<Open>,
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

    /// Whether this socket can be the one that a listener wants, whatever it was called before.
    fn suits(&self, listener: &Listener, was_called: &str) -> bool {
        let any_port = self.asked.ip().is_some_and(|ip| ip.port() == 0);
        self.asked == listener.address && (!any_port || *listener.name == *was_called)
    }
}

impl Plane {
    /// `plan` is what the workers are started with, and `sockets` what they accept from.
    pub fn new(
        plan: Arc<Plan>,
        sockets: Vec<Open>,
        mailboxes: Vec<Sender<Command>>,
        returned: mpsc::Receiver<Arc<Plan>>,
        (io_backend, io_reason): (&'static str, String),
        access: Option<Arc<AccessLog>>,
        on_quit: Option<mpsc::Sender<Signal>>,
    ) -> Plane {
        let live = Live { plan, sockets, applied_at_s: seconds_since_1970() };
        let (live, returned) = (Mutex::new(live), Mutex::new(returned));
        let on_quit = on_quit.map(Mutex::new);
        Plane { live, mailboxes, returned, io_backend, io_reason, access, on_quit }
    }

    /// Where a listener listens, with its real port.
    pub fn address(&self, listener: &str) -> Option<Address> {
        let live = lock(&self.live);
        let place = live.plan.listeners.iter().position(|known| &*known.name == listener)?;
        live.sockets.get(place).map(|open| open.socket.address().clone())
    }

    /// Lets go of the listening sockets: they close when the workers have done so too.
    pub fn close(&self) {
        lock(&self.live).sockets.clear();
    }

    /// Opens what a plan needs and is not open yet.
    fn open(live: &Live, plan: &Plan) -> Result<Vec<Open>, Refusal> {
        let open = |listener: &Arc<Listener>| {
            let names = live.plan.listeners.iter().map(|old| &*old.name);
            let mut known = names.zip(&live.sockets);
            if let Some((_, open)) = known.find(|(name, open)| open.suits(listener, name)) {
                return Ok(open.clone());
            }
            let bound = ListenSocket::try_bind(&listener.address);
            bound.map(|socket| Open::new(&listener.address, socket)).map_err(|error| Refusal {
                path: format!("listeners.{}.address", listener.name),
                message: format!("cannot listen on {}: {error}", listener.address),
                hint: bind_hint(error.kind()).to_owned(),
            })
        };
        plan.listeners.iter().map(open).collect()
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
    fn tell(&self, live: &mut Live, plan: Arc<Plan>, sockets: Vec<Open>, answers: Vec<Answer<()>>) {
        for (mailbox, answer) in self.mailboxes.iter().zip(answers) {
            let command = Command::Apply {
                plan: plan.clone(),
                listeners: sockets.iter().map(|open| open.socket.clone()).collect(),
                done: Box::new(move || answer.send(())),
            };
            self.deliver(mailbox, command);
        }
        for (listener, open) in plan.listeners.iter().zip(&sockets) {
            if !live.sockets.iter().any(|old| old.socket.is_same(&open.socket)) {
                say(format_args!("listener {}: {}", listener.name, open.socket.address()));
            }
        }
        *live = Live { plan, sockets, applied_at_s: seconds_since_1970() };
    }
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
    type Counters = Counters;
    type Busy = Vec<Busy>;

    fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    fn counters(&self, worker: usize, answer: Answer<Counters>) {
        // A full mailbox drops the question, which counts as silence.
        let _ = self.mailboxes[worker].send(Command::Snapshot(answer));
    }

    fn render(&self, counters: &[Counters], out: &mut String) {
        self.tidy();
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
            access_log_dropped: self.access.as_ref().map(|access| access.dropped()),
            endpoints: services.map(|s| (&*s.name, s.count_by_state())).collect(),
        };
        prometheus::render(out, &plan.names, counters, &facts);
    }

    fn apply(
        &self,
        loaded: &config::Loaded,
        generation: u64,
        answers: Vec<Answer<()>>,
    ) -> Result<(), Refusal> {
        let mut live = lock(&self.live);
        let plan = Plan::compile(&loaded.config, &loaded.hash, generation, Some(&live.plan));
        let sockets = Plane::open(&live, &plan)?;
        self.tell(&mut live, plan, sockets, answers);
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
        self.tell(&mut live, plan, sockets, answers);
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
        self.tell(&mut live, plan, sockets, answers);
        Ok(())
    }

    fn busy(&self, worker: usize, answer: Answer<Vec<Busy>>) {
        // A full mailbox drops the question, which counts as silence.
        let _ = self.mailboxes[worker].send(Command::Busy(answer));
    }

    fn endpoints(&self, busy: &[Vec<Busy>]) -> Vec<Json> {
        let plan = lock(&self.live).plan.clone();
        let mut sums: HashMap<(ServiceId, &Address), (usize, usize)> = HashMap::new();
        for one in busy.iter().flatten() {
            let sum = sums.entry((one.service, &one.endpoint.address)).or_default();
            *sum = (sum.0 + one.requests, sum.1 + one.idle);
        }
        let all = plan
            .services
            .iter()
            .flat_map(|service| service.endpoints.iter().map(move |endpoint| (service, endpoint)));
        let one = |(service, endpoint): (&Arc<Service>, &Arc<Endpoint>)| {
            let sum = sums.get(&(service.id, &endpoint.address)).copied();
            let (requests, idle) = sum.unwrap_or_default();
            json!({
                "service": service.name,
                "address": endpoint.name,
                "weight": endpoint.weight,
                "labels": endpoint.labels.to_json(),
                "state": endpoint.state.name(),
                "requests": requests,
                "idle_connections": idle,
            })
        };
        all.map(one).collect()
    }

    fn tidy(&self) {
        lock(&self.returned).try_iter().for_each(drop);
    }

    fn set_aside(&self, aside: bool) {
        for mailbox in &self.mailboxes {
            self.deliver(mailbox, Command::SetAside(aside));
        }
    }

    fn quit(&self) {
        if let Some(tell) = &self.on_quit {
            // Nobody listens any more: it ends already.
            let _ = lock(tell).send(Signal::Terminate);
        }
    }

    fn listeners(&self) -> Vec<Json> {
        let live = lock(&self.live);
        let both = live.plan.listeners.iter().zip(&live.sockets);
        let one = |(listener, open): (&Arc<Listener>, &Open)| {
            json!({
                "name": listener.name,
                "address": open.socket.address().to_string(),
                "kind": match listener.kind {
                    ListenerKind::Http(_) => "http",
                    ListenerKind::Tcp(_) => "tcp",
                },
                "connections": listener.served.load(Ordering::Relaxed),
            })
        };
        both.map(one).collect()
    }

    fn explain(&self, question: &Json) -> Result<Json, String> {
        let plan = lock(&self.live).plan.clone();
        explain::answer(&plan, question)
    }
}

//! The unmodified data plane on a simulated network, with faults from a seed: one or two workers
//! between several clients and an origin with two addresses, all of whom do what they may; beside them
//! tunnels, through a TCP listener, CONNECT and an upgrade.
//!
//! 100 fixed seeds; `SEEDS=1000` runs more, `SEED=17` one. A failure prints the command for its seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use reactor::sim::{Faults, Outcome, Simulation};
use reactor::{Address, BufferOptions, Census, ListenSocket, Reactor};
use ringside::plan::Plan;
use ringside::worker::{self, Command, Crew, NewPlan, Setup};

#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/message.rs"]
mod message;
#[path = "simulation/origin.rs"]
mod origin;
#[path = "simulation/tunnel.rs"]
mod tunnel;

use client::Client;
use message::{Direction, body_of};
use origin::Speaks;
use tunnel::{Caller, Way};

const CONFIG: &str = r#"version: 1
access_log: none
shutdown: { grace: 10ms, deadline: 20s }
listeners:
  - name: web
    address: "10.0.0.1:80"
    http: {}
    timeouts: { head: 10s, body_idle: 10s, write: 10s, keep_alive: 30s }
  - { name: raw, address: "10.0.0.1:90", tcp: { service: raw } }
services:
  - { name: raw, endpoints: [{ address: "10.0.0.2:90" }], connect_timeout: 5s }
  - name: origin
    endpoints: [{ address: "10.0.0.2:80" }, { address: "10.0.0.2:81" }]
    connect_timeout: 5s
routes:
  - name: tunnels
    matches: [{ methods: [CONNECT] }]
    backends: [{ service: raw }]
    timeouts: { stream_idle: 10s }
  - { name: all, backends: [{ service: origin }], timeouts: { response: 10s, stream_idle: 10s } }
"#;

/// Of every host: few and small, so that they run out.
const BUFFERS: BufferOptions = BufferOptions { count: 16, size: 512 };
const YAML: config::Format = config::Format::Yaml;
const CLIENTS: usize = 5;
const REQUESTS: usize = 8;
const WAYS: [Way; 3] = [Way::Tcp, Way::Connect, Way::Upgrade];
/// One after another, each way.
const DIALOGUES: usize = 3;
/// Where it is tight: what two or three streams hold.
const TIGHT_BYTES: usize = 4 << 10;
/// Virtual: a connect that nobody answers alone takes two minutes.
const LIMIT: Duration = Duration::from_secs(3600);

/// What may happen in a run besides what the network does.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// The network loses connections, so that answers may be missing.
    loses: bool,
    /// Clients may end their sending direction and wait for the answer.
    half_closes: bool,
    /// The proxy is told to drain while the clients are busy.
    drains_early: bool,
    /// The proxy has so little memory that it refuses requests.
    tight: bool,
    /// The proxy is given other configs while the clients are busy.
    reloads: bool,
}

/// What the hosts of a run tell of the requests, by id.
#[derive(Default)]
pub struct Told {
    /// How often a head of this request came to an origin.
    reached: RefCell<BTreeMap<String, u32>>,
    executed: RefCell<BTreeMap<String, u32>>,
    answered: RefCell<BTreeMap<String, u16>>,
    draining: Cell<bool>,
    /// Clients and callers that are done.
    clients: Cell<usize>,
    /// Dialogues that came to their end.
    dialogues: Cell<usize>,
    /// Requests that were refused for want of memory.
    refused: Cell<usize>,
    /// Configs that workers took up while clients were busy.
    reloads: Arc<AtomicUsize>,
}

impl Told {
    fn reached(&self, id: &str) {
        let times =
            *self.reached.borrow_mut().entry(id.into()).and_modify(|n| *n += 1).or_insert(1);
        assert!(times == 1 || !id.starts_with("POST"), "{id} was sent {times} times");
    }

    fn has_reached(&self, id: &str) -> bool {
        self.reached.borrow().contains_key(id)
    }

    /// The origin has received the request whole, with this body.
    fn executed(&self, id: &str, body: &[u8]) {
        let has_body = id.starts_with('P');
        let expected = if has_body { body_of(id, Direction::Up) } else { Vec::new() };
        assert!(body == expected, "{id}: its own body, and all of it");
        *self.executed.borrow_mut().entry(id.into()).or_default() += 1;
    }

    fn answered(&self, id: &str, status: u16) {
        let before = self.answered.borrow_mut().insert(id.into(), status);
        assert_eq!(before, None, "{id} was answered before");
        assert!(status != 200 || self.has_reached(id), "{id}: nobody but an origin says so");
    }

    fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Requests that were answered 200.
    fn good(&self) -> usize {
        self.answered.borrow().values().filter(|status| **status == 200).count()
    }
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    trace: u64,
    good: usize,
    dialogues: usize,
    refused: usize,
    reloads: usize,
    answered: BTreeMap<String, u16>,
    executed: BTreeMap<String, u32>,
}

fn address(text: &str) -> Address {
    Address::Ip(text.parse().expect("an address"))
}

/// Runs one seed.
fn run(seed: u64, faults: Faults, manner: Manner) -> Run {
    let mut loaded = config::parse("test", CONFIG, config::Format::Yaml).expect("a valid config");
    if manner.tight {
        loaded.config.limits.memory = TIGHT_BYTES;
    }
    let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
    let mut sim = Simulation::new(seed, faults);
    let told = Rc::new(Told::default());

    let mut stops = Vec::new();
    for (at, speaks) in
        [("10.0.0.2:80", Speaks::Http), ("10.0.0.2:81", Speaks::Http), ("10.0.0.2:90", Speaks::Raw)]
    {
        let (stop, stopped) = reactor::mailbox(1);
        stops.push(stop);
        let (socket, told) = (sim.bind(&address(at)).unwrap(), told.clone());
        sim.spawn_worker(BUFFERS, |reactor| origin::serve(reactor, socket, speaks, stopped, told));
    }
    let editions = editions(&mut sim, &loaded, &plan);
    let crew = spawn_proxy(&mut sim, &editions[0], 1 + (seed % 2) as usize);
    let (mailboxes, told_by_clients) = (crew.mailboxes.clone(), told.clone());
    let pushed: Vec<Edition> = if manner.reloads { editions.clone() } else { Vec::new() };
    drop(editions);
    sim.spawn_worker(BUFFERS, |reactor| async move {
        let told = told_by_clients;
        for number in 0..CLIENTS {
            let (host, told) = (reactor.clone(), told.clone());
            let ids = requests(&host, number);
            reactor.spawn(async move {
                let proxy = address("10.0.0.1:80");
                Client { reactor: &host, proxy, manner, told: &told }.visit(ids).await;
                told.clients.set(told.clients.get() + 1);
            });
        }
        for (number, way) in WAYS.into_iter().enumerate() {
            let (host, told) = (reactor.clone(), told.clone());
            let proxy = address(if way == Way::Tcp { "10.0.0.1:90" } else { "10.0.0.1:80" });
            reactor.spawn(async move {
                let caller = Caller { reactor: &host, way, proxy, manner, told: &told };
                for dialogue in 0..DIALOGUES {
                    let random = host.random() >> 32;
                    caller.call(&format!("GET-{way:?}-{number}-{dialogue}-{random:x}")).await;
                }
                told.clients.set(told.clients.get() + 1);
            });
        }
        if manner.reloads {
            let (host, mailboxes) = (reactor.clone(), mailboxes.clone());
            let told = told.clone();
            reactor.spawn(async move { push(&host, &told, &mailboxes, &pushed).await });
        }
        if manner.drains_early {
            reactor.sleep(Duration::from_micros(reactor.random() % 100_000)).await;
            drain(&told, &mailboxes);
        }
        while told.clients.get() < CLIENTS + WAYS.len() {
            reactor.sleep(Duration::from_millis(5)).await;
        }
        drain(&told, &mailboxes);
        drop(stops);
    });

    assert_eq!(sim.run(LIMIT), Outcome::Done, "everybody comes to an end");
    let served = plan.listeners.iter().map(|listener| &*listener.served);
    let load = crew.load.iter().chain(served).map(|load| load.load(Ordering::Relaxed));
    assert_eq!(load.sum::<usize>(), 0, "every connection is counted out");
    assert_eq!(Arc::strong_count(&plan), 1, "no worker holds on to its plan");
    assert_eq!(Arc::strong_count(&plan.names), 1, "nor to one that was made of it");
    for (id, times) in &*told.executed.borrow() {
        assert!(*times == 1 || !id.starts_with("POST"), "{id} was executed {times} times");
    }
    let (answered, executed) = (told.answered.borrow().clone(), told.executed.borrow().clone());
    Run {
        trace: sim.trace_hash(),
        good: told.good(),
        dialogues: told.dialogues.get(),
        refused: told.refused.get(),
        reloads: told.reloads.load(Ordering::Relaxed),
        answered,
        executed,
    }
}

/// A plan, and the sockets of its listeners.
#[derive(Clone)]
struct Edition {
    plan: Arc<Plan>,
    fronts: Vec<ListenSocket>,
}

/// The plan, and others that serve the same requests: with one endpoint or the other, with routes of
/// other names, without the listener that the TCP callers use, and that one by another name.
fn editions(sim: &mut Simulation, loaded: &config::Loaded, plan: &Arc<Plan>) -> Vec<Edition> {
    let fronts: Vec<_> =
        plan.listeners.iter().map(|listener| sim.bind(&listener.address).unwrap()).collect();
    let edition = |plan| Edition { plan, fronts: fronts.clone() };
    let service = &loaded.config.services[1];
    let endpoints = service.source.endpoints();
    let only = |endpoints: &[config::Endpoint]| {
        let set = (service.name.to_string(), endpoints.to_vec());
        plan.with_endpoints(&[set]).unwrap()
    };
    let other = |edit: &dyn Fn(&mut config::Config)| {
        let mut config = loaded.config.clone();
        edit(&mut config);
        Plan::compile(&config, &loaded.hash, 2, Some(plan))
    };
    let renamed = config::parse("test", &CONFIG.replace("name: all", "name: every"), YAML);
    let renamed = renamed.expect("a valid config").config;
    let front =
        config::parse("test", &CONFIG.replace("name: raw, address", "name: bare, address"), YAML);
    let front = front.expect("a valid config").config;
    vec![
        edition(plan.clone()),
        edition(only(&endpoints[..1])),
        edition(only(&endpoints[1..])),
        edition(other(&|config| config.routes = renamed.routes.clone())),
        edition(other(&|config| config.listeners = front.listeners.clone())),
        Edition {
            plan: other(&|config| drop(config.listeners.pop())),
            fronts: fronts[..1].to_vec(),
        },
    ]
}

/// Gives the workers one edition after another, each to each in its own time, and at the end the
/// first.
async fn push(
    reactor: &Reactor,
    told: &Told,
    mailboxes: &[reactor::Sender<Command>],
    editions: &[Edition],
) {
    while !told.draining.get() && told.clients.get() < CLIENTS + WAYS.len() {
        let Edition { plan, fronts } = &editions[reactor.random() as usize % editions.len()];
        for mailbox in mailboxes {
            reactor.sleep(Duration::from_micros(reactor.random() % 20_000)).await;
            let (plan, listeners) = (plan.clone(), fronts.clone());
            let reloads = told.reloads.clone();
            let done = Box::new(move || {
                reloads.fetch_add(1, Ordering::Relaxed);
            });
            let new = NewPlan { plan, listeners, access: None, done };
            let sent = mailbox.send(Command::Apply(Box::new(new)));
            assert!(sent.is_ok() || told.draining.get(), "a worker reads its mail");
        }
    }
}

/// The proxy: workers that share their listeners.
fn spawn_proxy(sim: &mut Simulation, first: &Edition, workers: usize) -> Arc<Crew> {
    let Edition { plan, fronts } = first;
    let (mailboxes, receivers): (Vec<_>, Vec<_>) =
        (0..workers).map(|_| reactor::mailbox(256)).unzip();
    let crew = Arc::new(Crew {
        memory: reactor::Budget::new(plan.limits.memory),
        load: (0..workers).map(|_| CachePadded::default()).collect(),
        mailboxes,
        connections_max: 1000,
        accepting: AtomicUsize::new(0),
    });
    for (index, mailbox) in receivers.into_iter().enumerate() {
        let (plan, crew, listeners) = (plan.clone(), crew.clone(), fronts.clone());
        // Nobody is there to take plans back, so they end with their last user.
        let (home, _) = mpsc::channel();
        let setup = Setup { index, plan, home, crew, mailbox, listeners, access: None };
        sim.spawn_worker(BUFFERS, |reactor| async move {
            worker::serve(reactor.clone(), setup).await;
            nothing_is_left(&reactor).await;
        });
    }
    crew
}

/// After the drain there are no connections, buffers, timers or charges on the worker, and no task
/// but the one that looks.
async fn nothing_is_left(reactor: &Reactor) {
    let nothing = Census { tasks: 1, ..Census::default() };
    let deadline = reactor.now() + Duration::from_secs(30);
    while reactor.now() < deadline && reactor.census() != nothing {
        reactor.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reactor.census(), nothing);
    assert_eq!(reactor.memory_used(), 0);
}

fn drain(told: &Told, mailboxes: &[reactor::Sender<Command>]) {
    if !told.draining.replace(true) {
        for mailbox in mailboxes {
            assert!(mailbox.send(Command::Drain).is_ok());
        }
    }
}

/// What a client is to ask for.
fn requests(reactor: &Reactor, client: usize) -> VecDeque<String> {
    (0..REQUESTS)
        .map(|number| {
            let random = reactor.random();
            let method = ["GET", "GET", "POST", "POST", "PUT", "HEAD"][random as usize % 6];
            format!("{method}-{client}-{number}-{:x}", random >> 32)
        })
        .collect()
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(100),
    }
}

fn on_every_seed(test: &str, property: impl Fn(u64)) {
    for seed in seeds() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(seed))) {
            eprintln!(
                "seed {seed} failed; run it alone:\n    \
                 SEED={seed} cargo test -p ringside --test simulation {test}"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

const CALM: Manner =
    Manner { loses: false, half_closes: true, drains_early: false, tight: false, reloads: false };

/// Every request is answered with its own body, which the clients look at; those whose client left
/// are the only ones without.
#[test]
fn what_must_not_be_visible_is_not() {
    let (good, asked, dialogues) = (Cell::new(0), Cell::new(0), Cell::new(0));
    on_every_seed("what_must_not_be_visible_is_not", |seed| {
        let run = run(seed, Faults::unkind(), CALM);
        good.set(good.get() + run.good);
        asked.set(asked.get() + CLIENTS * REQUESTS);
        dialogues.set(dialogues.get() + run.dialogues);
    });
    let begun = asked.get() / (CLIENTS * REQUESTS) * WAYS.len() * DIALOGUES;
    assert!(dialogues.get() > begun * 3 / 4, "{dialogues:?} of {begun}: few callers leave");
    let (good, asked) = (good.get(), asked.get());
    assert!(good > asked * 3 / 4, "{good} of {asked}: few leave, and few meet a close");
}

#[test]
fn losses_cost_what_they_must_and_no_more() {
    let (good, bad) = (Cell::new(0), Cell::new(0));
    on_every_seed("losses_cost_what_they_must_and_no_more", |seed| {
        let run = run(seed, Faults::hostile(), Manner { loses: true, ..CALM });
        good.set(good.get() + run.good);
        bad.set(bad.get() + run.answered.len() - run.good);
    });
    let is_one = std::env::var_os("SEED").is_some();
    assert!(is_one || good.get() > 0 && bad.get() > 0, "it tests what it says");
}

/// What there is no memory for is refused by name, and nothing else is different.
#[test]
fn without_memory_requests_are_refused_and_nothing_is_lost() {
    let (good, refused) = (Cell::new(0), Cell::new(0));
    on_every_seed("without_memory_requests_are_refused_and_nothing_is_lost", |seed| {
        for (faults, loses) in [(Faults::unkind(), false), (Faults::hostile(), true)] {
            let run = run(seed, faults, Manner { tight: true, loses, ..CALM });
            good.set(good.get() + run.good);
            refused.set(refused.get() + run.refused);
        }
    });
    let is_one = std::env::var_os("SEED").is_some();
    assert!(is_one || good.get() > 0 && refused.get() > 0, "it tests what it says");
}

/// Whatever is begun is finished, and nobody is left hanging.
#[test]
fn a_drain_in_the_middle_ends_in_order() {
    on_every_seed("a_drain_in_the_middle_ends_in_order", |seed| {
        let early = Manner { drains_early: true, ..CALM };
        run(seed, Faults::unkind(), early);
        run(seed, Faults::hostile(), Manner { loses: true, ..early });
    });
}

/// Other configs that serve the same requests are not noticed.
#[test]
fn configs_that_change_are_not_noticed() {
    let (good, reloads_seen) = (Cell::new(0), Cell::new(0));
    on_every_seed("configs_that_change_are_not_noticed", |seed| {
        let reloads = Manner { reloads: true, ..CALM };
        let calm = run(seed, Faults::unkind(), reloads);
        good.set(good.get() + calm.good);
        reloads_seen.set(reloads_seen.get() + calm.reloads);
        run(seed, Faults::hostile(), Manner { loses: true, ..reloads });
        run(seed, Faults::unkind(), Manner { drains_early: true, ..reloads });
    });
    assert!(good.get() > 0 && reloads_seen.get() > 100, "it tests what it says");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let run = |faults, manner| run(seed, faults, manner);
        assert_eq!(run(Faults::unkind(), CALM), run(Faults::unkind(), CALM));
        let hostile = Manner { loses: true, ..CALM };
        assert_eq!(run(Faults::hostile(), hostile), run(Faults::hostile(), hostile));
    }
}

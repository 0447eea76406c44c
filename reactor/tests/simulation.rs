//! Properties of the reactor under faults, over seeds.
//!
//! `SEEDS=5000 cargo test -p reactor --test simulation` runs more of them; a failure prints the
//! command that runs its seed alone.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use reactor::sim::{Chance, Faults, Network, Outcome, Simulation};
use reactor::{
    Address, Buf, BufferOptions, Census, Either, ListenSocket, Listener, Piece, Reactor, Receiver,
    RecvError, RelayEnd, Stream, both, mailbox, race,
};

/// Virtual: a connect that nobody answers alone takes two minutes.
const LIMIT: Duration = Duration::from_secs(3600);
/// Few and small, so that they run out.
const BUFFERS: BufferOptions = BufferOptions { count: 16, size: 512 };

/// Runs `test` with the seeds that the environment asks for, or with 100.
fn for_each_seed(name: &str, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!(
                "to see it again: SEED={seed} cargo test -p reactor --test simulation {name}"
            );
            resume_unwind(panic);
        }
    }
}

fn ip(address: &str) -> Address {
    Address::Ip(address.parse().unwrap())
}

// The world of the properties: clients, optionally a proxy of two workers, and an echo.

/// What became of one client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All that was sent came back, and then the end.
    Whole,
    /// An error told that it did not.
    Broken,
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    ends: Vec<End>,
    trace: u64,
}

const CLIENTS: u64 = 6;

/// Clients send random bytes and compare what comes back, past `proxies` workers that relay.
fn run_world(seed: u64, faults: Faults, proxies: usize) -> Run {
    let mut sim = Simulation::new(seed, faults);
    let origin = sim.bind(&ip("10.9.0.1:80")).unwrap();
    let mut target = origin.address().clone();
    let mut stops = Vec::new();
    let mut stop = || {
        let (sender, receiver) = mailbox::<()>(1);
        stops.push(sender);
        receiver
    };
    let stop_origin = stop();
    sim.spawn_worker(BUFFERS, |reactor| serve(reactor, origin, stop_origin, echo));
    if proxies > 0 {
        let shared = sim.bind(&ip("10.9.0.2:0")).unwrap();
        let upstream = std::mem::replace(&mut target, shared.address().clone());
        for _ in 0..proxies {
            let (shared, upstream, stop) = (shared.clone(), upstream.clone(), stop());
            sim.spawn_worker(BUFFERS, |reactor| {
                serve(reactor, shared, stop, move |reactor, stream| {
                    proxy(reactor, stream, upstream.clone())
                })
            });
        }
    }
    let ends: Rc<RefCell<Vec<End>>> = Rc::default();
    let told = ends.clone();
    sim.spawn_worker(BUFFERS, move |reactor| async move {
        for id in 0..CLIENTS {
            let (reactor_, target, told) = (reactor.clone(), target.clone(), told.clone());
            let rng = Rng::with_seed(seed ^ id << 32);
            reactor.spawn(async move {
                let end = client(&reactor_, &target, rng).await;
                told.borrow_mut().push(end);
            });
        }
        all_tasks_end(&reactor).await;
        drop(stops);
    });
    assert_eq!(sim.run(LIMIT), Outcome::Done);
    let ends = ends.borrow().clone();
    assert_eq!(ends.len() as u64, CLIENTS);
    Run { ends, trace: sim.trace_hash() }
}

/// Serves every connection in a task until `stop` is without senders; then nothing may be left.
async fn serve<F, Fut>(reactor: Reactor, socket: ListenSocket, mut stop: Receiver<()>, with: F)
where
    F: Fn(Reactor, Stream) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut listener = Listener::new(&reactor, socket);
    loop {
        match race(listener.accept(), stop.recv()).await {
            Either::First(Ok(Some(accepted))) => {
                let stream = reactor.adopt(accepted);
                reactor.spawn(with(reactor.clone(), stream));
            }
            // Out of descriptors: the connection waits.
            Either::First(Err(_)) => reactor.sleep(Duration::from_millis(1)).await,
            Either::First(Ok(None)) | Either::Second(_) => break,
        }
    }
    drop(listener);
    all_tasks_end(&reactor).await;
}

/// Waits until only the calling task is left, and no socket, timer or buffer.
async fn all_tasks_end(reactor: &Reactor) {
    let deadline = reactor.now() + LIMIT / 4;
    while reactor.census().tasks > 1 || reactor.census().sockets > 0 {
        assert!(reactor.now() < deadline, "{:?} is left", reactor.census());
        reactor.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reactor.census(), Census { tasks: 1, ..Census::default() }, "nothing leaks");
}

async fn echo(_: Reactor, stream: Stream) {
    loop {
        match stream.recv().await {
            Ok(Some(buf)) => {
                if stream.send([Piece::Buf(buf)]).await.is_err() {
                    return stream.reset_on_close();
                }
            }
            Ok(None) => return stream.shutdown_write(),
            Err(_) => return stream.reset_on_close(),
        }
    }
}

async fn proxy(reactor: Reactor, downstream: Stream, upstream: Address) {
    let Ok(upstream) = reactor.connect(&upstream).await else {
        return downstream.reset_on_close();
    };
    let mut there = pin!(one_way(&downstream, &upstream));
    let mut back = pin!(one_way(&upstream, &downstream));
    let whole = match race(there.as_mut(), back.as_mut()).await {
        Either::First(Ok(())) => back.await,
        Either::Second(Ok(())) => there.await,
        Either::First(broken) | Either::Second(broken) => broken,
    };
    if whole.is_err() {
        downstream.reset_on_close();
        upstream.reset_on_close();
    }
}

async fn one_way(from: &Stream, to: &Stream) -> Result<(), RecvError> {
    let moved = Cell::new(0);
    // In portions, so that every border between relays is met.
    for portion in [1, 1000, u64::MAX] {
        let before = moved.get();
        match from.relay([], to, portion, &moved).await {
            RelayEnd::Complete => assert_eq!(moved.get() - before, portion),
            RelayEnd::Eof => break,
            RelayEnd::Source(why) | RelayEnd::Sink(why) => return Err(why),
        }
    }
    to.shutdown_write();
    Ok(())
}

async fn client(reactor: &Reactor, target: &Address, mut rng: Rng) -> End {
    reactor.sleep(Duration::from_millis(rng.u64(0..20))).await;
    let Ok(stream) = reactor.connect(target).await else { return End::Broken };
    assert_eq!(stream.peer_address().unwrap(), *target);
    let bytes: Vec<u8> = (0..rng.usize(0..60_000)).map(|_| rng.u8(..)).collect();
    let receiving = receive(reactor, &stream, rng.fork(), &bytes);
    let ((taken, sent), (got, received)) = both(send(&stream, rng, &bytes), receiving).await;
    assert!(got <= taken, "nothing is echoed that was not taken");
    match (sent, received) {
        // A client that is told of the end knows that it has all of it, whatever the send said.
        (Ok(()), Ok(())) => {
            assert_eq!((taken, got), (bytes.len(), bytes.len()), "an end is not a reset");
            End::Whole
        }
        _ => End::Broken,
    }
}

/// Sends all in random pieces; returns how many bytes were taken.
async fn send(stream: &Stream, mut rng: Rng, bytes: &[u8]) -> (usize, Result<(), RecvError>) {
    let mut taken = 0;
    while taken < bytes.len() {
        let mut pieces = Vec::new();
        let mut rest = &bytes[taken..];
        for _ in 0..rng.usize(1..12) {
            let (piece, after) = rest.split_at(rng.usize(0..=rest.len().min(5_000)));
            rest = after;
            pieces.push(match rng.bool() {
                true => Piece::Vec(piece.to_vec()),
                false => Piece::Buf(Buf::from_vec(piece.to_vec())),
            });
        }
        let all = bytes.len() - taken - rest.len();
        stream.start_send(pieces);
        assert!(all == 0 || stream.is_sending(), "no send completes within the call");
        if all > 0 {
            // A future that is dropped changes nothing.
            let dropped = race(stream.sent(), std::future::ready(())).await;
            assert_eq!(dropped, Either::Second(()));
        }
        match stream.sent().await {
            Ok(sent) => {
                assert_eq!(sent, all);
                taken += sent;
            }
            Err(error) => {
                assert!(error.sent < all);
                return (taken + error.sent, Err(error.why));
            }
        }
    }
    stream.shutdown_write();
    (taken, Ok(()))
}

/// Receives until the end, comparing; returns how many bytes came.
async fn receive(
    reactor: &Reactor,
    stream: &Stream,
    mut rng: Rng,
    expected: &[u8],
) -> (usize, Result<(), RecvError>) {
    let mut got = 0;
    loop {
        if rng.u8(0..20) == 0 {
            reactor.sleep(Duration::from_micros(rng.u64(0..3_000))).await;
        }
        let soon = reactor.now() + Duration::from_micros(rng.u64(0..2_000));
        let received = match rng.u8(0..4) {
            0 => reactor.timeout_at(soon, stream.recv()).await,
            1 => {
                stream.readable().await;
                Some(stream.recv().await)
            }
            _ => Some(stream.recv().await),
        };
        let mut buf = match received {
            None => continue,
            Some(Ok(Some(buf))) => buf,
            Some(Ok(None)) => return (got, Ok(())),
            Some(Err(why)) => return (got, Err(why)),
        };
        if rng.bool() {
            let head = buf.split_to(rng.usize(0..=buf.len()));
            stream.unrecv(std::mem::replace(&mut buf, head));
        }
        assert!(expected[got..].starts_with(&buf), "what comes back was sent, and in this order");
        got += buf.len();
    }
}

#[test]
fn echoes_come_back_whole_however_unkind_the_kernel() {
    for_each_seed("echoes_come_back_whole", |seed| {
        let run = run_world(seed, Faults::unkind(), 0);
        assert!(run.ends.iter().all(|end| *end == End::Whole), "{run:?}");
    });
}

#[test]
fn relays_bring_everything_over_however_unkind_the_kernel() {
    for_each_seed("relays_bring_everything", |seed| {
        let run = run_world(seed, Faults::unkind(), 2);
        assert!(run.ends.iter().all(|end| *end == End::Whole), "{run:?}");
    });
}

#[test]
fn what_is_not_whole_says_so() {
    let (whole, broken) = (Cell::new(0), Cell::new(0));
    for_each_seed("what_is_not_whole_says_so", |seed| {
        for end in run_world(seed, Faults::hostile(), (seed % 3) as usize).ends {
            let count = if end == End::Whole { &whole } else { &broken };
            count.set(count.get() + 1);
        }
    });
    let one_seed = std::env::var_os("SEED").is_some();
    let both_happen = whole.get() > 0 && broken.get() > 0;
    assert!(one_seed || both_happen, "{whole:?} {broken:?}: it tests what it says");
}

#[test]
fn starving_all_the_time_loses_nothing() {
    let faults = || Faults {
        out_of_buffers: Chance::per_mille(600),
        ended_receive: Chance::per_mille(600),
        late: Chance::per_mille(800),
        ..Faults::unkind()
    };
    for_each_seed("starving_all_the_time", |seed| {
        let run = run_world(seed, faults(), 1);
        assert!(run.ends.iter().all(|end| *end == End::Whole), "{run:?}");
    });
}

#[test]
fn a_seed_is_a_run() {
    for_each_seed("a_seed_is_a_run", |seed| {
        let run = run_world(seed, Faults::hostile(), 2);
        assert_eq!(run, run_world(seed, Faults::hostile(), 2));
        assert_ne!(run.trace, run_world(seed + 1, Faults::hostile(), 2).trace);
    });
}

/// Streams are dropped, relays and connects cut off, in every state that the seed comes by.
#[test]
fn cutting_off_anywhere_leaks_nothing() {
    for_each_seed("cutting_off_anywhere", |seed| {
        let mut sim = Simulation::new(seed, Faults::hostile());
        let network = sim.network();
        sim.spawn_worker(BUFFERS, move |reactor| async move {
            for id in 0..20 {
                let socket = network.bind(&ip("127.0.0.1:0")).unwrap();
                let (reactor_, mut rng) = (reactor.clone(), Rng::with_seed(seed << 8 | id));
                reactor.spawn(async move {
                    let cut = reactor_.now() + Duration::from_micros(rng.u64(0..3_000));
                    reactor_.timeout_at(cut, busy(&reactor_, socket, rng)).await;
                });
            }
            all_tasks_end(&reactor).await;
        });
        assert_eq!(sim.run(LIMIT), Outcome::Done);
    });
}

/// Something of everything, until an error or the caller ends it.
async fn busy(reactor: &Reactor, socket: ListenSocket, mut rng: Rng) -> io::Result<()> {
    let address = socket.address().clone();
    let mut listener = Listener::new(reactor, socket);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (accepted, connected) = both(listener.accept(), reactor.connect(&address)).await;
        let connected = connected?;
        if let Ok(Some(accepted)) = accepted {
            streams.push((reactor.adopt(accepted), connected));
        }
    }
    listener.stop();
    let [(source, feeder), (sink, reader)] = &streams[..] else { return Ok(()) };
    let moved = Cell::new(0);
    loop {
        feeder.start_send([Piece::Vec(vec![7; rng.usize(1..20_000)])]);
        let soon = reactor.now() + Duration::from_micros(rng.u64(0..2_000));
        let relay = source.relay([], sink, rng.u64(..30_000), &moved);
        reactor.timeout_at(soon, both(relay, reader.recv())).await;
        if feeder.sent().await.is_err() || sink.is_sending() {
            return Ok(());
        }
    }
}

// Single facts of the simulated network.

/// Runs one worker in a network with these faults.
fn on_one_worker<Fut>(faults: Faults, main: impl FnOnce(Reactor, Network) -> Fut) -> Outcome
where
    Fut: Future<Output = ()> + 'static,
{
    let mut sim = Simulation::new(1, faults);
    let network = sim.network();
    sim.spawn_worker(BUFFERS, |reactor| main(reactor, network));
    sim.run(LIMIT)
}

#[test]
fn nobody_waits_for_a_connect_that_is_not_answered() {
    let faults = Faults { unanswered: Chance::per_mille(1000), ..Faults::none() };
    let outcome = on_one_worker(faults, |reactor, network| async move {
        let socket = network.bind(&ip("[::]:80")).unwrap();
        let before = reactor.now();
        let error = reactor.connect(socket.address()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!((reactor.now() - before).as_secs(), 127);
    });
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn a_reset_takes_what_was_not_read() {
    let outcome = on_one_worker(Faults::none(), |reactor, network| async move {
        let socket = network.bind(&ip("0.0.0.0:80")).unwrap();
        let mut listener = Listener::new(&reactor, socket);
        let (accepted, client) = both(listener.accept(), reactor.connect(&ip("10.1.1.1:80"))).await;
        let (server, client) = (reactor.adopt(accepted.unwrap().unwrap()), client.unwrap());
        assert_eq!(server.peer_address().unwrap().ip().unwrap().ip().to_string(), "10.0.0.1");
        client.send([Piece::Static(b"lost")]).await.unwrap();
        reactor.sleep(Duration::from_millis(1)).await;
        client.reset_on_close();
        drop(client);
        reactor.sleep(Duration::from_millis(1)).await;
        assert_eq!(server.recv().await.map(|_| ()), Err(RecvError::Reset));
    });
    assert_eq!(outcome, Outcome::Done);
}

/// The kernel tells of a reset once. If a send was told, what a relay finds looks like an end.
#[test]
fn a_reset_that_a_send_was_told_of_ends_no_relay_in_order() {
    let outcome = on_one_worker(Faults::none(), |reactor, network| async move {
        let socket = network.bind(&ip("127.0.0.1:0")).unwrap();
        let address = socket.address().clone();
        let mut listener = Listener::new(&reactor, socket);
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let (accepted, connected) = both(listener.accept(), reactor.connect(&address)).await;
            pairs.push((reactor.adopt(accepted.unwrap().unwrap()), connected.unwrap()));
        }
        let (sink, _reader) = pairs.pop().unwrap();
        let (source, peer) = pairs.pop().unwrap();
        peer.reset_on_close();
        drop(peer);
        reactor.sleep(Duration::from_millis(1)).await;
        assert_eq!(source.send([Piece::Static(b"x")]).await.unwrap_err().why, RecvError::Reset);
        let end = source.relay([], &sink, u64::MAX, &Cell::new(0)).await;
        assert_eq!(end, RelayEnd::Source(RecvError::Reset));
    });
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    let outcome = on_one_worker(Faults::none(), |reactor, network| async move {
        let socket = network.bind(&Address::Unix("/simulated".into())).unwrap();
        let address = socket.address().clone();
        let mut listener = Listener::new(&reactor, socket);
        let (accepted, client) = both(listener.accept(), reactor.connect(&address)).await;
        let client = client.unwrap();
        client.send([Piece::Static(b"unread")]).await.unwrap();
        reactor.sleep(Duration::from_millis(1)).await;
        drop(accepted);
        assert_eq!(client.recv().await.map(|_| ()), Err(RecvError::Reset));
    });
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn an_address_is_taken_once() {
    let sim = Simulation::new(1, Faults::none());
    let first = sim.bind(&ip("127.0.0.1:80")).unwrap();
    let error = sim.bind(&ip("127.0.0.1:80")).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert!(sim.bind(&ip("127.0.0.1:80")).is_ok());
}

#[test]
fn a_run_says_how_it_ended() {
    let mut sim = Simulation::new(1, Faults::none());
    sim.spawn_worker(BUFFERS, |reactor| async move {
        reactor.sleep(Duration::from_secs(10)).await;
        std::future::pending().await
    });
    let start = sim.now();
    assert_eq!(sim.run(Duration::from_secs(5)), Outcome::TimeOver);
    assert_eq!(sim.now() - start, Duration::from_secs(5));
    assert_eq!(sim.run(LIMIT), Outcome::Stuck);
}

#[test]
#[should_panic(expected = "one send in flight")]
fn two_sends_at_a_time_are_a_mistake() {
    on_one_worker(Faults::none(), |reactor, network| async move {
        let socket = network.bind(&ip("127.0.0.1:0")).unwrap();
        let stream = reactor.connect(socket.address()).await.unwrap();
        stream.start_send([Piece::Static(b"first")]);
        stream.start_send([Piece::Static(b"second")]);
    });
}

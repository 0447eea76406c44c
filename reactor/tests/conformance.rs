//! What every driver must do: on real sockets, and in the simulated network.
//!
//! Each test is run on io_uring, on epoll, and in the simulator: there once as kindly as it can be
//! and once with every fault that must not be seen. A machine that forbids io_uring fails the first:
//! the suite never skips.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use reactor::sim::{Faults, Network, Outcome, Simulation};
use reactor::{
    Address, Backend, BufferOptions, Census, Either, Instant, ListenSocket, Listener, Options,
    Piece, Reactor, RecvError, RelayEnd, Stream, both, race,
};

const LIMIT: Duration = Duration::from_secs(20);

/// What a test runs on.
#[derive(Clone, Copy)]
struct Setup {
    driver: Driver,
    buffers: BufferOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Real(Backend),
    /// Without faults.
    Simulated,
    /// With those that must not be seen, drawn from this seed.
    SimulatedUnkindly(u64),
}

impl Driver {
    fn setup(self) -> Setup {
        Setup { driver: self, buffers: BufferOptions::default() }
    }
}

/// A worker, and the network that it listens in.
struct Host {
    reactor: Reactor,
    network: Option<Network>,
}

impl Deref for Host {
    type Target = Reactor;

    fn deref(&self) -> &Reactor {
        &self.reactor
    }
}

impl Host {
    fn bind(&self, address: &Address) -> ListenSocket {
        match &self.network {
            Some(network) => network.bind(address).unwrap(),
            None => ListenSocket::bind(address).unwrap(),
        }
    }

    fn loopback(&self) -> ListenSocket {
        self.bind(&Address::Ip("127.0.0.1:0".parse().unwrap()))
    }
}

/// Runs `test` under a time limit, then asserts that nothing of it is left.
fn run<F, Fut>(setup: Setup, test: F)
where
    F: FnOnce(Host) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    match setup.driver {
        Driver::Real(backend) => {
            let options = Options { backend, buffers: setup.buffers, seed: 1 };
            let host = |reactor| Host { reactor, network: None };
            reactor::run(options, |reactor| supervise(host(reactor), test)).unwrap();
        }
        Driver::Simulated => simulate(setup, 1, Faults::none(), test),
        Driver::SimulatedUnkindly(seed) => simulate(setup, seed, Faults::unkind(), test),
    }
}

fn simulate<F, Fut>(setup: Setup, seed: u64, faults: Faults, test: F)
where
    F: FnOnce(Host) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut sim = Simulation::new(seed, faults);
    let network = Some(sim.network());
    sim.spawn_worker(setup.buffers, |reactor| supervise(Host { reactor, network }, test));
    assert_eq!(sim.run(2 * LIMIT), Outcome::Done);
}

async fn supervise<F, Fut>(host: Host, test: F)
where
    F: FnOnce(Host) -> Fut,
    Fut: Future<Output = ()>,
{
    let reactor = host.reactor.clone();
    let deadline = reactor.now() + LIMIT;
    let done = reactor.timeout_at(deadline, test(host)).await;
    assert!(done.is_some(), "the test ended in time");
    let mut census = reactor.census();
    while census.sockets > 0 && reactor.now() < deadline {
        reactor.sleep(Duration::from_millis(1)).await;
        census = reactor.census();
    }
    assert_eq!(census, Census { tasks: 1, ..Census::default() }, "nothing leaks");
}

macro_rules! on_each_driver {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            use super::{Backend, Driver};
            $(#[test] fn $name() { super::$name(Driver::Real(Backend::IoUring).setup()); })*
        }
        mod epoll {
            use super::{Backend, Driver};
            $(#[test] fn $name() { super::$name(Driver::Real(Backend::Epoll).setup()); })*
        }
        mod sim {
            use super::Driver;
            $(#[test] fn $name() { super::$name(Driver::Simulated.setup()); })*
        }
        mod sim_unkind {
            use super::Driver;
            $(#[test] fn $name() {
                for seed in 0..10 {
                    super::$name(Driver::SimulatedUnkindly(seed).setup());
                }
            })*
        }
    };
}

on_each_driver! {
    echoes_over_tcp_and_unix,
    a_large_transfer_arrives_whole_and_in_order,
    half_close_in_both_directions,
    a_stalled_reader_bounds_what_arrives,
    data_waits_for_a_reader_that_comes_late,
    a_dropped_receive_loses_nothing,
    a_reset_is_not_an_end_of_stream,
    a_reset_that_a_send_met_is_not_an_end_of_stream,
    a_reset_that_a_look_met_is_not_an_end_of_stream,
    a_reset_that_a_relay_met_is_not_an_end_of_stream,
    an_end_before_a_reset_stays_an_end,
    a_receive_that_nobody_waits_for_goes_on,
    refused_connections_say_so,
    memory_of_a_send_outlives_its_stream,
    out_of_buffers_loses_nothing_and_does_not_spin,
    relays_exactly_the_bytes_asked_for,
    a_relay_holds_nothing_back,
    relays_until_the_end_and_half_closes,
    a_relay_is_alone_with_its_source,
    timers_fire_in_order_and_timeouts_cut,
    letters_come_from_other_threads,
    a_busy_task_lets_others_run,
    a_quiet_connection_notices_its_end,
    a_stopped_listener_hands_out_what_it_accepted,
    many_pieces_go_out_in_order,
    dropping_in_every_state_leaks_nothing,
}

/// A connected pair: the accepted end and the connecting one.
async fn pair(host: &Host) -> (Stream, Stream) {
    pair_on(host, host.loopback()).await
}

async fn pair_on(reactor: &Reactor, socket: ListenSocket) -> (Stream, Stream) {
    let address = socket.address().clone();
    let mut listener = Listener::new(reactor, socket);
    let (accepted, connected) = both(listener.accept(), reactor.connect(&address)).await;
    let accepted = reactor.adopt(accepted.unwrap().unwrap());
    (accepted, connected.unwrap())
}

fn vec(bytes: impl Into<Vec<u8>>) -> [Piece; 1] {
    [Piece::Vec(bytes.into())]
}

async fn recv_exactly(stream: &Stream, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < len {
        got.extend_from_slice(&stream.recv().await.unwrap().expect("more comes"));
    }
    assert_eq!(got.len(), len);
    got
}

/// Closes with a reset.
fn reset(stream: Stream) {
    stream.reset_on_close();
}

/// How many bytes it was.
async fn recv_at_least(stream: &Stream, len: usize) -> usize {
    let mut got = 0;
    while got < len {
        got += stream.recv().await.unwrap().expect("more comes").len();
    }
    got
}

async fn recv_all(stream: &Stream) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(buf) = stream.recv().await.unwrap() {
        got.extend_from_slice(&buf);
    }
    got
}

/// Bytes that tell their position.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

fn echoes_over_tcp_and_unix(setup: Setup) {
    run(setup, move |reactor| async move {
        let dir = std::env::temp_dir();
        let name = format!("ringside-{}-{:?}", std::process::id(), setup.driver);
        let addresses = [
            Address::Ip("127.0.0.1:0".parse().unwrap()),
            Address::Ip("[::1]:0".parse().unwrap()),
            Address::Unix(dir.join(&name)),
            Address::Abstract(name),
        ];
        for address in addresses {
            let socket = reactor.bind(&address);
            let (server, client) = pair_on(&reactor, socket).await;
            for round in 0..100u8 {
                client.send(vec([round; 100])).await.unwrap();
                let got = recv_exactly(&server, 100).await;
                assert_eq!(server.send(vec(got)).await, Ok(100));
                assert_eq!(recv_exactly(&client, 100).await, [round; 100]);
            }
            if let (Driver::Real(_), Address::Unix(path)) = (setup.driver, address) {
                std::fs::remove_file(path).unwrap();
            }
        }
    });
}

fn a_large_transfer_arrives_whole_and_in_order(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        let all = pattern(8 << 20);
        let sender = async {
            assert_eq!(client.send(vec(all.clone())).await, Ok(all.len()));
            client.shutdown_write();
        };
        let (_, got) = both(sender, recv_all(&server)).await;
        assert!(got == all);
    });
}

fn half_close_in_both_directions(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        client.send(vec("question")).await.unwrap();
        client.shutdown_write();
        assert_eq!(recv_all(&server).await, b"question");
        server.send(vec("answer")).await.unwrap();
        server.shutdown_write();
        assert_eq!(recv_all(&client).await, b"answer");
        assert!(client.recv().await.unwrap().is_none(), "an end stays an end");
    });
}

fn a_stalled_reader_bounds_what_arrives(setup: Setup) {
    run(setup, move |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.set_high_water(10_000);
        server.arm();
        let all = pattern(16 << 20);
        client.start_send(vec(all.clone()));
        reactor.sleep(Duration::from_millis(50)).await;
        assert!(client.is_sending(), "nobody reads, so not all is taken");
        let held = reactor.census().buffers;
        // Short receives fill buffers with less.
        let full = !matches!(setup.driver, Driver::SimulatedUnkindly(_));
        assert!(!full || held <= 10_000 / 2048 + 2, "{held} buffers are held");
        assert!(recv_exactly(&server, all.len()).await == all);
        client.sent().await.unwrap();
    });
}

fn data_waits_for_a_reader_that_comes_late(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.arm();
        client.send(vec("early")).await.unwrap();
        client.shutdown_write();
        server.readable().await;
        assert!(!server.is_quiet());
        assert_eq!(recv_all(&server).await, b"early");
    });
}

fn a_dropped_receive_loses_nothing(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        for _ in 0..100 {
            let soon = reactor.now() + Duration::from_millis(1);
            assert!(reactor.timeout_at(soon, server.recv()).await.is_none());
            client.send(vec("x")).await.unwrap();
            let got = server.recv().await.unwrap().unwrap();
            assert_eq!(&*got, b"x");
            server.unrecv(got);
            assert_eq!(recv_exactly(&server, 1).await, b"x", "what is given back comes first");
        }
    });
}

fn a_reset_is_not_an_end_of_stream(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.reset_on_close();
        drop(server);
        let end = loop {
            match client.recv().await {
                Ok(Some(_)) => {}
                end => break end.map(|_| ()),
            }
        };
        assert_eq!(end, Err(RecvError::Reset));
        let sent = client.send(vec("more")).await;
        assert_eq!(sent.unwrap_err().sent, 0);
    });
}

/// The kernel tells of a reset once; whoever asks after that is told of an end.
fn a_reset_that_a_send_met_is_not_an_end_of_stream(setup: Setup) {
    run(setup, |reactor| async move {
        for round in 0..4 {
            let (server, client) = pair(&reactor).await;
            if round % 2 == 0 {
                client.arm();
            }
            client.start_send(vec(vec![7; 16 << 20]));
            recv_at_least(&server, 1).await;
            reactor.sleep(Duration::from_millis(2)).await;
            reset(server);
            let failed = client.sent().await.unwrap_err();
            assert_eq!(failed.why, RecvError::Reset);
            assert_eq!(client.recv().await.map(|_| ()), Err(RecvError::Reset));
        }
    });
}

fn a_reset_that_a_look_met_is_not_an_end_of_stream(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        reset(server);
        while client.is_quiet_now() {
            reactor.yield_now().await;
        }
        assert_eq!(client.recv().await.map(|_| ()), Err(RecvError::Reset));
    });
}

fn a_reset_that_a_relay_met_is_not_an_end_of_stream(setup: Setup) {
    run(setup, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        feeder.start_send(vec(vec![7; 16 << 20]));
        let moved = Cell::new(0);
        let relay = source.relay([], &sink, u64::MAX, &moved);
        let cut = async {
            recv_at_least(&reader, 1).await;
            reset(reader);
        };
        let (end, ()) = both(relay, cut).await;
        assert_eq!(end, RelayEnd::Sink(RecvError::Reset));
        assert_eq!(sink.recv().await.map(|_| ()), Err(RecvError::Reset));
    });
}

fn an_end_before_a_reset_stays_an_end(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.send(vec("all there is")).await.unwrap();
        server.shutdown_write();
        reactor.sleep(Duration::from_millis(200)).await;
        drop(server);
        // The peer is gone, so what is sent is answered with a reset, sooner or later.
        while client.send(vec("unwanted")).await.is_ok() {
            reactor.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(recv_all(&client).await, b"all there is");
    });
}

fn a_receive_that_nobody_waits_for_goes_on(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.arm();
        for _ in 0..30 {
            client.send(vec("x")).await.unwrap();
            reactor.sleep(Duration::from_millis(1)).await;
        }
        client.shutdown_write();
        reactor.sleep(Duration::from_millis(500)).await;
        // What arrived is in the loop's hands: it is taken without going to the kernel again.
        let before = reactor.driver_stats().enters;
        assert_eq!(recv_exactly(&server, 30).await, [b'x'; 30]);
        assert_eq!(reactor.driver_stats().enters, before);
    });
}

fn refused_connections_say_so(setup: Setup) {
    run(setup, |reactor| async move {
        let address = reactor.loopback().address().clone();
        let error = reactor.connect(&address).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let nowhere = Address::Unix("/nonexistent/socket".into());
        let error = reactor.connect(&nowhere).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

fn memory_of_a_send_outlives_its_stream(setup: Setup) {
    run(setup, |reactor| async move {
        for _ in 0..20 {
            let (server, client) = pair(&reactor).await;
            client.start_send(vec(pattern(4 << 20)));
            // Under way, and the rest with the kernel, when its stream is dropped …
            let before = recv_at_least(&server, 1 << 10).await;
            for _ in 0..10 {
                reactor.yield_now().await;
            }
            drop(client);
            // … and others want memory.
            drop(std::hint::black_box(vec![0xff_u8; 4 << 20]));
            // Whatever arrives is the pattern: the memory was not given to anybody else.
            let mut got = Vec::new();
            while let Ok(Some(buf)) = server.recv().await {
                got.extend_from_slice(&buf);
            }
            let all = pattern(4 << 20);
            assert!(got == all[before..before + got.len()]);
        }
    });
}

fn out_of_buffers_loses_nothing_and_does_not_spin(setup: Setup) {
    let buffers = BufferOptions { count: 4, size: 256 };
    run(Setup { buffers, ..setup }, |reactor| async move {
        let mut pairs = Vec::new();
        for _ in 0..32 {
            pairs.push(pair(&reactor).await);
        }
        for (server, client) in &pairs {
            server.arm();
            client.send(vec(pattern(1_000))).await.unwrap();
        }
        // Nobody reads for a while.
        reactor.sleep(Duration::from_millis(20)).await;
        let before = reactor.driver_stats();
        reactor.sleep(Duration::from_millis(20)).await;
        let after = reactor.driver_stats();
        assert!(after.enters - before.enters < 100, "it spins: {before:?} {after:?}");
        for (server, _) in &pairs {
            assert!(recv_exactly(server, 1_000).await == pattern(1_000));
        }
    });
}

fn relays_exactly_the_bytes_asked_for(setup: Setup) {
    run(setup, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        for len in [1usize, 100, 20_000, 1 << 20] {
            let all = pattern(len);
            let moved = Cell::new(0);
            let feed = async {
                let rest = [Piece::Vec(all.clone()), Piece::Static(b"next")];
                feeder.send(rest).await.unwrap();
            };
            let relay = source.relay([], &sink, len as u64, &moved);
            let ((_, end), got) = both(both(feed, relay), recv_exactly(&reader, len)).await;
            assert_eq!((end, moved.get()), (RelayEnd::Complete, len as u64));
            assert!(got == all);
            assert_eq!(recv_exactly(&source, 4).await, b"next", "the rest stays behind");
        }
    });
}

fn a_relay_holds_nothing_back(setup: Setup) {
    run(setup, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        let moved = Cell::new(0);
        let trips = async {
            let begun = reactor.clock();
            for _ in 0..20 {
                feeder.send(vec(pattern(5_000))).await.unwrap();
                recv_exactly(&reader, 5_000).await;
            }
            reactor.clock() - begun
        };
        match race(source.relay([], &sink, u64::MAX, &moved), trips).await {
            Either::First(end) => panic!("the relay ended: {end:?}"),
            // The kernel holds back what it is told is not all yet: for 200 ms, each time.
            Either::Second(took) => assert!(took < Duration::from_secs(1), "{took:?}"),
        }
    });
}

fn relays_until_the_end_and_half_closes(setup: Setup) {
    run(setup, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        let all = pattern(3 << 20);
        let feed = async {
            feeder.send(vec(all.clone())).await.unwrap();
            feeder.shutdown_write();
        };
        let moved = Cell::new(0);
        let relay = async {
            let end = source.relay([], &sink, u64::MAX, &moved).await;
            sink.shutdown_write();
            end
        };
        let ((_, end), got) = both(both(feed, relay), recv_all(&reader)).await;
        assert_eq!((end, moved.get()), (RelayEnd::Eof, all.len() as u64));
        assert!(got == all);
    });
}

fn a_relay_is_alone_with_its_source(setup: Setup) {
    run(setup, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        let all = pattern(100_000);
        let feed = async {
            for part in all.chunks(10_000) {
                feeder.send(vec(part)).await.unwrap();
                reactor.sleep(Duration::from_millis(1)).await;
            }
        };
        let moved = Cell::new(0);
        // Who waits for the source's end must not begin to receive in the middle of it.
        let relay = async {
            let relay = source.relay([], &sink, all.len() as u64, &moved);
            race(relay, source.ended()).await
        };
        let ((_, end), got) = both(both(feed, relay), recv_exactly(&reader, all.len())).await;
        assert_eq!(end, Either::First(RelayEnd::Complete));
        assert!(got == all);
        // Afterwards it may, and does.
        let (end, ()) = both(source.ended(), async { feeder.shutdown_write() }).await;
        assert_eq!(end, Ok(()));
    });
}

fn timers_fire_in_order_and_timeouts_cut(setup: Setup) {
    run(setup, |reactor| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = reactor.now();
        for ms in [30u64, 5, 20, 10] {
            let (reactor_, order) = (reactor.clone(), order.clone());
            reactor.spawn(async move {
                reactor_.sleep_until(start + Duration::from_millis(ms)).await;
                assert!(reactor_.now() - start >= Duration::from_millis(ms), "never early");
                order.borrow_mut().push(ms);
            });
        }
        reactor.sleep_until(start + Duration::from_millis(40)).await;
        assert_eq!(*order.borrow(), [5, 10, 20, 30]);
        let never = std::future::pending::<()>();
        let soon = reactor.now() + Duration::from_millis(2);
        assert!(reactor.timeout_at(soon, never).await.is_none());
        assert_eq!(reactor.timeout_at(Instant::FAR, async { 7 }).await, Some(7));
    });
}

const LETTERS: u32 = 10_000;

fn letters_come_from_other_threads(setup: Setup) {
    match setup.driver {
        Driver::Real(_) => letters_from_threads(setup),
        Driver::Simulated => letters_from_workers(1, Faults::none()),
        Driver::SimulatedUnkindly(seed) => letters_from_workers(seed, Faults::unkind()),
    }
}

fn letters_from_threads(setup: Setup) {
    run(setup, |_| async move {
        let (sender, receiver) = reactor::mailbox(16);
        let threads: Vec<_> = (0..2u32)
            .map(|id| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for n in 0..LETTERS {
                        let mut letter = (id, n);
                        while let Err(back) = sender.send(letter) {
                            letter = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        receive_letters(receiver).await;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// The simulator has one thread, and its workers write to each other.
fn letters_from_workers(seed: u64, faults: Faults) {
    let mut sim = Simulation::new(seed, faults);
    let (sender, receiver) = reactor::mailbox(16);
    for id in 0..2u32 {
        let sender = sender.clone();
        sim.spawn_worker(BufferOptions::default(), move |reactor| async move {
            for n in 0..LETTERS {
                let mut letter = (id, n);
                while let Err(back) = sender.send(letter) {
                    letter = back;
                    reactor.yield_now().await;
                }
            }
        });
    }
    drop(sender);
    sim.spawn_worker(BufferOptions::default(), |_| receive_letters(receiver));
    assert_eq!(sim.run(LIMIT), Outcome::Done);
}

async fn receive_letters(mut receiver: reactor::Receiver<(u32, u32)>) {
    let mut next = [0u32; 2];
    while let Some((id, n)) = receiver.recv().await {
        assert_eq!(n, next[id as usize], "in order");
        next[id as usize] += 1;
    }
    assert_eq!(next, [LETTERS; 2]);
}

fn a_busy_task_lets_others_run(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        let stop = Rc::new(Cell::new(false));
        let stopping = stop.clone();
        let reactor_ = reactor.clone();
        reactor.spawn(async move {
            while !stopping.get() {
                reactor_.yield_now().await;
            }
        });
        client.send(vec("through")).await.unwrap();
        assert_eq!(recv_exactly(&server, 7).await, b"through");
        stop.set(true);
        reactor.yield_now().await;
        reactor.yield_now().await;
    });
}

fn a_quiet_connection_notices_its_end(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        client.arm();
        assert!(client.is_quiet() && client.is_quiet_now());
        server.shutdown_write();
        // The kernel knows at once, whether or not the loop has been told.
        while client.is_quiet_now() {
            reactor.yield_now().await;
        }
        client.readable().await;
        assert!(!client.is_quiet());
        assert!(client.recv().await.unwrap().is_none());
    });
}

fn a_stopped_listener_hands_out_what_it_accepted(setup: Setup) {
    run(setup, |reactor| async move {
        let socket = reactor.loopback();
        let address = socket.address().clone();
        let mut listener = Listener::new(&reactor, socket);
        let mut clients = vec![reactor.connect(&address).await.unwrap()];
        let first = listener.accept().await.unwrap().unwrap();
        for _ in 0..5 {
            clients.push(reactor.connect(&address).await.unwrap());
        }
        listener.stop();
        let mut accepted = vec![first];
        while let Some(next) = listener.accept().await.unwrap() {
            accepted.push(next);
        }
        while let Some(next) = listener.sweep() {
            accepted.push(next);
        }
        assert_eq!(accepted.len(), 6, "no connection that was made is lost");
        drop(listener);
        assert!(reactor.connect(&address).await.is_err(), "now it is closed");
    });
}

fn many_pieces_go_out_in_order(setup: Setup) {
    run(setup, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        let pieces = (0..40u8).map(|n| match n % 3 {
            0 => Piece::Static(b"static"),
            1 => Piece::Vec(vec![n; usize::from(n) * 500]),
            _ => Piece::Buf(reactor::Buf::from_vec(vec![n; usize::from(n)])),
        });
        let expected: Vec<u8> = (0..40u8)
            .flat_map(|n| match n % 3 {
                0 => b"static".to_vec(),
                1 => vec![n; usize::from(n) * 500],
                _ => vec![n; usize::from(n)],
            })
            .collect();
        let (sent, got) = both(client.send(pieces), recv_exactly(&server, expected.len())).await;
        assert_eq!(sent, Ok(expected.len()));
        assert!(got == expected);
        assert_eq!(client.send([]).await, Ok(0));
    });
}

fn dropping_in_every_state_leaks_nothing(setup: Setup) {
    run(setup, |reactor| async move {
        // Connecting to an address that never answers (the backlog of a listener that never
        // accepts fills up only on Unix sockets, so: a connect that is dropped at once).
        let socket = reactor.loopback();
        let address = socket.address().clone();
        for _ in 0..50 {
            let now = reactor.now();
            drop(reactor.timeout_at(now, reactor.connect(&address)).await);
        }
        let (server, client) = pair(&reactor).await;
        let moved = Cell::new(0);
        let soon = reactor.now() + Duration::from_millis(5);
        let cut = reactor.timeout_at(soon, server.relay([], &client, 100, &moved)).await;
        assert!(cut.is_none(), "nothing to relay");
        drop((server, client));
        let mut listener = Listener::new(&reactor, socket);
        let soon = reactor.now() + Duration::from_millis(5);
        while reactor.timeout_at(soon, listener.accept()).await.is_some() {}
    });
}

/// For a peer that reads nothing the kernel would take megabytes, of what all sockets share.
#[test]
fn the_kernel_holds_little_for_a_stalled_reader() {
    for backend in [Backend::IoUring, Backend::Epoll] {
        run(Driver::Real(backend).setup(), |reactor| async move {
            let (server, client) = pair(&reactor).await;
            // Accepted and connected ones alike.
            for stream in [&server, &client] {
                let mut taken = 0;
                loop {
                    stream.start_send(vec(pattern(32 << 10)));
                    let soon = reactor.now() + Duration::from_millis(100);
                    let Some(sent) = reactor.timeout_at(soon, stream.sent()).await else { break };
                    taken += sent.unwrap();
                }
                assert!((64 << 10..768 << 10).contains(&taken), "{taken} bytes");
            }
        });
    }
}

/// A send and a receive of each of so many in one turn: io_uring's completion queue has room for 2,048.
#[test]
fn more_completions_than_the_queue_has_room_for_lose_nothing() {
    const PAIRS: usize = 1_500;
    reactor::raise_descriptor_limit().unwrap();
    for backend in [Backend::IoUring, Backend::Epoll] {
        run(Driver::Real(backend).setup(), |reactor| async move {
            let mut pairs = Vec::new();
            for _ in 0..PAIRS {
                pairs.push(pair(&reactor).await);
            }
            for round in 0..3u8 {
                for (server, client) in &pairs {
                    server.arm();
                    client.start_send(vec([round; 100]));
                }
                for (server, client) in &pairs {
                    assert_eq!(recv_exactly(server, 100).await, [round; 100]);
                    assert_eq!(client.sent().await, Ok(100));
                }
            }
        });
    }
}

/// Speaks and closes before the one who connects has looked: to epoll that is one edge.
#[test]
fn an_end_that_comes_with_the_connection_is_an_end() {
    use std::io::Write;
    run(Driver::Real(Backend::Epoll).setup(), |reactor| async move {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        let speaker = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(b"banner").unwrap();
        });
        let mut connecting = std::pin::pin!(reactor.connect(&address));
        let begun = reactor.timeout_at(reactor.now(), connecting.as_mut()).await;
        // The loop does not go to the kernel before all is over.
        speaker.join().unwrap();
        let stream = match begun {
            Some(connected) => connected,
            None => connecting.await,
        };
        assert_eq!(recv_all(&stream.unwrap()).await, b"banner");
    });
}

/// An echo server on a thread of its own, for one connection.
fn echo_thread() -> Address {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Ip(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut buf = [0; 100];
        while let Ok(len @ 1..) = stream.read(&mut buf) {
            stream.write_all(&buf[..len]).unwrap();
        }
    });
    address
}

/// With io_uring, a send that nobody waits for does not end the wait for the answer, not even beside
/// a send that waits for room.
#[test]
fn a_round_trip_is_one_turn() {
    const TRIPS: u64 = 500;
    run(Driver::Real(Backend::IoUring).setup(), |reactor| async move {
        let (full, _reader) = pair(&reactor).await;
        full.start_send(vec(vec![0; 64 << 20]));
        let stream = reactor.connect(&echo_thread()).await.unwrap();
        let before = reactor.driver_stats().enters;
        for _ in 0..TRIPS {
            stream.start_send([Piece::Static(b"ping")]);
            assert_eq!(recv_exactly(&stream, 4).await, b"ping");
        }
        let turns = reactor.driver_stats().enters - before;
        assert!(turns <= TRIPS + TRIPS / 10, "{turns} turns for {TRIPS} round trips");
    });
}

//! What every driver must do, on real sockets.
//!
//! Each test is run on io_uring and on epoll. A machine that forbids io_uring fails the former: the
//! suite never skips.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use reactor::{
    Address, Backend, BufferOptions, Census, Instant, ListenSocket, Listener, Options, Piece,
    Reactor, RecvError, RelayEnd, Stream, both,
};

const LIMIT: Duration = Duration::from_secs(20);

fn options(backend: Backend) -> Options {
    Options { backend, buffers: BufferOptions::default(), seed: 1 }
}

/// Runs `test` under a time limit, then asserts that nothing of it is left.
fn run<F, Fut>(options: Options, test: F)
where
    F: FnOnce(Reactor) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    reactor::run(options, |reactor| async move {
        let deadline = reactor.now() + LIMIT;
        let done = reactor.timeout_at(deadline, test(reactor.clone())).await;
        assert!(done.is_some(), "the test ended in time");
        let mut census = reactor.census();
        while census.sockets > 0 && reactor.now() < deadline {
            reactor.sleep(Duration::from_millis(1)).await;
            census = reactor.census();
        }
        assert_eq!(census, Census { tasks: 1, ..Census::default() }, "nothing leaks");
    })
    .unwrap();
}

macro_rules! on_each_driver {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(super::options(reactor::Backend::IoUring)); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(super::options(reactor::Backend::Epoll)); })*
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
    refused_connections_say_so,
    memory_of_a_send_outlives_its_stream,
    out_of_buffers_loses_nothing_and_does_not_spin,
    relays_exactly_the_bytes_asked_for,
    relays_until_the_end_and_half_closes,
    timers_fire_in_order_and_timeouts_cut,
    letters_come_from_other_threads,
    a_busy_task_lets_others_run,
    a_quiet_connection_notices_its_end,
    a_stopped_listener_hands_out_what_it_accepted,
    many_pieces_go_out_in_order,
    dropping_in_every_state_leaks_nothing,
}

fn loopback() -> ListenSocket {
    ListenSocket::bind(&Address::Ip("127.0.0.1:0".parse().unwrap())).unwrap()
}

/// A connected pair: the accepted end and the connecting one.
async fn pair(reactor: &Reactor) -> (Stream, Stream) {
    pair_on(reactor, loopback()).await
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

fn echoes_over_tcp_and_unix(options: Options) {
    run(options, move |reactor| async move {
        let dir = std::env::temp_dir();
        let name = format!("ringside-{}-{:?}", std::process::id(), options.backend);
        let addresses = [
            Address::Ip("127.0.0.1:0".parse().unwrap()),
            Address::Ip("[::1]:0".parse().unwrap()),
            Address::Unix(dir.join(&name)),
            Address::Abstract(name),
        ];
        for address in addresses {
            let socket = ListenSocket::bind(&address).unwrap();
            let (server, client) = pair_on(&reactor, socket).await;
            for round in 0..100u8 {
                client.send(vec([round; 100])).await.unwrap();
                let got = recv_exactly(&server, 100).await;
                assert_eq!(server.send(vec(got)).await, Ok(100));
                assert_eq!(recv_exactly(&client, 100).await, [round; 100]);
            }
            if let Address::Unix(path) = address {
                std::fs::remove_file(path).unwrap();
            }
        }
    });
}

fn a_large_transfer_arrives_whole_and_in_order(options: Options) {
    run(options, |reactor| async move {
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

fn half_close_in_both_directions(options: Options) {
    run(options, |reactor| async move {
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

fn a_stalled_reader_bounds_what_arrives(options: Options) {
    run(options, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.set_high_water(10_000);
        server.arm();
        let all = pattern(4 << 20);
        client.start_send(vec(all.clone()));
        reactor.sleep(Duration::from_millis(50)).await;
        assert!(client.is_sending(), "nobody reads, so not all is taken");
        let held = reactor.census().buffers;
        assert!(held <= 10_000 / 2048 + 2, "{held} buffers are held");
        assert!(recv_exactly(&server, all.len()).await == all);
        client.sent().await.unwrap();
    });
}

fn data_waits_for_a_reader_that_comes_late(options: Options) {
    run(options, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.arm();
        client.send(vec("early")).await.unwrap();
        client.shutdown_write();
        server.readable().await;
        assert!(!server.is_quiet());
        assert_eq!(recv_all(&server).await, b"early");
    });
}

fn a_dropped_receive_loses_nothing(options: Options) {
    run(options, |reactor| async move {
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

fn a_reset_is_not_an_end_of_stream(options: Options) {
    run(options, |reactor| async move {
        let (server, client) = pair(&reactor).await;
        server.abort();
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

fn refused_connections_say_so(options: Options) {
    run(options, |reactor| async move {
        let address = loopback().address().clone();
        let error = reactor.connect(&address).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let nowhere = Address::Unix("/nonexistent/socket".into());
        let error = reactor.connect(&nowhere).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

fn memory_of_a_send_outlives_its_stream(options: Options) {
    run(options, |reactor| async move {
        for _ in 0..20 {
            let (server, client) = pair(&reactor).await;
            client.start_send(vec(pattern(4 << 20)));
            drop(recv_exactly(&server, 1 << 10));
            drop(client);
            // Whatever arrives is the pattern: the memory was not given to anybody else.
            let mut got = Vec::new();
            while let Ok(Some(buf)) = server.recv().await {
                got.extend_from_slice(&buf);
            }
            assert!(got == pattern(got.len()));
        }
    });
}

fn out_of_buffers_loses_nothing_and_does_not_spin(options: Options) {
    let buffers = BufferOptions { count: 4, size: 256 };
    run(Options { buffers, ..options }, |reactor| async move {
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

fn relays_exactly_the_bytes_asked_for(options: Options) {
    run(options, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        for len in [1usize, 100, 20_000, 1 << 20] {
            let all = pattern(len);
            let moved = Cell::new(0);
            let feed = async {
                let rest = [Piece::Vec(all.clone()), Piece::Static(b"next")];
                feeder.send(rest).await.unwrap();
            };
            let relay = source.relay(&sink, len as u64, &moved);
            let ((_, end), got) = both(both(feed, relay), recv_exactly(&reader, len)).await;
            assert_eq!((end, moved.get()), (RelayEnd::Complete, len as u64));
            assert!(got == all);
            assert_eq!(recv_exactly(&source, 4).await, b"next", "the rest stays behind");
        }
    });
}

fn relays_until_the_end_and_half_closes(options: Options) {
    run(options, |reactor| async move {
        let (source, feeder) = pair(&reactor).await;
        let (sink, reader) = pair(&reactor).await;
        let all = pattern(3 << 20);
        let feed = async {
            feeder.send(vec(all.clone())).await.unwrap();
            feeder.shutdown_write();
        };
        let moved = Cell::new(0);
        let relay = async {
            let end = source.relay(&sink, u64::MAX, &moved).await;
            sink.shutdown_write();
            end
        };
        let ((_, end), got) = both(both(feed, relay), recv_all(&reader)).await;
        assert_eq!((end, moved.get()), (RelayEnd::Eof, all.len() as u64));
        assert!(got == all);
    });
}

fn timers_fire_in_order_and_timeouts_cut(options: Options) {
    run(options, |reactor| async move {
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

fn letters_come_from_other_threads(options: Options) {
    run(options, |_| async move {
        let (sender, mut receiver) = reactor::mailbox(16);
        let threads: Vec<_> = (0..2u32)
            .map(|id| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for n in 0..10_000u32 {
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
        let mut next = [0u32; 2];
        while let Some((id, n)) = receiver.recv().await {
            assert_eq!(n, next[id as usize], "in order");
            next[id as usize] += 1;
        }
        assert_eq!(next, [10_000; 2]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn a_busy_task_lets_others_run(options: Options) {
    run(options, |reactor| async move {
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

fn a_quiet_connection_notices_its_end(options: Options) {
    run(options, |reactor| async move {
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

fn a_stopped_listener_hands_out_what_it_accepted(options: Options) {
    run(options, |reactor| async move {
        let socket = loopback();
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

fn many_pieces_go_out_in_order(options: Options) {
    run(options, |reactor| async move {
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

fn dropping_in_every_state_leaks_nothing(options: Options) {
    run(options, |reactor| async move {
        // Connecting to an address that never answers (the backlog of a listener that never
        // accepts fills up only on Unix sockets, so: a connect that is dropped at once).
        let socket = loopback();
        let address = socket.address().clone();
        for _ in 0..50 {
            let now = reactor.now();
            drop(reactor.timeout_at(now, reactor.connect(&address)).await);
        }
        let (server, client) = pair(&reactor).await;
        let moved = Cell::new(0);
        let soon = reactor.now() + Duration::from_millis(5);
        let cut = reactor.timeout_at(soon, server.relay(&client, 100, &moved)).await;
        assert!(cut.is_none(), "nothing to relay");
        drop((server, client));
        let mut listener = Listener::new(&reactor, socket);
        let soon = reactor.now() + Duration::from_millis(5);
        while reactor.timeout_at(soon, listener.accept()).await.is_some() {}
    });
}

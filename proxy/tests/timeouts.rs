//! Each limit of time ends what it is for, in its own time and by its own name.
//!
//! Every case runs twice: once where its limit is the only short one, so that nothing else can have
//! ended it, and once where it is the longest of those that could be taken for it.

mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use support::{BlackHole, Client, Origin, Proxy, beside, config};

on_both_drivers! {
    each_limit_ends_what_it_is_for,
    a_body_may_take_longer_than_its_pauses,
    the_response_has_its_time_from_the_last_request_byte,
    a_tcp_connection_is_idle_when_nothing_goes_either_way,
}

/// Longer than a test may last.
const LONG: u64 = 60_000;

/// Milliseconds.
struct Limits {
    keep_alive: u64,
    head: u64,
    body_idle: u64,
    write: u64,
    response: u64,
    stream_idle: u64,
    total: u64,
    connect: u64,
}

const NONE: Limits = Limits {
    keep_alive: LONG,
    head: LONG + 1,
    body_idle: LONG + 2,
    write: LONG + 3,
    response: LONG + 4,
    stream_idle: LONG + 5,
    total: LONG + 6,
    connect: LONG + 7,
};

/// All but `stream_idle`, which would be right to end most of the waiting, and `total`.
const SHORT: Limits = Limits {
    keep_alive: 400,
    head: 410,
    body_idle: 420,
    write: 430,
    response: 440,
    connect: 450,
    ..NONE
};

impl Limits {
    fn start(&self, io: &str, origin: SocketAddr) -> Proxy {
        let Limits { keep_alive, head, body_idle, write, response, stream_idle, total, connect } =
            self;
        let listener = format!(
            ", timeouts: {{ keep_alive: {keep_alive}ms, head: {head}ms, \
             body_idle: {body_idle}ms, write: {write}ms }}"
        );
        let route = format!(
            ", matches: [{{ methods: [GET, POST, CONNECT] }}], timeouts: {{ \
             response: {response}ms, stream_idle: {stream_idle}ms, total: {total}ms }}"
        );
        let text = config(origin, &listener, &route, "");
        let connect = format!("connect_timeout: {connect}ms");
        Proxy::start(io, &text.replace("connect_timeout: 10s", &connect))
    }
}

/// A limit, and what it is for.
struct Case {
    name: &'static str,
    /// Sets the limit.
    set: fn(&mut Limits, u64),
    /// Does what the limit is for, until the client sees that it was ended; returns when the waiting
    /// began.
    play: fn(&Proxy, &Origin) -> Instant,
    /// Where it is counted, and under which name.
    counted: [&'static str; 2],
}

const REQUESTS: &str = "ringside_requests_total";
const CONNECTIONS: &str = "ringside_connections_closed_total";

const CASES: [Case; 13] = [
    Case {
        name: "keep_alive",
        set: |limits, ms| limits.keep_alive = ms,
        play: rests,
        counted: [CONNECTIONS, "keep_alive_timeout"],
    },
    Case {
        name: "head, silence",
        set: |limits, ms| limits.head = ms,
        play: says_nothing,
        counted: [CONNECTIONS, "header_timeout"],
    },
    Case {
        name: "head, a byte at a time",
        set: |limits, ms| limits.head = ms,
        play: dribbles_a_head,
        counted: [REQUESTS, "header_timeout"],
    },
    Case {
        name: "body_idle",
        set: |limits, ms| limits.body_idle = ms,
        play: stops_in_its_body,
        counted: [REQUESTS, "body_timeout"],
    },
    Case {
        name: "write",
        set: |limits, ms| limits.write = ms,
        play: stops_reading,
        counted: [CONNECTIONS, "write_timeout"],
    },
    Case {
        name: "response",
        set: |limits, ms| limits.response = ms,
        play: waits_for_an_answer,
        counted: [REQUESTS, "response_timeout"],
    },
    Case {
        name: "stream_idle in a long body",
        set: |limits, ms| limits.stream_idle = ms,
        play: |proxy, origin| half_a_body(proxy, origin, "content-length: 1000000"),
        counted: [REQUESTS, "stream_idle_timeout"],
    },
    Case {
        name: "stream_idle in chunks",
        set: |limits, ms| limits.stream_idle = ms,
        play: |proxy, origin| half_a_body(proxy, origin, "transfer-encoding: chunked"),
        counted: [REQUESTS, "stream_idle_timeout"],
    },
    Case {
        name: "stream_idle of an upstream that does not read",
        set: |limits, ms| limits.stream_idle = ms,
        play: nobody_reads_the_body,
        counted: [REQUESTS, "stream_idle_timeout"],
    },
    Case {
        name: "stream_idle in a tunnel",
        set: |limits, ms| limits.stream_idle = ms,
        play: tunnels_silence,
        counted: [REQUESTS, "stream_idle_timeout"],
    },
    Case {
        name: "total before the answer",
        set: |limits, ms| limits.total = ms,
        play: dribbles_a_body,
        counted: [REQUESTS, "total_timeout"],
    },
    Case {
        name: "total within the answer",
        set: |limits, ms| limits.total = ms,
        play: is_dribbled_at,
        counted: [REQUESTS, "total_timeout"],
    },
    Case {
        name: "connect_timeout",
        set: |limits, ms| limits.connect = ms,
        play: |proxy, _| {
            let began = Instant::now();
            let answer = proxy.connect().get("/");
            assert_eq!((answer.status(), answer.cause()), (503, "connect_timeout"));
            began
        },
        counted: [REQUESTS, "connect_timeout"],
    },
];

fn each_limit_ends_what_it_is_for(io: &str) {
    std::thread::scope(|scope| {
        for (at, case) in CASES.iter().enumerate() {
            let thread = || std::thread::Builder::new().name(case.name.to_owned());
            let alone = move || run(io, case, NONE, 150 + 10 * at as u64);
            thread().spawn_scoped(scope, alone).unwrap();
            let longest = move || run(io, case, SHORT, 900 + 10 * at as u64);
            thread().spawn_scoped(scope, longest).unwrap();
        }
    });
}

fn run(io: &str, case: &Case, mut limits: Limits, own: u64) {
    (case.set)(&mut limits, own);
    let origin = Origin::bind();
    let hole = (case.name == "connect_timeout").then(BlackHole::new);
    let proxy = limits.start(io, hole.as_ref().map_or(origin.address, |hole| hole.address));
    let began = (case.play)(&proxy, &origin);
    proxy.metric_becomes(&case.counted, "1");
    let lasted = began.elapsed();
    // A timer may be as early as its tick.
    assert!(
        lasted + Duration::from_millis(2) >= Duration::from_millis(own),
        "{}: {lasted:?}",
        case.name
    );
    let late = Duration::from_millis(own + LONG / 2);
    assert!(lasted < late, "{}: {lasted:?}", case.name);
}

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request that the origin has got.
fn asks(proxy: &Proxy, origin: &Origin) -> (Client, Client) {
    let mut client = proxy.connect();
    client.send(GET);
    let mut server = origin.accept();
    server.message().unwrap();
    (client, server)
}

fn rests(proxy: &Proxy, origin: &Origin) -> Instant {
    let (mut client, mut server) = asks(proxy, origin);
    let began = Instant::now();
    server.send(OK);
    assert_eq!(client.message().unwrap().body, b"ok");
    assert!(client.ends_orderly());
    began
}

fn says_nothing(proxy: &Proxy, _: &Origin) -> Instant {
    let began = Instant::now();
    assert!(proxy.connect().ends_orderly());
    began
}

/// Sends a byte again and again, until what is returned is dropped.
fn dribble(end: &Client) -> Sender<()> {
    let mut sender = Client::from(end.stream().try_clone().unwrap());
    let (stop, stopped) = channel();
    std::thread::spawn(move || {
        let pause = Duration::from_millis(20);
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            sender.send("x");
        }
    });
    stop
}

fn dribbles_a_head(proxy: &Proxy, _: &Origin) -> Instant {
    let began = Instant::now();
    let mut client = proxy.connect();
    client.send("GET /");
    let _dribble = dribble(&client);
    let answer = client.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (408, "header_timeout"));
    began
}

fn stops_in_its_body(proxy: &Proxy, origin: &Origin) -> Instant {
    let mut client = proxy.connect();
    let began = Instant::now();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nabc");
    let mut server = origin.accept();
    server.until(b"abc").unwrap();
    let answer = client.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (408, "body_timeout"));
    server.ends_orderly();
    began
}

fn stops_reading(proxy: &Proxy, origin: &Origin) -> Instant {
    let began = Instant::now();
    let (client, mut server) = asks(proxy, origin);
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n");
    server.send(vec![b'x'; 50_000_000]); // until it is cut off
    drop(client);
    began
}

fn waits_for_an_answer(proxy: &Proxy, origin: &Origin) -> Instant {
    let began = Instant::now();
    let (mut client, mut server) = asks(proxy, origin);
    let answer = client.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (504, "response_timeout"));
    server.ends_orderly();
    began
}

fn half_a_body(proxy: &Proxy, origin: &Origin, framing: &str) -> Instant {
    let (mut client, mut server) = asks(proxy, origin);
    let began = Instant::now();
    server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
    client.until(b"hello\r\n").unwrap();
    assert_eq!(client.read_to_end(), b"", "no end that could be taken for the body's");
    server.ends_orderly();
    began
}

fn nobody_reads_the_body(proxy: &Proxy, origin: &Origin) -> Instant {
    let began = Instant::now();
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 50000000\r\n\r\n");
    let _server = origin.accept();
    client.send(vec![b'x'; 50_000_000]); // until it is cut off
    began
}

fn tunnels_silence(proxy: &Proxy, origin: &Origin) -> Instant {
    let mut client = proxy.connect();
    client.send("CONNECT web:1 HTTP/1.1\r\nhost: web:1\r\n\r\n");
    let mut server = origin.accept();
    client.until(b"\r\n\r\n").unwrap();
    let began = Instant::now();
    client.send("ping");
    server.exactly(4);
    // Neither may take what it has got for all there is.
    assert!(!client.ends_orderly());
    assert!(!server.ends_orderly());
    began
}

fn dribbles_a_body(proxy: &Proxy, origin: &Origin) -> Instant {
    let began = Instant::now();
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\n");
    let _dribble = dribble(&client);
    let mut server = origin.accept();
    let answer = client.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (504, "total_timeout"));
    server.ends_orderly();
    began
}

fn is_dribbled_at(proxy: &Proxy, origin: &Origin) -> Instant {
    let began = Instant::now();
    let (mut client, mut server) = asks(proxy, origin);
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    let _dribble = dribble(&server);
    assert!(client.read_to_end().len() < 1_000_000);
    began
}

/// Pauses that are shorter than the limit, and together longer.
fn a_body_may_take_longer_than_its_pauses(io: &str) {
    let origin = Origin::bind();
    let proxy = Limits { body_idle: 500, response: 510, ..NONE }.start(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        assert_eq!(server.message().unwrap().body, b"12345678");
        server.send(OK);
    });
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 8\r\n\r\n");
    for byte in b"12345678" {
        std::thread::sleep(Duration::from_millis(90));
        client.send([*byte]);
    }
    assert_eq!(client.message().unwrap().status(), 200);
    play.join().unwrap();
}

fn the_response_has_its_time_from_the_last_request_byte(io: &str) {
    let origin = Origin::bind();
    let proxy = Limits { response: 300, ..NONE }.start(io, origin.address);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\na");
    let mut server = origin.accept();
    server.until(b"\r\n\r\na").unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let whole = Instant::now();
    client.send("b");
    server.exactly(1);
    let answer = client.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (504, "response_timeout"));
    assert!(whole.elapsed() >= Duration::from_millis(298), "{:?}", whole.elapsed());
}

fn a_tcp_connection_is_idle_when_nothing_goes_either_way(io: &str) {
    let origin = Origin::bind();
    let text = format!(
        r#"version: 1
workers: 1
access_log: none
probes: {{ address: "127.0.0.1:0" }}
shutdown: {{ grace: 100ms, deadline: 5s }}
listeners:
  - {{ name: web, address: "127.0.0.1:0", tcp: {{ service: origin, timeouts: {{ idle: 300ms }} }} }}
services: [{{ name: origin, endpoints: [{{ address: "{}" }}], connect_timeout: 50s }}]
"#,
        origin.address
    );
    let proxy = Proxy::start(io, &text);
    let (mut client, mut server) = (proxy.connect(), origin.accept());
    let mut began = Instant::now();
    // One direction is enough, and longer than the limit.
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(60));
        began = Instant::now();
        server.send("x");
        assert_eq!(client.exactly(1), b"x");
    }
    client.ends_orderly();
    server.ends_orderly();
    assert!(began.elapsed() >= Duration::from_millis(298), "{:?}", began.elapsed());
    proxy.metric_becomes(&[CONNECTIONS, "stream_idle_timeout"], "1");
}

//! A warm worker serves requests without allocating.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use ringside::run::{Overrides, Process};

/// Counts what every thread allocates but those that are exempt: the test's own.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !IS_EXEMPT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nserver: test\r\ncontent-length: 5\r\n\r\nhello";
const CONNECTIONS: usize = 4;

fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        IS_EXEMPT.set(true);
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                IS_EXEMPT.set(true);
                answer(stream);
            });
        }
    });
    address
}

/// Answers each request; requests come one at a time and have no body.
fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut input = [0; 4096];
    let mut filled = 0;
    while let Ok(len @ 1..) = stream.read(&mut input[filled..]) {
        filled += len;
        if input[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(RESPONSE).is_err() {
                return;
            }
        }
    }
}

fn ask(stream: &mut TcpStream) {
    let request =
        b"GET /some/path?x=1 HTTP/1.1\r\nhost: web\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut input = [0; 4096];
    let mut filled = 0;
    while !input[..filled].ends_with(b"\r\n\r\nhello") {
        let len = stream.read(&mut input[filled..]).unwrap();
        assert!(len > 0, "the connection stays");
        filled += len;
    }
}

/// A route that takes all, and does nothing to it.
const PLAIN: &str = "{ name: all, backends: [{ service: origin }] }";

/// A route with conditions of each kind, a split and edits, before one that almost takes it.
const BUSY: &str = r#"
  { name: almost, matches: [{ path: { exact: /some/path }, query: [{ name: x, exact: "2" }] }], respond: {} },
  { name: all, matches: [{ path: { regex: "/some/.*" }, headers: [{ name: accept, present: true }, { name: user-agent, regex: "te.*" }], cookies: [{ name: a, present: false }], query: [{ name: x, exact: "1" }], source_ips: [127.0.0.0/8] }],
    backends: [{ service: origin, weight: 2 }, { service: origin, weight: 1, response_headers: { add: { x-b: "1" } } }],
    rewrite: { host: other }, request_headers: { set: { user-agent: changed }, remove: [accept] }, response_headers: { remove: [server] } }
"#;

/// Serves 100,000 requests after a warm-up, with at most `allowed` allocations; `access_log` and
/// `routes` go into the config as they are.
fn serves_without_allocating(io: config::Io, access_log: &str, routes: &str, allowed: u64) {
    let text = format!(
        r#"version: 1
workers: 1
access_log: {access_log}
shutdown: {{ grace: 0s, deadline: 1s }}
listeners: [{{ name: web, address: "127.0.0.1:0", http: {{}} }}]
services: [{{ name: origin, endpoints: [{{ address: "{}" }}] }}]
routes: [{routes}]
"#,
        origin()
    );
    let document = config::Document::parse("test", text.as_bytes(), config::Format::Yaml).unwrap();
    let overrides = Overrides { io: Some(io), ..Overrides::default() };
    let mut process = Process::start(control::Initial::of(document).unwrap(), &overrides, None)
        .unwrap_or_else(|e| panic!("{e}"));
    let address = process.address("web").unwrap().ip().unwrap();
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    let mut ask_all = |count: usize| {
        for n in 0..count {
            ask(&mut clients[n % CONNECTIONS]);
        }
    };
    ask_all(10_000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    ask_all(100_000);
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(allocated <= allowed, "{allocated} allocations with access_log {access_log}");
    drop(clients);
    process.drain();
    process.end();
}

/// One test, because the counter is of the whole process.
#[test]
fn a_warm_worker_does_not_allocate() {
    IS_EXEMPT.set(true);
    serves_without_allocating(config::Io::IoUring, "none", PLAIN, 0);
    serves_without_allocating(config::Io::Epoll, "none", PLAIN, 0);
    serves_without_allocating(config::Io::Epoll, "none", BUSY, 0);
    // A writer that falls further behind than before meets records that were never used: 2,048 at
    // most, each of which grows its text a few times.
    let log = "{ output: /dev/null }";
    serves_without_allocating(config::Io::IoUring, log, PLAIN, 5 * 2048);
}

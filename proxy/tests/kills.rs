//! Processes that end: an upstream that is killed, ringside that is killed and started again, ringside
//! that is asked to end while it is busy.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use support::{Client, Origin, PATIENCE, Proxy, config, echo_origin};

on_both_drivers! {
    a_killed_upstream_fails_by_name_and_comes_back,
    killed_and_started_again_it_serves_at_once,
    sigterm_under_load_fails_nobody,
    sigterm_fails_nobody_who_comes_back,
}

const CLIENTS: usize = 6;

/// Clients that ask one request after another, each on a connection that it keeps.
#[derive(Default)]
struct Load {
    stopped: AtomicBool,
    /// Who is asked to close does not connect again.
    goes_elsewhere: bool,
    answered: AtomicUsize,
    /// Status and cause to how many.
    outcomes: Mutex<BTreeMap<(u16, String), usize>>,
    /// Requests that got no answer: how many the connection had carried before, and how it ended.
    unanswered: Mutex<Vec<(usize, String)>>,
}

impl Load {
    /// Asks until it is told to stop, or nobody listens any more. Every third request is a POST if
    /// that is wanted.
    fn run(&self, address: SocketAddr, posts: bool) {
        let mut kept: Option<(Client, usize)> = None;
        for n in 0.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let (mut client, carried) = match kept.take() {
                Some(kept) => kept,
                None => match TcpStream::connect(address) {
                    Ok(stream) => (Client::from(stream), 0),
                    Err(_) => return,
                },
            };
            client.send(match posts && n % 3 == 0 {
                true => "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello",
                false => "GET / HTTP/1.1\r\nhost: web\r\n\r\n",
            });
            let ended = match client.stream().peek(&mut [0]) {
                Ok(0) => Some("closed".to_owned()),
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(ended) = ended {
                self.unanswered.lock().unwrap().push((carried, ended));
                continue;
            }
            let answer = client.message().expect("a whole answer");
            let outcome = (answer.status(), answer.cause().to_owned());
            *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
            self.answered.fetch_add(1, Ordering::Relaxed);
            match answer.header("connection") {
                Some("close") if self.goes_elsewhere => return,
                Some("close") => {}
                _ => kept = Some((client, carried + 1)),
            }
        }
    }

    /// Waits until so many more are answered.
    fn wait(&self, count: usize) {
        let (begun, deadline) = (self.answered.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.answered.load(Ordering::Relaxed) < begun + count {
            assert!(Instant::now() < deadline, "the load stands still");
            std::thread::yield_now();
        }
    }

    /// Since it was last asked.
    fn outcomes(&self) -> BTreeMap<(u16, String), usize> {
        std::mem::take(&mut self.outcomes.lock().unwrap())
    }
}

/// Ends the load when it is dropped, also where a test fails.
struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

/// The config with a listener at this address.
fn at(address: SocketAddr, text: &str) -> String {
    let any = r#"name: web, address: "127.0.0.1:0""#;
    text.replace(any, &format!(r#"name: web, address: "{address}""#))
}

/// The upstreams are ringsides too: they can be killed, and started again at the same address.
fn a_killed_upstream_fails_by_name_and_comes_back(io: &str) {
    // In one piece, so that an answer is not cut in two by the kill.
    let origin = Origin::bind().serve(|server| {
        while server.message().is_some() {
            server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let text = config(origin, "", "", "");
    let (killed, other) = (Proxy::start(io, &text), Proxy::start(io, &text));
    let address = killed.address("web");
    let endpoints =
        format!(r#"{{ address: "{address}" }}, {{ address: "{}" }}"#, other.address("web"));
    let one = config("127.0.0.1:1".parse().unwrap(), "", "", "");
    let proxy = Proxy::start(io, &one.replace(r#"{ address: "127.0.0.1:1" }"#, &endpoints));
    let (front, load) = (proxy.address("web"), Load::default());
    std::thread::scope(|scope| {
        let _stop = Stop(&load);
        for _ in 0..CLIENTS {
            scope.spawn(|| load.run(front, false));
        }
        load.wait(300);
        let only_good = BTreeMap::from([((200, String::new()), 0)]);
        assert!(load.outcomes().keys().eq(only_good.keys()));

        drop(killed); // by SIGKILL
        load.wait(600);
        let during = load.outcomes();
        let count = |status, cause: &str| *during.get(&(status, cause.to_owned())).unwrap_or(&0);
        let (good, refused) = (count(200, ""), count(503, "connect_failed"));
        let lost = count(502, "upstream_reset") + count(502, "upstream_closed");
        assert_eq!(good + refused + lost, during.values().sum(), "{during:?}");
        // What was on its way goes out once more; that may meet the last moment of the listening
        // socket, and is not sent a third time.
        assert!(good > 200 && refused > 0 && lost <= CLIENTS, "{during:?}");

        let _again = Proxy::start(io, &at(address, &text));
        load.wait(CLIENTS * 2); // of those that were refused before
        load.outcomes();
        load.wait(300);
        assert!(load.outcomes().keys().eq(only_good.keys()));
    });
    let unanswered = load.unanswered.lock().unwrap();
    assert!(unanswered.is_empty(), "{unanswered:?}");
}

fn killed_and_started_again_it_serves_at_once(io: &str) {
    let name = format!("ringside-{io}-killed-{}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let text = config(echo_origin(), "", ", listeners: [web, local]", "").replace(
        "services:",
        &format!(
            "  - {{ name: local, address: \"unix:{}\", http: {{}} }}\nservices:",
            socket.display()
        ),
    );
    let mut proxy = Proxy::start(io, &text);
    let address = proxy.address("web");
    let text = at(address, &text);
    for _ in 0..3 {
        let answered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let Ok(stream) = TcpStream::connect(address) else { return };
                    let mut client = Client::from(stream);
                    loop {
                        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
                        if client.until(b"HTTP/1.1|").is_none() {
                            return;
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while answered.load(Ordering::Relaxed) < 50 {
                std::thread::yield_now();
            }
            drop(proxy); // by SIGKILL, with connections in every state
        });
        proxy = Proxy::start(io, &text);
        assert_eq!(proxy.connect().get("/").status(), 200);
        let mut local = UnixStream::connect(&socket).unwrap();
        local.set_read_timeout(Some(PATIENCE)).unwrap();
        local.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        local.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(proxy);
    let _ = std::fs::remove_file(socket);
}

/// Clients that do as they are told: who is asked to close goes elsewhere.
fn sigterm_under_load_fails_nobody(io: &str) {
    drains_under_load(io, Load { goes_elsewhere: true, ..Load::default() });
}

/// Who is asked to close connects anew, until nobody listens.
fn sigterm_fails_nobody_who_comes_back(io: &str) {
    drains_under_load(io, Load::default());
}

fn drains_under_load(io: &str, load: Load) {
    let text = config(echo_origin(), "", "", "").replace("grace: 100ms", "grace: 150ms");
    let mut proxy = Proxy::start(io, &text.replace("workers: 1", "workers: 2"));
    let address = proxy.address("web");
    std::thread::scope(|scope| {
        let _stop = Stop(&load);
        for _ in 0..CLIENTS {
            scope.spawn(|| load.run(address, true));
        }
        load.wait(300);
        proxy.signal("TERM");
        assert_eq!(proxy.exit_code(), Some(0));
    });
    let answered = load.answered.load(Ordering::Relaxed);
    assert_eq!(load.outcomes(), BTreeMap::from([((200, String::new()), answered)]));
    let unanswered = load.unanswered.lock().unwrap();
    assert!(unanswered.is_empty(), "of {answered}: {unanswered:?}");
}

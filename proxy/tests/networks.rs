//! Ringside in a network of its own, in which things are short or gone. Needs root, `unshare` and `ip`.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{PATIENCE, Proxy, config};

on_both_drivers! {
    out_of_ports_is_a_named_503_and_recovers,
    peers_that_vanished_are_ended_by_their_limits,
}

/// Runs ringside in a network of its own by way of a shell script that becomes its arguments; the
/// script finds a Python program in `$PEER`.
fn start(io: &str, config: &str, script: &str, peer: &str) -> Proxy {
    // The process id is unshare's; when that is killed, all in it are.
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_ringside")]).env("PEER", peer);
    Proxy::start_by(unshare, io, config)
}

/// The path of a Unix socket: the one way into another network.
fn socket(name: &str, io: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringside-{name}-{io}-{}.sock", std::process::id()))
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Answers when it has the whole request, so that a request without its end keeps a connection busy.
const PATIENT_ORIGIN: &str = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    do_GET = do_PUT
    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"#;

/// Becomes its arguments in a network of its own, which has four ports to connect from.
const FOUR_PORTS: &str = r#"
ip link set lo up
echo "40000 40003" > /proc/sys/net/ipv4/ip_local_port_range
python3 -c "$PEER" &
until ss -ltnH | grep -q :9000; do sleep 0.02; done
exec "$@"
"#;

fn out_of_ports_is_a_named_503_and_recovers(io: &str) {
    let front = socket("ports", io);
    let text = config("127.0.0.1:9000".parse().unwrap(), "", "", "")
        .replace(
            "address: \"127.0.0.1:0\", http",
            &format!("address: \"unix:{}\", http", front.display()),
        )
        .replace(r#"probes: { address: "127.0.0.1:0" }"#, ""); // it would take one of the ports
    let proxy = start(io, &text, FOUR_PORTS, PATIENT_ORIGIN);
    let connect = || connect(&front);
    let ask = |stream: &mut UnixStream, request: &str| {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        loop {
            let mut chunk = [0; 4096];
            let len = stream.read(&mut chunk).unwrap();
            assert!(len > 0, "it ended after {answer:?}");
            answer.push_str(std::str::from_utf8(&chunk[..len]).unwrap());
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                return answer;
            }
        }
    };
    let get = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut held: Vec<UnixStream> = (0..4).map(|_| connect()).collect();
    for stream in &mut held {
        // That it has a connection upstream is known when it is told to go on.
        let request =
            "PUT / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        let answer = ask(stream, request);
        assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    }
    let mut late = connect();
    let refused = ask(&mut late, get);
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("x-ringside-cause: overloaded; node=test-node\r\n"), "{refused}");
    assert!(refused.contains("out of local ports") && refused.contains("ip_local_port_range"));
    proxy.says("out of local ports");
    for stream in &mut held {
        let answer = ask(stream, "ok");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    }
    let deadline = Instant::now() + PATIENCE;
    while !ask(&mut late, get).starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < deadline, "it recovers");
    }
    let again = proxy.said_since().into_iter().filter(|line| line.contains("out of local ports"));
    assert_eq!(again.count(), 0, "said once");
    drop(proxy);
    let _ = fs::remove_file(front);
}

/// An origin, and clients that stop in the middle of something; then the network is gone, without a
/// FIN or a reset.
const VANISHING: &str = r#"
import socket, subprocess, sys, threading, time
def serve(connection):
    while request := connection.recv(65536):
        if b" /big " in request:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + bytes(100000000))
        elif b" /never " not in request:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
listener = socket.create_server(("127.0.0.1", 9000))
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
def client(request, window=None):
    while True:
        try:
            connection = socket.socket()
            if window:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            connection.connect(("127.0.0.1", 8080))
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    connection.sendall(request)
    return connection
idle = client(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
head = client(b"GET / HTTP/1.1\r\nhost: w")
body = client(b"POST /never HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nhalf")
answer = client(b"GET /never HTTP/1.1\r\nhost: web\r\n\r\n")
# What it has room for is less than the first segment of the body: the rest waits in the proxy.
reader = client(b"GET /big HTTP/1.1\r\nhost: web\r\n\r\n", window=4096)
assert reader.recv(1, socket.MSG_PEEK)
subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
print("gone", file=sys.stderr, flush=True)
time.sleep(60)
"#;

/// Becomes its arguments, with the peer beside it.
const BESIDE_THE_PEER: &str = r#"
ip link set lo up
python3 -c "$PEER" &
exec "$@"
"#;

fn peers_that_vanished_are_ended_by_their_limits(io: &str) {
    let admin = socket("vanished", io);
    let listener =
        ", timeouts: { head: 1000ms, body_idle: 1100ms, keep_alive: 1200ms, write: 1300ms }";
    let extra = format!("admin: {{ address: \"unix:{}\" }}", admin.display());
    let route = ", timeouts: { response: 1400ms }";
    let text = config("127.0.0.1:9000".parse().unwrap(), listener, route, &extra)
        .replace("address: \"127.0.0.1:0\", http", "address: \"127.0.0.1:8080\", http");
    let proxy = start(io, &text, BESIDE_THE_PEER, VANISHING);
    proxy.says("gone");
    let metrics = || {
        let mut stream = connect(&admin);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let ended = |text: &str, cause: &str| {
        let cause = format!("cause=\"{cause}\"");
        text.lines().any(|line| line.contains(&cause) && !line.ends_with(" 0"))
    };
    let causes = [
        "header_timeout",
        "body_timeout",
        "keep_alive_timeout",
        "write_timeout",
        "response_timeout",
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = metrics();
        let nobody = text.contains("ringside_connections_active{listener=\"web\"} 0");
        if nobody && causes.iter().all(|cause| ended(&text, cause)) {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(proxy);
    let _ = fs::remove_file(admin);
}

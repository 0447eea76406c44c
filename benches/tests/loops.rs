//! Every loop's servers as a user starts them: the same bytes on all of them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

const LOOPS: [&str; 5] = ["ours-uring", "ours-epoll", "monoio", "monoio-poll", "glommio"];

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loops"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        // Made before it is judged: it ends the child, whatever is wrong with the line.
        let server = Server { child, address: address.unwrap_or_default() };
        assert!(!server.address.is_empty(), "{arguments:?}: no readiness line, but {line:?}");
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `request` in pieces of `piece` bytes and expects exactly `response`.
#[track_caller]
fn exchange(stream: &mut TcpStream, request: &[u8], piece: usize, response: &[u8]) {
    for piece in request.chunks(piece) {
        stream.write_all(piece).unwrap();
        if request.len() > piece.len() {
            thread::sleep(Duration::from_millis(2)); // so that pieces arrive as such, mostly
        }
    }
    let mut received = vec![0; response.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(response));
}

/// Nothing more comes.
#[track_caller]
fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // Bytes of ours that the server did not read make its end a reset.
    let why = stream.read_to_end(&mut rest).map_err(|error| error.kind());
    assert!(matches!(why, Ok(0) | Err(ErrorKind::ConnectionReset)), "{why:?} after {rest:?}");
}

#[test]
fn an_echo_sends_back_what_comes() {
    for name in LOOPS {
        let server = Server::start(&["serve", name, "echo"]);
        let mut held: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
        for (number, stream) in held.iter_mut().enumerate() {
            let bytes = vec![number as u8; 100];
            exchange(stream, &bytes, 100, &bytes);
        }
        // More than a buffer holds.
        let bytes: Vec<u8> = (0..20_000u32).map(|number| (number % 251) as u8).collect();
        exchange(&mut held[7], &bytes, bytes.len(), &bytes);
        held[8].shutdown(Shutdown::Write).unwrap();
        ends(held.remove(8));
    }
}

/// What the origin says to a request for so many bytes.
fn response(length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nx-loop: yes\r\n\r\n");
    let body = (0..length).map(|number| b'a' + (number % 26) as u8);
    head.into_bytes().into_iter().chain(body).collect()
}

/// Answers one connection after the other: `/N` with N bytes. Says which connection a request came on,
/// and the request.
fn origin() -> (String, std::sync::mpsc::Receiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, requests) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let seen = seen.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let path = head.split(' ').nth(1).unwrap().trim_start_matches('/');
                    let answer = response(path.parse().unwrap());
                    seen.send((number, head)).unwrap();
                    stream.get_mut().write_all(&answer).unwrap();
                }
            });
        }
    });
    (address, requests)
}

#[test]
fn a_proxy_forwards_both_ways_and_keeps_connections() {
    let get = |path: usize| format!("GET /{path} HTTP/1.1\r\nhost: a\r\nx-more: b\r\n\r\n");
    for name in LOOPS {
        let (address, requests) = origin();
        let server = Server::start(&["serve", name, "proxy", "--to", &address]);
        let (mut one, mut other) = (server.connect(), server.connect());
        // Whole, in pieces of a head, with a body of several buffers, without one.
        for (length, piece) in [(100, 1000), (100, 7), (60_000, 1000), (0, 1000)] {
            for stream in [&mut one, &mut other] {
                let request = get(length);
                exchange(stream, request.as_bytes(), piece, &response(length));
                let (connection, seen) = requests.recv_timeout(Duration::from_secs(10)).unwrap();
                assert_eq!(seen, request, "{name}: forwarded as it came");
                assert_eq!(connection, 0, "{name}: the pooled connection is used again");
            }
        }
        for refused in ["hello\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx"] {
            let mut stream = server.connect();
            stream.write_all(refused.as_bytes()).unwrap();
            ends(stream);
        }
        one.shutdown(Shutdown::Write).unwrap();
        ends(one);
        exchange(&mut other, get(1).as_bytes(), 1000, &response(1));
    }
}

#[test]
fn a_proxy_serves_many_at_once() {
    for name in LOOPS {
        let origin = Server::start(&["origin"]);
        let server = Server::start(&["serve", name, "proxy", "--to", &origin.address]);
        let url = format!("http://{}", server.address);
        let load = ["generate", "-o", "json", "--connections", "200", "--requests", "4000"];
        let output = Command::new(env!("CARGO_BIN_EXE_loops"))
            .args(load)
            .args(["--path", "/bytes/100", "--url", &url])
            .output()
            .unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let report = loadtest::report::Report::parse(&report).unwrap();
        assert_eq!((report.requests, report.errors.total()), (4000, 0), "{name}");
    }
}

#[test]
fn what_cannot_start_says_why() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_loops")).args(["serve", "monoio", "proxy"]).output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.contains("--to"), "{error}");
}

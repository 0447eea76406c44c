//! The origin, the floor and the generator as a user starts them, on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("a readiness line");
        Server { address: address.to_owned(), child }
    }

    fn stats(&self) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /__stats HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn generate(to: &Server, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["generate", "-o", "json", "--url", &format!("http://{}", to.address)])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn errors(report: &Value) -> u64 {
    let kinds = ["status", "length", "malformed", "connection", "unanswered"];
    kinds.iter().map(|kind| report["errors"][kind].as_u64().unwrap()).sum()
}

#[test]
fn every_request_is_executed_once_and_answered_in_full() {
    let origin = Server::start(&["origin"]);
    for path in ["/", "/bytes/0", "/bytes/300000", "/chunked/300000", "/slow/1"] {
        let report =
            generate(&origin, &["--path", path, "--connections", "8", "--requests", "200"]);
        assert_eq!((report["requests"].as_u64(), errors(&report)), (Some(200), 0), "{path}");
    }
    let mixed = ["--requests", "900", "--posts-every", "3", "--body", "200000", "--test-ids"];
    let report = generate(&origin, &mixed);
    assert_eq!((report["requests"].as_u64(), errors(&report)), (Some(900), 0));
    let stats = origin.stats();
    assert_eq!(stats["requests"], 5 * 200 + 900);
    assert_eq!((&stats["posts"], &stats["distinct_ids"]), (&300.into(), &900.into()));
    assert_eq!((&stats["duplicates"], &stats["malformed"]), (&0.into(), &0.into()));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let origin = Server::start(&["origin"]);
    let report = generate(&origin, &["--rate", "500", "--seconds", "1", "--warmup", "0.1"]);
    assert_eq!((report["requests"].as_u64(), errors(&report)), (Some(500), 0));
    let connections = &report["per_connection"];
    assert!(connections[0].as_u64() > Some(0), "all connections carry: {connections}");
}

#[test]
fn an_origin_that_closes_at_random_is_seen_to_do_so() {
    let origin = Server::start(&["origin", "--close-idle-randomly", "5"]);
    let report = generate(&origin, &["--rate", "500", "--seconds", "0.5", "--connections", "4"]);
    assert!(report["reconnects"].as_u64() > Some(10), "{report}");
}

#[test]
fn both_floors_carry_everything() {
    let origin = Server::start(&["origin"]);
    for kind in ["uring", "splice"] {
        let floor = Server::start(&["floor", kind, "--to", &origin.address]);
        for path in ["/bytes/100", "/bytes/300000", "/chunked/300000"] {
            let load = ["--path", path, "--connections", "200", "--requests", "2000"];
            let report = generate(&floor, &load);
            assert_eq!((report["requests"].as_u64(), errors(&report)), (Some(2000), 0), "{path}");
        }
        let posts = ["--posts-every", "1", "--body", "200000", "--requests", "200"];
        assert_eq!(errors(&generate(&floor, &posts)), 0);
    }
}

/// A copy of the program has nothing beside it.
#[test]
fn without_a_ringside_there_is_a_hint_and_no_table() {
    let folder = std::env::temp_dir().join(format!("loadtest-alone-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let alone = folder.join("loadtest");
    std::fs::copy(env!("CARGO_BIN_EXE_loadtest"), &alone).unwrap();
    for arguments in [&["compare", "--quick"][..], &["attack", "idle"], &["soak"]] {
        let output = Command::new(&alone).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains("`cargo build --release`"), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tcp_there_and_back_and_without_end() {
    let echo = Server::start(&["tcp-echo"]);
    let report = generate(&echo, &["--tcp-pingpong", "--connections", "4", "--seconds", "0.2"]);
    assert!(report["requests"].as_u64() > Some(100), "{report}");
    let source = Server::start(&["tcp-source"]);
    let report = generate(&source, &["--tcp-bulk", "--connections", "2", "--seconds", "0.2"]);
    assert!(report["bytes"].as_u64() > Some(1 << 20), "{report}");
}

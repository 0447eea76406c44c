//! Signals to a real ringside while it drains.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Client, Origin, PATIENCE, Proxy, config, echo_origin};

on_both_drivers! {
    a_second_signal_ends_the_drain,
    a_drain_answers_other_signals,
    stopped_and_continued_it_serves_on,
}

/// A ringside that drains for as long as its origin says nothing, and whom that holds up.
fn draining(io: &str, change: impl Fn(String) -> String) -> (Proxy, [Client; 2]) {
    let origin = Origin::bind();
    let text = config(origin.address, "", "", "");
    let text = text.replace("grace: 100ms, deadline: 5s", "grace: 0s, deadline: 1h");
    let proxy = Proxy::start(io, &change(text));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    proxy.signal("TERM");
    proxy.says("draining");
    (proxy, [client, server])
}

fn a_second_signal_ends_the_drain(io: &str) {
    for signal in ["TERM", "INT"] {
        let (mut proxy, [mut client, _server]) = draining(io, |text| text);
        proxy.signal(signal);
        proxy.says("told to stop again");
        assert_eq!(proxy.exit_code(), Some(0));
        let answer = client.message().unwrap();
        assert_eq!((answer.status(), answer.cause()), (503, "draining"));
    }
}

/// Both interrupt whoever waits in the kernel (EINTR).
fn stopped_and_continued_it_serves_on(io: &str) {
    let proxy = Proxy::start(io, &config(echo_origin(), "", "", ""));
    let mut client = proxy.connect();
    for _ in 0..20 {
        proxy.signal("STOP");
        proxy.signal("CONT");
        assert_eq!(client.get("/").status(), 200);
    }
}

fn a_drain_answers_other_signals(io: &str) {
    let name = format!("ringside-signals-{io}-{}.log", std::process::id());
    let log = std::env::temp_dir().join(name);
    let (mut proxy, [mut client, mut server]) = draining(io, |text| {
        let output = format!("access_log: {{ output: \"{}\" }}", log.display());
        text.replace("access_log: none", &output)
    });
    proxy.signal("HUP");
    proxy.says("reload: draining");
    let rotated = log.with_extension("log.1");
    fs::rename(&log, &rotated).unwrap();
    proxy.signal("USR1");
    let deadline = Instant::now() + PATIENCE;
    while !log.exists() {
        assert!(Instant::now() < deadline, "the log is opened again");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.message().unwrap().body, b"ok");
    assert_eq!(proxy.exit_code(), Some(0));
    // Until the writer has taken the new file it writes to the old one.
    let [old, new] = [&rotated, &log].map(|path| fs::read_to_string(path).unwrap());
    assert!([&old, &new].iter().any(|lines| lines.contains(r#""status":200"#)), "{old:?} {new:?}");
    [rotated, log].into_iter().for_each(|path| fs::remove_file(path).unwrap());
}

#[test]
fn a_second_signal_ends_the_demo_at_once() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said = BufReader::new(demo.stderr.take().unwrap()).lines().map_while(Result::ok);
    let entrance = shown.find_map(|line| {
        let (_, url) = line.split_once("curl -i http://")?;
        Some(url.trim_end_matches('/').to_owned())
    });
    // Half a request holds up the drain.
    let mut half = TcpStream::connect(entrance.unwrap()).unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let id = demo.id().to_string();
    let interrupt = || {
        let status = Command::new("kill").arg("-INT").arg(&id).status();
        assert!(status.unwrap().success());
    };
    interrupt();
    assert!(said.by_ref().any(|line| line.ends_with("draining")));
    interrupt();
    assert!(said.any(|line| line.contains("told to stop again")));
    assert_eq!(demo.wait().unwrap().code(), Some(130));
}

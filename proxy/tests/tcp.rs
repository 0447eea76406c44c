//! TCP through a real ringside.

mod support;

use std::time::Duration;

use support::{Client, Origin, Proxy, beside, pattern};

on_both_drivers! {
    messages_go_back_and_forth,
    half_close_in_both_directions,
    bulk_arrives_exactly_both_ways,
    a_refusing_upstream_ends_the_connection,
    a_reset_is_passed_on_and_never_as_an_end,
    a_drain_lets_connections_finish,
    two_workers_share_the_connections,
}

fn tcp(io: &str, workers: usize, origin: std::net::SocketAddr) -> Proxy {
    let text = format!(
        r#"version: 1
workers: {workers}
access_log: none
probes: {{ address: "127.0.0.1:0" }}
shutdown: {{ grace: 100ms, deadline: 5s }}
listeners: [{{ name: web, address: "127.0.0.1:0", tcp: {{ service: origin }} }}]
services: [{{ name: origin, endpoints: [{{ address: "{origin}" }}] }}]
"#
    );
    Proxy::start(io, &text)
}

fn messages_go_back_and_forth(io: &str) {
    let origin = Origin::bind();
    let proxy = tcp(io, 1, origin.address);
    let mut client = proxy.connect();
    let mut server = origin.accept();
    for n in 0..200u8 {
        client.send([n; 100]);
        assert_eq!(server.exactly(100), [n; 100]);
        server.send([!n; 100]);
        assert_eq!(client.exactly(100), [!n; 100]);
    }
}

fn half_close_in_both_directions(io: &str) {
    let origin = Origin::bind();
    let proxy = tcp(io, 1, origin.address);
    let mut client = proxy.connect();
    let mut server = origin.accept();
    client.send("question");
    client.half_close();
    assert_eq!(server.read_to_end(), b"question");
    server.send("answer");
    server.half_close();
    assert_eq!(client.read_to_end(), b"answer");
    proxy.metric_becomes(&["ringside_connections_active"], "0");
}

fn bulk_arrives_exactly_both_ways(io: &str) {
    let origin = Origin::bind();
    let proxy = tcp(io, 1, origin.address);
    let mut client = proxy.connect();
    let server = origin.accept();
    let all = pattern(64 << 20);
    let mut senders = Vec::new();
    for end in [&client, &server] {
        let (mut sender, sent) = (Client::from(end.stream().try_clone().unwrap()), all.clone());
        senders.push(beside(move || {
            sender.send(sent);
            sender.half_close();
        }));
    }
    let mut server = server;
    let upward = beside(move || server.read_to_end());
    assert!(client.read_to_end() == all);
    assert!(upward.join().unwrap() == all);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

fn a_refusing_upstream_ends_the_connection(io: &str) {
    let nobody = Origin::bind().address;
    let proxy = tcp(io, 1, nobody);
    assert!(!proxy.connect().ends_orderly(), "nothing came, and that was not all there is");
    proxy.metric_becomes(&["ringside_connections_closed_total", "connect_failed"], "1");
}

/// Small and bulk: bytes that were read, and bytes that were spliced, before the reset.
fn a_reset_is_passed_on_and_never_as_an_end(io: &str) {
    for bytes in [pattern(10), pattern(8 << 20)] {
        let origin = Origin::bind();
        let proxy = tcp(io, 1, origin.address);
        let (mut client, mut server) = (proxy.connect(), origin.accept());
        let (sent, all) = (bytes.clone(), bytes.len());
        let mut reader = Client::from(client.stream().try_clone().unwrap());
        let read = beside(move || reader.exactly(all));
        server.send(sent);
        assert!(read.join().unwrap() == bytes);
        server.reset();
        assert!(!client.ends_orderly(), "the client does not take a part for the whole");
        proxy.metric_becomes(&["ringside_connections_closed_total", "upstream_reset"], "1");

        let (mut client, mut server) = (proxy.connect(), origin.accept());
        let sent = bytes.clone();
        let mut reader = Client::from(server.stream().try_clone().unwrap());
        let read = beside(move || reader.exactly(all));
        client.send(sent);
        assert!(read.join().unwrap() == bytes);
        client.reset();
        assert!(!server.ends_orderly(), "nor does the upstream");
        proxy.metric_becomes(&["ringside_connections_closed_total", "client_gone"], "1");
    }
}

fn a_drain_lets_connections_finish(io: &str) {
    let origin = Origin::bind();
    let mut proxy = tcp(io, 1, origin.address);
    let (mut client, mut server) = (proxy.connect(), origin.accept());
    client.send("begun");
    server.exactly(5);
    proxy.signal("TERM");
    // The grace period is over when nobody is accepted any more.
    while std::net::TcpStream::connect(proxy.address("web")).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        while origin.has_connection() {} // of those that only looked
    }
    server.send("finished");
    server.half_close();
    assert_eq!(client.read_to_end(), b"finished");
    client.half_close();
    assert_eq!(server.read_to_end(), b"");
    assert_eq!(proxy.exit_code(), Some(0));
}

fn two_workers_share_the_connections(io: &str) {
    for (count, each) in [(2, ["1", "1"]), (17, ["9", "8"])] {
        let origin = Origin::bind();
        let proxy = tcp(io, 2, origin.address);
        let mut held = Vec::new();
        for _ in 0..count {
            let mut client = proxy.connect();
            let mut server = origin.accept();
            client.send("x");
            server.exactly(1);
            held.push((client, server));
        }
        let metrics = proxy.metrics();
        let mut active: Vec<&str> = metrics
            .lines()
            .filter(|line| line.starts_with("ringside_worker_connections_active{"))
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        active.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(active, each, "{count} connections");
    }
}

//! Clients that leave, at every point of an exchange; and those that only stop sending, and stay.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::{BlackHole, Client, Origin, Proxy, beside, config, pattern};

on_both_drivers! {
    who_leaves_within_the_head_is_gone,
    who_leaves_while_we_connect_is_gone,
    who_leaves_while_the_answer_is_stuck_is_gone,
    who_leaves_behind_a_pipelined_request_is_gone,
    who_leaves_after_a_whole_body_is_gone,
    who_resets_while_the_upload_is_stuck_is_gone,
    who_resets_behind_a_large_pipelined_request_is_gone,
    a_half_closed_client_waits_for_a_slow_answer,
    a_half_closed_client_gets_a_large_answer,
    a_half_closed_client_gets_an_answer_that_comes_in_drops,
}

fn proxy(io: &str, origin: SocketAddr) -> Proxy {
    // Not what ends anything here.
    Proxy::start(io, &config(origin, "", ", timeouts: { response: 1m }", ""))
}

/// How a client goes.
const WAYS: [fn(Client); 2] = [|client| drop(client), |client| client.reset()];

/// So many exchanges have ended because the client left, and nothing is left of them.
fn all_gone(proxy: &Proxy, count: usize) {
    let count = count.to_string();
    proxy.metric_becomes(&["ringside_requests_total", "499", "client_gone"], &count);
    proxy.metric_becomes(&["ringside_connections_active"], "0");
    proxy.metric_becomes(&["ringside_upstream_connections_active"], "0");
    proxy.metric_becomes(&["ringside_upstream_pending"], "0");
}

fn who_leaves_within_the_head_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for leave in WAYS {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: w");
        proxy.metric_becomes(&["ringside_connections_active"], "1");
        leave(client);
        proxy.metric_becomes(&["ringside_connections_active"], "0");
    }
    assert!(!origin.has_connection());
    let gone = ["ringside_requests_total", "499", "client_gone"];
    proxy.metric_becomes(&gone, &WAYS.len().to_string());
}

fn who_leaves_while_we_connect_is_gone(io: &str) {
    let hole = BlackHole::new();
    let proxy = proxy(io, hole.address);
    for (at, leave) in WAYS.iter().enumerate() {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        proxy.metric_becomes(&["ringside_upstream_pending"], "1");
        leave(client);
        all_gone(&proxy, at + 1);
    }
}

fn who_leaves_while_the_answer_is_stuck_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for leave in WAYS {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        let mut server = origin.accept();
        server.message().unwrap();
        let mut sender = Client::from(server.stream().try_clone().unwrap());
        let sending = beside(move || {
            sender.send("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n");
            sender.send(vec![b'x'; 50_000_000]); // until it is cut off
        });
        client.until(b"\r\n\r\n").unwrap();
        leave(client);
        server.ends_orderly();
        sending.join().unwrap();
        proxy.metric_becomes(&["ringside_connections_active"], "0");
        proxy.metric_becomes(&["ringside_upstream_connections_active"], "0");
    }
    let gone = ["ringside_requests_total", "client_gone"];
    proxy.metric_becomes(&gone, &WAYS.len().to_string());
}

/// Bytes of a next request lie before the end.
fn who_leaves_behind_a_pipelined_request_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for (at, leave) in WAYS.iter().enumerate() {
        let mut client = proxy.connect();
        client.send("GET /1 HTTP/1.1\r\nhost: web\r\n\r\nGET /2 HTTP/1.1\r\nhost: web\r\n\r\n");
        let mut server = origin.accept();
        server.message().unwrap();
        leave(client);
        server.ends_orderly();
        all_gone(&proxy, at + 1);
    }
    assert!(!origin.has_connection());
}

/// The request is complete: nothing more is read of it, and yet the end is noticed.
fn who_leaves_after_a_whole_body_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let posts = [
        ("content-length: 5", "hello"),
        ("content-length: 5000", &"x".repeat(5_000)),
        ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ];
    let mut count = 0;
    for (framing, body) in posts {
        for leave in WAYS {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n"));
            let mut server = origin.accept();
            server.until(b"\r\n\r\n").unwrap();
            client.send(body);
            server.exactly(body.len());
            leave(client);
            server.ends_orderly(); // soon, or this panics
            count += 1;
            all_gone(&proxy, count);
        }
    }
}

/// An orderly end stands behind bytes that nobody reads; a reset does not.
fn who_resets_while_the_upload_is_stuck_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for framing in ["content-length: 50000000", "transfer-encoding: chunked"] {
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n2faf080\r\n"));
        let server = origin.accept();
        // Until nobody takes any more.
        let stream = client.stream();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let body = pattern(1 << 20);
        while std::io::Write::write(&mut &*stream, &body).is_ok() {}
        client.reset();
        proxy.metric_becomes(&["ringside_connections_active"], "0");
        proxy.metric_becomes(&["ringside_upstream_connections_active"], "0");
        drop(server);
    }
    proxy.metric_becomes(&["ringside_requests_total", "client_gone"], "2");
}

/// So many bytes of a next request that not all of them are taken from the socket.
fn who_resets_behind_a_large_pipelined_request_is_gone(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    client.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 50000000\r\n\r\n");
    let body = pattern(1 << 20);
    while std::io::Write::write(&mut client.stream(), &body).is_ok() {}
    client.reset();
    server.ends_orderly();
    all_gone(&proxy, 1);
}

fn a_half_closed_client_waits_for_a_slow_answer(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for request in [
        "GET / HTTP/1.1\r\nhost: web\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut client = proxy.connect();
        client.send(request);
        client.half_close();
        let mut server = origin.accept();
        server.message().unwrap();
        std::thread::sleep(Duration::from_millis(400)); // that is how slow it is
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(client.message().expect("an answer").body, b"ok");
        assert!(client.ends_orderly());
    }
    proxy.metric_becomes(&["ringside_requests_total", "200", r#"cause="""#], "3");
}

fn a_half_closed_client_gets_a_large_answer(io: &str) {
    let body = pattern(20_000_000);
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for is_chunked in [false, true] {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        client.half_close();
        let mut server = origin.accept();
        let sent = body.clone();
        let play = beside(move || {
            server.message().unwrap();
            let length = sent.len();
            if is_chunked {
                server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                server.send(format!("{length:x}\r\n"));
                server.send(sent);
                server.send("\r\n0\r\n\r\n");
            } else {
                server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
                server.send(sent);
            }
            server
        });
        assert!(client.message().expect("an answer").body == body);
        assert!(client.ends_orderly());
        play.join().unwrap();
    }
}

/// For longer than a client that may have left is waited for.
fn a_half_closed_client_gets_an_answer_that_comes_in_drops(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    client.half_close();
    let play = beside(move || {
        let mut server = origin.accept();
        server.message().unwrap();
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let began = Instant::now();
        for byte in b"drops" {
            std::thread::sleep(Duration::from_millis(300));
            server.send([*byte]);
        }
        assert!(began.elapsed() >= Duration::from_millis(1_500));
        server
    });
    assert_eq!(client.message().expect("an answer").body, b"drops");
    assert!(client.ends_orderly());
    play.join().unwrap();
}

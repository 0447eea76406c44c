//! What goes wrong on either side, and that it is called by its name.

mod support;

use std::process::Command;

use support::{Client, Origin, Proxy, beside, config, echo_origin, pattern};

on_both_drivers! {
    upstream_faults_have_their_causes,
    a_truncated_body_never_ends_cleanly,
    surplus_bytes_never_reach_the_next_client,
    slow_clients_are_ended_by_their_limits,
    a_client_that_leaves_cancels_its_request,
    a_broken_request_body_aborts_the_upstream,
    a_refused_request_never_reaches_the_upstream,
    a_head_in_a_thousand_packets_is_a_head,
    stopped_readers_do_not_stop_others,
    out_of_descriptors_pauses_and_recovers,
    no_descriptor_for_an_upstream_is_a_named_503,
    out_of_pipes_bodies_are_copied,
    more_connections_than_descriptors_allow_are_refused,
    sigterm_finishes_what_is_begun,
}

fn upstream_faults_have_their_causes(io: &str) {
    let rows: [(&str, u16, &str); 9] = [
        ("", 502, "upstream_closed"),
        ("HTTP/1.1 200 OK\r\ncontent-le", 502, "upstream_closed"),
        ("garbage\r\n\r\n", 502, "upstream_bad_response"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            502,
            "upstream_bad_response",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            502,
            "upstream_bad_response",
        ),
        ("HTTP/1.1 200 OK\nx: y\n\n", 502, "upstream_bad_response"),
        ("HTTP/1.1 200 OK\r\nbad name: y\r\n\r\n", 502, "upstream_bad_response"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5g\r\n",
            502,
            "upstream_bad_response",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, ""),
    ];
    for (response, status, cause) in rows {
        let origin = Origin::bind();
        let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
        let play = beside(move || {
            let mut server = origin.accept();
            server.message().unwrap();
            server.send(response);
            server.half_close();
            server.ends_orderly();
        });
        let got = proxy.connect().get("/");
        assert_eq!((got.status(), got.cause()), (status, cause), "{response:?}");
        play.join().unwrap();
    }
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    let play = beside(move || {
        let mut server = origin.accept();
        server.message().unwrap();
        server.reset();
    });
    let got = proxy.connect().get("/");
    assert_eq!((got.status(), got.cause()), (502, "upstream_reset"));
    play.join().unwrap();
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    let origin = Origin::bind().serve(move |server| {
        server.message();
        server.send(&flood);
        server.ends_orderly();
    });
    let proxy = Proxy::start(io, &config(origin, "", "", ""));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut last = client.message().unwrap();
    while last.status() < 200 {
        last = client.message().unwrap();
    }
    assert_eq!((last.status(), last.cause()), (502, "upstream_bad_response"));
}

fn a_truncated_body_never_ends_cleanly(io: &str) {
    // (head, part of a body, what a client would take for a proper end)
    let rows = [
        ("content-length: 100000", "x".repeat(50_000)),
        ("transfer-encoding: chunked", format!("{:x}\r\n{}", 50_000, "x".repeat(20_000))),
        ("transfer-encoding: chunked", format!("{:x}\r\n{}\r\n", 20_000, "x".repeat(20_000))),
    ];
    for (framing, part) in rows {
        let origin = Origin::bind();
        let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
        let sent = part.clone();
        let play = beside(move || {
            let mut server = origin.accept();
            server.message().unwrap();
            server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{sent}"));
        });
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        let got = client.read_to_end();
        assert!(got.len() < part.len() + 500 && !got.ends_with(b"0\r\n\r\n"), "{framing}");
        proxy.metric_becomes(&["ringside_requests_total", "upstream_truncated"], "1");
        play.join().unwrap();
    }
}

fn surplus_bytes_never_reach_the_next_client(io: &str) {
    let stolen = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    let play = beside(move || {
        for _ in 0..2 {
            // Each response on a new connection: the surplus made the last one unfit.
            let mut server = origin.accept();
            server.message().unwrap();
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{stolen}"));
            server.ends_orderly();
        }
    });
    for _ in 0..2 {
        assert_eq!(proxy.connect().get("/").body, b"ok");
    }
    play.join().unwrap();
}

fn slow_clients_are_ended_by_their_limits(io: &str) {
    let timeouts = ", timeouts: { head: 300ms, body_idle: 300ms, write: 300ms, keep_alive: 300ms }";
    let big = Origin::bind().serve(|server| {
        while let Some(request) = server.message() {
            let len = if request.head.starts_with("GET /big") { 50_000_000 } else { 2 };
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n"));
            server.send(vec![b'x'; len]);
        }
    });
    let proxy = Proxy::start(io, &config(big, timeouts, "", ""));

    let mut silent = proxy.connect();
    assert!(silent.ends_orderly());
    let mut slow_head = proxy.connect();
    slow_head.send("GET / HT");
    let answer = slow_head.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (408, "header_timeout"));
    let mut slow_body = proxy.connect();
    slow_body.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nabc");
    let answer = slow_body.message().unwrap();
    assert_eq!((answer.status(), answer.cause()), (408, "body_timeout"));
    let mut resting = proxy.connect();
    assert_eq!(resting.get("/").status(), 200);
    assert!(resting.ends_orderly());
    let mut slow_reader = proxy.connect();
    slow_reader.send("GET /big HTTP/1.1\r\nhost: web\r\n\r\n");
    for cause in ["header_timeout", "keep_alive_timeout", "write_timeout"] {
        proxy.metric_becomes(&["ringside_connections_closed_total", cause], "1");
    }
    assert_eq!(proxy.connect().get("/").status(), 200, "others are unhurt");
}

fn a_client_that_leaves_cancels_its_request(io: &str) {
    let requests = [
        "GET / HTTP/1.1\r\nhost: web\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 100000\r\n\r\nbegin",
        "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    ];
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    for request in requests {
        for answered in [false, true] {
            let mut client = proxy.connect();
            client.send(request);
            let mut server = origin.accept();
            server.until(b"\r\n\r\n").unwrap();
            if answered {
                server.send("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\npart");
                client.until(b"part").unwrap();
            }
            drop(client);
            server.ends_orderly(); // soon, or this panics
        }
    }
    proxy.metric_becomes(&["ringside_connections_active"], "0");
    proxy.metric_becomes(&["ringside_upstream_connections_active"], "0");
}

fn a_broken_request_body_aborts_the_upstream(io: &str) {
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    for bad in ["5g\r\n", "-1\r\n", "5\nhello\r\n", "5\r\nhelloX\r\n", "0\r\nno colon\r\n\r\n"] {
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut server = origin.accept();
        server.until(b"\r\n\r\n").unwrap();
        client.send("3\r\nabc\r\n");
        assert_eq!(server.until(b"abc\r\n").unwrap(), b"3\r\nabc\r\n");
        client.send(bad);
        let answer = client.message().unwrap();
        assert_eq!((answer.status(), answer.cause()), (400, "bad_request"), "{bad:?}");
        let rest = server.read_to_end();
        assert!(!rest.windows(3).any(|end| end == b"0\r\n"), "no final chunk after {bad:?}");
    }
}

fn a_refused_request_never_reaches_the_upstream(io: &str) {
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\nhost: a\n\n", 400),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", 400),
    ];
    for (request, status) in rows {
        let mut client = proxy.connect();
        client.send(request);
        client.send("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = client.message().unwrap_or_else(|| panic!("{request:?} is answered"));
        assert!(
            answer.status() == status || status != 400 && answer.status() == 400,
            "{request:?}: {answer:?}"
        );
        client.half_close();
        assert_eq!(client.message(), None, "closed after {request:?}");
    }
    assert!(!origin.has_connection());
}

fn a_head_in_a_thousand_packets_is_a_head(io: &str) {
    let origin = Origin::bind();
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    let play = beside(move || {
        let mut server = origin.accept();
        let head = server.message().unwrap().head;
        assert!(head.contains(&"v".repeat(900)), "{head}");
        let response =
            format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "w".repeat(950));
        for byte in response.as_bytes() {
            server.send([*byte]);
        }
        server
    });
    let mut client = proxy.connect();
    for byte in format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n", "v".repeat(950)).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.message().unwrap().body, b"ok");
    play.join().unwrap();
}

fn stopped_readers_do_not_stop_others(io: &str) {
    reactor::raise_descriptor_limit().unwrap();
    const READERS: usize = 1_000;
    static BIG: [u8; 8 << 20] = [7; 8 << 20];
    let origin = Origin::bind().serve(|server| {
        while let Some(request) = server.message() {
            let body: &[u8] = match request.head.starts_with("GET /big") {
                true => &BIG,
                false => b"ok",
            };
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
            server.send(body);
        }
    });
    let extra = "limits: { memory: 64MiB }";
    let proxy = Proxy::start(io, &config(origin, "", "", extra));
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    let before = resident();
    let stopped: Vec<Client> = (0..READERS)
        .map(|_| {
            let mut client = proxy.connect();
            client.send("GET /big HTTP/1.1\r\nhost: web\r\n\r\n");
            client
        })
        .collect();
    proxy.metric_becomes(&["ringside_upstream_connections_active"], &READERS.to_string());
    for _ in 0..100 {
        assert_eq!(proxy.connect().get("/").body, b"ok", "a healthy client is served");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown <= (64 << 20) + (20 << 20), "{grown} bytes more are resident");
    drop(stopped);
}

/// A process that may open this many descriptors, for itself and few connections.
const FEW_DESCRIPTORS: u64 = 64;

fn start_with_few_descriptors(io: &str, config: &str) -> Proxy {
    let mut shell = Command::new("sh");
    // `exec`: the process id is ringside's.
    let script = format!("ulimit -n {FEW_DESCRIPTORS}; exec \"$@\"");
    shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ringside")]);
    Proxy::start_by(shell, io, config)
}

fn out_of_descriptors_pauses_and_recovers(io: &str) {
    let proxy = start_with_few_descriptors(io, &config(echo_origin(), "", "", ""));
    let taken = proxy.exhaust_descriptors(FEW_DESCRIPTORS);
    let mut waiting = proxy.connect();
    let said = proxy.says("accepting paused");
    assert!(said.contains("web") && said.contains("ulimit -n"), "{said}");
    drop(taken);
    assert_eq!(waiting.get("/after").body, b"GET /after HTTP/1.1|", "it recovers");
    let again = proxy.said_since().into_iter().filter(|line| line.contains("accepting paused"));
    assert_eq!(again.count(), 0, "said once");
}

fn no_descriptor_for_an_upstream_is_a_named_503(io: &str) {
    let proxy = start_with_few_descriptors(io, &config(echo_origin(), "", "", ""));
    let mut client = proxy.connect();
    proxy.metric_becomes(&["ringside_connections_active", "web"], "1");
    let taken = proxy.exhaust_descriptors(FEW_DESCRIPTORS);
    let answer = client.get("/during");
    assert_eq!((answer.status(), answer.cause()), (503, "overloaded"), "{answer:?}");
    let body = String::from_utf8_lossy(&answer.body);
    assert!(body.contains("out of file descriptors") && body.contains("ulimit -n"), "{body}");
    proxy.says("overloaded: ");
    drop(taken);
    while client.get("/after").status() == 503 {}
}

fn out_of_pipes_bodies_are_copied(io: &str) {
    // Answers with what it was sent.
    let origin = Origin::bind().serve(|server| {
        while let Some(request) = server.message() {
            let body = request.body;
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
            server.send(body);
        }
    });
    let proxy = start_with_few_descriptors(io, &config(origin, "", "", ""));
    let pipes = || {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", proxy.id())).unwrap();
        let targets = folder.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
    };
    let all = pattern(3_000_000);
    // Both of its connections are there before the descriptors are gone.
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    let mut comes_back = || {
        let mut sender = Client::from(client.stream().try_clone().unwrap());
        let sent = all.clone();
        let upload = beside(move || {
            let head = format!("PUT / HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\n", sent.len());
            sender.send(head + "\r\n");
            sender.send(sent);
        });
        let answer = client.message().expect("an answer");
        upload.join().unwrap();
        assert_eq!((answer.status(), answer.cause()), (200, ""));
        assert!(answer.body == all, "the body came back whole");
    };
    let before = pipes();
    let taken = proxy.exhaust_descriptors(FEW_DESCRIPTORS);
    comes_back();
    assert_eq!(pipes(), before, "there was no room for a pipe");
    drop(taken);
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while pipes() == before {
        comes_back();
        assert!(std::time::Instant::now() < deadline, "it splices again");
    }
}

fn more_connections_than_descriptors_allow_are_refused(io: &str) {
    let mut proxy = start_with_few_descriptors(io, &config(echo_origin(), "", "", ""));
    let cut = "limits.connections cut from";
    assert!(proxy.said.iter().any(|fact| fact.contains(cut)), "{:?}", proxy.said);
    let clients: Vec<Client> = (0..100).map(|_| proxy.connect()).collect();
    proxy.metric_is(&["connections_closed_total", "connection_limit"], |count| count > 0.0);
    drop(clients);
    // Some of them may still be in the queue, and take the seat for a moment.
    let answer = (0..100_000).find_map(|_| {
        let mut client = proxy.connect();
        client.send("GET /after HTTP/1.1\r\nhost: web\r\n\r\n");
        client.message()
    });
    assert_eq!(answer.expect("it recovers").body, b"GET /after HTTP/1.1|");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

fn sigterm_finishes_what_is_begun(io: &str) {
    let origin = Origin::bind();
    let text = config(origin.address, "", "", "").replace("grace: 100ms", "grace: 500ms");
    let mut proxy = Proxy::start(io, &text);
    let mut begun = proxy.connect();
    begun.send("GET /slow HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    let mut idle = proxy.connect();
    idle.send("GET /idle HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut other = origin.accept();
    other.message().unwrap();
    other.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(idle.message().unwrap().body, b"ok");

    proxy.signal("TERM");
    proxy.says("draining");
    // Still accepting, but nobody is invited to stay.
    let mut late = proxy.connect();
    late.send("GET /late HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut third = match other.message() {
        Some(_) => other, // the idle connection was used again
        None => {
            let mut third = origin.accept();
            third.message().unwrap();
            third
        }
    };
    third.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate");
    let answer = late.message().unwrap();
    assert_eq!((&answer.body[..], answer.header("connection")), (&b"late"[..], Some("close")));
    assert!(idle.ends_orderly(), "idle connections end after the grace period");
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
    assert_eq!(begun.message().unwrap().body, b"done", "what was begun is finished");
    assert_eq!(proxy.exit_code(), Some(0));
}

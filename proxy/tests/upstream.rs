//! Upstreams that say too much, too little, or something else: the client gets what is its own, or is
//! told; the next client never gets what was another's.

mod support;

use std::net::SocketAddr;

use support::{Client, Origin, Proxy, beside, config, head_origin, pattern};

on_both_drivers! {
    a_reset_within_or_after_the_head,
    a_reset_after_the_response_hurts_nobody,
    a_response_that_nobody_asked_for_reaches_nobody,
    a_body_where_none_may_be_reaches_nobody,
    surplus_in_the_same_segment_reaches_nobody,
    surplus_in_a_later_segment_reaches_nobody,
    surplus_is_never_an_answer_to_one_of_many,
    surplus_behind_what_is_spliced_reaches_nobody,
    surplus_behind_full_buffers_reaches_nobody,
    a_head_of_a_mebibyte_is_refused,
    a_bad_chunk_after_the_head_cuts_the_response,
    only_100_continue_may_be_expected,
    only_a_proper_websocket_upgrade_goes_on,
    a_switch_that_nobody_asked_for_is_no_tunnel,
}

fn proxy(io: &str, origin: SocketAddr) -> Proxy {
    Proxy::start(io, &config(origin, "", "", ""))
}

/// What nobody asked for.
const STOLEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")
}

fn a_reset_within_or_after_the_head(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for head in ["HTTP/1.1 2", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"] {
        let mut client = proxy.connect();
        client.send(get("/"));
        let mut server = origin.accept();
        server.message().unwrap();
        server.send(head);
        server.reset();
        let answer = client.message().unwrap();
        assert_eq!((answer.status(), answer.cause()), (502, "upstream_reset"), "{head:?}");
    }
    let rows = [
        ("content-length: 100000", 0),
        ("content-length: 100000", 50_000),
        ("transfer-encoding: chunked", 0),
        ("transfer-encoding: chunked", 50_000),
        ("x-until: close", 0),
        ("x-until: close", 50_000),
    ];
    for (at, (framing, len)) in rows.into_iter().enumerate() {
        let mut client = proxy.connect();
        client.send(get("/"));
        let mut server = origin.accept();
        server.message().unwrap();
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        if framing == "transfer-encoding: chunked" && len > 0 {
            server.send(format!("{len:x}\r\n"));
        }
        server.send(vec![b'x'; len]);
        client.until(b"\r\n\r\n").unwrap();
        if len > 0 {
            client.until(&[b'x'; 40_000]).unwrap();
        }
        server.reset();
        assert!(!client.ends_orderly(), "the part is not the whole: {framing}, {len}");
        let counted = ["ringside_requests_total", "upstream_truncated"];
        proxy.metric_becomes(&counted, &(at + 1).to_string());
    }
}

fn a_reset_after_the_response_hurts_nobody(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let mut client = proxy.connect();
    for _ in 0..20 {
        client.send(get("/"));
        let mut server = origin.accept();
        server.message().unwrap();
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(client.message().unwrap().body, b"ok");
        server.reset();
    }
    proxy.metric_becomes(&["ringside_requests_total", "200", r#"cause="""#], "20");
}

fn a_response_that_nobody_asked_for_reaches_nobody(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for stray in [STOLEN, "x", "\r\n", "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"]
    {
        for method in ["GET", "POST"].repeat(5) {
            let mut client = proxy.connect();
            client.send(get("/first"));
            let mut server = origin.accept();
            server.message().unwrap();
            server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst");
            assert_eq!(client.message().unwrap().body, b"first");
            server.send(stray);
            let mut next = proxy.connect();
            next.send(format!("{method} /next HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n"));
            let mut fresh = origin.accept();
            fresh.message().unwrap();
            fresh.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnext");
            assert_eq!(next.message().unwrap().body, b"next", "{method} after {stray:?}");
            server.read_to_end();
        }
    }
}

fn a_body_where_none_may_be_reaches_nobody(io: &str) {
    let rows = [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 49\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 49\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 49\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n"),
    ];
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for (method, head) in rows {
        for is_later in [false, true] {
            let mut client = proxy.connect();
            client.send(format!("{method} / HTTP/1.1\r\nhost: web\r\n\r\n"));
            let mut server = origin.accept();
            server.message().unwrap();
            if is_later {
                server.send(head);
                client.until(b"\r\n\r\n").unwrap_or_else(|| panic!("{head:?}"));
                server.send(STOLEN);
            } else {
                server.send(head.to_owned() + STOLEN);
                client.until(b"\r\n\r\n").unwrap_or_else(|| panic!("{head:?}"));
            }
            // It may be told to go, but gets nothing of what is not its own.
            for mut next in [client, proxy.connect()] {
                next.send(get("/next"));
                if origin_is_asked(&origin, &mut next) {
                    assert_eq!(next.message().unwrap().body, b"next", "{method} {head:?}");
                }
            }
            server.read_to_end();
        }
    }
}

/// Answers the next request on a new connection; false if instead the client's was closed.
fn origin_is_asked(origin: &Origin, client: &mut Client) -> bool {
    let stream = client.stream();
    loop {
        if let Some(mut fresh) = origin.accept_now() {
            fresh.message().unwrap();
            fresh.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnext");
            return true;
        }
        stream.set_read_timeout(Some(std::time::Duration::from_millis(5))).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        match peeked {
            Ok(0) => return false,
            Ok(_) => return true, // an answer, whoever gave it
            Err(_) => {}
        }
    }
}

/// A response whose body is as long as its path says: `/length/N`, `/chunks/N`.
fn response(path: &str) -> Option<Vec<u8>> {
    let (kind, len) = path.strip_prefix('/')?.split_once('/')?;
    let len = len.parse().unwrap();
    let (head, end) = match kind {
        "length" => (format!("content-length: {len}\r\n\r\n"), ""),
        _ => (format!("transfer-encoding: chunked\r\n\r\n{len:x}\r\n"), "\r\n0\r\n\r\n"),
    };
    Some([b"HTTP/1.1 200 OK\r\n", head.as_bytes(), &pattern(len), end.as_bytes()].concat())
}

/// Paths of responses that end exactly where a buffer may.
fn ends_of_buffers(kind: &str, sizes: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let path = |size: u32| {
        let size = 1 << size;
        let mut len = size;
        while response(&format!("/{kind}/{len}")).unwrap().len() > size {
            len -= 1;
        }
        format!("/{kind}/{len}")
    };
    sizes.map(path).collect()
}

/// Answers each request by its path; what has a body as the path says is followed by a surplus, and
/// no other request should come after it.
fn talkative_origin() -> SocketAddr {
    Origin::bind().serve(|server| {
        while let Some(request) = server.message() {
            match response(request.head.split(' ').nth(1).unwrap()) {
                Some(response) => server.send([&response, STOLEN.as_bytes()].concat()),
                None => server.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"),
            }
        }
    })
}

/// What is not spliced.
fn paths() -> Vec<String> {
    let mut paths =
        ["/length/2", "/length/3000", "/chunks/2", "/chunks/100000"].map(Into::into).to_vec();
    paths.extend(ends_of_buffers("length", 10..=13));
    paths.extend(ends_of_buffers("chunks", 10..=13));
    paths
}

fn surplus_in_the_same_segment_reaches_nobody(io: &str) {
    let proxy = proxy(io, talkative_origin());
    for path in paths() {
        surplus_after(&proxy, &path);
    }
}

fn surplus_after(proxy: &Proxy, path: &str) {
    for is_pipelined in [false, true].repeat(4) {
        let mut client = proxy.connect();
        // The connection has carried something: the kernel's pieces do not end where the body does.
        assert_eq!(client.get("/good").body, b"good");
        let mut requests = get(path);
        if is_pipelined {
            requests += &get("/good");
        }
        client.send(requests);
        let answer = client.message().unwrap();
        let len = answer.body.len();
        assert!(path.ends_with(&format!("/{len}")) && answer.body == pattern(len), "{path}: {len}");
        if !is_pipelined {
            client.send(get("/good"));
        }
        // The answer to what follows is its own; to end the connection is right too.
        if let Some(next) = client.message() {
            let next = String::from_utf8_lossy(&next.body).into_owned();
            assert_eq!(next, "good", "after {path}, pipelined: {is_pipelined}");
        }
        assert_eq!(proxy.connect().get("/good").body, b"good", "after {path}");
    }
}

fn surplus_in_a_later_segment_reaches_nobody(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for path in ["/length/2", "/length/100000", "/chunks/2", "/chunks/100000"].repeat(5) {
        let mut client = proxy.connect();
        client.send(get(path));
        let mut server = origin.accept();
        server.message().unwrap();
        let mut sender = Client::from(server.stream().try_clone().unwrap());
        let sending = beside(move || sender.send(response(path).unwrap()));
        assert_eq!(client.message().unwrap().status(), 200);
        sending.join().unwrap();
        server.send(STOLEN);
        client.send(get("/next"));
        let mut fresh = origin.accept();
        fresh.message().unwrap();
        fresh.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnext");
        assert_eq!(client.message().unwrap().body, b"next", "after {path}");
        server.read_to_end();
    }
}

fn surplus_is_never_an_answer_to_one_of_many(io: &str) {
    let proxy = proxy(io, talkative_origin());
    all_get_their_own(&proxy, &["/length/2", "/length/3000", "/chunks/2", "/chunks/100000"]);
}

/// For each path a client that asks for it again and again, and one that asks for something else.
fn all_get_their_own(proxy: &Proxy, paths: &[&str]) {
    let address = proxy.address("web");
    std::thread::scope(|scope| {
        for path in paths.iter().flat_map(|path| [path, "/good"]) {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..50 {
                    client.send(get(path));
                    let Some(answer) = client.message() else {
                        client = Client::connect(address);
                        continue;
                    };
                    let body = match path {
                        "/good" => b"good".to_vec(),
                        _ => pattern(path.rsplit('/').next().unwrap().parse().unwrap()),
                    };
                    assert!(answer.body == body, "{path} got {answer:.200?}");
                }
            });
        }
    });
}

fn surplus_behind_what_is_spliced_reaches_nobody(io: &str) {
    let proxy = proxy(io, talkative_origin());
    for path in ["/length/100000", "/length/3000000"] {
        surplus_after(&proxy, path);
    }
    all_get_their_own(&proxy, &["/length/100000", "/length/3000000"]);
}

fn surplus_behind_full_buffers_reaches_nobody(io: &str) {
    let proxy = proxy(io, talkative_origin());
    for path in ends_of_buffers("length", 14..=18).iter().chain(&ends_of_buffers("chunks", 14..=18))
    {
        surplus_after(&proxy, path);
    }
}

fn a_head_of_a_mebibyte_is_refused(io: &str) {
    let long_line = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "v".repeat(1 << 20));
    let many_lines = format!("HTTP/1.1 200 OK\r\n{}", "x: v\r\n".repeat((1 << 20) / 6));
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for head in [long_line, many_lines] {
        let mut client = proxy.connect();
        client.send(get("/"));
        let mut server = origin.accept();
        server.message().unwrap();
        let play = beside(move || {
            server.send(head); // of which not all is taken
            server.send("content-length: 2\r\n\r\nok");
            server.ends_orderly();
        });
        let answer = client.message().unwrap();
        assert_eq!((answer.status(), answer.cause()), (502, "upstream_bad_response"));
        play.join().unwrap();
    }
}

fn a_bad_chunk_after_the_head_cuts_the_response(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let bads =
        ["5g\r\n", "-1\r\n", "\r\n", "5\nhello\r\n", "5\r\nhelloX\r\n", "0\r\nno colon\r\n\r\n"];
    for (at, bad) in bads.into_iter().enumerate() {
        let mut client = proxy.connect();
        client.send(get("/"));
        let mut server = origin.accept();
        server.message().unwrap();
        server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
        client.until(b"3\r\nabc\r\n").unwrap();
        server.send(bad.to_owned() + "0\r\n\r\n" + STOLEN);
        let rest = client.read_to_end();
        let has = |what: &[u8]| rest.windows(what.len()).any(|window| window == what);
        assert!(!has(b"0\r\n\r\n") && !has(b"stolen"), "{bad:?}: {}", rest.escape_ascii());
        server.read_to_end(); // it is closed, not used again
        let counted = ["ringside_requests_total", "upstream_bad_response"];
        proxy.metric_becomes(&counted, &(at + 1).to_string());
    }
}

fn only_100_continue_may_be_expected(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    for expectation in ["200-ok", "100-continue, x", "100-continuex", "x=100-continue", ""] {
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n";
        client.send(format!("{head}expect: {expectation}\r\n\r\nok"));
        let answer = client.message().unwrap();
        let got = (answer.status(), answer.cause());
        assert_eq!(got, (417, "expectation_failed"), "{expectation:?}");
    }
    assert!(!origin.has_connection());
}

const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn only_a_proper_websocket_upgrade_goes_on(io: &str) {
    let proxy = proxy(io, head_origin());
    let rows = [
        ("upgrade, http2-settings", "h2c", "http2-settings: AAMAAABkAAQAAP__\r\n".to_owned()),
        ("upgrade", "websocket", "sec-websocket-version: 13\r\n".to_owned()),
        ("upgrade", "websocket", KEY.to_owned()),
        ("upgrade", "websocket, h2c", format!("sec-websocket-version: 13\r\n{KEY}")),
        ("upgrade", "h2c, websocket", format!("sec-websocket-version: 13\r\n{KEY}")),
        ("upgrade", "websocket\r\nupgrade: h2c", format!("sec-websocket-version: 13\r\n{KEY}")),
        ("keep-alive", "websocket", format!("sec-websocket-version: 13\r\n{KEY}")),
    ];
    for (connection, protocol, fields) in rows {
        let mut client = proxy.connect();
        let answer = client.ask(format!(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: {connection}\r\nupgrade: {protocol}\r\n{fields}\r\n"
        ));
        if answer.status() == 200 {
            let seen = String::from_utf8(answer.body).unwrap().to_lowercase();
            let asked = ["\r\nupgrade:", "\r\nconnection:", "http2-settings"];
            assert!(!asked.iter().any(|name| seen.contains(name)), "{protocol}: {seen}");
            assert_eq!(client.get("/next").status(), 200, "the next is read as a request");
        } else {
            assert_eq!(answer.status(), 400, "{protocol}: {answer:?}");
        }
    }
}

fn a_switch_that_nobody_asked_for_is_no_tunnel(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let asked =
        format!("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n{KEY}");
    let rows = [
        ("", "websocket"),
        ("connection: upgrade\r\nupgrade: h2c\r\n", "h2c"),
        (&asked, "h2c"),
        (&asked, "websocket, h2c"),
    ];
    for (fields, granted) in rows {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nhost: web\r\n{fields}\r\n"));
        let mut server = origin.accept();
        server.message().unwrap();
        server.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {granted}\r\n\r\n"
        ));
        let answer = client.message().unwrap();
        let got = (answer.status(), answer.cause());
        assert_eq!(got, (502, "upstream_bad_response"), "{fields:?}: {granted}");
        client.send("bytes of a tunnel");
        assert_eq!(server.read_to_end(), b"");
    }
}

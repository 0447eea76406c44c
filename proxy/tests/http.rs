//! HTTP/1.1 through a real ringside, between raw sockets.

mod support;

use std::time::Duration;

use support::{Client, Message, Origin, Proxy, beside, config, echo_origin, head_origin, pattern};

on_both_drivers! {
    keep_alive_and_pipelining,
    close_first_means_one_upstream_request,
    paths_are_normal_before_they_are_routed,
    paths_stay_as_they_are_where_told_so,
    http_1_0_gets_what_it_understands,
    head_and_bodiless_statuses,
    continue_is_relayed_both_ways,
    chunks_and_trailers_go_both_ways,
    large_bodies_arrive_exactly,
    a_body_until_close_is_delimited_for_the_client,
    an_early_response_arrives_and_ends_the_connection,
    an_upstream_that_answered_early_is_not_used_again,
    a_half_closed_client_gets_its_response,
    forwarded_headers_are_added_or_not,
    hop_by_hop_fields_end_here,
    a_response_without_a_date_gets_one,
    websocket_is_a_tunnel_only_after_101,
    connect_goes_to_the_routes_service,
    causes_are_named,
    limits_are_kept,
    a_body_of_exactly_the_limit_passes,
    a_body_beyond_the_limit_is_refused_and_never_passed_on,
    chunks_that_come_with_the_head_count_as_content,
    chunks_that_come_with_the_head_count_at_all,
    unix_sockets_on_both_sides,
    any_address_of_ipv6_takes_ipv4_too,
}

fn proxy(io: &str, origin: std::net::SocketAddr) -> Proxy {
    Proxy::start(io, &config(origin, "", "", ""))
}

fn keep_alive_and_pipelining(io: &str) {
    let proxy = proxy(io, echo_origin());
    let mut client = proxy.connect();
    for n in 0..50 {
        let response = client.get(&format!("/{n}"));
        assert_eq!(response.body, format!("GET /{n} HTTP/1.1|").into_bytes());
    }
    for count in [2, 100] {
        let requests: String =
            (0..count).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: web\r\n\r\n")).collect();
        client.send(requests);
        for n in 0..count {
            let response = client.message().expect("an answer to each, in order");
            assert_eq!(response.body, format!("GET /{n} HTTP/1.1|").into_bytes());
        }
    }
}

fn close_first_means_one_upstream_request(io: &str) {
    let proxy = proxy(io, echo_origin());
    let mut client = proxy.connect();
    client.send(
        "GET /1 HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n\
         GET /2 HTTP/1.1\r\nhost: web\r\n\r\n",
    );
    let response = client.message().unwrap();
    assert_eq!(response.body, b"GET /1 HTTP/1.1|");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.message(), None);
    proxy.metric_becomes(&["ringside_requests_total", r#"code="200""#], "1");
}

/// Targets and what of each reaches an upstream whose one route is the prefix `/api`.
const SPELLINGS: [(&str, Option<&str>); 11] = [
    ("/api//x/./y?q=/../%2e", Some("/api/x/y?q=/../%2e")),
    ("/else/..//%61pi/x", Some("/api/x")),
    ("http://web/else/../api/", Some("/api/")),
    ("/api/%2e%2E/secret", None),
    ("/api/../secret", None),
    ("/../../secret/../api", Some("/api")),
    ("/api%2fx", None),
    ("/api/%2f..%2F", Some("/api/%2f..%2F")),
    ("/api/%c3%a9/%7e?q=%c3", Some("/api/%C3%A9/~?q=%c3")),
    ("/api/é|{x}?é", Some("/api/%C3%A9%7C%7Bx%7D?é")),
    ("http://web//api/é", Some("/api/%C3%A9")),
];

fn paths_are_normal_before_they_are_routed(io: &str) {
    let config = config(echo_origin(), "", ", matches: [{ path: { prefix: /api } }]", "");
    let proxy = Proxy::start(io, &config);
    let mut client = proxy.connect();
    for (target, expect) in SPELLINGS {
        let response = client.get(target);
        match expect {
            Some(path) => {
                assert_eq!(response.body, format!("GET {path} HTTP/1.1|").into_bytes(), "{target}");
            }
            None => assert_eq!(response.cause(), "no_route", "{target}"),
        }
    }
}

fn paths_stay_as_they_are_where_told_so(io: &str) {
    let config =
        config(echo_origin(), "", "", "").replace("http: {}", "http: { normalize_path: false }");
    let proxy = Proxy::start(io, &config);
    let mut client = proxy.connect();
    for target in ["/a//b/../%2e/%61", "/../x", "//", "/é%c3%a9{"] {
        assert_eq!(client.get(target).body, format!("GET {target} HTTP/1.1|").into_bytes());
    }
}

fn http_1_0_gets_what_it_understands(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        let request = server.message().unwrap();
        assert!(request.head.starts_with("GET /old HTTP/1.1\r\n"), "a proxy sends its own version");
        server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        server
    });
    let mut client = proxy.connect();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let all = String::from_utf8(client.read_to_end()).unwrap();
    assert!(!all.to_ascii_lowercase().contains("transfer-encoding"), "{all}");
    assert!(all.ends_with("\r\n\r\nhello"), "{all}");
    play.join().unwrap();
}

fn head_and_bodiless_statuses(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        for response in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ] {
            server.message().unwrap();
            server.send(response);
        }
        server
    });
    let mut client = proxy.connect();
    client.send("HEAD / HTTP/1.1\r\nhost: web\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(head.contains("content-length: 1000"), "{head}");
    assert_eq!(client.get("/").status(), 204);
    assert_eq!(client.get("/").status(), 304);
    assert_eq!(client.get("/").body, b"ok");
    play.join().unwrap();
}

fn continue_is_relayed_both_ways(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        let head = server.until(b"\r\n\r\n").unwrap();
        assert!(String::from_utf8_lossy(&head).to_lowercase().contains("expect: 100-continue"));
        server.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(server.exactly(5), b"hello");
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        server
    });
    let mut client = proxy.connect();
    client
        .send("POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.message().unwrap().status(), 100);
    client.send("hello");
    assert_eq!(client.message().unwrap().body, b"ok");
    play.join().unwrap();
}

fn chunks_and_trailers_go_both_ways(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        let request = server.until(b"\r\n0\r\nx-sum: 1\r\n\r\n").expect("chunks with the trailer");
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains("transfer-encoding: chunked"), "{request}");
        server.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 2\r\n\r\n",
        );
        server
    });
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwxyz\r\n");
    client.send("0\r\nx-sum: 1\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(client.until(b"\r\n\r\n").unwrap(), b"3\r\nabc\r\n0\r\nx-sum: 2\r\n\r\n");
    play.join().unwrap();
}

fn large_bodies_arrive_exactly(io: &str) {
    // Each request is answered with its own body, by length or in chunks as asked.
    let origin = Origin::bind().serve(|client| {
        while let Some(request) = client.message() {
            let body = request.body;
            if request.head.starts_with("PUT /chunked") {
                client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(10_000) {
                    client.send(format!("{:x}\r\n", chunk.len()));
                    client.send(chunk);
                    client.send("\r\n");
                }
                client.send("0\r\n\r\n");
            } else {
                client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
                client.send(body);
            }
        }
    });
    let proxy = proxy(io, origin);
    let mut client = proxy.connect();
    for len in [1, 2_000, 4_095, 4_096, 70_000, 3_000_000] {
        let body = pattern(len);
        for path in ["/length", "/chunked"] {
            let mut sender = Client::from(client.stream().try_clone().unwrap());
            let sent = body.clone();
            let head = format!("PUT {path} HTTP/1.1\r\nhost: web\r\n");
            let chunked = path == "/chunked";
            let upload = beside(move || match chunked {
                true => {
                    sender.send(head + "transfer-encoding: chunked\r\n\r\n");
                    for chunk in sent.chunks(7_777) {
                        sender.send(format!("{:x}\r\n", chunk.len()));
                        sender.send(chunk);
                        sender.send("\r\n");
                    }
                    sender.send("0\r\n\r\n");
                }
                false => {
                    sender.send(head + &format!("content-length: {}\r\n\r\n", sent.len()));
                    sender.send(sent);
                }
            });
            let response = client.message().expect("a response");
            upload.join().unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.body == body, "{path} {len}: the body came back whole");
        }
    }
}

fn a_body_until_close_is_delimited_for_the_client(io: &str) {
    let body = pattern(500_000);
    let sent = body.clone();
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        server.message().unwrap();
        server.send("HTTP/1.1 200 OK\r\n\r\n");
        server.send(sent);
    });
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let head = client.until(b"\r\n\r\n").unwrap();
    assert!(String::from_utf8_lossy(&head).contains("connection: close"));
    assert!(client.read_to_end() == body);
    play.join().unwrap();
}

fn an_early_response_arrives_and_ends_the_connection(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut server = origin.accept();
        server.until(b"\r\n\r\n").unwrap();
        server.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
        server.ends_orderly(); // the request is not finished: the connection is of no more use
    });
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\nbegin");
    let response = client.message().unwrap();
    assert_eq!((response.status(), &response.body[..]), (403, &b"no"[..]));
    assert_eq!(response.header("connection"), Some("close"));
    client.half_close();
    assert_eq!(client.message(), None);
    play.join().unwrap();
}

/// It still waits for the rest of the body, and would take the next client's request for it.
fn an_upstream_that_answered_early_is_not_used_again(io: &str) {
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut early = origin.accept();
        early.until(b"begin").unwrap();
        early.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
        let mut fresh = origin.accept();
        assert!(fresh.message().unwrap().head.starts_with("GET /next HTTP/1.1"));
        fresh.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext");
        let rest = early.read_to_end();
        assert_eq!(rest, b"", "nothing of another client's request: {rest:?}");
    });
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000\r\n\r\nbegin");
    assert_eq!(client.message().unwrap().status(), 403);
    assert_eq!(proxy.connect().get("/next").body, b"next");
    play.join().unwrap();
}

fn a_half_closed_client_gets_its_response(io: &str) {
    let proxy = proxy(io, echo_origin());
    let mut client = proxy.connect();
    client.send("GET /last HTTP/1.1\r\nhost: web\r\n\r\n");
    client.half_close();
    assert_eq!(client.message().unwrap().body, b"GET /last HTTP/1.1|");
    assert!(client.ends_orderly());
}

fn forwarded_headers_are_added_or_not(io: &str) {
    let claims = "x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\nx-request-id: mine\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: web\r\n{claims}\r\n");
    let origin = head_origin();
    let seen = |listener: &str| {
        let proxy = Proxy::start(io, &config(origin, listener, "", ""));
        String::from_utf8(proxy.connect().ask(&request).body).unwrap()
    };
    let untrusted = seen("");
    assert!(untrusted.contains("x-forwarded-for: 127.0.0.1\r\n"), "{untrusted}");
    assert!(untrusted.contains("x-forwarded-proto: http\r\n"), "{untrusted}");
    assert!(untrusted.contains("via: 1.1 ringside\r\n"), "{untrusted}");
    assert!(!untrusted.contains("mine") && untrusted.contains("x-request-id: "), "{untrusted}");

    let trusted = seen(r#", forwarded: { trust: ["127.0.0.0/8"] }"#);
    assert!(trusted.contains("x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n"), "{trusted}");
    assert!(trusted.contains("x-request-id: mine\r\n"), "{trusted}");
    assert!(trusted.contains("x-forwarded-proto: https\r\n"), "{trusted}");

    let none = seen(", forwarded: { add: [] }");
    for name in ["x-forwarded", "x-request-id", "via"] {
        assert!(!none.contains(name), "{none}");
    }
}

fn hop_by_hop_fields_end_here(io: &str) {
    let proxy = proxy(io, head_origin());
    let response = proxy.connect().ask(
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: x-mine, Host, Content-Length\r\nx-mine: 1\r\n\
         keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nx-yours: 2\r\n\r\n",
    );
    let seen = String::from_utf8(response.body).unwrap().to_lowercase();
    for gone in ["x-mine", "keep-alive", "proxy-connection", "connection:"] {
        assert!(!seen.contains(gone), "{seen}");
    }
    assert!(seen.contains("host: web\r\n") && seen.contains("x-yours: 2\r\n"), "{seen}");
}

fn a_response_without_a_date_gets_one(io: &str) {
    // The origin adds to its head what the path says.
    let origin = Origin::bind().serve(|client| {
        while let Some(request) = client.message() {
            let path = request.head.split(' ').nth(1).unwrap();
            let fields = match path {
                "/dated" => "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
                "/hidden" => "connection: date\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
                "/hints" => {
                    client.send("HTTP/1.1 103 Early Hints\r\n\r\n");
                    ""
                }
                _ => "",
            };
            client.send(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"));
        }
    });
    let dates = |message: &Message| {
        let lines = message.head.lines().filter_map(|line| line.split_once(": "));
        let dates = lines.filter(|(name, _)| name.eq_ignore_ascii_case("date"));
        dates.map(|(_, date)| date.to_owned()).collect::<Vec<_>>()
    };
    let now = |message: &Message| {
        let dates = dates(message);
        let [date] = &dates[..] else { panic!("one date: {dates:?}") };
        let age = httpdate::parse_http_date(date).unwrap().elapsed();
        assert!(age.is_ok_and(|age| age < Duration::from_secs(60)), "{date}");
    };
    let proxy = Proxy::start(io, &config(origin, "", "", ""));
    let mut client = proxy.connect();
    now(&client.get("/"));
    now(&client.get("/hidden"));
    assert_eq!(dates(&client.get("/dated")), ["Sun, 06 Nov 1994 08:49:37 GMT"]);
    client.send("GET /hints HTTP/1.1\r\nhost: web\r\n\r\n");
    let interim = client.message().unwrap();
    assert_eq!((interim.status(), dates(&interim)), (103, vec![]));
    now(&client.message().unwrap());
    // What the route says of it goes before.
    for (edits, wanted) in [("remove: [date]", &[][..]), ("set: { date: mine }", &["mine"][..])] {
        let edits = format!(", response_headers: {{ {edits} }}");
        let proxy = Proxy::start(io, &config(origin, "", &edits, ""));
        let mut client = proxy.connect();
        for path in ["/", "/dated"] {
            assert_eq!(dates(&client.get(path)), wanted, "{edits} {path}");
        }
    }
}

fn websocket_is_a_tunnel_only_after_101(io: &str) {
    let upgrade = "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let origin = Origin::bind();
    let proxy = proxy(io, origin.address);
    let play = beside(move || {
        let mut refusing = origin.accept();
        assert!(refusing.message().unwrap().head.contains("upgrade: websocket"));
        refusing.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno");
        // What follows is read as a request, not as bytes of a tunnel.
        assert!(refusing.message().unwrap().head.starts_with("GET /next HTTP/1.1"));
        refusing.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext");
        refusing.message().unwrap();
        refusing.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst",
        );
        assert_eq!(refusing.exactly(4), b"ping");
        refusing.send("pong");
        refusing.half_close();
        assert_eq!(refusing.read_to_end(), b"bye");
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask(upgrade).status(), 400);
    assert_eq!(client.get("/next").body, b"next");
    assert_eq!(client.ask(upgrade).status(), 101);
    assert_eq!(client.exactly(5), b"first");
    client.send("ping");
    assert_eq!(client.exactly(4), b"pong");
    client.send("bye");
    client.half_close();
    assert!(client.ends_orderly());
    play.join().unwrap();
}

fn connect_goes_to_the_routes_service(io: &str) {
    let origin = Origin::bind();
    let route = ", matches: [{ methods: [CONNECT] }]";
    let proxy = Proxy::start(io, &config(origin.address, "", route, ""));
    let play = beside(move || {
        let mut server = origin.accept();
        assert_eq!(server.exactly(4), b"ping");
        server.send("pong");
    });
    let mut client = proxy.connect();
    client.send("CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.send("ping");
    assert_eq!(client.exactly(4), b"pong");
    play.join().unwrap();

    let elsewhere = Proxy::start(io, &config(echo_origin(), "", "", ""));
    let refused = elsewhere.connect().ask("CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n\r\n");
    assert_eq!((refused.status(), refused.cause()), (403, "connect_not_allowed"));

    // A route that does not name it is not in the way of one that does.
    let origin = Origin::bind();
    let tunnel =
        "- { name: a-tunnel, matches: [{ methods: [CONNECT] }], backends: [{ service: origin }] }";
    let beside_it = config(origin.address, "", ", hosts: [web]", "") + "  " + tunnel + "\n";
    let proxy = Proxy::start(io, &beside_it);
    let mut client = proxy.connect();
    client.send("CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

fn causes_are_named(io: &str) {
    let nobody = Origin::bind().address; // closed at once
    let route = ", hosts: [web], timeouts: { response: 200ms }";
    let proxy = Proxy::start(io, &config(nobody, "", route, ""));
    let refused = proxy.connect().get("/");
    assert_eq!((refused.status(), refused.cause()), (503, "connect_failed"));
    assert_eq!(refused.header("x-ringside-cause"), Some("connect_failed; node=test-node"));
    assert!(String::from_utf8_lossy(&refused.body).contains("is it running"));
    let lost = proxy.connect().ask("GET / HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!((lost.status(), lost.cause()), (404, "no_route"));
    proxy.metric_becomes(&["ringside_requests_total", "no_route"], "1");

    let origin = Origin::bind();
    let silent = Proxy::start(io, &config(origin.address, "", route, ""));
    let mut client = silent.connect();
    let timed_out = client.get("/");
    assert_eq!((timed_out.status(), timed_out.cause()), (504, "response_timeout"));
    let _held = origin.accept();
}

fn limits_are_kept(io: &str) {
    let extra =
        "limits: { header_size: 4KiB, header_count: 100, target_size: 1KiB, body_size: 1KiB }";
    let proxy = Proxy::start(io, &config(echo_origin(), "", "", extra));
    let refused = |request: String| {
        let response = proxy.connect().ask(request);
        (response.status(), response.cause().to_owned())
    };
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nhost: web\r\n{rest}\r\n");
    let too_large = (431, "headers_too_large".to_owned());
    assert_eq!(refused(get(&format!("x: {}\r\n", "y".repeat(8_000)))), too_large);
    assert_eq!(refused(get(&"a: b\r\n".repeat(101))), too_large);
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "x".repeat(1_100));
    assert_eq!(refused(long), (414, "uri_too_long".to_owned()));
    let body_too_large = (413, "body_too_large".to_owned());
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nhost: web\r\n{rest}");
    assert_eq!(refused(post("content-length: 1025\r\n\r\n")), body_too_large);
    let chunks =
        format!("transfer-encoding: chunked\r\n\r\n800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048));
    assert_eq!(refused(post(&chunks)), body_too_large);
    let fitting = proxy.connect().ask(get(&"a: b\r\n".repeat(90)));
    assert_eq!(fitting.status(), 200);
}

fn any_address_of_ipv6_takes_ipv4_too(io: &str) {
    let text = config("127.0.0.1:1".parse().unwrap(), "", "", "")
        .replace(r#"name: web, address: "127.0.0.1:0""#, r#"name: web, address: "[::]:0""#)
        .replace(r#"probes: { address: "127.0.0.1:0" }"#, r#"probes: { address: "[::]:0" }"#);
    let proxy = Proxy::start(io, &text);
    for port in [proxy.address("web").port(), proxy.probes().stream().peer_addr().unwrap().port()] {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        assert!(client.ask("GET /livez HTTP/1.1\r\nhost: web\r\n\r\n").status() >= 200);
    }
}

/// How a request with a body is sent.
#[derive(Debug, Clone, Copy)]
struct Sending {
    is_chunked: bool,
    /// The first part of the body comes with the head.
    with_head: bool,
    /// Of the body, each in a segment of its own.
    parts: usize,
}

impl Sending {
    fn pieces(self, body: &[u8]) -> Vec<Vec<u8>> {
        let framing = match self.is_chunked {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {}", body.len()),
        };
        let mut pieces =
            vec![format!("POST / HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n").into_bytes()];
        for part in body.chunks(body.len().div_ceil(self.parts)) {
            let size = format!("{:x}\r\n", part.len());
            pieces.push(match self.is_chunked {
                true => [size.as_bytes(), part, b"\r\n"].concat(),
                false => part.to_vec(),
            });
        }
        if self.is_chunked {
            pieces.last_mut().unwrap().extend(b"0\r\n\r\n");
        }
        if self.with_head {
            let head = pieces.remove(0);
            pieces[0].splice(..0, head);
        }
        pieces
    }

    fn ask(self, client: &mut Client, body: &[u8]) -> Message {
        for piece in self.pieces(body) {
            client.send(piece);
            std::thread::sleep(Duration::from_millis(2)); // or it would be the same segment
        }
        client.message().expect("an answer")
    }
}

const SENDINGS: [Sending; 6] = [
    Sending { is_chunked: false, with_head: true, parts: 1 },
    Sending { is_chunked: false, with_head: true, parts: 3 },
    Sending { is_chunked: false, with_head: false, parts: 1 },
    Sending { is_chunked: false, with_head: false, parts: 3 },
    Sending { is_chunked: true, with_head: false, parts: 1 },
    Sending { is_chunked: true, with_head: false, parts: 3 },
];

/// So many bytes of a body are allowed.
fn limited(io: &str, origin: std::net::SocketAddr, bytes: usize) -> Proxy {
    let extra = format!("limits: {{ body_size: {bytes}B }}");
    Proxy::start(io, &config(origin, "", ", timeouts: { response: 3s }", &extra))
}

fn a_body_of_exactly_the_limit_passes(io: &str) {
    exactly_the_limit_passes(io, &SENDINGS);
}

fn exactly_the_limit_passes(io: &str, sendings: &[Sending]) {
    let origin = Origin::bind().serve(|server| {
        while let Some(request) = server.message() {
            let body = request.body;
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
            server.send(body);
        }
    });
    for limit in [10, 1_000, 100_000] {
        let (proxy, body) = (limited(io, origin, limit), pattern(limit));
        for sending in sendings {
            let answer = sending.ask(&mut proxy.connect(), &body);
            assert_eq!((answer.status(), answer.cause()), (200, ""), "{limit}, {sending:?}");
            assert!(answer.body == body, "{limit}, {sending:?}");
        }
    }
}

fn a_body_beyond_the_limit_is_refused_and_never_passed_on(io: &str) {
    beyond_the_limit_is_refused(io, &SENDINGS);
}

fn beyond_the_limit_is_refused(io: &str, sendings: &[Sending]) {
    for limit in [10, 1_000, 100_000] {
        let origin = Origin::bind();
        let proxy = limited(io, origin.address, limit);
        for sending in sendings {
            for len in [limit + 1, limit * 2] {
                let place = format!("{len} of {limit}, {sending:?}");
                let answer = sending.ask(&mut proxy.connect(), &pattern(len));
                assert_eq!((answer.status(), answer.cause()), (413, "body_too_large"), "{place}");
                let Some(mut server) = origin.accept_now() else { continue };
                assert!(sending.is_chunked, "the head says enough: {place}");
                let seen = server.read_to_end();
                let at = seen.windows(4).position(|end| end == b"\r\n\r\n");
                let content = at.map_or(0, |at| content_of_chunks(&seen[at + 4..]));
                assert!(content <= limit, "{content} went on: {place}");
                assert!(!seen.ends_with(b"0\r\n\r\n"), "an end went on: {place}");
            }
        }
    }
}

const CHUNKS_WITH_THE_HEAD: [Sending; 3] = [
    Sending { is_chunked: true, with_head: true, parts: 1 },
    Sending { is_chunked: true, with_head: true, parts: 2 },
    Sending { is_chunked: true, with_head: true, parts: 3 },
];

/// Sizes and line ends are no content.
fn chunks_that_come_with_the_head_count_as_content(io: &str) {
    exactly_the_limit_passes(io, &CHUNKS_WITH_THE_HEAD);
}

fn chunks_that_come_with_the_head_count_at_all(io: &str) {
    beyond_the_limit_is_refused(io, &CHUNKS_WITH_THE_HEAD);
}

/// How much content there is in what may be the beginning of a chunked body.
fn content_of_chunks(mut bytes: &[u8]) -> usize {
    let mut content = 0;
    while let Some(at) = bytes.windows(2).position(|end| end == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let rest = &bytes[at + 2..];
        content += size.min(rest.len());
        bytes = rest.get(size + 2..).unwrap_or(&[]);
    }
    content
}

fn unix_sockets_on_both_sides(io: &str) {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    let name = |side: &str| {
        let file = format!("ringside-{io}-{side}-{}.sock", std::process::id());
        std::env::temp_dir().join(file)
    };
    let (front, back) = (name("front"), name("back"));
    let _ = std::fs::remove_file(&back);
    let listener = UnixListener::bind(&back).unwrap();
    let play = beside(move || {
        let (mut server, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let len = server.read(&mut head).unwrap();
        assert!(String::from_utf8_lossy(&head[..len]).contains("host: web"));
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        server
    });
    let text = config("127.0.0.1:1".parse().unwrap(), "", "", "")
        .replace(
            r#"name: web, address: "127.0.0.1:0""#,
            &format!("name: web, address: \"unix:{}\"", front.display()),
        )
        .replace("127.0.0.1:1\"", &format!("unix:{}\"", back.display()));
    let mut proxy = Proxy::start(io, &text);
    let mut client = UnixStream::connect(&front).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("ok"), "{response}");
    drop(play.join().unwrap());
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
    assert!(!front.exists(), "it is removed at the end");
    let _ = std::fs::remove_file(back);
}

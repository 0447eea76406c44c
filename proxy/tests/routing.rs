//! What a route takes and what it does, through a real ringside.

mod support;

use std::net::SocketAddr;

use support::{Client, Message, Origin, Proxy, echo_origin, head_origin};

on_both_drivers! {
    conditions_choose_the_route,
    weights_share_out_exactly_over_workers,
    a_parked_backend_gets_nothing,
    redirects_lead_where_the_route_says,
    a_redirect_needs_a_host_to_lead_to,
    a_redirect_keeps_the_scheme_that_a_trusted_peer_tells,
    responses_need_no_upstream,
    own_answers_keep_to_the_clients_version_and_method,
    own_answers_take_or_refuse_the_body,
    prefix_and_host_are_made_anew,
    edits_reach_both_sides,
    what_ringside_says_can_be_edited,
    a_tunnel_goes_to_a_backend_by_weight,
}

/// A config with one http listener `web`; `services` and `routes` as YAML.
fn config(workers: usize, services: &[(&str, SocketAddr)], routes: &str) -> String {
    let services: String = services
        .iter()
        .map(|(name, address)| {
            format!("  - {{ name: {name}, endpoints: [{{ address: \"{address}\" }}] }}\n")
        })
        .collect();
    let services = if services.is_empty() { "  []\n".to_owned() } else { services };
    format!(
        "version: 1\nworkers: {workers}\naccess_log: none\nnode: {{ id: test-node }}\n\
         probes: {{ address: \"127.0.0.1:0\" }}\nshutdown: {{ grace: 100ms, deadline: 5s }}\n\
         listeners: [{{ name: web, address: \"127.0.0.1:0\", http: {{}} }}]\n\
         services:\n{services}routes:\n{routes}"
    )
}

/// An origin that answers with its name.
fn named_origin(name: &'static str) -> SocketAddr {
    Origin::bind().serve(move |client| {
        while client.message().is_some() {
            let length = name.len();
            client.send(format!(
                "HTTP/1.1 200 OK\r\nserver: {name}\r\ncontent-length: {length}\r\n\r\n{name}"
            ));
        }
    })
}

fn body(message: &Message) -> &str {
    std::str::from_utf8(&message.body).unwrap()
}

fn conditions_choose_the_route(io: &str) {
    let respond = |name: &str, rest: &str| {
        format!("  - {{ name: {name}, {rest}, respond: {{ body: {name} }} }}\n")
    };
    let routes = [
        respond("any", "hosts: [a]"),
        respond("beta", "hosts: [a], matches: [{ headers: [{ name: X-Group, exact: beta }] }]"),
        respond(
            "cookie",
            "hosts: [a], matches: [{ headers: [{ name: x-group, present: true }], cookies: [{ name: c, prefix: b }] }]",
        ),
        respond("query", "hosts: [a], matches: [{ query: [{ name: v, regex: \"[0-9]+\" }] }]"),
        respond("regex", "hosts: [a], matches: [{ path: { regex: \"/v[0-9]+/x.*\" } }]"),
        respond("local", "hosts: [b], matches: [{ source_ips: [127.0.0.0/8] }]"),
        respond("far", "hosts: [c], matches: [{ source_ips: [10.0.0.0/8] }]"),
        respond("urgent", "priority: 1, matches: [{ path: { prefix: /urgent } }]"),
        respond(
            "claims",
            "hosts: [d], matches: [{ headers: [{ name: x-forwarded-for, present: true }] }]",
        ),
    ];
    let proxy = Proxy::start(io, &config(1, &[], &routes.concat()));
    let mut client = proxy.connect();
    for (host, target, fields, expect) in [
        ("a", "/", "", "any"),
        ("a:81", "/", "x-group: beta\r\n", "beta"),
        ("a", "/", "x-group: alpha\r\nX-GROUP: beta\r\n", "beta"),
        ("a", "/", "x-group: beta\r\ncookie: a=1; c=bx\r\n", "cookie"),
        ("a", "/?v=%31%32", "", "query"),
        ("a", "/?v=x", "", "any"),
        ("a", "/v1/%78y", "x-group: beta\r\n", "regex"),
        ("a", "/urgent/x", "x-group: beta\r\n", "urgent"),
        ("b", "/", "", "local"),
        ("c", "/", "", ""),
        // Nobody is trusted here, so nobody can say who was before.
        ("d", "/", "x-forwarded-for: 1.2.3.4\r\n", ""),
    ] {
        let response = client.ask(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n"));
        match expect {
            "" => assert_eq!(response.cause(), "no_route", "{host} {target} {fields}"),
            expect => assert_eq!(body(&response), expect, "{host} {target} {fields}"),
        }
    }
}

fn weights_share_out_exactly_over_workers(io: &str) {
    const CONNECTIONS: usize = 10;
    const REQUESTS: usize = 2_000;
    let services = [("blue", named_origin("blue")), ("green", named_origin("green"))];
    let routes = "  - { name: all, backends: [{ service: blue, weight: 90 }, { service: green, weight: 10 }] }\n";
    let proxy = Proxy::start(io, &config(3, &services, routes));
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| proxy.connect()).collect();
    let green =
        (0..REQUESTS).filter(|n| body(&clients[n % CONNECTIONS].get("/")) == "green").count();
    // Half a percent of all, and of few requests what three workers may be off.
    assert!(green.abs_diff(REQUESTS / 10) <= REQUESTS / 200, "{green} of {REQUESTS}");
    proxy.metric_becomes(
        &["ringside_requests_total", r#"service="green""#, r#"code="200""#],
        &green.to_string(),
    );
}

fn a_parked_backend_gets_nothing(io: &str) {
    let services = [("blue", named_origin("blue")), ("green", named_origin("green"))];
    let routes =
        "  - { name: all, backends: [{ service: blue, weight: 0 }, { service: green }] }\n";
    let proxy = Proxy::start(io, &config(1, &services, routes));
    let mut client = proxy.connect();
    for _ in 0..100 {
        assert_eq!(body(&client.get("/")), "green");
    }
}

const REDIRECTS: &str = "
  - { name: https, hosts: [a], redirect: { scheme: https } }
  - { name: moved, hosts: [b], matches: [{ path: { prefix: /old } }], redirect: { host: c.example, port: 81, prefix: /new, status: 308 }, response_headers: { set: { cache-control: no-store } } }
  - { name: path, hosts: [c], redirect: { path: /there, status: 303 } }
";

fn redirects_lead_where_the_route_says(io: &str) {
    let proxy = Proxy::start(io, &config(1, &[], REDIRECTS));
    let mut client = proxy.connect();
    for (request, status, location) in [
        ("GET /x?y=1 HTTP/1.1\r\nhost: A:8080", 302, "https://A/x?y=1"),
        ("GET http://a/%2e%2e/x HTTP/1.1\r\nhost: b", 302, "https://a/x"),
        ("GET /old/x/?q HTTP/1.1\r\nhost: b", 308, "http://c.example:81/new/x/?q"),
        ("PUT /old HTTP/1.1\r\nhost: b\r\ncontent-length: 0", 308, "http://c.example:81/new"),
        ("GET /x?y HTTP/1.1\r\nhost: c:8080", 303, "http://c:8080/there?y"),
        ("OPTIONS * HTTP/1.1\r\nhost: a", 302, "https://a/"),
    ] {
        let response = client.ask(format!("{request}\r\n\r\n"));
        assert_eq!(
            (response.status(), response.header("location")),
            (status, Some(location)),
            "{request}"
        );
        assert_eq!(response.header("content-length"), Some("0"));
        assert_eq!(response.header("x-ringside-cause"), None);
        assert_eq!(response.header("cache-control").is_some(), status == 308);
    }
    proxy.metric_becomes(
        &["ringside_requests_total", r#"route="moved""#, r#"code="308""#, r#"cause="""#],
        "2",
    );
}

fn a_redirect_needs_a_host_to_lead_to(io: &str) {
    let routes = "  - { name: all, redirect: { scheme: https } }\n";
    let proxy = Proxy::start(io, &config(1, &[], routes));
    let mut client = proxy.connect();
    let response = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((response.status(), response.cause()), (400, "bad_request"));
}

fn a_redirect_keeps_the_scheme_that_a_trusted_peer_tells(io: &str) {
    let routes = "  - { name: all, redirect: { path: /there } }\n";
    let config = config(1, &[], routes);
    let trusting = config.replace("http: {}", "http: {}, forwarded: { trust: [127.0.0.0/8] }");
    for (config, location) in [(config, "http://a/there"), (trusting, "https://a/there")] {
        let proxy = Proxy::start(io, &config);
        let request = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-proto: https\r\n\r\n";
        assert_eq!(proxy.connect().ask(request).header("location"), Some(location));
    }
}

const RESPONSES: &str = "
  - { name: teapot, matches: [{ path: { exact: /tea } }], respond: { status: 418, body: \"short and stout\\n\" } }
  - { name: json, matches: [{ path: { exact: /json } }], respond: { body: \"{}\" }, response_headers: { set: { content-type: application/json }, add: { x-a: \"1\" } } }
  - { name: empty, matches: [{ path: { exact: /empty } }], respond: { status: 204 } }
";

fn responses_need_no_upstream(io: &str) {
    let proxy = Proxy::start(io, &config(1, &[], RESPONSES));
    let mut client = proxy.connect();
    for _ in 0..3 {
        let tea = client.get("/tea");
        assert_eq!((tea.status(), body(&tea)), (418, "short and stout\n"));
        assert_eq!(tea.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!((tea.header("x-ringside-cause"), tea.header("connection")), (None, None));
        let json = client.get("/json");
        assert_eq!((json.status(), body(&json)), (200, "{}"));
        assert_eq!(json.head.to_ascii_lowercase().matches("content-type").count(), 1);
        assert_eq!(json.header("content-type"), Some("application/json"));
        assert_eq!(json.header("x-a"), Some("1"));
        let empty = client.get("/empty");
        assert_eq!((empty.status(), empty.header("content-length")), (204, None));
    }
    let counted = [
        "ringside_requests_total",
        r#"route="teapot""#,
        r#"service="""#,
        r#"code="418""#,
        r#"cause="""#,
    ];
    proxy.metric_becomes(&counted, "3");
}

fn own_answers_keep_to_the_clients_version_and_method(io: &str) {
    let proxy = Proxy::start(io, &config(1, &[], RESPONSES));
    let mut client = proxy.connect();
    client.send("HEAD /tea HTTP/1.1\r\nhost: web\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(head.contains("418") && head.contains("content-length: 16\r\n"), "{head}");
    // Nothing of a body stands before the next response.
    assert_eq!(client.get("/json").status(), 200);

    let kept = client.ask("GET /tea HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!((kept.status(), kept.header("connection")), (418, Some("keep-alive")));
    client.send("GET /tea HTTP/1.0\r\n\r\n");
    let last = String::from_utf8(client.read_to_end()).unwrap();
    assert!(
        last.contains("connection: close\r\n") && last.ends_with("short and stout\n"),
        "{last}"
    );
}

fn own_answers_take_or_refuse_the_body(io: &str) {
    let proxy = Proxy::start(io, &config(1, &[], RESPONSES));
    // One that came with its head is read, and the connection stays.
    let mut client = proxy.connect();
    let post = "POST /tea HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello";
    for _ in 0..2 {
        let response = client.ask(post);
        assert_eq!((response.status(), response.header("connection")), (418, None));
    }
    // One that is still to come is not waited for: the answer comes, and then the end.
    client.send("POST /tea HTTP/1.1\r\nhost: web\r\ncontent-length: 500000\r\n\r\n");
    let response = client.message().unwrap();
    assert_eq!((response.status(), response.header("connection")), (418, Some("close")));
    client.send(vec![b'x'; 500_000]);
    assert!(client.ends_orderly());
    let mut client = proxy.connect();
    let waits =
        "POST /tea HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(client.ask(waits).status(), 418);
    let mut client = proxy.connect();
    let response = client.ask(
        "POST /tea HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5x\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!(response.cause(), "bad_request", "what is malformed is told");
}

fn prefix_and_host_are_made_anew(io: &str) {
    let services = [("lines", echo_origin()), ("heads", head_origin())];
    let routes = "
  - { name: api, hosts: [a], matches: [{ path: { prefix: /api } }, { path: { exact: /old } }], backends: [{ service: lines }], rewrite: { prefix: /v2/b } }
  - { name: strip, hosts: [a], matches: [{ path: { prefix: /strip/ } }], backends: [{ service: lines }], rewrite: { prefix: / } }
  - { name: all, hosts: [b], backends: [{ service: lines }], rewrite: { prefix: /under } }
  - { name: host, hosts: [c], backends: [{ service: heads }], rewrite: { host: Inner.Example } }
";
    let proxy = Proxy::start(io, &config(1, &services, routes));
    let mut client = proxy.connect();
    for (host, target, expect) in [
        ("a", "/api", "/v2/b"),
        ("a", "/api/x?q=/api", "/v2/b/x?q=/api"),
        ("a", "http://a/else/../api/", "/v2/b/"),
        ("a", "/old?q", "/v2/b?q"),
        ("a", "/strip", "/"),
        ("a", "/strip/x", "/x"),
        ("b", "/", "/under/"),
        ("b", "/x", "/under/x"),
    ] {
        let response = client.ask(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(body(&response), format!("GET {expect} HTTP/1.1|"), "{host} {target}");
    }
    let response = client.ask("OPTIONS * HTTP/1.1\r\nhost: b\r\n\r\n");
    assert_eq!(body(&response), "OPTIONS * HTTP/1.1|");
    let response = client.ask("GET / HTTP/1.1\r\nhost: c\r\n\r\n");
    let hosts: Vec<&str> = body(&response).lines().filter(|l| l.starts_with("host:")).collect();
    assert_eq!(hosts, ["host: inner.example"]);
}

fn edits_reach_both_sides(io: &str) {
    let origin = Origin::bind().serve(|client| {
        while let Some(request) = client.message() {
            let length = request.head.len();
            client.send(format!(
                "HTTP/1.1 200 OK\r\nServer: old\r\nX-Keep: 1\r\nx-gone: 1\r\ncontent-length: {length}\r\n\r\n{}",
                request.head
            ));
        }
    });
    let routes = "
  - name: all
    request_headers: { set: { X-Set: route, x-both: route }, add: { x-add: route }, remove: [X-Debug] }
    response_headers: { set: { server: ringside }, remove: [x-gone], add: { x-add: a } }
    backends:
      - service: heads
        request_headers: { set: { x-both: backend }, add: { x-add: backend }, remove: [x-backend] }
        response_headers: { add: { x-add: b } }
";
    let proxy = Proxy::start(io, &config(1, &[("heads", origin)], routes));
    let mut client = proxy.connect();
    for _ in 0..2 {
        let response = client.ask(
            "GET / HTTP/1.1\r\nhost: web\r\nx-debug: 1\r\nX-SET: client\r\nx-add: client\r\n\
             x-backend: 1\r\nX-Debug: 2\r\nx-last: 1\r\n\r\n",
        );
        let got = body(&response).to_owned();
        let lines = |name: &str| -> Vec<String> {
            let name = format!("{name}: ");
            got.lines()
                .filter_map(|line| line.to_ascii_lowercase().strip_prefix(&name).map(str::to_owned))
                .collect()
        };
        assert_eq!(lines("x-set"), ["route"]);
        assert_eq!(lines("x-both"), ["backend"]);
        assert_eq!(lines("x-add"), ["client", "route", "backend"]);
        assert_eq!(lines("x-last"), ["1"]);
        assert!(lines("x-debug").is_empty() && lines("x-backend").is_empty(), "{got}");
        let head = response.head.to_ascii_lowercase();
        assert_eq!(response.header("server"), Some("ringside"));
        assert_eq!((response.header("x-keep"), response.header("x-gone")), (Some("1"), None));
        assert!(head.contains("x-add: a\r\nx-add: b\r\n") && !head.contains("old"), "{head}");
    }
}

fn what_ringside_says_can_be_edited(io: &str) {
    let routes = "
  - { name: all, backends: [{ service: heads }], request_headers: { set: { x-forwarded-proto: https }, remove: [x-forwarded-for] }, response_headers: { remove: [via] } }
";
    let proxy = Proxy::start(io, &config(1, &[("heads", head_origin())], routes));
    let response = proxy.connect().get("/");
    let got = body(&response);
    assert_eq!(got.matches("x-forwarded-proto").count(), 1);
    assert!(got.contains("x-forwarded-proto: https\r\n"), "{got}");
    assert!(!got.contains("x-forwarded-for"), "{got}");
    assert!(got.contains("via: 1.1 ringside\r\n") && response.header("via").is_none());
}

fn a_tunnel_goes_to_a_backend_by_weight(io: &str) {
    let services = [("blue", named_origin("blue")), ("green", named_origin("green"))];
    let routes = "  - { name: all, matches: [{ methods: [CONNECT] }], backends: [{ service: blue }, { service: green, weight: 0 }] }
  - { name: refused, hosts: [no], matches: [{ methods: [CONNECT] }], respond: { status: 405, body: no } }\n";
    let proxy = Proxy::start(io, &config(1, &services, routes));
    let mut client = proxy.connect();
    client.send("CONNECT any:443 HTTP/1.1\r\nhost: any:443\r\n\r\n");
    let head = client.until(b"\r\n\r\n").unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(body(&client.get("/")), "blue");
    let mut client = proxy.connect();
    let refused = client.ask("CONNECT no:443 HTTP/1.1\r\nhost: no:443\r\n\r\n");
    assert_eq!((refused.status(), refused.header("connection")), (405, Some("close")));
}

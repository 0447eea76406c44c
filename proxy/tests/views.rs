//! What the REST interface shows of a process that runs: routes, connections, limits, what happens, and
//! where the next request would go.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use support::{Client, Message, Origin, Proxy};

on_both_drivers! {
    routes_say_what_they_do_and_how_often,
    connections_are_listed,
    limits_say_what_is_taken,
    tunnels_do_not_hold_the_config_that_they_began_with,
    events_are_told_as_they_happen,
    explain_names_the_endpoint_that_comes_next,
}

/// A config with the service `app` behind two routes.
fn config(workers: usize, services: &str, routes: &str) -> String {
    format!(
        "version: 1\nworkers: {workers}\naccess_log: none\nnode: {{ id: test-node }}\n\
         admin: {{ address: \"127.0.0.1:0\", auth: none }}\n\
         probes: {{ address: \"127.0.0.1:0\" }}\nshutdown: {{ grace: 100ms, deadline: 5s }}\n\
         limits: {{ memory: 64MiB, connections: 1000 }}\n\
         listeners:\n  - {{ name: web, address: \"127.0.0.1:0\", limits: {{ connections: 50 }}, http: {{}} }}\n\
         services: [{services}]\nroutes: [{routes}]\n"
    )
}

/// An origin that answers with its name.
fn named_origin(name: &'static str) -> SocketAddr {
    Origin::bind().serve(move |client| {
        while client.message().is_some() {
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

fn service(name: &str, balance: &str, endpoints: &[(SocketAddr, u32)]) -> String {
    let endpoints = endpoints.iter();
    let endpoints: Vec<Json> = endpoints
        .map(|(address, weight)| json!({ "address": address.to_string(), "weight": weight }))
        .collect();
    format!("{{ name: {name}, balance: {balance}, endpoints: {} }}", Json::from(endpoints))
}

fn ask(proxy: &Proxy, request: &str, body: &str) -> Message {
    proxy.admin().ask(format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn json_of(message: &Message) -> Json {
    assert_eq!(message.status(), 200, "{message:?}");
    serde_json::from_slice(&message.body).unwrap()
}

fn see(proxy: &Proxy, path: &str) -> Json {
    json_of(&ask(proxy, &format!("GET {path}"), ""))
}

fn routes_say_what_they_do_and_how_often(io: &str) {
    let origin = named_origin("a");
    let routes = "{ name: split, backends: [{ service: app, weight: 3 }, { service: app, labels: { v: b } }] }, \
                  { name: here, hosts: [here], respond: { status: 204 } }, \
                  { name: away, hosts: [away], redirect: { scheme: https } }";
    let services = service("app", "round_robin", &[(origin, 1)]);
    let proxy = Proxy::start(io, &config(2, &services, routes));
    for _ in 0..3 {
        let request = "GET / HTTP/1.1\r\nhost: here\r\n\r\n";
        assert_eq!(proxy.connect().ask(request).status(), 204);
    }
    let list = see(&proxy, "/v1/routes");
    let wanted = json!([
        {
            "name": "split", "listeners": ["web"], "requests": 0, "action": "forward",
            "backends": [
                { "service": "app", "labels": {}, "probability": 0.75 },
                { "service": "app", "labels": { "v": "b" }, "probability": 0.25 },
            ],
        },
        { "name": "here", "listeners": ["web"], "requests": 3, "action": "respond" },
        { "name": "away", "listeners": ["web"], "requests": 0, "action": "redirect" },
    ]);
    assert_eq!(list, wanted);
}

fn connections_are_listed(io: &str) {
    let origin = Origin::bind();
    let services = service("app", "round_robin", &[(origin.address, 1)]);
    let proxy =
        Proxy::start(io, &config(2, &services, "{ name: all, backends: [{ service: app }] }"));
    assert_eq!(see(&proxy, "/v1/connections"), json!([]));
    let mut busy = proxy.connect();
    busy.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut upstream = origin.accept();
    upstream.message().unwrap();
    let idle: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
    proxy.metric_becomes(&["ringside_connections_active", "web"], "6");
    let list = see(&proxy, "/v1/connections");
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 6);
    let of = |client: &Client| {
        let peer = client.stream().local_addr().unwrap().to_string();
        let found = list.iter().find(|one| one["peer"] == peer);
        found.unwrap_or_else(|| panic!("no {peer} in {list:?}"))
    };
    assert_eq!([&of(&busy)["state"], &of(&busy)["listener"]], ["busy", "web"]);
    assert!(of(&busy)["age_s"].as_f64().unwrap() > 0.0);
    assert!(idle.iter().all(|client| of(client)["state"] == "idle"), "{list:?}");
    let on = |worker: u32| list.iter().filter(|one| one["worker"] == worker).count();
    assert_eq!([on(0), on(1)], [3, 3]);
    let few = see(&proxy, "/v1/connections?limit=1");
    assert_eq!(few.as_array().unwrap().len(), 2, "one of each worker");
    for query in ["limit=x", "limit=-1", "most=1"] {
        let refused = ask(&proxy, &format!("GET /v1/connections?{query}"), "");
        assert_eq!(refused.status(), 400, "{query}: {refused:?}");
    }
}

fn tunnels_do_not_hold_the_config_that_they_began_with(io: &str) {
    let origin = Origin::bind();
    let routes = "{ name: all, backends: [{ service: app }] }, \
                  { name: connect, matches: [{ methods: [CONNECT] }], backends: [{ service: app }] }";
    let services = service("app", "round_robin", &[(origin.address, 1)]);
    let proxy = Proxy::start(io, &config(1, &services, routes));
    let in_use = || see(&proxy, "/v1/status")["generations_in_use"].clone();
    let push = |name: &str| {
        let route = format!(
            "{{\"name\":\"{name}\",\"hosts\":[\"{name}\"],\"respond\":{{\"status\":204}}}}"
        );
        let pushed = ask(&proxy, &format!("PUT /v1/config/routes/{name}?wait=5s"), &route);
        json_of(&pushed)["generation"].as_u64().unwrap()
    };
    let mut tunnel = proxy.connect();
    tunnel.send("CONNECT app:1 HTTP/1.1\r\nhost: app:1\r\n\r\nping");
    let mut far = origin.accept();
    assert_eq!(far.exactly(4), b"ping");
    tunnel.until(b"\r\n\r\n").unwrap();
    assert_eq!(push("second"), 2);

    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n");
    let mut server = origin.accept();
    server.until(b"\r\n\r\n").unwrap();
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslo");
    client.until(b"slo").unwrap();
    assert_eq!(push("third"), 3);
    // The answer that goes on holds its own; the tunnel, which began before, holds none.
    assert_eq!(in_use(), json!([2, 3]));
    server.send("w");
    assert_eq!(client.exactly(1), b"w");
    let deadline = Instant::now() + Duration::from_secs(10);
    while in_use() != json!([3]) {
        assert!(Instant::now() < deadline, "{}", in_use());
        std::thread::yield_now();
    }
    far.send("pong");
    assert_eq!(tunnel.exactly(4), b"pong");
    tunnel.half_close();
    drop(far);
    proxy.metric_becomes(&["ringside_requests_total", "route=\"connect\"", "code=\"200\""], "1");
}

fn limits_say_what_is_taken(io: &str) {
    let origin = named_origin("a");
    let services = service("app", "round_robin", &[(origin, 1)]);
    let proxy =
        Proxy::start(io, &config(2, &services, "{ name: all, backends: [{ service: app }] }"));
    let clients: Vec<Client> = (0..7).map(|_| proxy.connect()).collect();
    proxy.metric_becomes(&["ringside_connections_active", "web"], "7");
    let limits = see(&proxy, "/v1/limits");
    assert_eq!(limits["connections"], json!({ "limit": 1000, "used": 7 }));
    let web = json!([{ "name": "web", "connections": { "limit": 50, "used": 7 } }]);
    assert_eq!(limits["listeners"], web);
    assert_eq!(limits["memory"]["limit"], 64 << 20);
    assert!(limits["memory"]["used"].as_u64().unwrap() < 64 << 20);
    assert_eq!([&limits["header_count"], &limits["body_size"]], [&json!(100), &Json::Null]);
    drop(clients);
}

/// Somebody who listens to events.
struct Listener(Client);

impl Listener {
    fn begin(proxy: &Proxy, headers: &str) -> Listener {
        let mut client = proxy.admin();
        client.send(format!("GET /v1/events HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"));
        let head = String::from_utf8(client.until(b"\r\n\r\n").unwrap()).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        client.until(b": listening\n\n").unwrap();
        Listener(client)
    }

    /// The next event's number, kind and data.
    fn next(&mut self) -> (u64, String, Json) {
        self.0.until(b"id: ").expect("an event");
        let id = self.0.until(b"\nevent: ").unwrap();
        let kind = self.0.until(b"\ndata: ").unwrap();
        let data = self.0.until(b"\n\n").unwrap();
        let text = |bytes: &[u8], end: &str| {
            std::str::from_utf8(bytes).unwrap().strip_suffix(end).unwrap().to_owned()
        };
        let id = text(&id, "\nevent: ").parse().unwrap();
        (id, text(&kind, "\ndata: "), serde_json::from_slice(&data).unwrap())
    }
}

fn events_are_told_as_they_happen(io: &str) {
    let origin = named_origin("a");
    let services = format!(
        "{}, {{ name: cart, pushed: {{ wait_at_start: 0s }} }}",
        service("app", "round_robin", &[(origin, 1)])
    );
    let text = config(2, &services, "{ name: all, backends: [{ service: app }] }");
    let proxy = Proxy::start(io, &text);
    // From the first event on, which may not be told yet when it says that it is ready.
    let mut listener = Listener::begin(&proxy, "last-event-id: 0\r\n");
    let mut expect = |kind: &str| {
        let (number, found, data) = listener.next();
        assert_eq!(found, kind, "{data}");
        (number, data)
    };

    assert_eq!(expect("phase").1["phase"], "ready");

    let route = r#"{ "hosts": ["b"], "backends": [{ "service": "app" }] }"#;
    json_of(&ask(&proxy, "PUT /v1/config/routes/b", route));
    let (first, applied) = expect("config_applied");
    assert_eq!(applied["generation"], 2);
    assert_eq!(applied["changed"], json!([{ "path": "routes/b", "change": "added" }]));

    assert_eq!(ask(&proxy, "PUT /v1/config/routes/b", "{ \"hosts\": 5 }").status(), 422);
    let (_, rejected) = expect("config_rejected");
    assert!(rejected["reason"].as_str().unwrap().contains("hosts"), "{rejected}");

    let endpoints = json!({ "version": 1, "endpoints": [{ "address": origin.to_string() }] });
    json_of(&ask(&proxy, "PUT /v1/services/cart/endpoints", &endpoints.to_string()));
    let (_, changed) = expect("endpoints_changed");
    assert_eq!(changed, json!({ "service": "cart", "endpoints": 1 }));

    let endpoint = json!({ "endpoint": origin.to_string() });
    json_of(&ask(&proxy, "POST /v1/services/cart/eject", &endpoint.to_string()));
    let (_, state) = expect("endpoint_state");
    assert_eq!([&state["service"], &state["state"]], ["cart", "ejected"]);

    for (file, why) in [("no config", "invalid"), ("a: [", "YAML")] {
        proxy.rewrite(file);
        let (_, rejected) = expect("config_rejected");
        assert!(rejected["reason"].as_str().unwrap().contains(why), "{rejected}");
    }

    json_of(&ask(&proxy, "POST /v1/drain", ""));
    let (last, phase) = expect("phase");
    assert_eq!((last, phase), (first + 6, json!({ "phase": "drained" })));

    // Who was away goes on where it was; who comes from another process begins with all there is.
    let mut back = Listener::begin(&proxy, &format!("last-event-id: {}\r\n", last - 1));
    assert_eq!(back.next().0, last);
    let mut stranger = Listener::begin(&proxy, "last-event-id: 4711\r\n");
    assert_eq!(stranger.next().1, "phase");
    let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\nlast-event-id: x\r\n\r\n";
    assert_eq!(proxy.admin().ask(request).status(), 400);
    // Each holds a connection of admin, so there is an end to them.
    let more: Vec<Listener> = (3..32).map(|_| Listener::begin(&proxy, "")).collect();
    let refused = ask(&proxy, "GET /v1/events", "");
    assert_eq!(refused.status(), 503, "{refused:?}");
    drop((back, stranger, more));
    // Those who have left hold no place, also where nothing happens.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = proxy.admin();
        client.send("GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
        if client.until(b"\r\n\r\n").unwrap().starts_with(b"HTTP/1.1 200 ") {
            break;
        }
        assert!(Instant::now() < deadline, "their places are still taken");
    }
}

fn explain_names_the_endpoint_that_comes_next(io: &str) {
    let names = ["a", "b", "c", "d"];
    let [a, b, c, d] = names.map(named_origin);
    let of = |address: SocketAddr| {
        let place = [a, b, c, d].iter().position(|known| *known == address);
        names[place.unwrap()]
    };
    let turn = service("turn", "round_robin", &[(a, 3), (b, 1), (c, 2)]);
    let least = service("least", "least_request", &[(b, 1), (c, 2), (d, 3)]);
    let routes =
        "{ name: all, backends: [{ service: turn, weight: 60 }, { service: least, weight: 40 }] }";
    let proxy = Proxy::start(io, &config(2, &format!("{turn}, {least}"), routes));
    let question = json!({ "url": "http://web/" }).to_string();
    let mut clients = Vec::new();
    for round in 0..30 {
        let answer = json_of(&ask(&proxy, "POST /v1/explain", &question));
        // Connections stay open, so each goes to the worker that the one before did not go to.
        let worker = round % 2;
        let backends = answer["backends"].as_array().unwrap();
        let chosen: Vec<&Json> =
            backends.iter().filter(|side| side["workers"][worker]["chosen"] == true).collect();
        assert_eq!(chosen.len(), 1, "{answer:#}");
        assert_eq!(chosen[0]["next"], chosen[0]["workers"][worker]["next"], "{answer:#}");
        let next: SocketAddr = chosen[0]["next"].as_str().unwrap().parse().unwrap();
        let mut client = proxy.connect();
        assert_eq!(
            String::from_utf8(client.get("/").body).unwrap(),
            of(next),
            "{round}: {answer:#}"
        );
        clients.push(client);
    }
    let text = json_of(&ask(&proxy, "POST /v1/explain", &question))["text"].to_string();
    assert!(text.contains("  next"), "{text}");
}

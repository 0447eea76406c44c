//! Which endpoints a request may go to: by the labels that a backend asks for, and as an operator took
//! them out and put them back.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value as Json, json};
use support::{Client, Message, Origin, Proxy};

on_both_drivers! {
    backends_take_endpoints_by_their_labels,
    pushed_endpoints_have_labels_too,
    an_ejected_endpoint_gets_nothing_until_it_is_restored,
    a_draining_endpoint_finishes_what_it_has,
}

/// A config with the service `app`; `endpoints` says where its endpoints come from.
fn config(endpoints: &str, backends: &str) -> String {
    format!(
        "version: 1\nworkers: 2\naccess_log: none\nnode: {{ id: test-node }}\n\
         admin: {{ address: \"127.0.0.1:0\", auth: none }}\n\
         probes: {{ address: \"127.0.0.1:0\" }}\nshutdown: {{ grace: 100ms, deadline: 5s }}\n\
         listeners: [{{ name: web, address: \"127.0.0.1:0\", http: {{}} }}]\n\
         services:\n  - {{ name: app, {endpoints} }}\n\
         routes:\n  - {{ name: all, backends: [{backends}] }}\n"
    )
}

/// Endpoints with the label `version`.
fn versions(endpoints: &[(SocketAddr, &str)]) -> Vec<Json> {
    let one = |(address, version): &(SocketAddr, &str)| json!({ "address": address.to_string(), "labels": { "version": version } });
    endpoints.iter().map(one).collect()
}

/// An origin that answers with its name.
fn named_origin(name: &'static str) -> SocketAddr {
    Origin::bind().serve(move |client| {
        while client.message().is_some() {
            answer(client, name);
        }
    })
}

fn answer(client: &mut Client, body: &str) {
    client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
}

/// Who answers so many requests on each of some connections.
fn shares(proxy: &Proxy, connections: usize, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        let mut client = proxy.connect();
        for _ in 0..requests {
            let message = client.get("/");
            assert_eq!(message.status(), 200, "{message:?}");
            *shares.entry(String::from_utf8(message.body).unwrap()).or_default() += 1;
        }
    }
    shares
}

fn ask(proxy: &Proxy, request: &str, body: &Json) -> Message {
    let body = body.to_string();
    proxy.admin().ask(format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn json_of(message: &Message) -> Json {
    serde_json::from_slice(&message.body).unwrap()
}

/// `eject`, `restore` or `drain`.
fn change(proxy: &Proxy, what: &str, endpoint: SocketAddr) {
    let path = format!("POST /v1/services/app/{what}");
    let reply = ask(proxy, &path, &json!({ "endpoint": endpoint.to_string() }));
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(json_of(&reply)["live"], 2);
}

/// What `GET /v1/endpoints` says of this one.
fn endpoint(proxy: &Proxy, address: SocketAddr) -> Json {
    let request = "GET /v1/endpoints HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let list = json_of(&proxy.admin().ask(request));
    let all = list.as_array().unwrap().iter();
    let mut found = all.filter(|endpoint| endpoint["address"] == address.to_string());
    found.next().unwrap_or_else(|| panic!("no {address} in {list:#}")).clone()
}

fn backends_take_endpoints_by_their_labels(io: &str) {
    let endpoints = versions(&[
        (named_origin("a"), "v1"),
        (named_origin("b"), "v1"),
        (named_origin("c"), "v2"),
    ]);
    let endpoints = format!("endpoints: {}", Json::from(endpoints));
    let by = |v1: u32, v2: u32| {
        config(
            &endpoints,
            &format!(
                "{{ service: app, labels: {{ version: v1 }}, weight: {v1} }}, \
                 {{ service: app, labels: {{ version: v2 }}, weight: {v2} }}"
            ),
        )
    };
    let proxy = Proxy::start(io, &by(80, 20));
    let shares = shares(&proxy, 4, 250);
    let near = |name: &str, wanted: i64| (shares[name] as i64 - wanted).abs() <= 8;
    assert!(near("a", 400) && near("b", 400) && near("c", 200), "{shares:?}");
    // What nobody asks for any more is no part, and what nobody has is one without endpoints.
    let mut client = proxy.connect();
    proxy.reload(&by(0, 1));
    assert_eq!(client.get("/").body, b"c");
    proxy.reload(&config(&endpoints, "{ service: app, labels: { version: v3 } }"));
    let refused = client.get("/");
    assert_eq!((refused.status(), refused.cause()), (503, "no_endpoint"));
    let text = String::from_utf8(refused.body).unwrap();
    assert!(text.contains("no endpoint has the labels"), "{text}");
    proxy.reload(&config(&endpoints, "{ service: app }"));
    assert_eq!(self::shares(&proxy, 3, 40).len(), 3);
}

fn pushed_endpoints_have_labels_too(io: &str) {
    let (a, b) = (named_origin("a"), named_origin("b"));
    let backends = "{ service: app, labels: { version: v2 } }";
    let proxy = Proxy::start(io, &config("pushed: { wait_at_start: 0s }", backends));
    let put = |version: u64, endpoints: &[(SocketAddr, &str)]| {
        let body = json!({ "version": version, "endpoints": versions(endpoints) });
        let reply = ask(&proxy, "PUT /v1/services/app/endpoints", &body);
        assert_eq!(reply.status(), 200, "{reply:?}");
    };
    let mut client = proxy.connect();
    assert_eq!(client.get("/").cause(), "no_endpoint");
    put(1, &[(a, "v1")]);
    assert_eq!(client.get("/").cause(), "no_endpoint");
    put(2, &[(a, "v1"), (b, "v2")]);
    assert_eq!(client.get("/").body, b"b");
    assert_eq!(endpoint(&proxy, b)["labels"], json!({ "version": "v2" }));
    // The same address under another label.
    put(3, &[(a, "v2"), (b, "v1")]);
    assert_eq!(client.get("/").body, b"a");
}

fn an_ejected_endpoint_gets_nothing_until_it_is_restored(io: &str) {
    let (a, b) = (named_origin("a"), named_origin("b"));
    let from = |a: SocketAddr, b: SocketAddr| {
        format!("endpoints: {}", Json::from(versions(&[(a, "v1"), (b, "v1")])))
    };
    let backend = "{ service: app, labels: { version: v1 } }";
    let proxy = Proxy::start(io, &config(&from(a, b), backend));
    assert_eq!(shares(&proxy, 2, 20), BTreeMap::from([("a".into(), 20), ("b".into(), 20)]));
    change(&proxy, "eject", a);
    let only_b = BTreeMap::from([("b".to_owned(), 40)]);
    assert_eq!(shares(&proxy, 2, 20), only_b);
    assert_eq!(endpoint(&proxy, a)["state"], "ejected");
    proxy.metric_becomes(&["ringside_service_endpoints", "app", "ejected"], "1");
    // A new config is no reason to come back.
    proxy.reload(&config(&from(a, b), "{ service: app }"));
    assert_eq!(shares(&proxy, 2, 20), only_b);
    change(&proxy, "eject", b);
    let refused = proxy.connect().get("/");
    assert_eq!((refused.status(), refused.cause()), (503, "no_healthy_endpoint"));
    change(&proxy, "restore", a);
    assert_eq!(shares(&proxy, 2, 20), BTreeMap::from([("a".into(), 40)]));
    change(&proxy, "restore", a);
    change(&proxy, "restore", b);
    assert_eq!(shares(&proxy, 2, 20).len(), 2);
    proxy.says(&format!("audit: endpoint {b} of app: healthy"));

    for (service, endpoint, status) in
        [("app", "127.0.0.1:1", 404), ("nobody", "127.0.0.1:1", 404), ("app", "here", 422)]
    {
        let path = format!("POST /v1/services/{service}/eject");
        let reply = ask(&proxy, &path, &json!({ "endpoint": endpoint }));
        assert_eq!(reply.status(), status, "{reply:?}");
    }
    let reply = ask(&proxy, "POST /v1/services/app/eject", &json!({ "endpiont": "127.0.0.1:1" }));
    assert_eq!(reply.status(), 400, "{reply:?}");
}

fn a_draining_endpoint_finishes_what_it_has(io: &str) {
    let (old, new) = (Origin::bind(), named_origin("new"));
    let endpoints = Json::from(versions(&[(old.address, "v1"), (new, "v1")]));
    let proxy = Proxy::start(io, &config(&format!("endpoints: {endpoints}"), "{ service: app }"));
    change(&proxy, "eject", new);
    let begin = || {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        let mut upstream = old.accept();
        upstream.message().expect("a request");
        (client, upstream)
    };
    let (mut one, mut idle) = begin();
    let (mut two, mut busy) = begin();
    answer(&mut idle, "old");
    assert_eq!(one.message().unwrap().body, b"old");
    let known = endpoint(&proxy, old.address);
    assert_eq!([&known["requests"], &known["idle_connections"]], [1, 1], "{known}");
    change(&proxy, "restore", new);
    change(&proxy, "drain", old.address);
    assert!(idle.ends_orderly());
    assert_eq!(one.get("/").body, b"new");
    answer(&mut busy, "late");
    assert_eq!(two.message().unwrap().body, b"late");
    assert!(busy.ends_orderly());
    assert_eq!(two.get("/").body, b"new");
    let known = endpoint(&proxy, old.address);
    assert_eq!([&known["requests"], &known["idle_connections"]], [0, 0], "{known}");
    assert_eq!(known["state"], "draining");
}

#[test]
fn the_command_lists_and_changes_them() {
    let a: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let endpoints = format!("endpoints: {}", Json::from(versions(&[(a, "v1")])));
    let proxy = Proxy::start("auto", &config(&endpoints, "{ service: app }"));
    let ringside = |arguments: &[&str]| {
        let admin = proxy.admin().stream().peer_addr().unwrap().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringside"));
        let output = command.args(arguments).env("RINGSIDE_ADMIN", admin).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let table = |state: &str| {
        let pad = " ".repeat(7_usize.saturating_sub(state.len()));
        format!(
            "SERVICE  ENDPOINT     STATE{}  WEIGHT  REQUESTS  IDLE  LABELS\n\
             app      127.0.0.1:9  {state}{pad}  1       0         0     version=v1\n",
            " ".repeat(state.len().max(5) - 5)
        )
    };
    assert_eq!(ringside(&["endpoints"]), (0, table("healthy")));
    let said = "127.0.0.1:9 of app is draining on 2 of 2 workers\n".to_owned();
    assert_eq!(ringside(&["endpoints", "drain", "app", "127.0.0.1:9"]), (0, said));
    assert_eq!(ringside(&["endpoints"]), (0, table("draining")));
    let (code, said) = ringside(&["endpoints", "eject", "app", "127.0.0.1:10"]);
    assert!(code == 1 && said.contains("app has no endpoint 127.0.0.1:10"), "{said}");
    let (code, said) = ringside(&["endpoints", "eject", "app"]);
    assert!(code == 2 && said.contains("<ENDPOINT>"), "{said}");
}

//! Services that are found by DNS: a real ringside beside a name server that says what the test wants.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use support::{Proxy, config, echo_origin};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// What the server says to a question.
#[derive(Clone)]
enum Says {
    Records(Vec<Record>),
    Code(u8),
    /// Over UDP only that there is more; over TCP the records.
    Truncated(Vec<Record>),
    Nothing,
}

#[derive(Clone)]
struct Record {
    /// The one that was asked for, if it is empty.
    name: &'static str,
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

/// A name server on loopback, until the process ends. Names it was not told of do not exist.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    answers: HashMap<(String, u16), Says>,
    udp: usize,
    tcp: usize,
}

impl Server {
    fn start() -> Server {
        // The same port for both; somebody else may have the other one.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let server = Server { address: udp.local_addr().unwrap(), said: Arc::default() };
        let by_udp = server.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok((len, peer)) = udp.recv_from(&mut buffer) {
                if let Some(reply) = by_udp.reply(&buffer[..len], false) {
                    // The next question finds out if that was in vain.
                    let _ = udp.send_to(&reply, peer);
                }
            }
        });
        let by_tcp = server.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut len = [0; 2];
                while stream.read_exact(&mut len).is_ok() {
                    let mut question = vec![0; u16::from_be_bytes(len).into()];
                    stream.read_exact(&mut question).unwrap();
                    let Some(reply) = by_tcp.reply(&question, true) else { continue };
                    let len = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&len, &reply[..]].concat()).unwrap();
                }
            }
        });
        server
    }

    fn says(&self, name: &str, kind: u16, says: Says) {
        self.said.lock().unwrap().answers.insert((name.to_owned(), kind), says);
    }

    /// How often it was asked, over UDP and TCP.
    fn asked(&self) -> (usize, usize) {
        let said = self.said.lock().unwrap();
        (said.udp, said.tcp)
    }

    /// RFC 1035, section 4.
    fn reply(&self, question: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, Vec::new());
        while question[at] != 0 {
            let len = usize::from(question[at]);
            labels.push(String::from_utf8(question[at + 1..at + 1 + len].to_vec()).unwrap());
            at += 1 + len;
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let asked = &question[12..at + 5];
        let mut said = self.said.lock().unwrap();
        if is_tcp {
            said.tcp += 1
        } else {
            said.udp += 1
        }
        let name = labels.join(".").to_ascii_lowercase();
        let is_known = said.answers.keys().any(|(known, _)| *known == name);
        let answer = said.answers.get(&(name, kind)).cloned();
        let unknown = if is_known { Says::Records(Vec::new()) } else { Says::Code(NXDOMAIN) };
        let (code, truncated, records) = match answer.unwrap_or(unknown) {
            Says::Nothing => return None,
            Says::Code(code) => (code, false, Vec::new()),
            Says::Truncated(_) if !is_tcp => (0, true, Vec::new()),
            Says::Records(records) | Says::Truncated(records) => (0, false, records),
        };
        let mut reply = question[..2].to_vec();
        reply.extend([0x81 | u8::from(truncated) << 1, 0x80 | code, 0, 1]);
        reply.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
        reply.extend([0; 4]);
        reply.extend(asked);
        for record in records {
            match record.name {
                "" => reply.extend([0xc0, 12]),
                name => reply.extend(wire_name(name)),
            }
            reply.extend(record.kind.to_be_bytes());
            reply.extend([0, 1]);
            reply.extend(record.ttl.to_be_bytes());
            reply.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
            reply.extend(record.data);
        }
        Some(reply)
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        let len = u8::try_from(label.len()).unwrap();
        std::iter::once(len).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

fn a(address: Ipv4Addr, ttl: u32) -> Record {
    Record { name: "", kind: A, ttl, data: address.octets().to_vec() }
}

fn addresses(count: u16) -> Vec<Record> {
    let address = |n: u16| Ipv4Addr::new(127, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]);
    (0..count).map(|n| a(address(n), 0)).collect()
}

fn alias(target: &str, ttl: u32) -> Record {
    Record { name: "", kind: CNAME, ttl, data: wire_name(target) }
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
    Record { name: "", kind: SRV, ttl: 0, data: [numbers, wire_name(target)].concat() }
}

/// One service, found by `dns`; answers count for `ttl` at least and 10 s at most.
fn text(server: &Server, dns: &str, ttl: &str) -> String {
    let origin = SocketAddr::from(([127, 0, 0, 1], 1));
    let extra = format!(
        r#"admin: {{ address: "127.0.0.1:0", auth: none }}
resolver: {{ servers: ["{}"], min_ttl: {ttl}, max_ttl: 10s }}"#,
        server.address
    );
    config(origin, "", "", &extra)
        .replace(&format!(r#"endpoints: [{{ address: "{origin}" }}]"#), &format!("dns: {dns}"))
}

fn get(proxy: &Proxy, path: &str) -> Json {
    let reply = proxy.admin().ask(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(&reply.body).unwrap()
}

fn send(proxy: &Proxy, request: &str, body: &Json) -> Json {
    let body = body.to_string();
    let head = "host: localhost\r\ncontent-type: application/json";
    let len = body.len();
    let asked = format!("{request} HTTP/1.1\r\n{head}\r\ncontent-length: {len}\r\n\r\n{body}");
    let reply = proxy.admin().ask(asked);
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(&reply.body).unwrap()
}

/// Waits until the service has these endpoints.
fn has(proxy: &Proxy, wanted: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let list = get(proxy, "/v1/endpoints");
        let found = list.as_array().unwrap().iter().map(|one| one["address"].as_str().unwrap());
        let found: Vec<&str> = found.collect();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?} never came: {found:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the last answer for the service was a failure that says `words`.
fn fails(proxy: &Proxy, words: &str) -> Json {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let service = get(proxy, "/v1/services")[0].clone();
        if service["failure"].as_str().is_some_and(|why| why.contains(words)) {
            return service;
        }
        assert!(Instant::now() < deadline, "it never failed so: {service}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every way to have no answer, each with words that tell it, all at once.
fn in_all_ways(play: impl Fn(Says, &str) + Sync) {
    let ways = [
        (Says::Code(NXDOMAIN), "NXDOMAIN"),
        (Says::Code(SERVFAIL), "SERVFAIL"),
        (Says::Records(Vec::new()), "has no A or AAAA record"),
        (Says::Nothing, "no DNS server answers"),
    ];
    let play = &play;
    std::thread::scope(|scope| {
        for (says, words) in ways {
            scope.spawn(move || play(says, words));
        }
    });
}

#[test]
fn a_name_is_found_and_found_anew() {
    let server = Server::start();
    let origin = echo_origin();
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
    let proxy = Proxy::start("auto", &text(&server, &dns, "50ms"));
    has(&proxy, &[&origin.to_string()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/found").status(), 200);
    proxy.metric_is(
        &["ringside_endpoint_set_updated_timestamp_seconds", "service=\"origin\""],
        |at| at > 1_700_000_000.0,
    );
    proxy.metric_becomes(&["ringside_service_endpoints", "service=\"origin\""], "1");
    // The answer changes, and nobody has to say so.
    let two = vec![a(Ipv4Addr::new(127, 0, 0, 9), 0), a(Ipv4Addr::LOCALHOST, 0)];
    server.says("catalog.shop", A, Says::Records(two));
    has(&proxy, &[&origin.to_string(), &format!("127.0.0.9:{}", origin.port())]);
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    has(&proxy, &[&origin.to_string()]);
    assert_eq!(client.get("/again").status(), 200, "on the same connection");
    // A change elsewhere leaves what was found.
    proxy.reload(&text(&server, &dns, "50ms").replace("name: all", "name: every"));
    assert_eq!(client.get("/still").status(), 200);
}

#[test]
fn nothing_waits_for_a_name_that_is_not_found() {
    in_all_ways(|says, words| {
        let server = Server::start();
        let origin = echo_origin();
        for kind in [A, AAAA] {
            server.says("catalog.shop", kind, says.clone());
        }
        let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
        let proxy = Proxy::start("auto", &text(&server, &dns, "50ms"));
        let reply = proxy.connect().get("/");
        assert_eq!((reply.status(), reply.cause()), (503, "no_endpoint"));
        let service = fails(&proxy, words);
        assert_eq!(service["age_s"], Json::Null, "it was never found: {service}");
        proxy.metric_is(&["ringside_dns_lookups_total", "result=\"failed\""], |n| n >= 1.0);
        let reply = proxy.connect().get("/");
        assert_eq!((reply.status(), reply.cause()), (503, "no_endpoint"));
        assert_eq!(proxy.probes().get("/readyz").status(), 200, "ready all the same");
        // It is asked for again, and then it is there.
        server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
        server.says("catalog.shop", AAAA, Says::Records(Vec::new()));
        has(&proxy, &[&origin.to_string()]);
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.says("it is found again, with 1 endpoints");
    });
}

#[test]
fn the_last_good_answer_outlives_a_failure() {
    in_all_ways(|says, words| {
        let server = Server::start();
        let origin = echo_origin();
        server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
        let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
        let proxy = Proxy::start("auto", &text(&server, &dns, "50ms"));
        has(&proxy, &[&origin.to_string()]);
        for kind in [A, AAAA] {
            server.says("catalog.shop", kind, says.clone());
        }
        let service = fails(&proxy, words);
        assert!(service["age_s"].as_f64().is_some_and(|age| age > 0.0), "{service}");
        assert_eq!(service["endpoints"], 1);
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.says("the 1 endpoints that were found before stay");
    });
}

#[test]
fn what_is_truncated_is_asked_for_over_tcp() {
    let server = Server::start();
    server.says("catalog.shop", A, Says::Truncated(addresses(1_000)));
    let proxy = Proxy::start("auto", &text(&server, "{ name: catalog.shop, port: 80 }", "10s"));
    proxy.metric_becomes(&["ringside_service_endpoints", "service=\"origin\""], "1000");
    let list = get(&proxy, "/v1/endpoints");
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1_000);
    assert_eq!(
        (&list[0]["address"], &list[999]["address"]),
        (&"127.1.0.0:80".into(), &"127.1.3.231:80".into())
    );
    assert!(server.asked().1 >= 1);
}

#[test]
fn the_smallest_ttl_of_an_alias_counts() {
    let server = Server::start();
    let records = |alias_ttl| {
        vec![
            alias("real.shop", alias_ttl),
            Record { name: "real.shop", ..a(Ipv4Addr::LOCALHOST, 3_600) },
        ]
    };
    server.says("catalog.shop", A, Says::Records(records(0)));
    let proxy = Proxy::start("auto", &text(&server, "{ name: catalog.shop, port: 80 }", "50ms"));
    has(&proxy, &["127.0.0.1:80"]);
    // The address would count for an hour, its alias counts for no time at all.
    proxy.metric_is(&["ringside_dns_lookups_total", "result=\"found\""], |n| n >= 3.0);
    // Now both count for long, and `max_ttl` is 10 s.
    server.says("catalog.shop", A, Says::Records(records(3_600)));
    let before = server.asked().0;
    proxy.metric_is(&["ringside_dns_lookups_total", "result=\"found\""], |n| n >= 4.0);
    let asked = server.asked().0 - before;
    assert!(asked <= 8, "asked {asked} times in the meantime");
}

#[test]
fn srv_records_say_ports_weights_and_who_comes_first() {
    let server = Server::start();
    let (one, two) = (echo_origin(), echo_origin());
    let records = vec![
        srv(1, 3, one.port(), "one.shop"),
        srv(1, 0, two.port(), "two.shop"),
        srv(1, 1, 81, "gone.shop"),
        srv(2, 1, 80, "spare.shop"),
    ];
    server.says("_http._tcp.shop", SRV, Says::Records(records));
    for name in ["one.shop", "two.shop", "spare.shop"] {
        server.says(name, A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    }
    let proxy = Proxy::start("auto", &text(&server, "{ srv: _http._tcp.shop }", "50ms"));
    let mut ports = [one.port(), two.port()];
    ports.sort();
    let wanted = ports.map(|port| format!("127.0.0.1:{port}"));
    has(&proxy, &[&wanted[0], &wanted[1]]);
    let list = get(&proxy, "/v1/endpoints");
    let weight_of = |origin: SocketAddr| {
        let mut list = list.as_array().unwrap().iter();
        list.find(|one| one["address"] == origin.to_string()).unwrap()["weight"].clone()
    };
    assert_eq!((weight_of(one), weight_of(two)), (3.into(), 1.into()));
    assert_eq!(proxy.connect().get("/").status(), 200);
    // The first ones are gone.
    server.says("_http._tcp.shop", SRV, Says::Records(vec![srv(2, 1, 80, "spare.shop")]));
    has(&proxy, &["127.0.0.1:80"]);
    // Or their targets are.
    let records = vec![srv(1, 1, 81, "gone.shop"), srv(2, 1, 82, "spare.shop")];
    server.says("_http._tcp.shop", SRV, Says::Records(records));
    has(&proxy, &["127.0.0.1:82"]);
}

#[test]
fn a_target_that_cannot_be_told_takes_no_other_along() {
    let server = Server::start();
    let records = vec![srv(1, 1, 80, "one.shop"), srv(1, 1, 81, "two.shop")];
    server.says("_http._tcp.shop", SRV, Says::Records(records));
    server.says("one.shop", A, Says::Code(SERVFAIL));
    server.says("one.shop", AAAA, Says::Code(SERVFAIL));
    server.says("two.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    let proxy = Proxy::start("auto", &text(&server, "{ srv: _http._tcp.shop }", "50ms"));
    has(&proxy, &["127.0.0.1:81"]);
    server.says("one.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    server.says("one.shop", AAAA, Says::Records(Vec::new()));
    has(&proxy, &["127.0.0.1:80", "127.0.0.1:81"]);
    // It stays while nobody can tell, and the other one moves.
    server.says("one.shop", A, Says::Code(SERVFAIL));
    server.says("two.shop", A, Says::Records(vec![a(Ipv4Addr::new(127, 0, 0, 2), 0)]));
    fails(&proxy, "SERVFAIL; the 2 endpoints that may be among those stay");
    has(&proxy, &["127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:81"]);
}

#[test]
fn an_alias_leads_to_srv_records() {
    let long = |name, record| Record { name, ttl: 3_600, ..record };
    let whole = vec![alias("w.shop", 0), long("w.shop", srv(0, 1, 80, "a.shop"))];
    // Some servers leave the rest to the one who asks.
    let first = vec![alias("v.shop", 3_600), long("v.shop", alias("w.shop", 3_600))];
    let last = vec![srv(0, 1, 80, "a.shop")];
    for (records, rest) in [(whole, Vec::new()), (first, last)] {
        let server = Server::start();
        server.says("_http._tcp.shop", SRV, Says::Records(records));
        server.says("w.shop", SRV, Says::Records(rest));
        server.says("a.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 3_600)]));
        let proxy = Proxy::start("auto", &text(&server, "{ srv: _http._tcp.shop }", "50ms"));
        has(&proxy, &["127.0.0.1:80"]);
        // One record of the chain counts for no time at all.
        proxy.metric_is(&["ringside_dns_lookups_total", "result=\"found\""], |n| n >= 3.0);
        // An alias of itself has none.
        let circle = vec![alias("_http._tcp.shop", 0)];
        server.says("_http._tcp.shop", SRV, Says::Records(circle));
        let service = fails(&proxy, "aliases lead from there over more than 8 steps");
        assert_eq!(service["endpoints"], 1, "{service}");
        server.says("_http._tcp.shop", SRV, Says::Records(vec![alias("nobody.shop", 0)]));
        fails(&proxy, "NXDOMAIN: there is no name nobody.shop");
    }
}

#[test]
fn the_addresses_of_an_srv_target_share_its_weight() {
    let server = Server::start();
    let records = vec![srv(0, 50, 80, "three.shop"), srv(0, 50, 81, "one.shop")];
    server.says("_http._tcp.shop", SRV, Says::Records(records));
    server.says("three.shop", A, Says::Records(addresses(3)));
    server.says("one.shop", A, Says::Records(addresses(1)));
    let proxy = Proxy::start("auto", &text(&server, "{ srv: _http._tcp.shop }", "50ms"));
    has(&proxy, &["127.1.0.0:80", "127.1.0.0:81", "127.1.0.1:80", "127.1.0.2:80"]);
    let list = get(&proxy, "/v1/endpoints");
    let weights: Vec<&Json> = list.as_array().unwrap().iter().map(|one| &one["weight"]).collect();
    assert_eq!(weights, [50, 150, 50, 50]);
}

#[test]
fn another_source_takes_over_without_a_gap() {
    let server = Server::start();
    let origin = echo_origin();
    let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
    let text = text(&server, &dns, "50ms");
    let fixed =
        text.replace(&format!("dns: {dns}"), &format!(r#"endpoints: [{{ address: "{origin}" }}]"#));
    assert_ne!(fixed, text);
    server.says("catalog.shop", A, Says::Nothing);
    let proxy = Proxy::start("auto", &fixed);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    proxy.reload(&text);
    assert_eq!(client.get("/").status(), 200, "DNS has said nothing yet");
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    has(&proxy, &[&origin.to_string()]);
    assert_eq!(client.get("/").status(), 200);
    proxy.reload(&fixed);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(get(&proxy, "/v1/services")[0]["source"], "endpoints");
    let pushed = text.replace(&format!("dns: {dns}"), "pushed: {}");
    for before in [&text, &fixed] {
        proxy.reload(before);
        proxy.reload(&pushed);
        assert_eq!(client.get("/").status(), 200, "nobody has pushed yet");
        assert_eq!(get(&proxy, "/v1/services")[0]["version"], Json::Null);
    }
    let push = json!({ "version": 1, "endpoints": [] });
    send(&proxy, "PUT /v1/services/origin/endpoints", &push);
    assert_eq!(client.get("/").cause(), "no_endpoint", "a push says that there is none");
    proxy.reload(&fixed);
    assert_eq!(client.get("/").status(), 200);
    proxy.reload(&pushed);
    assert_eq!(client.get("/").cause(), "no_endpoint", "it is known what was pushed");
}

#[test]
fn a_pushed_service_that_comes_back_has_what_was_pushed() {
    let server = Server::start();
    let origin = echo_origin();
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 0)]));
    let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
    let found = text(&server, &dns, "50ms");
    let pushed = found.replace(&format!("dns: {dns}"), "pushed: {}");
    let none = pushed.split("services:").next().unwrap();
    let proxy = Proxy::start("auto", &pushed);
    let push = json!({ "version": 7, "endpoints": [{ "address": origin.to_string() }] });
    send(&proxy, "PUT /v1/services/origin/endpoints", &push);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    proxy.reload(none);
    assert_eq!(get(&proxy, "/v1/services"), json!([]));
    send(&proxy, "POST /v1/config/rollback", &json!({ "generation": 1 }));
    assert_eq!(client.get("/").status(), 200);
    let service = get(&proxy, "/v1/services")[0].clone();
    assert_eq!([&service["version"], &service["endpoints"]], [7, 1]);
    // And by a push, after it had its endpoints from elsewhere.
    proxy.reload(&found);
    has(&proxy, &[&origin.to_string()]);
    proxy.reload(&pushed);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(get(&proxy, "/v1/services")[0]["version"], 7);
}

#[test]
fn another_name_for_what_was_found_begins_with_it() {
    let server = Server::start();
    let origin = echo_origin();
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 300)]));
    server.says("catalog.shop", AAAA, Says::Records(Vec::new()));
    let dns = format!("{{ name: catalog.shop, port: {} }}", origin.port());
    let text = text(&server, &dns, "50ms").replace("max_ttl: 10s", "max_ttl: 5m");
    let proxy = Proxy::start("auto", &text);
    has(&proxy, &[&origin.to_string()]);
    server.says("catalog.shop", A, Says::Nothing);
    let asked = server.asked();
    let before = get(&proxy, "/v1/services")[0]["age_s"].as_f64().unwrap();
    let mut client = proxy.connect();
    // There is another one, and then only that.
    let second = format!("services:\n  - {{ name: second, dns: {dns} }}\n");
    let both = text.replace("services:\n", &second).replace("service: origin", "service: second");
    let renamed = text.replace("name: origin", "name: second");
    let renamed = renamed.replace("service: origin", "service: second");
    for next in [&both, &renamed, &text] {
        proxy.reload(next);
        assert_eq!(client.get("/").status(), 200);
        let services = get(&proxy, "/v1/services");
        for service in services.as_array().unwrap() {
            assert_eq!(service["endpoints"], 1, "{services}");
            assert!(service["age_s"].as_f64().is_some_and(|age| age >= before), "{services}");
        }
    }
    assert_eq!(server.asked(), asked, "the answer counts for five minutes");
}

#[test]
fn requests_that_a_push_sends_to_a_new_name_find_it() {
    let server = Server::start();
    let origin = echo_origin();
    server.says("catalog.shop", A, Says::Records(vec![a(Ipv4Addr::LOCALHOST, 300)]));
    server.says("catalog.shop", AAAA, Says::Records(Vec::new()));
    let found = |name: &str| format!("dns: {{ name: {name}, port: {} }}", origin.port());
    let with_dns = |name: &str| text(&server, found(name).trim_start_matches("dns: "), "50ms");
    let fixed =
        with_dns("x").replace(&found("x"), &format!(r#"endpoints: [{{ address: "{origin}" }}]"#));
    let moved = |name: &str, dns: &str| {
        let services = format!("services:\n  - {{ name: {name}, {dns} }}\n");
        let text = fixed.replace("services:\n", &services);
        text.replace("service: origin", &format!("service: {name}"))
    };
    let proxy = Proxy::start("auto", &fixed);
    let mut client = proxy.connect();
    let new = moved("new", &found("catalog.shop"));
    proxy.reload(&new);
    assert_eq!(client.get("/").status(), 200, "the change has asked before");
    let asked = server.asked();
    assert_eq!(get(&proxy, "/v1/services")[0]["endpoints"], 1);
    proxy.reload(&fixed);
    send(&proxy, "POST /v1/config/rollback", &json!({ "generation": 2 }));
    assert_eq!(client.get("/").status(), 200, "it comes back by a rollback");
    assert_eq!(server.asked().0, asked.0 + 2, "each time one A and one AAAA");
    // Where nobody answers, what was pushed is live all the same, and says why it has none.
    for kind in [A, AAAA] {
        server.says("silent.shop", kind, Says::Nothing);
    }
    proxy.reload(&moved("silent", &found("silent.shop")));
    assert_eq!(client.get("/").cause(), "no_endpoint");
    proxy.reload(&moved("none", &found("none.shop")));
    assert_eq!(client.get("/").cause(), "no_endpoint");
    proxy.says("dns: service none: NXDOMAIN");
}

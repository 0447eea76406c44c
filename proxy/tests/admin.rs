//! The admin and probes listeners of a real ringside.

mod support;

use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use support::{Client, Message, Origin, Proxy, config, echo_origin};

on_both_drivers! {
    it_is_alive_and_ready_until_it_drains,
    metrics_are_text_that_prometheus_reads,
    what_nobody_has_used_is_zero,
    counters_move_by_exactly_what_was_sent,
    bytes_are_counted_as_the_client_sees_them,
    version_says_what_runs,
    metrics_say_who_runs,
    what_is_not_there_is_refused_in_words,
    web_pages_do_not_reach_admin,
    heads_that_are_too_large_are_refused,
    slow_clients_of_the_probes_hold_nobody_up,
    the_control_thread_stands_back,
}

const ADMIN: &str = r#"admin: { address: "127.0.0.1:0", auth: none }"#;

fn proxy(io: &str) -> Proxy {
    Proxy::start(io, &config(echo_origin(), "", "", ADMIN))
}

/// Asks admin or the probes, as a program of this machine does.
fn get(mut client: Client, path: &str) -> Message {
    client.ask(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
}

fn text(answer: &Message) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

fn it_is_alive_and_ready_until_it_drains(io: &str) {
    let origin = Origin::bind();
    let text_of = config(origin.address, "", "", ADMIN).replace("workers: 1", "workers: 2");
    let mut proxy = Proxy::start(io, &text_of);
    for (path, says) in [("/livez", "alive\n"), ("/readyz", "ready\n")] {
        for client in [proxy.admin(), proxy.probes()] {
            let answer = get(client, path);
            assert_eq!((answer.status(), text(&answer)), (200, says));
        }
    }
    // One worker has something to finish, the other has nothing and ends.
    let mut begun = proxy.connect();
    begun.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    proxy.signal("TERM");
    proxy.says("draining");
    let answer = get(proxy.probes(), "/readyz");
    assert_eq!((answer.status(), text(&answer)), (503, "draining\n"));
    // Even if it was connected to all the while.
    while TcpStream::connect(proxy.address("web")).is_ok() {}
    let answer = get(proxy.probes(), "/livez");
    assert_eq!((answer.status(), text(&answer)), (200, "alive\n"), "it drains, it is not dead");
    proxy.metric_becomes(&["ringside_connections_active", "web"], "1");
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(begun.message().unwrap().body, b"ok");
    drop(begun);
    assert_eq!(proxy.exit_code(), Some(0));
}

/// A sample's name, its labels by name, its value.
type Sample<'a> = (&'a str, BTreeMap<&'a str, String>, f64);

/// A sample line as the exposition format 0.0.4 defines it; a panic where it is none.
fn sample(line: &str) -> Sample<'_> {
    let named = line.find(['{', ' ']).unwrap_or_else(|| panic!("a value in {line:?}"));
    let (name, mut rest) = line.split_at(named);
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = |name: &str| {
        name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
    };
    assert!(is_name(name), "{line:?}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
            assert!(is_name(label), "{line:?}");
            let (mut text, mut chars) = (String::new(), value.char_indices());
            let end = loop {
                match chars.next().unwrap_or_else(|| panic!("a quote at the end of {line:?}")) {
                    (_, '\\') => match chars.next() {
                        Some((_, '\\')) => text.push('\\'),
                        Some((_, '"')) => text.push('"'),
                        Some((_, 'n')) => text.push('\n'),
                        other => panic!("the escape {other:?} in {line:?}"),
                    },
                    (at, '"') => break at,
                    (_, c) => text.push(c),
                }
            };
            assert_eq!(labels.insert(label, text), None, "a label twice in {line:?}");
            rest = &value[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line:?}"));
    (name, labels, value.parse().unwrap_or_else(|_| panic!("a number in {line:?}")))
}

fn metrics_are_text_that_prometheus_reads(io: &str) {
    let proxy = proxy(io);
    proxy.connect().get("/");
    proxy.connect().ask("GET / HTTP/1.1\r\nhost: no\rthing\r\n\r\n");
    proxy.metric_becomes(&["ringside_requests_total", "bad_request"], "1");
    let answer = get(proxy.probes(), "/metrics");
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let metrics = text(&answer);
    assert!(metrics.ends_with('\n'));

    let (mut helped, mut kinds, mut seen) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let (mut buckets, mut counts) = (BTreeMap::<_, Vec<(f64, f64)>>::new(), BTreeMap::new());
    let mut current = "";
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("words");
            assert!(helped.insert(name) && !help.is_empty(), "HELP once for {name}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kinds.insert(name, kind), None, "TYPE once for {name}");
            current = name;
            continue;
        }
        let (name, mut labels, value) = sample(line);
        let base = match kinds.get(current) {
            Some(&"histogram") => name
                .strip_suffix("_bucket")
                .or(name.strip_suffix("_sum"))
                .or(name.strip_suffix("_count"))
                .expect("a sample of a histogram"),
            _ => name,
        };
        assert!(base == current && helped.contains(base), "HELP and TYPE stand before {line}");
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "said twice: {line}");
        assert!(value.is_finite(), "{line}");
        if kinds[base] == "counter" {
            assert!(name.ends_with("_total") && value >= 0.0, "{line}");
        }
        if name.ends_with("_bucket") {
            let bound = labels.remove("le").expect("a bound");
            let bound = bound.parse().unwrap_or_else(|_| panic!("{line}"));
            buckets.entry((base, labels)).or_default().push((bound, value));
        } else if kinds[base] == "histogram" && name.ends_with("_count") {
            counts.insert((base, labels), value);
        }
    }
    assert!(counts.len() >= 3, "{metrics}");
    for (histogram, count) in counts {
        let buckets = &buckets[&histogram];
        assert!(buckets.is_sorted(), "{histogram:?} rises: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{histogram:?}");
    }
    for name in kinds.keys() {
        assert!(name.starts_with("ringside_") || name.starts_with("process_"), "{name}");
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "ringside_build_info"] {
        assert!(kinds.contains_key(name), "{name}");
    }
}

/// All samples, by name and labels.
fn samples(proxy: &Proxy) -> BTreeMap<String, f64> {
    let metrics = proxy.metrics();
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, labels, value) = sample(line);
            let labels: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            (format!("{name} {}", labels.join(" ")).trim().to_owned(), value)
        })
        .collect()
}

fn what_nobody_has_used_is_zero(io: &str) {
    let proxy = proxy(io);
    let samples = samples(&proxy);
    for (name, value) in [
        ("ringside_connections_active listener=web", 0.0),
        ("ringside_connections_total listener=web", 0.0),
        ("ringside_bytes_total direction=in listener=web", 0.0),
        ("ringside_upstream_connections_active service=origin", 0.0),
        ("ringside_upstream_connections_total service=origin", 0.0),
        ("ringside_service_endpoints service=origin state=healthy", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    }
}

fn counters_move_by_exactly_what_was_sent(io: &str) {
    let route = r#", matches: [{ path: { prefix: /here } }]"#;
    let proxy = Proxy::start(io, &config(echo_origin(), "", route, ""));
    let mut client = proxy.connect();
    assert_eq!(client.get("/here").status(), 200);
    proxy.metric_becomes(&["ringside_requests_total", r#"code="200""#], "1");
    let before = samples(&proxy);
    for _ in 0..7 {
        assert_eq!(client.get("/here/too").status(), 200);
    }
    for _ in 0..3 {
        assert_eq!(client.get("/elsewhere").status(), 404);
    }
    let mut other = proxy.connect();
    assert_eq!(other.get("/here").status(), 200);
    drop(other);
    proxy.metric_becomes(&["ringside_connections_closed_total", r#"cause=""#], "1");
    let after = samples(&proxy);
    let moved = |name: &str| {
        after.get(name).unwrap_or_else(|| panic!("{name} is in {after:#?}"))
            - before.get(name).copied().unwrap_or_default()
    };
    let outcome = |route: &str, service: &str, code: u16, cause: &str| {
        moved(&format!(
            "ringside_requests_total cause={cause} code={code} grpc_status= listener=web \
             route={route} service={service}"
        ))
    };
    assert_eq!(outcome("all", "origin", 200, ""), 8.0);
    assert_eq!(outcome("", "", 404, "no_route"), 3.0);
    assert_eq!(moved("ringside_connections_total listener=web"), 1.0);
    assert_eq!(moved("ringside_connections_active listener=web"), 0.0);
    assert_eq!(moved("ringside_worker_requests_total worker=0"), 11.0);
    assert_eq!(moved("ringside_worker_connections_active worker=0"), 0.0);
    assert_eq!(moved("ringside_upstream_connections_total service=origin"), 0.0);
    assert_eq!(moved("ringside_upstream_connections_active service=origin"), 0.0);
    assert_eq!(moved("ringside_upstream_connections_reused_total service=origin"), 8.0);
    assert_eq!(moved("ringside_upstream_pending service=origin"), 0.0);
    let exchanges = "listener=web route=all service=origin";
    assert_eq!(moved(&format!("ringside_request_duration_seconds_count {exchanges}")), 8.0);
    assert_eq!(moved("ringside_upstream_first_byte_seconds_count service=origin"), 8.0);
    assert_eq!(moved("ringside_proxy_overhead_seconds_count"), 8.0);
    assert_eq!(moved("ringside_config_generation"), 0.0);
    let total = before.keys().filter(|name| name.starts_with("ringside_requests_total")).count();
    assert_eq!(total, 1, "nothing else was counted before: {before:#?}");
}

fn bytes_are_counted_as_the_client_sees_them(io: &str) {
    let origin = Origin::bind().serve(|server| {
        while let Some(head) = server.until(b"\r\n\r\n") {
            let head = String::from_utf8(head).unwrap();
            if head.contains("expect: 100-continue") {
                server.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            if head.starts_with("POST /chunks") {
                server.until(b"\r\n0\r\n\r\n");
                server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                server.send("3\r\nabc\r\n0\r\n\r\n");
            } else if head.starts_with("POST") {
                server.exactly(100_000);
                server.send("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n");
                server.send(vec![b'x'; 200_000]);
            } else if head.contains("upgrade: websocket") {
                server.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n");
                server.send("upgrade: websocket\r\n\r\n");
                assert_eq!(server.exactly(4), b"ping");
                server.send("pong!");
                return;
            } else {
                server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
            }
        }
    });
    let upgrade = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 100000\r\n";
    let large = "x".repeat(100_000);
    let rows = [
        ("a body", "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n".to_owned()),
        ("no route", "GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n".to_owned()),
        ("both bodies large", format!("{post}\r\n{large}")),
        ("an interim response", format!("{post}expect: 100-continue\r\n\r\n{large}")),
        (
            "chunks",
            "POST /chunks HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .to_owned(),
        ),
        ("a tunnel", format!("{upgrade}ping")),
    ];
    for (what, request) in rows {
        let proxy = Proxy::start(io, &config(origin, "", ", hosts: [web]", ""));
        let mut client = proxy.connect();
        client.send(&request);
        client.half_close();
        let answer = client.read_to_end();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{what}: {}", String::from_utf8_lossy(&answer));
        proxy.metric_becomes(&["ringside_connections_active", "web"], "0");
        let counted = samples(&proxy);
        let counted =
            |direction| counted[&format!("ringside_bytes_total {direction} listener=web")];
        assert_eq!(counted("direction=in"), request.len() as f64, "{what}");
        assert_eq!(counted("direction=out"), answer.len() as f64, "{what}");
    }
}

fn version_says_what_runs(io: &str) {
    let proxy = proxy(io);
    let answer = get(proxy.admin(), "/version");
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    let version: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let said = proxy.said.iter().find(|fact| fact.starts_with("config generation 1, ")).unwrap();
    assert!(said.contains(version["config_hash"].as_str().unwrap()), "{said}: {version}");
    assert_eq!((&version["generation"], &version["io_backend"]), (&1.into(), &io.into()));
    let program = Command::new(env!("CARGO_BIN_EXE_ringside")).arg("--version").output().unwrap();
    let program = String::from_utf8(program.stdout).unwrap();
    assert_eq!(program, format!("ringside {}\n", version["version"].as_str().unwrap()));
}

fn metrics_say_who_runs(io: &str) {
    let text = config(echo_origin(), "", "", "");
    let text = text.replace("id: test-node", "id: web-1, service: web, zone: a");
    let proxy = Proxy::start(io, &text);
    proxy.metric_becomes(
        &["ringside_build_info{", r#"node="web-1""#, r#"service="web""#, r#"zone="a""#],
        "1",
    );
    let nameless = config(echo_origin(), "", "", "").replace("node: { id: test-node }", "");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let start: String = host.chars().take_while(char::is_ascii_alphanumeric).collect();
    let proxy = Proxy::start(io, &nameless);
    proxy.metric_becomes(&["ringside_build_info{", &format!("node=\"{start}")], "1");
}

/// A refusal as RFC 9457 has it: its status and its words.
#[track_caller]
fn refusal(answer: &Message) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], answer.status());
    assert!(problem["title"].is_string(), "{problem}");
    (answer.status(), problem["detail"].as_str().expect("words").to_owned())
}

fn what_is_not_there_is_refused_in_words(io: &str) {
    let proxy = proxy(io);
    for path in ["/v2", "/v2/config", "/livez/", "/LIVEZ", "/../livez", "/%6civez", "/livez%00"] {
        let (status, words) = refusal(&get(proxy.admin(), path));
        assert!(status == 404 && words.contains("/openapi.json"), "{path}: {status} {words}");
    }
    let (status, words) = refusal(&get(proxy.probes(), "/version"));
    assert!(status == 404 && words.contains("the rest is on admin"), "{words}");
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let answer = proxy.admin().ask(&request);
        assert_eq!(refusal(&answer).0, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{method}");
        assert_eq!(refusal(&proxy.probes().ask(&request)).0, 405, "{method}");
    }
    let mut head = proxy.probes();
    head.send("HEAD /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(head.read_to_end().starts_with(b"HTTP/1.1 200 OK\r\n"));
}

fn web_pages_do_not_reach_admin(io: &str) {
    let proxy = proxy(io);
    let own = proxy.admin().stream().peer_addr().unwrap();
    let asked = |fields: &str| proxy.admin().ask(format!("GET /version HTTP/1.1\r\n{fields}\r\n"));
    let foreign = [
        "host: evil.example\r\n",
        "host: localhost.evil.example\r\n",
        "host: 10.0.0.1\r\n",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\norigin: https://evil.example\r\n",
        "host: localhost\r\norigin: null\r\n",
        "host:\r\n",
        "",
    ];
    for fields in foreign {
        assert_eq!(refusal(&asked(fields)).0, 403, "{fields:?}");
    }
    for fields in [
        "host: localhost\r\n".to_owned(),
        format!("host: {own}\r\n"),
        format!("host: {own}\r\norigin: http://{own}\r\n"),
    ] {
        let answer = asked(&fields);
        assert_eq!(answer.status(), 200, "{fields:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let mut kubelet = proxy.probes();
    let answer = kubelet.ask("GET /livez HTTP/1.1\r\nhost: 10.1.2.3:15021\r\n\r\n");
    assert_eq!(answer.status(), 200, "probes come by any name");
}

fn heads_that_are_too_large_are_refused(io: &str) {
    let proxy = proxy(io);
    for client in [Proxy::admin, Proxy::probes] {
        let many = "x: y\r\n".repeat(100);
        let answer =
            client(&proxy).ask(format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"));
        assert_eq!(answer.status(), 431);
        let long = "y".repeat(1 << 20);
        let mut large = client(&proxy);
        large.send(format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"));
        // It may be cut off while it still sends: then a reset takes the answer with it.
        let answer = large.read_to_end();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{answer:?}");
        assert_eq!(get(client(&proxy), "/livez").status(), 200);
    }
}

fn slow_clients_of_the_probes_hold_nobody_up(io: &str) {
    let proxy = proxy(io);
    // More than it serves at a time.
    let slow: Vec<Client> = (0..300)
        .map(|_| {
            let mut client = proxy.probes();
            client.send("GET /metrics HTTP/1.1\r\nhost: loc");
            client
        })
        .collect();
    let mut client = proxy.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(get(proxy.admin(), "/readyz").status(), 200, "admin is another listener");
    drop(slow);
    assert_eq!(get(proxy.probes(), "/readyz").status(), 200);
}

#[test]
fn a_unix_socket_is_for_its_owner_alone() {
    let path = std::env::temp_dir().join(format!("ringside-admin-{}.sock", std::process::id()));
    let extra = format!("admin: {{ address: \"unix:{}\" }}", path.display());
    let mut proxy = Proxy::start("auto", &config(echo_origin(), "", "", &extra));
    assert!(proxy.said.contains(&format!("admin: unix:{}", path.display())), "{:?}", proxy.said);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"GET /version HTTP/1.1\r\nhost: any\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("generation"), "{answer}");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
    assert!(!path.exists(), "it is removed at the end");
}

/// `proc_pid_stat(5)`: nice is the 19th field, the 16th behind the name.
fn the_control_thread_stands_back(io: &str) {
    let proxy = Proxy::start(io, &config(Origin::bind().address, "", "", ADMIN));
    // It has answered, so it has begun.
    assert_eq!(get(proxy.probes(), "/livez").status(), 200);
    let mut nice = HashMap::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", proxy.id())).unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let value: i32 = fields.split_whitespace().nth(16).unwrap().parse().unwrap();
        nice.insert(name.to_owned(), value);
    }
    assert_eq!([nice["control"], nice["worker-0"]], [19, 0], "{nice:?}");
}

//! What `check` calls unreachable is: held against the router that chooses.

use std::collections::HashSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use ringside::http1::head::{HeadLimits, RequestHead, parse_request};
use ringside::plan::{ListenerKind, Plan};
use ringside::route::Request;

/// A match, as YAML.
fn matches() -> impl Strategy<Value = String> {
    let path = prop::sample::select(vec![
        "",
        "path: { prefix: / }",
        "path: { prefix: /a }",
        "path: { prefix: /a/b }",
        "path: { exact: /a }",
        "path: { exact: /a/ }",
        "path: { exact: /a//b }",
        "path: { regex: \"/a.*\" }",
        "path: { regex: \"/a/.*\" }",
        "path: { regex: \"/.*\" }",
        "path: { regex: \".*\" }",
    ]);
    let methods = prop::sample::select(vec![
        "",
        "methods: [GET]",
        "methods: [POST, GET]",
        "methods: [CONNECT]",
        "methods: [GET, CONNECT]",
    ]);
    let headers = prop::sample::select(vec![
        "",
        "",
        "headers: [{ name: x, exact: a }]",
        "headers: [{ name: x, exact: a, not: true }]",
        "headers: [{ name: x, present: true }]",
        "headers: [{ name: x, exact: a }, { name: x, exact: a, not: true }]",
        "query: [{ name: q, present: true }, { name: q, present: false }]",
        "headers: [{ name: x, exact: a }, { name: y, present: false }]",
        "query: [{ name: q, exact: a }]",
        "cookies: [{ name: c, prefix: a }]",
    ]);
    let sources = prop::sample::select(vec![
        "",
        "",
        "source_ips: [10.0.0.0/8]",
        "source_ips: [10.1.0.0/16, 127.0.0.1]",
    ]);
    (path, methods, headers, sources).prop_map(|(path, methods, headers, sources)| {
        let keys = [path, methods, headers, sources].into_iter().filter(|key| !key.is_empty());
        format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
    })
}

fn configs() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec!["\"*\"", "a", "b.a", "\"*.a\"", "\"*.b.a\""]);
    let hosts = prop::collection::vec(host, 1..3);
    let route = (-1..2i32, hosts, prop::collection::vec(matches(), 1..3));
    prop::collection::vec(route, 1..10).prop_map(|routes| {
        let mut text = String::from(
            "listeners: [{ name: l, address: '127.0.0.1:0', http: {} }]\nroutes:\n",
        );
        for (n, (priority, hosts, matches)) in routes.into_iter().enumerate() {
            let (hosts, matches) = (hosts.join(", "), matches.join(", "));
            writeln!(
                text,
                "  - {{ name: r{}, priority: {priority}, hosts: [{hosts}], matches: [{matches}], respond: {{}} }}",
                n * 7 % 10
            )
            .unwrap();
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_request_reaches_what_is_called_unreachable(text in configs()) {
        let loaded = config::parse("test", &text, config::Format::Yaml).unwrap();
        let unreachable: HashSet<&str> = loaded
            .warnings
            .list
            .iter()
            .filter(|warning| warning.message.starts_with("the route") && warning.message.contains("can never match"))
            .map(|warning| warning.message.split('`').nth(1).unwrap())
            .collect();
        let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
        let ListenerKind::Http(http) = &plan.listeners[0].kind else { unreachable!() };
        let mut reached = HashSet::new();
        for fields in ["", "x: a\r\n", "x: b\r\ncookie: c=a\r\n", "x: a\r\ny: b\r\ncookie: c=ab\r\n"] {
            let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            let mut head = RequestHead::default();
            parse_request(bytes.as_bytes(), &HeadLimits::default(), &mut head).unwrap();
            for host in ["a", "b.a", "c.a", "c.b.a", "x"] {
                for path in ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", ""] {
                    for method in ["GET", "POST", "PUT", "CONNECT"] {
                        if path.is_empty() != (method == "CONNECT") {
                            continue;
                        }
                        for query in ["", "?q=a"] {
                            for source in [None, Some("10.1.0.1"), Some("10.2.0.1"), Some("127.0.0.1")] {
                                let found = http.router.lookup(&Request {
                                    host: host.as_bytes(),
                                    path: path.as_bytes(),
                                    method: method.as_bytes(),
                                    query: query.as_bytes(),
                                    fields: head.fields.shown(bytes.as_bytes(), false),
                                    source_ip: source.map(|ip| ip.parse().unwrap()),
                                });
                                reached.extend(found.map(|chosen| chosen.route.0 as usize));
                            }
                        }
                    }
                }
            }
        }
        for index in reached {
            let name = &*plan.routes[index].name;
            prop_assert!(!unreachable.contains(name), "{name} is reached\n{text}\n{}", loaded.warnings);
        }
    }
}

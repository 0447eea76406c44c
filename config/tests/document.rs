//! Documents: parts replaced, the whole checked, and mistakes told where they were made.

use std::fs;
use std::path::Path;

use config::{Document, Format, Kind, Resting, Severity, What};
use serde_json::json;

const CONFIG: &str = r#"version: 1
node: { id: me }
workers: 2
listeners:
  - { name: web, address: "127.0.0.1:8080", http: {} }
services:
  - { name: cart, endpoints: [{ address: 10.0.0.1:80, weight: 2 }] }
  - { name: shop, endpoints: [{ address: 10.0.0.2:80 }], connect_timeout: 250ms }
routes:
  - { name: shop, hosts: [shop], backends: [{ service: shop }] }
  - { name: rest, backends: [{ service: cart }] }
"#;

fn document() -> Document {
    Document::parse("file.yaml", CONFIG.as_bytes(), Format::Yaml).unwrap()
}

/// What is pushed, under this name.
fn body(name: &str, text: &str) -> Document {
    Document::parse(name, text.as_bytes(), Format::Yaml).unwrap()
}

fn changes(from: &Document, to: &Document) -> Vec<(String, What)> {
    from.changes(to).into_iter().map(|change| (change.path, change.what)).collect()
}

#[test]
fn as_json_it_is_the_same_document() {
    let document = document();
    let json = document.to_json().to_string();
    let again = Document::parse("body", json.as_bytes(), Format::Json).unwrap();
    assert_eq!(again.hash(), document.hash());
    assert_eq!(again.check().unwrap().config, document.check().unwrap().config);
    assert_eq!(document.to_json()["services"][0]["endpoints"][0]["weight"], 2);
    assert_eq!(document.to_json()["services"][1]["connect_timeout"], "250ms");
}

#[test]
fn effective_has_the_defaults() {
    let text = format!("{CONFIG}defaults: {{ service: {{ pool: {{ idle_timeout: 3s }} }} }}\n");
    let document = Document::parse("file", text.as_bytes(), Format::Yaml).unwrap();
    let json = document.effective_json();
    assert_eq!(json["shutdown"]["deadline"], "30s");
    assert_eq!(json["services"][0]["connect_timeout"], "1s");
    assert_eq!(json["services"][1]["connect_timeout"], "250ms");
    assert_eq!(json["services"][1]["pool"]["idle_timeout"], "3s");
    assert_eq!(json["services"][1]["pool"]["idle_per_endpoint"].to_string(), "64");
    assert_eq!(json["routes"][0]["timeouts"]["response"], "15s");
    // What it says is what the config does.
    let again = Document::parse("body", json.to_string().as_bytes(), Format::Json).unwrap();
    assert_eq!(again.check().unwrap().config, document.check().unwrap().config);
}

#[test]
fn an_item_is_put_in_its_place_or_at_the_end() {
    let before = document();
    let put = |name, item: &str| before.with_item(Kind::Services, name, &body("body", item));
    let after = put("cart", r#"{"endpoints": [{"address": "10.9.9.9:80"}]}"#).unwrap();
    assert_eq!(changes(&before, &after), [("services/cart".to_owned(), What::Changed)]);
    let config = after.check().unwrap().config;
    assert_eq!(&*config.services[0].name, "cart", "its place stays");
    let (item, hash) = after.item(Kind::Services, "cart").unwrap();
    assert_eq!(item["endpoints"][0]["address"], "10.9.9.9:80");
    assert_ne!(hash, before.item(Kind::Services, "cart").unwrap().1);

    let after =
        put("new", r#"{"name": "new", "endpoints": [{"address": "10.9.9.9:80"}]}"#).unwrap();
    assert_eq!(changes(&before, &after), [("services/new".to_owned(), What::Added)]);
    assert_eq!(changes(&after, &before), [("services/new".to_owned(), What::Removed)]);
    let wrong = put("new", r#"{"name": "old", "endpoints": []}"#).err().unwrap();
    assert!(wrong.to_string().contains("this is about `new`"), "{wrong}");
}

#[test]
fn mistakes_are_told_where_they_were_made() {
    let before = document();
    let item = "{\n  \"endpoints\": [{\"address\": \"10.9.9.9:80\", \"wieght\": 1}]\n}";
    let after = before.with_item(Kind::Services, "cart", &body("body", item));
    let wrong = after.unwrap().check().unwrap_err();
    let [only] = &wrong.list[..] else { panic!("{wrong}") };
    assert_eq!((only.file.as_str(), only.line, only.column), ("body", 2, 44));
    assert_eq!(only.path, "services[0].endpoints[0]");
    // And where they turn up elsewhere.
    let wrong = before.without_item(Kind::Services, "shop").unwrap().check().unwrap_err();
    let [only] = &wrong.list[..] else { panic!("{wrong}") };
    assert_eq!((only.file.as_str(), only.line), ("file.yaml", 10));
    assert!(before.without_item(Kind::Services, "nothing").is_none());
}

#[test]
fn a_batch_is_whole_or_not_at_all() {
    let before = document();
    let batch = |text: &str| {
        let body = Document::parse("body", text.as_bytes(), Format::Yaml)?;
        before.with_batch(&body)
    };
    let after = batch(
        "put: { services: [{ name: new, endpoints: [{ address: 10.1.1.1:80 }] }],
                routes: [{ name: shop, backends: [{ service: new }] }] }
delete: { services: [shop] }",
    )
    .unwrap();
    after.check().unwrap();
    let expected = [
        ("services/new", What::Added),
        ("services/shop", What::Removed),
        ("routes/shop", What::Changed),
    ];
    assert_eq!(changes(&before, &after), expected.map(|(path, what)| (path.to_owned(), what)));

    for (body, message) in [
        ("delete: { services: [none] }", "there is no service with the name `none`"),
        ("put: { service: [] }", "unknown key `service`"),
        ("puts: {}", "unknown key `puts`"),
        ("put: { services: {} }", "this is a list"),
        ("put: { services: [{ endpoints: [] }] }", "needs its `name`"),
        ("[]", "a config is a map"),
        ("delete: { services: [[]] }", "this is a name, not a list"),
        ("delete: { services: [cart, cart] }", "and this is its second"),
        (
            "delete: { services: [cart] }\nput: { services: [{ name: cart }] }",
            "and this is its second",
        ),
    ] {
        let wrong = batch(body).err().unwrap_or_else(|| panic!("{body}"));
        assert!(wrong.to_string().contains(message), "{body}: {wrong}");
    }
    // One bad item among good ones is named.
    let body =
        "put: { services: [{ name: a, endpoints: [{ address: 10.1.1.1:80 }] }, { name: b }] }";
    let wrong = batch(body).unwrap().check().unwrap_err().to_string();
    assert!(wrong.contains("a service needs exactly one of"), "{wrong}");
}

#[test]
fn a_push_of_a_whole_config_keeps_what_is_read_at_start() {
    let before = document();
    let push = |text: &str| {
        let pushed = Document::parse("body", text.as_bytes(), Format::Yaml).unwrap();
        before.replaced_by(&pushed)
    };
    let after = push(
        "listeners: [{ name: web, address: 127.0.0.1:8080, http: {} }]\nroutes: []\nservices: []",
    );
    let (old, new) = (before.check().unwrap().config, after.check().unwrap().config);
    assert_eq!((new.node.clone(), new.workers), (old.node.clone(), old.workers));
    assert_eq!(old.boot_change(&new), None);
    assert!(new.routes.is_empty());
    let after = push("workers: 3\nlisteners: [{ name: web, address: 127.0.0.1:8080, http: {} }]");
    assert_eq!(old.boot_change(&after.check().unwrap().config), Some("workers"));
    assert_eq!(push(CONFIG).hash(), before.hash());
}

/// Pushes go on for years; what nothing refers to goes.
#[test]
fn texts_of_old_pushes_are_not_kept() {
    let mut document = document();
    for round in 0..1_000 {
        let item = format!(r#"{{"endpoints": [{{"address": "10.0.0.1:{}"}}]}}"#, 1_000 + round);
        let item = body(&format!("body {round}"), &item);
        document = document.with_item(Kind::Services, "cart", &item).unwrap();
    }
    assert!(document.texts() <= 257, "{}", document.texts());
    let item = body("last", r#"{"endpoints": [{"address": "no"}]}"#);
    let wrong = document.with_item(Kind::Services, "shop", &item);
    let wrong = wrong.unwrap().check().unwrap_err();
    assert_eq!(wrong.list[0].file, "last");
    let wrong = document.without_item(Kind::Services, "cart").unwrap().check().unwrap_err();
    assert_eq!((wrong.list[0].file.as_str(), wrong.list[0].line), ("file.yaml", 11));
}

#[test]
fn large_texts_of_old_pushes_are_not_kept() {
    let padded = |round: usize, text: &str| format!("# {round}{}\n{text}\n", " ".repeat(700_000));
    let kept = |documents: &[Document]| {
        Resting::bytes(documents.iter().map(Document::rest).collect::<Vec<_>>().iter())
    };
    let bound = (1 << 20) + 700_000;
    let mut live = document();
    for round in 0..20 {
        live = live.replaced_by(&body("push", &padded(round, CONFIG)));
    }
    assert!(kept(&[live.clone()]) < bound, "{}", kept(&[live]));
    // Each item refers to its own text, of which it is the smallest part.
    let mut live = document();
    for round in 0..20 {
        let item = padded(round, r#"{"endpoints": [{"address": "10.0.0.1:1"}]}"#);
        live = live.with_item(Kind::Services, &format!("s{round}"), &body("item", &item)).unwrap();
    }
    assert!(kept(&[live.clone()]) < bound, "{}", kept(&[live]));
    assert_eq!(live.check().unwrap().config.services.len(), 22);
}

#[test]
fn what_came_by_a_variable_is_the_same_again() {
    let text = r#"
version: "${UNSET:-1}"
workers: "${UNSET:-2}"
shutdown: { grace: "${UNSET:-3s}" }
limits: { connections: "${UNSET:-300}" }
listeners:
  - { name: web, address: "127.0.0.1:${UNSET:-80}", limits: { connections: "${UNSET:-none}" }, http: {} }
services:
  - { name: a, endpoints: [{ address: "127.0.0.1:9", weight: "${UNSET:-5}", labels: { zone: "${UNSET:-7}" } }] }
routes:
  - { name: all, priority: "${UNSET:--4}", respond: { status: "${UNSET:-204}" } }
  - { name: some, matches: [{ path: { prefix: "/${UNSET:-1}" } }], hosts: ["${UNSET:-8}"], backends: [{ service: a, weight: "${UNSET:-6}" }] }
"#;
    let document = Document::load(&[file("variables.yaml", text)]).unwrap();
    document.check().unwrap();
    let again = body("again", &document.to_json().to_string());
    again.check().unwrap();
    assert_eq!(again.hash(), document.hash());
    let (item, _) = document.item(Kind::Services, "a").unwrap();
    assert_eq!(item["endpoints"][0]["weight"], 5);
    assert_eq!(item["endpoints"][0]["labels"]["zone"], "7");
    assert_eq!(document.effective_json()["routes"][0]["respond"]["status"], 204);
}

#[test]
fn a_number_is_written_in_one_way() {
    for (given, wanted) in [("+5", "5"), ("05", "5"), ("-0", "0"), ("-007", "-7")] {
        let key = if given.starts_with('-') { "priority" } else { "status" };
        let route = match key {
            "priority" => format!("priority: {given}, respond: {{ status: 200 }}"),
            _ => format!("respond: {{ status: {given} }}"),
        };
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:80, http: {{}} }}]\nroutes: [{{ name: r, {route} }}]"
        );
        let wrong = body("b", &text).check().unwrap_err().to_string();
        assert!(wrong.contains(&format!("write `{wanted}`")), "{given}: {wrong}");
    }
}

#[test]
fn defaults_are_merged_key_by_key() {
    let check = |text: &str| {
        Document::parse("file", text.as_bytes(), Format::Yaml).and_then(|document| document.check())
    };
    let base = r#"
listeners: [{ name: web, address: "127.0.0.1:1", http: {}, timeouts: { head: 1s } },
            { name: db, address: "127.0.0.1:2", tcp: { service: a } }]
services: [{ name: a, endpoints: [{ address: "127.0.0.1:3" }], pool: { max_age: 1m } },
           { name: b, endpoints: [{ address: "127.0.0.1:4" }], connect_timeout: 9s }]
routes: [{ name: all, backends: [{ service: a }], timeouts: { total: 9s } }]
"#;
    let defaults = r#"
defaults:
  listener: { http: { header_size: 8KiB }, limits: { connections: 7 } }
  service: { connect_timeout: 2s, pool: { idle_timeout: 3s, max_age: 4m } }
  route: { timeouts: { response: 5s, total: 6s } }
"#;
    let config = check(&format!("{base}{defaults}")).unwrap().config;
    let seconds = std::time::Duration::from_secs;
    assert_eq!(config.services[0].connect_timeout, seconds(2));
    assert_eq!(config.services[1].connect_timeout, seconds(9));
    let pools: Vec<_> =
        config.services.iter().map(|s| (s.pool.idle_timeout, s.pool.max_age)).collect();
    assert_eq!(pools[0], (Some(seconds(3)), Some(seconds(60))));
    assert_eq!(pools[1], (Some(seconds(3)), Some(seconds(240))));
    let timeouts = &config.routes[0].timeouts;
    assert_eq!((timeouts.response, timeouts.total), (Some(seconds(5)), Some(seconds(9))));
    let connections = config.listeners.iter().map(|l| l.limits.connections.map(|n| n.get()));
    assert_eq!(connections.collect::<Vec<_>>(), [Some(7), Some(7)]);
    assert!(matches!(config.listeners[1].kind, config::ListenerKind::Tcp(_)), "a choice stands");
    let config::ListenerKind::Http(http) = &config.listeners[0].kind else { panic!() };
    assert_eq!(http.header_size, 8 << 10, "and what is chosen is merged");

    for (defaults, message) in [
        ("defaults: { service: { conect_timeout: 1s } }", "did you mean `connect_timeout`?"),
        ("defaults: { service: { name: a } }", "`name` has no default"),
        ("defaults: { services: {} }", "unknown key `services`"),
        ("defaults: { service: [] }", "defaults are a map"),
        ("defaults: { service: { connect_timeout: 1 } }", "say the unit"),
        ("defaults: { service: { tls: {} } }", "not supported yet"),
    ] {
        let wrong = check(&format!("{base}{defaults}")).unwrap_err();
        assert!(wrong.to_string().contains(message), "{defaults}: {wrong}");
        assert_eq!(wrong.list.len(), 1, "{wrong}");
        assert_eq!(wrong.list[0].line, 7, "{wrong}");
    }
}

#[test]
fn a_key_that_is_there_twice_hides_nothing() {
    let text = format!("{CONFIG}services: []\nworker: 2\n");
    let document = Document::load(&[file("twice.yaml", &text)]).unwrap();
    let found = document.check().unwrap_err();
    let messages: Vec<&str> = found.iter().map(|found| &*found.message).collect();
    assert_eq!(messages, ["the key `services` is there twice", "unknown key `worker` in a config"]);
}

#[test]
fn a_variable_that_is_not_set_is_one_error() {
    let text = "listeners: [{ name: web, address: \"${RINGSIDE_NOT_SET}\", http: {} }]\n\
                shutdown: { grace: \"${RINGSIDE_NOT_SET:-${HOME}}\" }\n";
    let found = Document::load(&[file("variables.yaml", text)]).unwrap().check().unwrap_err();
    let messages: Vec<&str> = found.iter().map(|found| &*found.message).collect();
    let nested = "a default is text, and has no variable in it";
    assert_eq!(messages, ["the variable `RINGSIDE_NOT_SET` is not set", nested]);
}

#[test]
fn the_rest_is_counted() {
    let routes: String =
        (0..300).map(|n| format!("  - {{ name: r{n}, zzz: 1, respond: {{}} }}\n")).collect();
    let text = CONFIG.replace("routes:\n", &format!("routes:\n{routes}"));
    let found = config::parse("a", &text, Format::Yaml).unwrap_err();
    let last = &found.list[found.len() - 1];
    assert_eq!((found.len(), &*last.message), (100, "300 more warnings are not shown"));
    assert_eq!(found.list[98].message, "202 more errors are not shown");
    assert_eq!(found.list[97].message, "unknown key `zzz` in a route");
}

#[test]
fn a_choice_of_the_item_replaces_the_one_of_the_defaults() {
    let text = r#"
listeners: [{ name: web, address: 127.0.0.1:80, http: {} }]
defaults:
  service: { dns: { name: catalog.shop, port: 8080 } }
  route: { redirect: { path: /moved, scheme: https } }
services: [{ name: a, dns: { srv: _http._tcp.catalog } }, { name: b, dns: { name: b.shop } }]
routes: [{ name: r, matches: [{ path: { prefix: /old } }], redirect: { prefix: /new } }]
"#;
    let document = body("defaults", text);
    document.check().unwrap();
    let effective = document.effective_json();
    let redirect = &effective["routes"][0]["redirect"];
    assert_eq!((&redirect["prefix"], &redirect["path"]), (&json!("/new"), &json!(null)));
    assert_eq!(redirect["scheme"], "https");
    assert_eq!(effective["services"][0]["dns"], json!({ "srv": "_http._tcp.catalog" }));
    assert_eq!(effective["services"][1]["dns"], json!({ "name": "b.shop", "port": 8080 }));
}

/// A file of this process.
fn file(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("ringside-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_wrong_default_is_told_where_no_item_takes_it() {
    let check = |text: &str| config::parse("ringside.yaml", text, Format::Yaml);
    let base = "version: 1\nlisteners: [{ name: web, address: \"127.0.0.1:1\", http: {}, timeouts: { head: 1s } }]\n";
    for (defaults, path, message) in [
        ("route: { timeouts: { response: 5 sec } }", "route.timeouts.response", "`5 sec`"),
        ("route: { backends: [{ service: nobody }] }", "route.backends[0].service", "`nobody`"),
        ("service: { connect_timeout: [] }", "service.connect_timeout", "found a list"),
        ("service: { balance: randon }", "service.balance", "`randon`"),
        ("service: { pool: { idle_tmeout: 1s } }", "service.pool", "unknown key `idle_tmeout`"),
        ("listener: { timeouts: { head: 1 } }", "listener.timeouts.head", "`1`"),
        ("listener: { http: { header_size: 1GiB } }", "listener.http.header_size", "this size is"),
    ] {
        let wrong = check(&format!("{base}defaults: {{ {defaults} }}\n")).unwrap_err();
        let errors = wrong.iter().filter(|wrong| wrong.severity == Severity::Error);
        let found: Vec<(&str, &str)> =
            errors.map(|wrong| (&*wrong.path, &*wrong.message)).collect();
        let [(found_path, found_message)] = found[..] else { panic!("{defaults}: {found:?}") };
        assert_eq!(found_path, format!("defaults.{path}"), "{defaults}");
        assert!(found_message.contains(message), "{defaults}: {found_message}");
    }
    for defaults in [
        "route: { timeouts: { response: 5s }, rewrite: { prefix: /v2 } }",
        "route: { redirect: { path: /moved, scheme: https } }",
        "service: { dns: { name: catalog.shop, port: 8080 } }",
        "route: { respond: { status: 204 } }",
        "service: { pool: { idle_timeout: none }, connect_timeout: 2s }",
        "service: { dns: { name: a.test, port: 80 } }",
        "listener: { timeouts: { keep_alive: 1m }, limits: { connections: 5 } }",
        "listener: {}",
        "",
    ] {
        let right = check(&format!("{base}defaults: {{ {defaults} }}\n"));
        assert!(right.is_ok(), "{defaults}: {}", right.unwrap_err());
    }
}

#[test]
fn what_is_in_effect_is_a_config_itself() {
    for (name, format) in [
        ("everything.yaml", Format::Yaml),
        ("routing.yaml", Format::Yaml),
        ("defaults_that_fit.yaml", Format::Yaml),
        ("notation_toml.toml", Format::Toml),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
        let document = Document::parse(name, &fs::read(path).unwrap(), format).unwrap();
        let loaded = document.check().unwrap();
        let text = document.effective_json().to_string();
        let effective = Document::parse("effective", text.as_bytes(), Format::Json).unwrap();
        let again = effective.check().unwrap_or_else(|found| panic!("{name}: {found}"));
        assert_eq!(again.config, loaded.config, "{name}");
        assert_eq!(again.warnings.len(), loaded.warnings.len(), "{name}: {}", again.warnings);
    }
}

//! The REST interface of a real ringside, and the commands that speak to it.

mod support;

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use support::{Client, Message, Origin, Proxy, beside, config, config_file, echo_origin};

/// With admin on TCP, so that requests can be made of bytes.
fn setup(origin: SocketAddr) -> String {
    config(origin, "", "", r#"admin: { address: "127.0.0.1:0", auth: none }"#)
        .replace("workers: 1", "workers: 2")
}

fn start(origin: SocketAddr) -> Proxy {
    Proxy::start("auto", &setup(origin))
}

/// A request to admin, with a JSON body if one is given.
fn ask(proxy: &Proxy, request: &str, headers: &str, body: Option<&Json>) -> Message {
    ask_text(proxy, request, headers, &body.map(Json::to_string).unwrap_or_default())
}

fn ask_text(proxy: &Proxy, request: &str, headers: &str, body: &str) -> Message {
    let kind = if body.is_empty() || headers.contains("content-type") {
        ""
    } else {
        "content-type: application/json\r\n"
    };
    proxy.admin().ask(format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\n{kind}{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn json_of(message: &Message) -> Json {
    let text = String::from_utf8_lossy(&message.body);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}{text}", message.head))
}

fn get(proxy: &Proxy, path: &str) -> Json {
    let reply = ask(proxy, &format!("GET {path}"), "", None);
    assert_eq!(reply.status(), 200, "{reply:?}");
    json_of(&reply)
}

/// Expects a refusal by this name; gives its errors.
fn refused(reply: &Message, status: u16, title: &str) -> Json {
    let body = json_of(reply);
    assert_eq!((reply.status(), &body["title"]), (status, &json!(title)), "{body:#}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    body["errors"].clone()
}

fn route(name: &str, host: &str) -> Json {
    json!({ "name": name, "hosts": [host], "backends": [{ "service": "origin" }] })
}

#[test]
fn a_client_that_leaves_does_not_leave_half_a_change() {
    let proxy = start(echo_origin());
    let hosts: Vec<String> = (0..20).map(|n| format!("host-{n}")).collect();
    for host in &hosts {
        let body = json!({ "hosts": [host], "respond": { "status": 204 } }).to_string();
        let mut client = proxy.admin();
        client.send(format!(
            "PUT /v1/config/routes/{host} HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        drop(client);
    }
    // What control shows is what the workers do, for each of them.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let config = get(&proxy, "/v1/config");
        let shown = config["routes"].as_array().unwrap().iter();
        let shown: Vec<String> = shown.map(|route| route["name"].to_string()).collect();
        let agree = hosts.iter().all(|host| {
            let reply = proxy.connect().ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            (reply.status() == 204) == shown.contains(&format!("\"{host}\""))
        });
        let metrics = proxy.metrics();
        let generation =
            format!("ringside_config_generation {}", get(&proxy, "/v1/status")["generation"]);
        if agree && metrics.contains(&generation) && shown.len() > 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{shown:?}, {generation}");
    }
    proxy.says("audit: PUT /v1/config/routes/host-");
}

#[test]
fn an_address_is_free_when_its_listener_is_gone() {
    let proxy = start(echo_origin());
    let address = Origin::bind().address.to_string();
    let listener = json!({ "address": address, "tcp": { "service": "origin" } });
    let put = || ask(&proxy, "PUT /v1/config/listeners/y?wait=5s", "", Some(&listener));
    for _ in 0..20 {
        let reply = put();
        assert_eq!(reply.status(), 200, "{reply:?}");
        let reply = ask(&proxy, "DELETE /v1/config/listeners/y?wait=5s", "", None);
        assert_eq!(reply.status(), 200, "{reply:?}");
    }
}

#[test]
fn conditions_are_about_the_item() {
    let proxy = start(echo_origin());
    let item = json!({ "hosts": ["z"], "respond": { "status": 204 } });
    let put =
        |headers: &str, item: &Json| ask(&proxy, "PUT /v1/config/routes/z", headers, Some(item));
    let missing = put("if-match: *\r\n", &item);
    refused(&missing, 412, "stale");
    assert_eq!(missing.header("etag"), None);
    assert_eq!(json_of(&missing)["detail"], "it is not there, so it has no hash");
    let made = put("if-none-match: *\r\n", &item);
    assert_eq!(made.status(), 200, "{made:?}");
    refused(&put("if-none-match: *\r\n", &item), 412, "stale");
    let read = ask(&proxy, "GET /v1/config/routes/z", "", None);
    assert_eq!(made.header("etag"), read.header("etag"));
    let mut other = item.clone();
    other["respond"]["status"] = json!(205);
    let condition = format!("if-match: {}\r\n", made.header("etag").unwrap());
    assert_eq!(put(&condition, &other).status(), 200);
    refused(&put(&condition, &item), 412, "stale");
    assert_eq!(put("if-match: *\r\n", &item).status(), 200);
    // None of these was a config that is no good, nor is one that is only tried.
    let wrong = json!({ "hosts": ["z"], "respond": { "status": 1 } });
    let tried = ask(&proxy, "PUT /v1/config/routes/z?dry_run=true", "", Some(&wrong));
    refused(&tried, 422, "invalid_config");
    assert_eq!(ask(&proxy, "DELETE /v1/config/routes/none", "", None).status(), 404);
    proxy.metric_becomes(&["ringside_config_rejected_total"], "0");
    refused(&put("", &wrong), 422, "invalid_config");
    proxy.metric_becomes(&["ringside_config_rejected_total"], "1");
    // Endpoints have versions instead.
    let push = json!({ "version": 1, "endpoints": [] });
    let push = ask(&proxy, "PUT /v1/services/origin/endpoints", "if-match: \"x\"\r\n", Some(&push));
    refused(&push, 412, "stale");
}

#[test]
fn what_is_misspelt_is_not_done() {
    let proxy = start(echo_origin());
    let item = json!({ "hosts": ["z"], "respond": { "status": 204 } });
    for query in ["dry-run=true", "dryrun=true", "x=1", "dry_run=yes"] {
        let reply = ask(&proxy, &format!("PUT /v1/config/routes/z?{query}"), "", Some(&item));
        assert_eq!(reply.status(), 400, "{query}: {reply:?}");
    }
    for request in ["PUT /v1/services/origin/endpoints", "POST /v1/endpoints"] {
        let push = json!({ "version": 1, "endpoints": [] });
        let reply = ask(&proxy, &format!("{request}?dry_run=true"), "", Some(&push));
        refused(&reply, 400, "bad_query");
    }
    for body in ["{", "nonsense", "\u{1}"] {
        let reply = ask_text(&proxy, "PUT /v1/config/routes/z", "", body);
        refused(&reply, 400, "not_parseable");
    }
    // A name does not write lines of its own into the log.
    let forged = "DELETE /v1/config/routes/x%0aringside:%20audit:%20PUT%20%1b[31m";
    refused(&ask(&proxy, forged, "", None), 404, "not_found");
    proxy.says("audit: DELETE /v1/config/routes/x\\nringside: audit: PUT \\u{1b}[31m: refused");
    assert_eq!(get(&proxy, "/v1/status")["generation"], 1);
    // Variables are put in where files are read.
    let literal = json!({ "hosts": ["z"], "respond": { "status": 200, "body": "${HOME}" } });
    let reply = json_of(&ask(&proxy, "PUT /v1/config/routes/z", "", Some(&literal)));
    assert_eq!(reply["warnings"][0]["message"], "`${HOME}` stays as it is");
    let answer = proxy.connect().ask("GET / HTTP/1.1\r\nhost: z\r\n\r\n");
    assert_eq!(answer.body, b"${HOME}");
}

#[test]
fn a_whole_config_is_pushed_and_gone_back_from() {
    let proxy = start(echo_origin());
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    let first = ask(&proxy, "GET /v1/config", "", None);
    let mut wanted = json_of(&first);
    let etag = first.header("etag").unwrap().to_owned();
    wanted["routes"] = json!([route("other", "other")]);

    let reply = ask(&proxy, "PUT /v1/config?wait=5s", "", Some(&wanted));
    assert_eq!(reply.status(), 200, "{reply:?}");
    let body = json_of(&reply);
    assert_eq!([&body["generation"], &body["live"], &body["workers"]], [2, 2, 2]);
    assert_eq!(
        body["changed"],
        json!([{ "path": "routes/all", "change": "removed" }, { "path": "routes/other", "change": "added" }])
    );
    assert_eq!(client.get("/").cause(), "no_route", "on the same connection");
    let now = ask(&proxy, "GET /v1/config", "", None);
    assert_eq!(json_of(&now), wanted);
    assert_ne!(now.header("etag").unwrap(), etag);
    assert!(get(&proxy, "/v1/status")["unsaved"].as_bool().unwrap());
    proxy.metric_becomes(&["ringside_config_unsaved"], "1");

    // The same again is no news.
    let reply = ask(&proxy, "PUT /v1/config", "", Some(&wanted));
    assert_eq!((reply.status(), &json_of(&reply)["generation"]), (200, &json!(2)));
    // What is not what it was is not replaced.
    let stale = ask(&proxy, "PUT /v1/config", &format!("if-match: {etag}\r\n"), Some(&wanted));
    refused(&stale, 412, "stale");
    assert_eq!(stale.header("etag"), now.header("etag"));

    let reply = ask(&proxy, "POST /v1/config/rollback", "", Some(&json!({ "generation": 1 })));
    assert_eq!((reply.status(), &json_of(&reply)["generation"]), (200, &json!(3)));
    assert_eq!(reply.header("etag"), Some(etag.as_str()));
    assert_eq!(client.get("/").status(), 200);
    assert!(!get(&proxy, "/v1/status")["unsaved"].as_bool().unwrap());
    let numbers: Vec<u64> = get(&proxy, "/v1/config/generations")
        .as_array()
        .unwrap()
        .iter()
        .map(|known| known["generation"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(get(&proxy, "/v1/config/generations/2?wait=1s")["config"], wanted);
    refused(&ask(&proxy, "GET /v1/config/generations/9", "", None), 404, "not_found");
    let missing = ask(&proxy, "POST /v1/config/rollback", "", Some(&json!({ "generation": 9 })));
    refused(&missing, 404, "not_found");
    proxy.says("audit: PUT /v1/config: generation 2");
    proxy.says("audit: rollback to generation 1: generation 3");
}

#[test]
fn items_are_put_and_deleted_by_name() {
    let proxy = start(echo_origin());
    let put = |path: &str, headers: &str, body: &Json| {
        ask(&proxy, &format!("PUT {path}"), headers, Some(body))
    };
    let mut new = route("new", "new");
    new.as_object_mut().unwrap().remove("name");
    assert_eq!(put("/v1/config/routes/new", "", &new).status(), 200);
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: new\r\n\r\n").status(), 200);
    proxy.metric_becomes(&["ringside_requests_total", r#"route="new""#], "1");
    let item = ask(&proxy, "GET /v1/config/routes/new", "", None);
    assert_eq!(json_of(&item)["hosts"], json!(["new"]));
    let condition = format!("if-match: {}\r\n", item.header("etag").unwrap());
    let reply = put("/v1/config/routes/new", &condition, &route("new", "newer"));
    assert_eq!(reply.status(), 200, "{reply:?}");
    refused(&put("/v1/config/routes/new", &condition, &route("new", "newest")), 412, "stale");
    refused(&put("/v1/config/routes/new", "", &route("old", "new")), 422, "invalid_config");
    refused(&put("/v1/config/nothing/new", "", &new), 404, "not_found");

    // What something else needs stays.
    let used = ask(&proxy, "DELETE /v1/config/services/origin", "", None);
    let detail = json_of(&used)["detail"].to_string();
    assert!(detail.contains("services/origin is in use by routes/new, routes/all"), "{detail}");
    let errors = refused(&used, 422, "invalid_config");
    assert!(errors[0]["message"].as_str().unwrap().contains("there is no service"), "{errors}");
    assert_eq!(ask(&proxy, "DELETE /v1/config/routes/new", "", None).status(), 200);
    refused(&ask(&proxy, "DELETE /v1/config/routes/new", "", None), 404, "not_found");
    refused(&ask(&proxy, "GET /v1/config/routes/new", "", None), 404, "not_found");
}

#[test]
fn a_batch_with_one_bad_item_changes_nothing() {
    let proxy = start(echo_origin());
    let before = get(&proxy, "/v1/config");
    let bad = json!({ "put": {
        "services": [{ "name": "fine", "endpoints": [{ "address": "127.0.0.1:1" }] }],
        "routes": [route("good", "good"), { "name": "bad", "backends": [{ "service": "nobody" }] }],
    } });
    let reply = ask(&proxy, "POST /v1/config/batch", "", Some(&bad));
    let errors = refused(&reply, 422, "invalid_config");
    let error = &errors[0];
    assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
    assert!(error["message"].as_str().unwrap().contains("`nobody`"), "{error}");
    assert_eq!(error["path"], "routes[2].backends[0].service");
    assert_eq!(error["item"], "routes/bad");
    let detail = json_of(&reply)["detail"].to_string();
    assert!(detail.contains("routes/bad") && detail.contains("nothing has changed"), "{detail}");
    assert_eq!((&error["file"], &error["line"]), (&json!("(body)"), &json!(1)));
    assert_eq!(get(&proxy, "/v1/config"), before);
    assert_eq!(get(&proxy, "/v1/status")["generation"], 1);
    proxy.metric_becomes(&["ringside_config_rejected_total"], "1");

    let good = json!({
        "put": { "routes": [route("good", "good")] },
        "delete": { "routes": ["all"] },
    });
    let reply = ask(&proxy, "POST /v1/config/batch", "", Some(&good));
    assert_eq!((reply.status(), &json_of(&reply)["generation"]), (200, &json!(2)));
    let mut client = proxy.connect();
    assert_eq!(client.get("/").cause(), "no_route");
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: good\r\n\r\n").status(), 200);
}

#[test]
fn a_dry_run_says_what_would_be() {
    let proxy = start(echo_origin());
    let mut wanted = get(&proxy, "/v1/config");
    wanted["services"][0]["connect_timeout"] = json!("3s");
    let reply = ask(&proxy, "PUT /v1/config?dry_run=true", "", Some(&wanted));
    let body = json_of(&reply);
    assert_eq!((reply.status(), &body["dry_run"]), (200, &json!(true)));
    assert_eq!(body["changed"], json!([{ "path": "services/origin", "change": "changed" }]));
    assert_eq!(get(&proxy, "/v1/status")["generation"], 1);
    wanted["services"][0]["connect_timeout"] = json!("3");
    let reply = ask(&proxy, "PUT /v1/config?dry_run=true", "", Some(&wanted));
    refused(&reply, 422, "invalid_config");
}

#[test]
fn wrong_pushes_are_told_what_is_wrong() {
    let proxy = start(echo_origin());
    let put = |headers: &str, body: &str| ask_text(&proxy, "PUT /v1/config", headers, body);
    refused(&put("", "{"), 400, "not_parseable");
    refused(&put("content-type: application/yaml\r\n", "a: ["), 400, "not_parseable");
    refused(&put("content-type: text/plain\r\n", "{}"), 415, "unsupported_media_type");
    let errors = refused(
        &put("content-type: application/yaml\r\n", "lisseners: []\n"),
        422,
        "invalid_config",
    );
    assert_eq!((&errors[0]["line"], &errors[0]["column"]), (&json!(1), &json!(1)), "{errors}");
    assert_eq!(errors[0]["hint"], "did you mean `listeners`?");
    // `${…}` is of files only.
    let yaml = "listeners: [{ name: \"${HOME}\", address: \"127.0.0.1:0\", http: {} }]";
    refused(&put("content-type: application/yaml\r\n", yaml), 422, "invalid_config");
    let mut boot = get(&proxy, "/v1/config");
    boot["workers"] = json!(7);
    let errors = refused(&put("", &boot.to_string()), 422, "restart_required");
    assert_eq!((&errors[0]["path"], &errors[0]["line"]), (&json!("workers"), &json!(1)));
    // What only a restart changes may be left out.
    let map = boot.as_object_mut().unwrap();
    ["workers", "node", "probes", "admin"].into_iter().for_each(|key| drop(map.remove(key)));
    assert_eq!(put("", &boot.to_string()).status(), 200);

    let taken = Origin::bind();
    boot["listeners"][0]["address"] = json!(taken.address.to_string());
    let errors = refused(&put("", &boot.to_string()), 422, "not_possible_here");
    assert!(errors[0]["message"].as_str().unwrap().contains("cannot listen on"), "{errors}");
    assert_eq!(
        (&errors[0]["item"], &errors[0]["file"]),
        (&json!("listeners/web"), &json!("(body)"))
    );
    assert_eq!(proxy.connect().get("/").status(), 200);
    for (request, headers) in [
        ("POST /v1/config/batch", "content-type: text/plain\r\n"),
        ("POST /v1/drain", ""),
        ("POST /v1/explain", ""),
        ("POST /v1/config/rollback", ""),
    ] {
        refused(&ask_text(&proxy, request, headers, ""), 415, "unsupported_media_type");
    }
    let foreign = proxy.admin().ask("GET /v1/config HTTP/1.1\r\nhost: evil.example\r\n\r\n");
    refused(&foreign, 403, "foreign_host");
    assert_eq!(get(&proxy, "/v1/status")["phase"], "ready");
}

#[test]
fn half_a_body_changes_nothing() {
    let proxy = start(echo_origin());
    let body = get(&proxy, "/v1/config").to_string();
    let mut half = proxy.admin();
    half.send(format!(
        "PUT /v1/config HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len() + 1
    ));
    half.half_close();
    let _ = half.read_to_end();
    let huge = proxy.admin().ask(format!(
        "PUT /v1/config HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        64 << 20
    ));
    assert_eq!(huge.status(), 413);
    assert_eq!(get(&proxy, "/v1/status")["generation"], 1);
}

#[test]
fn a_hundred_pushes_at_once_take_turns() {
    let proxy = start(echo_origin());
    let admin = proxy.admin().stream().peer_addr().unwrap();
    let pushes: Vec<_> = (0..100)
        .map(|n| {
            beside(move || {
                let body = route(&format!("r{n}"), &format!("h{n}")).to_string();
                let reply = Client::connect(admin).ask(format!(
                    "PUT /v1/config/routes/r{n} HTTP/1.1\r\nhost: localhost\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ));
                assert_eq!(reply.status(), 200, "{reply:?}");
                json_of(&reply)["generation"].as_u64().unwrap()
            })
        })
        .collect();
    let mut numbers: Vec<u64> = pushes.into_iter().map(|push| push.join().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=101).collect::<Vec<u64>>(), "each is told its own generation");
    let routes = get(&proxy, "/v1/config")["routes"].as_array().unwrap().len();
    assert_eq!(routes, 101, "and none undid another's");
}

#[test]
fn drained_and_undrained() {
    let proxy = start(echo_origin());
    let mut client = proxy.connect();
    assert_eq!(client.get("/").header("connection"), None);
    let post = |path: &str| ask(&proxy, &format!("POST {path}"), "", Some(&json!({})));
    assert_eq!(post("/v1/drain").status(), 200);
    assert_eq!(proxy.probes().get("/readyz").status(), 503);
    assert_eq!(get(&proxy, "/v1/status")["phase"], "drained");
    let reply = client.get("/");
    assert_eq!((reply.status(), reply.header("connection")), (200, Some("close")));
    // It takes what comes, and configs too.
    assert_eq!(proxy.connect().get("/").status(), 200);
    let pushed = ask(&proxy, "PUT /v1/config/routes/r", "", Some(&route("r", "r")));
    assert_eq!(pushed.status(), 200);
    assert_eq!(post("/v1/undrain").status(), 200);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    assert_eq!(proxy.connect().get("/").header("connection"), None);
}

#[test]
fn a_push_while_the_process_drains_is_refused() {
    let origin = Origin::bind();
    let mut proxy = start(origin.address);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    let quit = ask(&proxy, "POST /v1/quit", "", Some(&json!({})));
    assert_eq!(quit.status(), 200);
    proxy.says("draining");
    let pushed = ask(&proxy, "PUT /v1/config/routes/r", "", Some(&route("r", "r")));
    refused(&pushed, 503, "draining");
    refused(&ask(&proxy, "POST /v1/undrain", "", Some(&json!({}))), 503, "draining");
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.message().unwrap().body, b"ok");
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn a_push_that_the_drain_overtakes_is_told_so() {
    for _ in 0..8 {
        let mut proxy = start(echo_origin());
        thread::scope(|scope| {
            for pusher in 0..3 {
                let admin = proxy.admin().stream().peer_addr().unwrap();
                scope.spawn(move || {
                    for number in 0.. {
                        let name = format!("r{pusher}");
                        let item = route(&name, &format!("h{number}")).to_string();
                        let Ok(stream) = TcpStream::connect(admin) else { return };
                        let mut client = Client::from(stream);
                        client.send(format!(
                            "PUT /v1/config/routes/r{pusher} HTTP/1.1\r\nhost: localhost\r\n\
                             content-type: application/json\r\ncontent-length: {}\r\n\r\n{item}",
                            item.len()
                        ));
                        // The process may end before it has answered.
                        let Some(reply) = client.message() else { return };
                        match reply.status() {
                            200 => {}
                            _ => {
                                refused(&reply, 503, "draining");
                                return;
                            }
                        }
                    }
                });
            }
            proxy.metric_is(&["ringside_config_generation"], |generation| generation > 5.0);
            proxy.signal("TERM");
        });
        assert_eq!(proxy.exit_code(), Some(0));
    }
}

#[test]
fn what_is_served_is_what_the_document_says() {
    let proxy = start(echo_origin());
    let document = get(&proxy, "/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path =
            path.replace("{kind}", "routes").replace("{name}", "all").replace("{number}", "1");
        let methods = methods.as_object().unwrap();
        for method in ["get", "put", "post", "delete", "patch"] {
            // One ends the process, and the other never ends.
            if matches!((&*path, method), ("/v1/quit", "post") | ("/v1/events", "get")) {
                continue;
            }
            // Without a content type nothing is changed.
            let request = format!("{} {path}", method.to_uppercase());
            let status = match method {
                "delete" => ask(&proxy, &request, "if-match: \"x\"\r\n", None).status(),
                _ => ask(&proxy, &request, "", None).status(),
            };
            assert_eq!(status != 405, methods.contains_key(method), "{request}: {status}");
            assert_ne!(status, 500, "{request}");
        }
    }
    refused(&ask(&proxy, "GET /v2", "", None), 404, "not_found");
    for path in ["/", "/v1/certs", "/v1/tap"] {
        refused(&ask(&proxy, &format!("GET {path}"), "", None), 501, "not_supported_yet");
    }
}

/// What bodies are in the document's eyes, beside what the server makes of them.
#[test]
fn bodies_and_queries_are_what_the_document_says() {
    let proxy = Proxy::start("auto", &pushed("0s"));
    let document = get(&proxy, "/openapi.json");
    let set = json!({ "version": 1, "endpoints": [{ "address": "127.0.0.1:1", "weight": 2 }] });
    let whole = json!({ "version": 1, "listeners": [], "no_such_key": 1 });
    let running = get(&proxy, "/v1/config");
    let item = json!({ "listeners": ["web"], "hosts": ["z"], "respond": { "status": 204 } });
    let batch = json!({ "put": { "routes": [route("b", "b")] }, "delete": { "routes": [] } });
    let rows = [
        ("put", "/v1/config", running.clone(), true),
        ("put", "/v1/config", whole, false),
        ("put", "/v1/config/{kind}/{name}", item.clone(), true),
        ("put", "/v1/config/{kind}/{name}", json!({ "respond": { "state": 204 } }), false),
        ("post", "/v1/config/batch", batch.clone(), true),
        ("post", "/v1/config/batch", json!({ "insert": {} }), false),
        ("post", "/v1/config/batch", json!({ "delete": { "routes": [1.5, {}] } }), false),
        ("post", "/v1/config/rollback", json!({}), true),
        ("post", "/v1/config/rollback", json!({ "generation": "x" }), false),
        ("put", "/v1/services/{name}/endpoints", set.clone(), true),
        ("put", "/v1/services/{name}/endpoints", json!({ "version": 2 }), false),
        ("put", "/v1/services/{name}/endpoints", json!({ "version": -2, "endpoints": [] }), false),
        ("patch", "/v1/services/{name}/endpoints", json!({ "version": 3, "remove": [] }), true),
        ("patch", "/v1/services/{name}/endpoints", json!({ "version": 4, "put": [] }), false),
        (
            "post",
            "/v1/endpoints",
            json!({ "services": { "origin": { "version": 5, "endpoints": [] } } }),
            true,
        ),
        ("post", "/v1/endpoints", json!({ "services": { "origin": [] } }), false),
        ("post", "/v1/services/{name}/eject", json!({}), false),
        ("post", "/v1/services/{name}/restore", json!({ "endpoint": 7 }), false),
        ("post", "/v1/explain", json!({ "url": "http://web/", "headers": { "a": "b" } }), true),
        ("post", "/v1/explain", json!({ "method": "GET" }), false),
        ("post", "/v1/drain", json!({}), true),
        ("post", "/v1/undrain", json!({}), true),
    ];
    for (method, path, body, is_valid) in &rows {
        let operation = &document["paths"][path][method];
        let mut schema = operation["requestBody"]["content"]["application/json"]["schema"].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert_eq!(validator.is_valid(body), *is_valid, "{method} {path} {body}");
        let name = if path.contains("{kind}") { "z" } else { "origin" };
        let path = path.replace("{kind}", "routes").replace("{name}", name);
        let reply = ask(&proxy, &format!("{} {path}", method.to_uppercase()), "", Some(body));
        assert_eq!(reply.status() < 300, *is_valid, "{method} {path} {body}: {reply:?}");
    }
    let parameters = |operation: &Json| -> Vec<String> {
        let all = operation["parameters"].as_array().unwrap().iter();
        let named = all.filter(|parameter| parameter["in"] == "query");
        named.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
    };
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if matches!(&**path, "/v1/quit" | "/v1/events") || !path.starts_with("/v1/") {
                continue;
            }
            let known = parameters(operation);
            let request = format!("{} {path}", method.to_uppercase());
            let request = request.replace("{number}", "1").replace("{kind}", "routes");
            for (name, value) in [
                ("dry_run", "true"),
                ("effective", "true"),
                ("wait", "1ms"),
                ("limit", "1"),
                ("x", ""),
            ] {
                // No name fits, and without a content type nothing is changed.
                let reply = ask(&proxy, &format!("{request}?{name}={value}"), "", None);
                let text = String::from_utf8_lossy(&reply.body);
                let is_unknown = reply.status() == 400 && text.contains("unknown parameter");
                assert_eq!(
                    is_unknown,
                    !known.contains(&name.to_owned()),
                    "{request} {name}: {text}"
                );
            }
        }
    }
    refused(&ask(&proxy, "GET /v1/config/routes/%ff", "", None), 400, "bad_path");
    assert_eq!(ask(&proxy, "GET /metrics?match=all", "", None).status(), 200);
}

#[test]
fn names_that_are_long_gone_are_forgotten() {
    let proxy = start(echo_origin());
    let mut client = proxy.connect();
    let samples = |proxy: &Proxy, name: &str| {
        let metrics = proxy.metrics();
        metrics.lines().filter(|line| line.contains(&format!("\"{name}\""))).count()
    };
    let mut config = get(&proxy, "/v1/config");
    for turn in 0..300 {
        let name = format!("preview-{turn}");
        config["services"][0]["name"] = json!(name);
        config["routes"] =
            json!([{ "name": name, "listeners": ["web"], "backends": [{ "service": name }] }]);
        assert_eq!(ask(&proxy, "PUT /v1/config", "", Some(&config)).status(), 200);
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(samples(&proxy, "preview-0"), 0);
    assert!(samples(&proxy, "preview-250") > 0, "counted on for those who look in a while");
    proxy.metric_is(&["ringside_requests_total", "preview-299"], |count| count >= 1.0);
    let total = |metrics: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with("ringside_requests_total{"));
        lines.count()
    };
    assert!(total(&proxy.metrics()) <= 2 * 257);
}

#[test]
fn effective_and_explain() {
    let proxy = start(echo_origin());
    assert_eq!(get(&proxy, "/v1/config?effective=true")["shutdown"]["deadline"], "5s");
    assert_eq!(get(&proxy, "/v1/config?effective=true")["services"][0]["balance"], "round_robin");
    let question = json!({ "method": "GET", "url": "http://web/x", "headers": { "a": "b" } });
    let answer = json_of(&ask(&proxy, "POST /v1/explain", "", Some(&question)));
    assert_eq!(answer["route"], "all", "{answer:#}");
    assert!(answer["text"].as_str().unwrap().contains("all"));
    let unclear = ask(&proxy, "POST /v1/explain", "", Some(&json!({ "uri": "/" })));
    refused(&unclear, 422, "unclear_question");
    let listeners = get(&proxy, "/v1/listeners");
    assert_eq!(listeners[0]["address"], json!(proxy.address("web").to_string()));
    assert_eq!(get(&proxy, "/v1/workers")[1], json!({ "worker": 1, "answers": true }));
}

/// A config whose one service gets its endpoints by pushes.
fn pushed(wait: &str) -> String {
    let endpoints = "endpoints: [{ address: \"127.0.0.1:1\" }]";
    setup(([127, 0, 0, 1], 1).into())
        .replace(endpoints, &format!("pushed: {{ wait_at_start: {wait} }}"))
}

/// An origin that answers with its name.
fn named(name: &'static str) -> SocketAddr {
    Origin::bind().serve(move |client| {
        while client.message().is_some() {
            let length = name.len();
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}"));
        }
    })
}

#[test]
fn endpoints_are_pushed_by_version() {
    let proxy = Proxy::start("auto", &pushed("0s"));
    let mut client = proxy.connect();
    let reply = client.get("/");
    assert_eq!((reply.status(), reply.cause()), (503, "no_endpoint"));
    let (a, b) = (named("a"), named("b"));
    let set = |version: u64, endpoints: &[SocketAddr]| {
        let list: Vec<Json> =
            endpoints.iter().map(|at| json!({ "address": at.to_string() })).collect();
        json!({ "version": version, "endpoints": list })
    };
    let put = |body: &Json| ask(&proxy, "PUT /v1/services/origin/endpoints", "", Some(body));
    let reply = put(&set(17, &[a]));
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(json_of(&reply)["live"], 2);
    assert_eq!(client.get("/").body, b"a");
    // The same again is no news; an older one, or another of this number, is refused.
    assert_eq!(json_of(&put(&set(17, &[a])))["changed"], json!([]));
    refused(&put(&set(16, &[b])), 409, "stale_version");
    refused(&put(&set(17, &[b])), 409, "stale_version");
    assert_eq!(client.get("/").body, b"a");

    let patch = |body: &Json| ask(&proxy, "PATCH /v1/services/origin/endpoints", "", Some(body));
    let edit = json!({ "version": 18, "upsert": [{ "address": b.to_string() }], "remove": [a.to_string()] });
    assert_eq!(patch(&edit).status(), 200);
    assert_eq!(client.get("/").body, b"b");
    refused(
        &patch(&edit.as_object().map(|_| json!({ "version": 3 })).unwrap()),
        409,
        "stale_version",
    );

    // They are no part of the config: it keeps its generation, and a new one keeps them.
    assert_eq!(get(&proxy, "/v1/status")["generation"], 1);
    let mut config = get(&proxy, "/v1/config");
    config["services"][0]["connect_timeout"] = json!("3s");
    assert_eq!(ask(&proxy, "PUT /v1/config", "", Some(&config)).status(), 200);
    assert_eq!(client.get("/").body, b"b");
    let services = get(&proxy, "/v1/services");
    assert_eq!([&services[0]["version"], &services[0]["endpoints"]], [18, 1]);
    assert_eq!(get(&proxy, "/v1/endpoints")[0]["address"], json!(b.to_string()));
    proxy.metric_is(&["ringside_endpoint_set_updated_timestamp_seconds"], |at| at > 1.7e9);
    proxy.metric_becomes(&["ringside_service_endpoints", "origin"], "1");

    let many = json!({ "services": { "origin": set(20, &[a]), "nobody": set(1, &[b]) } });
    refused(&ask(&proxy, "POST /v1/endpoints", "", Some(&many)), 404, "not_found");
    assert_eq!(client.get("/").body, b"b", "all or nothing");
    let one = json!({ "services": { "origin": set(20, &[a]) } });
    assert_eq!(ask(&proxy, "POST /v1/endpoints", "", Some(&one)).status(), 200);
    assert_eq!(client.get("/").body, b"a");
    let errors = refused(
        &put(&json!({ "version": 21, "endpoints": [{ "adress": "1.1.1.1:1" }] })),
        422,
        "invalid_endpoints",
    );
    assert_eq!(errors[0]["hint"], "did you mean `address`?", "{errors}");
    assert_eq!(put(&set(22, &[])).status(), 200, "none at all is an answer too");
    assert_eq!(client.get("/").cause(), "no_endpoint");
}

#[test]
fn what_is_not_pushed_is_not_pushed_to() {
    let proxy = start(echo_origin());
    let body = json!({ "version": 1, "endpoints": [] });
    let put =
        |name: &str| ask(&proxy, &format!("PUT /v1/services/{name}/endpoints"), "", Some(&body));
    refused(&put("origin"), 409, "not_pushed");
    refused(&put("nobody"), 404, "not_found");
    assert_eq!(proxy.connect().get("/").status(), 200);
}

#[test]
fn it_is_not_ready_before_endpoints_are_pushed() {
    let proxy = Proxy::start("auto", &pushed("1h"));
    let answer = proxy.probes().get("/readyz");
    assert_eq!(
        (answer.status(), &answer.body[..]),
        (503, &b"waiting for the endpoints of origin\n"[..])
    );
    let body = json!({ "version": 1, "endpoints": [{ "address": echo_origin().to_string() }] });
    assert_eq!(ask(&proxy, "PUT /v1/services/origin/endpoints", "", Some(&body)).status(), 200);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
}

#[test]
fn tokens_say_who_may_what() {
    let token = |name: &str| {
        let file = config_file(&format!("secret-of-{name}-0123456789\n"));
        (format!("authorization: Bearer secret-of-{name}-0123456789\r\n"), file)
    };
    let (reader, reader_file) = token("reader");
    let (owner, owner_file) = token("owner");
    let [reader_path, owner_path] = [&reader_file, &owner_file].map(|file| file.display());
    let admin = format!(
        r#"admin: {{ address: "127.0.0.1:0", auth: token, tokens: [
            {{ name: reader, token_file: "{reader_path}" }},
            {{ name: owner, token_file: "{owner_path}", scopes: [read, config, lifecycle], names: ["shop.*"] }}] }}"#
    );
    let proxy = Proxy::start("auto", &config(echo_origin(), "", "", &admin));
    let none = ask(&proxy, "GET /v1/config", "", None);
    refused(&none, 401, "unauthorized");
    assert!(none.header("www-authenticate").unwrap().starts_with("Bearer"));
    refused(
        &ask(&proxy, "GET /v1/config", "authorization: Bearer nobody\r\n", None),
        401,
        "unauthorized",
    );
    assert_eq!(ask(&proxy, "GET /v1/config", &reader, None).status(), 200);
    let put =
        |path: &str, who: &str, body: &Json| ask(&proxy, &format!("PUT {path}"), who, Some(body));
    refused(&put("/v1/config/routes/shop.a", &reader, &route("shop.a", "a")), 403, "scope");
    refused(&put("/v1/config/routes/other", &owner, &route("other", "a")), 403, "scope");
    let config = get_as(&proxy, "/v1/config", &owner);
    refused(&put("/v1/config", &owner, &config), 403, "scope");
    assert_eq!(put("/v1/config/routes/shop.a", &owner, &route("shop.a", "a")).status(), 200);
    proxy.says("audit: PUT /v1/config/routes/shop.a by owner: generation 2");
    // No secret is ever shown.
    let all = [
        get_as(&proxy, "/v1/config?effective=true", &reader),
        get_as(&proxy, "/v1/status", &reader),
    ];
    assert!(!json!(all).to_string().contains("secret-of"));

    let admin = proxy_admin(&proxy);
    let status = |file: &str| {
        let arguments = ["status", "--admin", &admin, "--token-file", file];
        Command::new(env!("CARGO_BIN_EXE_ringside")).args(arguments).output().unwrap().status.code()
    };
    assert_eq!(status(&reader_path.to_string()), Some(0));
    // Without a token there is nobody to ask, whatever is asked.
    for command in ["status", "drain", "rollback", "endpoints", "wait --ready"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
            .args(command.split(' '))
            .args(["--admin", &admin])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("--token-file"), "{command}: {said}");
    }
    [reader_file, owner_file].into_iter().for_each(|file| std::fs::remove_file(file).unwrap());
}

fn get_as(proxy: &Proxy, path: &str, who: &str) -> Json {
    json_of(&ask(proxy, &format!("GET {path}"), who, None))
}

#[test]
fn a_token_is_made_where_tcp_has_none() {
    let state = std::env::temp_dir().join(format!("ringside-token-{}", std::process::id()));
    let text = config(echo_origin(), "", "", r#"admin: { address: "127.0.0.1:0" }"#);
    let start = || Proxy::start_with(&text, &["--state", state.to_str().unwrap()]);
    let proxy = start();
    assert!(proxy.said.iter().any(|fact| fact.starts_with("admin token: in ")), "{:?}", proxy.said);
    refused(&ask(&proxy, "GET /v1/status", "", None), 401, "unauthorized");
    let file = state.join("admin.token");
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(!proxy.said.iter().any(|fact| fact.contains(token.trim())), "never said");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let who = format!("authorization: Bearer {}\r\n", token.trim());
    assert_eq!(ask(&proxy, "GET /v1/status", &who, None).status(), 200);
    drop(proxy);
    let proxy = start();
    assert_eq!(ask(&proxy, "GET /v1/status", &who, None).status(), 200, "it stays");
    drop(proxy);
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["run", "-c", config_file(&format!("state_dir: none\n{text}")).to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("admin needs a token"), "{said}");
    std::fs::remove_dir_all(state).unwrap();
}

/// Runs a command of ringside against the proxy's admin.
fn ringside(proxy: &Proxy, arguments: &[&str]) -> Output {
    let admin = proxy.admin().stream().peer_addr().unwrap().to_string();
    Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(arguments)
        .env("RINGSIDE_ADMIN", admin)
        .output()
        .unwrap()
}

fn out(output: &Output) -> (i32, String) {
    let code = output.status.code().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    (code, String::from_utf8(text).unwrap())
}

#[test]
fn commands_push_and_go_back() {
    let text = setup(echo_origin());
    let proxy = Proxy::start("auto", &text);
    let file = config_file(&text.replace("name: all", "name: every"));
    let path = file.to_str().unwrap();
    let run = |arguments: &[&str]| out(&ringside(&proxy, arguments));

    assert_eq!(run(&["diff", path]), (1, "- routes/all\n+ routes/every\n".to_owned()));
    let (code, said) = run(&["push", path, "--dry-run"]);
    assert!(code == 0 && said.ends_with("nothing was changed: --dry-run\n"), "{said}");
    let (code, said) = run(&["push", path]);
    assert_eq!(code, 0, "{said}");
    assert!(said.ends_with("generation 2 is live on 2 of 2 workers\n"), "{said}");
    assert_eq!(run(&["diff", path]), (0, String::new()));
    assert_eq!(run(&["push", path]), (0, "nothing new: generation 2 stays\n".to_owned()));
    let (code, said) = run(&["status"]);
    assert!(code == 0 && said.contains("generation 2") && said.contains("unsaved"), "{said}");
    let (code, said) = run(&["status", "-o", "json"]);
    let status: Json = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &status["live"]), (0, &json!(2)));
    let (code, said) = run(&["push", path, "--if-match", "0000"]);
    assert!(code == 1 && said.contains("stale"), "{said}");
    let (code, said) = run(&["rollback"]);
    assert!(code == 0 && said.ends_with("generation 3 is live on 2 of 2 workers\n"), "{said}");

    let wrong = config_file(&text.replace("service: origin", "service: orign"));
    let (code, said) = run(&["push", wrong.to_str().unwrap()]);
    assert_eq!(code, 1);
    let place = format!("{}:13:40 routes[0].backends[0].service", wrong.display());
    assert!(said.contains("did you mean `origin`?") && said.contains(&place), "{said}");

    let (code, said) = run(&["explain", "--admin", &proxy_admin(&proxy), "GET", "http://web/"]);
    assert!(code == 0 && said.contains("all"), "{said}");
    assert_eq!(run(&["wait", "--ready"]).0, 0);
    assert_eq!(run(&["drain"]), (0, "drained\n".to_owned()));
    assert_eq!(run(&["wait", "--ready", "--timeout", "0"]).0, 1);
    assert_eq!(run(&["status"]).0, 1);
    assert_eq!(run(&["undrain"]), (0, "ready\n".to_owned()));
    let (code, said) = run(&["status", "--admin", "127.0.0.1:1"]);
    assert!(code == 2 && said.contains("no answer from admin at 127.0.0.1:1"), "{said}");
    [file, wrong].into_iter().for_each(|file| std::fs::remove_file(file).unwrap());
}

fn proxy_admin(proxy: &Proxy) -> String {
    proxy.admin().stream().peer_addr().unwrap().to_string()
}

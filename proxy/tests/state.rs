//! What outlives the process: the last good config, pushes, pushed endpoints.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use support::{Message, Origin, Proxy, config, config_file, echo_origin};

/// A folder of its own for a test; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringside-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn setup() -> String {
    config(echo_origin(), "", "", r#"admin: { address: "127.0.0.1:0", auth: none }"#)
}

fn ask(proxy: &Proxy, request: &str, body: &str) -> Message {
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    proxy.admin().ask(format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn json_of(message: &Message) -> Json {
    serde_json::from_slice(&message.body).unwrap()
}

fn stop(mut proxy: Proxy) {
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn a_bad_file_at_start_uses_the_last_good_config_loudly() {
    let folder = Folder::new("last-good");
    let text = setup();
    let arguments = ["--state", folder.path()];
    let proxy = Proxy::start_with(&text, &arguments);
    // What was good last is what was live last, be it by a reload.
    proxy.reload(&text.replace("name: all", "name: every"));
    stop(proxy);

    let proxy = Proxy::start_with(&text.replace("service: origin", "service: orign"), &arguments);
    let said = proxy.said.join("\n");
    assert!(said.contains("THE CONFIG IS NOT USED"), "{said}");
    assert!(said.contains("did you mean `origin`?"), "and why: {said}");
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_requests_total", r#"route="every""#], "1");
    let refused =
        |proxy: &Proxy| json_of(&ask(proxy, "GET /v1/status", ""))["files_refused_because"].clone();
    assert_eq!(refused(&proxy), "they were not good at start");
    proxy.metric_becomes(&["ringside_config_rejected_total"], "1");
    // Corrected, it is used.
    proxy.reload(&text);
    assert_eq!(refused(&proxy), Json::Null);
    proxy.rewrite(&text.replace("service: origin", "service: orign"));
    proxy.says("the config is invalid");
    assert!(refused(&proxy).as_str().unwrap().contains("did you mean `origin`?"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_requests_total", r#"route="all""#], "1");
    stop(proxy);

    // Without one there is nothing to use.
    let file = config_file("listeners: []");
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["run", "-c", file.to_str().unwrap(), "--state", &format!("{}/other", folder.path())])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    fs::remove_file(file).unwrap();
}

fn wait_for(file: &std::path::Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        assert!(Instant::now() < deadline, "{} is not there", file.display());
        std::thread::yield_now();
    }
}

#[test]
fn what_the_files_said_at_start_is_kept_too() {
    let folder = Folder::new("kept-at-start");
    // The folder is named by the file, not by the command line.
    let text = setup() + &format!("state_dir: {}\n", folder.path());
    let push = json!({ "respond": { "status": 204 }, "hosts": ["pushed"] }).to_string();
    let proxy = Proxy::start("auto", &text);
    wait_for(&folder.0.join("config.json"));
    assert_eq!(ask(&proxy, "PUT /v1/config/routes/pushed", &push).status(), 200);
    stop(proxy);
    // A restart ends the push, also for what is good last.
    let proxy = Proxy::start("auto", &text.replace("name: all", "name: every"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(folder.0.join("config.json")).unwrap().contains("every") {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    stop(proxy);
    let proxy = Proxy::start("auto", &text.replace("service: origin", "service: orign"));
    assert!(proxy.said.join("\n").contains("THE CONFIG IS NOT USED"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_requests_total", r#"route="every""#], "1");
    let gone = proxy.connect().ask("GET / HTTP/1.1\r\nhost: pushed\r\n\r\n");
    assert_eq!(gone.status(), 200, "it is every's");
    stop(proxy);
}

#[test]
fn endpoints_that_were_pushed_just_before_the_end_are_kept() {
    let folder = Folder::new("at-the-end");
    let text = setup() + "  - { name: later, hosts: [later], backends: [{ service: later }] }\n";
    let text = text.replace("services:\n", "services:\n  - { name: later, pushed: {} }\n");
    let arguments = ["--state", folder.path()];
    let proxy = Proxy::start_with(&text, &arguments);
    let origin = echo_origin().to_string();
    for version in 1..=5 {
        let push = json!({ "version": version, "endpoints": [{ "address": origin }] }).to_string();
        assert_eq!(ask(&proxy, "PUT /v1/services/later/endpoints", &push).status(), 200);
    }
    stop(proxy);
    let proxy = Proxy::start_with(&text, &arguments);
    let services = json_of(&ask(&proxy, "GET /v1/services", ""));
    let later = services.as_array().unwrap().iter().find(|it| it["name"] == "later").unwrap();
    assert_eq!(later["version"], 5);
    // A service that is gone has none when it comes back.
    for request in ["DELETE /v1/config/routes/later", "DELETE /v1/config/services/later"] {
        assert_eq!(ask(&proxy, request, "").status(), 200);
    }
    stop(proxy);
    let proxy = Proxy::start_with(&text, &arguments);
    let services = json_of(&ask(&proxy, "GET /v1/services", ""));
    let later = services.as_array().unwrap().iter().find(|it| it["name"] == "later").unwrap();
    assert_eq!(later["version"], Json::Null);
    stop(proxy);
}

#[test]
fn a_push_is_back_after_a_restart_where_pushes_have_the_last_word() {
    let folder = Folder::new("pushes");
    let text = setup();
    let (boot, rest) = text.split_once("listeners:").unwrap();
    let arguments = ["--source", "push", "--state", folder.path()];
    let start = || Proxy::start_with(boot, &arguments);
    let proxy = start();
    let answer = proxy.probes().get("/readyz");
    assert_eq!(answer.status(), 503);
    assert!(String::from_utf8(answer.body).unwrap().contains("waiting for a config"));

    let shutdown = "shutdown: { grace: 100ms, deadline: 5s }";
    let file = config_file(&format!("{shutdown}\nlisteners:{rest}"));
    let admin = proxy.admin().stream().peer_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["push", file.to_str().unwrap(), "--admin", &admin])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let listens = proxy.says("listener web: ");
    let address = listens.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(support::Client::connect(address).get("/").status(), 200);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    let status = json_of(&ask(&proxy, "GET /v1/status", ""));
    assert_eq!(status["unsaved"], false);
    // The file says nothing of it, and does not undo it.
    proxy.signal("HUP");
    proxy.says("reload: the config comes by pushes");
    stop(proxy);

    let proxy = start();
    assert_eq!(proxy.connect().get("/").status(), 200);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    let origin = json_of(&ask(&proxy, "GET /v1/status", ""))["origin"].to_string();
    assert!(origin.contains("the last push: PUT /v1/config"), "{origin}");
    stop(proxy);
    fs::remove_file(file).unwrap();
}

#[test]
fn a_push_that_cannot_be_kept_is_refused() {
    let folder = Folder::new("full");
    let proxy = Proxy::start_with(&setup(), &["--state", folder.path()]);
    // What it began with is kept by then.
    wait_for(&folder.0.join("config.json"));
    // A disk on which nothing fits.
    symlink("/dev/full", folder.0.join("config.json.new")).unwrap();
    let route = json!({ "hosts": ["x"], "backends": [{ "service": "origin" }] }).to_string();
    let reply = ask(&proxy, "PUT /v1/config/routes/x", &route);
    let body = json_of(&reply);
    assert_eq!((reply.status(), &body["title"]), (507, &json!("state_not_writable")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("free some room"), "{body}");
    assert_eq!(json_of(&ask(&proxy, "GET /v1/status", ""))["generation"], 1);
    // With room again it works.
    assert_eq!(ask(&proxy, "PUT /v1/config/routes/x", &route).status(), 200);
    // Nor does it end by the largest size that a file may have (`ulimit -f`).
    let limit = |bytes: &str| {
        let mut command = Command::new("prlimit");
        assert!(command.args(["--pid", &proxy.id(), bytes]).status().unwrap().success());
    };
    limit("--fsize=10:");
    let reply = ask(&proxy, "PUT /v1/config/routes/z", &route);
    assert_eq!((reply.status(), &json_of(&reply)["title"]), (507, &json!("state_not_writable")));
    limit("--fsize=unlimited:");
    // What cannot be had here is not what was good last.
    let taken = Origin::bind();
    let listener = json!({ "address": taken.address.to_string(), "http": {} }).to_string();
    assert_eq!(ask(&proxy, "PUT /v1/config/listeners/y", &listener).status(), 422);
    let kept = fs::read_to_string(folder.0.join("config.json")).unwrap();
    assert!(kept.contains("\"x\"") && !kept.contains("\"y\""), "{kept}");
    assert!(!folder.0.join("config.json.new").exists());
    stop(proxy);
}

#[test]
fn a_push_whose_place_is_taken_is_not_live() {
    let folder = Folder::new("taken");
    let arguments = ["--source", "push", "--state", folder.path()];
    let proxy = Proxy::start_with(&setup(), &arguments);
    let route = json!({ "hosts": ["x"], "backends": [{ "service": "origin" }] }).to_string();
    let put = || ask(&proxy, "PUT /v1/config/routes/x", &route);
    // It can be written, and not put in place: as one that is mounted by itself.
    fs::create_dir(folder.0.join("pushed.json")).unwrap();
    let reply = put();
    assert_eq!((reply.status(), &json_of(&reply)["title"]), (507, &json!("state_not_writable")));
    assert_eq!(json_of(&ask(&proxy, "GET /v1/status", ""))["generation"], 1);
    fs::remove_dir(folder.0.join("pushed.json")).unwrap();
    assert_eq!(put().status(), 200);
    let mut files: Vec<_> =
        fs::read_dir(&folder.0).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "pushed.json"]);
    stop(proxy);
}

#[test]
fn who_begins_by_the_file_once_finds_the_push_again() {
    let folder = Folder::new("once");
    let text = setup();
    let start =
        |source: &str| Proxy::start_with(&text, &["--source", source, "--state", folder.path()]);
    let route = json!({ "hosts": ["x"], "respond": { "status": 204 } }).to_string();
    let proxy = start("push");
    assert_eq!(ask(&proxy, "PUT /v1/config/routes/x", &route).status(), 200);
    stop(proxy);
    let proxy = start("file");
    assert_eq!(ask(&proxy, "GET /v1/config/routes/x", "").status(), 404);
    wait_for(&folder.0.join("config.json"));
    stop(proxy);
    let proxy = start("push");
    assert_eq!(ask(&proxy, "GET /v1/config/routes/x", "").status(), 200);
    stop(proxy);
}

#[test]
fn a_config_is_not_read_where_the_state_is_written() {
    let folder = Folder::new("same");
    fs::create_dir(&folder.0).unwrap();
    for (name, read) in [("config.json", "config.json"), ("mine.yaml", ".")] {
        let text = if name == "config.json" { "{}" } else { "version: 1\n" };
        fs::write(folder.0.join(name), text).unwrap();
        let read = folder.0.join(read);
        let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
            .args(["run", "-c", read.to_str().unwrap(), "--state", folder.path()])
            .args(["--source", "push"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("give another directory by --state"), "{said}");
        assert_eq!(fs::read_to_string(folder.0.join(name)).unwrap(), text);
        fs::remove_file(folder.0.join(name)).unwrap();
    }
}

#[test]
fn the_last_good_config_has_what_variables_stood_for() {
    let folder = Folder::new("variables");
    let text = setup().replace("workers: 1", "workers: \"${RINGSIDE_UNSET:-1}\"");
    assert!(text.contains("RINGSIDE_UNSET"));
    let arguments = ["--state", folder.path()];
    let proxy = Proxy::start_with(&text, &arguments);
    wait_for(&folder.0.join("config.json"));
    stop(proxy);
    let proxy = Proxy::start_with("bad: [", &arguments);
    assert_eq!(proxy.connect().get("/").status(), 200);
    // What is shown can be pushed.
    let shown = ask(&proxy, "GET /v1/config", "");
    let reply = ask(&proxy, "PUT /v1/config", std::str::from_utf8(&shown.body).unwrap());
    assert_eq!((reply.status(), &json_of(&reply)["generation"]), (200, &json!(1)), "{reply:?}");
    stop(proxy);
}

#[test]
fn a_named_folder_has_to_be_there() {
    let file = config_file(&setup());
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["run", "-c", file.to_str().unwrap(), "--state", "/dev/null/state"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("/dev/null/state cannot be written"), "{said}");
    fs::remove_file(file).unwrap();
}

#[test]
fn pushed_endpoints_come_back_with_their_age() {
    let folder = Folder::new("endpoints");
    let endpoints = "endpoints: [{ address:";
    let text = setup();
    let start = text.find(endpoints).unwrap();
    let end = start + text[start..].find(']').unwrap() + 1;
    let text = [&text[..start], "pushed: { wait_at_start: 1h }", &text[end..]].concat();
    let arguments = ["--state", folder.path()];
    let proxy = Proxy::start_with(&text, &arguments);
    let set = |version: u64| {
        let endpoints = [json!({ "address": echo_origin().to_string(), "weight": 3 })];
        json!({ "version": version, "endpoints": endpoints }).to_string()
    };
    let put = |proxy: &Proxy, version| {
        ask(proxy, "PUT /v1/services/origin/endpoints", &set(version)).status()
    };
    assert_eq!(put(&proxy, 7), 200);
    let file = folder.0.join("endpoints.json");
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while !file.exists() {
        assert!(std::time::Instant::now() < deadline, "they are kept");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let before = json_of(&ask(&proxy, "GET /v1/services", ""));
    stop(proxy);
    let proxy = Proxy::start_with(&text, &arguments);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    assert_eq!(proxy.connect().get("/").status(), 200);
    let after = json_of(&ask(&proxy, "GET /v1/services", ""));
    assert_eq!(after[0]["version"], 7);
    let age = |services: &Json| services[0]["age_s"].as_f64().unwrap();
    assert!(age(&after) + 1.0 > age(&before), "as old as they are: {after}");
    assert_eq!(put(&proxy, 6), 409);
    assert_eq!(put(&proxy, 8), 200);
    stop(proxy);
    // What is no state of ours is said, and nothing else breaks.
    fs::write(&file, "{").unwrap();
    let proxy = Proxy::start_with(&text, &arguments);
    assert_eq!(proxy.probes().get("/readyz").status(), 503);
    stop(proxy);
}

#[test]
fn a_file_that_is_cut_off_still_says_where_its_last_good_config_is() {
    let folder = Folder::new("cut-off");
    let text = format!("state_dir: {}\n{}", folder.path(), setup());
    let proxy = Proxy::start_with(&text, &[]);
    wait_for(&folder.0.join("config.json"));
    stop(proxy);
    let cut = format!("{}\nlisteners:\n - {{ name: web, address: ", text.lines().next().unwrap());
    let proxy = Proxy::start_with(&cut, &[]);
    assert!(proxy.said.join("\n").contains("THE CONFIG IS NOT USED"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    stop(proxy);
}

#[test]
fn the_first_push_counts_also_where_it_says_what_the_file_says() {
    let folder = Folder::new("first-push");
    let text = setup();
    // What the file said was never pushed.
    let proxy = Proxy::start_with(&text, &["--state", folder.path()]);
    wait_for(&folder.0.join("config.json"));
    stop(proxy);
    let arguments = ["--source", "push", "--state", folder.path()];
    let proxy = Proxy::start_with(&text, &arguments);
    assert_eq!(proxy.probes().get("/readyz").status(), 503);
    let config = String::from_utf8(ask(&proxy, "GET /v1/config", "").body).unwrap();
    let reply = ask(&proxy, "PUT /v1/config", &config);
    assert_eq!((reply.status(), &json_of(&reply)["generation"]), (200, &json!(1)));
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    stop(proxy);
    let proxy = Proxy::start_with(&text, &arguments);
    assert_eq!(proxy.probes().get("/readyz").status(), 200);
    stop(proxy);
}

#[test]
fn a_state_directory_is_one_process_at_a_time() {
    let folder = Folder::new("locked");
    let proxy = Proxy::start_with(&setup(), &["--state", folder.path()]);
    let file = config_file(&setup());
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["run", "-c", file.to_str().unwrap(), "--state", folder.path()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("another ringside's"), "{said}");
    fs::remove_file(file).unwrap();
    stop(proxy);
}

#[test]
fn a_push_of_endpoints_that_was_answered_outlives_a_kill() {
    let folder = Folder::new("killed");
    let text = setup() + "  - { name: later, hosts: [later], backends: [{ service: later }] }\n";
    let text = text.replace("services:\n", "services:\n  - { name: later, pushed: {} }\n");
    let start = || Proxy::start_with(&text, &["--state", folder.path()]);
    let origin = echo_origin().to_string();
    let push = |version: u64| {
        json!({ "version": version, "endpoints": [{ "address": origin }] }).to_string()
    };
    for version in (10..50).step_by(10) {
        let mut proxy = start();
        for version in version..version + 3 {
            let reply = ask(&proxy, "PUT /v1/services/later/endpoints", &push(version));
            assert_eq!(reply.status(), 200, "{reply:?}");
        }
        proxy.signal("KILL");
        proxy.exit_code();
        let proxy = start();
        let stale = ask(&proxy, "PUT /v1/services/later/endpoints", &push(version + 1));
        assert_eq!(stale.status(), 409, "a higher one was answered");
        let later = proxy.connect().ask("GET /x HTTP/1.1\r\nhost: later\r\n\r\n");
        assert_eq!(later.body, b"GET /x HTTP/1.1|");
        stop(proxy);
    }
    let proxy = start();
    let _ = fs::remove_file(folder.0.join("endpoints.notes"));
    symlink("/dev/full", folder.0.join("endpoints.notes")).unwrap();
    let reply = ask(&proxy, "PUT /v1/services/later/endpoints", &push(90));
    let body = json_of(&reply);
    assert_eq!((reply.status(), &body["title"]), (507, &json!("state_not_writable")), "{body}");
    fs::remove_file(folder.0.join("endpoints.notes")).unwrap();
    assert_eq!(ask(&proxy, "PUT /v1/services/later/endpoints", &push(90)).status(), 200);
    stop(proxy);
}

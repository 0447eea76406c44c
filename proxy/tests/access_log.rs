//! What a real ringside writes of each exchange, and that nobody waits for who reads it.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use support::{
    Client, Origin, PATIENCE, Proxy, beside, config, config_file, echo_origin, head_origin,
};

on_both_drivers! {
    a_line_says_what_happened,
    refusals_and_failures_have_their_cause,
    who_left_is_logged_as_gone,
    a_tunnel_is_logged_when_it_ends,
    a_sample_is_a_part,
    a_reader_that_stopped_holds_nobody_up,
    a_stuck_log_does_not_hold_the_end,
    a_rotated_file_is_opened_anew,
    a_reload_begins_moves_and_ends_it,
    what_is_cut_at_the_deadline_is_logged,
    a_unix_endpoint_is_logged_by_its_path,
    connections_are_logged_where_no_exchange_tells,
}

/// Waits for an answer, and one that takes its time to read it.
fn what_is_cut_at_the_deadline_is_logged(io: &str) {
    let log = Log::new(io, "deadline");
    let origin = Origin::bind();
    let text = config(origin.address, "", "", "");
    let text = text.replace("grace: 100ms, deadline: 5s", "grace: 0s, deadline: 200ms");
    let mut proxy = log.proxy(io, &text, "");
    let mut waiting = proxy.connect();
    waiting.send("GET /waiting HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut silent = origin.accept();
    silent.message().unwrap();
    let mut reading = proxy.connect();
    reading.send("GET /reading HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut slow = origin.accept();
    slow.message().unwrap();
    slow.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegun");
    reading.until(b"begun").unwrap();
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
    // Who has got nothing yet can be told; who has got a part must not take it for the whole.
    let told = waiting.message().unwrap();
    assert_eq!((told.status(), told.cause()), (503, "draining"));
    assert!(!reading.ends_orderly());
    let mut lines = log.lines(2);
    lines.sort_by_key(|line| line["path"].to_string());
    let said = |line: &Value| (line["path"].clone(), line["status"].clone());
    assert_eq!(said(&lines[0]), ("/reading".into(), 200.into()));
    assert_eq!(said(&lines[1]), ("/waiting".into(), 503.into()));
    assert!(lines.iter().all(|line| line["cause"] == "draining"), "{lines:?}");
}

fn connections_are_logged_where_no_exchange_tells(io: &str) {
    let log = Log::new(io, "connections");
    let origin = echo_origin();
    let limits = ", timeouts: { keep_alive: 200ms, write: 900ms }, limits: { connections: 1 }";
    let raw = r#"listeners:
  - { name: raw, address: "127.0.0.1:0", tcp: { service: origin } }"#;
    let text = config(origin, limits, "", "").replace("listeners:", raw);
    let text = text.replace("name: all,", "name: all, listeners: [web],");
    let proxy = log.proxy(io, &text, "");
    let mut client = Client::connect(proxy.address("web"));
    assert_eq!(client.get("/").status(), 200);
    let _ = Client::connect(proxy.address("web")).ends_orderly();
    assert!(client.ends_orderly());
    let mut tcp = Client::connect(proxy.address("raw"));
    assert_eq!(tcp.get("/raw").status(), 200);
    drop(tcp);
    let lines = log.lines(4);
    let text = |line: usize, key: &str| lines[line][key].as_str().unwrap_or("").to_owned();
    assert_eq!((text(0, "method"), text(0, "cause")), ("GET".into(), "".into()));
    assert_eq!((text(1, "listener"), text(1, "cause")), ("web".into(), "connection_limit".into()));
    assert_eq!(
        (text(2, "source_ip"), text(2, "cause")),
        ("127.0.0.1".into(), "keep_alive_timeout".into())
    );
    assert!(lines[2]["duration_us"].as_u64().unwrap() >= 200_000);
    assert_eq!((text(3, "protocol"), text(3, "cause")), ("tcp".into(), "".into()));
    assert_eq!((text(3, "service"), text(3, "endpoint")), ("origin".into(), origin.to_string()));
    assert!(lines[3]["bytes_in"].as_u64() > Some(0) && lines[3]["bytes_out"].as_u64() > Some(0));
    assert!(lines[1..].iter().all(|line| line.get("status").is_none()), "{lines:?}");
}

/// And a request without a host, which has to have one, is for localhost.
fn a_unix_endpoint_is_logged_by_its_path(io: &str) {
    let log = Log::new(io, "unix");
    let path = log.0.with_extension("sock");
    let origin = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let play = beside(move || {
        let (mut stream, _) = origin.accept().unwrap();
        let mut head = Vec::new();
        let mut chunk = [0; 4096];
        while !head.ends_with(b"\r\n\r\n") {
            let len = stream.read(&mut chunk).unwrap();
            head.extend_from_slice(&chunk[..len]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8(head).unwrap()
    });
    let spelt = format!("unix:{}", path.display());
    let text = config("127.0.0.1:1".parse().unwrap(), "", "", "")
        .replace("127.0.0.1:1\"", &format!("{spelt}\""));
    let proxy = log.proxy(io, &text, "");
    proxy.connect().send("GET / HTTP/1.0\r\n\r\n");
    let head = play.join().unwrap();
    assert!(head.to_ascii_lowercase().contains("\r\nhost: localhost\r\n"), "{head}");
    assert_eq!(log.lines(1)[0]["endpoint"], spelt);
    fs::remove_file(path).unwrap();
}

/// A log file of its own, removed in the end.
struct Log(PathBuf);

impl Log {
    fn new(io: &str, test: &str) -> Log {
        let name = format!("ringside-{test}-{io}-{}.log", std::process::id());
        Log(std::env::temp_dir().join(name))
    }

    /// The same as a named pipe.
    fn pipe(io: &str, test: &str) -> Log {
        let log = Log::new(io, test);
        assert!(Command::new("mkfifo").arg(&log.0).status().unwrap().success());
        log
    }

    /// Runs ringside with its log here; `options` of the log end with a comma.
    fn proxy(&self, io: &str, text: &str, options: &str) -> Proxy {
        let log = format!("access_log: {{ {options} output: \"{}\" }}", self.0.display());
        Proxy::start(io, &text.replace("access_log: none", &log))
    }

    /// Waits until so many lines are there, and no more.
    fn lines(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.0).unwrap();
            let found = text.matches('\n').count();
            if found >= count {
                let lines: Vec<Value> = text.lines().map(object).collect();
                assert_eq!(lines.len(), count, "{text}");
                return lines;
            }
            assert!(Instant::now() < deadline, "{found} of {count} lines: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert!(value.is_object(), "{line}");
    value
}

fn keys(line: &Value) -> Vec<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

fn a_line_says_what_happened(io: &str) {
    let log = Log::new(io, "line");
    let origin = head_origin();
    let proxy = log.proxy(io, &config(origin, "", "", ""), "");
    let request = "POST /a%22b?c=d&e HTTP/1.1\r\nhost: web\r\nauthorization: secret\r\n\
                   content-length: 5\r\n\r\nhello";
    let before = SystemTime::now();
    let mut client = proxy.connect();
    let answer = client.ask(request);
    let line = log.lines(1).remove(0);
    let mut all = [
        "attempts",
        "bytes_in",
        "bytes_out",
        "duration_us",
        "endpoint",
        "first_byte_us",
        "listener",
        "method",
        "path",
        "protocol",
        "request_id",
        "route",
        "service",
        "source_ip",
        "status",
        "time",
    ];
    all.sort_unstable();
    let mut found = keys(&line);
    found.sort_unstable();
    assert_eq!(found, all);
    let endpoint = origin.to_string();
    for (key, value) in [
        ("listener", "web"),
        ("route", "all"),
        ("service", "origin"),
        ("endpoint", &endpoint),
        ("method", "POST"),
        ("path", "/a%22b?c=d&e"),
        ("protocol", "HTTP/1.1"),
        ("source_ip", "127.0.0.1"),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    let out = answer.head.len() + answer.body.len();
    for (key, value) in
        [("status", 200), ("attempts", 1), ("bytes_in", request.len()), ("bytes_out", out)]
    {
        assert_eq!(line[key], value, "{key}");
    }
    let head = String::from_utf8(answer.body).unwrap();
    let id = line["request_id"].as_str().unwrap();
    assert!(head.contains(&format!("x-request-id: {id}\r\n")), "{head}");
    let took = before.elapsed().unwrap().as_micros();
    let (first, all) = (line["first_byte_us"].as_u64(), line["duration_us"].as_u64().unwrap());
    assert!(first.unwrap() <= all && u128::from(all) <= took, "{line}");
    // As many digits, and a date that `date` reads as one of the last minute.
    let time = line["time"].as_str().unwrap();
    let read = Command::new("date").args(["-d", time, "+%s"]).output().unwrap();
    let seconds: u64 = String::from_utf8(read.stdout).unwrap().trim().parse().unwrap();
    let since = before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(time.len() == 27 && time.ends_with('Z') && seconds.abs_diff(since) <= 60, "{time}");

    client.send("GET /old HTTP/1.0\r\n\r\n");
    client.read_to_end();
    let line = log.lines(2).remove(1);
    assert_eq!((&line["protocol"], &line["path"]), (&"HTTP/1.0".into(), &"/old".into()));
}

fn refusals_and_failures_have_their_cause(io: &str) {
    let log = Log::new(io, "causes");
    let nobody = Origin::bind().address;
    let proxy = log.proxy(io, &config(nobody, "", ", hosts: [web]", ""), "");
    proxy.connect().ask("GET /lost HTTP/1.1\r\nhost: other\r\n\r\n");
    let lost = log.lines(1).remove(0);
    let said = (&lost["status"], &lost["cause"], &lost["attempts"], &lost["path"]);
    assert_eq!(said, (&404.into(), &"no_route".into(), &0.into(), &"/lost".into()));
    for absent in ["route", "service", "endpoint", "first_byte_us"] {
        assert_eq!(lost[absent], Value::Null, "{absent}");
    }
    proxy.connect().get("/");
    let failed = log.lines(2).remove(1);
    let said = (&failed["status"], &failed["cause"], &failed["attempts"]);
    assert_eq!(said, (&503.into(), &"connect_failed".into(), &1.into()));
    assert_eq!(failed["endpoint"], nobody.to_string());
    assert_eq!(failed["first_byte_us"], Value::Null);
    // What was no request has no method and no path; what it was stays out of the log.
    proxy.connect().ask("\"}\x1b[31m\0 \r\n\r\n");
    let bad = log.lines(3).remove(2);
    assert_eq!((&bad["status"], &bad["cause"]), (&400.into(), &"bad_request".into()));
    assert_eq!((&bad["method"], &bad["path"]), (&Value::Null, &Value::Null));
    // A connection on which nothing is asked is no exchange.
    drop(proxy.connect());
    proxy.metric_becomes(&["ringside_connections_total", "web"], "4");
    proxy.metric_becomes(&["ringside_connections_active", "web"], "0");
    log.lines(3);

    let log = Log::new(io, "truncated");
    let origin = Origin::bind();
    let proxy = log.proxy(io, &config(origin.address, "", "", ""), "");
    let play = beside(move || {
        let mut server = origin.accept();
        server.message().unwrap();
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\npart");
    });
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    client.read_to_end();
    let cut = log.lines(1).remove(0);
    assert_eq!((&cut["status"], &cut["cause"]), (&200.into(), &"upstream_truncated".into()));
    play.join().unwrap();
}

fn who_left_is_logged_as_gone(io: &str) {
    let log = Log::new(io, "gone");
    let origin = Origin::bind();
    let proxy = log.proxy(io, &config(origin.address, "", "", ""), "");
    let begin = || {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        let mut server = origin.accept();
        server.message().unwrap();
        (client, server)
    };
    let (client, mut server) = begin();
    client.reset();
    server.ends_orderly();
    let before = log.lines(1).remove(0);
    assert_eq!((&before["status"], &before["cause"]), (&499.into(), &"client_gone".into()));
    assert_eq!((&before["bytes_out"], &before["attempts"]), (&0.into(), &1.into()));
    let (mut client, mut server) = begin();
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\npart");
    client.until(b"part").unwrap();
    client.reset();
    server.ends_orderly();
    let after = log.lines(2).remove(1);
    assert_eq!((&after["status"], &after["cause"]), (&200.into(), &"client_gone".into()));
    assert!(after["bytes_out"].as_u64().unwrap() > 4, "{after}");
}

fn a_tunnel_is_logged_when_it_ends(io: &str) {
    let log = Log::new(io, "tunnel");
    let origin = Origin::bind();
    let route = ", matches: [{ methods: [CONNECT] }]";
    let proxy = log.proxy(io, &config(origin.address, "", route, ""), "");
    let mut client = proxy.connect();
    client.send("CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\nping");
    let mut server = origin.accept();
    assert_eq!(server.exactly(4), b"ping");
    server.send("pong");
    server.half_close();
    client.half_close();
    let answer = client.read_to_end();
    let line = log.lines(1).remove(0);
    let said = (&line["method"], &line["path"], &line["status"]);
    assert_eq!(said, (&"CONNECT".into(), &"elsewhere:443".into(), &200.into()));
    assert_eq!(line["bytes_out"], answer.len());
}

fn a_sample_is_a_part(io: &str) {
    for (sample, fewest, most) in [("0%", 0, 0), ("50%", 120, 280), ("100%", 400, 400)] {
        let log = Log::new(io, "sample");
        let options = format!("sample: {sample},");
        let mut proxy = log.proxy(io, &config(echo_origin(), "", "", ""), &options);
        let mut client = proxy.connect();
        for _ in 0..400 {
            client.get("/");
        }
        drop(client);
        proxy.signal("TERM");
        assert_eq!(proxy.exit_code(), Some(0));
        let text = fs::read_to_string(&log.0).unwrap();
        let lines = text.lines().map(object).count();
        assert!((fewest..=most).contains(&lines), "{sample} of 400 is not {lines}");
    }
}

/// Asks for more than a stuck log takes in. Returns how often.
fn overfill(proxy: &Proxy) -> usize {
    let mut client = proxy.connect();
    let requests = "GET /stuck HTTP/1.1\r\nhost: web\r\n\r\n".repeat(100);
    let mut asked = 0;
    let dropped = |line: &str| line.starts_with("ringside_access_log_dropped_total ");
    loop {
        for _ in 0..10 {
            client.send(&requests);
            for _ in 0..100 {
                assert_eq!(client.message().expect("nobody waits for the log").status(), 200);
            }
            asked += 100;
        }
        let metrics = proxy.metrics();
        let line = metrics.lines().find(|line| dropped(line)).expect("it is counted");
        if !line.ends_with(" 0") {
            return asked;
        }
        assert!(asked < 100_000, "nothing is dropped: the pipe has a reader?");
    }
}

/// Opens a pipe for reading without waiting for a writer.
fn hold(pipe: &Path) -> File {
    File::options().read(true).write(true).open(pipe).unwrap()
}

fn a_reader_that_stopped_holds_nobody_up(io: &str) {
    let log = Log::pipe(io, "stopped");
    let proxy = log.proxy(io, &config(echo_origin(), "", "", ""), "");
    let pipe = hold(&log.0);
    let asked = overfill(&proxy);
    // It reads again: what was not dropped arrives, in whole lines.
    let (arrived, lines) = mpsc::channel();
    beside(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            assert_eq!(object(&line)["path"], "/stuck");
            if arrived.send(()).is_err() {
                return;
            }
        }
    });
    let mut read = 0;
    let deadline = Instant::now() + PATIENCE;
    let dropped = loop {
        read += lines.try_iter().count();
        let metrics = proxy.metrics();
        let mut words = metrics.lines().filter_map(|line| line.split_once(' '));
        let name = "ringside_access_log_dropped_total";
        let dropped = words.find(|(key, _)| *key == name).unwrap().1.parse::<usize>().unwrap();
        if read + dropped >= asked {
            break dropped;
        }
        assert!(Instant::now() < deadline, "{read} read and {dropped} dropped of {asked}");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(read + dropped, asked, "each is logged or counted, and once");
    assert!(proxy.connect().get("/stuck").status() == 200 && lines.recv_timeout(PATIENCE).is_ok());
}

fn a_stuck_log_does_not_hold_the_end(io: &str) {
    let log = Log::pipe(io, "end");
    let mut proxy = log.proxy(io, &config(echo_origin(), "", "", ""), "");
    let _pipe = hold(&log.0);
    overfill(&proxy);
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

fn a_rotated_file_is_opened_anew(io: &str) {
    let log = Log::new(io, "rotated");
    let proxy = log.proxy(io, &config(echo_origin(), "", "", ""), "");
    let mut client = proxy.connect();
    client.get("/before");
    log.lines(1);
    let old = Log(log.0.with_extension("old"));
    fs::rename(&log.0, &old.0).unwrap();
    proxy.signal("USR1");
    let deadline = Instant::now() + PATIENCE;
    while !log.0.exists() {
        assert!(Instant::now() < deadline, "it was not opened again");
        std::thread::sleep(Duration::from_millis(5));
    }
    // What is logged while it changes files may go to either.
    let mut asked = 0;
    while fs::metadata(&log.0).unwrap().len() == 0 {
        assert!(Instant::now() < deadline, "the new file stays empty");
        client.get("/after");
        asked += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let new = || fs::read_to_string(&log.0).unwrap().matches('\n').count();
    let kept = || fs::read_to_string(&old.0).unwrap().matches('\n').count();
    while new() + kept() < asked + 1 {
        assert!(Instant::now() < deadline, "{} and {} of {asked}", new(), kept());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(log.lines(new()).last().unwrap()["path"], "/after");
}

fn a_reload_begins_moves_and_ends_it(io: &str) {
    let (first, second) = (Log::new(io, "live-1"), Log::new(io, "live-2"));
    let text = config(echo_origin(), "", "", "").replace("workers: 1", "workers: 2");
    let with = |log: &str| text.replace("access_log: none", &format!("access_log: {log}"));
    let to = |log: &Log| with(&format!("{{ output: \"{}\" }}", log.0.display()));
    let proxy = Proxy::start(io, &text);
    // One on each worker.
    let mut clients = [proxy.connect(), proxy.connect()];
    let mut ask = |path: &str| {
        for client in &mut clients {
            assert_eq!(client.get(path).status(), 200);
        }
    };
    ask("/unlogged");
    proxy.reload(&to(&first));
    ask("/first");
    // The old output may get what was not written before the change.
    assert!(first.lines(2).iter().all(|line| line["path"] == "/first"));
    proxy.reload(&to(&second));
    ask("/second");
    assert!(second.lines(2).iter().all(|line| line["path"] == "/second"));
    // The watch tells it, once.
    proxy.rewrite(&with("{ output: \"/nowhere/log.json\" }"));
    let refused = proxy.says("reload: access_log.output: cannot open /nowhere/log.json");
    assert!(refused.contains("make the folder first"), "{refused}");
    ask("/still");
    assert_eq!(second.lines(4)[3]["path"], "/still");
    proxy.reload(&with(&format!("{{ output: \"{}\", sample: 0% }}", second.0.display())));
    ask("/no-sample");
    proxy.reload(&text);
    ask("/none");
    proxy.reload(&to(&first));
    ask("/again");
    assert!(first.lines(4)[2..].iter().all(|line| line["path"] == "/again"));
    assert_eq!(second.lines(4).len(), 4);
}

#[test]
fn a_pipe_that_nobody_reads_yet_does_not_hold_the_start() {
    let log = Log::pipe("auto", "unread");
    let mut proxy = log.proxy("auto", &config(echo_origin(), "", "", ""), "");
    assert_eq!(proxy.connect().get("/first").status(), 200);
    // Nor does opening it again hold the signals after that.
    proxy.signal("USR1");
    let mut lines = BufReader::new(hold(&log.0)).lines();
    assert_eq!(object(&lines.next().unwrap().unwrap())["path"], "/first");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn lines_go_to_standard_output_though_nobody_hears_the_rest() {
    let text = config(echo_origin(), "", "", "").replace("access_log: none", "");
    let file = config_file(&text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringside"));
    command.arg("run").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = said
        .find_map(|line| line.strip_prefix("ringside: listener web: ").map(str::to_owned))
        .expect("a listener");
    said.find(|line| line == "ringside: ready").expect("it is ready");
    drop(said); // what it has to say at the end, nobody hears
    Client::connect(address.parse().unwrap()).get("/out");
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(object(&stdout.next().unwrap().unwrap())["path"], "/out");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    fs::remove_file(file).unwrap();
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let plain = config_file("not a folder");
    let below = plain.join("x.log").display().to_string();
    for (path, advice) in [
        ("/nonexistent/folder/x.log", "make the folder first"),
        ("/", "that is a folder"),
        (&below, "is a file, not a folder"),
    ] {
        let log = format!("access_log: {{ output: \"{path}\" }}");
        let text = config(echo_origin(), "", "", "").replace("access_log: none", &log);
        let file = config_file(&text);
        let run = Command::new(env!("CARGO_BIN_EXE_ringside")).arg("run").arg(&file).output();
        let run = run.unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert_eq!(run.status.code(), Some(2), "{said}");
        assert!(last.starts_with("ringside: access_log: ") && last.contains(path), "{last}");
        assert!(last.contains(advice), "{last}");
        assert!(!said.contains("ready"), "{said}");
        fs::remove_file(file).unwrap();
    }
    fs::remove_file(plain).unwrap();
}

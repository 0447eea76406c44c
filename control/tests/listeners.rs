//! The admin and probes listeners over real sockets, with a data plane that answers as told.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use control::{
    Answer, Control, DataPlane, EndpointState, Listen, Options, Phase, Program, Refusal, Silent,
};
use serde_json::Value as Json;

/// Workers that answer at once, except those that are stuck.
#[derive(Default)]
struct Workers {
    count: usize,
    stuck: Vec<usize>,
    /// What is asked of stuck workers lies in their mailboxes.
    unread: Mutex<Vec<Answer<usize>>>,
    /// What the next config tells that it is there, and waits for.
    gate: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Workers {
    /// Their numbers.
    async fn numbers(&self) -> Result<Vec<usize>, Silent> {
        let numbers = control::of_all(self.count, |worker, answer| {
            if self.stuck.contains(&worker) {
                self.unread.lock().unwrap().push(answer);
            } else {
                answer.send(worker);
            }
        });
        numbers.await
    }
}

impl DataPlane for Workers {
    fn workers(&self) -> usize {
        self.count
    }

    async fn answers(&self) -> Result<(), Silent> {
        self.numbers().await.map(|_| ())
    }

    async fn metrics(&self) -> Result<String, Silent> {
        Ok(format!("workers {:?}\n", self.numbers().await?))
    }

    async fn endpoints(&self) -> Result<Json, Silent> {
        Ok(Json::Null)
    }

    async fn connections(&self, _: usize) -> Result<Json, Silent> {
        Ok(Json::Null)
    }

    async fn routes(&self) -> Result<Json, Silent> {
        Ok(Json::Null)
    }

    fn limits(&self) -> Json {
        Json::Null
    }

    fn generations_in_use(&self) -> Vec<u64> {
        vec![1]
    }

    fn listeners(&self) -> Json {
        Json::Null
    }

    async fn explain(&self, _: &Json) -> Result<Json, String> {
        Err("nothing is routed here".to_owned())
    }

    fn apply(
        &self,
        _: &config::Loaded,
        _: &[(String, Vec<config::Endpoint>)],
        _: u64,
        answers: Vec<Answer<()>>,
    ) -> Result<(), Refusal> {
        if let Some((entered, opened)) = self.gate.lock().unwrap().take() {
            entered.send(()).unwrap();
            opened.recv().unwrap();
        }
        answers.into_iter().for_each(|answer| answer.send(()));
        Ok(())
    }

    fn apply_endpoints(
        &self,
        _: &[(String, Vec<config::Endpoint>)],
        answers: Vec<Answer<()>>,
    ) -> Result<(), String> {
        answers.into_iter().for_each(|answer| answer.send(()));
        Ok(())
    }

    fn set_endpoint(
        &self,
        service: &str,
        _: &config::Address,
        _: EndpointState,
        _: Vec<Answer<()>>,
    ) -> Result<(), String> {
        Err(format!("there is no service {service}"))
    }

    fn tidy(&self) {}

    fn give_memory_back(&self) {}

    fn set_aside(&self, _: bool) {}

    fn quit(&self) {}
}

fn any_port() -> Option<Listen> {
    Some(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

fn options(admin: Option<Listen>, probes: Option<Listen>) -> Options {
    let program = Program { version: "0.1.0".to_owned(), io_backend: "epoll".to_owned() };
    let text = "listeners: [{ name: web, address: \"127.0.0.1:0\", http: {} }]";
    let document = config::Document::parse("test", text.as_bytes(), config::Format::Yaml).unwrap();
    let initial = control::Initial::of(document).unwrap();
    let say = |fact: std::fmt::Arguments<'_>| eprintln!("{fact}");
    let (auth, on_thread, reloading) = (config::Auth::None, || {}, |_| {});
    Options { admin, needs_admin: true, auth, probes, program, initial, say, on_thread, reloading }
}

fn start(workers: Workers) -> Control {
    control::start(options(any_port(), any_port()), Arc::new(workers)).unwrap()
}

fn two() -> Workers {
    Workers { count: 2, ..Workers::default() }
}

fn tcp(listen: Option<&Listen>) -> SocketAddr {
    match listen {
        Some(Listen::Tcp(address)) => *address,
        other => panic!("not TCP: {other:?}"),
    }
}

/// A path of its own for each test; not in the build's folder, whose path may be too long.
fn socket_path(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringside-{}-{test}", std::process::id()))
}

fn answer_to(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get_as(address: SocketAddr, path: &str, headers: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    answer_to(stream, &format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

fn get(address: SocketAddr, path: &str) -> String {
    get_as(address, path, "host: localhost\r\n")
}

/// Whether the answer has this status, and somewhere this text.
#[track_caller]
fn expect(answer: &str, status: u16, text: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(text), "no {text:?} in {answer}");
}

#[test]
fn both_listeners_say_alive_and_count() {
    let control = start(two());
    for address in [control.admin_address(), control.probes_address()] {
        let address = tcp(address);
        assert_ne!(address.port(), 0);
        expect(&get(address, "/livez"), 200, "alive\n");
        let metrics = get(address, "/metrics");
        expect(&metrics, 200, "content-type: text/plain; version=0.0.4");
        expect(&metrics, 200, "workers [0, 1]\n");
        expect(&metrics, 200, "# TYPE process_cpu_seconds_total counter\n");
        expect(&metrics, 200, "connection: close");
    }
}

#[test]
fn ready_follows_the_phase() {
    let control = start(two());
    let probes = tcp(control.probes_address());
    expect(&get(probes, "/readyz"), 503, "\r\n\r\nstarting\n");
    control.set_phase(Phase::Ready);
    expect(&get(probes, "/readyz"), 200, "\r\n\r\nready\n");
    control.set_phase(Phase::Draining);
    expect(&get(probes, "/readyz"), 503, "\r\n\r\ndraining\n");
    expect(&get(probes, "/livez"), 200, "alive");
}

#[test]
fn a_stuck_worker_fails_livez_by_number() {
    let control = start(Workers { count: 3, stuck: vec![1], ..Workers::default() });
    control.set_phase(Phase::Ready);
    let probes = tcp(control.probes_address());
    let begin = Instant::now();
    expect(&get(probes, "/livez"), 503, "no answer from worker 1 (2 s are allowed);");
    assert!(begin.elapsed() >= Duration::from_secs(2));
    expect(&get(probes, "/readyz"), 200, "ready");
}

#[test]
fn version_is_for_admin_only() {
    let control = start(two());
    let answer = get(tcp(control.admin_address()), "/version");
    expect(&answer, 200, "content-type: application/json");
    let fields = ["\"version\":\"0.1.0\"", "\"generation\":1", "\"config_hash\":\""];
    for field in fields.into_iter().chain(["\"io_backend\":\"epoll\""]) {
        expect(&answer, 200, field);
    }
    expect(&get(tcp(control.probes_address()), "/version"), 404, "the rest is on admin");
}

#[test]
fn what_is_not_there_says_what_is() {
    let control = start(two());
    let admin = tcp(control.admin_address());
    let missing = get(admin, "/v2/config");
    expect(&missing, 404, "content-type: application/problem+json");
    expect(&missing, 404, "GET /openapi.json says what admin serves");
    let posted = TcpStream::connect(admin).unwrap();
    let posted = answer_to(posted, "POST /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
    expect(&posted, 405, "application/problem+json");
    expect(&posted, 405, "\r\nallow: GET,HEAD\r\n");
}

#[test]
fn admin_refuses_a_web_page_and_probes_do_not_care() {
    let control = start(two());
    let admin = tcp(control.admin_address());
    expect(&get_as(admin, "/livez", "host: evil.example\r\n"), 403, "application/problem+json");
    expect(&get_as(admin, "/livez", ""), 403, "exactly one Host");
    let page = "host: localhost\r\norigin: https://evil.example\r\n";
    expect(&get_as(admin, "/livez", page), 403, "another origin");
    let pod = get_as(tcp(control.probes_address()), "/livez", "host: 10.1.2.3:15021\r\n");
    expect(&pod, 200, "alive");
}

#[test]
fn a_slow_client_is_cut_off_and_others_are_served() {
    let control = start(two());
    let probes = tcp(control.probes_address());
    let begin = Instant::now();
    let mut slow = TcpStream::connect(probes).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").unwrap();
    expect(&get(probes, "/livez"), 200, "alive");
    let mut rest = Vec::new();
    let ended = slow.read_to_end(&mut rest);
    assert!(ended.is_ok_and(|_| rest.is_empty() || rest.starts_with(b"HTTP/1.1 408")));
    assert!(begin.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let control = start(two());
    let mut stream = TcpStream::connect(tcp(control.probes_address())).unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    // The answer may come, and the connection end, before all of it is written.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
}

#[test]
fn admin_on_a_unix_socket_is_for_its_owner() {
    let path = socket_path("owner");
    let admin = Some(Listen::Unix(path.clone()));
    let control = control::start(options(admin, None), Arc::new(two())).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let stream = UnixStream::connect(&path).unwrap();
    let answer = answer_to(stream, "GET /version HTTP/1.1\r\nhost: ringside\r\n\r\n");
    expect(&answer, 200, "\"generation\":1");
    control.shutdown();
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let path = socket_path("stale");
    drop(UnixListener::bind(&path).unwrap());
    let admin = || options(Some(Listen::Unix(path.clone())), None);
    let control = control::start(admin(), Arc::new(two())).unwrap();
    let error = control::start(admin(), Arc::new(two())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another ringside serves there"), "{error}");
    control.shutdown();
}

#[track_caller]
fn refused(admin: Option<Listen>, probes: Option<Listen>, words: &[&str]) -> io::Error {
    let error = control::start(options(admin, probes), Arc::new(two())).unwrap_err();
    for word in words {
        assert!(error.to_string().contains(word), "no {word:?} in {error}");
    }
    error
}

#[test]
fn a_refused_bind_says_where_and_what_to_check() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = Some(Listen::Tcp(address));
    refused(None, listen, &["probes cannot listen on", &address.to_string(), "choose another"]);
    let foreign = Some(Listen::Tcp("203.0.113.1:0".parse().unwrap()));
    refused(None, foreign, &["probes", "203.0.113.1", "no such address"]);
    let everywhere = Some(Listen::Tcp("0.0.0.0:0".parse().unwrap()));
    refused(everywhere, None, &["admin", "0.0.0.0:0", "loopback"]);
    let nowhere = Some(Listen::Unix("/nonexistent/folder/admin.sock".into()));
    refused(nowhere, None, &["unix:/nonexistent", "make the folder first"]);
    let file = socket_path("file");
    fs::write(&file, "precious").unwrap();
    refused(Some(Listen::Unix(file.clone())), None, &["not a socket"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    fs::remove_file(file).unwrap();
}

#[test]
fn a_predecessor_has_two_seconds_to_leave() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let path = socket_path("predecessor");
    let held = UnixListener::bind(&path).unwrap();
    let leave = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop((taken, held));
    });
    let probes = Some(Listen::Tcp(address));
    let control =
        control::start(options(Some(Listen::Unix(path)), probes), Arc::new(two())).unwrap();
    assert_eq!(tcp(control.probes_address()), address);
    leave.join().unwrap();
}

#[test]
fn ipv4_in_ipv6_clothes_is_loopback_too() {
    let mapped = Some(Listen::Tcp("[::ffff:127.0.0.1]:0".parse().unwrap()));
    let control = control::start(options(mapped, None), Arc::new(two())).unwrap();
    let address = tcp(control.admin_address());
    let stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /version HTTP/1.1\r\nhost: {address}\r\n\r\n");
    assert!(answer_to(stream, &request).starts_with("HTTP/1.1 200 "));
}

#[test]
fn shutdown_frees_the_port_though_a_client_hangs_on() {
    let control = start(two());
    let probes = tcp(control.probes_address());
    let _idle = TcpStream::connect(probes).unwrap();
    control.shutdown();
    assert!(TcpStream::connect(probes).is_err());
}

#[test]
fn a_push_under_way_does_not_hold_up_the_end() {
    let folder = socket_path("end-state");
    let _ = fs::remove_dir_all(&folder);
    let socket = folder.join("admin.sock");
    let (entered, is_in) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let workers = Workers { gate: Mutex::new(Some((entered, opened))), ..two() };
    let mut options = options(Some(Listen::Unix(socket.clone())), None);
    let text = "listeners: [{ name: web, address: \"127.0.0.1:0\", http: {} }]\n\
                services: [{ name: a, pushed: {} }]";
    let document = config::Document::parse("test", text.as_bytes(), config::Format::Yaml).unwrap();
    options.initial = control::Initial::of(document).unwrap();
    options.initial.state = Some(control::StateDir::open(&folder).unwrap());
    let control = control::start(options, Arc::new(workers)).unwrap();
    control.set_phase(Phase::Ready);
    let put = |path: &str, kind: &str, body: &str| {
        let length = body.len();
        let stream = UnixStream::connect(&socket).unwrap();
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/{kind}\r\n");
        let request = format!("{head}content-length: {length}\r\n\r\n{body}");
        (stream, request)
    };
    // The second is written down a second later, or at the end.
    for version in [1, 2] {
        let body = format!("{{\"version\": {version}, \"endpoints\": []}}");
        let (stream, request) = put("/v1/services/a/endpoints", "json", &body);
        expect(&answer_to(stream, &request), 200, "changed");
    }
    let (mut stream, request) = put("/v1/config", "yaml", &format!("{text}\nroutes: []"));
    stream.write_all(request.as_bytes()).unwrap();
    is_in.recv().unwrap();
    let (ended, has_ended) = mpsc::channel();
    let end = thread::spawn(move || {
        control.shutdown();
        ended.send(()).unwrap();
    });
    while socket.exists() {
        thread::yield_now();
    }
    open.send(()).unwrap();
    has_ended.recv_timeout(Duration::from_secs(20)).expect("it ends");
    end.join().unwrap();
    let kept = control::StateDir::open(&folder).unwrap().endpoints().unwrap();
    assert_eq!(kept[0].1.version, 2);
    fs::remove_dir_all(folder).unwrap();
}

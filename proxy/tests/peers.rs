//! Real clients through ringside to a real nginx. A missing tool fails: `loadtest/peers/install`
//! gets them.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Proxy, config, pattern};

on_both_drivers! {
    curl,
    h2load,
    python,
    node,
    random_closes_cost_no_more_posts_than_nginx,
}

/// Forbids io_uring to itself by seccomp, as container runtimes do, and becomes its arguments.
const WITHOUT_IO_URING: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
SETUP = 425  # io_uring_setup, on every architecture
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FORBID = 0x7fff0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
rules = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, SETUP), (RETURN, 0, 0, FORBID), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(rules), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0       # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program) == 0        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn where_io_uring_is_forbidden_it_falls_back_and_says_why() {
    let mut python = Command::new("python3");
    python.args(["-c", WITHOUT_IO_URING, env!("CARGO_BIN_EXE_ringside")]);
    let proxy = Proxy::start_by(python, "auto", &config(support::echo_origin(), "", "", ""));
    let io = proxy.said.iter().find(|fact| fact.starts_with("io ")).unwrap();
    assert!(
        io.starts_with("io epoll (io_uring does not work here: Operation not permitted"),
        "{io}"
    );
    assert_eq!(proxy.connect().get("/").status(), 200);
    let info = proxy.metrics();
    assert!(
        info.contains("ringside_io_backend_info{backend=\"epoll\",reason=\"io_uring does not"),
        "{info}"
    );
}

/// An nginx of one worker.
struct Nginx {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Nginx {
    /// One that serves files and takes uploads.
    fn start(name: &str) -> Nginx {
        Nginx::start_with(name, |root| {
            format!(
                "root {root}/www; location /hello {{ return 200 hello; }}
                 location /upload {{ dav_methods PUT; create_full_put_path on; }}"
            )
        })
    }

    /// One that is a proxy, with the keep-alive connections that it has when it is told to.
    fn proxy(name: &str, origin: SocketAddr) -> Nginx {
        Nginx::start_with(name, |_| {
            format!(
                "location / {{ proxy_pass http://origin; proxy_http_version 1.1;
                               proxy_set_header Connection \"\"; }} }}
                 upstream origin {{ server {origin}; keepalive 4096; keepalive_requests 1000000;
                                    keepalive_timeout 300s;"
            )
        })
    }

    /// `server` is what stands in the server's block, given the folder.
    fn start_with(name: &str, server: impl Fn(&str) -> String) -> Nginx {
        let folder =
            std::env::temp_dir().join(format!("ringside-nginx-{name}-{}", std::process::id()));
        let www = folder.join("www");
        fs::create_dir_all(&www).unwrap();
        fs::write(www.join("big"), pattern(1 << 20)).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "daemon off; user root; pid {0}/pid; error_log stderr; events {{}}
             http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
                     fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
                     client_max_body_size 0; keepalive_requests 1000000;
                     server {{ listen {address}; {1} }} }}",
            folder.display(),
            server(&folder.to_string_lossy())
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(&folder)
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nginx did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Nginx { child, folder, address }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when it is asked to; killed, it would leave them.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn mesh(io: &str, name: &str) -> (Nginx, Proxy, String) {
    let nginx = Nginx::start(&format!("{io}-{name}"));
    let proxy = Proxy::start(io, &config(nginx.address, "", "", ""));
    let url = format!("http://{}", proxy.address("web"));
    (nginx, proxy, url)
}

/// Runs a tool to its end and returns what it said.
fn run(command: &mut Command) -> Vec<u8> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{tool} is installed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool}: {said}");
    output.stdout
}

fn curl(io: &str) {
    let (nginx, _proxy, url) = mesh(io, "curl");
    let hello = format!("{url}/hello");
    assert_eq!(run(Command::new("curl").args(["-sS", &hello, &hello, &hello])), b"hello".repeat(3));
    assert!(run(Command::new("curl").args(["-sS", &format!("{url}/big")])) == pattern(1 << 20));
    let body = nginx.folder.join("www/big");
    for framing in [&[][..], &["-H", "transfer-encoding: chunked"][..]] {
        let upload = Command::new("curl")
            .args(["-sS", "-f", "-T"])
            .arg(&body)
            .args(framing)
            .arg(format!("{url}/upload/x"))
            .output()
            .unwrap();
        assert!(upload.status.success(), "{}", String::from_utf8_lossy(&upload.stderr));
        let uploaded = nginx.folder.join("www/upload/x");
        assert!(fs::read(&uploaded).unwrap() == pattern(1 << 20));
        fs::remove_file(uploaded).unwrap();
    }
}

fn h2load(io: &str) {
    let (_nginx, _proxy, url) = mesh(io, "h2load");
    let url = format!("{url}/hello");
    let said = run(Command::new("h2load").args(["--h1", "-n", "20000", "-c", "50", &url]));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("20000 succeeded, 0 failed, 0 errored"), "{said}");
}

fn python(io: &str) {
    let (_nginx, proxy, _) = mesh(io, "python");
    let script = r#"
import http.client, sys
host = sys.argv[1]
c = http.client.HTTPConnection(host, timeout=20)
for _ in range(100):
    c.request("GET", "/hello"); r = c.getresponse(); assert r.status == 200 and r.read() == b"hello"
c.request("GET", "/big"); big = c.getresponse().read(); assert len(big) == 1 << 20
c.request("PUT", "/upload/y", body=iter([big[:1000], big[1000:]]), encode_chunked=True,
          headers={"transfer-encoding": "chunked"})
r = c.getresponse(); r.read(); assert r.status == 201, r.status
c.request("GET", "/upload/y"); assert c.getresponse().read() == big
c.request("HEAD", "/big"); r = c.getresponse(); r.read(); assert r.getheader("content-length") == str(1 << 20)
"#;
    run(Command::new("python3").args(["-c", script, &proxy.address("web").to_string()]));
}

fn node(io: &str) {
    let (_nginx, _proxy, url) = mesh(io, "node");
    let script = r#"
const url = process.argv[1];
(async () => {
    const all = await Promise.all(Array.from({length: 200}, async () => {
        const r = await fetch(url + "/hello"); return r.status + await r.text();
    }));
    if (!all.every(a => a === "200hello")) throw new Error(all);
    const big = await (await fetch(url + "/big")).arrayBuffer();
    if (big.byteLength !== 1 << 20) throw new Error(big.byteLength);
    const put = await fetch(url + "/upload/z", {method: "PUT", body: big});
    if (put.status !== 201) throw new Error(put.status);
})();
"#;
    run(Command::new("node").args(["-e", script, &url]));
}

/// An origin of the load test: it closes connections at random ages, and counts what it executes.
struct Counting {
    child: Child,
    address: SocketAddr,
}

/// `loadtest` is another crate's binary: cargo finds it, or builds it, and becomes it.
fn loadtest(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "-q", "-p", "loadtest", "--"]).args(arguments);
    command
}

impl Counting {
    fn start() -> Counting {
        let mut command = loadtest(&["origin", "--close-idle-randomly", "20"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("cargo starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").and_then(|a| a.parse().ok());
        Counting { child, address: address.expect("a readiness line") }
    }

    fn stats(&self) -> Value {
        let body = support::Client::connect(self.address).get("/__stats").body;
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends so many requests, every third a POST; returns how many GETs and POSTs failed.
fn failed(proxy: SocketAddr, requests: u64) -> (u64, u64) {
    let (url, requests) = (format!("http://{proxy}"), requests.to_string());
    let said = run(&mut loadtest(&[
        "generate",
        "--connections=8",
        "--posts-every=3",
        "--test-ids",
        "-ojson",
        "--url",
        &url,
        "--requests",
        &requests,
    ]));
    let report: Value = serde_json::from_slice(&said).unwrap();
    let count = |kind: &str| report["errors"][kind].as_u64().unwrap();
    let kinds = ["status", "length", "malformed", "connection", "unanswered"];
    let (all, posts) = (kinds.map(count).iter().sum::<u64>(), count("posts"));
    assert_eq!(report["requests"].as_u64().unwrap() + all, requests.parse::<u64>().unwrap());
    (all - posts, posts)
}

/// One endpoint, which closes connections when it likes: what may be replayed never fails, nothing
/// else is done twice, and fewer POSTs are lost than by nginx beside it, round by round.
fn random_closes_cost_no_more_posts_than_nginx(io: &str) {
    const ROUNDS: u64 = 5;
    const REQUESTS: u64 = 20_000;
    let origin = Counting::start();
    let nginx = Nginx::proxy(&format!("{io}-replay"), origin.address);
    let proxy = Proxy::start(io, &config(origin.address, "", "", ""));
    let (mut ours, mut theirs) = ((0, 0), (0, 0));
    for _ in 0..ROUNDS {
        for (address, sum) in [(proxy.address("web"), &mut ours), (nginx.address, &mut theirs)] {
            let (gets, posts) = failed(address, REQUESTS);
            *sum = (sum.0 + gets, sum.1 + posts);
        }
    }
    let stats = origin.stats();
    let found = format!("(GETs, POSTs) failed: {ours:?}, nginx {theirs:?}; origin: {stats}");
    eprintln!("{found}");
    assert!(theirs.1 > 0 && stats["connections"].as_u64() > Some(1_000), "it was a test: {found}");
    assert_eq!(ours.0, 0, "{found}");
    assert!(ours.1 <= theirs.1, "{found}");
    // Of both proxies: what is executed and not answered may not be sent again by either.
    assert_eq!(stats["duplicate_posts"], 0, "{found}");
}

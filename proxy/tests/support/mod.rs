//! Real processes and scripted peers for the end-to-end tests.
#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; what hangs fails by it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes each named function a test on both drivers.
#[macro_export]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name("io_uring"); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name("epoll"); })*
        }
    };
}

/// A running `ringside`.
pub struct Proxy {
    child: Child,
    /// Listener name to address.
    listeners: Vec<(String, String)>,
    admin: Option<SocketAddr>,
    probes: Option<SocketAddr>,
    /// What it has said before it was ready.
    pub said: Vec<String>,
    rest: mpsc::Receiver<String>,
    file: std::path::PathBuf,
}

impl Proxy {
    /// Runs ringside with this config and waits until it is ready.
    pub fn start(io: &str, config: &str) -> Proxy {
        Proxy::start_by(Command::new(env!("CARGO_BIN_EXE_ringside")), io, config)
    }

    /// The same, with more arguments.
    pub fn start_with(config: &str, arguments: &[&str]) -> Proxy {
        let command = Command::new(env!("CARGO_BIN_EXE_ringside"));
        Proxy::start_so(command, "auto", config, arguments)
    }

    /// The same, by way of a command that ends in running its arguments.
    pub fn start_by(command: Command, io: &str, config: &str) -> Proxy {
        Proxy::start_so(command, io, config, &[])
    }

    /// The same, with the config that is at this path.
    pub fn start_at(command: Command, path: &std::path::Path) -> Proxy {
        Proxy::start_of(command, "auto", path.to_owned(), &[])
    }

    fn start_so(command: Command, io: &str, config: &str, arguments: &[&str]) -> Proxy {
        Proxy::start_of(command, io, config_file(config), arguments)
    }

    fn start_of(
        mut command: Command,
        io: &str,
        file: std::path::PathBuf,
        arguments: &[&str],
    ) -> Proxy {
        command.arg("run").arg("-c").arg(&file).args(["--io", io]).args(arguments);
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ringside starts");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, rest) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let (listeners, said) = (vec![], vec![]);
        let mut proxy = Proxy { child, listeners, admin: None, probes: None, said, rest, file };
        loop {
            let Ok(line) = proxy.rest.recv_timeout(PATIENCE) else {
                panic!("ringside did not become ready: {:#?}", proxy.said);
            };
            let fact = line.strip_prefix("ringside: ").unwrap_or(&line).to_owned();
            proxy.said.push(fact.clone());
            if let Some((name, address)) =
                fact.strip_prefix("listener ").and_then(|rest| rest.split_once(": "))
            {
                proxy.listeners.push((name.to_owned(), address.to_owned()));
            } else if let Some(address) = fact.strip_prefix("admin: ") {
                proxy.admin = address.parse().ok();
            } else if let Some(address) = fact.strip_prefix("probes: ") {
                proxy.probes = address.parse().ok();
            } else if fact == "ready" {
                return proxy;
            }
        }
    }

    /// The address of a TCP listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found.expect("a listener of this name").1.parse().expect("a TCP address")
    }

    /// Connects to the listener called `web`.
    pub fn connect(&self) -> Client {
        Client::connect(self.address("web"))
    }

    /// The next line on stderr that contains `text`.
    pub fn says(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.rest.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("ringside never said {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What `/metrics` says, as soon as it says it: a worker that gets no core for 2 s is named in a 503.
    pub fn metrics(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.probes().get("/metrics");
            if answer.status() == 200 {
                return String::from_utf8(answer.body).unwrap();
            }
            assert!(Instant::now() < deadline, "{answer:?}");
        }
    }

    /// A connection to the probes, for one request.
    pub fn probes(&self) -> Client {
        Client::connect(self.probes.expect("probes in the config"))
    }

    /// A connection to admin over TCP, for one request.
    pub fn admin(&self) -> Client {
        Client::connect(self.admin.expect("admin on TCP in the config"))
    }

    /// Waits until a sample whose name and labels contain all of `parts` has this value.
    pub fn metric_becomes(&self, parts: &[&str], value: &str) {
        let value: f64 = value.parse().unwrap();
        self.metric_is(parts, |found| found == value);
    }

    /// Waits until a sample whose name and labels contain all of `parts` is as wanted.
    pub fn metric_is(&self, parts: &[&str], wanted: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics();
            let mut samples = metrics.lines().filter(|line| {
                !line.starts_with('#') && parts.iter().all(|part| line.contains(part))
            });
            let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok());
            if samples.any(|line| value(line).is_some_and(&wanted)) {
                return;
            }
            assert!(Instant::now() < deadline, "{parts:?} never became so: {metrics}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Puts another text into the config file.
    pub fn rewrite(&self, config: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, config).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    /// Puts another text into the config file, has it read again and waits until that is live.
    pub fn reload(&self, config: &str) {
        self.rewrite(config);
        self.signal("HUP");
        let fact = self.says("config");
        assert!(fact.contains(" is live on "), "{fact}");
    }

    /// How many descriptors the process has open.
    pub fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count() as u64
    }

    /// Takes what is left of the descriptors that the process may open, by way of its probes; gives
    /// them back when dropped.
    pub fn exhaust_descriptors(&self, limit: u64) -> Vec<TcpStream> {
        let probes = self.probes.expect("probes in the config");
        let taken = (0..limit).map(|_| TcpStream::connect(probes).unwrap()).collect();
        let deadline = Instant::now() + PATIENCE;
        // Longer than the probes pause when they get none: what was open for a moment, like a file
        // that is written, is taken too.
        let mut full = 0;
        while full < 50 {
            assert!(Instant::now() < deadline, "{} of {limit} are open", self.descriptors());
            full = if self.descriptors() < limit { 0 } else { full + 1 };
            std::thread::sleep(Duration::from_millis(5));
        }
        taken
    }

    /// What it has said since it was last asked.
    pub fn said_since(&self) -> Vec<String> {
        self.rest.try_iter().collect()
    }

    /// Sends a signal by number's name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id()).status();
        assert!(status.unwrap().success());
    }

    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits for the process to end.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("ringside did not end");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Writes a config to a file of its own.
pub fn config_file(text: &str) -> std::path::PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringside-test-{}-{count}.yaml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A config with one http listener `web`, one route to one endpoint; `extra` goes to the top level,
/// `listener` and `route` into those objects.
pub fn config(origin: SocketAddr, listener: &str, route: &str, extra: &str) -> String {
    format!(
        r#"version: 1
workers: 1
access_log: none
node: {{ id: test-node }}
probes: {{ address: "127.0.0.1:0" }}
shutdown: {{ grace: 100ms, deadline: 5s }}
{extra}
listeners:
  - {{ name: web, address: "127.0.0.1:0", http: {{}}{listener} }}
services:
  - {{ name: origin, endpoints: [{{ address: "{origin}" }}], connect_timeout: 10s }}
routes:
  - {{ name: all, backends: [{{ service: origin }}]{route} }}
"#
    )
}

/// A raw connection.
pub struct Client {
    stream: TcpStream,
    /// Received and not consumed.
    input: Vec<u8>,
}

/// A message, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn cause(&self) -> &str {
        self.header("x-ringside-cause").unwrap_or("").split(';').next().unwrap()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("it listens");
        Client::from(stream)
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of it; a peer that has closed already is not an error here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let len = self.stream.read(&mut chunk)?;
        self.input.extend_from_slice(&chunk[..len]);
        Ok(len)
    }

    /// Takes what comes up to and including `end`; `None` if the stream ends before.
    pub fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end) {
                return Some(self.input.drain(..at + end.len()).collect());
            }
            if !matches!(self.fill(), Ok(1..)) {
                return None;
            }
        }
    }

    /// Takes exactly `len` bytes.
    pub fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.input.len() < len {
            assert!(matches!(self.fill(), Ok(1..)), "{} of {len} bytes came", self.input.len());
        }
        self.input.drain(..len).collect()
    }

    /// All that comes, to the end, whether that is orderly or not.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while let Ok(1..) = self.fill() {}
        std::mem::take(&mut self.input)
    }

    /// Waits for the end of the stream; true if it was orderly. What comes before is thrown away.
    pub fn ends_orderly(&mut self) -> bool {
        loop {
            match self.fill() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the connection was not ended")
                }
                Err(_) => return false,
            }
        }
    }

    /// The next message; `None` at the end of the stream. Bodies by length or in chunks.
    pub fn message(&mut self) -> Option<Message> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n")?).into_owned();
        let mut message = Message { head, body: Vec::new() };
        let bodiless = message.head.starts_with("HTTP/") && {
            let status = message.status();
            status < 200 || status == 204 || status == 304
        };
        if bodiless {
            return Some(message);
        }
        if let Some(length) = message.header("content-length") {
            let length = length.parse().expect("a plain number");
            message.body = self.exactly(length);
        } else if message.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.until(b"\r\n")?;
                let size = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
                if size == 0 {
                    while self.until(b"\r\n")? != b"\r\n" {}
                    break;
                }
                message.body.extend(self.exactly(size));
                self.exactly(2);
            }
        }
        Some(message)
    }

    /// Sends a request and takes the response.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.message().expect("a response")
    }

    pub fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n"))
    }
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, input: Vec::new() }
    }
}

/// A listening socket whose connections a test plays by itself.
pub struct Origin {
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Origin {
    pub fn bind() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Origin { address: listener.local_addr().unwrap(), listener }
    }

    /// The next connection.
    pub fn accept(&self) -> Client {
        Client::from(self.listener.accept().unwrap().0)
    }

    /// Whether a connection is waiting, without waiting for one.
    pub fn has_connection(&self) -> bool {
        self.accept_now().is_some()
    }

    /// The connection that is waiting, if one is.
    pub fn accept_now(&self) -> Option<Client> {
        self.listener.set_nonblocking(true).unwrap();
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).unwrap();
        accepted.ok().map(|(stream, _)| Client::from(stream))
    }

    /// Serves every connection on a thread of its own, until the process ends.
    pub fn serve(self, answer: impl Fn(&mut Client) + Send + Sync + Clone + 'static) -> SocketAddr {
        let address = self.address;
        std::thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || answer(&mut Client::from(stream)));
            }
        });
        address
    }
}

/// An address that answers no connection attempt: somebody listens there, and has no room.
pub struct BlackHole {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl BlackHole {
    pub fn new() -> BlackHole {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = socket().unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // A queue of no length takes one; the kernel drops the attempts of all others.
        let queued = (0..4).map(|_| {
            let socket = socket().unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        });
        let queued = queued.collect();
        BlackHole { address: address.as_socket().unwrap(), _listener: listener, _queued: queued }
    }
}

/// An origin that answers every request with its request line, and keeps the connection.
pub fn echo_origin() -> SocketAddr {
    Origin::bind().serve(|client| {
        while let Some(request) = client.message() {
            let line = request.head.lines().next().unwrap_or_default().to_owned();
            let body = format!("{line}|{}", String::from_utf8_lossy(&request.body));
            let head_only = line.starts_with("HEAD ");
            let length = body.len();
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
            if !head_only {
                client.send(body);
            }
        }
    })
}

/// An origin that answers with the head it received.
pub fn head_origin() -> SocketAddr {
    Origin::bind().serve(|client| {
        while let Some(request) = client.message() {
            let length = request.head.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            client.send(head + &request.head);
        }
    })
}

/// Bytes that tell their position.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Runs the origin's side of a test on a thread; its panics fail the test when joined.
pub fn beside<T: Send + 'static>(play: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(play)
}

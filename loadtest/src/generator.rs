//! The generator: one thread, one epoll, many connections, one request in flight on each.
//!
//! With a rate it is an open loop: requests are due at planned times, latency is counted from
//! those, and a stall makes later requests late instead of fewer. With `--rate max` it is a closed
//! loop, which finds the maximum and the CPU per request but whose latencies hide queueing.
//! Every response is checked for status and length.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;

use clap::ValueEnum;
use hdrhistogram::Histogram;

use crate::http::{Response, ResponseReader};
use crate::report::{self, Latency, Report};
use crate::schedule::Schedule;
use crate::syscall::{self, Epoll, Event};
use crate::tcp_load;
use crate::window::{Timing, Window};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to send: http://127.0.0.1:PORT (tcp://… with --tcp-pingpong and --tcp-bulk)
    #[arg(long)]
    url: String,
    /// Path to ask for; /bytes/N and /chunked/N say what length is expected, others 100
    #[arg(long, default_value = "/bytes/100")]
    path: String,
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second over all connections, or `max` for a closed loop
    #[arg(long, default_value = "max", value_parser = parse_rate)]
    rate: Rate,
    #[command(flatten)]
    timing: Timing,
    /// Stop after so many requests, however long it takes
    #[arg(long)]
    requests: Option<u64>,
    /// Make every so-manieth request a POST
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    posts_every: Option<u64>,
    /// Body length of the POSTs
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Number the requests in `x-test-id`, so that the origin sees repeated executions
    #[arg(long)]
    test_ids: bool,
    /// Run on this core
    #[arg(long)]
    pin: Option<usize>,
    /// Round trips of 100 bytes with a TCP echo server instead of HTTP
    #[arg(long, conflicts_with = "tcp_bulk")]
    tcp_pingpong: bool,
    /// Receive from a TCP source without end instead of HTTP
    #[arg(long)]
    tcp_bulk: bool,
    /// `text` for people, `json` for programs
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What is spoken on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    Max,
    PerSecond(f64),
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Rate::Max),
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Rate::PerSecond(rate)),
        _ => Err("a number of requests per second above 0, or `max`".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    if let Some(core) = arguments.pin {
        syscall::pin(core)?;
    }
    syscall::raise_descriptor_limit()?;
    syscall::exact_timers()?;
    let target = target(&arguments.url)?;
    let report = if arguments.tcp_pingpong {
        tcp_load::pingpong(target, arguments.connections, &arguments.timing)?
    } else if arguments.tcp_bulk {
        tcp_load::bulk(target, arguments.connections, &arguments.timing)?
    } else {
        match arguments.protocol {
            Protocol::Http1 => Generator::new(arguments, target)?.run()?,
        }
    };
    match arguments.output {
        Output::Text => println!("{}", report.to_text()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The address in a URL. Load goes to loopback only.
pub(crate) fn target(url: &str) -> io::Result<SocketAddr> {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("tcp://"));
    let authority = authority.unwrap_or(url).trim_end_matches('/');
    let address = authority.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other(format!("no address in {url}")))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(io::Error::other(format!("{address} is not loopback; load stays on this machine")))
    }
}

/// What a right answer to this path is long.
fn expected_length(path: &str) -> u64 {
    let number = path.strip_prefix("/bytes/").or_else(|| path.strip_prefix("/chunked/"));
    number.and_then(|number| number.parse().ok()).unwrap_or(100)
}

/// After the window: how long we still wait for answers.
const DRAIN_NS: u64 = 2_000_000_000;
/// How long `--requests` may take.
const REQUESTS_NS_MAX: u64 = 600_000_000_000;
const READ_SIZE: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    reader: ResponseReader,
    /// The request's bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    in_flight: Option<InFlight>,
    carried: u64,
}

#[derive(Clone, Copy)]
struct InFlight {
    due_ns: u64,
    is_post: bool,
}

struct Generator {
    target: SocketAddr,
    epoll: Epoll,
    window: Window,
    schedule: Option<Schedule>,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    in_flight: usize,
    sent: u64,
    requests_max: Option<u64>,
    posts_every: Option<u64>,
    get: Vec<u8>,
    post: Vec<u8>,
    body: Vec<u8>,
    test_ids: bool,
    length: u64,
    histogram: Histogram<u64>,
    report: Report,
    scratch: Vec<u8>,
}

impl Generator {
    fn new(arguments: &Arguments, target: SocketAddr) -> io::Result<Generator> {
        let epoll = Epoll::new()?;
        let connect = |slot| Connection::open(target, &epoll, slot);
        let connections =
            (0..arguments.connections).map(connect).collect::<io::Result<Vec<_>>>()?;
        let mut window = Window::start(&arguments.timing);
        if arguments.requests.is_some() {
            window.begin_ns = 0;
            window.end_ns = REQUESTS_NS_MAX;
        }
        let path = &arguments.path;
        let body = vec![b'x'; arguments.body];
        let host = format!("host: {target}\r\n");
        let length = arguments.body;
        Ok(Generator {
            target,
            epoll,
            schedule: match arguments.rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(Schedule::new(window.now_ns(), rate)),
            },
            window,
            idle: (0..connections.len()).collect(),
            connections,
            in_flight: 0,
            sent: 0,
            requests_max: arguments.requests,
            posts_every: arguments.posts_every,
            get: format!("GET {path} HTTP/1.1\r\n{host}").into_bytes(),
            post: format!("POST {path} HTTP/1.1\r\n{host}content-length: {length}\r\n").into(),
            body,
            test_ids: arguments.test_ids,
            length: expected_length(path),
            histogram: report::histogram(),
            report: Report::default(),
            scratch: vec![0; READ_SIZE],
        })
    }

    fn run(mut self) -> io::Result<Report> {
        let mut events = [Event::NONE; 256];
        let mut closed = false;
        loop {
            let now = self.window.now_ns();
            if !self.window.is_open() && now >= self.window.begin_ns {
                self.window.open()?;
                self.connections.iter_mut().for_each(|c| c.carried = 0);
            }
            if !closed && (now >= self.window.end_ns || self.has_sent_all()) {
                if self.requests_max.is_some() {
                    self.window.end_ns = now; // what is in flight still has to come
                }
                closed = true;
                self.window.close(&mut self.report)?;
            }
            if closed && (self.in_flight == 0 && !self.owes(now) || self.gave_up(now)) {
                break;
            }
            self.send_due(now)?;
            let ready = self.epoll.wait(&mut events, Some(self.patience_ns(closed)))?;
            for event in ready {
                let slot = event.token() as usize;
                if event.writable() && !self.connections[slot].unsent.is_empty() {
                    let flushed = self.connections[slot].flush();
                    self.check(slot, flushed)?;
                }
                if event.readable() {
                    let read = self.read(slot, event.ended());
                    self.check(slot, read)?;
                    // Who is free again sends at once: a batch of answers is not saved up.
                    self.send_due(self.window.now_ns())?;
                }
            }
        }
        self.count_unanswered();
        let carried = || self.connections.iter().map(|c| c.carried);
        self.report.per_connection = [carried().min().unwrap_or(0), carried().max().unwrap_or(0)];
        self.report.latency = Latency::of(&self.histogram);
        Ok(self.report)
    }

    /// What was due and has no answer: its latency is at least what it has waited so far.
    fn count_unanswered(&mut self) {
        let now = self.window.now_ns();
        let unsent = self.schedule.filter(|_| self.requests_max.is_none());
        let unsent = unsent.into_iter().flatten().take_while(|due| *due < self.window.end_ns);
        let in_flight = self.connections.iter().filter_map(|c| Some(c.in_flight?.due_ns));
        for due_ns in in_flight.chain(unsent) {
            self.report.errors.unanswered += 1;
            self.histogram.saturating_record(now.saturating_sub(due_ns));
        }
    }

    fn has_sent_all(&self) -> bool {
        self.requests_max.is_some_and(|max| self.sent >= max && self.in_flight == 0)
    }

    fn gave_up(&self, now: u64) -> bool {
        now > self.window.end_ns.saturating_add(DRAIN_NS)
    }

    /// Whether a request that was due inside the window has not been sent yet.
    fn owes(&self, now: u64) -> bool {
        self.requests_max.is_none_or(|max| self.sent < max)
            && self.schedule.as_ref().is_some_and(|s| s.due_ns() < self.window.end_ns.min(now))
    }

    /// How long nothing but the network can call for us.
    fn patience_ns(&self, closed: bool) -> u64 {
        let now = self.window.now_ns();
        let edge = if closed {
            self.window.end_ns.saturating_add(DRAIN_NS)
        } else if self.window.is_open() {
            self.window.end_ns
        } else {
            self.window.begin_ns
        };
        let due = match &self.schedule {
            Some(schedule) if !self.idle.is_empty() && !closed => schedule.due_ns(),
            _ => u64::MAX,
        };
        edge.min(due).saturating_sub(now).min(1_000_000_000)
    }

    fn send_due(&mut self, now: u64) -> io::Result<()> {
        while self.requests_max.is_none_or(|max| self.sent < max) && !self.idle.is_empty() {
            let due_ns = match &mut self.schedule {
                None if now < self.window.end_ns => self.window.now_ns(),
                Some(s) if s.due_ns() <= now.min(self.window.end_ns.saturating_sub(1)) => {
                    s.advance()
                }
                _ => break,
            };
            let slot = self.idle.pop_front().expect("it is not empty");
            self.send(slot, due_ns)?;
        }
        Ok(())
    }

    fn send(&mut self, slot: usize, due_ns: u64) -> io::Result<()> {
        let is_post = self.posts_every.is_some_and(|every| self.sent.is_multiple_of(every));
        self.sent += 1;
        let connection = &mut self.connections[slot];
        connection.in_flight = Some(InFlight { due_ns, is_post });
        self.in_flight += 1;
        let request = &mut connection.unsent;
        request.extend_from_slice(if is_post { &self.post } else { &self.get });
        if self.test_ids {
            // Writing to a Vec cannot fail.
            let _ = write!(request, "x-test-id: {}-{}\r\n", std::process::id(), self.sent);
        }
        request.extend_from_slice(b"\r\n");
        if is_post {
            request.extend_from_slice(&self.body);
        }
        let flushed = connection.flush();
        self.check(slot, flushed)
    }

    /// Reads what has come. `Ok(false)`: the connection is at its end.
    fn read(&mut self, slot: usize, ended: bool) -> io::Result<bool> {
        loop {
            let connection = &mut self.connections[slot];
            let discardable = connection.reader.discardable();
            if discardable > READ_SIZE as u64 {
                let count = match syscall::discard(&connection.stream, discardable as usize) {
                    Ok(count) => count,
                    Err(error) => return would_block(error),
                };
                if count == 0 {
                    return Ok(false);
                }
                connection.reader.discarded(count as u64);
                continue;
            }
            let count = match connection.stream.read(&mut self.scratch) {
                Ok(0) => {
                    if let Some(response) = connection.reader.end() {
                        self.complete(slot, response);
                    }
                    return Ok(false);
                }
                Ok(count) => count,
                Err(error) => return would_block(error),
            };
            let mut at = 0;
            while at < count {
                let reader = &mut self.connections[slot].reader;
                let Ok((taken, response)) = reader.take(&self.scratch[at..count]) else {
                    return Ok(self.malformed(slot));
                };
                at += taken;
                let Some(response) = response else { continue };
                if self.connections[slot].in_flight.is_none() || at < count {
                    return Ok(self.malformed(slot)); // an answer that nobody asked for
                }
                self.complete(slot, response);
                if response.close {
                    return Ok(false);
                }
                self.idle.push_back(slot);
            }
            // A short read has drained the socket, unless its end is already known.
            if count < READ_SIZE && !ended {
                return Ok(true);
            }
        }
    }

    /// What came is no answer to what was asked; the connection is at its end.
    fn malformed(&mut self, slot: usize) -> bool {
        self.report.errors.malformed += 1;
        self.fail(slot);
        false
    }

    fn complete(&mut self, slot: usize, response: Response) {
        let connection = &mut self.connections[slot];
        let Some(InFlight { due_ns, is_post }) = connection.in_flight.take() else { return };
        self.in_flight -= 1;
        let now = self.window.now_ns();
        if response.status != 200 {
            self.report.errors.status += 1;
        } else if response.length != self.length {
            self.report.errors.length += 1;
        } else {
            connection.carried += 1;
            let inside = self.window.begin_ns..self.window.end_ns;
            // A closed loop counts what was answered inside the window, an open one what was due.
            let counted = if self.schedule.is_some() { due_ns } else { now };
            if self.window.is_open() && inside.contains(&counted) {
                self.report.requests += 1;
                self.report.bytes += response.length;
                self.histogram.saturating_record(now.saturating_sub(due_ns));
            }
            return;
        }
        self.report.errors.posts += u64::from(is_post);
    }

    /// The request on this connection is lost.
    fn fail(&mut self, slot: usize) {
        if let Some(lost) = self.connections[slot].in_flight.take() {
            self.in_flight -= 1;
            self.report.errors.posts += u64::from(lost.is_post);
        }
    }

    /// After a step on a connection: one that is at its end is replaced.
    fn check(&mut self, slot: usize, step: io::Result<bool>) -> io::Result<()> {
        if let Ok(true) = step {
            return Ok(());
        }
        if self.connections[slot].in_flight.is_some() {
            self.report.errors.connection += 1;
            self.fail(slot);
        } else {
            self.report.reconnects += 1;
        }
        let carried = self.connections[slot].carried;
        let mut connection = Connection::open(self.target, &self.epoll, slot)?;
        connection.carried = carried;
        self.connections[slot] = connection;
        if !self.idle.contains(&slot) {
            self.idle.push_back(slot);
        }
        Ok(())
    }
}

impl Connection {
    fn open(target: SocketAddr, epoll: &Epoll, slot: usize) -> io::Result<Connection> {
        let stream = TcpStream::connect(target)
            .map_err(|error| io::Error::other(format!("cannot connect to {target}: {error}")))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, slot as u64)?;
        Ok(Connection {
            stream,
            reader: ResponseReader::default(),
            unsent: Vec::new(),
            in_flight: None,
            carried: 0,
        })
    }

    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) if count == self.unsent.len() => self.unsent.clear(),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => return would_block(error),
            }
        }
        Ok(true)
    }
}

fn would_block(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(true) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_positive_number_or_max() {
        assert_eq!(parse_rate("max"), Ok(Rate::Max));
        assert_eq!(parse_rate("2.5"), Ok(Rate::PerSecond(2.5)));
        for bad in ["0", "-1", "inf", "fast", ""] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn load_stays_on_loopback() {
        assert_eq!(target("http://127.0.0.1:80/").unwrap().port(), 80);
        assert!(target("http://[::1]:80").is_ok());
        assert!(target("http://192.0.2.1:80").is_err());
    }

    #[test]
    fn the_path_says_what_to_expect() {
        assert_eq!(expected_length("/bytes/65536"), 65536);
        assert_eq!(expected_length("/chunked/0"), 0);
        assert_eq!(expected_length("/slow/5"), 100);
    }
}

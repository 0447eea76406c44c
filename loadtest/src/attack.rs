//! `loadtest attack NAME`: one hostile load beside healthy clients.
//!
//! Healthy clients ask at a small constant rate, first alone and then beside the attack; what
//! matters is the ratio of their p99. Every attack is bounded in connections and in time. Without
//! `--url` a ringside is started for it, with an origin behind it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use crate::contestant::{Contestant, Entry, LOAD_CORE};
use crate::peer::{self, Setup};
use crate::process::{self, Folder, Process};
use crate::report::Report;
use crate::{generator, syscall};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which attack; see --list
    #[arg(value_enum, required_unless_present = "list")]
    name: Option<Attack>,
    /// What attacks there are
    #[arg(long)]
    list: bool,
    /// Attack this address (http://127.0.0.1:PORT, loopback only)
    #[arg(long)]
    url: Option<String>,
    /// The binary to start when there is no --url
    #[arg(long)]
    ringside: Option<PathBuf>,
    /// Hostile connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Length of each half: without and with the attack
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests per second of the healthy clients
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Fail if the healthy p99 grows by more than this factor
    #[arg(long, value_name = "FACTOR")]
    max_ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Heads that come a byte at a time and never end
    SlowHead,
    /// POSTs whose bodies come a byte at a time
    SlowBody,
    /// Asks for 1 MiB again and again and reads nothing
    SlowReader,
    /// Connects and says nothing
    Idle,
    /// Random bytes, again and again
    Garbage,
    /// A hundred requests in each segment, answers read at leisure
    Pipelining,
}

/// How often each attacker gets its turn.
const TURN: Duration = Duration::from_millis(100);
/// The attackers take their turns in so many groups, one after the other: the healthy clients
/// share this core, and all at once would be felt there and be counted against the proxy.
const GROUPS: u32 = 100;

impl Attack {
    /// What one attacker does by itself, each second. All together stay below what a proxy can
    /// do: this is about what a few bytes can hold up, not about who has more cores.
    fn acts_per_second(self) -> f64 {
        match self {
            Attack::SlowHead | Attack::SlowBody | Attack::SlowReader | Attack::Garbage => 1.0,
            Attack::Idle => 0.0,
            Attack::Pipelining => 0.1,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let Some(attack) = arguments.name.filter(|_| !arguments.list) else {
        for attack in Attack::value_variants() {
            let value = attack.to_possible_value().expect("no attack is hidden");
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            println!("{:<12} {help}", value.get_name());
        }
        return Ok(ExitCode::SUCCESS);
    };
    syscall::raise_descriptor_limit()?;
    let folder = Folder::new()?;
    let (address, _running) = match &arguments.url {
        Some(url) => (generator::target(url)?, None),
        None => {
            let running = start_ringside(arguments, &folder)?;
            (running.1.address, Some(running))
        }
    };
    let before = healthy(arguments, address)?;
    let hostile = Hostile::start(attack, address, arguments.connections);
    let during = healthy(arguments, address);
    let stood = hostile.stop();
    let during = during?;

    let (alone, beside) = (before.latency.p99_us, during.latency.p99_us);
    let ratio = beside / alone;
    println!("healthy alone:       p99 {alone:.0} µs, {} errors", before.errors.total());
    println!("healthy beside it:   p99 {beside:.0} µs, {} errors", during.errors.total());
    println!("ratio of p99:        {ratio:.2}");
    println!(
        "the attack:          {} connections, {} of them opened again, {} bytes sent",
        arguments.connections, stood.reopened, stood.sent
    );
    if during.requests == 0 {
        println!("beside it no healthy request was answered at all");
    }
    let hurt = during.errors.total() > 0 || arguments.max_ratio.is_some_and(|max| ratio > max);
    Ok(if hurt { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn start_ringside(arguments: &Arguments, folder: &Folder) -> io::Result<(Process, Contestant)> {
    let installed = peer::find(arguments.ringside.as_deref());
    peer::require_ringside(&installed)?;
    let (origin, address) =
        Process::start_ourselves("origin", &["origin"], Some(LOAD_CORE), folder.path())?;
    let entry = Entry::Program(Setup::Ringside);
    let ringside = Contestant::start(entry, &installed, address, folder.path())?;
    Ok((origin, ringside.expect("it is required")))
}

fn healthy(arguments: &Arguments, address: SocketAddr) -> io::Result<Report> {
    let url = format!("http://{address}");
    let (seconds, rate) = (arguments.seconds.to_string(), arguments.rate.to_string());
    let words = ["generate", "--url", &url, "--seconds", &seconds, "--rate", &rate];
    let words = words.iter().chain(&["--connections", "16", "--warmup", "0.5", "-o", "json"]);
    let words: Vec<String> = words.map(|word| (*word).to_owned()).collect();
    Report::parse(&process::run_ourselves(&words, Some(LOAD_CORE))?)
}

/// What the attackers did.
#[derive(Default)]
struct Stood {
    /// Connections that the other side ended, and that were opened again.
    reopened: u64,
    sent: u64,
}

/// A running attack; it ends when stopped or dropped.
struct Hostile {
    stop: Arc<AtomicBool>,
    reopened: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Hostile {
    fn start(attack: Attack, address: SocketAddr, count: u32) -> Hostile {
        let stop = Arc::new(AtomicBool::new(false));
        let (reopened, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, reopened, sent) = (stop.clone(), reopened.clone(), sent.clone());
            thread::spawn(move || {
                // The attackers leave the proxy's core to the proxy.
                let _ = syscall::pin(LOAD_CORE);
                let mut attackers: Vec<Option<Attacker>> = (0..count).map(|_| None).collect();
                let group = attackers.len().div_ceil(GROUPS as usize);
                while !stop.load(Ordering::Relaxed) {
                    for group in attackers.chunks_mut(group) {
                        for attacker in group {
                            match take_turn(attacker, attack, address) {
                                Ok(count) => sent.fetch_add(count as u64, Ordering::Relaxed),
                                Err(_) => reopened.fetch_add(1, Ordering::Relaxed),
                            };
                        }
                        thread::sleep(TURN / GROUPS); // the attackers' pace
                    }
                }
            })
        };
        Hostile { stop, reopened, sent, thread: Some(thread) }
    }

    fn stop(mut self) -> Stood {
        self.end();
        Stood {
            reopened: self.reopened.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed already
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens an attacker or lets it act; an error: it was open and the other side has ended it.
fn take_turn(
    attacker: &mut Option<Attacker>,
    attack: Attack,
    address: SocketAddr,
) -> io::Result<usize> {
    let Some(open) = attacker else {
        *attacker = Attacker::open(attack, address).ok();
        return Ok(0);
    };
    let turn = open.turn(attack);
    if turn.is_err() {
        *attacker = None;
    }
    turn
}

struct Attacker {
    stream: TcpStream,
}

impl Attacker {
    fn open(attack: Attack, address: SocketAddr) -> io::Result<Attacker> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_nonblocking(true)?;
        if attack == Attack::SlowReader {
            syscall::shrink_receive_buffer(&stream, 4096)?;
        }
        let mut attacker = Attacker { stream };
        attacker.send(match attack {
            Attack::SlowHead => b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
            Attack::SlowBody => b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n",
            _ => b"",
        })?;
        Ok(attacker)
    }

    /// One turn: perhaps an act; returns the bytes sent. An error: the other side has ended it.
    fn turn(&mut self, attack: Attack) -> io::Result<usize> {
        if attack != Attack::SlowReader {
            self.look_for_end()?;
        }
        if fastrand::f64() > attack.acts_per_second() * TURN.as_secs_f64() {
            return Ok(0);
        }
        match attack {
            Attack::Idle => Ok(0),
            Attack::SlowHead | Attack::SlowBody => self.send(b"a"),
            Attack::SlowReader => self.send(b"GET /bytes/1048576 HTTP/1.1\r\nhost: a\r\n\r\n"),
            Attack::Pipelining => {
                self.send(&b"GET /bytes/100 HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100))
            }
            Attack::Garbage => {
                let mut junk = [0; 512];
                fastrand::Rng::new().fill(&mut junk);
                self.send(&junk)
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Throws away one bufferful of what has come.
    fn look_for_end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 4096]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

//! `loadtest compare`: ringside, its peers and the floor, one topic after another.
//!
//! What is measured is in [`Topic`]; how, in `round.rs`. The proxy under measurement runs alone
//! on core 0, the generator and the origin share core 1. CPU per request is the primary figure,
//! because on a shared machine it moves by hundredths where throughput moves by halves.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::contestant::{Contestant, Entry, Kind, LOAD_CORE};
use crate::memory;
use crate::peer::{self, Installed, Setup};
use crate::process::{Folder, Process};
use crate::report::Report;
use crate::results::{Beside, Cell, Machine, Row};
use crate::round::{self, Load, Pace, Rounds};
use crate::statistics::{self, Spread};
use crate::{plot, syscall, table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Everything within a minute: one short round each, a look and not a result
    #[arg(long)]
    quick: bool,
    /// Only these topics
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Topic>,
    /// Concurrencies of the http topic
    #[arg(long, value_delimiter = ',', default_value = "1,64,512,2000")]
    connections: Vec<usize>,
    /// Interleaved rounds (twice as many with one connection, at least nine for latency)
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// The binary to measure; without it `ringside` beside this program
    #[arg(long)]
    ringside: Option<PathBuf>,
    /// Measure the peers and the floor, and no ringside
    #[arg(long, conflicts_with = "ringside")]
    peers_only: bool,
    /// Where compare.json, compare.svg and compare.md go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/out"))]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// CPU per request, 100-byte answers over keep-alive
    Http,
    /// The same at 64 connections with ringside on epoll
    Epoll,
    /// CPU per gigabyte of 64 KiB and 1 MiB answers
    Bodies,
    /// CPU per gigabyte over TCP
    TcpBulk,
    /// CPU per round trip of 100 bytes over TCP
    TcpPingpong,
    /// Open-loop latency at 30, 50 and 80 % of the weakest contestant's maximum
    Latency,
    /// PSS of an idle keep-alive connection
    Memory,
}

/// With `--quick` no topic begins later than this; the longest takes ten seconds.
const QUICK: Duration = Duration::from_secs(45);

/// What every topic works with.
struct Bench {
    installed: Vec<Installed>,
    folder: Folder,
    pace: Pace,
    quick: bool,
    connections: Vec<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    syscall::raise_descriptor_limit()?;
    if let Some(path) = arguments.ringside.as_ref().filter(|path| !path.is_file()) {
        return Err(io::Error::other(format!("{}: no such file", path.display())));
    }
    // A relative path would be looked up in the folder of its config.
    let ringside = arguments.ringside.as_ref().map(fs::canonicalize).transpose()?;
    let mut installed = peer::find(ringside.as_deref());
    match arguments.peers_only {
        true => installed.retain(|installed| installed.program != peer::Program::Ringside),
        false => peer::require_ringside(&installed)?,
    }
    if std::thread::available_parallelism()?.get() < 2 {
        return Err(io::Error::other("compare needs two cores: one for the proxy, one for load"));
    }
    let (rounds, seconds, warmup) = if arguments.quick { (1, 0.25, 0.1) } else { (5, 2.0, 0.5) };
    let bench = Bench {
        installed,
        folder: Folder::new()?,
        pace: Pace {
            rounds: arguments.rounds.unwrap_or(rounds),
            seconds: arguments.seconds.unwrap_or(seconds),
            warmup,
        },
        quick: arguments.quick,
        connections: arguments.connections.clone(),
    };
    let versions: Vec<String> = bench.installed.iter().map(|i| i.version.clone()).collect();
    let machine = Machine::here(versions);
    println!("{}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel);
    machine.versions.iter().for_each(|version| println!("{version}"));
    println!("{}\n", table::FOOTNOTE);

    let begin = Instant::now();
    let mut sheet = Sheet { out: arguments.out.clone(), machine, rows: Vec::new() };
    for topic in Topic::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(topic) {
            continue;
        }
        if arguments.quick && begin.elapsed() > QUICK {
            println!("{topic:?} is left out: the machine is slow and the minute is over");
            continue;
        }
        bench.topic(*topic, &mut sheet)?;
    }
    println!("written to {}", sheet.out.display());
    Ok(ExitCode::SUCCESS)
}

/// The rows so far. Each is printed and written as it comes: an hour's work survives its last row.
struct Sheet {
    out: PathBuf,
    machine: Machine,
    rows: Vec<Row>,
}

impl Sheet {
    fn add(&mut self, row: Row) -> io::Result<()> {
        println!("{}", table::render(&row, table::Style::Plain));
        self.rows.push(row);
        let Sheet { out, machine, rows } = self;
        fs::create_dir_all(&*out)?;
        let json = serde_json::json!({ "machine": machine, "rows": rows });
        fs::write(out.join("compare.json"), format!("{json:#}\n"))?;
        fs::write(out.join("compare.svg"), plot::render(rows))?;
        fs::write(out.join("compare.md"), table::markdown(machine, rows))
    }
}

/// A figure of a report, and how it is called.
#[derive(Clone, Copy)]
struct Figure {
    unit: &'static str,
    of: fn(&Report) -> f64,
    /// Whether the control has one too.
    of_control: bool,
}

const CPU_PER_REQUEST: Figure =
    Figure { unit: "µs CPU per request", of: Report::cpu_us_per_request, of_control: false };
const CPU_PER_GB: Figure =
    Figure { unit: "ms CPU per GB", of: Report::cpu_ms_per_gb, of_control: false };

const HTTP: [Entry; 6] = [
    Entry::Direct,
    Entry::FloorUring,
    Entry::Program(Setup::Nginx),
    Entry::Program(Setup::Haproxy),
    Entry::Program(Setup::Envoy),
    Entry::Program(Setup::Ringside),
];

impl Bench {
    fn topic(&self, topic: Topic, sheet: &mut Sheet) -> io::Result<()> {
        match topic {
            Topic::Http => self.http(sheet),
            Topic::Epoll => self.epoll(sheet),
            Topic::Bodies => self.bodies(sheet),
            Topic::TcpBulk => self.tcp_bulk(sheet),
            Topic::TcpPingpong => self.tcp_pingpong(sheet),
            Topic::Latency => self.latency(sheet),
            Topic::Memory => self.memory(sheet),
        }
    }

    fn http(&self, sheet: &mut Sheet) -> io::Result<()> {
        let (origin, mut contestants) = self.start("origin", &HTTP)?;
        for count in &self.connections {
            let text = count.to_string();
            // One connection is noisy.
            let rounds = if *count == 1 && !self.quick { 2 } else { 1 } * self.pace.rounds;
            let question = Question {
                name: format!("http {count}"),
                note: format!("connections: {count}; 100 B, keep-alive, closed loop"),
                figure: CPU_PER_REQUEST,
                load: Load::new(&["--path", "/bytes/100", "--connections", &text]),
                pace: Pace { rounds, ..self.pace },
            };
            sheet.add(question.ask(&mut contestants, &origin)?)?;
        }
        Ok(())
    }

    fn epoll(&self, sheet: &mut Sheet) -> io::Result<()> {
        let entries = [
            Entry::Direct,
            Entry::FloorUring,
            Entry::Program(Setup::Nginx),
            Entry::Program(Setup::Ringside),
            Entry::Program(Setup::RingsideEpoll),
        ];
        let (origin, mut contestants) = self.start("origin", &entries)?;
        let question = Question {
            name: "epoll 64".to_owned(),
            note: "connections: 64; 100 B, keep-alive, closed loop".to_owned(),
            figure: CPU_PER_REQUEST,
            load: Load::new(&["--path", "/bytes/100", "--connections", "64"]),
            pace: self.pace,
        };
        sheet.add(question.ask(&mut contestants, &origin)?)
    }

    fn bodies(&self, sheet: &mut Sheet) -> io::Result<()> {
        let entries = [
            Entry::Direct,
            Entry::FloorSplice,
            Entry::Program(Setup::NginxBodies),
            Entry::Program(Setup::NginxUnbuffered),
            Entry::Program(Setup::Haproxy),
            Entry::Program(Setup::HaproxySplice),
            Entry::Program(Setup::Envoy),
            Entry::Program(Setup::Ringside),
        ];
        let (origin, mut contestants) = self.start("origin", &entries)?;
        for (size, path) in [("64 KiB", "/bytes/65536"), ("1 MiB", "/bytes/1048576")] {
            let question = Question {
                name: format!("bodies {size}"),
                note: "connections: 16; content-length, keep-alive, closed loop".to_owned(),
                figure: CPU_PER_GB,
                load: Load::new(&["--path", path, "--connections", "16"]),
                pace: self.pace,
            };
            sheet.add(question.ask(&mut contestants, &origin)?)?;
        }
        Ok(())
    }

    fn tcp_bulk(&self, sheet: &mut Sheet) -> io::Result<()> {
        let entries = [
            Entry::Direct,
            Entry::FloorSplice,
            Entry::Program(Setup::NginxTcp),
            Entry::Program(Setup::HaproxyTcp),
            Entry::Program(Setup::HaproxyTcpSplice),
            Entry::Program(Setup::EnvoyTcp),
            Entry::Program(Setup::RingsideTcp),
        ];
        let (origin, mut contestants) = self.start("tcp-source", &entries)?;
        let question = Question {
            name: "tcp bulk".to_owned(),
            note: "connections: 4; origin to client as fast as it goes; per s, switches and \
                   syscalls are per MiB"
                .to_owned(),
            figure: CPU_PER_GB,
            load: Load::new(&["--tcp-bulk", "--connections", "4"]),
            pace: self.pace,
        };
        sheet.add(question.ask(&mut contestants, &origin)?)
    }

    fn tcp_pingpong(&self, sheet: &mut Sheet) -> io::Result<()> {
        let entries = [
            Entry::Direct,
            Entry::FloorUring,
            Entry::Program(Setup::NginxTcp),
            Entry::Program(Setup::HaproxyTcp),
            Entry::Program(Setup::EnvoyTcp),
            Entry::Program(Setup::RingsideTcp),
        ];
        let (origin, mut contestants) = self.start("tcp-echo", &entries)?;
        for count in ["1", "64"] {
            let question = Question {
                name: format!("tcp ping-pong {count}"),
                note: format!("connections: {count}; 100 B there and back, closed loop"),
                figure: Figure { unit: "µs CPU per round trip", ..CPU_PER_REQUEST },
                load: Load::new(&["--tcp-pingpong", "--connections", count]),
                pace: self.pace,
            };
            sheet.add(question.ask(&mut contestants, &origin)?)?;
        }
        Ok(())
    }

    fn latency(&self, sheet: &mut Sheet) -> io::Result<()> {
        let (origin, mut contestants) = self.start("origin", &HTTP)?;
        let connections = ["--path", "/bytes/100", "--connections", "64"];
        let short = Pace { rounds: 1, ..self.pace };
        let maxima = round::run(&mut contestants, &Load::new(&connections), short, &origin.pids)?;
        let weakest = contestants
            .iter()
            .enumerate()
            .filter(|(_, contestant)| contestant.kind != Kind::Control)
            .map(|(index, contestant)| (maxima.median(index, Report::rate), contestant.name))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let (maximum, weakest) = weakest.ok_or_else(|| io::Error::other("nobody to measure"))?;
        let levels: &[u32] = if self.quick { &[50] } else { &[30, 50, 80] };
        for level in levels {
            let rate = (maximum * f64::from(*level) / 100.0).round();
            let text = rate.to_string();
            let load = Load::new(&[&connections[..], &["--rate", &text]].concat());
            let rounds = if self.quick { 1 } else { self.pace.rounds.max(9) };
            let pace = Pace { rounds, ..self.pace };
            let measured = round::run(&mut contestants, &load, pace, &origin.pids)?;
            let note = format!(
                "open loop at {rate}/s, {level} % of the maximum of {weakest}, the weakest; 64 connections"
            );
            for row in latency_rows(*level, &note, &contestants, &measured) {
                sheet.add(row)?;
            }
        }
        Ok(())
    }

    fn memory(&self, sheet: &mut Sheet) -> io::Result<()> {
        let origin = Origin::start("origin", self.folder.path())?;
        let entries = [
            Entry::Direct,
            Entry::Program(Setup::Nginx),
            Entry::Program(Setup::Haproxy),
            Entry::Program(Setup::Envoy),
            Entry::Program(Setup::Ringside),
        ];
        let rounds = if self.quick { 1 } else { 3 };
        let mut cells: Vec<(&'static str, Kind, Vec<memory::PerConnection>)> = Vec::new();
        for _ in 0..rounds {
            for entry in entries {
                // A fresh process each time: memory that a row before it grew would hide the slope.
                let folder = self.folder.path();
                let contestant = Contestant::start(entry, &self.installed, origin.address, folder)?;
                let Some(mut contestant) = contestant else { continue };
                let warm = Load::new(&["--connections", "64"]);
                round::once(&mut contestant, &warm, self.pace, &origin.pids, false)?;
                let measured = memory::per_connection(&contestant.pids(), || {
                    memory::served(contestant.address)
                })?;
                match cells.iter_mut().find(|(name, ..)| *name == contestant.name) {
                    Some((.., samples)) => samples.push(measured),
                    None => cells.push((contestant.name, contestant.kind, vec![measured])),
                }
            }
        }
        sheet.add(Row {
            name: "memory".to_owned(),
            unit: "B PSS per idle connection",
            note: "slope from 1,000 to 5,000 idle keep-alive connections that served one request \
                   each, after a warm-up; slab: the kernel's, of the whole machine (client, proxy \
                   and for direct the origin)"
                .to_owned(),
            rounds,
            void_rounds: 0,
            cells: cells.into_iter().map(|(name, kind, s)| memory_cell(name, kind, &s)).collect(),
        })
    }

    fn start(&self, origin: &str, entries: &[Entry]) -> io::Result<(Origin, Vec<Contestant>)> {
        let folder = self.folder.path();
        let origin = Origin::start(origin, folder)?;
        let contestants = Contestant::start_all(entries, &self.installed, origin.address, folder)?;
        Ok((origin, contestants))
    }
}

/// What one row asks of every contestant.
struct Question {
    name: String,
    note: String,
    figure: Figure,
    load: Load,
    pace: Pace,
}

impl Question {
    /// Runs the rounds, and once more, shortly, to count system calls.
    fn ask(self, contestants: &mut [Contestant], origin: &Origin) -> io::Result<Row> {
        let Question { name, note, figure, load, pace } = self;
        let rounds = round::run(contestants, &load, pace, &origin.pids)?;
        let short = Pace { seconds: (pace.seconds / 2.0).min(0.5), ..pace };
        let mut cells = Vec::new();
        for (index, contestant) in contestants.iter_mut().enumerate() {
            let counted = match contestant.kind {
                Kind::Control => None,
                // Without tracepoints there is no count; the row stands without it.
                _ => round::once(contestant, &load, short, &origin.pids, true).ok(),
            };
            let syscalls = counted
                .and_then(|report| Some(report.watched_syscalls? as f64 / report.requests as f64));
            cells.push(cell(contestant, &rounds, index, figure, syscalls));
        }
        let unit = figure.unit;
        Ok(Row { name, unit, note, rounds: rounds.kept.len(), void_rounds: rounds.void, cells })
    }
}

/// The one origin of a topic, on core 1.
struct Origin {
    address: SocketAddr,
    pids: Vec<u32>,
    _process: Process,
}

impl Origin {
    fn start(kind: &str, folder: &Path) -> io::Result<Origin> {
        let (process, address) = Process::start_ourselves(kind, &[kind], Some(LOAD_CORE), folder)?;
        Ok(Origin { address, pids: process.pids(), _process: process })
    }
}

fn cell(
    contestant: &Contestant,
    rounds: &Rounds,
    index: usize,
    figure: Figure,
    syscalls: Option<f64>,
) -> Cell {
    let is_control = contestant.kind == Kind::Control;
    let has_figure = !is_control || figure.of_control;
    let mut samples = if has_figure { rounds.samples(index, figure.of) } else { Vec::new() };
    samples.retain(|sample| sample.is_finite()); // a round without one answer has no figure
    let median = |figure: fn(&Report) -> f64| rounds.median(index, figure);
    let (proxy, core1) = (median(Report::watched_share), median(Report::load_share));
    let mut beside = vec![Beside { name: "per s", value: median(Report::rate) }];
    if !is_control {
        beside.push(Beside { name: "switches", value: median(Report::switches_per_request) });
        beside.extend(syscalls.map(|value| Beside { name: "syscalls", value }));
        beside.push(Beside { name: "proxy %", value: proxy * 100.0 });
    }
    beside.push(Beside { name: "core 1 %", value: core1 * 100.0 });
    let errors: u64 = rounds.kept.iter().map(|round| round[index].errors.total()).sum();
    beside.push(Beside { name: "errors", value: errors as f64 });
    beside.retain(|beside| beside.value.is_finite());
    Cell {
        contestant: contestant.name,
        kind: contestant.kind,
        figure: Spread::of(&samples),
        beside,
        load_was_the_bottleneck: !is_control && core1 > 0.95 && proxy < 0.9,
        // Some connections were never let in: the others had it easy.
        void: rounds.kept.iter().any(|round| round[index].per_connection[0] == 0)
            || has_figure && samples.is_empty(),
        samples,
    }
}

fn latency_rows(level: u32, note: &str, contestants: &[Contestant], rounds: &Rounds) -> Vec<Row> {
    type Quantile = (&'static str, fn(&Report) -> f64);
    let quantiles: [Quantile; 3] = [
        ("p50", |report| report.latency.p50_us),
        ("p99", |report| report.latency.p99_us),
        ("p99.9", |report| report.latency.p999_us),
    ];
    let row = |(name, of): Quantile| {
        let figure = Figure { unit: "µs", of, of_control: true };
        let mut cells: Vec<Cell> = contestants
            .iter()
            .enumerate()
            .map(|(index, contestant)| cell(contestant, rounds, index, figure, None))
            .collect();
        let control = cells.iter().find(|cell| cell.kind == Kind::Control);
        let control = control.and_then(|cell| cell.figure).map_or(0.0, |figure| figure.median);
        if name == "p99.9" {
            for cell in cells.iter_mut().filter(|cell| cell.kind != Kind::Control) {
                cell.void |= cell.figure.is_some_and(|figure| control > figure.median / 2.0);
            }
        }
        Row {
            name: format!("latency {level} % {name}"),
            unit: "µs",
            note: note.to_owned(),
            rounds: rounds.kept.len(),
            void_rounds: rounds.void,
            cells,
        }
    };
    quantiles.into_iter().map(row).collect()
}

fn memory_cell(name: &'static str, kind: Kind, samples: &[memory::PerConnection]) -> Cell {
    let pss: Vec<f64> = match kind {
        Kind::Control => Vec::new(),
        _ => samples.iter().map(|sample| sample.pss).collect(),
    };
    let slab: Vec<f64> = samples.iter().map(|sample| sample.slab).collect();
    Cell {
        contestant: name,
        kind,
        figure: Spread::of(&pss),
        samples: pss,
        beside: vec![Beside { name: "slab B", value: statistics::median(&slab) }],
        load_was_the_bottleneck: false,
        void: false,
    }
}

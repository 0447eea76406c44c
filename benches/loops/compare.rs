//! `loops compare`: all loops in the same interleaved rounds.
//!
//! As in `loadtest compare`, and with its parts: the server alone on core 0, the generator and the
//! origin on core 1, CPU per request of the server's process as the figure, and a round void where
//! the control, straight to the origin, moved by more than a tenth. Besides, a loop's sample is void
//! where [`disturbed`] says so. A run is bounded: at most twice the rounds and one for each start, of
//! two and a half seconds each, and no wait without an end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use loadtest::contestant::{Contestant, Kind, LOAD_CORE, PROXY_CORE};
use loadtest::memory;
use loadtest::process::{Folder, Process};
use loadtest::report::Report;
use loadtest::results::Machine;
use loadtest::round::{self, Load, Pace, Rounds};
use loadtest::statistics::Spread;

use crate::serve::{Loop, Service};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Everything within a minute: one short round each, a look and not a result
    #[arg(long)]
    quick: bool,
    /// How many keep-alive connections carry requests
    #[arg(long, value_delimiter = ',', default_value = "64,512")]
    connections: Vec<usize>,
    /// Interleaved rounds of each of three starts (one with --quick)
    #[arg(long)]
    rounds: Option<usize>,
    /// Only this one
    #[arg(long, value_enum)]
    only: Option<Service>,
}

/// What we measure against.
const OURS: Loop = Loop::OursUring;
/// So near, and a loop of our own would not pay: as a ratio of CPU per request …
const NEAR_CPU: f64 = 1.08;
/// … and of memory per idle connection.
const NEAR_MEMORY: f64 = 2.0;

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    reactor::raise_descriptor_limit()?;
    if std::thread::available_parallelism()?.get() < 2 {
        return Err(io::Error::other("compare needs two cores: one for the server, one for load"));
    }
    let (starts, rounds, seconds, warmup) =
        if arguments.quick { (1, 1, 0.25, 0.1) } else { (3, 3, 2.0, 0.5) };
    let rounds = arguments.rounds.unwrap_or(rounds);
    let bench = Bench {
        folder: Folder::new()?,
        starts,
        pace: Pace { rounds, seconds, warmup },
        memory_rounds: if arguments.quick { 1 } else { 3 },
    };
    let machine = Machine::here(Vec::new());
    println!("{}, {} cores, Linux {}\n", machine.cpu, machine.cores, machine.kernel);
    for service in [Service::Proxy, Service::Echo] {
        if arguments.only.is_none_or(|only| only == service) {
            bench.service(service, &arguments.connections)?;
        }
    }
    Ok(())
}

struct Bench {
    folder: Folder,
    /// How often the processes are started afresh: where memory happens to lie makes a process some
    /// hundredths dearer or cheaper for as long as it lives.
    starts: usize,
    /// The rounds between two starts.
    pace: Pace,
    memory_rounds: usize,
}

impl Bench {
    /// Measures one service on all loops; each table is printed as soon as it is there.
    fn service(&self, service: Service, connections: &[usize]) -> io::Result<()> {
        let origin = Origin::start(service, self.folder.path())?;
        let mut cpu = Vec::new();
        for count in connections {
            let table = self.cpu(service, *count, &origin)?;
            println!("{}", table.markdown());
            cpu.push(table);
        }
        let memory = self.memory(service, &origin)?;
        println!("{}", memory.markdown());
        for monoio in [Loop::Monoio, Loop::MonoioPoll] {
            println!("{}: {}\n", service.name(), verdict(monoio, &cpu, &memory));
        }
        Ok(())
    }

    fn cpu(&self, service: Service, connections: usize, origin: &Origin) -> io::Result<Table> {
        let mut rounds = Rounds { kept: Vec::new(), void: 0 };
        for _ in 0..self.starts {
            let some = self.rounds(service, connections, origin)?;
            rounds.kept.extend(some.kept);
            rounds.void += some.void;
        }
        let row = |(index, event_loop): (usize, Loop)| {
            let median = |of: fn(&Report) -> f64| rounds.median(index, of);
            let load = median(Report::load_share);
            let samples = samples(&rounds, index);
            Row {
                event_loop,
                // Of fewer than half of the rounds there is no median worth the name.
                figure: Spread::of(&samples)
                    .filter(|_| 2 * samples.len() >= self.starts * self.pace.rounds),
                beside: vec![
                    samples.len().to_string(),
                    format!("{:.0}", median(Report::rate)),
                    format!("{:.0}", median(Report::watched_share) * 100.0),
                    format!("{:.0}", load * 100.0),
                    errors(&rounds, index).to_string(),
                ],
            }
        };
        Ok(Table {
            heading: format!(
                "{}, {connections} connections: µs CPU per request ({} rounds, {} void)",
                service.name(),
                rounds.kept.len(),
                rounds.void
            ),
            beside: &["rounds", "per s", "core 0 %", "core 1 %", "errors"],
            rows: (1..).zip(Loop::ALL).map(row).collect(),
        })
    }

    /// The rounds of one set of processes: contestant 0 is the control, then come the loops.
    fn rounds(&self, service: Service, connections: usize, origin: &Origin) -> io::Result<Rounds> {
        let mut contestants = vec![Contestant::direct(origin.address)];
        for event_loop in Loop::ALL {
            contestants.push(start(event_loop, service, origin.address, self.folder.path())?);
        }
        let load = load(service, connections);
        round::run(&mut contestants, &load, self.pace, &origin.process.pids())
    }

    fn memory(&self, service: Service, origin: &Origin) -> io::Result<Table> {
        let mut samples = Loop::ALL.map(|event_loop| (event_loop, Vec::new()));
        for _ in 0..self.memory_rounds {
            for (event_loop, samples) in &mut samples {
                // A fresh process each time: memory that load grew would hide the slope.
                let folder = self.folder.path();
                let mut server = start(*event_loop, service, origin.address, folder)?;
                let pace = Pace { rounds: 1, seconds: 0.3, warmup: 0.0 };
                let origin = origin.process.pids();
                round::once(&mut server, &load(service, 64), pace, &origin, false)?;
                let address = server.address;
                let measured = memory::per_connection(&server.pids(), || match service {
                    Service::Echo => echoed(address),
                    Service::Proxy => memory::served(address),
                })?;
                samples.push(measured.pss);
            }
        }
        let row = |(event_loop, samples): (Loop, Vec<f64>)| Row {
            event_loop,
            figure: Spread::of(&samples),
            beside: Vec::new(),
        };
        Ok(Table {
            heading: format!(
                "{}: bytes of PSS per idle connection, the slope from 1,000 to 5,000 ({} rounds)",
                service.name(),
                self.memory_rounds
            ),
            beside: &[],
            rows: samples.into_iter().map(row).collect(),
        })
    }
}

/// In a closed loop somebody always has work: where the server, the generator and the origin together
/// got less than this part of a core, others had the machine.
const WORKED_MIN: f64 = 0.5;

/// Whether a sample says nothing: requests failed, a connection got no answer, or the machine was
/// somebody else's.
fn disturbed(report: &Report) -> bool {
    let worked = report.watched_share() + report.load_share();
    report.errors.total() > 0 || report.per_connection[0] == 0 || worked < WORKED_MIN
}

/// What the generator is told.
fn load(service: Service, connections: usize) -> Load {
    let connections = connections.to_string();
    match service {
        Service::Echo => Load::new(&["--tcp-pingpong", "--connections", &connections]),
        Service::Proxy => Load::new(&["--path", "/bytes/100", "--connections", &connections]),
    }
}

fn start(
    event_loop: Loop,
    service: Service,
    origin: SocketAddr,
    folder: &Path,
) -> io::Result<Contestant> {
    let (name, to) = (event_loop.name(), origin.to_string());
    let mut arguments = vec!["serve", name, service.name()];
    if service == Service::Proxy {
        arguments.extend(["--to", &to]);
    }
    let (process, address) = Process::start_ourselves(name, &arguments, Some(PROXY_CORE), folder)?;
    let kind = if event_loop == OURS { Kind::Ours } else { Kind::Peer };
    Ok(Contestant::of(name, kind, address, process))
}

/// What answers a proxy, and the control of both services.
struct Origin {
    address: SocketAddr,
    process: Process,
}

impl Origin {
    fn start(service: Service, folder: &Path) -> io::Result<Origin> {
        let name = match service {
            Service::Echo => "tcp-echo",
            Service::Proxy => "origin",
        };
        let (process, address) = Process::start_ourselves(name, &[name], Some(LOAD_CORE), folder)?;
        Ok(Origin { address, process })
    }
}

/// A connection that has had its hundred bytes back.
fn echoed(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = [b'e'; 100];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)?;
    Ok(stream)
}

/// The samples that count.
fn samples(rounds: &Rounds, index: usize) -> Vec<f64> {
    let reports = rounds.kept.iter().map(|round| &round[index]);
    reports.filter(|report| !disturbed(report)).map(Report::cpu_us_per_request).collect()
}

fn errors(rounds: &Rounds, index: usize) -> u64 {
    rounds.kept.iter().map(|round| round[index].errors.total()).sum()
}

/// What each loop costs in one respect; less is better.
struct Table {
    heading: String,
    /// Names of the columns beside the figure.
    beside: &'static [&'static str],
    rows: Vec<Row>,
}

struct Row {
    event_loop: Loop,
    /// `None`: void.
    figure: Option<Spread>,
    beside: Vec<String>,
}

impl Table {
    fn median(&self, event_loop: Loop) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.event_loop == event_loop)?;
        row.figure.map(|figure| figure.median)
    }

    fn ratio(&self, event_loop: Loop) -> Option<f64> {
        Some(self.median(event_loop)? / self.median(OURS)?)
    }

    fn markdown(&self) -> String {
        let beside: String = self.beside.iter().map(|name| format!(" {name} |")).collect();
        let mut lines = vec![
            format!("### {}\n", self.heading),
            format!("| | median | min–max | ÷ {} |{beside}", OURS.name()),
            format!("|---|---|---|---|{}", "---|".repeat(self.beside.len())),
        ];
        lines.extend(self.rows.iter().map(|row| {
            let ratio = self.ratio(row.event_loop);
            let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            let (median, range) = match row.figure {
                Some(Spread { median, min, max }) => {
                    (number(median), format!("{}–{}", number(min), number(max)))
                }
                None => ("void".to_owned(), "–".to_owned()),
            };
            let beside: String = row.beside.iter().map(|value| format!(" {value} |")).collect();
            format!("| {} | {median} | {range} | {ratio} |{beside}", row.event_loop.name())
        }));
        lines.join("\n") + "\n"
    }
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Whether another loop comes so near to ours that one of our own would not pay.
fn verdict(other: Loop, cpu: &[Table], memory: &Table) -> String {
    let name = other.name();
    let cpu: Option<Vec<f64>> = cpu.iter().map(|table| table.ratio(other)).collect();
    let (Some(cpu), Some(memory)) = (cpu, memory.ratio(other)) else {
        return format!("{name} against {}: void", OURS.name());
    };
    let near = cpu.iter().all(|ratio| *ratio <= NEAR_CPU) && memory <= NEAR_MEMORY;
    let cpu: Vec<String> = cpu.iter().map(|ratio| format!("{ratio:.2}")).collect();
    format!(
        "{name} {} within 8 % of the CPU per request and twice the memory of {} \
         (CPU × {}, memory × {memory:.2})",
        if near { "IS" } else { "is not" },
        OURS.name(),
        cpu.join(" and × "),
    )
}

#[cfg(test)]
mod tests {
    use loadtest::usage::Usage;

    use super::*;

    fn table(ours: f64, monoio: Option<f64>) -> Table {
        let row = |event_loop, figure: Option<f64>| Row {
            event_loop,
            figure: figure.map(|median| Spread { median, min: median, max: median + 1.0 }),
            beside: vec!["0".to_owned()],
        };
        let rows = vec![row(OURS, Some(ours)), row(Loop::Monoio, monoio)];
        Table { heading: "a table".to_owned(), beside: &["errors"], rows }
    }

    #[test]
    fn a_table_is_markdown() {
        assert_eq!(
            table(200.0, Some(250.0)).markdown(),
            "### a table\n\n\
             | | median | min–max | ÷ ours-uring | errors |\n\
             |---|---|---|---|---|\n\
             | ours-uring | 200 | 200–201 | 1.00 | 0 |\n\
             | monoio | 250 | 250–251 | 1.25 | 0 |\n"
        );
    }

    #[test]
    fn near_is_near_in_everything() {
        #[track_caller]
        fn check(cpu: [f64; 2], memory: f64, near: bool) {
            let cpu = cpu.map(|monoio| table(10.0, Some(monoio)));
            let said = verdict(Loop::Monoio, &cpu, &table(10.0, Some(memory)));
            assert_eq!(said.starts_with("monoio IS within"), near, "{said}");
        }
        check([10.7, 10.8], 20.0, true);
        check([10.7, 10.9], 20.0, false);
        check([9.0, 9.0], 20.1, false);
    }

    #[test]
    fn a_sample_counts_if_the_machine_was_ours_and_nothing_failed() {
        let usage = |cpu_ns| Usage { cpu_ns, ..Usage::default() };
        let mut report = Report {
            seconds: 1.0,
            requests: 10,
            per_connection: [1, 2],
            watched: usage(300_000_000),
            generator_cpu_ns: 200_000_001,
            ..Report::default()
        };
        assert!(!disturbed(&report));
        report.generator_cpu_ns = 199_999_999;
        assert!(disturbed(&report), "half a core is not reached");
        report.generator_cpu_ns = 900_000_000;
        report.errors.connection = 1;
        assert!(disturbed(&report));
    }

    #[test]
    fn what_is_void_is_not_judged() {
        let said = verdict(Loop::Monoio, &[table(10.0, None)], &table(10.0, Some(10.0)));
        assert_eq!(said, "monoio against ours-uring: void");
    }
}

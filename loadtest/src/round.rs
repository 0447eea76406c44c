//! Interleaved rounds: A B C, A B C, …, each a run of the generator against one contestant.
//!
//! The control (straight to the origin) runs in every round. Where its cost per request moved by
//! more than a tenth the machine did not hold still, the round is void, and another one is run.

use std::io;

use crate::contestant::{Contestant, Kind, LOAD_CORE};
use crate::process;
use crate::report::Report;
use crate::statistics;

/// A control may move by so much.
const TOLERANCE: f64 = 0.1;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub rounds: usize,
    pub seconds: f64,
    pub warmup: f64,
}

/// What the generator is told besides where, how long, and whom to watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub arguments: Vec<String>,
}

impl Load {
    pub fn new(arguments: &[&str]) -> Load {
        Load { arguments: arguments.iter().map(|a| (*a).to_owned()).collect() }
    }
}

/// All rounds of one row: `kept[round][contestant]`.
pub struct Rounds {
    pub kept: Vec<Vec<Report>>,
    pub void: usize,
}

impl Rounds {
    /// One figure of one contestant, round by round.
    pub fn samples(&self, contestant: usize, figure: impl Fn(&Report) -> f64) -> Vec<f64> {
        self.kept.iter().map(|round| figure(&round[contestant])).collect()
    }

    pub fn median(&self, contestant: usize, figure: impl Fn(&Report) -> f64) -> f64 {
        statistics::median(&self.samples(contestant, figure))
    }
}

/// Runs until `pace.rounds` rounds are steady, at most twice as many and one.
pub fn run(
    contestants: &mut [Contestant],
    load: &Load,
    pace: Pace,
    origin: &[u32],
) -> io::Result<Rounds> {
    let control = contestants.iter().position(|c| c.kind == Kind::Control);
    let mut all: Vec<Vec<Report>> = Vec::new();
    loop {
        let round: io::Result<Vec<Report>> =
            contestants.iter_mut().map(|c| once(c, load, pace, origin, false)).collect();
        all.push(round?);
        let steady = match control {
            Some(control) => {
                let cost = |round: &Vec<Report>| load_cost(&round[control]);
                statistics::steady(&all.iter().map(cost).collect::<Vec<_>>(), TOLERANCE)
            }
            None => vec![true; all.len()],
        };
        let count = steady.iter().filter(|steady| **steady).count();
        let enough = count >= pace.rounds && all.len() >= pace.rounds;
        if enough || all.len() > 2 * pace.rounds {
            let kept: Vec<_> =
                all.into_iter().zip(&steady).filter_map(|(r, s)| s.then_some(r)).collect();
            return Ok(Rounds { void: steady.len() - kept.len(), kept });
        }
    }
}

/// What the generator and the origin spent on one request: with no proxy between them, a measure
/// of the machine.
fn load_cost(report: &Report) -> f64 {
    report.load_share() * report.seconds / report.requests as f64
}

/// One run of the generator against one contestant.
pub fn once(
    contestant: &mut Contestant,
    load: &Load,
    pace: Pace,
    origin: &[u32],
    count_syscalls: bool,
) -> io::Result<Report> {
    contestant.check_alive()?;
    let list = |pids: &[u32]| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut arguments: Vec<String> = vec!["generate".to_owned()];
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("--url", format!("http://{}", contestant.address));
    add("--seconds", pace.seconds.to_string());
    add("--warmup", pace.warmup.to_string());
    add("--output", "json".to_owned());
    add("--beside", list(origin));
    let pids = contestant.pids();
    if !pids.is_empty() {
        add("--watch", list(&pids));
        if count_syscalls {
            arguments.push("--count-syscalls".to_owned());
        }
    }
    arguments.extend(load.arguments.iter().cloned());
    let output = process::run_ourselves(&arguments, Some(LOAD_CORE)).map_err(|error| {
        io::Error::other(format!("{} under {:?}: {error}", contestant.name, load.arguments))
    })?;
    Report::parse(&output)
}

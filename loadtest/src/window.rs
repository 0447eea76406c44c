//! The measured window of a run: warm-up before it, counters read at both its edges.

use std::io;
use std::time::Instant;

use crate::report::Report;
use crate::usage::{SyscallCounter, Usage};

/// How a run is timed and what is watched meanwhile.
#[derive(clap::Args, Clone)]
pub(crate) struct Timing {
    /// How long to measure
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Load before the measured window, not counted
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warmup: f64,
    /// Processes whose CPU and context switches are read at both edges of the window
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(crate) watch: Vec<u32>,
    /// Count their system calls too (costs them time: not in a run that measures CPU)
    #[arg(long)]
    pub(crate) count_syscalls: bool,
    /// Processes that share our core
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(crate) beside: Vec<u32>,
}

/// Where a run is; times are nanoseconds since its start.
pub(crate) struct Window {
    origin: Instant,
    timing: Timing,
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    opened: Option<Edge>,
    syscalls: Option<SyscallCounter>,
}

struct Edge {
    at_ns: u64,
    watched: Usage,
    ours: Usage,
    beside: Usage,
    syscalls: u64,
}

impl Window {
    /// The run begins now.
    pub(crate) fn start(timing: &Timing) -> Window {
        let begin_ns = (timing.warmup * 1e9) as u64;
        Window {
            origin: Instant::now(),
            timing: timing.clone(),
            begin_ns,
            end_ns: begin_ns + (timing.seconds * 1e9) as u64,
            opened: None,
            syscalls: None,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Reads the counters of the first edge.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        if self.timing.count_syscalls {
            self.syscalls = Some(SyscallCounter::over(&self.timing.watch)?);
        }
        self.opened = Some(self.edge()?);
        Ok(())
    }

    /// Reads the counters of the second edge and fills in what they say.
    pub(crate) fn close(&self, report: &mut Report) -> io::Result<()> {
        let Some(begin) = &self.opened else { return Ok(()) };
        let end = self.edge()?;
        report.seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
        report.watched = end.watched.since(begin.watched);
        report.generator_cpu_ns = end.ours.since(begin.ours).cpu_ns;
        report.beside_cpu_ns = end.beside.since(begin.beside).cpu_ns;
        report.watched_syscalls = self.syscalls.as_ref().map(|_| end.syscalls - begin.syscalls);
        Ok(())
    }

    fn edge(&self) -> io::Result<Edge> {
        Ok(Edge {
            at_ns: self.now_ns(),
            watched: Usage::of(&self.timing.watch),
            ours: Usage::of(&[std::process::id()]),
            beside: Usage::of(&self.timing.beside),
            syscalls: self.syscalls.as_ref().map_or(Ok(0), SyscallCounter::read)?,
        })
    }
}

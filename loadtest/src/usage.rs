//! What the kernel says about processes: CPU, switches, system calls, memory, descriptors.
//!
//! Read from `/proc`, summed over all threads, at the edges of a measured window. Processes that
//! are not ours to see read as zero.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::syscall;

/// Consumed so far, or between two points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_ns: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Usage {
    /// The sum over the threads of these processes.
    pub(crate) fn of(pids: &[u32]) -> Usage {
        let mut sum = Usage::default();
        for (pid, tid) in pids.iter().flat_map(|pid| threads(*pid).map(move |tid| (*pid, tid))) {
            let task = format!("/proc/{pid}/task/{tid}");
            let schedstat = fs::read_to_string(format!("{task}/schedstat")).unwrap_or_default();
            sum.cpu_ns += first_number(&schedstat);
            let status = fs::read_to_string(format!("{task}/status")).unwrap_or_default();
            sum.voluntary_switches += field(&status, "voluntary_ctxt_switches:");
            sum.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:");
        }
        sum
    }

    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(before.involuntary_switches),
        }
    }
}

/// A process and all that descend from it (nginx has a master and a worker).
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(parent) = pids.get(next).copied() {
        for tid in threads(parent) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{tid}/children"));
            let children = children.unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    pids
}

fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Counts the system calls of processes as they are now (threads started later are not seen).
pub(crate) struct SyscallCounter(Vec<fs::File>);

impl SyscallCounter {
    pub(crate) fn over(pids: &[u32]) -> io::Result<SyscallCounter> {
        let path = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
        let id = fs::read_to_string(path).map_err(|error| {
            let hint = "mount it with `mount -t tracefs tracefs /sys/kernel/tracing`, as root";
            io::Error::new(error.kind(), format!("{path}: {error}; {hint}"))
        })?;
        let counters = pids.iter().flat_map(|pid| threads(*pid)).map(|tid| {
            let counter: OwnedFd = syscall::tracepoint_counter(first_number(&id), tid)?;
            Ok(fs::File::from(counter))
        });
        Ok(SyscallCounter(counters.collect::<io::Result<_>>()?))
    }

    /// System calls since the counter was made.
    pub(crate) fn read(&self) -> io::Result<u64> {
        self.0.iter().try_fold(0, |sum, mut counter| {
            let mut count = [0; 8];
            io::Read::read_exact(&mut counter, &mut count)?;
            Ok(sum + u64::from_ne_bytes(count))
        })
    }
}

/// Proportional set size of processes, in bytes: what they would free by ending.
pub(crate) fn pss_bytes(pids: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        field(&rollup, "Pss:") * 1024
    };
    pids.iter().map(one).sum()
}

/// The kernel's slab on the whole machine, in bytes.
pub(crate) fn slab_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&meminfo, "Slab:") * 1024
}

/// Open descriptors of processes.
pub(crate) fn descriptors(pids: &[u32]) -> u64 {
    let one = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.count());
    pids.iter().map(|pid| one(pid) as u64).sum()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, first_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_at_the_start_of_its_line_only() {
        let status = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t12 x\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 12);
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), 7);
        assert_eq!(field(status, "absent:"), 0);
    }

    #[test]
    fn we_can_be_seen() {
        let me = [std::process::id()];
        assert!(pss_bytes(&me) > 0 && descriptors(&me) >= 3 && slab_bytes() > 0);
        assert!(family(me[0]).contains(&me[0]));
        assert!(threads(me[0]).next().is_some());
    }
}

//! How many workers there are, and on which cores.

use std::fs;
use std::path::Path;

use config::{Pin, Workers};

/// Where the workers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub workers: usize,
    /// The core of each worker, if they are pinned.
    pub cores: Option<Vec<usize>>,
    /// Why they are pinned, or not.
    pub reason: &'static str,
}

/// What the machine lets us use.
#[derive(Debug, Clone, PartialEq)]
pub struct Cpus {
    /// The affinity mask.
    pub mask: Vec<usize>,
    /// CPUs of the host.
    pub host: usize,
    /// CPU time per wall time that the cgroup allows, if it is limited.
    pub quota: Option<f64>,
}

impl Cpus {
    /// Asks the system.
    pub fn detect() -> Cpus {
        let mask: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let host = count_cpus(online.trim()).unwrap_or(mask.len());
        Cpus { mask, host, quota: cgroup_quota() }
    }

    /// Places the workers.
    pub fn place(&self, workers: Workers, pin: Pin) -> Placement {
        let cpus = self.mask.len().max(1);
        let workers = match workers {
            Workers::Count(count) => count.get(),
            // The host's core count is not ours to use.
            Workers::Auto => match self.quota {
                Some(quota) => cpus.min((quota.ceil() as usize).max(1)),
                None => cpus,
            },
        };
        let (pinned, reason) = match pin {
            Pin::Never => (false, "pin: false"),
            // A hundred one-worker sidecars must not all sit on the first core.
            _ if workers < cpus => (false, "fewer workers than CPUs"),
            Pin::Always => (true, "pin: true"),
            Pin::Auto if self.mask.len() < self.host => (true, "the CPU mask is ours"),
            Pin::Auto => (false, "the mask is the whole host"),
        };
        let cores = (pinned && !self.mask.is_empty())
            .then(|| (0..workers).map(|worker| self.mask[worker % self.mask.len()]).collect());
        Placement { workers, cores, reason }
    }
}

/// Counts a list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(count + last.checked_sub(first)? + 1)
    })
}

/// The smallest quota of our cgroup and those above it (version 2, or the CPU controller of 1).
fn cgroup_quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(path.trim_start_matches('/'));
    let versions_2 = own
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| parse_cpu_max(&fs::read_to_string(folder.join("cpu.max")).ok()?));
    let number =
        |file: &str| fs::read_to_string(root.join("cpu").join(file)).ok()?.trim().parse().ok();
    let version_1 = || -> Option<f64> {
        let (quota, period): (f64, f64) =
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    versions_2.min_by(f64::total_cmp).or_else(version_1)
}

/// `max 100000` or `150000 100000`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(mask: usize, host: usize, quota: Option<f64>) -> Cpus {
        Cpus { mask: (0..mask).collect(), host, quota }
    }

    #[test]
    fn auto_is_the_smaller_of_quota_and_mask() {
        for (mask, quota, expected) in
            [(4, None, 4), (4, Some(1.5), 2), (4, Some(0.1), 1), (2, Some(8.0), 2)]
        {
            assert_eq!(cpus(mask, 64, quota).place(Workers::Auto, Pin::Never).workers, expected);
        }
    }

    #[test]
    fn pinned_when_the_mask_is_ours_never_with_cpus_to_spare() {
        let pinned = |cpus: Cpus, pin| cpus.place(Workers::Auto, pin).cores.is_some();
        assert!(pinned(cpus(2, 8, None), Pin::Auto));
        assert!(!pinned(cpus(8, 8, None), Pin::Auto));
        assert!(pinned(cpus(8, 8, None), Pin::Always));
        assert!(!pinned(cpus(8, 8, Some(1.0)), Pin::Always));
    }

    #[test]
    fn lists_and_quotas_are_read() {
        assert_eq!(count_cpus("0-3,8"), Some(5));
        assert_eq!(count_cpus(""), None);
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
    }
}

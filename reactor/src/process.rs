//! What concerns the whole process: its signals and its descriptor limit.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use crate::sys::{self, check};

/// A signal that the process handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT or SIGTERM: finish and end.
    Terminate,
    /// SIGHUP: read the config again.
    Hangup,
    /// SIGUSR1: open logs again.
    User1,
    /// SIGUSR2: upgrade the binary.
    User2,
}

const HANDLED: [(libc::c_int, Signal); 5] = [
    (libc::SIGINT, Signal::Terminate),
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGHUP, Signal::Hangup),
    (libc::SIGUSR1, Signal::User1),
    (libc::SIGUSR2, Signal::User2),
];

/// Takes the process's signals to be waited for, instead of interrupting.
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the handled signals in this thread and those that it starts from now on; so call it
    /// first. A file that has reached the largest size allowed (`ulimit -f`) is an error of the write
    /// from now on, and not the end of the process.
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set; the others read or change it. Ignoring a signal runs
        // no code.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            check(libc::sigemptyset(set.as_mut_ptr()))?;
            for (number, _) in HANDLED {
                check(libc::sigaddset(set.as_mut_ptr(), number))?;
            }
            let set = set.assume_init();
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Signals { set }),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    /// Waits for the next signal.
    pub fn wait(&self) -> Signal {
        loop {
            let mut number = 0;
            // SAFETY: reads the set, writes the number.
            let failed = unsafe { libc::sigwait(&self.set, &mut number) } != 0;
            let known = HANDLED.iter().find(|(handled, _)| *handled == number);
            if let (false, Some((_, signal))) = (failed, known) {
                return *signal;
            }
        }
    }
}

/// Lets the process's memory grow by small pages only. With huge ones a few bytes more are 2 MiB more,
/// whatever the allocator gives back.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: no pointers; changes how later page faults of this process are served.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }).map(drop)
}

/// The number of the option `purge_delay` in mimalloc 3, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long mimalloc keeps memory that was freed, to use it again, before the kernel gets it: usually
/// 10 ms. Even then nothing happens before a thread frees something else. For the time of a start: threads
/// that free something meanwhile may go by the old time or the new one.
pub fn keep_freed_memory(time: Duration) {
    let ms = time.as_millis().try_into().unwrap_or(libc::c_long::MAX);
    // SAFETY: no pointers; a plain integer of its own is stored.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, ms) }
}

/// Gives memory back to the kernel that mimalloc keeps for later: this thread's, and what threads that have
/// ended left. Nobody waits for it.
pub fn give_memory_back() {
    // SAFETY: no pointers; a thread's heap is its own, and what is shared is behind atomics.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Lets every other thread of the process go first: this one, and those that it starts, get a core when
/// nobody else wants it, and some hundredths of it (`sched(7)`, the least nice weight) where somebody
/// always does. The long slice lets whoever wakes up cut in at once (kernel ≥ 6.12).
///
/// # Errors
/// `sched_setattr` is forbidden; nothing has changed.
pub fn stand_back() -> io::Result<()> {
    /// From `linux/sched/types.h`, the first version.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: 19,
        priority: 0,
        runtime_ns: 100_000_000,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: reads the attributes, of which it is told the size; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open descriptors to the hard one; returns what it is then.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills, then reads the limit.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// `CLOCK_MONOTONIC` in nanoseconds, for other processes that compare it with their own reading;
/// std's `Instant` does not tell.
pub fn monotonic_ns() -> u64 {
    sys::clock_nanos(libc::CLOCK_MONOTONIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_we_mean() {
        // SAFETY: no pointers; nobody sets options meanwhile but this test.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(
            [10, 1000].contains(&get()),
            "a time in ms that mimalloc has begun with: {}",
            get()
        );
        keep_freed_memory(Duration::from_millis(7));
        assert_eq!(get(), 7);
        keep_freed_memory(Duration::from_millis(10));
        give_memory_back();
    }
}

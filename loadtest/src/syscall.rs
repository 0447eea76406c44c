//! The few system calls that the standard library has no name for, behind safe functions.
//!
//! All `unsafe` of this crate lives here and in `floor/uring.rs`. Nothing here keeps state; every
//! function is one call and its error.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn checked_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What an [`Epoll`] says about one descriptor.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Event(libc::epoll_event);

impl Event {
    pub(crate) const NONE: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    pub(crate) fn token(&self) -> u64 {
        self.0.u64
    }

    pub(crate) fn writable(&self) -> bool {
        self.0.events & (libc::EPOLLOUT as u32) != 0
    }

    /// Bytes are there, or the end of the stream, or an error that a read will name.
    pub(crate) fn readable(&self) -> bool {
        self.0.events & !(libc::EPOLLOUT as u32) != 0
    }

    /// The peer has shut down its side, or the connection failed: read until it says so.
    pub(crate) fn ended(&self) -> bool {
        self.0.events & ((libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32) != 0
    }
}

/// An epoll instance. Sockets are registered once, edge-triggered, for both directions.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the descriptor that comes back is new and owned by nobody else.
        unsafe { checked(libc::epoll_create1(libc::EPOLL_CLOEXEC)).map(|fd| Epoll(from_raw(fd))) }
    }

    fn control(&self, fd: &impl AsFd, events: c_int, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: `event` outlives the call; the kernel copies it.
        checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Watches a stream. It leaves when its last descriptor is closed.
    pub(crate) fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        let both = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.control(fd, both, token)
    }

    /// Watches a listener, level-triggered: what is left in the backlog is told again.
    pub(crate) fn add_listener(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        self.control(fd, libc::EPOLLIN, token)
    }

    /// Waits for events, at most `timeout_ns` (`None`: for ever), and returns those that came.
    pub(crate) fn wait<'e>(
        &self,
        events: &'e mut [Event],
        timeout_ns: Option<u64>,
    ) -> io::Result<&'e [Event]> {
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `Event` is a transparent `epoll_event`; the kernel writes at most `events.len()`
        // of them; `timeout` is null or points at a timespec that outlives the call.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as c_int,
                timeout,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match checked_size(count as isize) {
            Ok(count) => Ok(&events[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }
}

/// # Safety
/// `fd` is open and belongs to nobody else.
unsafe fn from_raw(fd: c_int) -> OwnedFd {
    // SAFETY: the caller's promise is the one that `from_raw_fd` asks for.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Throws away up to `length` bytes that have arrived, without copying them.
pub(crate) fn discard(socket: &impl AsFd, length: usize) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: with MSG_TRUNC a TCP receive never touches the buffer, so null is allowed.
    checked_size(unsafe { libc::recv(fd, ptr::null_mut(), length, libc::MSG_TRUNC) })
}

/// A pipe's reading and writing end, both non-blocking, resized to `capacity` bytes if allowed.
pub(crate) fn pipe(capacity: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors, which are new and owned by nobody else.
    let (reader, writer) = unsafe {
        checked(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC))?;
        (from_raw(ends[0]), from_raw(ends[1]))
    };
    // SAFETY: no pointers. A refusal (pipe-user-pages-soft) leaves the default size, which works.
    let _ = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, capacity as c_int) };
    Ok((reader, writer))
}

/// Moves up to `length` bytes between a socket and a pipe inside the kernel.
pub(crate) fn splice(from: &impl AsFd, to: &impl AsFd, length: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: the offsets are null, as sockets and pipes want them; no other pointers.
    checked_size(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), length, flags) })
}

/// Binds the calling thread, and what it spawns, to one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET checks its index; the kernel reads
    // exactly the size given.
    checked(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    })
    .map(drop)
}

/// Makes timeouts of this thread as exact as the clock allows (the default slack is 50 µs).
pub(crate) fn exact_timers() -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1usize) }).map(drop)
}

/// Lets thousands of connections arrive at once: std listens with a backlog that drops some, and a
/// dropped SYN is a second of silence for which no contestant is to blame.
pub(crate) fn deepen_backlog(listener: &impl AsFd) -> io::Result<()> {
    // SAFETY: no pointers; listening again only changes the backlog.
    checked(unsafe { libc::listen(listener.as_fd().as_raw_fd(), 4096) }).map(drop)
}

/// Takes the pacing from a loopback socket, as ringside does: without this a floor on a machine with
/// BBR would be none.
pub(crate) fn unpace(socket: &impl AsFd) -> io::Result<()> {
    let name = c"reno"; // always there
    // SAFETY: `name` outlives the call, and its length is right.
    checked(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.count_bytes() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Raises the soft descriptor limit to the hard one and returns it.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    unsafe {
        checked(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        checked(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Sends a signal to one process, by its id.
pub(crate) fn signal(pid: u32, signal: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// Makes a child die with the thread that spawned it (so also after a kill), on its own core.
pub(crate) fn bind_to_us(command: &mut Command, core: Option<usize>) {
    let child = move || {
        // SAFETY: no pointers; prctl is async-signal-safe.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as usize) })?;
        core.map_or(Ok(()), pin)
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(child) };
}

/// Small receive and send buffers, so that a stalled reader is felt at once.
pub(crate) fn shrink_receive_buffer(socket: &impl AsFd, bytes: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that outlives the call.
    checked(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            ptr::from_ref(&bytes).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// `perf_event_attr` as far as its first published version goes, which the kernel still takes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    breakpoint_address: u64,
}

/// Opens a counter of one tracepoint over one thread; reading it gives a `u64`.
pub(crate) fn tracepoint_counter(tracepoint: u64, tid: u32) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: tracepoint,
        ..PerfEventAttr::default()
    };
    let (any_cpu, no_group, close_on_exec) = (-1, -1, 8usize);
    // SAFETY: `attr` says its own size and outlives the call; the descriptor is new and ours.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_perf_event_open,
            &attr,
            tid as libc::pid_t,
            any_cpu,
            no_group,
            close_on_exec,
        );
        checked(fd as c_int).map(|fd| from_raw(fd))
    }
}

//! The system calls that the drivers make directly, each wrapped once.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

/// Anonymous zeroed memory, page-aligned.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    pub(crate) fn new(len: usize) -> io::Result<Region> {
        assert!(len > 0);
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap does not map page zero");
        Ok(Region { base, len })
    }

    /// The address `offset` bytes in.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len);
        // SAFETY: within the mapping.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; whoever holds addresses into it keeps the region.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Turns a system call's result into a `Result`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; the new descriptor is ours.
    unsafe {
        let fd = check(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes the eventfd readable. Cannot fail in a way that matters: a full counter is readable too.
pub(crate) fn eventfd_signal(event: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: writes the eight bytes of `one`.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Makes the eventfd unreadable again.
pub(crate) fn eventfd_drain(event: RawFd) {
    let mut count = [0u8; 8];
    // SAFETY: reads at most eight bytes into `count`.
    unsafe { libc::read(event, count.as_mut_ptr().cast(), count.len()) };
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the descriptor and forgets it.
    unsafe { libc::close(fd) };
}

/// Ends one or both directions; an error means that the peer was faster.
pub(crate) fn shutdown(fd: RawFd, how: Shutdown) {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no memory is involved.
    unsafe { libc::shutdown(fd, how) };
}

/// Nanoseconds of `clock`.
pub(crate) fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A pipe for splicing, non-blocking: its read end and its write end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: fills the two descriptors, which are then ours.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Asks for a pipe of `bytes`; what it got is what `fcntl` answers.
pub(crate) fn pipe_resize(pipe: RawFd, bytes: usize) -> io::Result<usize> {
    // SAFETY: no memory is involved.
    let got = unsafe { libc::fcntl(pipe, libc::F_SETPIPE_SZ, bytes as libc::c_int) };
    check(got).map(|bytes| bytes as usize)
}

/// Moves up to `len` bytes without copying them through user space.
pub(crate) fn splice(from: RawFd, to: RawFd, len: usize, more: bool) -> io::Result<usize> {
    let more = if more { libc::SPLICE_F_MORE } else { 0 };
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | more;
    // SAFETY: no offsets are passed, so no memory is involved.
    check_len(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), len, flags) })
}

/// Receives into memory that the caller vouches for.
///
/// # Safety
/// `into..into+len` is writable and not borrowed.
pub(crate) unsafe fn recv(fd: RawFd, into: NonNull<u8>, len: usize) -> io::Result<usize> {
    // SAFETY: as the caller promises.
    check_len(unsafe { libc::recv(fd, into.as_ptr().cast(), len, libc::MSG_DONTWAIT) })
}

/// What a look into a socket's receive queue shows, without taking anything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Empty,
    Something,
    /// The error of a reset, which the kernel tells only once.
    Failed(i32),
}

/// Looks for data, end of stream or an error that has not been received yet.
pub(crate) fn peek(fd: RawFd) -> Peek {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: reads at most one byte into `byte`.
    let got = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    if got >= 0 {
        return Peek::Something;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Peek::Empty,
        errno => Peek::Failed(errno.unwrap_or(libc::EIO)),
    }
}

/// Sends what the socket takes at once.
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: reads at most `bytes.len()` bytes of the slice.
    check_len(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Sends gathered memory.
///
/// # Safety
/// `message` names readable memory.
pub(crate) unsafe fn sendmsg(fd: RawFd, message: &libc::msghdr) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: as the caller promises.
    check_len(unsafe { libc::sendmsg(fd, message, flags) })
}

pub(crate) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; the new descriptor is ours.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)) }
}

/// Watches `fd`, telling `data` with its events.
pub(crate) fn epoll_add(epoll: &OwnedFd, fd: RawFd, events: i32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: data };
    // SAFETY: reads the event.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
    check(result).map(drop)
}

/// Watches `fd` no longer.
pub(crate) fn epoll_remove(epoll: &OwnedFd, fd: RawFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, ptr::null_mut()) };
}

/// Waits for up to `timeout_ms` (-1: without end) and returns how many events came.
pub(crate) fn epoll_wait(
    epoll: &OwnedFd,
    events: &mut [libc::epoll_event],
    timeout_ms: i32,
) -> io::Result<usize> {
    // SAFETY: writes at most `events.len()` events.
    let got = unsafe {
        let room = events.len() as libc::c_int;
        libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms)
    };
    check(got).map(|got| got as usize)
}

/// Accepts one connection, non-blocking and closed on exec.
pub(crate) fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no address is asked for; the new descriptor is ours.
    unsafe {
        let fd = libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), flags);
        Ok(OwnedFd::from_raw_fd(check(fd)?))
    }
}

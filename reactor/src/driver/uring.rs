//! The io_uring driver (kernel ≥ 6.1).
//!
//! Multishot accept; multishot receive from provided-buffer rings, of bundles: what has arrived fills
//! as many buffers as it needs in one go. Capped, so that a receive ends when its socket's allowance is
//! used up (`IORING_OP_RECV` with `optlen`, kernel ≥ 6.16; on older kernels each
//! receive brings one buffer). One send in flight per socket. `shutdown` and `splice` are called
//! directly, because their opcodes are handed to kernel threads. Deferred task work: the kernel does
//! ours only inside `io_uring_enter`.

use std::io;
use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use slotmap::{Key as _, KeyData};
use smallvec::SmallVec;
use std::collections::VecDeque;

use crate::buffer::Group;
use crate::driver::{BufferOptions, DriverStats, Groups, Table, Wait};
use crate::listener::{Accepted, Descriptor, ListenerKey};
use crate::remote::Remote;
use crate::socket::{AfterRecv, AfterSend, Interest, Received, Segments, Side, SocketKey};
use crate::sys::{self, Region};

/// Small on purpose: rings count against the user's locked memory across all processes.
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 2048;
/// Completions that are looked at together.
const REAP: usize = 16;

/// From `linux/io_uring.h`; for multishot receives the crate has no setters for these.
const RECVSEND_POLL_FIRST: u16 = 1 << 0;
const SQE_IOPRIO_AT: usize = 2;
const SQE_LEN_AT: usize = 24;
const SQE_OPTLEN_AT: usize = 44;

/// See the module's text.
pub(crate) struct Uring {
    ring: IoUring,
    pub(crate) groups: Groups,
    published: [Published; Side::ALL.len()],
    event_fd: RawFd,
    event_armed: bool,
    features: Features,
    /// Sends since the last turn that do not wait for room: they are complete once submitted.
    prompt: Vec<SocketKey>,
    pub(crate) stats: DriverStats,
    /// What the kernel is made to say, call by call, without doing anything.
    #[cfg(test)]
    refusals: VecDeque<i32>,
}

#[derive(Debug, Clone, Copy)]
struct Features {
    /// A multishot receive brings bundles, and ends by itself when it has brought a number of bytes.
    capped_recv: bool,
    no_iowait: bool,
}

/// What an operation was for: the tag of its user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Recv = 1,
    Send,
    Connect,
    PollRead,
    PollWrite,
    Accept,
    Event,
    PollError,
    /// A cancel; the target's own completion tells what became of it.
    Cancel,
}

const TAG_SHIFT: u32 = 28;
const INDEX_MASK: u64 = (1 << TAG_SHIFT) - 1;

/// Generation in the upper half, then 4 bits of tag, then 28 of slot.
fn pack(op: Op, key: KeyData) -> u64 {
    let ffi = key.as_ffi();
    debug_assert!(ffi & 0xffff_ffff <= INDEX_MASK, "a worker has fewer than 2^28 sockets");
    ffi | (op as u64) << TAG_SHIFT
}

fn unpack(user_data: u64) -> (Op, KeyData) {
    let op = match user_data >> TAG_SHIFT & 0xf {
        1 => Op::Recv,
        2 => Op::Send,
        3 => Op::Connect,
        4 => Op::PollRead,
        5 => Op::PollWrite,
        6 => Op::Accept,
        7 => Op::Event,
        8 => Op::PollError,
        _ => Op::Cancel,
    };
    (op, KeyData::from_ffi(user_data & !(0xf << TAG_SHIFT)))
}

impl Uring {
    /// Sets up a ring on this thread and tries the features that the driver stands on.
    pub(crate) fn new(buffers: BufferOptions, remote: &Remote) -> io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let features =
            Features { capped_recv: false, no_iowait: ring.params().is_feature_no_iowait() };
        let groups = buffers.groups()?;
        let published = [
            Published::register(&ring, Side::Downstream, &groups[Side::Downstream as usize])?,
            Published::register(&ring, Side::Upstream, &groups[Side::Upstream as usize])?,
        ];
        let mut uring = Uring {
            ring,
            groups,
            published,
            event_fd: remote.event_fd(),
            event_armed: false,
            features,
            prompt: Vec::new(),
            stats: DriverStats::default(),
            #[cfg(test)]
            refusals: VecDeque::new(),
        };
        uring.self_test()?;
        Ok(uring)
    }

    pub(crate) fn recv(&mut self, table: &mut Table, key: SocketKey) {
        let capped = self.features.capped_recv;
        let Some(socket) = table.sockets.get(key) else { return };
        (socket.recv.armed, socket.recv.drained) = (true, false);
        let cap = self.groups[socket.side as usize].cap(socket.recv_allowance());
        let (fd, group) = (Fd(socket.fd), socket.side as u16);
        // POLL_FIRST: we arm when we expect nothing yet, and an attempt on an empty buffer ring
        // would end with ENOBUFS even if there is nothing to receive.
        let entry = if capped {
            let entry = opcode::RecvMultiBundle::new(fd, group).build();
            let entry = with_ioprio(entry, RECVSEND_POLL_FIRST);
            // One go maps as many buffers as it may fill, needed or not, and ends the receive where
            // it maps the last published one: two are enough for a head, and more is a next go.
            let go = 2 * self.groups[socket.side as usize].buffer_size() as u32;
            let entry = with_u32(entry, SQE_LEN_AT, go);
            with_u32(entry, SQE_OPTLEN_AT, cap)
        } else {
            let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(group).build();
            with_ioprio(entry.flags(squeue::Flags::BUFFER_SELECT), RECVSEND_POLL_FIRST)
        };
        self.submit(entry.user_data(pack(Op::Recv, key.data())));
    }

    pub(crate) fn cancel_recv(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        if socket.recv.armed && !std::mem::replace(&mut socket.recv.cancelling, true) {
            self.cancel(Op::Recv, key.data());
        }
    }

    /// Sends what the socket has room for. This completes at once, so that a turn can wait for what
    /// comes after it: one system call where there were two. What is long may find room for a part
    /// only, and then the turn is to go on with the rest.
    pub(crate) fn send(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        if socket.send.op.as_ref().is_some_and(|op| op.is_short()) {
            self.prompt.push(key);
        }
        self.send_with(table, key, libc::MSG_DONTWAIT);
    }

    fn send_with(&mut self, table: &mut Table, key: SocketKey, flags: i32) {
        let Some(socket) = table.sockets.get(key) else { return };
        let fd = Fd(socket.fd);
        let Some(op) = socket.send.op.as_mut() else { return };
        // Without MSG_WAITALL: with it the kernel goes on by itself after a short send, and when it
        // then meets a reset it tells the bytes and forgets the reset, which a receive then takes
        // for an orderly end.
        let flags = flags | libc::MSG_NOSIGNAL;
        let entry = match op.rest() {
            Segments::One(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                opcode::Send::new(fd, bytes.as_ptr(), len).flags(flags).build()
            }
            Segments::Many(message) => {
                opcode::SendMsg::new(fd, message).flags(flags as u32).build()
            }
        };
        self.submit(entry.user_data(pack(Op::Send, key.data())));
    }

    pub(crate) fn connect(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let Some(connect) = socket.connect.as_mut() else { return };
        connect.armed = true;
        let address = &connect.address;
        let entry = opcode::Connect::new(Fd(socket.fd), address.as_ptr().cast(), address.len());
        self.submit(entry.build().user_data(pack(Op::Connect, key.data())));
    }

    pub(crate) fn poll(&mut self, table: &mut Table, key: SocketKey, interest: Interest) {
        let Some(socket) = table.sockets.get(key) else { return };
        socket.poll_state(interest).armed = true;
        let (op, events) = match interest {
            Interest::Read => (Op::PollRead, libc::POLLIN | libc::POLLRDHUP),
            Interest::Write => (Op::PollWrite, libc::POLLOUT),
            // The kernel adds what it always tells of: errors, hang-ups, and the peer's end.
            Interest::Error => (Op::PollError, libc::POLLERR),
        };
        let entry = opcode::PollAdd::new(Fd(socket.fd), events as u32).build();
        self.submit(entry.user_data(pack(op, key.data())));
    }

    pub(crate) fn abandon(&mut self, table: &mut Table, key: SocketKey) {
        let Some(socket) = table.sockets.get(key) else { return };
        let polls = socket.poll.as_ref().map_or_else(Default::default, |polls| {
            Interest::ALL.map(|interest| polls[interest as usize].armed)
        });
        let with_driver = [
            (Op::Recv, socket.recv.armed && !socket.recv.cancelling),
            (Op::Send, socket.send.op.is_some()),
            (Op::Connect, socket.connect.as_ref().is_some_and(|connect| connect.armed)),
            (Op::PollRead, polls[0]),
            (Op::PollWrite, polls[1]),
            (Op::PollError, polls[2]),
        ];
        // `shutdown` wakes what waits on a connected socket; the cancels are for the rest. A close
        // alone would send no FIN while a receive is armed.
        if !socket.aborted {
            sys::shutdown(socket.fd, Shutdown::Both);
        }
        for (op, _) in with_driver.into_iter().filter(|(_, armed)| *armed) {
            self.cancel(op, key.data());
        }
    }

    pub(crate) fn accept(&mut self, table: &mut Table, key: ListenerKey) {
        let Some(accepting) = table.listeners.get(key) else { return };
        accepting.armed = true;
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(accepting.fd)).flags(flags).build();
        self.submit(entry.user_data(pack(Op::Accept, key.data())));
    }

    pub(crate) fn cancel_accept(&mut self, _table: &mut Table, key: ListenerKey) {
        self.cancel(Op::Accept, key.data());
    }

    pub(crate) fn shutdown(&mut self, fd: RawFd, how: Shutdown) {
        sys::shutdown(fd, how);
    }

    pub(crate) fn close(&mut self, fd: RawFd) {
        sys::close(fd);
    }

    pub(crate) fn turn(&mut self, table: &mut Table, remote: &Remote, wait: Wait) {
        self.publish();
        self.rearm_starved(table);
        if !self.event_armed {
            self.event_armed = true;
            let poll = opcode::PollAdd::new(Fd(self.event_fd), libc::POLLIN as u32).multi(true);
            self.submit(poll.build().user_data(pack(Op::Event, KeyData::from_ffi(1 << 32))));
        }
        let now = || crate::time::Instant::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC));
        let patience = match wait {
            Wait::Until(deadline) if remote.prepare_to_sleep() => deadline.since(now()),
            _ => Duration::ZERO,
        };
        let unwatched = self.prompt.iter().all(|key| table.sockets.nobody_waits_for_sent(*key));
        let prompt = if unwatched { self.prompt.len() } else { 0 };
        self.prompt.clear();
        self.enter(patience, prompt);
        remote.awake();
        self.reap(table);
    }

    /// Hands submissions over and waits up to `patience` for a completion besides the `prompt` ones,
    /// which are there at once and wake nobody.
    fn enter(&mut self, patience: Duration, prompt: usize) {
        // An hour: a wait without any deadline still carries one, which costs nothing.
        let patience = patience.min(Duration::from_secs(3600));
        let time = Timespec::from(patience);
        let args = SubmitArgs::new().timespec(&time);
        let want = usize::from(!patience.is_zero()) * (1 + prompt);
        let mut flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        if self.features.no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let submissions = self.ring.submission().len();
        self.stats.enters += 1;
        // SAFETY: `args` names `time`, which outlives the call; every queued submission's memory
        // lives until its completion (see `crate::socket`).
        let enter = || unsafe {
            let submitter = self.ring.submitter();
            submitter.enter(submissions as u32, want as u32, flags.bits(), Some(&args))
        };
        #[cfg(test)]
        let entered = match self.refusals.pop_front() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => enter(),
        };
        #[cfg(not(test))]
        let entered = enter();
        if let Err(error) = entered {
            // All normal: a signal, the wait's end, a full completion queue, no memory for now.
            // What was not submitted stays in the queue for the next turn.
            let normal = [libc::EINTR, libc::ETIME, libc::EBUSY, libc::EAGAIN];
            let errno = error.raw_os_error().unwrap_or(0);
            assert!(normal.contains(&errno), "io_uring_enter failed: {error}");
        }
    }

    fn submit(&mut self, entry: squeue::Entry) {
        self.stats.submissions += 1;
        loop {
            // SAFETY: the memory that the entry names is owned by the socket table and is not freed
            // before the completion is reaped; `Drop` waits for what is left.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
            self.stats.enters += 1;
            // Full: hand over what there is. EBUSY and the like leave room for a next attempt.
            let _ = self.ring.submit();
        }
    }

    fn cancel(&mut self, op: Op, key: KeyData) {
        let entry = opcode::AsyncCancel::new(pack(op, key))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(pack(Op::Cancel, key));
        self.submit(entry);
    }

    /// Reports all completions that have come.
    fn reap(&mut self, table: &mut Table) {
        loop {
            // A handful at a time: with thousands of connections their sockets are not in the
            // cache, and looking at all of them first lets the misses overlap.
            let batch: SmallVec<[cqueue::Entry; REAP]> =
                self.ring.completion().take(REAP).collect();
            if batch.is_empty() {
                return;
            }
            table.sockets.warm(batch.iter().map(|entry| unpack(entry.user_data()).1.into()));
            self.stats.completions += batch.len() as u64;
            for completion in &batch {
                self.complete(table, completion);
            }
        }
    }

    fn complete(&mut self, table: &mut Table, completion: &cqueue::Entry) {
        let (op, key) = unpack(completion.user_data());
        let result = completion.result();
        let more = cqueue::more(completion.flags());
        let outcome = if result < 0 { Err(-result) } else { Ok(result as usize) };
        let socket = SocketKey::from(key);
        match op {
            Op::Recv => self.received(table, socket, outcome, completion.flags(), more),
            Op::Send => {
                let outcome = if outcome == Err(libc::EAGAIN) { Ok(0) } else { outcome };
                if table.sockets.sent(socket, outcome) == AfterSend::Continue {
                    // The socket is full: this one completes when there is room.
                    self.send_with(table, socket, 0);
                }
            }
            Op::Connect => table.sockets.connected(socket, outcome.map(drop)),
            Op::PollRead => table.sockets.ready(socket, Interest::Read),
            Op::PollWrite => table.sockets.ready(socket, Interest::Write),
            Op::PollError => table.sockets.ready(socket, Interest::Error),
            Op::Accept => {
                let accepted = outcome.map(|fd| {
                    // SAFETY: the kernel made this descriptor for us.
                    Accepted(Descriptor::Os(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
                });
                table.listeners.accepted(ListenerKey::from(key), accepted, more);
            }
            Op::Event => {
                sys::eventfd_drain(self.event_fd);
                self.event_armed = more;
            }
            Op::Cancel => {}
        }
        if !more && let Some(fd) = table.sockets.reap(socket_of(op, socket)) {
            sys::close(fd);
        }
    }

    fn received(
        &mut self,
        table: &mut Table,
        key: SocketKey,
        outcome: Result<usize, i32>,
        flags: u32,
        more: bool,
    ) {
        // A completion carries its buffers' group only by its socket, and a stale one has no socket:
        // the buffer id says it, as the groups' ids do not overlap.
        let first = cqueue::buffer_select(flags).map(|id| Published::split_id(id, &self.groups));
        let what = match (outcome, first) {
            (Ok(len @ 1..), Some((side, id))) => {
                if let Some(socket) = table.sockets.get(key) {
                    socket.recv.drained = more && !cqueue::sock_nonempty(flags);
                }
                return self.received_bundle(table, key, (side, id, len), more);
            }
            (outcome, first) => {
                if let Some((side, id)) = first {
                    self.published[side].with_kernel -= 1;
                    self.groups[side].put_back(id);
                }
                match outcome {
                    Ok(_) => Received::Eof,
                    Err(libc::ENOBUFS) => Received::NoBuffer,
                    Err(libc::ECANCELED) => Received::Nothing,
                    Err(errno) => Received::Failed(errno),
                }
            }
        };
        if let Received::NoBuffer = what
            && let Some(socket) = table.sockets.get(key)
        {
            self.stats.starved += 1;
            let published = &mut self.published[socket.side as usize];
            published.starved.push_back(key);
            published.target = published.entries;
        }
        if table.sockets.received(key, what, more) == AfterRecv::Rearm {
            self.recv(table, key);
        }
    }

    /// `len` bytes came, in buffer `id` and those published after it: all full but the last.
    fn received_bundle(
        &mut self,
        table: &mut Table,
        key: SocketKey,
        (side, mut id, mut len): (usize, u16, usize),
        more: bool,
    ) {
        let (published, group) = (&mut self.published[side], &self.groups[side]);
        loop {
            let here = len.min(group.buffer_size());
            len -= here;
            published.with_kernel -= 1;
            let what = Received::Data(group.fill(id, here));
            let after = table.sockets.received(key, what, more || len > 0);
            if len == 0 {
                if after == AfterRecv::Rearm {
                    self.recv(table, key);
                }
                return;
            }
            id = published.after(id);
        }
    }

    /// Gives free buffers to the kernel, up to what each group publishes.
    fn publish(&mut self) {
        for (published, group) in self.published.iter_mut().zip(&self.groups) {
            published.top_up(group);
        }
    }

    /// Arms again, in the order in which they starved, as many sockets as there are buffers.
    fn rearm_starved(&mut self, table: &mut Table) {
        for side in 0..self.published.len() {
            let mut buffers = usize::from(self.published[side].with_kernel);
            while buffers > 0 {
                let Some(key) = self.published[side].starved.pop_front() else { break };
                let Some(socket) = table.sockets.get(key) else { continue };
                socket.recv.starved = false;
                if socket.wants_recv() {
                    self.recv(table, key);
                    buffers -= 1;
                }
            }
        }
    }

    /// Tries on a socket pair what the driver needs; learns whether receives can be capped.
    fn self_test(&mut self) -> io::Result<()> {
        use std::io::Write;
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let mut table = Table::default();
        let fd = std::os::fd::IntoRawFd::into_raw_fd(theirs);
        self.features.capped_recv = true;
        // A cap of a little more than one buffer must end the receive in the second of three.
        let size = self.groups[Side::Downstream as usize].buffer_size();
        let key = table.sockets.insert(fd, Side::Downstream, size as u32 + 1);
        ours.write_all(&vec![7; 3 * size])?;
        self.publish();
        self.recv(&mut table, key);
        let mut got = Vec::new();
        for _ in 0..100 {
            self.enter(Duration::from_millis(10), 0);
            self.reap(&mut table);
            let socket = table.sockets.get(key).expect("not removed");
            while let Some(buf) = socket.take_arrived() {
                got.extend_from_slice(&buf);
            }
            if !socket.recv.armed {
                break;
            }
        }
        let socket = table.sockets.get(key).expect("not removed");
        let refused = matches!(socket.recv_end(), Some(Err(_)));
        socket.closing = true;
        let finished = !socket.recv.armed;
        self.abandon(&mut table, key);
        for _ in 0..100 {
            if let Some(fd) = table.sockets.reap(key) {
                sys::close(fd);
                break;
            }
            self.enter(Duration::from_millis(10), 0);
            self.reap(&mut table);
            if table.sockets.get(key).is_none() {
                break;
            }
        }
        self.features.capped_recv = finished && got.len() > size && got.len() <= 2 * size;
        self.stats = DriverStats::default();
        let understood = refused || (got.len() > size && got.iter().all(|byte| *byte == 7));
        if understood { Ok(()) } else { Err(io::Error::other("the self-test received nothing")) }
    }
}

/// The socket whose slot a completion may free: none for those that are not of a socket.
fn socket_of(op: Op, key: SocketKey) -> SocketKey {
    match op {
        Op::Recv | Op::Send | Op::Connect | Op::PollRead | Op::PollWrite | Op::PollError => key,
        Op::Accept | Op::Event | Op::Cancel => SocketKey::null(),
    }
}

fn with_ioprio(entry: squeue::Entry, bits: u16) -> squeue::Entry {
    patch(entry, |bytes| {
        let at = SQE_IOPRIO_AT;
        let old = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&(old | bits).to_ne_bytes());
    })
}

fn with_u32(entry: squeue::Entry, at: usize, value: u32) -> squeue::Entry {
    patch(entry, |bytes| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes()))
}

fn patch(mut entry: squeue::Entry, change: impl FnOnce(&mut [u8; 64])) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is the kernel's 64-byte `io_uring_sqe`, plain data of which any bytes are
    // valid; the borrow ends before the entry is used.
    change(unsafe { &mut *(&raw mut entry).cast::<[u8; 64]>() });
    entry
}

/// The buffers of one group that the kernel has.
struct Published {
    ring: Region,
    entries: u16,
    tail: u16,
    with_kernel: u16,
    /// How many the kernel is to have; grows when it ran out.
    target: u16,
    /// Buffer ids of this group begin here.
    first_id: u16,
    /// By buffer: its place in the ring.
    places: Box<[u16]>,
    /// Sockets that found no buffer, in order.
    starved: VecDeque<SocketKey>,
}

impl Published {
    fn register(ring: &IoUring, side: Side, group: &Rc<Group>) -> io::Result<Published> {
        let entries = group.count() as u16;
        assert!(entries.is_power_of_two() && entries <= 1 << 15);
        let memory = Region::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        // SAFETY: the region is page-aligned, large enough, and is unmapped after the ring is
        // closed (field order of `Uring`).
        unsafe {
            let address = memory.at(0).as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, entries, side as u16, 0)?;
        }
        Ok(Published {
            ring: memory,
            entries,
            tail: 0,
            with_kernel: 0,
            target: (entries / 4).max(4).min(entries),
            first_id: side as u16 * entries,
            places: vec![0; usize::from(entries)].into(),
            starved: VecDeque::new(),
        })
    }

    /// Which group, and which of its buffers, a completion's buffer id names.
    fn split_id(id: u16, groups: &Groups) -> (usize, u16) {
        let entries = groups[0].count() as u16;
        (usize::from(id / entries), id % entries)
    }

    fn top_up(&mut self, group: &Rc<Group>) {
        let before = self.tail;
        while self.with_kernel < self.target {
            let Some(id) = group.take() else { break };
            self.places[usize::from(id)] = self.tail;
            self.write(self.tail, group.address(id), group.buffer_size(), self.first_id + id);
            self.tail = self.tail.wrapping_add(1);
            self.with_kernel += 1;
        }
        if self.tail != before {
            self.commit();
        }
    }

    fn write(&mut self, place: u16, address: NonNull<u8>, len: usize, id: u16) {
        // SAFETY: the kernel does not read this entry before the tail passes it, and nobody else
        // holds a reference to it. The setters leave the last two bytes alone, which in entry 0 are
        // the tail.
        let entry = unsafe { &mut *self.entry(place).as_ptr() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(len as u32);
        entry.set_bid(id);
    }

    /// The buffer that was published after buffer `id`.
    fn after(&self, id: u16) -> u16 {
        let next = self.places[usize::from(id)].wrapping_add(1);
        // SAFETY: an entry that we wrote, and write again only after its buffer came back; the kernel
        // only reads it.
        unsafe { self.entry(next).as_ref() }.bid() - self.first_id
    }

    fn entry(&self, place: u16) -> NonNull<BufRingEntry> {
        let index = usize::from(place & (self.entries - 1));
        self.ring.at(index * size_of::<BufRingEntry>()).cast()
    }

    fn commit(&self) {
        let base = self.ring.at(0).cast::<BufRingEntry>();
        // SAFETY: the tail is a u16 inside entry 0, shared with the kernel, written only here.
        let tail = unsafe { &*BufRingEntry::tail(base.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Uring {
    /// Ends everything that is still with the kernel, so that no memory is written after it is
    /// freed.
    pub(crate) fn quiesce(&mut self, table: &mut Table) {
        let any = CancelBuilder::any();
        let _ = self.ring.submitter().register_sync_cancel(None, any);
        for key in table.sockets.keys() {
            if let Some(socket) = table.sockets.get(key) {
                socket.begin_close();
            }
        }
        for _ in 0..100 {
            for key in table.sockets.keys() {
                if let Some(fd) = table.sockets.reap(key) {
                    sys::close(fd);
                }
            }
            if table.sockets.len() == 0 {
                return;
            }
            self.enter(Duration::from_millis(10), 0);
            self.reap(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Whatever the kernel refuses for now is in the queue still, and is done once, in its order.
    #[test]
    fn what_an_enter_refuses_is_done_by_a_later_one() {
        let remote = Remote::register().unwrap();
        let mut uring = Uring::new(BufferOptions { count: 8, size: 64 }, &remote).unwrap();
        let mut table = Table::default();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let key = table.sockets.insert(theirs.into_raw_fd(), Side::Downstream, 1 << 20);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for round in 0..100u8 {
            let message = [round; 50];
            let refusals = [libc::EBUSY, libc::EAGAIN, libc::EINTR, libc::ETIME];
            uring.refusals = refusals.into_iter().cycle().take(usize::from(round % 7)).collect();
            if !table.sockets.get(key).unwrap().recv.armed {
                uring.recv(&mut table, key);
            }
            ours.write_all(&message).unwrap();
            sent.extend(message);
            for _ in 0..100 {
                uring.turn(&mut table, &remote, Wait::Until(in_a_moment()));
                let socket = table.sockets.get(key).unwrap();
                while let Some(buf) = socket.take_arrived() {
                    got.extend_from_slice(&buf);
                }
                if got.len() == sent.len() {
                    break;
                }
            }
            assert_eq!(got.len(), sent.len(), "round {round}");
            assert!(uring.refusals.is_empty());
        }
        assert_eq!(got, sent);
        table.sockets.get(key).unwrap().begin_close();
        uring.refusals = [libc::EBUSY; 3].into();
        uring.quiesce(&mut table);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "it is closed");
        remote.unregister();
    }

    fn in_a_moment() -> crate::time::Instant {
        let now = sys::clock_nanos(libc::CLOCK_MONOTONIC);
        crate::time::Instant::from_nanos(now + 100_000_000)
    }

    /// Where it is missing, every receive costs a submission: worth knowing, not worth failing for
    /// on an older kernel.
    #[test]
    fn receives_are_capped_where_the_kernel_can() {
        let remote = Remote::register().unwrap();
        let uring = Uring::new(BufferOptions { count: 8, size: 64 }, &remote).unwrap();
        remote.unregister();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(uring.features.capped_recv, version >= (6, 16), "kernel {release}");
    }
}

//! The floor for requests: every receive is a multishot one that was armed once, every message is
//! sent on from the buffer it arrived in, and one `io_uring_enter` serves many of them.
//!
//! # How memory stays sound
//! Buffers live in one allocation that is never freed. A buffer belongs to the kernel while its
//! id is in the ring, and to us from the receive that names it until the send from it has
//! completed; only then its id goes back. A connection's descriptors are closed when neither a
//! receive nor a send is outstanding on them.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, SubmitArgs};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::syscall;

const BUFFERS: u16 = 128;
const BUFFER_SIZE: usize = 2048;
const GROUP: u16 = 0;
const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// When busy: wait for so many completions, but no longer than this for the first.
const BATCH: usize = 8;
const BATCH_WAIT_US: u32 = 20;
/// A turn with at least so many completions calls the next one busy.
const BUSY: usize = 4;

/// What a completion belongs to: the kind in the upper half, the side's number in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Accept,
    Receive(u32),
    Send(u32),
}

impl Of {
    fn pack(self) -> u64 {
        match self {
            Of::Accept => 0,
            Of::Receive(side) => 1 << 32 | u64::from(side),
            Of::Send(side) => 2 << 32 | u64::from(side),
        }
    }

    fn unpack(data: u64) -> Of {
        match data >> 32 {
            0 => Of::Accept,
            1 => Of::Receive(data as u32),
            _ => Of::Send(data as u32),
        }
    }
}

/// Bytes in a buffer that go out on the other side.
#[derive(Debug, Clone, Copy)]
struct Message {
    buffer: u16,
    from: u32,
    to: u32,
}

/// One socket of a pair; the other one's number differs in the lowest bit.
struct Side {
    stream: TcpStream,
    /// To be sent on this socket, the first of them in flight.
    out: VecDeque<Message>,
    receiving: bool,
    /// Nothing more comes from this socket.
    ended: bool,
    shut: bool,
}

/// The ring of free buffers, shared with the kernel.
struct Buffers {
    ring: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
    /// Buffers that hold something we have not sent on yet.
    ours: u16,
}

impl Buffers {
    fn register(uring: &IoUring) -> io::Result<Buffers> {
        let allocate = |size: usize| {
            let layout = Layout::from_size_align(size, 4096).expect("a small power of two");
            // SAFETY: the layout's size is not zero.
            let memory = unsafe { alloc_zeroed(layout) };
            if memory.is_null() { handle_alloc_error(layout) } else { memory }
        };
        let ring = allocate(usize::from(BUFFERS) * size_of::<BufRingEntry>());
        let memory = allocate(usize::from(BUFFERS) * BUFFER_SIZE);
        // SAFETY: `ring` is page-aligned, large enough for BUFFERS entries, and never freed.
        unsafe { uring.submitter().register_buf_ring_with_flags(ring as u64, BUFFERS, GROUP, 0)? };
        let mut buffers = Buffers { ring: ring.cast(), memory, tail: 0, ours: BUFFERS };
        (0..BUFFERS).for_each(|id| buffers.give_back(id));
        buffers.publish();
        Ok(buffers)
    }

    fn at(&self, id: u16) -> *mut u8 {
        debug_assert!(id < BUFFERS);
        // SAFETY: the id is below BUFFERS, so the result stays inside the allocation.
        unsafe { self.memory.add(usize::from(id) * BUFFER_SIZE) }
    }

    /// The buffer is the kernel's again once it is published.
    fn give_back(&mut self, id: u16) {
        let address = self.at(id) as u64;
        // SAFETY: the index is below BUFFERS; the kernel reads entries below the published tail
        // only, and this one lies beyond it.
        let entry = unsafe { &mut *self.ring.add(usize::from(self.tail % BUFFERS)) };
        entry.set_addr(address);
        entry.set_len(BUFFER_SIZE as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.ours -= 1;
    }

    fn publish(&self) {
        // SAFETY: the tail is an aligned u16 inside the ring, which is never freed, and both
        // sides access it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.ring).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

struct Relay {
    uring: IoUring,
    buffers: Buffers,
    to: SocketAddr,
    sides: Vec<Option<Side>>,
    free: Vec<u32>,
    /// Ended for want of a buffer; armed again when one is back.
    starved: Vec<u32>,
}

pub(crate) fn serve(listener: &TcpListener, to: SocketAddr) -> io::Result<ExitCode> {
    let uring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let buffers = Buffers::register(&uring)?;
    let mut relay =
        Relay { uring, buffers, to, sides: Vec::new(), free: Vec::new(), starved: Vec::new() };
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build();
    relay.submit(accept, Of::Accept)?;
    let mut completions: Vec<(u64, i32, u32)> = Vec::with_capacity(COMPLETIONS as usize);
    let mut busy = false;
    loop {
        relay.wait(busy)?;
        completions
            .extend(relay.uring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
        busy = completions.len() >= BUSY;
        for (data, result, flags) in completions.drain(..) {
            match Of::unpack(data) {
                Of::Accept => relay.on_accept(result)?,
                Of::Receive(side) => relay.on_receive(side, result, flags)?,
                Of::Send(side) => relay.on_send(side, result)?,
            }
        }
        relay.buffers.publish();
        // Armed on an empty ring a receive would end at once, so not before one is free.
        if relay.buffers.ours < BUFFERS && !relay.starved.is_empty() {
            for side in std::mem::take(&mut relay.starved) {
                relay.arm(side)?;
            }
        }
    }
}

impl Relay {
    fn wait(&mut self, busy: bool) -> io::Result<()> {
        let entered = if busy {
            let patience = SubmitArgs::new().min_wait_usec(BATCH_WAIT_US);
            self.uring.submitter().submit_with_args(BATCH, &patience)
        } else {
            self.uring.submit_and_wait(1)
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn submit(&mut self, entry: squeue::Entry, of: Of) -> io::Result<()> {
        let entry = entry.user_data(of.pack());
        if self.uring.submission().is_full() {
            self.uring.submit()?;
        }
        // SAFETY: sends point into the buffers, which are never freed, and their id is not given
        // back before the completion; other entries hold no pointers. Descriptors stay open while
        // anything is outstanding on them.
        unsafe { self.uring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the submission queue stayed full"))
    }

    fn on_accept(&mut self, result: i32) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        // SAFETY: a successful accept returns a new descriptor that nobody else owns.
        let downstream = unsafe { TcpStream::from_raw_fd(result) };
        let upstream = TcpStream::connect(self.to)?;
        syscall::unpace(&upstream)?;
        let first = self.free.pop().unwrap_or_else(|| {
            self.sides.extend([None, None]);
            self.sides.len() as u32 - 2
        });
        for (side, stream) in [(first, downstream), (first + 1, upstream)] {
            stream.set_nodelay(true)?;
            let (receiving, ended, shut) = (false, false, false);
            let out = VecDeque::new();
            self.sides[side as usize] = Some(Side { stream, out, receiving, ended, shut });
            self.arm(side)?;
        }
        Ok(())
    }

    fn side(&mut self, side: u32) -> &mut Side {
        self.sides[side as usize].as_mut().expect("a completion belongs to an open side")
    }

    fn arm(&mut self, number: u32) -> io::Result<()> {
        let Some(side) = &mut self.sides[number as usize] else { return Ok(()) };
        if side.receiving || side.ended {
            return Ok(());
        }
        side.receiving = true;
        let receive = opcode::RecvMulti::new(Fd(side.stream.as_raw_fd()), GROUP).build();
        self.submit(receive, Of::Receive(number))
    }

    fn on_receive(&mut self, number: u32, result: i32, flags: u32) -> io::Result<()> {
        let buffer = cqueue::buffer_select(flags);
        self.buffers.ours += u16::from(buffer.is_some());
        if !cqueue::more(flags) {
            self.side(number).receiving = false;
        }
        match (result, buffer) {
            (1.., Some(buffer)) => {
                let message = Message { buffer, from: 0, to: result as u32 };
                let other = number ^ 1;
                if self.side(other).shut {
                    self.buffers.give_back(buffer); // nobody to send it to
                } else {
                    let out = &mut self.side(other).out;
                    out.push_back(message);
                    if out.len() == 1 {
                        self.send(other)?;
                    }
                }
                if !cqueue::more(flags) {
                    self.arm(number)?;
                }
            }
            (result, _) if result == -libc::ENOBUFS => self.starved.push(number),
            _ => {
                if let Some(buffer) = buffer {
                    self.buffers.give_back(buffer);
                }
                self.side(number).ended = true;
                self.wind_up(number);
            }
        }
        Ok(())
    }

    fn send(&mut self, number: u32) -> io::Result<()> {
        let side = self.sides[number as usize].as_ref().expect("it has a message");
        let message = side.out[0];
        // SAFETY: `from` never exceeds the received length, so this stays inside the buffer.
        let start = unsafe { self.buffers.at(message.buffer).add(message.from as usize) };
        let fd = Fd(side.stream.as_raw_fd());
        let send = opcode::Send::new(fd, start, message.to - message.from);
        self.submit(send.flags(libc::MSG_NOSIGNAL).build(), Of::Send(number))
    }

    fn on_send(&mut self, number: u32, result: i32) -> io::Result<()> {
        let side = self.side(number);
        if result < 0 {
            side.shut = true;
            let lost = std::mem::take(&mut side.out);
            lost.into_iter().for_each(|message| self.buffers.give_back(message.buffer));
            self.side(number).ended = true;
            self.wind_up(number);
            return Ok(());
        }
        side.out[0].from += result as u32;
        let Message { buffer, from, to } = side.out[0];
        if from == to {
            side.out.pop_front();
            self.buffers.give_back(buffer);
        }
        if self.side(number).out.is_empty() {
            self.wind_up(number);
            Ok(())
        } else {
            self.send(number)
        }
    }

    /// Once a side has ended and what it sent is out, both sockets are shut down; once nothing is
    /// outstanding on either, they are closed.
    fn wind_up(&mut self, number: u32) {
        let first = number & !1;
        let pair = [first, first + 1];
        let over = pair.iter().any(|n| self.side(*n).ended && self.side(*n ^ 1).out.is_empty());
        if !over {
            return;
        }
        for side in pair {
            let side = self.side(side);
            if !std::mem::replace(&mut side.shut, true) {
                let _ = side.stream.shutdown(Shutdown::Both); // it may be gone already
            }
        }
        let idle = |side: &Side| !side.receiving && side.out.is_empty();
        if pair.iter().all(|side| idle(self.side(*side))) {
            pair.iter().for_each(|side| self.sides[*side as usize] = None);
            self.free.push(first);
        }
    }
}

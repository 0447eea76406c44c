//! ringside's event loop: one per core, and nothing shared between them.
//!
//! A worker is a thread with a [`Reactor`]: a single-threaded executor over a driver. Tasks are
//! futures; they wait for bytes ([`Stream::recv`]), for the kernel to take bytes
//! ([`Stream::sent`]), for connections ([`Listener::accept`]), for letters from other threads
//! ([`Receiver::recv`]) and for time ([`Reactor::sleep`]). There are two drivers for real sockets,
//! io_uring and epoll, and one that simulates a network from a seed; all three pass one conformance
//! suite, and what runs on the reactor cannot tell them apart.
//!
//! What it promises:
//! - data is received into few, hot buffers that the worker shares ([`Buf`] gives its buffer back when
//!   dropped), bounded per stream; an idle stream holds none;
//! - what is sent stays alive until the kernel is done with it, also when nobody waits any more, and
//!   the outcome says how many bytes the kernel took;
//! - dropping a future loses nothing; dropping a [`Stream`] closes it, once nothing of it is with the
//!   kernel;
//! - no allocation per operation once warm.
//!
//! What it leaves to others: every protocol, every limit that is not of the loop, every log line.
//!
//! This is the only crate of the data plane that contains `unsafe`; each block says why it is sound.

mod address;
mod buffer;
mod doze;
mod driver;
mod executor;
mod ledger;
mod listener;
mod mailbox;
mod pipe;
mod prefetch;
mod process;
mod remote;
mod runtime;
pub mod sim;
mod socket;
mod stream;
mod sys;
mod time;
mod timer;

/// The loom test of [`doze`] puts its own here.
mod doze_atomics {
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
}

pub use address::Address;
pub use buffer::Buf;
pub use driver::{BufferOptions, DriverStats};
pub use executor::expect;
pub use ledger::{Budget, Charge};
pub use listener::{AcceptError, Accepted, BACKLOG, ListenSocket, Listener};
pub use mailbox::{Receiver, Sender, mailbox};
pub use process::{
    Signal, Signals, give_memory_back, keep_freed_memory, monotonic_ns, raise_descriptor_limit,
    refuse_huge_pages, stand_back,
};
pub use remote::{WORKERS_MAX, WorkerId};
pub use runtime::{
    Backend, Census, Either, Options, Reactor, Sleep, Timeout, both, probe_io_uring, race, run,
};
pub use socket::{Piece, RecvError, SendError};
pub use stream::{RelayEnd, Shortage, Stream};
pub use time::Instant;

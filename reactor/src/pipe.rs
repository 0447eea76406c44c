//! Pipes for splicing, kept for reuse: making one costs two descriptors and an `fcntl`.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;

/// Asked for; an unprivileged process over its pipe quota gets less.
const CAPACITY: usize = 256 * 1024;
/// How many empty pipes a worker keeps.
const SPARE: usize = 32;

/// A pipe, and how many bytes are in it.
pub(crate) struct Pipe {
    ends: Ends,
    pub(crate) capacity: usize,
    pub(crate) filled: usize,
}

enum Ends {
    Os {
        read: OwnedFd,
        write: OwnedFd,
    },
    /// The simulator's.
    Memory(VecDeque<u8>),
}

impl Pipe {
    /// A pipe of the kernel's; an error where the process is out of descriptors.
    pub(crate) fn new() -> std::io::Result<Pipe> {
        let (read, write) = sys::pipe()?;
        // Without the larger size it works with the default of 64 KiB.
        let capacity = sys::pipe_resize(write.as_raw_fd(), CAPACITY).unwrap_or(64 * 1024);
        Ok(Pipe { ends: Ends::Os { read, write }, capacity, filled: 0 })
    }

    /// A pipe of the simulated kernel's.
    pub(crate) fn in_memory() -> Pipe {
        Pipe { ends: Ends::Memory(VecDeque::new()), capacity: 64 * 1024, filled: 0 }
    }

    /// The end that data goes into, and the one that it comes out of.
    pub(crate) fn descriptors(&self) -> (RawFd, RawFd) {
        match &self.ends {
            Ends::Os { read, write } => (write.as_raw_fd(), read.as_raw_fd()),
            Ends::Memory(_) => unreachable!("a worker's pipes are of its driver's kind"),
        }
    }

    /// The bytes of a pipe made by [`Pipe::in_memory`].
    pub(crate) fn memory(&mut self) -> &mut VecDeque<u8> {
        match &mut self.ends {
            Ends::Memory(bytes) => bytes,
            Ends::Os { .. } => unreachable!("a worker's pipes are of its driver's kind"),
        }
    }
}

/// A worker's empty pipes.
#[derive(Default)]
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe that was kept.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        self.spare.pop()
    }

    /// Keeps the pipe, if it is empty: what is left in it belongs to a connection that is gone.
    pub(crate) fn keep(&mut self, pipe: Pipe) {
        if pipe.filled == 0 && self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}

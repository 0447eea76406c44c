//! Pipes for splicing, kept for reuse: making one costs two descriptors and an `fcntl`.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

/// Asked for; an unprivileged process over its pipe quota gets less.
const CAPACITY: usize = 256 * 1024;
/// How many empty pipes a worker keeps.
const SPARE: usize = 32;

/// A pipe, and how many bytes are in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    pub(crate) capacity: usize,
    pub(crate) filled: usize,
}

impl Pipe {
    fn new() -> std::io::Result<Pipe> {
        let (read, write) = sys::pipe()?;
        // Without the larger size it works with the default of 64 KiB.
        let capacity = sys::pipe_resize(write.as_raw_fd(), CAPACITY).unwrap_or(64 * 1024);
        Ok(Pipe { read, write, capacity, filled: 0 })
    }

    /// The end that data goes into.
    pub(crate) fn input(&self) -> i32 {
        self.write.as_raw_fd()
    }

    /// The end that data comes out of.
    pub(crate) fn output(&self) -> i32 {
        self.read.as_raw_fd()
    }
}

/// A worker's empty pipes.
#[derive(Default)]
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe; an error where the process is out of descriptors.
    pub(crate) fn take(&mut self) -> std::io::Result<Pipe> {
        self.spare.pop().map_or_else(Pipe::new, Ok)
    }

    /// Keeps the pipe, if it is empty: what is left in it belongs to a connection that is gone.
    pub(crate) fn keep(&mut self, pipe: Pipe) {
        if pipe.filled == 0 && self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}

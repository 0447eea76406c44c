//! The floor for bulk: epoll, and `splice(2)` through a pipe for as long as there are bytes.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use crate::syscall::{self, Epoll, Event};

const LISTENER: u64 = u64::MAX;
const PIPE_SIZE: usize = 1 << 20;

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

/// One direction: a pipe only while bytes are under way.
#[derive(Default)]
struct Way {
    pipe: Option<Pipe>,
    ended: bool,
}

struct Pair {
    downstream: TcpStream,
    upstream: TcpStream,
    to_upstream: Way,
    to_downstream: Way,
}

pub(crate) fn serve(listener: &TcpListener, to: SocketAddr) -> io::Result<ExitCode> {
    let epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add_listener(listener, LISTENER)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free = Vec::new();
    let mut pipes = Vec::new();
    let mut events = [Event::NONE; 256];
    loop {
        for event in epoll.wait(&mut events, None)? {
            if event.token() == LISTENER {
                while let Ok((downstream, _)) = listener.accept() {
                    let upstream = TcpStream::connect(to)?;
                    syscall::unpace(&upstream)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    for stream in [&downstream, &upstream] {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        epoll.add(stream, slot as u64)?;
                    }
                    let (to_upstream, to_downstream) = Default::default();
                    pairs[slot] = Some(Pair { downstream, upstream, to_upstream, to_downstream });
                }
                continue;
            }
            let slot = event.token() as usize;
            let Some(pair) = &mut pairs[slot] else { continue };
            if !pair.relay(&mut pipes).unwrap_or(false) {
                pairs[slot] = None;
                free.push(slot);
            }
        }
    }
}

impl Pair {
    /// Moves what can be moved in both directions; false when both have ended.
    fn relay(&mut self, pipes: &mut Vec<Pipe>) -> io::Result<bool> {
        self.to_upstream.relay(&self.downstream, &self.upstream, pipes)?;
        self.to_downstream.relay(&self.upstream, &self.downstream, pipes)?;
        Ok(!(self.to_upstream.ended && self.to_downstream.ended))
    }
}

impl Way {
    fn relay(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Vec<Pipe>) -> io::Result<()> {
        while !self.ended {
            let mut pipe = match self.pipe.take().or_else(|| pipes.pop()) {
                Some(pipe) => pipe,
                None => {
                    let (reader, writer) = syscall::pipe(PIPE_SIZE)?;
                    Pipe { reader, writer, held: 0 }
                }
            };
            if pipe.held == 0 {
                match syscall::splice(from, &pipe.writer, PIPE_SIZE) {
                    Ok(0) => {
                        self.ended = true;
                        to.shutdown(std::net::Shutdown::Write)?;
                    }
                    Ok(count) => pipe.held = count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        pipes.push(pipe);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            while pipe.held > 0 {
                match syscall::splice(&pipe.reader, to, pipe.held) {
                    Ok(count) => pipe.held -= count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.pipe = Some(pipe);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            pipes.push(pipe);
        }
        Ok(())
    }
}

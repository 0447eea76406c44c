//! Bare TCP origins: echo for ping-pong, sink and source for bulk. One thread, one epoll.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

use crate::syscall::{self, Epoll, Event};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen; port 0 picks a free one, and the first line printed names it
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// Run on this core
    #[arg(long)]
    pin: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Echo,
    Sink,
    Source,
}

const LISTENER: u64 = u64::MAX;
const BUFFER_SIZE: usize = 256 * 1024;

struct Connection {
    stream: TcpStream,
    /// Received and not yet echoed.
    pending: Vec<u8>,
}

pub(crate) fn run(arguments: &Arguments, role: Role) -> io::Result<ExitCode> {
    if let Some(core) = arguments.pin {
        syscall::pin(core)?;
    }
    syscall::raise_descriptor_limit()?;
    let listener = TcpListener::bind(arguments.address)?;
    syscall::deepen_backlog(&listener)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);

    let epoll = Epoll::new()?;
    epoll.add_listener(&listener, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![b'x'; BUFFER_SIZE];
    let mut events = [Event::NONE; 256];
    loop {
        for event in epoll.wait(&mut events, None)? {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    epoll.add(&stream, slot as u64)?;
                    connections[slot] = Some(Connection { stream, pending: Vec::new() });
                }
                continue;
            }
            let slot = event.token() as usize;
            let Some(connection) = &mut connections[slot] else { continue };
            let alive = match role {
                Role::Echo => connection.echo(&mut buffer, event),
                Role::Sink => connection.sink(),
                Role::Source => connection.source(&buffer, event),
            };
            if !alive.unwrap_or(false) {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

impl Connection {
    /// Each of these does what it can and says whether the connection goes on.
    fn echo(&mut self, buffer: &mut [u8], event: &Event) -> io::Result<bool> {
        loop {
            while !self.pending.is_empty() {
                match self.stream.write(&self.pending) {
                    Ok(count) => drop(self.pending.drain(..count)),
                    Err(error) => return would_block(error),
                }
            }
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) => return would_block(error),
            };
            let written = match self.stream.write(&buffer[..count]) {
                Ok(written) => written,
                Err(error) => would_block(error).map(|_| 0)?,
            };
            self.pending.extend_from_slice(&buffer[written..count]);
            if self.pending.is_empty() && count < buffer.len() && !event.ended() {
                return Ok(true);
            }
        }
    }

    fn sink(&mut self) -> io::Result<bool> {
        loop {
            match syscall::discard(&self.stream, 4 << 20) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) => return would_block(error),
            }
        }
    }

    fn source(&mut self, buffer: &[u8], event: &Event) -> io::Result<bool> {
        if event.ended() {
            return Ok(false);
        }
        loop {
            if let Err(error) = self.stream.write(buffer) {
                return would_block(error);
            }
        }
    }
}

fn would_block(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(true) } else { Err(error) }
}

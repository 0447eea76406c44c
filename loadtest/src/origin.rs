//! The origin: one thread, one epoll, answers by path, counts what it executes.
//!
//! It is meant to be cheap rather than complete, since it shares a core with the generator: an
//! exchange is one receive and one send. It counts requests, POSTs and repeated `x-test-id`s, so
//! that a test of replay can see whether anything was executed twice (`GET /__stats`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::http::{Action, Method, Request, RequestReader, Seen};
use crate::stats::Stats;
use crate::syscall::{self, Epoll, Event};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen; port 0 picks a free one, and the first line printed names it
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// Run on this core
    #[arg(long)]
    pin: Option<usize>,
    /// Close each connection as soon as it is idle after a random age of up to so many milliseconds;
    /// one that carried no request yet is not idle but new, and stays
    #[arg(long, value_name = "MAX_MS", num_args = 0..=1, default_missing_value = "200")]
    close_idle_randomly: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    if let Some(core) = arguments.pin {
        syscall::pin(core)?;
    }
    syscall::raise_descriptor_limit()?;
    let listener = TcpListener::bind(arguments.address)?;
    syscall::deepen_backlog(&listener)?;
    println!("listening on {}", listener.local_addr()?);
    Origin::new(listener, arguments.close_idle_randomly)?.serve()
}

/// The token of the listener; connections count from 0.
const LISTENER: u64 = u64::MAX;
/// Bodies up to this size are written with their head; longer ones are streamed.
const SMALL_BODY: u64 = 16 * 1024;
/// One chunk of a chunked body.
const CHUNK: u64 = 16 * 1024;
const READ_SIZE: usize = 64 * 1024;
const WRITE_SIZE: usize = 256 * 1024;

/// The rest of an answer that was too long to be written with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    Bytes(u64),
    Chunked(u64),
}

struct Connection {
    stream: TcpStream,
    generation: u32,
    reader: RequestReader,
    /// Read but not yet looked at: an answer is in the way.
    unread: Vec<u8>,
    out: Vec<u8>,
    rest: Rest,
    /// Waits for a timer before it answers.
    slow: bool,
    close_after: bool,
    /// Has carried a request.
    used: bool,
    /// Has reached its random age: closed as soon as it is idle.
    aged: bool,
    /// The socket may hold bytes that we have not read.
    readable: bool,
    /// The peer sends no more: read until the stream says so.
    ended: bool,
}

/// What a connection waits for besides its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Answer,
    Age,
}

struct Origin {
    epoll: Epoll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u32, Due)>>,
    generation: u32,
    age_max_ms: Option<u64>,
    stats: Stats,
    scratch: Vec<u8>,
    filler: Vec<u8>,
}

impl Origin {
    fn new(listener: TcpListener, age_max_ms: Option<u64>) -> io::Result<Origin> {
        let epoll = Epoll::new()?;
        listener.set_nonblocking(true)?;
        epoll.add_listener(&listener, LISTENER)?;
        Ok(Origin {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            generation: 0,
            age_max_ms,
            stats: Stats::default(),
            scratch: vec![0; READ_SIZE],
            filler: vec![b'x'; WRITE_SIZE],
        })
    }

    fn serve(mut self) -> ! {
        let mut events = [Event::NONE; 256];
        loop {
            let timeout = self.timers.peek().map(|Reverse((due, ..))| {
                due.saturating_duration_since(Instant::now()).as_nanos() as u64
            });
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(error) => panic!("epoll: {error}"),
            };
            for event in ready {
                match event.token() {
                    LISTENER => self.accept(),
                    slot => self.on_event(slot as usize, event),
                }
            }
            if timeout.is_some() {
                self.run_timers(Instant::now());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let ready = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| self.epoll.add(&stream, slot as u64));
            if ready.is_err() {
                self.free.push(slot);
                continue;
            }
            self.generation = self.generation.wrapping_add(1);
            if let Some(max_ms) = self.age_max_ms {
                let due =
                    Instant::now() + Duration::from_micros(fastrand::u64(500..=max_ms * 1000));
                self.timers.push(Reverse((due, slot, self.generation, Due::Age)));
            }
            self.stats.connections += 1;
            self.connections[slot] = Some(Connection {
                stream,
                generation: self.generation,
                reader: RequestReader::default(),
                unread: Vec::new(),
                out: Vec::new(),
                rest: Rest::None,
                slow: false,
                close_after: false,
                used: false,
                aged: false,
                readable: false,
                ended: false,
            });
        }
    }

    fn on_event(&mut self, slot: usize, event: &Event) {
        let Some(mut connection) = self.connections[slot].take() else { return };
        connection.readable |= event.readable();
        connection.ended |= event.ended();
        let alive = self.drive(&mut connection, slot);
        self.keep(slot, connection, alive.unwrap_or(false));
    }

    fn keep(&mut self, slot: usize, connection: Connection, alive: bool) {
        if alive {
            self.connections[slot] = Some(connection);
        } else {
            self.free.push(slot);
        }
    }

    fn run_timers(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, slot, generation, due))) = self.timers.pop() else { return };
            let entry = &mut self.connections[slot];
            let Some(mut connection) = entry.take_if(|c| c.generation == generation) else {
                continue;
            };
            match due {
                Due::Answer => {
                    connection.slow = false;
                    let close = connection.close_after;
                    self.answer(&mut connection, Method::Get, Action::Bytes(100), close);
                }
                Due::Age => connection.aged = true,
            }
            let alive = self.drive(&mut connection, slot).unwrap_or(false);
            self.keep(slot, connection, alive);
        }
    }

    /// Does all that can be done now; false when the connection is at its end.
    fn drive(&mut self, connection: &mut Connection, slot: usize) -> io::Result<bool> {
        loop {
            if !self.write(connection)? || connection.slow {
                return Ok(true);
            }
            if connection.close_after {
                return Ok(false);
            }
            if !connection.unread.is_empty() {
                let unread = std::mem::take(&mut connection.unread);
                self.take(connection, slot, &unread);
                continue;
            }
            if connection.aged && connection.used && connection.reader.is_between_requests() {
                return Ok(false);
            }
            if !connection.readable {
                return Ok(true);
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let received = connection.stream.read(&mut scratch);
            if let Ok(count) = received {
                // A short read has drained the socket, unless its end is already known.
                connection.readable = count == READ_SIZE || connection.ended;
                self.take(connection, slot, &scratch[..count]);
            }
            self.scratch = scratch;
            match received {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.readable = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads requests and answers them, until an answer stands in the way of the next.
    fn take(&mut self, connection: &mut Connection, slot: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if connection.slow || connection.rest != Rest::None || connection.close_after {
                connection.unread.extend_from_slice(bytes);
                return;
            }
            match connection.reader.take(bytes) {
                Ok((taken, seen)) => {
                    bytes = &bytes[taken..];
                    match seen {
                        Seen::Nothing => {}
                        Seen::ExpectsContinue => {
                            connection.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                        }
                        Seen::Request(request) => self.execute(connection, slot, &request),
                    }
                }
                Err(malformed) => {
                    self.stats.malformed += 1;
                    let body = malformed.0;
                    let _ = write!(
                        connection.out,
                        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    connection.close_after = true;
                    return;
                }
            }
        }
    }

    fn execute(&mut self, connection: &mut Connection, slot: usize, request: &Request) {
        connection.used = true;
        match request.action {
            Action::Slow(delay_ms) => {
                self.stats.count(request);
                connection.slow = true;
                connection.close_after = request.close;
                let due = Instant::now() + Duration::from_millis(delay_ms);
                self.timers.push(Reverse((due, slot, connection.generation, Due::Answer)));
            }
            Action::Stats => {
                let body = self.stats.to_json();
                let _ = write!(
                    connection.out,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                connection.close_after = request.close;
            }
            action => {
                self.stats.count(request);
                self.answer(connection, request.method, action, request.close);
            }
        }
    }

    fn answer(&self, connection: &mut Connection, method: Method, action: Action, close: bool) {
        let out = &mut connection.out;
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/plain\r\n");
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        connection.close_after = close;
        // Writing to a Vec cannot fail.
        let _ = match action {
            Action::Chunked(_) => write!(out, "transfer-encoding: chunked\r\n\r\n"),
            Action::Bytes(length) => write!(out, "content-length: {length}\r\n\r\n"),
            Action::Slow(_) | Action::Stats => unreachable!("answered by `execute`"),
        };
        connection.rest = match action {
            _ if method == Method::Head => Rest::None,
            Action::Bytes(length) if length <= SMALL_BODY => {
                out.extend_from_slice(&self.filler[..length as usize]);
                Rest::None
            }
            Action::Bytes(length) => Rest::Bytes(length),
            Action::Chunked(length) => Rest::Chunked(length),
            Action::Slow(_) | Action::Stats => Rest::None,
        };
    }

    /// Writes what there is; false if the socket took less than all.
    fn write(&self, connection: &mut Connection) -> io::Result<bool> {
        loop {
            if let Rest::Chunked(left) = connection.rest
                && connection.out.len() < WRITE_SIZE
            {
                let size = left.min(CHUNK);
                // Writing to a Vec cannot fail.
                let _ = write!(connection.out, "{size:x}\r\n");
                connection.out.extend_from_slice(&self.filler[..size as usize]);
                connection.out.extend_from_slice(b"\r\n");
                connection.rest = if size == 0 { Rest::None } else { Rest::Chunked(left - size) };
                continue;
            }
            let body = match connection.rest {
                Rest::Bytes(left) => &self.filler[..left.min(WRITE_SIZE as u64) as usize],
                Rest::None | Rest::Chunked(_) => &[],
            };
            if connection.out.is_empty() && body.is_empty() {
                return Ok(true);
            }
            let parts = [io::IoSlice::new(&connection.out), io::IoSlice::new(body)];
            let written = if body.is_empty() {
                connection.stream.write(&connection.out)
            } else {
                connection.stream.write_vectored(&parts)
            };
            let written = match written {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let from_out = written.min(connection.out.len());
            connection.out.drain(..from_out);
            if let Rest::Bytes(left) = connection.rest {
                let left = left - (written - from_out) as u64;
                connection.rest = if left == 0 { Rest::None } else { Rest::Bytes(left) };
            }
        }
    }
}

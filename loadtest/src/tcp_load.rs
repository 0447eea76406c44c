//! Load without HTTP: ping-pong with an echo server, bulk from a source.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::report::{self, Latency, Report};
use crate::syscall::{self, Epoll, Event};
use crate::window::{Timing, Window};

/// One ping, and one pong.
const MESSAGE: [u8; 100] = [b'p'; 100];
/// As much as one receive may throw away.
const BULK_SIZE: usize = 4 << 20;

struct Connection {
    stream: TcpStream,
    received: usize,
    sent_ns: u64,
    carried: u64,
}

fn open(target: SocketAddr, count: usize, epoll: &Epoll) -> io::Result<Vec<Connection>> {
    let connect = |slot| {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, slot as u64)?;
        Ok(Connection { stream, received: 0, sent_ns: 0, carried: 0 })
    };
    (0..count).map(connect).collect()
}

/// Each connection sends 100 bytes, waits for them to come back, and sends again.
pub(crate) fn pingpong(target: SocketAddr, count: usize, timing: &Timing) -> io::Result<Report> {
    let mut histogram = report::histogram();
    let mut buffer = [0; 4096];
    let mut load = run(target, count, timing, |connection, window, report| {
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => connection.received += count,
                Err(error) => return would_block(error),
            }
            if connection.received < MESSAGE.len() {
                continue;
            }
            let now = window.now_ns();
            if window.is_open() {
                report.requests += 1;
                report.bytes += connection.received as u64;
                histogram.saturating_record(now - connection.sent_ns);
                connection.carried += 1;
            }
            connection.received = 0;
            connection.sent_ns = now;
            // 100 bytes into an empty socket buffer: taken whole or the connection is dead.
            connection.stream.write_all(&MESSAGE)?;
            return Ok(true);
        }
    })?;
    load.latency = Latency::of(&histogram);
    Ok(load)
}

/// Receives what the other side sends without end; a "request" is a mebibyte.
pub(crate) fn bulk(target: SocketAddr, count: usize, timing: &Timing) -> io::Result<Report> {
    let mut report = run(target, count, timing, |connection, window, report| {
        loop {
            match syscall::discard(&connection.stream, BULK_SIZE) {
                Ok(0) => return Ok(false),
                Ok(count) if window.is_open() => {
                    report.bytes += count as u64;
                    connection.carried += count as u64;
                }
                Ok(_) => {}
                Err(error) => return would_block(error),
            }
            if window.now_ns() > window.end_ns {
                return Ok(true);
            }
        }
    })?;
    report.requests = report.bytes >> 20;
    Ok(report)
}

/// Calls `on_readable` for every connection that has something, until the window has passed.
fn run(
    target: SocketAddr,
    count: usize,
    timing: &Timing,
    mut on_readable: impl FnMut(&mut Connection, &Window, &mut Report) -> io::Result<bool>,
) -> io::Result<Report> {
    let epoll = Epoll::new()?;
    let mut connections = open(target, count, &epoll)?;
    let mut window = Window::start(timing);
    let mut report = Report::default();
    for connection in &mut connections {
        // Also for bulk: a byte from us is what wakes a proxy that waits for the client.
        connection.stream.write_all(&MESSAGE)?;
    }
    let mut events = [Event::NONE; 256];
    loop {
        let now = window.now_ns();
        if !window.is_open() && now >= window.begin_ns {
            window.open()?;
        }
        if now >= window.end_ns {
            break;
        }
        let edge = if window.is_open() { window.end_ns } else { window.begin_ns };
        for event in epoll.wait(&mut events, Some(edge.saturating_sub(now)))? {
            let connection = &mut connections[event.token() as usize];
            if event.readable() && !on_readable(connection, &window, &mut report).unwrap_or(false) {
                // Nothing here may end a connection: the run is worth nothing.
                return Err(io::Error::other(format!("{target} ended a connection")));
            }
        }
    }
    window.close(&mut report)?;
    let carried = || connections.iter().map(|connection| connection.carried);
    report.per_connection = [carried().min().unwrap_or(0), carried().max().unwrap_or(0)];
    Ok(report)
}

fn would_block(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(true) } else { Err(error) }
}

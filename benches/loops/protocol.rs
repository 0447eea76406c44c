//! What is served, whichever loop carries it: an echo, and a reverse proxy for fixed heads.
//!
//! The loops differ in how they wait and in who owns a buffer; [`Connection`] and [`Dial`] say just
//! that. All else is here, once: where a message ends, the pool of upstream connections, the order
//! of receives and sends. It is a measuring stick: no limits but [`MESSAGE_MAX`], no timeouts, no
//! pipelining, no request bodies, no retry, and where something is not as expected the connection
//! ends.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;

use memchr::memmem;

/// A connected stream, as a loop gives it.
pub(crate) trait Connection {
    /// Received bytes, held as this loop holds them.
    type Bytes: Deref<Target = [u8]>;

    /// What comes next; `None` at the end of the stream.
    async fn receive(&mut self) -> io::Result<Option<Self::Bytes>>;

    /// `bytes` and what comes next; an error at the end of the stream.
    async fn receive_more(&mut self, bytes: Self::Bytes) -> io::Result<Self::Bytes>;

    /// Sends all of it.
    async fn send(&mut self, bytes: Self::Bytes) -> io::Result<()>;
}

/// Connects, as a loop does.
pub(crate) trait Dial {
    type Connection: Connection;

    async fn dial(&self, to: SocketAddr) -> io::Result<Self::Connection>;
}

/// Size of a receive buffer: that of ringside's default.
pub(crate) const BUFFER_SIZE: usize = 2048;
/// Connections that may wait to be accepted, where a loop lets us choose.
pub(crate) const BACKLOG: i32 = 4096;
/// A longer message ends its connection.
const MESSAGE_MAX: usize = 64 * 1024;
/// Buffers that wait to be used again.
const SPARE_MAX: usize = 256;

/// Sends back what comes.
pub(crate) async fn echo<C: Connection>(mut connection: C) -> io::Result<()> {
    while let Some(bytes) = connection.receive().await? {
        connection.send(bytes).await?;
    }
    Ok(())
}

/// Forwards each request over a pooled connection, and its response back.
pub(crate) async fn proxy<D: Dial>(
    mut downstream: D::Connection,
    upstreams: &Upstreams<D>,
) -> io::Result<()> {
    while let Some(request) = message(&mut downstream, Kind::Request).await? {
        let mut upstream = upstreams.take().await?;
        upstream.send(request).await?;
        let response = message(&mut upstream, Kind::Response).await?;
        let response = response.ok_or(io::ErrorKind::UnexpectedEof)?;
        upstreams.keep(upstream);
        downstream.send(response).await?;
    }
    Ok(())
}

/// Idle connections to the one upstream, newest last; the newest is used first.
pub(crate) struct Upstreams<D: Dial> {
    dialer: D,
    address: SocketAddr,
    idle: RefCell<Vec<D::Connection>>,
}

impl<D: Dial> Upstreams<D> {
    pub(crate) fn new(dialer: D, address: SocketAddr) -> Upstreams<D> {
        Upstreams { dialer, address, idle: RefCell::default() }
    }

    async fn take(&self) -> io::Result<D::Connection> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(connection) => Ok(connection),
            // Rare, so not a part of every connection's future: some loops' are large.
            None => Box::pin(self.dialer.dial(self.address)).await,
        }
    }

    fn keep(&self, connection: D::Connection) {
        self.idle.borrow_mut().push(connection);
    }
}

/// Vectors to receive into, for loops without buffers of their own.
#[derive(Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty one with room for [`BUFFER_SIZE`] bytes, the one that was used last.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_SIZE))
    }

    pub(crate) fn keep(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX && buffer.capacity() == BUFFER_SIZE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// One whole message; `None` if the stream ends before its first byte.
async fn message<C: Connection>(connection: &mut C, kind: Kind) -> io::Result<Option<C::Bytes>> {
    let Some(mut bytes) = connection.receive().await? else { return Ok(None) };
    loop {
        match kind.length(&bytes)? {
            Some(length) if length == bytes.len() => return Ok(Some(bytes)),
            Some(length) if length < bytes.len() => return malformed("more than one message"),
            _ if bytes.len() > MESSAGE_MAX => return malformed("too long"),
            _ => bytes = connection.receive_more(bytes).await?,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

impl Kind {
    /// How long the message is that `bytes` begin, if its head is whole.
    fn length(self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let first = lines.next().unwrap_or_default();
        let is_http = match self {
            Kind::Request => first.ends_with(b" HTTP/1.1"),
            Kind::Response => first.starts_with(b"HTTP/1.1 "),
        };
        if !is_http {
            return malformed("not HTTP/1.1");
        }
        let mut length = None;
        for line in lines {
            let Some(colon) = memchr::memchr(b':', line) else {
                return malformed("a line without a colon");
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                let value = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                length = Some(value.filter(|value| *value <= MESSAGE_MAX));
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return malformed("chunks are not for us");
            }
        }
        let body = match (self, length) {
            (Kind::Request, None | Some(Some(0))) => 0,
            (Kind::Response, Some(Some(length))) => length,
            (Kind::Request, _) => return malformed("a request with a body"),
            (Kind::Response, _) => return malformed("no length that we take"),
        };
        Ok(Some(end + 4 + body))
    }
}

fn malformed<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, bytes: &str, expect: Result<Option<usize>, &str>) {
        let found = kind.length(bytes.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(found, expect.map_err(str::to_owned), "{bytes:?}");
    }

    #[test]
    fn a_request_ends_with_its_head() {
        let head = "GET / HTTP/1.1\r\nhost: a\r\nContent-Length: 0\r\n\r\n";
        check(Kind::Request, head, Ok(Some(head.len())));
        check(Kind::Request, "GET / HTTP/1.1\r\n\r\n", Ok(Some(18)));
        check(Kind::Request, "GET / HTTP/1.1\r\nhost: a\r\n", Ok(None));
    }

    #[test]
    fn a_response_has_its_length() {
        let head = "HTTP/1.1 200 OK\r\nCONTENT-LENGTH:  7 \r\nx: y\r\n\r\n";
        check(Kind::Response, head, Ok(Some(head.len() + 7)));
        check(Kind::Response, &head[..head.len() - 1], Ok(None));
    }

    #[test]
    fn what_is_not_as_expected_is_refused() {
        check(Kind::Request, "hello\r\n\r\n", Err("not HTTP/1.1"));
        let body = "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n";
        check(Kind::Request, body, Err("a request with a body"));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        check(Kind::Response, chunked, Err("chunks are not for us"));
        check(Kind::Response, "HTTP/1.1 200 OK\r\n\r\n", Err("no length that we take"));
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\n";
        check(Kind::Response, long, Err("no length that we take"));
    }
}

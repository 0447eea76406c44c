//! The demo's services: small HTTP/1.1 servers that are not ringside, a thread per connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// What a service answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A rating.
    Reviews,
    /// A page with the rating, which it asks reviews for, by way of its sidecar.
    Web { reviews: SocketAddr },
}

/// A service whose address is known and which does not answer yet.
pub(super) struct Unstarted {
    listener: TcpListener,
    address: SocketAddr,
}

impl Unstarted {
    pub(super) fn bind() -> io::Result<Unstarted> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        Ok(Unstarted { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, until the process ends.
    pub(super) fn start(self, kind: Kind) {
        std::thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, kind));
            }
        });
    }
}

/// A connection that ends, ends its thread; what failed the visitor will see.
fn serve(mut stream: TcpStream, kind: Kind) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut sidecar = None;
    let mut input = Vec::new();
    while read_message(&mut stream, &mut input)?.is_some() {
        let (status, body) = match kind {
            Kind::Reviews => ("200 OK", r#"{"stars":5}"#.to_owned()),
            Kind::Web { reviews } => match ask(&mut sidecar, reviews) {
                Ok(rating) => ("200 OK", format!("<h1>ringside</h1><p>rating: {rating}</p>\n")),
                Err(error) => ("502 Bad Gateway", format!("reviews did not answer: {error}\n")),
            },
        };
        let length = body.len();
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(response.as_bytes())?;
    }
    Ok(())
}

/// Asks reviews over a connection that is kept.
fn ask(connection: &mut Option<TcpStream>, sidecar: SocketAddr) -> io::Result<String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(sidecar)?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n")?;
    let answer = read_message(&mut stream, &mut Vec::new())?;
    let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    if !answer.head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(answer.head.lines().next().unwrap_or_default().to_owned()));
    }
    *connection = Some(stream);
    Ok(answer.body)
}

/// A message as text.
pub(super) struct Message {
    pub(super) head: String,
    pub(super) body: String,
}

/// Reads one message with a `content-length`, or without a body; `None` at the end of the stream.
/// `input` keeps what came after it.
pub(super) fn read_message(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
) -> io::Result<Option<Message>> {
    let mut chunk = [0; 4096];
    loop {
        if let Some((head, length)) = parse(input)
            && input.len() >= head + length
        {
            let message: Vec<u8> = input.drain(..head + length).collect();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (head, body) = message.split_at(head);
            return Ok(Some(Message { head: text(head), body: text(body) }));
        }
        match stream.read(&mut chunk)? {
            0 if input.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => input.extend_from_slice(&chunk[..len]),
        }
    }
}

/// The length of the head, if it is complete, and of the body.
fn parse(input: &[u8]) -> Option<(usize, usize)> {
    let head = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some((head, length.map_or(Some(0), |length| length.trim().parse().ok())?))
}

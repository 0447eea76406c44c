//! What an idle keep-alive connection costs: the slope of memory over their number.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::http::ResponseReader;
use crate::{statistics, usage};

const STEP: usize = 1_000;
const STEPS: usize = 5;

/// Bytes per connection.
#[derive(Debug, Clone, Copy)]
pub struct PerConnection {
    pub pss: f64,
    /// The kernel's slab, of the whole machine.
    pub slab: f64,
}

/// Opens 5,000 connections in five steps and holds them meanwhile; what it costs these processes.
/// `open` gives a connection that has had its one request answered.
pub fn per_connection(
    pids: &[u32],
    open: impl Fn() -> io::Result<TcpStream>,
) -> io::Result<PerConnection> {
    let mut held = Vec::with_capacity(STEP * STEPS);
    let (mut pss, mut slab) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        for _ in 0..STEP {
            held.push(open()?);
        }
        let count = held.len() as f64;
        pss.push((count, usage::pss_bytes(pids) as f64));
        slab.push((count, usage::slab_bytes() as f64));
    }
    Ok(PerConnection { pss: statistics::slope(&pss), slab: statistics::slope(&slab) })
}

/// A connection that has had its one HTTP request answered.
pub fn served(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /bytes/100 HTTP/1.1\r\nhost: idle\r\n\r\n")?;
    let mut reader = ResponseReader::default();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            let (taken, response) = reader.take(bytes).map_err(|e| io::Error::other(e.0))?;
            bytes = &bytes[taken..];
            match response {
                Some(response) if response.status == 200 => return Ok(stream),
                Some(response) => {
                    return Err(io::Error::other(format!("status {}", response.status)));
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_its_body_may_come_together() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let origin = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").unwrap();
            stream
        });
        served(address).unwrap();
        origin.join().unwrap();
    }
}

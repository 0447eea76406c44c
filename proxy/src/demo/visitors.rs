//! The demo's visitors: each asks for the page, waits a little, and asks again.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::figures::Figures;
use super::service::read_message;

/// Between two requests of one visitor: the demo shows latency, not how hot a machine gets.
const PAUSE: Duration = Duration::from_millis(2);

/// Starts a visitor, who comes back until told to leave.
pub(super) fn start(
    entrance: SocketAddr,
    figures: Arc<Figures>,
    leave: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut connection = None;
        while !leave.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let result = visit(&mut connection, entrance);
            figures.record(begun.elapsed(), result.is_ok());
            std::thread::sleep(PAUSE);
        }
    })
}

fn visit(connection: &mut Option<TcpStream>, entrance: SocketAddr) -> io::Result<()> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(entrance)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream
        }
    };
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")?;
    let answer = read_message(&mut stream, &mut Vec::new())?;
    match answer {
        Some(answer)
            if answer.head.starts_with("HTTP/1.1 200") && answer.body.contains("rating") =>
        {
            *connection = Some(stream);
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

//! The floor: programs that move the same bytes as a proxy and read nothing in them.
//!
//! What they cost is what the kernel costs; a proxy's figure is judged by how near it comes.
//! They are measuring sticks, not servers: no limits, no timeouts, and for each connection one
//! blocking connect to the other side.

mod splice;
mod uring;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::syscall;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_enum)]
    kind: Kind,
    /// Where to listen; port 0 picks a free one, and the first line printed names it
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every connection goes
    #[arg(long)]
    to: SocketAddr,
    /// Run on this core
    #[arg(long)]
    pin: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// One io_uring, multishot receives from a provided-buffer ring, one send each way
    Uring,
    /// epoll and splice(2) through pooled pipes, for bulk
    Splice,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    if let Some(core) = arguments.pin {
        syscall::pin(core)?;
    }
    syscall::raise_descriptor_limit()?;
    let listener = std::net::TcpListener::bind(arguments.listen)?;
    syscall::deepen_backlog(&listener)?;
    syscall::unpace(&listener)?;
    println!("listening on {}", listener.local_addr()?);
    match arguments.kind {
        Kind::Uring => uring::serve(&listener, arguments.to),
        Kind::Splice => splice::serve(&listener, arguments.to),
    }
}

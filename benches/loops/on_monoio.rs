//! monoio with its io_uring driver, set up as well as it lets us.
//!
//! Its ring gets the flags that ours has (without `DEFER_TASKRUN` it is interrupted for every
//! completion), no timer driver (we need no time, and it would cost each turn), and nodelay. Its
//! operations are one-shot and own their buffer, so a connection that waits holds one, unless it
//! first waits to become readable, which is one more operation for each request: [`Idle`].

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::protocol::{self, BACKLOG, BUFFER_SIZE, Buffers, Connection, Dial, Upstreams};
use crate::serve::{Role, announce};

/// Entries of the submission queue, as ours has.
const ENTRIES: u32 = 256;
/// Entries of the completion queue, as ours has.
const COMPLETIONS: u32 = 2048;

/// What a connection does while it waits for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Receives: one operation for a request, and a buffer for every connection.
    HoldsBuffer,
    /// Polls, then receives: no buffer while idle.
    Polls,
}

pub(crate) fn serve(idle: Idle, listen: SocketAddr, role: Role) -> io::Result<()> {
    let mut uring = uring06::IoUring::builder();
    uring
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS);
    let runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(ENTRIES).uring_builder(uring);
    runtime.build()?.block_on(accept(idle, listen, role))
}

async fn accept(idle: Idle, listen: SocketAddr, role: Role) -> io::Result<()> {
    let options = ListenerOpts::new().reuse_port(false).backlog(BACKLOG);
    let listener = TcpListener::bind_with_config(listen, &options)?;
    announce(listener.local_addr()?);
    let buffers = Rc::new(Buffers::default());
    let upstreams = match role {
        Role::Echo => None,
        Role::Proxy(to) => Some(Rc::new(Upstreams::new(Dialer(buffers.clone()), to))),
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stream = Monoio { stream, idle, buffers: buffers.clone() };
        // A connection that fails concerns nobody else.
        match upstreams.clone() {
            None => drop(monoio::spawn(protocol::echo(stream))),
            Some(upstreams) => {
                let task = async move { drop(protocol::proxy(stream, &upstreams).await) };
                drop(monoio::spawn(task));
            }
        }
    }
}

struct Monoio {
    stream: TcpStream,
    idle: Idle,
    buffers: Rc<Buffers>,
}

struct Dialer(Rc<Buffers>);

impl Dial for Dialer {
    type Connection = Monoio;

    async fn dial(&self, to: SocketAddr) -> io::Result<Monoio> {
        let stream = TcpStream::connect_addr(to).await?;
        stream.set_nodelay(true)?;
        // Pooled ones wait for nothing: whoever receives expects an answer.
        Ok(Monoio { stream, idle: Idle::HoldsBuffer, buffers: self.0.clone() })
    }
}

impl Connection for Monoio {
    type Bytes = Vec<u8>;

    async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.idle == Idle::Polls {
            self.stream.readable(true).await?;
        }
        let (count, bytes) = self.stream.read(self.buffers.take()).await;
        match count? {
            0 => Ok(None),
            _ => Ok(Some(bytes)),
        }
    }

    async fn receive_more(&mut self, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        bytes.reserve(BUFFER_SIZE);
        let begin = bytes.len();
        let (count, bytes) = self.stream.read(bytes.slice_mut(begin..)).await;
        match count? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(bytes.into_inner()),
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let (sent, bytes) = self.stream.write_all(bytes).await;
        self.buffers.keep(bytes);
        sent.map(drop)
    }
}

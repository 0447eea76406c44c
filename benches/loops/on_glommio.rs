//! glommio, set up as well as it lets us.
//!
//! It has three rings and fixed flags, so there is little to choose: small rings and little
//! registered memory, which leave room in the locked memory of a user, and nodelay. Its streams
//! poll through a ring and then call recv(2) and send(2); a waiting connection holds no buffer.
//! Without `COOP_TASKRUN` or `DEFER_TASKRUN` each readiness interrupts the thread: most of what it
//! costs as a proxy, whose core is not full, is these interrupts.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::ready;

use futures_lite::{AsyncRead, AsyncWriteExt};
use glommio::LocalExecutorBuilder;
use glommio::net::{TcpListener, TcpStream};

use crate::protocol::{self, BUFFER_SIZE, Buffers, Connection, Dial, Upstreams};
use crate::serve::{Role, announce};

/// Entries of each submission queue, as ours has.
const ENTRIES: usize = 256;
/// Memory for direct IO to files, of which there is none: the least it takes.
const IO_MEMORY: usize = 64 * 1024;

pub(crate) fn serve(listen: SocketAddr, role: Role) -> io::Result<()> {
    let builder = LocalExecutorBuilder::default().ring_depth(ENTRIES).io_memory(IO_MEMORY);
    let executor = builder.make().map_err(|error| {
        io::Error::other(format!(
            "glommio does not start: {error}. It needs io_uring, and at least 512 KiB of locked \
             memory (`ulimit -l`) for its three rings"
        ))
    })?;
    executor.run(accept(listen, role))
}

async fn accept(listen: SocketAddr, role: Role) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    announce(listener.local_addr()?);
    let memory = Rc::new(Memory::new());
    let upstreams = match role {
        Role::Echo => None,
        Role::Proxy(to) => Some(Rc::new(Upstreams::new(Dialer(memory.clone()), to))),
    };
    loop {
        let stream = Glommio::new(listener.accept().await?, &memory)?;
        // A connection that fails concerns nobody else.
        match upstreams.clone() {
            None => drop(glommio::spawn_local(protocol::echo(stream)).detach()),
            Some(upstreams) => {
                let task = async move { drop(protocol::proxy(stream, &upstreams).await) };
                drop(glommio::spawn_local(task).detach());
            }
        }
    }
}

/// What the connections share.
struct Memory {
    /// Where every receive goes first: it wants memory that is initialised.
    scratch: RefCell<Box<[u8]>>,
    buffers: Buffers,
}

impl Memory {
    fn new() -> Memory {
        let scratch = RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice());
        Memory { scratch, buffers: Buffers::default() }
    }
}

struct Glommio {
    stream: TcpStream,
    memory: Rc<Memory>,
}

impl Glommio {
    fn new(stream: TcpStream, memory: &Rc<Memory>) -> io::Result<Glommio> {
        stream.set_nodelay(true)?;
        Ok(Glommio { stream, memory: memory.clone() })
    }

    /// Appends what comes next; 0 at the end of the stream.
    async fn read(&mut self, bytes: &mut Option<Vec<u8>>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut scratch = self.memory.scratch.borrow_mut();
            let count = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
            let bytes = bytes.get_or_insert_with(|| self.memory.buffers.take());
            bytes.extend_from_slice(&scratch[..count]);
            Ok(count).into()
        })
        .await
    }
}

struct Dialer(Rc<Memory>);

impl Dial for Dialer {
    type Connection = Glommio;

    async fn dial(&self, to: SocketAddr) -> io::Result<Glommio> {
        Glommio::new(TcpStream::connect(to).await?, &self.0)
    }
}

impl Connection for Glommio {
    type Bytes = Vec<u8>;

    async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = None;
        match self.read(&mut bytes).await? {
            0 => Ok(None),
            _ => Ok(bytes),
        }
    }

    async fn receive_more(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut bytes = Some(bytes);
        match self.read(&mut bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(bytes.unwrap_or_default()),
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let sent = self.stream.write_all(&bytes).await;
        self.memory.buffers.keep(bytes);
        sent
    }
}

//! ringside's own loop, on either driver.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use reactor::{
    Address, Backend, Buf, BufferOptions, ListenSocket, Listener, Options, Piece, Reactor,
    RecvError, Stream,
};

use crate::protocol::{self, BUFFER_SIZE, Connection, Dial, Upstreams};
use crate::serve::{Role, announce};

pub(crate) fn serve(backend: Backend, listen: SocketAddr, role: Role) -> io::Result<()> {
    let socket = ListenSocket::bind(&listen.into())?;
    announce(socket.address());
    // What the proxy's workers have.
    let buffers = BufferOptions { size: BUFFER_SIZE, ..BufferOptions::default() };
    reactor::run(Options { backend, buffers, seed: 1 }, |reactor| accept(reactor, socket, role))?
}

async fn accept(reactor: Reactor, socket: ListenSocket, role: Role) -> io::Result<()> {
    let mut listener = Listener::new(&reactor, socket);
    let upstreams = match role {
        Role::Echo => None,
        Role::Proxy(to) => Some(Rc::new(Upstreams::new(reactor.clone(), to))),
    };
    loop {
        let accepted = listener.accept().await.map_err(io::Error::other)?;
        let Some(accepted) = accepted else { return Ok(()) };
        let stream = reactor.adopt(accepted);
        // A connection that fails concerns nobody else.
        match upstreams.clone() {
            None => reactor.spawn(async { drop(protocol::echo(stream).await) }),
            Some(upstreams) => {
                reactor.spawn(async move { drop(protocol::proxy(stream, &upstreams).await) });
            }
        }
    }
}

impl Dial for Reactor {
    type Connection = Stream;

    async fn dial(&self, to: SocketAddr) -> io::Result<Stream> {
        self.connect(&Address::Ip(to)).await
    }
}

impl Connection for Stream {
    type Bytes = Buf;

    async fn receive(&mut self) -> io::Result<Option<Buf>> {
        self.recv().await.map_err(error)
    }

    async fn receive_more(&mut self, bytes: Buf) -> io::Result<Buf> {
        let next = self.recv().await.map_err(error)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Buf::from_vec([&bytes[..], &next[..]].concat()))
    }

    async fn send(&mut self, bytes: Buf) -> io::Result<()> {
        let sent = Stream::send(self, [Piece::Buf(bytes)]).await;
        sent.map(drop).map_err(|failed| error(failed.why))
    }
}

fn error(error: RecvError) -> io::Error {
    io::Error::other(error.to_string())
}

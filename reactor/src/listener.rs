//! Listening sockets, shared by the workers, and each worker's acceptance from them.
//!
//! One listening socket per listener: with `SO_REUSEPORT` the connections queued on a socket are
//! reset when it closes, and its skew is ours to fix anyway. Every worker may accept from it; who
//! serves the connection is decided above, by handing the [`Accepted`] on.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slotmap::{SlotMap, new_key_type};
use socket2::{Domain, SockAddr, SockFilter, SockRef, Socket, Type};

use crate::address::{Address, prepare};
use crate::runtime::Reactor;
use crate::sim::SimSocket;
use crate::socket::store;
use crate::sys;

new_key_type! {
    pub(crate) struct ListenerKey;
}

/// How long `bind` waits for a port that a killed predecessor still holds.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Connections that wait in the kernel to be accepted, of one socket.
pub const BACKLOG: usize = 4096;

/// A bound, listening socket. Clones share it, and may go to other workers.
#[derive(Clone)]
pub struct ListenSocket {
    descriptor: Arc<Listening>,
    address: Address,
}

enum Listening {
    Os(OwnedFd),
    Simulated(SimSocket),
}

impl ListenSocket {
    /// Binds and listens. Blocks for up to two seconds while the address is in use, so it is for
    /// start-up and the control thread, not for a worker.
    pub fn bind(address: &Address) -> io::Result<ListenSocket> {
        let give_up = std::time::Instant::now() + BIND_PATIENCE;
        loop {
            match bind_once(address, false) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && std::time::Instant::now() < give_up =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    /// Binds and listens, or says at once why not.
    pub fn try_bind(address: &Address) -> io::Result<ListenSocket> {
        bind_once(address, false)
    }

    /// The same where sockets of ours are in the way that are about to close: `0.0.0.0:80` takes the
    /// place of `127.0.0.1:80`. While both are open, who connects gets the one that says more. The
    /// address has to be another one: the kernel would share it out between equal ones, and reset those
    /// who wait on the one that closes.
    ///
    /// From then on the kernel lets another process of this user listen there too, if that asks for it
    /// (`SO_REUSEPORT`).
    pub fn try_bind_beside(
        address: &Address,
        others: &[&ListenSocket],
    ) -> io::Result<ListenSocket> {
        let let_in = |whether| {
            others.iter().try_for_each(|other| match &*other.descriptor {
                Listening::Os(fd) => SockRef::from(fd).set_reuse_port(whether),
                Listening::Simulated(_) => Ok(()),
            })
        };
        let bound = let_in(true).and_then(|()| bind_once(address, true));
        let_in(false)?;
        bound
    }

    /// Lets nobody else connect, on any worker: who did is accepted, and closing then resets nobody.
    /// Without this the kernel would go on taking connections between the last accept and the close.
    fn shut_out(&self) {
        if let Listening::Os(fd) = &*self.descriptor {
            // Classic BPF over the TCP header: of packets with SYN and without ACK nothing, of others
            // all, since they finish what has begun. Has no meaning for Unix sockets.
            const NO_SYN: [SockFilter; 5] = [
                SockFilter::new(0x30, 0, 0, 13),       // A = flags
                SockFilter::new(0x54, 0, 0, 0x12),     // A &= SYN | ACK
                SockFilter::new(0x15, 0, 1, 0x02),     // A == SYN?
                SockFilter::new(0x06, 0, 0, 0),        // yes: drop
                SockFilter::new(0x06, 0, 0, u32::MAX), // no: keep
            ];
            let _ = SockRef::from(fd).attach_filter(&NO_SYN);
        }
    }

    /// The address, with the real port where 0 was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether both are clones of one.
    pub fn is_same(&self, other: &ListenSocket) -> bool {
        Arc::ptr_eq(&self.descriptor, &other.descriptor)
    }

    pub(crate) fn fd(&self) -> RawFd {
        match &*self.descriptor {
            Listening::Os(fd) => fd.as_raw_fd(),
            Listening::Simulated(socket) => socket.fd(),
        }
    }

    pub(crate) fn simulated(socket: SimSocket, address: Address) -> ListenSocket {
        ListenSocket { descriptor: Arc::new(Listening::Simulated(socket)), address }
    }
}

/// `beside`: where others listen who let us in.
fn bind_once(address: &Address, beside: bool) -> io::Result<ListenSocket> {
    let target = address.to_sockaddr()?;
    let socket = Socket::new(target.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    if target.domain() != Domain::UNIX {
        socket.set_reuse_address(true)?;
    }
    if beside {
        socket.set_reuse_port(true)?;
    }
    if target.domain() == Domain::IPV6 {
        // `[::]` takes IPv4 too, whatever the system's default (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    if let Address::Unix(path) = address {
        remove_stale(path, &target);
    }
    prepare(&socket, &target)?;
    socket.bind(&target)?;
    socket.listen(BACKLOG as i32)?;
    if beside {
        socket.set_reuse_port(false)?;
    }
    let address = match address {
        Address::Ip(_) => Address::from_sockaddr(&socket.local_addr()?),
        other => other.clone(),
    };
    Ok(ListenSocket { descriptor: Arc::new(Listening::Os(socket.into())), address })
}

/// Removes a socket file that nobody listens on any more: its owner was killed.
fn remove_stale(path: &std::path::Path, target: &SockAddr) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |socket: Socket| matches!(socket.connect(target), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused);
    if is_socket && Socket::new(Domain::UNIX, Type::STREAM, None).is_ok_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

/// A connection that was accepted and is not yet served; may go to another worker. Dropping it
/// closes it.
#[derive(Debug)]
pub struct Accepted(pub(crate) Descriptor);

#[derive(Debug)]
pub(crate) enum Descriptor {
    Os(OwnedFd),
    Simulated(SimSocket),
}

impl Accepted {
    pub(crate) fn into_raw(self) -> RawFd {
        match self.0 {
            Descriptor::Os(fd) => fd.into_raw_fd(),
            Descriptor::Simulated(socket) => socket.into_raw(),
        }
    }
}

/// Why a listener paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptError {
    /// The process or the system has no descriptor left. Nothing is lost: the connections wait in
    /// the backlog.
    OutOfDescriptors,
    /// Another error of the kernel, by its number.
    Other(i32),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptError::OutOfDescriptors => f.write_str("out of file descriptors"),
            AcceptError::Other(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
        }
    }
}

impl std::error::Error for AcceptError {}

/// One worker's acceptance from a listening socket.
pub(crate) struct Accepting {
    pub(crate) fd: RawFd,
    pub(crate) armed: bool,
    pub(crate) stopped: bool,
    arrived: VecDeque<Accepted>,
    failed: Option<AcceptError>,
    waker: Option<Waker>,
}

/// The listeners of a worker.
#[derive(Default)]
pub(crate) struct Listeners {
    slots: SlotMap<ListenerKey, Accepting>,
}

impl Listeners {
    pub(crate) fn get(&mut self, key: ListenerKey) -> Option<&mut Accepting> {
        self.slots.get_mut(key)
    }

    /// An accept brought a connection or an error number. `more`: it stays with the driver.
    pub(crate) fn accepted(&mut self, key: ListenerKey, what: Result<Accepted, i32>, more: bool) {
        let Some(accepting) = self.slots.get_mut(key) else { return };
        if !more {
            accepting.armed = false;
        }
        match what {
            Ok(accepted) => accepting.arrived.push_back(accepted),
            Err(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                accepting.failed = Some(AcceptError::OutOfDescriptors);
            }
            // The client was gone before we looked, or we cancelled: no news.
            Err(libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => accepting.failed = Some(AcceptError::Other(errno)),
        }
        if let Some(waker) = accepting.waker.take() {
            waker.wake();
        }
    }
}

/// Accepts connections on one worker.
pub struct Listener {
    reactor: Reactor,
    key: ListenerKey,
    /// Keeps the descriptor open while an accept is with the kernel.
    socket: ListenSocket,
}

impl Listener {
    /// Begins to accept.
    pub fn new(reactor: &Reactor, socket: ListenSocket) -> Listener {
        let accepting = Accepting {
            fd: socket.fd(),
            armed: false,
            stopped: false,
            arrived: VecDeque::new(),
            failed: None,
            waker: None,
        };
        let key = reactor.core().table.listeners.slots.insert(accepting);
        Listener { reactor: reactor.clone(), key, socket }
    }

    /// The next connection. `Ok(None)` after [`Listener::stop`], when what had been accepted is
    /// handed out. After an error the next call tries again; the caller paces that.
    pub async fn accept(&mut self) -> Result<Option<Accepted>, AcceptError> {
        poll_fn(|cx| {
            let mut core = self.reactor.core();
            let core = &mut *core;
            let accepting = core.table.listeners.get(self.key).expect("lives as long as self");
            if let Some(accepted) = accepting.arrived.pop_front() {
                return Poll::Ready(Ok(Some(accepted)));
            }
            if let Some(error) = accepting.failed.take() {
                return Poll::Ready(Err(error));
            }
            if accepting.stopped && !accepting.armed {
                return Poll::Ready(Ok(None));
            }
            store(&mut accepting.waker, cx.waker());
            if !accepting.armed {
                core.driver.accept(&mut core.table, self.key);
            }
            Poll::Pending
        })
        .await
    }

    /// Stops accepting. Connections that were accepted by then still come out of
    /// [`Listener::accept`]; then it is at its end, and [`Listener::sweep`] finds the rest.
    pub fn stop(&mut self) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        let accepting = core.table.listeners.get(self.key).expect("lives as long as self");
        accepting.stopped = true;
        self.socket.shut_out();
        let accepting = core.table.listeners.get(self.key).expect("lives as long as self");
        if accepting.armed {
            core.driver.cancel_accept(&mut core.table, self.key);
        }
        let accepting = core.table.listeners.get(self.key).expect("lives as long as self");
        if let Some(waker) = accepting.waker.take() {
            waker.wake();
        }
    }

    /// Takes a connection that waits in the backlog, without waiting: a client that has connected
    /// is served even when we are leaving.
    pub fn sweep(&mut self) -> Option<Accepted> {
        match &*self.socket.descriptor {
            Listening::Os(fd) => {
                sys::accept(fd.as_raw_fd()).ok().map(|fd| Accepted(Descriptor::Os(fd)))
            }
            Listening::Simulated(socket) => {
                socket.accept().map(|socket| Accepted(Descriptor::Simulated(socket)))
            }
        }
    }

    /// The address, with the real port.
    pub fn address(&self) -> &Address {
        self.socket.address()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut core = self.reactor.core();
        let core = &mut *core;
        let listeners = &mut core.table.listeners;
        let Some(accepting) = listeners.get(self.key) else { return };
        if accepting.armed {
            accepting.stopped = true;
            core.driver.cancel_accept(&mut core.table, self.key);
        }
        // A late completion finds no slot; its descriptor closes with the `Accepted` it is in.
        core.table.listeners.slots.remove(self.key);
    }
}

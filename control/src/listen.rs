//! Where control listens: addresses, binding, and what to say when that fails.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that the kernel queues while we are busy.
const BACKLOG: i32 = 128;
/// How long a bind waits for an address that a predecessor still holds; the data plane's listeners
/// wait as long.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// An address to listen on, or one that is listened on: then with the port that was chosen for 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A path in the file system. The socket is made with mode 0600.
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    /// As the config spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A bound and listening socket, not yet in a runtime, and its real address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: Listening,
    pub(crate) address: Listen,
}

#[derive(Debug)]
pub(crate) enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Bound {
    /// Binds the admin listener. TCP is for loopback only: admin has no tokens yet.
    pub(crate) fn admin(listen: &Listen) -> io::Result<Bound> {
        match listen {
            Listen::Tcp(address) if !address.ip().to_canonical().is_loopback() => {
                let hint = "admin listens on a Unix socket or on loopback (127.0.0.1, [::1]) only";
                Err(failed("admin", listen, &ErrorKind::InvalidInput.into(), Some(hint)))
            }
            _ => Bound::new("admin", listen),
        }
    }

    /// Binds the admin listener where nobody has asked for it, in a folder that is made if that can be;
    /// says why there is none.
    pub(crate) fn admin_if_free(listen: &Listen, say: fn(fmt::Arguments<'_>)) -> Option<Bound> {
        let Listen::Unix(path) = listen else { return None };
        if let Some(folder) = path.parent() {
            // Whatever is wrong with it, the bind says so.
            let _ = fs::create_dir(folder);
        }
        let bound = bind_unix(path);
        let tell = |error: &io::Error| {
            say(format_args!(
                "admin: none, {listen}: {error}; give it an address by `admin` or --admin, or write \
                 `admin: none`"
            ));
        };
        bound.inspect_err(tell).ok()
    }

    /// Binds the probes listener.
    pub(crate) fn probes(listen: &Listen) -> io::Result<Bound> {
        Bound::new("probes", listen)
    }

    /// Blocks for up to [`BIND_PATIENCE`] while the address is in use.
    fn new(name: &str, listen: &Listen) -> io::Result<Bound> {
        let give_up = Instant::now() + BIND_PATIENCE;
        loop {
            let bound = match listen {
                Listen::Unix(path) => bind_unix(path),
                Listen::Tcp(address) => bind_tcp(*address),
            };
            match bound {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < give_up => {
                    thread::sleep(RETRY_AFTER);
                }
                Err(error) => return Err(failed(name, listen, &error, hint(listen, error.kind()))),
                Ok(bound) => return Ok(bound),
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    let address = Listen::Tcp(listener.local_addr()?);
    Ok(Bound { socket: Listening::Tcp(listener), address })
}

/// The mode is set between bind and listen: before that nobody can connect, so there is no moment
/// in which another user could.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    let address = Listen::Unix(path.to_path_buf());
    Ok(Bound { socket: Listening::Unix(listener), address })
}

/// Removes the socket of a process that was killed: one at which nobody listens. Anything else at
/// that path stays, and the bind fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

fn failed(name: &str, listen: &Listen, error: &io::Error, hint: Option<&str>) -> io::Error {
    let hint = hint.map(|hint| format!(": {hint}")).unwrap_or_default();
    io::Error::new(error.kind(), format!("{name} cannot listen on {listen}: {error}{hint}"))
}

/// What to check, by the kind of failure.
fn hint(listen: &Listen, kind: ErrorKind) -> Option<&'static str> {
    match (listen, kind) {
        (Listen::Unix(_), ErrorKind::AddrInUse) => Some(
            "another ringside serves there, or the path is not a socket; \
             choose another with admin.address or --admin",
        ),
        (Listen::Unix(_), ErrorKind::NotFound) => Some("make the folder first"),
        (Listen::Unix(_), ErrorKind::PermissionDenied) => {
            Some("this user may not write to the folder; choose another path")
        }
        (Listen::Unix(_), ErrorKind::InvalidInput) => Some("a socket's path has at most 107 bytes"),
        (Listen::Tcp(_), ErrorKind::AddrInUse) => Some(
            "another process has this port (`ss -ltnp` names it); choose another, or 0 for any",
        ),
        (Listen::Tcp(_), ErrorKind::AddrNotAvailable) => {
            Some("this machine has no such address (`ip addr` lists those it has)")
        }
        (Listen::Tcp(_), ErrorKind::PermissionDenied) => {
            Some("ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_that_nobody_asked_for_is_had_where_it_is_free() {
        let folder = std::env::temp_dir().join(format!("ringside-admin-{}", std::process::id()));
        let listen = Listen::Unix(folder.join("admin.sock"));
        let first = Bound::admin_if_free(&listen, |why| panic!("{why}"));
        assert!(first.is_some(), "also where there was no folder");
        assert!(Bound::admin_if_free(&listen, |_| {}).is_none(), "it is another's");
        drop(first);
        assert!(Bound::admin_if_free(&listen, |why| panic!("{why}")).is_some(), "it is gone");
        fs::remove_dir_all(folder).unwrap();
    }
}

//! Where a socket listens or connects: IPv4, IPv6, or a Unix socket by path or abstract name.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use socket2::{Domain, SockAddr, Socket};

/// A socket address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Ip(SocketAddr),
    /// A Unix stream socket at a path.
    Unix(PathBuf),
    /// A Unix stream socket in Linux' abstract namespace, by its name without the leading NUL.
    Abstract(String),
}

/// What a TCP socket may hold that is not on the wire, in bytes. Without this the kernel takes up to
/// `tcp_wmem` (4 MiB as a rule) for a peer that reads nothing, and counts it against what all sockets
/// of the machine share.
const UNSENT_MAX: u32 = 128 * 1024;

/// How our TCP sockets are; what is accepted inherits it from the listening socket.
pub(crate) fn prepare(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    if address.domain() == Domain::UNIX {
        return Ok(());
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
    unpace_loopback(socket, address);
    Ok(())
}

/// Takes the pacing from a socket that stays on this machine. BBR paces by a timer per socket; on the
/// loopback device there is no queue to spare, and the timers cost more than the bytes.
fn unpace_loopback(socket: &Socket, address: &SockAddr) {
    let is_loopback = address.as_socket().is_some_and(|address| address.ip().is_loopback());
    let is_paced = || socket.tcp_congestion().is_ok_and(|name| name.starts_with(b"bbr"));
    if is_loopback && is_paced() {
        // Refused where only others are allowed: then it stays as the machine has it.
        let _ = socket.set_tcp_congestion(b"cubic").or_else(|_| socket.set_tcp_congestion(b"reno"));
    }
}

impl Address {
    pub(crate) fn to_sockaddr(&self) -> io::Result<SockAddr> {
        match self {
            Address::Ip(address) => Ok(SockAddr::from(*address)),
            Address::Unix(path) => SockAddr::unix(path),
            Address::Abstract(name) => {
                let name = [b"\0", name.as_bytes()].concat();
                SockAddr::unix(OsStr::from_bytes(&name))
            }
        }
    }

    pub(crate) fn from_sockaddr(address: &SockAddr) -> Address {
        if let Some(ip) = address.as_socket() {
            return Address::Ip(ip);
        }
        if let Some(name) = address.as_abstract_namespace() {
            return Address::Abstract(String::from_utf8_lossy(name).into_owned());
        }
        Address::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default())
    }

    /// The IP address, if it has one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) | Address::Abstract(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::Type;

    use super::*;

    #[test]
    fn only_loopback_sockets_are_not_paced() {
        let paced = |target: &str| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // A kernel without BBR has nothing to take away.
            let could = socket.set_tcp_congestion(b"bbr").is_ok();
            let target = SockAddr::from(target.parse::<SocketAddr>().unwrap());
            unpace_loopback(&socket, &target);
            (could, socket.tcp_congestion().unwrap().starts_with(b"bbr"))
        };
        assert!(!paced("127.0.0.1:80").1);
        let (could, is_paced) = paced("10.0.0.1:80");
        assert_eq!(could, is_paced);
    }
}

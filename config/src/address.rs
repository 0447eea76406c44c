//! Where to listen and whom to connect to: IP and port, a Unix socket, an abstract socket; and
//! networks of addresses that are believed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use crate::diagnostic::quoted;
use crate::reader::{scalar, text};
use crate::report::{Complaint, Report};
use crate::tree::Node;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Port 0 only where we listen: the kernel chooses.
    Ip(SocketAddr),
    /// Absolute, at most 107 bytes, no NUL: it fits a `sockaddr_un`.
    Unix(PathBuf),
    /// The name without the `@`: 1 to 107 bytes, no NUL.
    Abstract(String),
}

/// As it is written in the config.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// From the same text, as the command line has it; an error is in words, with what to write.
impl FromStr for Address {
    type Err = String;

    fn from_str(given: &str) -> Result<Address, String> {
        parse(given).map_err(|Complaint { message, hint }| match hint {
            Some(hint) => format!("{message}; {hint}"),
            None => message,
        })
    }
}

impl Address {
    /// Nobody outside this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Ip(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) | Address::Abstract(_) => true,
        }
    }

    /// Two listeners cannot have both. Port 0 is a new port each time.
    pub(crate) fn collides_with(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Ip(a), Address::Ip(b)) => {
                a.port() != 0 && a.port() == b.port() && ips_collide(a.ip(), b.ip())
            }
            (a, b) => a == b,
        }
    }
}

fn ips_collide(a: IpAddr, b: IpAddr) -> bool {
    let takes = |any: IpAddr, other: IpAddr| match any {
        IpAddr::V4(any) => any.is_unspecified() && other.to_canonical().is_ipv4(),
        // `[::]` takes IPv4 too.
        IpAddr::V6(any) => any.is_unspecified(),
    };
    a.to_canonical() == b.to_canonical() || takes(a, b) || takes(b, a)
}

/// The addresses that begin with the same bits: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl Network {
    /// An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether all addresses of the other are of this one.
    pub(crate) fn encloses(&self, other: &Network) -> bool {
        self.0.contains(&other.0)
    }

    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

pub(crate) fn listen_address(node: &Node, report: &mut Report<'_>) -> Option<Address> {
    address(node, report, parse)
}

pub(crate) fn endpoint_address(node: &Node, report: &mut Report<'_>) -> Option<Address> {
    address(node, report, |given| match parse(given)? {
        Address::Ip(address) if address.port() == 0 => {
            Err(Complaint::new("an endpoint has a port, and 0 is none"))
        }
        address => Ok(address),
    })
}

/// A number is let through: for a lone port, `parse` has the better hint.
fn address(
    node: &Node,
    report: &mut Report<'_>,
    parse: impl FnOnce(&str) -> Result<Address, Complaint>,
) -> Option<Address> {
    scalar(node, report, "an address", |scalar| parse(&scalar.text))
}

pub(crate) fn network(node: &Node, report: &mut Report<'_>) -> Option<Network> {
    text(node, report, "a network such as `10.0.0.0/8`", |given| {
        let wrong = || Complaint::new(format!("{} is not a network", quoted(given)));
        if let Ok(single) = given.parse::<IpAddr>() {
            return Ok(Network(IpNet::from(single.to_canonical())));
        }
        let net: IpNet =
            given.parse().map_err(|_| wrong().hint("write address/bits, such as `10.0.0.0/8`"))?;
        if net.addr() != net.network() {
            let message = format!("{} has bits set behind its prefix", quoted(given));
            return Err(Complaint::new(message).hint(format!("the network is `{}`", net.trunc())));
        }
        Ok(Network(canonical(net)))
    })
}

/// IPv4 in IPv6 clothes (`::ffff:10.0.0.0/104`) is what it is, as clients are.
fn canonical(net: IpNet) -> IpNet {
    let bits = net.prefix_len().checked_sub(96);
    match (net.addr().to_canonical(), bits) {
        (v4 @ IpAddr::V4(_), Some(bits)) if net.addr().is_ipv6() => {
            IpNet::new(v4, bits).unwrap_or(net)
        }
        _ => net,
    }
}

fn parse(given: &str) -> Result<Address, Complaint> {
    if let Some(rest) = given.strip_prefix("unix:") {
        return parse_unix(rest);
    }
    let parsed = given.parse::<SocketAddr>();
    let canonical = parsed.map(|it| match it.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, it.port()),
        IpAddr::V6(_) => it,
    });
    canonical.map(Address::Ip).map_err(|_| {
        let message = format!("{} is not an address", quoted(given));
        Complaint { message, hint: Some(address_hint(given)) }
    })
}

fn parse_unix(rest: &str) -> Result<Address, Complaint> {
    const UNIX_BYTES_MAX: usize = 107; // sockaddr_un.sun_path holds 108, one is the NUL
    if rest.contains('\0') {
        return Err(Complaint::new("a socket's path has no NUL in it"));
    }
    if rest.len() > UNIX_BYTES_MAX {
        let message =
            format!("a socket's path has at most {UNIX_BYTES_MAX} bytes, this has {}", rest.len());
        return Err(Complaint::new(message));
    }
    match rest.strip_prefix('@') {
        Some("") => Err(Complaint::new("an abstract socket needs a name: `unix:@name`")),
        Some(name) => Ok(Address::Abstract(name.into())),
        None if rest.ends_with('/') => {
            Err(Complaint::new("a socket's path is that of a file")
                .hint("write `unix:/run/name.sock`"))
        }
        None if rest.starts_with('/') => Ok(Address::Unix(rest.into())),
        None => Err(Complaint::new("a socket's path begins with `/`")
            .hint("write `unix:/run/name.sock`, or `unix:@name` for an abstract socket")),
    }
}

fn address_hint(given: &str) -> String {
    let (host, port) = given.rsplit_once(':').unwrap_or((given, ""));
    let port_is_number = port.parse::<u16>().is_ok();
    if given.parse::<u16>().is_ok() {
        return format!("write the address too: `127.0.0.1:{given}`");
    }
    if host.is_empty() && port_is_number {
        return format!("write the address too: `0.0.0.0{given}`");
    }
    if given.parse::<std::net::Ipv4Addr>().is_ok() {
        return format!("write the port too: `{given}:8080`");
    }
    if host.contains(':') {
        return "an IPv6 address stands in brackets, and in quotes: `\"[::1]:8080\"`".into();
    }
    if given.starts_with('/') || given.starts_with('@') {
        return format!("write `unix:{}`", given.escape_debug());
    }
    if port_is_number && host.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return "an IP address is needed here, names are not looked up".into();
    }
    "write `127.0.0.1:8080`, `\"[::1]:8080\"`, `unix:/path` or `unix:@name`; a port is at most 65535".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_are_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", "0.0.0.0:0", "unix:/run/a.sock", "unix:@a"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            ":80",
            "80",
            "localhost:80",
            "::1:80",
            "unix:",
            "unix:@",
            "unix:a",
            "1.2.3.4:99999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn collisions() {
        let collide = |a: &str, b: &str| parse(a).unwrap().collides_with(&parse(b).unwrap());
        for (a, b) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("unix:/a", "unix:/a"),
        ] {
            assert!(collide(a, b) && collide(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("unix:/a", "unix:@a"),
        ] {
            assert!(!collide(a, b) && !collide(b, a), "{a} {b}");
        }
    }

    #[test]
    fn a_network_sees_through_mapped_addresses() {
        let network = Network("10.0.0.0/8".parse().unwrap());
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
    }
}

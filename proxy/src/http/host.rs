//! Hosts and authorities: `name`, `192.0.2.1`, `[::1]`, each with an optional port.
//!
//! Stricter than RFC 3986, which lets a registered name hold percent-encoding and punctuation
//! that no client uses and that the next hop may read differently (`a,b` is what two Host fields
//! become when somebody joins them).

use std::io::Write as _;
use std::net::Ipv6Addr;

/// Whether `authority` is a host with an optional port: no userinfo, no path, no spaces, a port
/// between 1 and 65535. An empty one is not.
pub fn is_valid(authority: &[u8]) -> bool {
    match split_port(authority) {
        Some((host, port)) => is_host(host) && port.is_none_or(is_port),
        None => false,
    }
}

/// The same with a port that must be there, as CONNECT's target (RFC 9112 §3.2.3).
pub fn is_valid_with_port(authority: &[u8]) -> bool {
    matches!(split_port(authority), Some((host, Some(port))) if is_host(host) && is_port(port))
}

/// The host of a valid authority without its port; brackets of an IPv6 address stay.
pub fn strip_port(authority: &[u8]) -> &[u8] {
    match split_port(authority) {
        Some((host, _)) => host,
        None => authority,
    }
}

/// Room for an IPv6 address in its one spelling (RFC 5952), in brackets.
pub struct Ipv6Text {
    room: [u8; 48],
}

impl Default for Ipv6Text {
    fn default() -> Ipv6Text {
        Ipv6Text { room: [0; 48] }
    }
}

impl Ipv6Text {
    /// The host, an IPv6 address in brackets, as the config has it; what is none stays what it is.
    pub fn canonical<'t>(&'t mut self, host: &'t [u8]) -> &'t [u8] {
        let inner = host.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]"));
        let parsed = inner.and_then(|inner| str::from_utf8(inner).ok()?.parse::<Ipv6Addr>().ok());
        let Some(address) = parsed else { return host };
        let mut room = &mut self.room[..];
        let before = room.len();
        // It has at most 45 characters.
        if write!(room, "[{address}]").is_err() {
            return host;
        }
        let len = before - room.len();
        &self.room[..len]
    }
}

/// The port of a valid authority, if it names one.
pub fn port(authority: &[u8]) -> Option<&[u8]> {
    split_port(authority)?.1
}

/// Host and port, if the text has at most one colon outside of brackets.
fn split_port(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_len = if authority.first() == Some(&b'[') {
        authority.iter().position(|&b| b == b']')? + 1
    } else {
        memchr::memchr(b':', authority).unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_len);
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(port))),
        _ => None,
    }
}

fn is_host(host: &[u8]) -> bool {
    match host {
        [b'[', address @ .., b']'] => {
            str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
        }
        _ => !host.is_empty() && host.iter().all(|&b| NAME_BYTE[usize::from(b)]),
    }
}

/// The unreserved characters of RFC 3986 §2.3.
static NAME_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

fn is_port(port: &[u8]) -> bool {
    let mut number = 0u32;
    for &digit in port {
        if !digit.is_ascii_digit() || number > 65535 {
            return false;
        }
        number = number * 10 + u32::from(digit - b'0');
    }
    (1..=65535).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid() {
        for host in ["a", "a.b-c_d", "a:1", "a:65535", "1.2.3.4:80", "[::1]", "[fd00::1]:8080"] {
            assert!(is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn refused() {
        for host in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:99999999999",
            "a:+1",
            "a:8a",
            "a:1:2",
            "a/b",
            "u@a",
            "u:p@a",
            "a b",
            "a\0",
            "a\t",
            "a,b",
            "a%41",
            "[::1",
            "::1",
            "[::1]a",
            "[]",
            "[::1%eth0]",
            "[v1.x]",
            "é",
            "a?b",
            "a#b",
            "a\\b",
            "\"a\"",
            "<a>",
            "*",
        ] {
            assert!(!is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn ports() {
        assert!(is_valid_with_port(b"a:443") && !is_valid_with_port(b"a"));
        assert_eq!(strip_port(b"a:443"), b"a");
        assert_eq!(strip_port(b"[::1]:443"), b"[::1]");
        assert_eq!(strip_port(b"[::1]"), b"[::1]");
    }
}

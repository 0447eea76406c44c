//! Whether a request on TCP admin comes from a program of this machine or from a web page.
//!
//! A browser on this machine reaches loopback too. A page whose name was rebound to 127.0.0.1
//! still sends that name as `Host`, and a page from elsewhere sends its `Origin`: both are refused.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};

use crate::problem::Problem;

/// Lets a request pass whose Host is loopback, and whose Origin, if any, is this very listener.
pub(crate) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(foreign("send exactly one Host header"));
    };
    let host = host.to_str().unwrap_or_default();
    // RFC 9112 §3.2.2: a target in absolute form overrides Host, so that must be ours as well.
    if !is_loopback(host) || uri.authority().is_some_and(|target| !is_loopback(target.as_str())) {
        return Err(foreign("admin answers to localhost, 127.0.0.1 and [::1] only"));
    }
    let origins = headers.get_all(header::ORIGIN).iter();
    let ours = |origin: &[u8]| origin.strip_prefix(b"http://") == Some(host.as_bytes());
    if !origins.map(|origin| origin.as_bytes()).all(ours) {
        return Err(foreign("admin takes no requests from web pages of another origin"));
    }
    Ok(())
}

fn foreign(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, where the host is this machine's loopback.
fn is_loopback(authority: &str) -> bool {
    let (name, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, ""),
        Some((name, rest)) => match rest.strip_prefix(':') {
            Some(port) => (name, port),
            None => return false,
        },
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let is_address =
        |name: &str| name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    name.eq_ignore_ascii_case("localhost") || is_address(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(target: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&target.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn loopback_hosts_pass() {
        for host in [
            "localhost",
            "LocalHost:15000",
            "127.0.0.1",
            "127.9.0.1:1",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(passes("/livez", &[("host", host)]), "{host}");
        }
    }

    #[test]
    fn foreign_hosts_do_not() {
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.example:127.0.0.1",
            "10.0.0.1",
            "[::2]",
            "[::1]evil.example",
            "user@localhost",
            "localhost:80@evil.example",
            "[::1]:80@evil.example",
            "127.0.0.1.nip.io",
        ];
        for host in foreign {
            assert!(!passes("/livez", &[("host", host)]), "{host}");
        }
        assert!(!passes("/livez", &[]));
        assert!(!passes("/livez", &[("host", "localhost"), ("host", "evil.example")]));
    }

    #[test]
    fn an_absolute_target_counts_too() {
        assert!(passes("http://127.0.0.1:9/livez", &[("host", "localhost")]));
        assert!(!passes("http://evil.example/livez", &[("host", "localhost")]));
    }

    #[test]
    fn only_our_own_origin_passes() {
        let with = |origin| passes("/livez", &[("host", "localhost:9"), ("origin", origin)]);
        assert!(with("http://localhost:9"));
        for origin in ["null", "http://localhost:8", "https://evil.example", "http://evil.example"]
        {
            assert!(!with(origin), "{origin}");
        }
    }
}

//! Where a redirect leads: the request's own address, with what the route changes of it.

use config::{Redirect, RedirectPath, Scheme};

use super::host::{port, strip_port};
use super::rewrite::NewPrefix;

/// The address that was asked for, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    pub redirect: &'a Redirect,
    pub scheme: Scheme,
    /// With its port, if it has one.
    pub host: &'a [u8],
    pub path: &'a [u8],
    /// With its question mark, or empty.
    pub query: &'a [u8],
    /// Of the path, what the route's match took.
    pub matched: usize,
}

impl Location<'_> {
    /// Whether an absolute address can be made: HTTP/1.0 may leave the host out.
    pub fn has_host(&self) -> bool {
        self.redirect.host.is_some() || !self.host.is_empty()
    }

    /// Appends the value of the `location` field.
    pub fn write(&self, out: &mut Vec<u8>) {
        let to = self.redirect;
        let (scheme, usual): (&[u8], &[u8]) = match to.scheme.unwrap_or(self.scheme) {
            Scheme::Http => (b"http://", b"80"),
            Scheme::Https => (b"https://", b"443"),
        };
        out.extend_from_slice(scheme);
        let host = to.host.as_ref().map_or(strip_port(self.host), |host| host.as_bytes());
        out.extend_from_slice(host);
        let mut number = itoa::Buffer::new();
        let port = match to.port {
            Some(port) => Some(number.format(port).as_bytes()),
            // Another scheme or host has the usual one.
            None if to.scheme.is_some() || to.host.is_some() => None,
            None => port(self.host),
        };
        if let Some(port) = port.filter(|port| *port != usual) {
            out.push(b':');
            out.extend_from_slice(port);
        }
        let path = if self.path.first() == Some(&b'/') { self.path } else { b"/" };
        match &to.path {
            None => out.extend_from_slice(path),
            Some(RedirectPath::Whole(path)) => out.extend_from_slice(path.as_bytes()),
            Some(RedirectPath::Prefix(prefix)) => {
                NewPrefix { prefix, matched: self.matched }.write(out, path);
            }
        }
        out.extend_from_slice(self.query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let none = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };
        let https = Redirect { scheme: Some(Scheme::Https), ..none.clone() };
        let whole = |path: &str| Some(RedirectPath::Whole(path.to_owned()));
        let prefix = |path: &str| Some(RedirectPath::Prefix(path.to_owned()));
        for (redirect, host, path, matched, expect) in [
            (https.clone(), "a", "/x", 0, "https://a/x?q=1"),
            (https.clone(), "a:8080", "/x", 0, "https://a/x?q=1"),
            (Redirect { port: Some(443), ..https.clone() }, "a", "/", 0, "https://a/?q=1"),
            (Redirect { port: Some(8443), ..https.clone() }, "a:1", "/", 0, "https://a:8443/?q=1"),
            (
                Redirect { port: Some(81), ..none.clone() },
                "[::1]:80",
                "/",
                0,
                "http://[::1]:81/?q=1",
            ),
            (
                Redirect { host: Some("b".into()), ..none.clone() },
                "a:8080",
                "/x",
                0,
                "http://b/x?q=1",
            ),
            (
                Redirect { path: whole("/y"), ..none.clone() },
                "a:8080",
                "/x",
                0,
                "http://a:8080/y?q=1",
            ),
            (Redirect { path: whole("/y"), ..none.clone() }, "a:80", "/x", 0, "http://a/y?q=1"),
            (
                Redirect { path: prefix("/v2"), ..none.clone() },
                "a",
                "/api/x",
                4,
                "http://a/v2/x?q=1",
            ),
            (Redirect { path: prefix("/"), ..none.clone() }, "a", "/api/x", 4, "http://a/x?q=1"),
            (https.clone(), "a", "*", 0, "https://a/?q=1"),
        ] {
            let location = Location {
                redirect: &redirect,
                scheme: Scheme::Http,
                host: host.as_bytes(),
                path: path.as_bytes(),
                query: b"?q=1",
                matched,
            };
            let mut out = Vec::new();
            location.write(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
    }
}

//! The request target (RFC 9112 §3.2): its four forms, and what of it is host, path and query.

use super::host;
use super::method::Method;

/// Which of the four forms a target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`; its authority replaces Host.
    Absolute,
    /// `host:port`, CONNECT only.
    Authority,
    /// `*`, OPTIONS only.
    Asterisk,
}

/// A valid target, as slices of the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub form: Form,
    /// Of the absolute and authority forms, else empty.
    pub authority: &'a [u8],
    /// What a router compares: begins with `/`, or is `*`, or is empty (CONNECT, and an absolute
    /// form without a path).
    pub path: &'a [u8],
    /// With its question mark, or empty.
    pub query: &'a [u8],
}

/// Reads `target`; `None` if it is none that `method` may have.
pub fn parse(target: &[u8], method: Method) -> Option<Target<'_>> {
    // RFC 9112 §3.2.3: the authority form is for CONNECT, and CONNECT has no other.
    if method == Method::Connect {
        return host::is_valid_with_port(target).then_some(Target {
            form: Form::Authority,
            authority: target,
            path: &[],
            query: &[],
        });
    }
    match target {
        [b'/', ..] => {
            let (path, query) = split_query(target)?;
            Some(Target { form: Form::Origin, authority: &[], path, query })
        }
        // RFC 9112 §3.2.4: the asterisk form is for OPTIONS.
        b"*" if method == Method::Options => {
            Some(Target { form: Form::Asterisk, authority: &[], path: target, query: &[] })
        }
        _ => {
            let rest = strip_scheme(target)?;
            let authority_len =
                rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(authority_len);
            let (path, query) = split_query(rest)?;
            host::is_valid(authority).then_some(Target {
                form: Form::Absolute,
                authority,
                path,
                query,
            })
        }
    }
}

/// After `http://` or `https://`, in any case.
fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    for scheme in [&b"http://"[..], b"https://"] {
        if let Some((start, rest)) = target.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return Some(rest);
        }
    }
    None
}

/// Path and query, if every byte may stand in a target.
fn split_query(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_plain = |b: &u8| PLAIN[usize::from(*b)];
    let path_len = target.iter().position(|b| !is_plain(b)).unwrap_or(target.len());
    let (path, query) = target.split_at(path_len);
    let may_stand = |b: &u8| is_plain(b) || *b == b'?';
    (query.is_empty() || query[0] == b'?' && query.iter().all(may_stand)).then_some((path, query))
}

/// Controls and space would end the target; `#` begins a fragment, which is never sent and which
/// the next hop may cut off or not. Everything else that browsers and curl send unescaped, bytes
/// beyond ASCII too, goes on as it came. A question mark is plain only in a query.
static PLAIN: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte <= 0x20 {
        table[byte] = false;
        byte += 1;
    }
    table[0x7f] = false;
    table[b'#' as usize] = false;
    table[b'?' as usize] = false;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, target: &str, expect: Option<(Form, &str, &str, &str)>) {
        let expect = expect.map(|(form, authority, path, query)| Target {
            form,
            authority: authority.as_bytes(),
            path: path.as_bytes(),
            query: query.as_bytes(),
        });
        assert_eq!(parse(target.as_bytes(), method), expect, "{method:?} {target:?}");
    }

    #[test]
    fn forms() {
        use Form::*;
        check(Method::Get, "/", Some((Origin, "", "/", "")));
        check(Method::Get, "/a?b=c?d", Some((Origin, "", "/a", "?b=c?d")));
        check(Method::Get, "//a/b", Some((Origin, "", "//a/b", "")));
        check(Method::Get, "/é|{}^\"", Some((Origin, "", "/é|{}^\"", "")));
        check(Method::Get, "http://a", Some((Absolute, "a", "", "")));
        check(Method::Get, "HTTP://a:80/b?c", Some((Absolute, "a:80", "/b", "?c")));
        check(Method::Get, "https://[::1]:8/?c", Some((Absolute, "[::1]:8", "/", "?c")));
        check(Method::Get, "http://a?c", Some((Absolute, "a", "", "?c")));
        check(Method::Options, "*", Some((Asterisk, "", "*", "")));
        check(Method::Connect, "a:443", Some((Authority, "a:443", "", "")));
    }

    #[test]
    fn refused() {
        for target in [
            "",
            "*",
            "a",
            "a:80",
            "/a#b",
            "/a b",
            "/\x7f",
            "/\t",
            "?a",
            "http:/a",
            "http://",
            "http:///a",
            "http://u@a/",
            "http://a b/",
            "http://a#b",
            "ftp://a/",
            "http://a:x/",
            "//",
            "/",
        ] {
            let ok = target.starts_with("//") || target == "/";
            assert_eq!(parse(target.as_bytes(), Method::Get).is_some(), ok, "{target:?}");
        }
        check(Method::Options, "**", None);
        check(Method::Connect, "/", None);
        check(Method::Connect, "a", None);
        check(Method::Connect, "http://a:80/", None);
        check(Method::Connect, "a:80/", None);
    }
}

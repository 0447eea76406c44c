//! One spelling for each path (RFC 3986 §6.2.2), so that what a route compares is what the upstream
//! gets, and no second spelling of `/admin` goes around a rule about it.
//!
//! Escapes of unreserved characters are decoded (`%2e` is a dot), runs of slashes become one, and
//! the segments `.` and `..` are resolved, never above the root. Everything else stays as it was
//! sent: `%2f` is not a slash, and `%252e` is not decoded twice.

/// Makes `path` normal in place. Returns its new length, never greater than it was; what stands
/// behind that is of no meaning. A path that does not begin with `/` (`*`, or none) stays.
pub fn normalize(path: &mut [u8]) -> usize {
    if is_normal(path) {
        return path.len();
    }
    let len = decode(path);
    resolve(&mut path[..len])
}

/// Whether nothing in it could need a change: no escape, no empty segment, none that begins with a
/// dot.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return true;
    }
    let mut after_slash = false;
    path.iter().all(|&byte| {
        let fits = byte != b'%' && !(after_slash && matches!(byte, b'/' | b'.'));
        after_slash = byte == b'/';
        fits
    })
}

/// RFC 3986 §6.2.2.2: decodes what needs no escape.
fn decode(path: &mut [u8]) -> usize {
    let (mut from, mut to) = (0, 0);
    while from < path.len() {
        match escaped(&path[from..]) {
            // What would complete a broken escape before it, so that the next hop decoded that.
            Some(byte) if is_unreserved(byte) && !begins_escape(&path[..to]) => {
                path[to] = byte;
                from += 3;
                to += 1;
            }
            _ => {
                path[to] = path[from];
                from += 1;
                to += 1;
            }
        }
    }
    to
}

/// The byte that `%XX` at the start of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Whether the end of `text` is the beginning of an escape: `%` or `%X`.
fn begins_escape(text: &[u8]) -> bool {
    match *text {
        [.., b'%'] => true,
        [.., b'%', digit] => digit.is_ascii_hexdigit(),
        _ => false,
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 §5.2.4, and runs of slashes as one.
fn resolve(path: &mut [u8]) -> usize {
    // `path[..to]` is normal and ends before the slash of the segment that comes.
    let (mut from, mut to) = (0, 0);
    while from < path.len() {
        let start = from + 1;
        let rest = &path[start..];
        let end = start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let is_last = end == path.len();
        match &path[start..end] {
            // A directory's slash at the end stays.
            b"" | b"." if is_last => {
                path[to] = b'/';
                to += 1;
            }
            b".." => {
                to = path[..to].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                if is_last {
                    path[to] = b'/';
                    to += 1;
                }
            }
            b"" | b"." => {}
            _ => {
                path.copy_within(from..end, to);
                to += end - from;
            }
        }
        from = end;
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        let len = normalize(&mut path);
        path.truncate(len);
        path
    }

    #[test]
    fn rows() {
        for (path, expect) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("*", "*"),
            ("", ""),
            ("//", "/"),
            ("///a//b//", "/a/b/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/../../../c", "/c"),
            ("/a//../b", "/b"),
            ("/.a/..b/...", "/.a/..b/..."),
            ("/a/%2e%2E/b", "/b"),
            ("/%2e", "/"),
            ("/a/.%2e", "/"),
            ("/%61dm%69n%7E%5f", "/admin~_"),
            ("/a%2fb%2F..", "/a%2fb%2F.."),
            ("/a%2f../b", "/a%2f../b"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%2%65%2%65/a", "/%2%65%2%65/a"),
            ("/%%32e/a", "/%%32e/a"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%zz/%20/%c3%a9", "/%zz/%20/%c3%a9"),
            ("/a;b/..;/c", "/a;b/..;/c"),
            ("/a\\..\\b", "/a\\..\\b"),
        ] {
            assert_eq!(normal(path.as_bytes()), expect.as_bytes(), "{path}");
        }
    }

    /// As RFC 3986 says it, segment by segment, with memory of its own.
    fn reference(path: &str) -> String {
        let mut decoded = String::new();
        let mut rest = path;
        while let Some(first) = rest.chars().next() {
            let byte = rest.get(1..3).filter(|_| first == '%');
            let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let byte = byte.filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b));
            match byte.filter(|_| !begins_escape(decoded.as_bytes())) {
                Some(byte) => {
                    decoded.push(char::from(byte));
                    rest = &rest[3..];
                }
                None => {
                    decoded.push(first);
                    rest = &rest[1..];
                }
            }
        }
        let mut segments = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let is_directory = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
        let mut path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        if is_directory || path.is_empty() {
            path.push('/');
        }
        path
    }

    proptest! {
        #[test]
        fn like_the_reference_and_settled(path in "/([/.%2eEfFa5]|%2[eEfF]|%[46]1){0,24}") {
            let once = normal(path.as_bytes());
            prop_assert_eq!(String::from_utf8_lossy(&once), reference(&path));
            prop_assert_eq!(normal(&once), once);
        }
    }
}

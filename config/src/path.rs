//! One spelling for each path (RFC 3986 §6.2.2), so that what a route compares is what the upstream
//! gets, and no second spelling of `/admin` goes around a rule about it.
//!
//! Escapes of unreserved characters are decoded (`%2e` is a dot), all others get capital digits
//! (`%c3` is `%C3`), and what may not stand in a path is escaped, like a byte of UTF-8, or a `%` that
//! begins no escape. Runs of slashes become one, and the segments `.` and `..` are resolved, never
//! above the root. `%2f` is not a slash and stays as it was sent, and nothing is decoded twice.

/// The normal form of `path`, at most three times as long; `None` where it has that already. A path
/// that does not begin with `/` (`*`, or none) stays.
pub fn normal_path(path: &[u8]) -> Option<Vec<u8>> {
    if path.first() != Some(&b'/') || is_normal(path) {
        return None;
    }
    let mut normal = respelled(path);
    let len = resolve(&mut normal);
    normal.truncate(len);
    Some(normal)
}

/// Whether nothing could need a change. It says no to a segment that begins with a dot, whatever
/// follows.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    path.iter().enumerate().all(|(at, &byte)| {
        let fits = match byte {
            b'%' => is_normal_escape(&path[at..]),
            b'/' | b'.' => !after_slash,
            _ => is_plain(byte),
        };
        after_slash = byte == b'/';
        fits
    })
}

fn is_normal_escape(text: &[u8]) -> bool {
    match escaped(text) {
        Some(b'/') => true,
        Some(byte) => !is_unreserved(byte) && !text[1..3].iter().any(u8::is_ascii_lowercase),
        None => false,
    }
}

/// RFC 3986 §6.2.2.1 and §6.2.2.2.
fn respelled(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(&first) = rest.first() {
        let escape = escaped(rest);
        let (taken, after) = rest.split_at(if escape.is_some() { 3 } else { 1 });
        rest = after;
        match escape {
            Some(b'/') => text.extend_from_slice(taken),
            Some(byte) if is_unreserved(byte) => text.push(byte),
            Some(byte) => push_escape(&mut text, byte),
            None if is_plain(first) => text.push(first),
            None => push_escape(&mut text, first),
        }
    }
    text
}

fn push_escape(text: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |of: u8| DIGITS[usize::from(of)];
    text.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
}

/// The byte that `%XX` at the start of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 §3.3: whether a path may hold it as it is.
pub(crate) fn is_plain(byte: u8) -> bool {
    is_unreserved(byte) || b"/!$&'()*+,;=:@".contains(&byte)
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
        normal_path(path).unwrap_or_else(|| path.to_vec())
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
            ("/%2%65%2%65/a", "/%252e%252e/a"),
            ("/%%32e/a", "/%252e/a"),
            ("/%", "/%25"),
            ("/%2", "/%252"),
            ("/%zz/%20/%c3%a9", "/%25zz/%20/%C3%A9"),
            ("/é/%c3%A9", "/%C3%A9/%C3%A9"),
            ("/%é%", "/%25%C3%A9%25"),
            ("/%c/%C", "/%25c/%25C"),
            ("/%%6a/%6%6a", "/%25j/%256j"),
            ("/a;b/..;/c", "/a;b/..;/c"),
            ("/a\\..\\b/%5c", "/a%5C..%5Cb/%5C"),
            ("/{a}|<\"b\">^`", "/%7Ba%7D%7C%3C%22b%22%3E%5E%60"),
            ("/!$&'()*+,;=:@/%21%3a", "/!$&'()*+,;=:@/%21%3A"),
        ] {
            assert_eq!(normal(path.as_bytes()), expect.as_bytes(), "{path}");
        }
    }

    /// As RFC 3986 says it, segment by segment, with memory of its own.
    fn reference(path: &str) -> String {
        let mut spelled = String::new();
        let mut rest = path;
        while let Some(first) = rest.chars().next() {
            let hex = rest.get(1..3).filter(|_| first == '%');
            let escape = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let (_, after) = rest.split_at(escape.map_or(first.len_utf8(), |_| 3));
            let text = &rest[..rest.len() - after.len()];
            rest = after;
            match escape.map(char::from) {
                Some('/') => spelled += text,
                Some(c @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~')) => {
                    spelled.push(c);
                }
                Some(_) => spelled += &text.to_uppercase(),
                None if first.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@".contains(first) => {
                    spelled.push(first);
                }
                None => text.bytes().for_each(|byte| spelled += &format!("%{byte:02X}")),
            }
        }
        let mut segments = Vec::new();
        for segment in spelled.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let is_directory = ["/", "/.", "/.."].iter().any(|end| spelled.ends_with(end));
        let mut path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        if is_directory || path.is_empty() {
            path.push('/');
        }
        path
    }

    proptest! {
        #[test]
        fn like_the_reference_and_settled(path in "/([/.%2eEfFa5{é]|%2[eEfF]|%[46]1|%[aAcC][3dD]){0,24}") {
            let once = normal(path.as_bytes());
            prop_assert_eq!(String::from_utf8_lossy(&once), reference(&path));
            prop_assert_eq!(normal(&once), once);
        }
    }
}

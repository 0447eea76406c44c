//! Whether there is a path at all that a regex fits: `api/.*` fits none, nor `/a\?b=.*`.
//!
//! Walks the regex' table and, beside it, a small automaton of what paths look like.

use std::collections::HashSet;

use crate::regex::Regex;

/// Where in a path one is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Begin,
    /// After a slash.
    Slash,
    /// After the one dot, or the two dots, that a segment begins with.
    Dot,
    Dots,
    Inside,
    Percent,
    /// After a percent sign and this digit.
    Digit(u8),
    /// The request is for `*`.
    Star,
}

impl At {
    /// Where the next byte leads in a [normal](crate::normal_path) path; `None`: nowhere.
    fn next(self, byte: u8) -> Option<At> {
        match (self, byte) {
            (At::Begin, b'/') => Some(At::Slash),
            (At::Begin, b'*') => Some(At::Star),
            (At::Begin | At::Star, _) | (At::Slash | At::Dot | At::Dots, b'/') => None,
            (At::Slash, b'.') => Some(At::Dot),
            (At::Dot, b'.') => Some(At::Dots),
            // Escapes are in capitals, but for `%2f`.
            (At::Digit(b'2'), b'f') => Some(At::Inside),
            (At::Percent, b'0'..=b'9' | b'A'..=b'F') => Some(At::Digit(byte)),
            (At::Digit(_), b'0'..=b'9' | b'A'..=b'F') => Some(At::Inside),
            (At::Percent | At::Digit(_), _) => None,
            (_, b'/') => Some(At::Slash),
            (_, b'%') => Some(At::Percent),
            (_, byte) => crate::path::is_plain(byte).then_some(At::Inside),
        }
    }

    /// The same where paths are left as they are sent.
    fn next_as_sent(self, byte: u8) -> Option<At> {
        match (self, byte) {
            (At::Begin, b'/') => Some(At::Inside),
            (At::Begin, b'*') => Some(At::Star),
            (At::Begin | At::Star, _) => None,
            (_, byte) => (byte > b' ' && byte != 0x7f && byte != b'?').then_some(At::Inside),
        }
    }

    fn may_end(self) -> bool {
        matches!(self, At::Slash | At::Inside | At::Star)
    }
}

/// Whether some path fits. `looks` is what may still be spent, a byte of a state each; when it is used
/// up, every regex is said to fit.
pub(crate) fn fits_some_path(regex: &Regex, normalized: bool, looks: &mut usize) -> bool {
    let begin = (regex.start(), At::Begin);
    let mut seen = HashSet::from([begin]);
    let mut ahead = vec![begin];
    while let Some((state, at)) = ahead.pop() {
        if at.may_end() && regex.ends(state) {
            return true;
        }
        let Some(left) = looks.checked_sub(256) else { return true };
        *looks = left;
        for byte in 0..=u8::MAX {
            let next = if normalized { at.next(byte) } else { at.next_as_sent(byte) };
            let Some(next) = next else { continue };
            if let Some(state) = regex.next(state, byte)
                && seen.insert((state, next))
            {
                ahead.push((state, next));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        // The regex; whether it fits a normal path, and one as it was sent.
        for (regex, normal, as_sent) in [
            (".*", true, true),
            ("/", true, true),
            ("", false, false),
            (r"\*", true, true),
            ("/api/.*", true, true),
            ("^/api/[0-9]+$", true, true),
            ("api/.*", false, false),
            ("^api", false, false),
            ("a?/api", true, true),
            ("a|/b", true, true),
            (r"\d+", false, false),
            ("[^/]+", true, true), // `*`
            ("[a-z]+", false, false),
            (r"/api\?x=.*", false, false),
            (r"/api(\?x=.*)?", true, true),
            ("/a b", false, false),
            ("/a//b", false, true),
            (r"/a/\.\./b", false, true),
            (r"/a/\.", false, true),
            (r"/a/\.+/b", true, true), // three of them
            (r"/\.well-known/.*", true, true),
            ("/caf%c3%a9", false, true),
            ("/caf%C3%A9", true, true),
            ("/a%2fb", true, true),
            ("/a%2[fF]b", true, true),
            ("/%zz/%", false, true),
            ("/%25zz/%25", true, true),
            ("/%c", false, true),
            ("/\u{fc}", false, true),
            (r"/\{x\}", false, true),
            ("/[\\x00-\\x20]", false, false),
            ("/a#b", false, true),
        ] {
            let parsed: Regex = regex.parse().unwrap();
            let fits = [true, false].map(|normal| fits_some_path(&parsed, normal, &mut 1_000_000));
            assert_eq!(fits, [normal, as_sent], "{regex}");
        }
        assert!(fits_some_path(&"x".parse().unwrap(), true, &mut 100), "nothing to spend");
    }
}

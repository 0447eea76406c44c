//! The cookies of a request (RFC 6265 §4.2.1): `a=1; b=2`.

/// Names and values in one `cookie` field, as they were sent, quotes included.
pub fn pairs(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|&byte| byte == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        Some((pair[..at].trim_ascii_end(), pair[at + 1..].trim_ascii_start()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        for (value, expect) in [
            ("", &[][..]),
            ("a", &[]),
            ("a=1", &[("a", "1")]),
            ("a=1;b=2 ;  c=\"x y\"", &[("a", "1"), ("b", "2"), ("c", "\"x y\"")]),
            (";;a==;=b", &[("a", "="), ("", "b")]),
        ] {
            let expect: Vec<_> =
                expect.iter().map(|(n, v): &(&str, &str)| (n.as_bytes(), v.as_bytes())).collect();
            assert_eq!(pairs(value.as_bytes()).collect::<Vec<_>>(), expect, "{value}");
        }
    }
}

//! The parameters of a query: `?a=1&b=2`, as the WHATWG URL standard reads a form (§5.1).

/// Names and values, as they were sent; one without `=` has an empty value. `query` is with its
/// question mark, or empty.
pub fn parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let query = query.strip_prefix(b"?").unwrap_or(query);
    let parts = query.split(|&byte| byte == b'&').filter(|part| !part.is_empty());
    parts.map(|part| match memchr::memchr(b'=', part) {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, &part[part.len()..]),
    })
}

/// The bytes that a name or value stands for: `+` is a space, `%XX` a byte; a broken escape is as it
/// is.
pub fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let mut rest = text;
    std::iter::from_fn(move || {
        let (byte, len) = match *rest {
            [] => return None,
            [b'+', ..] => (b' ', 1),
            [b'%', high, low, ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (byte, 1),
        };
        rest = &rest[len..];
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_what_they_stand_for() {
        for (query, expect) in [
            ("", &[][..]),
            ("?", &[]),
            ("?a", &[("a", "")]),
            ("?a=1&b=2", &[("a", "1"), ("b", "2")]),
            ("?&&a==&=x&", &[("a", "="), ("", "x")]),
            ("?a+b=%41%2b%zz%4", &[("a b", "A+%zz%4")]),
        ] {
            let text = |bytes| String::from_utf8(decoded(bytes).collect()).unwrap();
            let found: Vec<(String, String)> = parameters(query.as_bytes())
                .map(|(name, value)| (text(name), text(value)))
                .collect();
            let expect: Vec<(String, String)> =
                expect.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            assert_eq!(found, expect, "{query}");
        }
    }
}

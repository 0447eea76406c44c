//! Writing one flat JSON object, from bytes that nobody has checked.

/// An object under construction at the end of `out`.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, empty: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub(super) fn text(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        write_text(self.out, value);
    }

    /// `key` is one of our own names and holds nothing to escape.
    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// A JSON string. What is not UTF-8 becomes U+FFFD, as in every decoder that a reader would use.
fn write_text(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            write_escaped(out, chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Whether `value` is ASCII without anything to escape, as nearly all is. Without an early return,
/// so that the compiler can take many bytes at a time.
fn is_plain(value: &[u8]) -> bool {
    let special = |byte: u8| !(0x20..0x7f).contains(&byte) | (byte == b'"') | (byte == b'\\');
    !value.iter().fold(false, |any, byte| any | special(*byte))
}

/// RFC 8259 §7: quote, backslash and everything below U+0020 is escaped. DEL too, since lines are
/// read in terminals; so are U+0080 to U+009F, some of which terminals obey as well.
fn write_escaped(out: &mut Vec<u8>, utf8: &[u8]) {
    let mut copied = 0;
    for (at, byte) in utf8.iter().enumerate() {
        // U+0080 to U+009F are C2 80 to C2 9F.
        let (length, code) = match (*byte, utf8.get(at + 1)) {
            (b'"' | b'\\' | 0..0x20 | 0x7f, _) => (1, *byte),
            (0xc2, Some(second @ 0x80..0xa0)) => (2, *second),
            _ => continue,
        };
        out.extend_from_slice(&utf8[copied..at]);
        write_escape(out, code);
        copied = at + length;
    }
    out.extend_from_slice(&utf8[copied..]);
}

fn write_escape(out: &mut Vec<u8>, code: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match code {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', code]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            let (high, low) = (HEX[usize::from(code >> 4)], HEX[usize::from(code & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &[u8]) -> String {
        let mut out = Vec::new();
        write_text(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_must_be_escaped_is() {
        assert_eq!(text(b"/a?b=c"), r#""/a?b=c""#);
        assert_eq!(text(b"\"\\\n\r\t"), r#""\"\\\n\r\t""#);
        assert_eq!(text(b"\0\x1b[2J\x7f"), r#""\u0000\u001b[2J\u007f""#);
        assert_eq!(text("é\u{9b}2J\u{a0}".as_bytes()), "\"é\\u009b2J\u{a0}\"");
        assert_eq!(text(b"a\xffb\xc3"), "\"a\u{fffd}b\u{fffd}\"");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_as_a_decoder_reads_them(
            value in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let read: String = serde_json::from_str(&text(&value)).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value));
        }

        #[test]
        fn no_line_is_broken_and_no_terminal_told(value in any::<String>()) {
            prop_assert!(!text(value.as_bytes()).chars().any(char::is_control));
        }
    }
}

//! Heads: collecting one from the bytes that arrive, and the few fields that framing needs.

use memchr::{memchr, memmem};

/// The longest head that either reader takes.
pub(crate) const HEAD_SIZE_MAX: usize = 64 * 1024;

/// The peer broke the protocol; the text says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Collects a head. In the usual case it arrives whole and is never copied.
#[derive(Default)]
pub(crate) struct Collector {
    partial: Vec<u8>,
}

impl Collector {
    /// Whether a head has begun but not ended.
    pub(crate) fn has_begun(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Takes bytes until the head's end. Returns how many were taken, and what `parse` makes of
    /// the head once it is whole.
    pub(crate) fn take<T>(
        &mut self,
        bytes: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<(usize, Option<T>), Malformed> {
        if self.partial.is_empty() {
            if let Some(end) = end_of_head(bytes) {
                return Ok((end, Some(parse(&bytes[..end])?)));
            }
            self.partial.extend_from_slice(bytes);
        } else {
            // The end may straddle what we have and what came.
            let before = self.partial.len();
            let from = before.saturating_sub(3);
            self.partial.extend_from_slice(bytes);
            if let Some(end) = end_of_head(&self.partial[from..]) {
                let end = from + end;
                let parsed = parse(&self.partial[..end]);
                self.partial.clear();
                return Ok((end - before, Some(parsed?)));
            }
        }
        if self.partial.len() > HEAD_SIZE_MAX {
            return Err(Malformed("head longer than 64 KiB"));
        }
        Ok((bytes.len(), None))
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The fields that decide framing and reuse, and the one by which tests recognise a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head<'h> {
    /// The request or status line, without its line end.
    pub(crate) start: &'h [u8],
    pub(crate) content_length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) close: bool,
    pub(crate) expect_continue: bool,
    pub(crate) test_id: Option<&'h [u8]>,
}

impl<'h> Head<'h> {
    /// `head` ends with its empty line.
    pub(crate) fn parse(head: &'h [u8]) -> Result<Head<'h>, Malformed> {
        let mut rest = head;
        let mut next_line = || -> &'h [u8] {
            let end = memchr(b'\n', rest).unwrap_or(rest.len() - 1);
            let line = &rest[..end];
            rest = &rest[end + 1..];
            line.strip_suffix(b"\r").unwrap_or(line)
        };
        let mut found = Head { start: next_line(), ..Head::default() };
        loop {
            let line = next_line();
            if line.is_empty() {
                return Ok(found);
            }
            found.field(line)?;
        }
    }

    fn field(&mut self, line: &'h [u8]) -> Result<(), Malformed> {
        let colon = memchr(b':', line).ok_or(Malformed("header line without a colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Most fields are none of ours: their length alone says so.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.content_length =
                    Some(decimal(value).ok_or(Malformed("content-length is no number"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.close = value.eq_ignore_ascii_case(b"close");
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.expect_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            9 if name.eq_ignore_ascii_case(b"x-test-id") => self.test_id = Some(value),
            _ => {}
        }
        Ok(())
    }
}

/// A plain decimal number; nothing else, not even a sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_case() {
        let head = Head::parse(
            b"POST / HTTP/1.1\r\nContent-LENGTH: 12\r\nhost: a\r\nX-Test-Id:  7 \r\nConnection: Close\r\n\r\n",
        )
        .unwrap();
        assert_eq!(head.start, b"POST / HTTP/1.1");
        assert_eq!(head.content_length, Some(12));
        assert_eq!(head.test_id, Some(&b"7"[..]));
        assert!(head.close && !head.chunked && !head.expect_continue);
    }

    #[test]
    fn a_length_is_digits_only() {
        assert_eq!(decimal(b"042"), Some(42));
        for bad in [&b""[..], b"+1", b"-1", b"1 ", b"0x1", b"99999999999999999999"] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_is_collected_across_any_split() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for split in 0..=head.len() {
            let mut collector = Collector::default();
            let first = collector.take(&head[..split], |h| Ok(h.len())).unwrap();
            if split == head.len() {
                assert_eq!(first, (head.len(), Some(head.len())));
                continue;
            }
            assert_eq!(first, (split, None));
            let mut rest = head[split..].to_vec();
            rest.extend_from_slice(b"next");
            let second = collector.take(&rest, |h| Ok(h.len())).unwrap();
            assert_eq!(second, (head.len() - split, Some(head.len())));
            assert!(!collector.has_begun());
        }
    }
}

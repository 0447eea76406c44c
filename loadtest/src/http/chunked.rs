//! The chunked coding, read: counts the data, skips extensions and trailers.

use super::head::Malformed;

/// How far into a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    /// In the rest of the size line, which is an extension or the line end.
    Extension,
    Data,
    /// After the data; so many of CR LF have been seen.
    DataEnd(u8),
    /// In the trailers; whether the current line has had a byte.
    Trailer {
        line_has_bytes: bool,
    },
    End,
}

/// Reads one chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunked {
    at: At,
    size: u64,
    digits: u8,
    /// Bytes of data seen so far.
    pub(crate) length: u64,
}

impl Chunked {
    pub(crate) fn new() -> Chunked {
        Chunked { at: At::Size, size: 0, digits: 0, length: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// Takes bytes up to the end of the body and returns how many.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while taken < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let part = self.size.min((bytes.len() - taken) as u64);
                self.size -= part;
                self.length += part;
                taken += part as usize;
                if self.size == 0 {
                    self.at = At::DataEnd(0);
                }
            } else {
                self.at = self.step(bytes[taken])?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        match self.at {
            At::Size => match (byte as char).to_digit(16) {
                Some(_) if self.digits == 15 => Err(Malformed("chunk size too large")),
                Some(digit) => {
                    self.size = self.size << 4 | u64::from(digit);
                    self.digits += 1;
                    Ok(At::Size)
                }
                None if self.digits == 0 => Err(Malformed("chunk without a size")),
                None if byte == b'\r' || byte == b';' => Ok(At::Extension),
                None => Err(Malformed("chunk size is no number")),
            },
            At::Extension if byte != b'\n' => Ok(At::Extension),
            At::Extension => {
                self.digits = 0;
                Ok(if self.size == 0 { At::Trailer { line_has_bytes: false } } else { At::Data })
            }
            At::DataEnd(0) if byte == b'\r' => Ok(At::DataEnd(1)),
            At::DataEnd(1) if byte == b'\n' => Ok(At::Size),
            At::DataEnd(_) => Err(Malformed("chunk data longer than its size")),
            At::Trailer { line_has_bytes } => Ok(match byte {
                b'\r' => At::Trailer { line_has_bytes },
                b'\n' if line_has_bytes => At::Trailer { line_has_bytes: false },
                b'\n' => At::End,
                _ => At::Trailer { line_has_bytes: true },
            }),
            At::Data | At::End => unreachable!("`take` handles these"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(body: &[u8]) -> Result<u64, Malformed> {
        let mut whole = Chunked::new();
        let taken = whole.take(body)?;
        let mut single = Chunked::new();
        for byte in &body[..taken] {
            single.take(&[*byte])?;
        }
        assert_eq!(whole, single, "the same byte by byte");
        assert!(whole.is_done());
        Ok(whole.length)
    }

    #[test]
    fn data_is_counted() {
        assert_eq!(length(b"0\r\n\r\n"), Ok(0));
        assert_eq!(length(b"5\r\nhello\r\na;x=y\r\n0123456789\r\n0\r\n\r\nnext"), Ok(15));
        assert_eq!(length(b"1\r\nx\r\n0\r\na: b\r\nc: d\r\n\r\n"), Ok(1));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bad in [&b"\r\n"[..], b"g\r\n", b"2\r\nabc", b"fffffffffffffffff\r\n", b"1 \r\n"] {
            assert!(Chunked::new().take(bad).is_err(), "{bad:?}");
        }
    }
}

//! Request ids: random UUIDs (RFC 9562, version 4) as text.

use std::cell::Cell;

/// Bytes of the text.
const SIZE: usize = 36;

/// The id that ringside gave a request, if it gave one.
#[derive(Default)]
pub struct RequestId(Cell<Option<[u8; SIZE]>>);

impl RequestId {
    /// The id, made from 128 random bits when it is asked for first.
    pub fn get(&self, mut random: impl FnMut() -> u64) -> [u8; SIZE] {
        self.0.get().unwrap_or_else(|| {
            let id = format([random(), random()]);
            self.0.set(Some(id));
            id
        })
    }

    /// The text, if one was made.
    pub fn text(&self) -> Option<[u8; SIZE]> {
        self.0.get()
    }
}

fn format([high, low]: [u64; 2]) -> [u8; SIZE] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let high = high & !0xf000 | 0x4000; // version 4
    let low = low & !(0b11 << 62) | 0b10 << 62; // variant 1
    let mut text = [b'-'; SIZE];
    let mut at = 0;
    for (index, byte) in high.to_be_bytes().into_iter().chain(low.to_be_bytes()).enumerate() {
        if let 4 | 6 | 8 | 10 = index {
            at += 1; // a hyphen
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0xf)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_version_4_uuid() {
        let id = format([0x0123_4567_89ab_cdef, u64::MAX]);
        assert_eq!(id, *b"01234567-89ab-4def-bfff-ffffffffffff");
    }
}

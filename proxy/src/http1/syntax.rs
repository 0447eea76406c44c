//! The character classes of RFC 9110 §5.6, and the search for bytes outside of them.

/// RFC 9110 §5.6.2: the characters of a token.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
            | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// How many bytes at the start of `text` are token characters.
#[inline]
pub(super) fn token_len(text: &[u8]) -> usize {
    // Nearly all names are letters, digits and hyphens, and end at a colon.
    let mut at = skip(text, 0, not_word);
    while at < text.len() && is_token_byte(text[at]) {
        at += 1;
    }
    at
}

/// The first control character (a tab too) at or after `from`, else the length of `text`.
/// Bytes from 0x80 on are `obs-text` and no controls.
#[inline]
pub(super) fn find_control(text: &[u8], from: usize) -> usize {
    let mut at = skip(text, from, control);
    while at < text.len() && !is_control(text[at]) {
        at += 1;
    }
    at
}

/// Goes on from `from`, eight bytes at a time, while `flags` flags none of them by its high bit.
/// Ends at the first flagged byte or within eight bytes of the end.
#[inline]
fn skip(text: &[u8], from: usize, flags: impl Fn(u64) -> u64) -> usize {
    let mut at = from;
    while let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let flags = flags(u64::from_le_bytes(*eight)) & HIGHS;
        if flags != 0 {
            return at + (flags.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at
}

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Sets the high bit of each byte that is no ASCII letter, digit or hyphen. All sums stay within
/// their byte because the high bits are cleared first.
#[inline]
fn not_word(word: u64) -> u64 {
    let low = word & !HIGHS;
    let at_least = |bytes: u64, least: u8| bytes + ONES * u64::from(0x80 - least);
    let lower = low | (ONES * 0x20);
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digit = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let hyphen = !((low ^ (ONES * u64::from(b'-'))) + ONES * 0x7f);
    !(letter | digit | hyphen) | word
}

/// Sets the high bit of the first byte that is a control character. A borrow can flag a byte
/// falsely only above one that is flagged rightly, so the lowest flag is exact.
#[inline]
fn control(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    below_space | (delete.wrapping_sub(ONES) & !delete)
}

/// RFC 9110 §5.6.3: optional white space is space and tab, nothing else.
pub(super) fn is_ows(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

pub(super) fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_ows(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_ows(*last)
    {
        text = rest;
    }
    text
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// RFC 9110 §5.5: whether `text` may be a field's value or a reason phrase.
pub(super) fn is_value(text: &[u8]) -> bool {
    let mut at = 0;
    loop {
        at = find_control(text, at);
        match text.get(at) {
            None => return true,
            Some(b'\t') => at += 1,
            Some(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn find_control_is_the_first_one(text: Vec<u8>, from in 0usize..40) {
            let from = from.min(text.len());
            let expect = (from..text.len()).find(|&i| text[i] < 0x20 || text[i] == 0x7f);
            prop_assert_eq!(find_control(&text, from), expect.unwrap_or(text.len()));
        }

        #[test]
        fn token_len_is_by_the_table(text in "[a-zA-Z0-9._-]{0,30}", rest: Vec<u8>) {
            let text = [text.as_bytes(), &rest].concat();
            let expect = text.iter().position(|&b| !is_token_byte(b));
            prop_assert_eq!(token_len(&text), expect.unwrap_or(text.len()));
        }
    }

    #[test]
    fn every_byte_in_every_lane() {
        for byte in 0..=255u8 {
            for lane in 0..25 {
                let mut text = [b'a'; 25];
                text[lane] = byte;
                let expect = if byte < 0x20 || byte == 0x7f { lane } else { 25 };
                assert_eq!(find_control(&text, 0), expect, "{byte:#x} at {lane}");
                let expect = if is_token_byte(byte) { 25 } else { lane };
                assert_eq!(token_len(&text), expect, "{byte:#x} at {lane}");
            }
        }
    }

    #[test]
    fn white_space_is_space_and_tab() {
        assert_eq!(trim_ows(b" \t a b\t "), b"a b");
        assert_eq!(trim_ows(b" \t "), b"");
        assert_eq!(trim_ows(b"\x0ba\xa0"), b"\x0ba\xa0");
    }
}

//! The date of our own responses (RFC 9110 §6.6.1).

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::SystemTime;

use httpdate::HttpDate;

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type DateText = [u8; 29];

/// Dates as HTTP writes them (RFC 9110 §5.6.7). The last is kept: it is good for a second.
#[derive(Debug)]
pub struct Dates {
    /// The second since 1970, and its text.
    last: Cell<(u64, DateText)>,
}

impl Default for Dates {
    fn default() -> Dates {
        Dates { last: Cell::new((0, written(SystemTime::UNIX_EPOCH))) }
    }
}

impl Dates {
    /// `time` lies between the years 1970 and 9999.
    pub fn of(&self, time: SystemTime) -> DateText {
        let second = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (known, text) = self.last.get();
        if second == known {
            return text;
        }
        let text = written(time);
        self.last.set((second, text));
        text
    }
}

fn written(time: SystemTime) -> DateText {
    struct Text(DateText, usize);
    impl std::fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let room = self.0[self.1..].get_mut(..text.len()).ok_or(std::fmt::Error)?;
            room.copy_from_slice(text.as_bytes());
            self.1 += text.len();
            Ok(())
        }
    }
    let mut text = Text([b' '; 29], 0);
    // It is always as long.
    let _ = write!(text, "{}", HttpDate::from(time));
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rows() {
        let dates = Dates::default();
        for (seconds, text) in [
            (784_111_777, b"Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, b"Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_795_737_600, b"Fri, 27 Nov 2026 00:00:00 GMT"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 999);
            assert_eq!(dates.of(time), *text);
        }
    }
}

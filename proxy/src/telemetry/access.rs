//! The access record: what the log says of one exchange, of a TCP connection, or of the end of an HTTP
//! connection that no exchange tells.
//!
//! A worker describes an exchange with an [`Access`], which borrows everything, and copies that
//! into a recycled [`AccessRecord`]: a few numbers and one flat buffer of text, a hundred
//! nanoseconds and no allocation once the buffer has grown. The JSON line is made from it by the
//! log's own thread, off the data path.

use std::time::{Duration, SystemTime};

use super::json::Object;

/// A text that is longer is cut: a record stays below 12 KiB whatever a client sends.
pub const TEXT_BYTES_MAX: usize = 1024;

/// One exchange, or one connection that had none to tell its end, described by borrowing. Empty text
/// and `None` stand for "there was none" and are left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// When its first byte came.
    pub time: SystemTime,
    pub listener: &'a str,
    pub route: &'a str,
    pub service: &'a str,
    /// The endpoint's address as the config spells it.
    pub endpoint: &'a str,
    pub method: &'a [u8],
    /// As the client sent it, with the query.
    pub path: &'a [u8],
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    /// 0: none, as of connections.
    pub status: u16,
    pub cause: &'a str,
    pub duration: Duration,
    /// To the first byte of the upstream's response.
    pub first_byte: Option<Duration>,
    /// From the downstream.
    pub bytes_in: u64,
    /// To the downstream.
    pub bytes_out: u64,
    pub request_id: &'a [u8],
    pub source_ip: &'a [u8],
    /// How many times a request went out; 0 if no upstream was reached.
    pub attempts: u32,
}

impl<'a> Access<'a> {
    /// Nothing but where and when: the rest is for whoever knows it.
    pub fn of(listener: &'a str, time: SystemTime) -> Access<'a> {
        Access {
            time,
            listener,
            route: "",
            service: "",
            endpoint: "",
            method: b"",
            path: b"",
            protocol: "",
            status: 0,
            cause: "",
            duration: Duration::ZERO,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            request_id: b"",
            source_ip: b"",
            attempts: 0,
        }
    }
}

/// The texts of a record, in the order of its buffer.
const TEXTS: [&str; 10] = [
    "listener",
    "route",
    "service",
    "endpoint",
    "method",
    "path",
    "protocol",
    "cause",
    "request_id",
    "source_ip",
];

/// An [`Access`] that owns what it says, and is used again and again.
#[derive(Clone, Debug, Default)]
pub struct AccessRecord {
    /// Since 1970.
    time: Duration,
    status: u16,
    duration: Duration,
    first_byte: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    attempts: u32,
    /// All texts, one behind the other.
    text: Vec<u8>,
    /// Where each of [`TEXTS`] ends in `text`; rising.
    ends: [u16; TEXTS.len()],
}

// The last end fits.
const _: () = assert!(TEXTS.len() * TEXT_BYTES_MAX <= u16::MAX as usize);

impl AccessRecord {
    /// Becomes a record of `access`, whatever it was before.
    pub fn fill(&mut self, access: &Access<'_>) {
        // A clock before 1970 is wrong anyway.
        self.time = access.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.status = access.status;
        self.duration = access.duration;
        self.first_byte = access.first_byte;
        self.bytes_in = access.bytes_in;
        self.bytes_out = access.bytes_out;
        self.attempts = access.attempts;
        let texts: [&[u8]; TEXTS.len()] = [
            access.listener.as_bytes(),
            access.route.as_bytes(),
            access.service.as_bytes(),
            access.endpoint.as_bytes(),
            access.method,
            access.path,
            access.protocol.as_bytes(),
            access.cause.as_bytes(),
            access.request_id,
            access.source_ip,
        ];
        self.text.clear();
        for (text, end) in texts.into_iter().zip(&mut self.ends) {
            self.text.extend_from_slice(&text[..text.len().min(TEXT_BYTES_MAX)]);
            *end = self.text.len() as u16;
        }
    }

    /// Appends the record's line: one JSON object and a newline.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut time = [0; TIME_BYTES];
        write_time(&mut time, self.time);
        let mut object = Object::begin(out);
        object.text("time", &time);
        self.write_texts(&mut object);
        if self.status != 0 {
            object.number("status", u64::from(self.status));
        }
        object.number("duration_us", micros(self.duration));
        if let Some(first_byte) = self.first_byte {
            object.number("first_byte_us", micros(first_byte));
        }
        object.number("bytes_in", self.bytes_in);
        object.number("bytes_out", self.bytes_out);
        object.number("attempts", u64::from(self.attempts));
        object.end();
        out.push(b'\n');
    }

    fn write_texts(&self, object: &mut Object<'_>) {
        let mut start = 0;
        for (key, end) in TEXTS.into_iter().zip(self.ends) {
            let text = &self.text[start..usize::from(end)];
            if !text.is_empty() {
                object.text(key, text);
            }
            start = usize::from(end);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The length of `2026-01-31T23:59:59.123456Z`.
const TIME_BYTES: usize = 27;

/// RFC 3339, UTC, to the microsecond. `since_1970` is taken modulo 10,000 years.
fn write_time(out: &mut [u8; TIME_BYTES], since_1970: Duration) {
    let seconds = since_1970.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    out.copy_from_slice(b"0000-00-00T00:00:00.000000Z");
    write_digits(&mut out[0..4], year);
    write_digits(&mut out[5..7], month);
    write_digits(&mut out[8..10], day);
    write_digits(&mut out[11..13], seconds / 3_600 % 24);
    write_digits(&mut out[14..16], seconds / 60 % 60);
    write_digits(&mut out[17..19], seconds % 60);
    write_digits(&mut out[20..26], u64::from(since_1970.subsec_micros()));
}

/// The last digits of `number`, as many as there is room for.
fn write_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day since 1970 in the Gregorian calendar: Howard Hinnant's
/// `civil_from_days`, in which years begin in March, so that the leap day is their last.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468; // since 0000-03-01
    let era = days / 146_097; // of 400 years
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn access() -> Access<'static> {
        Access {
            time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_390_143_000_042),
            listener: "web",
            route: "reviews",
            service: "reviews",
            endpoint: "10.0.0.11:9080",
            method: b"GET",
            path: b"/a?b=\"c\"",
            protocol: "HTTP/1.1",
            status: 200,
            cause: "",
            duration: Duration::from_micros(1_250),
            first_byte: Some(Duration::from_micros(900)),
            bytes_in: 120,
            bytes_out: 340,
            request_id: b"0f8c",
            source_ip: b"10.0.0.7",
            attempts: 1,
        }
    }

    fn line(access: &Access<'_>) -> String {
        let mut record = AccessRecord::default();
        record.fill(access);
        let mut out = Vec::new();
        record.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_everything() {
        let expected = concat!(
            r#"{"time":"2026-11-22T23:29:03.000042Z","listener":"web","route":"reviews","#,
            r#""service":"reviews","endpoint":"10.0.0.11:9080","method":"GET","#,
            r#""path":"/a?b=\"c\"","protocol":"HTTP/1.1","request_id":"0f8c","#,
            r#""source_ip":"10.0.0.7","status":200,"duration_us":1250,"first_byte_us":900,"#,
            r#""bytes_in":120,"bytes_out":340,"attempts":1}"#,
            "\n",
        );
        assert_eq!(line(&access()), expected);
    }

    #[test]
    fn what_there_was_not_is_left_out() {
        let refused = Access {
            route: "",
            service: "",
            endpoint: "",
            status: 404,
            cause: "no_route",
            first_byte: None,
            attempts: 0,
            ..access()
        };
        let line = line(&refused);
        assert!(line.contains(r#""cause":"no_route""#), "{line}");
        for absent in ["route\":", "service", "endpoint", "first_byte_us"] {
            assert!(!line.contains(absent), "{line}");
        }
    }

    #[test]
    fn a_used_record_says_nothing_of_its_past() {
        let mut record = AccessRecord::default();
        record.fill(&Access { path: &[b'x'; 5000], cause: "draining", ..access() });
        record.fill(&access());
        let mut out = Vec::new();
        record.write_json(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), line(&access()));
    }

    #[test]
    fn times_are_right() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, expected) in cases {
            let mut out = [0; TIME_BYTES];
            write_time(&mut out, Duration::from_secs(seconds));
            assert_eq!(out.as_slice(), expected.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_request_is_one_line_of_json(
            path in prop::collection::vec(any::<u8>(), 0..3000),
            method in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let line = line(&Access { path: &path, method: &method, ..access() });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            let cut = &path[..path.len().min(TEXT_BYTES_MAX)];
            let expected = String::from_utf8_lossy(cut);
            prop_assert_eq!(value["path"].as_str().unwrap_or_default(), expected);
        }
    }
}

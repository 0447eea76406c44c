//! Numbers with units: `250ms`, `64KiB`, `50%`.
//!
//! A quantity always says its unit; only a zero needs none. Each parser here is a pure function
//! from text, and its complaint says what to write instead.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::diagnostic::quoted;
use crate::reader::scalar;
use crate::report::{Complaint, Report};
use crate::tree::{Node, Shape, Style};

/// A share of a whole, exact to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio {
    /// `<= 1_000_000`
    per_million: u32,
}

impl Ratio {
    /// From 0 to 1,000,000.
    pub fn per_million(self) -> u32 {
        self.per_million
    }

    /// From 0 to 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.per_million) / 1e6
    }
}

/// Longer is a mistake; it also keeps `now + duration` far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// More than a machine has.
const SIZE_BYTES_MAX: u64 = 1 << 50;

const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// From the same text as in a config; an error is in words.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|complaint| complaint.message)
}

pub(crate) fn duration(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
    scalar(node, report, "a duration such as `5s`", |scalar| parse_duration(&scalar.text))
}

/// A time limit: a zero would end everything at once, and nobody means that.
pub(crate) fn limit_duration(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
    scalar(node, report, "a duration such as `5s`", |scalar| match parse_duration(&scalar.text)? {
        Duration::ZERO => Err(Complaint::new("a time limit of zero lets nothing through")
            .hint("write a duration such as `5s`; where there may be no limit, `none`")),
        duration => Ok(duration),
    })
}

/// Bytes, within `min..=max`.
pub(crate) fn size(node: &Node, report: &mut Report<'_>, min: usize, max: usize) -> Option<usize> {
    scalar(node, report, "a size such as `64KiB`", |scalar| {
        let bytes = usize::try_from(parse_size(&scalar.text)?).unwrap_or(usize::MAX);
        if (min..=max).contains(&bytes) {
            return Ok(bytes);
        }
        let (min, max) = (size_text(min as u64), size_text(max as u64));
        Err(Complaint::new(format!("this size is from {min} to {max}")))
    })
}

/// A whole number within `min..=max`.
pub(crate) fn number(node: &Node, report: &mut Report<'_>, min: u64, max: u64) -> Option<u64> {
    scalar(node, report, "a number", |scalar| {
        if scalar.style == Style::Quoted {
            let message = format!("expected a number, found {}", node.describe());
            return Err(Complaint::new(message).hint("write it without quotes"));
        }
        match scalar.text.parse::<u64>() {
            Ok(number) if number.to_string() != scalar.text => Err(one_way_to_write(number)),
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            Ok(_) => Err(Complaint::new(format!("this number is from {min} to {max}"))),
            Err(_) if scalar.shape() == Shape::Number => {
                Err(Complaint::new(format!("this is a whole number from {min} to {max}")))
            }
            Err(_) => Err(Complaint::new(format!("expected a number, found {}", node.describe()))),
        }
    })
}

/// `010` is eight for some and ten for others.
fn one_way_to_write(number: impl std::fmt::Display) -> Complaint {
    let message = "a number has no plus sign and no zeros before it";
    Complaint::new(message).hint(format!("write `{number}`"))
}

/// A whole number that may be below zero, within `min..=max`.
pub(crate) fn integer(node: &Node, report: &mut Report<'_>, min: i32, max: i32) -> Option<i32> {
    scalar(node, report, "a number", |scalar| {
        let plain = scalar.style != Style::Quoted;
        match scalar.text.parse::<i32>().ok().filter(|_| plain) {
            Some(number) if number.to_string() != scalar.text => Err(one_way_to_write(number)),
            Some(number) if (min..=max).contains(&number) => Ok(number),
            _ if scalar.shape() == Shape::Number => {
                Err(Complaint::new(format!("this is a whole number from {min} to {max}")))
            }
            _ => Err(Complaint::new(format!("expected a number, found {}", node.describe()))),
        }
    })
}

/// [`number`] where it counts things in memory and is never zero.
pub(crate) fn count(node: &Node, report: &mut Report<'_>, max: u32) -> Option<NonZeroUsize> {
    let number = number(node, report, 1, u64::from(max))?;
    NonZeroUsize::new(number as usize)
}

pub(crate) fn ratio(node: &Node, report: &mut Report<'_>) -> Option<Ratio> {
    scalar(node, report, "a ratio such as `50%`", |scalar| parse_ratio(&scalar.text))
}

fn parse_duration(text: &str) -> Result<Duration, Complaint> {
    let what = "a duration is a whole number and ms, s, m or h";
    let ms = quantity(text, DURATION_UNITS, what, |unit| match unit {
        "" => Some(format!("say the unit: `{text}s` or `{text}ms`")),
        "d" | "day" | "days" => Some("days are hours: `24h`".into()),
        "us" | "µs" | "ns" => Some("nothing is shorter than `1ms`".into()),
        _ => None,
    })?;
    let duration = Duration::from_millis(ms);
    if duration > DURATION_MAX {
        let hint = "where there may be no limit, write `none`";
        return Err(Complaint::new("a duration is at most a year").hint(hint));
    }
    Ok(duration)
}

fn parse_size(text: &str) -> Result<u64, Complaint> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let bytes =
        quantity(text, SIZE_UNITS, "a size is a whole number and B, KiB, MiB or GiB", |unit| {
            match unit.to_ascii_lowercase().as_str() {
                "" => Some(format!("say the unit: `{text}B` or `{text}KiB`")),
                "k" | "kb" | "kib" => Some(format!("units count in 1024: `{digits}KiB`")),
                "m" | "mb" | "mib" => Some(format!("units count in 1024: `{digits}MiB`")),
                "g" | "gb" | "gib" => Some(format!("units count in 1024: `{digits}GiB`")),
                "b" => Some(format!("`{digits}B`")),
                _ => None,
            }
        })?;
    if bytes > SIZE_BYTES_MAX {
        return Err(Complaint::new("no machine has that many bytes"));
    }
    Ok(bytes)
}

/// `digits unit` as a number of the smallest unit; `0` stands without one.
fn quantity(
    text: &str,
    units: &[(&str, u64)],
    what: &str,
    hint: impl FnOnce(&str) -> Option<String>,
) -> Result<u64, Complaint> {
    let wrong = || Complaint::new(format!("{} is not what it should be: {what}", quoted(text)));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits);
    if digits.is_empty() {
        return Err(match text {
            "none" => Complaint::new("this one cannot be without a limit"),
            "off" | "no" | "never" | "unlimited" | "infinite" => {
                wrong().hint("where there may be no limit, that is `none`")
            }
            _ => wrong(),
        });
    }
    if unit.is_empty() && digits.bytes().all(|digit| digit == b'0') {
        return Ok(0);
    }
    if unit.starts_with('.') {
        return Err(wrong().hint("use a smaller unit instead of a fraction"));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(Complaint { hint: hint(unit), ..wrong() });
    };
    let number = digits.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| Complaint::new(format!("{} is too large", quoted(text))))
}

fn parse_ratio(text: &str) -> Result<Ratio, Complaint> {
    let wrong = || Complaint::new(format!("{} is not a ratio from 0% to 100%", quoted(text)));
    let Some(percent) = text.strip_suffix('%') else {
        return Err(match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => {
                wrong().hint(format!("ratios are in percent: `{}%`", share * 100.0))
            }
            _ => wrong().hint("ratios are in percent: `50%`"),
        });
    };
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_digits = |text: &str, max| {
        !text.is_empty() && text.len() <= max && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_digits(whole, 3) || !is_digits(fraction, 4) {
        return Err(wrong());
    }
    // Both are a few digits, so neither the parse nor the sum can fail.
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| wrong())?;
    match whole * 10_000 + fraction {
        per_million @ 0..=1_000_000 => Ok(Ratio { per_million }),
        _ => Err(wrong()),
    }
}

fn size_text(bytes: u64) -> String {
    let fitting = SIZE_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| bytes.is_multiple_of(*factor) && bytes >= *factor);
    match fitting {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("250ms", 250), ("5s", 5_000), ("5m", 300_000), ("1h", 3_600_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in
            ["", "5", "s", "-1s", "1.5s", "5 s", "5S", "99999999999999999999s", "9999999h", "1d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["64", "64KB", "64k", "64kib", "KiB", "1.5MiB", "18446744073709551615GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(size_text(65_536), "64KiB");
    }

    #[test]
    fn ratios() {
        for (text, per_million) in
            [("0%", 0), ("50%", 500_000), ("100%", 1_000_000), ("0.5%", 5_000), ("0.0001%", 1)]
        {
            assert_eq!(parse_ratio(text).unwrap().per_million(), per_million, "{text}");
        }
        for text in ["0.5", "50", "101%", "-1%", "%", "1.%", ".5%", "100.0001%", "1e1%"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }
}

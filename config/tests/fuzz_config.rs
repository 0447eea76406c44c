//! Any bytes, as any notation: a config or diagnostics, never a panic, and soon.
//!
//! `cargo test` runs the corpora in `__fuzz__/` and a second of random inputs. For longer:
//! `BOLERO_RANDOM_TEST_TIME_MS=600000 cargo test -p config --release --test fuzz_config`, or, led
//! by coverage, `cargo bolero test --rustc-bootstrap -p config any_text`.

use std::time::{Duration, Instant};

use config::{Format, parse};

#[test]
fn any_text() {
    bolero::check!().for_each(|bytes: &[u8]| try_all(&String::from_utf8_lossy(bytes)));
}

/// A config that was good, with some pieces of it replaced: gets past the parsers.
#[test]
fn any_edit() {
    let whole = include_str!("everything.yaml");
    bolero::check!().with_type().for_each(|edits: &Vec<(u16, u8, u8)>| {
        let mut text = whole.as_bytes().to_vec();
        for (at, cut, piece) in edits.iter().take(8) {
            let start = usize::from(*at) % text.len();
            let end = (start + usize::from(*cut % 16)).min(text.len());
            let piece = PIECES[usize::from(*piece) % PIECES.len()];
            text.splice(start..end, piece.bytes());
        }
        try_all(&String::from_utf8_lossy(&text));
    });
}

const PIECES: [&str; 40] = [
    "",
    " ",
    "\n",
    "  ",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!t ",
    "|\n",
    ">\n",
    "~",
    "none",
    "auto",
    "true",
    "0",
    "-1",
    "1e9",
    "99999999999999999999",
    "5s",
    "64KiB",
    "50%",
    "http",
    "tcp",
    "name",
    "unix:",
    "[::1]:80",
    "*.",
    "\u{e9}",
    "\0",
];

fn try_all(text: &str) {
    let start = Instant::now();
    for format in [Format::Yaml, Format::Toml, Format::Json] {
        match parse("fuzz", text, format) {
            Ok(loaded) => assert_eq!(loaded.hash.len(), 16),
            Err(diagnostics) => {
                assert!(!diagnostics.is_empty());
                let _ = diagnostics.render(true);
                let _ = diagnostics.to_json();
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{} bytes took long", text.len());
}

//! The files that a config names: those under keys that end in `_file`.
//!
//! They are looked at only where that is asked for, because a config may be checked far from where
//! it will run. What a key means is of no matter here, so that a file is looked at even where
//! the feature that reads it has to wait.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::diagnostic::{Diagnostics, quoted};
use crate::document::Document;
use crate::report::{Problem, Report};
use crate::tree::{Entry, Node, Value};

/// No certificate, key or token is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Under these, people choose the keys.
const CHOSEN_KEYS: [&str; 4] = ["labels", "set", "add", "claim_headers"];

/// Why a certificate and its key are of no use.
#[derive(Clone, Debug)]
pub struct KeyPairFault {
    pub message: String,
    pub hint: String,
    /// It is told at the key's file, not at the certificate's.
    pub is_of_key: bool,
}

type Judge<'j> = &'j dyn Fn(&[u8], &[u8]) -> Result<(), KeyPairFault>;

impl Document {
    /// Everything that is wrong with the files that the config names. `judge` says whether a
    /// certificate and a key belong together, both in PEM. Paths are taken from the working
    /// directory.
    pub fn check_files(&self, judge: Judge<'_>) -> Diagnostics {
        let mut report = Report::new(self.sources());
        look_into(self.tree(), "", judge, &mut report);
        report.finish()
    }
}

fn look_into(node: &Node, path: &str, judge: Judge<'_>, report: &mut Report<'_>) {
    match &node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                look_into(item, &format!("{path}[{index}]"), judge, report);
            }
        }
        Value::Map(entries) => {
            let below = |key: &str| match path {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            let is_open = |entry: &&Entry| {
                !entry.key.ends_with("_file") && !CHOSEN_KEYS.contains(&entry.key.as_str())
            };
            for entry in entries.iter().filter(is_open) {
                look_into(&entry.value, &below(&entry.key), judge, report);
            }
            let files = entries.iter().filter(|entry| entry.key.ends_with("_file"));
            let contents: Vec<(&Entry, Option<Vec<u8>>)> =
                files.map(|entry| (entry, read(entry, &below(&entry.key), report))).collect();
            if let Some((entry, Some(bytes))) =
                contents.iter().find(|(it, _)| it.key == "token_file")
                && let Err(why) = token_in(bytes)
            {
                let name = entry.value.as_scalar().map_or("", |name| &name.text);
                let message = format!("{}: {why}", quoted(name));
                let hint = "make one: `openssl rand -hex 32`";
                let problem = Problem::error(entry.value.span, message).hint(hint);
                report.add(problem.path(below(&entry.key)));
            }
            let of = |key| {
                let (entry, bytes) = contents.iter().find(|(entry, _)| entry.key == key)?;
                Some((*entry, bytes.as_ref()?))
            };
            let (Some((cert, certificate)), Some((key, secret))) =
                (of("cert_file"), of("key_file"))
            else {
                return;
            };
            if let Err(fault) = judge(certificate, secret) {
                let entry = if fault.is_of_key { key } else { cert };
                let problem = Problem::error(entry.value.span, fault.message).hint(fault.hint);
                report.add(problem.path(below(&entry.key)));
            }
        }
    }
}

/// What is in the file; where that cannot be said, why.
fn read(entry: &Entry, path: &str, report: &mut Report<'_>) -> Option<Vec<u8>> {
    // Anything but a text is told by whoever reads the key.
    let name = &entry.value.as_scalar()?.text;
    let message = match read_file(Path::new(name)) {
        Ok(bytes) => return Some(bytes),
        Err(error) => format!("cannot read the file {}: {error}", quoted(name)),
    };
    let hint = "put it there, or check with `--no-files` where it is not needed";
    report.add(Problem::error(entry.value.span, message).hint(hint).path(path));
    None
}

/// The token that a file holds: all of it but white space at its ends. It goes into a header, after
/// `Bearer` (RFC 6750 §2.1).
///
/// # Errors
/// Why it is none.
pub fn token_in(bytes: &[u8]) -> Result<&[u8], &'static str> {
    // Shorter ones could be guessed.
    const TOKEN_BYTES_MIN: usize = 16;
    let token = bytes.trim_ascii();
    if token.len() < TOKEN_BYTES_MIN {
        return Err("a token has at least 16 bytes");
    }
    match token.iter().all(u8::is_ascii_graphic) {
        true => Ok(token),
        false => Err("a token is one word of ASCII"),
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe is to wait for its other end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

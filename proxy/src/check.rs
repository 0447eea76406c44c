//! `ringside check`: says whether a config is valid, and if not, everything that is wrong with it.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use config::{Diagnostics, Document, Failure, KeyPairFault, Loaded};

/// How the findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether text for people may be coloured.
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
        && io::stderr().is_terminal()
}

/// Checks the files. 0 valid, 1 invalid, 2 could not read. `named`: also the files that they name.
pub fn check(files: &[PathBuf], named: bool, output: Output, strict: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let checked = match Document::load(files) {
        Ok(document) => {
            let mut found = match named {
                true => document.check_files(&judge),
                false => Diagnostics::default(),
            };
            match document.check() {
                Ok(loaded) if found.is_empty() => Ok(loaded),
                Ok(Loaded { warnings: others, .. }) | Err(others) => {
                    found.join(others);
                    Err(Failure::Invalid(found))
                }
            }
        }
        Err(failure) => Err(failure),
    };
    let (diagnostics, code) = match checked {
        Ok(loaded) => {
            let code = u8::from(strict && !loaded.warnings.is_empty());
            if output == Output::Text && code == 0 {
                writeln!(out, "valid; hash {}", loaded.hash)?;
            }
            (loaded.warnings, code)
        }
        Err(Failure::Invalid(diagnostics)) => (diagnostics, 1),
        Err(unreadable @ Failure::Unreadable { .. }) => {
            writeln!(io::stderr(), "ringside: {unreadable}")?;
            return Ok(ExitCode::from(2));
        }
    };
    match output {
        Output::Text => write!(io::stderr(), "{}", diagnostics.render(colours()))?,
        Output::Json => writeln!(out, "{}", diagnostics.to_json())?,
    }
    Ok(ExitCode::from(code))
}

/// Whether a certificate and a key belong together.
fn judge(certificate: &[u8], key: &[u8]) -> Result<(), KeyPairFault> {
    tls::check_key_pair(certificate, key).map_err(|error| KeyPairFault {
        message: error.to_string(),
        hint: error.hint().to_owned(),
        is_of_key: error.is_of_key(),
    })
}

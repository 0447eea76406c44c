//! `ringside check`: says whether a config is valid, and if not, everything that is wrong with it.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use config::Failure;

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
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
}

/// Checks the files. 0 valid, 1 invalid, 2 could not read.
pub fn check(files: &[PathBuf], output: Output, strict: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let (diagnostics, code) = match config::load(files) {
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

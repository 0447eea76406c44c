//! What the process says to whoever started it: one line per fact, on standard error.

use std::fmt;
use std::io::{self, Write};

/// Says a fact. That nobody listens any more is no reason to stop, as `eprintln` would.
pub fn say(fact: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "ringside: {fact}");
}

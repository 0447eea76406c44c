//! Prints the reference of all config keys: `cargo run -p config --example reference`.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(config::reference().as_bytes())
}

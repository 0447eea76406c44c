//! `docs/config.md` is what the tables say.

use std::fs;
use std::path::Path;

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, config::reference()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == config::reference(),
        "docs/config.md is out of date: BLESS=1 cargo test -p config --test reference"
    );
}

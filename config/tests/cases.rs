//! Configs as data: each `tests/NAME.{yaml,toml,json}` is read, and what comes of it, a config or
//! diagnostics as a person sees them, is compared with `tests/NAME.expected`.
//!
//! `BLESS=1 cargo test -p config --test cases` writes the expected files anew: read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Format, parse};

#[test]
fn every_case_gives_what_is_expected() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for case in cases() {
        let expected_path = case.with_extension("expected");
        let outcome = outcome(&case);
        if bless {
            fs::write(&expected_path, &outcome).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if outcome != expected {
            let name = case.file_name().unwrap().display();
            different.push(format!("--- {name}: expected\n{expected}\n+++ got\n{outcome}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_notations_mean_the_same() {
    let [yaml, toml, json] = ["yaml", "toml", "json"].map(|extension| {
        let path = folder().join(format!("notation_{extension}.{extension}"));
        parse("x", &fs::read_to_string(&path).unwrap(), Format::of(&path)).unwrap()
    });
    assert_eq!(yaml.config, toml.config);
    assert_eq!(yaml.config, json.config);
    assert_eq!([&yaml.hash, &yaml.hash], [&toml.hash, &json.hash]);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn cases() -> Vec<PathBuf> {
    let paths = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_case = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| ["yaml", "toml", "json"].iter().any(|e| extension == *e))
    };
    let mut cases: Vec<_> = paths.filter(is_case).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn outcome(case: &Path) -> String {
    let name = case.file_name().unwrap().to_str().unwrap();
    match parse(name, &fs::read_to_string(case).unwrap(), Format::of(case)) {
        Ok(loaded) => format!("ok\n{}{:#?}\n", loaded.warnings, loaded.config),
        Err(diagnostics) => format!("invalid\n{diagnostics}"),
    }
}

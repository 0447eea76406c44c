//! What `deploy/` holds, as far as it can be judged without other programs: `deploy_tools` does the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

/// The example configs, by name.
fn examples() -> Vec<(String, PathBuf)> {
    let files = fs::read_dir(folder().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path));
    let mut examples: Vec<_> = named.filter(|(name, _)| name != "kustomization").collect();
    examples.sort();
    examples
}

#[test]
fn every_example_is_valid_without_a_warning() {
    let names: Vec<String> = examples().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["gateway", "node", "sidecar"]);
    for (name, path) in examples() {
        let mut check = Command::new(env!("CARGO_BIN_EXE_ringside"));
        let output = check.args(["check", "--strict"]).arg(path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{name}");
    }
}

/// Who is killed in the middle of a drain has lost the requests that the drain was for.
#[test]
fn whoever_stops_ringside_waits_longer_than_it_drains() {
    let deadline = |example: &str| -> Duration {
        let (_, path) = examples().into_iter().find(|(name, _)| name == example).unwrap();
        config::load(&[path]).unwrap().config.shutdown.deadline
    };
    // preStop comes before the signal, and out of the same time.
    let pre_stop = Duration::from_secs(5);
    for (file, key, examples) in [
        ("systemd/ringside.service", "TimeoutStopSec=", &["sidecar", "node", "gateway"][..]),
        ("kubernetes/sidecar.yaml", "terminationGracePeriodSeconds: ", &["sidecar"]),
        ("kubernetes/node.yaml", "terminationGracePeriodSeconds: ", &["node"]),
    ] {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let value = text.lines().find_map(|line| line.trim().strip_prefix(key)).expect(key);
        let waits = Duration::from_secs(value.parse().unwrap());
        for example in examples {
            assert!(waits > deadline(example) + pre_stop, "{file}: {waits:?} for {example}");
        }
    }
}

/// Cargo reads the manifest of every member, so an image needs all of them, and what it is told.
#[test]
fn the_image_is_built_from_all_that_cargo_reads() {
    let root = folder().join("..");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    assert!(members.len() > 5);
    let context = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let more = ["Cargo.toml", "Cargo.lock", ".cargo", "deploy/build"].map(str::to_owned);
    for part in members.iter().chain(&more) {
        assert!(context.lines().any(|line| line == format!("!{part}")), "{part} is not there");
        assert!(root.join(part).exists());
    }
}

#[test]
fn the_page_names_every_file() {
    let page = fs::read_to_string(folder().join("README.md")).unwrap();
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || page.contains(&format!("`{name}")), "{name}");
    }
}

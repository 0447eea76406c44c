//! The rules of ARCHITECTURE.md about who may depend on whom, and what pure modules may name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Crate to its normal dependencies.
fn dependencies() -> BTreeMap<String, Vec<serde_json::Value>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"].is_null()).cloned().collect()
    };
    packages.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), normal(p))).collect()
}

#[test]
fn crates_depend_only_downwards() {
    let all = dependencies();
    let ours: Vec<&String> = all.keys().collect();
    let allowed: [(&str, &[&str]); 8] = [
        ("reactor", &[]),
        ("config", &[]),
        ("balancer", &[]),
        ("tls", &[]),
        ("control", &["config"]),
        ("ringside", &["reactor", "config", "balancer", "tls", "control"]),
        ("loadtest", &[]),
        // benches measures other loops with loadtest's rounds, generator and origin.
        ("benches", &["reactor", "config", "balancer", "control", "ringside", "loadtest"]),
    ];
    assert_eq!(ours.len(), allowed.len(), "a new crate needs its row here");
    for (name, allowed) in allowed {
        for dependency in &all[name] {
            let dependency = dependency["name"].as_str().unwrap();
            let is_ours = ours.iter().any(|ours| *ours == dependency);
            assert!(!is_ours || allowed.contains(&dependency), "{name} may not use {dependency}");
        }
    }
}

#[test]
fn tokio_and_serialisation_stay_where_they_belong() {
    for (name, dependencies) in dependencies() {
        for dependency in dependencies {
            let dependency = dependency["name"].as_str().unwrap().to_owned();
            let homes: &[&str] = match dependency.as_str() {
                "tokio" | "axum" | "hyper" | "tracing" => &["control", "loadtest", "benches"],
                "hickory-resolver" => &["control"],
                "granit-parser" | "serde-saphyr" | "toml" => &["config"],
                "io-uring" => &["reactor", "loadtest", "benches"],
                _ => continue,
            };
            assert!(homes.contains(&name.as_str()), "{name} may not use {dependency}");
        }
    }
}

#[test]
fn nothing_comes_from_git() {
    for (name, dependencies) in dependencies() {
        for dependency in dependencies {
            let source = dependency["source"].as_str().unwrap_or("registry+");
            assert!(source.starts_with("registry+"), "{name}: {dependency}");
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn pure_modules_name_no_reactor_socket_or_clock() {
    let proxy = root().join("proxy/src");
    let mut files: Vec<PathBuf> = [
        "route.rs",
        "prefixes.rs",
        "split.rs",
        "edits.rs",
        "explain.rs",
        "pool.rs",
        "error.rs",
        "replay.rs",
    ]
    .map(|file| proxy.join(file))
    .to_vec();
    for folder in ["http", "http1", "telemetry"] {
        files.extend(sources(&proxy.join(folder)));
    }
    files.extend(sources(&root().join("balancer/src")));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap().lines();
        let code = code.filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in ["reactor::", "TcpStream", "Instant::now", "SystemTime::now", "async "] {
                assert!(!line.contains(word), "{} names {word}: {line}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_is_only_where_it_may_be() {
    for folder in ["config", "balancer", "tls", "control", "proxy/src"] {
        for file in sources(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let used = text.lines().any(|line| {
                let code = line.split("//").next().unwrap();
                code.contains("unsafe {")
                    || code.contains("unsafe fn")
                    || code.contains("unsafe impl")
            });
            assert!(!used, "{} contains unsafe", file.display());
        }
    }
}

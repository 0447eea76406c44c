//! The schema says what `check` says, as far as a schema can.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Document, Format};

fn validator() -> jsonschema::Validator {
    let schema = config::schema();
    jsonschema::meta::validate(&schema).expect("a schema");
    // What an editor puts in is a value, not the text of one.
    assert_eq!(schema["properties"]["services"]["default"], serde_json::json!([]));
    assert_eq!(schema["properties"]["version"]["default"], 1);
    jsonschema::validator_for(&schema).unwrap()
}

/// The configs in a folder that `check` finds valid, as JSON.
fn valid_in(folder: &Path) -> Vec<(PathBuf, serde_json::Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_config = path.extension().is_some_and(|kind| kind == "yaml" || kind == "toml");
        if !is_config || path.file_stem().is_some_and(|name| name == "kustomization") {
            continue;
        }
        let text = fs::read(&path).unwrap();
        let document = Document::parse("test", &text, Format::of(&path));
        // A push has no variables: those that use them are left out here.
        if let Ok(document) = document
            && document.check().is_ok()
        {
            found.push((path, document.to_json()));
        }
    }
    found
}

#[test]
fn what_check_accepts_is_valid() {
    let validator = validator();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = valid_in(&here.join("tests"));
    assert!(all.len() > 5, "{}", all.len());
    let examples = valid_in(&here.join("../deploy/examples"));
    assert!(!examples.is_empty());
    all.extend(examples);
    for (path, config) in all {
        let wrong: Vec<String> =
            validator.iter_errors(&config).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", path.display());
    }
}

#[test]
fn what_items_need_they_may_have_from_defaults() {
    let validator = validator();
    let is_valid = |text: &str| {
        let document = Document::parse("test", text.as_bytes(), Format::Yaml).unwrap();
        let found = document.check();
        let valid = validator.is_valid(&document.to_json());
        assert_eq!(valid, found.is_ok(), "{text}: {:?}", found.err());
        valid
    };
    let listeners = "listeners: [{ name: a }, { name: b, address: \"127.0.0.1:2\" }]\n";
    let default = "{ address: \"127.0.0.1:1\", http: {} }";
    assert!(is_valid(&format!("{listeners}defaults: {{ listener: {default} }}")));
    assert!(!is_valid(listeners));
    assert!(!is_valid(&format!("{listeners}defaults: {{ service: {{ connect_timeout: 1s }} }}")));
    let listener = "listeners: [{ name: a, address: \"127.0.0.1:1\", http: {} }]\n";
    assert!(is_valid(&format!("{listener}access_log: {{ output: logs/a.log }}")));
    assert!(!is_valid(&format!("{listener}defaults: {{ service: {{ name: a }} }}")));
}

#[test]
fn what_is_plainly_wrong_is_not() {
    let validator = validator();
    let base = r#"listeners: [{ name: web, address: "127.0.0.1:1", http: {} }]"#;
    let is_valid = |text: &str| {
        let document = Document::parse("test", text.as_bytes(), Format::Yaml).unwrap();
        validator.is_valid(&document.to_json())
    };
    assert!(is_valid(base));
    assert!(is_valid(&format!("{base}\nx-notes: {{ any: thing }}\nworkers: 4\npin: true")));
    assert!(is_valid(&format!("{base}\nnode: {{ id: \"${{HOSTNAME}}\" }}\nworkers: \"${{N}}\"")));
    assert!(is_valid(&format!("{base}\ndefaults: {{ service: {{ connect_timeout: 2s }} }}")));
    for text in [
        "version: 1",
        "listeners: {}",
        "listeners: [{ name: web, http: {} }]",
        r#"listeners: [{ name: web, address: "127.0.0.1:1" }]"#,
        r#"listeners: [{ name: web, address: "127.0.0.1:1", http: {}, tcp: { service: a } }]"#,
        r#"listeners: [{ name: "-web", address: "127.0.0.1:1", http: {} }]"#,
    ] {
        assert!(!is_valid(text), "{text}");
    }
    for more in [
        "lisseners: []",
        "workers: four",
        "io: kqueue",
        "shutdown: { grace: 5 }",
        "shutdown: { grace: 5sec }",
        "limits: { memory: 1GB }",
        "access_log: { sample: 0.5 }",
        "tcp_routes: []",
        "services: [{ name: a, endpoints: [], pushed: {} }]",
        "services: [{ name: a }]",
        "routes: [{ name: a, backends: [{ sevice: a }] }]",
        "defaults: { services: {} }",
        "defaults: { service: { conect_timeout: 2s } }",
    ] {
        assert!(!is_valid(&format!("{base}\n{more}")), "{more}");
    }
}

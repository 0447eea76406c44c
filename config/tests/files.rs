//! Reading from files: folders, several files as one, variables, and what cannot be read.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Failure, Loaded, load};

/// A folder of its own for each test, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringside-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LISTENER: &str = "version: 1\nlisteners: [{ name: web, address: 127.0.0.1:80, http: {} }]\n";
const SERVICE: &str =
    "version = 1\n[[services]]\nname = \"a\"\nendpoints = [{ address = \"127.0.0.1:81\" }]\n";
const ROUTE: &str = r#"{"routes": [{"name": "all", "backends": [{"service": "a"}]}]}"#;

fn invalid(result: Result<Loaded, Failure>) -> String {
    match result {
        Err(Failure::Invalid(diagnostics)) => diagnostics.to_string(),
        other => panic!("expected diagnostics, got {other:?}"),
    }
}

#[test]
fn a_folder_is_one_config() {
    let folder = Folder::new("folder");
    folder.write("a.yaml", LISTENER);
    folder.write("b.toml", SERVICE);
    folder.write("c.json", ROUTE);
    folder.write("notes.txt", "[ this is not read");
    let loaded = load(std::slice::from_ref(&folder.0)).unwrap();
    let config = loaded.config;
    assert_eq!((config.listeners.len(), config.services.len(), config.routes.len()), (1, 1, 1));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn a_name_in_two_files_names_both() {
    let folder = Folder::new("twice");
    let files = [folder.write("a.yaml", LISTENER), folder.write("b.yaml", LISTENER)];
    let text = invalid(load(&files));
    assert!(text.contains("two listeners with the name `web`"), "{text}");
    assert!(text.contains("a.yaml:2:21") && text.contains("b.yaml:2:21"), "{text}");
}

#[test]
fn a_key_that_is_no_list_may_be_in_one_file() {
    let folder = Folder::new("key");
    let files = [
        folder.write("a.yaml", format!("{LISTENER}workers: 1\n")),
        folder.write("b.yaml", "version: 2\nworkers: 1\n"),
    ];
    let text = invalid(load(&files));
    assert!(text.contains("the key `workers` is in two files"), "{text}");
    assert!(text.contains("the key `version` is in two files"), "{text}");
}

#[test]
fn variables_come_from_the_environment() {
    let folder = Folder::new("variables");
    let text = "node: { id: \"${CARGO_PKG_NAME}\", zone: \"${RINGSIDE_NOT_SET:-a}\" }\nworkers: ${RINGSIDE_NOT_SET:-3}\n";
    let file = folder.write("a.yaml", format!("{LISTENER}{text}# ${{RINGSIDE_NOT_SET}}\n"));
    let config = load(&[file]).unwrap().config;
    assert_eq!(config.node.id.unwrap(), "config");
    assert_eq!(config.node.zone.unwrap(), "a");
    assert_eq!(format!("{:?}", config.workers), "Count(3)");

    let file =
        folder.write("b.yaml", format!("{LISTENER}node: {{ id: \"${{RINGSIDE_NOT_SET}}\" }}\n"));
    let text = invalid(load(&[file]));
    assert!(text.contains("the variable `RINGSIDE_NOT_SET` is not set"), "{text}");
}

#[test]
fn a_push_keeps_its_dollars() {
    let text = format!("{LISTENER}node: {{ id: \"${{HOME}}\" }}\n");
    let diagnostics = config::parse("push", &text, config::Format::Yaml).unwrap_err();
    assert!(diagnostics.to_string().contains("`${HOME}` is not a name"));
}

#[test]
fn what_cannot_be_read() {
    let folder = Folder::new("unreadable");
    let empty = folder.0.join("empty");
    fs::create_dir(&empty).unwrap();
    let through_a_file = folder.write("a.yaml", LISTENER).join("b.yaml");
    for path in [folder.0.join("missing.yaml"), empty, through_a_file] {
        let failure = load(std::slice::from_ref(&path)).unwrap_err();
        assert!(matches!(&failure, Failure::Unreadable { .. }), "{failure}");
        assert!(failure.to_string().contains(&path.display().to_string()), "{failure}");
    }
}

#[test]
fn bytes_that_are_not_utf8() {
    let folder = Folder::new("utf8");
    let file = folder.write("a.yaml", b"version: 1\nnode: { id: \xff\xfe }\n");
    let text = invalid(load(&[file]));
    assert!(text.contains("not UTF-8") && text.contains("a.yaml:2:13"), "{text}");
}

#[test]
fn a_file_without_end() {
    let text = invalid(load(&[Path::new("/dev/zero").into()]));
    assert!(text.contains("at most 32 MiB"), "{text}");
}

#[test]
fn a_mark_at_the_beginning_is_not_content() {
    let folder = Folder::new("mark");
    let text = r#"{"listeners": [{"name": "web", "address": "127.0.0.1:80", "http": {}}]}"#;
    let marked = folder.write("a.json", format!("\u{feff}{text}"));
    assert!(load(&[marked]).is_ok());
}

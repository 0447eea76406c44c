//! The command line of a real ringside: what it prints, and how it exits.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder of its own for each test, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let name = format!("ringside-command-line-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How it exited, what it printed, what it said.
fn ringside(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_ringside");
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn check(file: &Path) -> (Option<i32>, String, String) {
    ringside(&["check", file.to_str().unwrap()])
}

const VALID: &str = r#"version: 1
listeners: [{ name: web, address: "127.0.0.1:8080", http: {} }]
services: [{ name: app, endpoints: [{ address: "127.0.0.1:9080" }] }]
routes: [{ name: all, backends: [{ service: app }] }]
"#;

#[test]
fn the_same_config_is_valid_in_three_notations() {
    let folder = Folder::new("notations");
    let toml = r#"version = 1
listeners = [{ name = "web", address = "127.0.0.1:8080", http = {} }]
services = [{ name = "app", endpoints = [{ address = "127.0.0.1:9080" }] }]
routes = [{ name = "all", backends = [{ service = "app" }] }]
"#;
    let json = r#"{ "version": 1,
      "listeners": [{ "name": "web", "address": "127.0.0.1:8080", "http": {} }],
      "services": [{ "name": "app", "endpoints": [{ "address": "127.0.0.1:9080" }] }],
      "routes": [{ "name": "all", "backends": [{ "service": "app" }] }] }"#;
    let mut printed = Vec::new();
    for (name, text) in [("a.yaml", VALID), ("a.yml", VALID), ("a.toml", toml), ("a.json", json)] {
        let (code, out, said) = check(&folder.file(name, text));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{name}");
        assert!(out.starts_with("valid; hash "), "{out}");
        printed.push(out);
    }
    printed.dedup();
    assert_eq!(printed.len(), 1, "the hash is of what it says: {printed:?}");
}

#[test]
fn every_mistake_has_its_place_and_a_hint() {
    let folder = Folder::new("mistakes");
    let text = VALID
        .replace("http: {}", "htttp: {}")
        .replace("endpoints", "health: {}, endpoints")
        .replace("service: app", "service: ap");
    let file = folder.file("wrong.yaml", text);
    let (code, out, said) = check(&file);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let at = |line_and_column: &str| format!("--> {}:{line_and_column}\n", file.display());
    for expected in [
        at("2:53"),
        "2 | listeners: [{ name: web, address: \"127.0.0.1:8080\", htttp: {} }]\n".to_owned(),
        format!("  | {}^^^^^\n", " ".repeat(52)),
        "error: unknown key `htttp` in a listener\n".to_owned(),
        "= help: did you mean `http`?\n".to_owned(),
        at("3:25"),
        "error: the key `health` is not supported yet\n".to_owned(),
        "this version of ringside does not have it; take it out\n".to_owned(),
        at("4:45"),
        "error: there is no service with the name `ap`\n".to_owned(),
        "= help: did you mean `app`?\n".to_owned(),
    ] {
        assert!(said.contains(&expected), "no {expected:?} in\n{said}");
    }
    assert!(!said.contains('\x1b'), "no colours where nobody sees them");

    let (code, out, said) = ringside(&["check", "-o", "json", file.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    let found: Value = serde_json::from_str(&out).unwrap();
    let typo = found.as_array().unwrap().iter().find(|e| e["line"] == 2 && e["column"] == 53);
    let typo = typo.unwrap_or_else(|| panic!("{found}"));
    assert_eq!(
        (&typo["severity"], &typo["hint"]),
        (&"error".into(), &"did you mean `http`?".into())
    );
    assert_eq!(typo["file"], file.display().to_string());

    // `run` says the same, and does not begin.
    let (code, _, said) = ringside(&["run", file.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(said.contains("did you mean `http`?") && !said.contains("ready"), "{said}");
}

#[test]
fn mistakes_in_toml_and_json_have_places_too() {
    let folder = Folder::new("places");
    for (name, text, place) in [
        ("a.toml", "version = 1\nlistners = []\n", "a.toml:2:1"),
        ("a.json", "{ \"version\": 1,\n  \"listners\": [] }", "a.json:2:3"),
        ("broken.toml", "version = 1\nlisteners = [\n", "broken.toml:"),
        ("broken.json", "{ \"version\": 1,\n", "broken.json:"),
        ("broken.yaml", "version: 1\nlisteners: [\n", "broken.yaml:"),
    ] {
        let (code, _, said) = check(&folder.file(name, text));
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.contains(place) && said.contains('^'), "{name}: {said}");
        assert!(name.starts_with("broken") || said.contains("did you mean `listeners`?"), "{said}");
    }
}

#[test]
fn strict_makes_errors_of_warnings() {
    let folder = Folder::new("strict");
    let text = VALID.replace(
        "listeners: [",
        "listeners: [{ name: idle, address: \"127.0.0.1:8081\", http: {} }, ",
    );
    let text = text.replace("name: all", "name: all, listeners: [web]");
    let file = folder.file("warned.yaml", text);
    let (code, out, said) = check(&file);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.starts_with("valid") && said.contains("warning: ") && said.contains("idle"));
    let (code, out, said) = ringside(&["check", "--strict", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("warning: "), "{said}");

    let tied = VALID.replace(
        "routes: [",
        "routes: [{ name: some, matches: [{ path: { prefix: / } }], backends: [{ service: app }] }, ",
    );
    let file = folder.file("tied.yaml", tied);
    let (code, out, said) = check(&file);
    assert!(code == Some(0) && out.starts_with("valid"), "{said}");
    assert!(said.contains("`some` can never match") && said.contains("`all`"), "{said}");
    let (code, _, said) = ringside(&["check", "--strict", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn what_cannot_be_read_exits_with_two() {
    let folder = Folder::new("unreadable");
    let missing = folder.0.join("missing.yaml");
    let below = folder.file("file", "").join("below.yaml");
    let (none, empty) = (folder.0.clone(), folder.0.join("empty"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(folder.0.join("folder.yaml")).unwrap();
    for path in [&missing, &below, &none, &empty, &folder.0.join("folder.yaml")] {
        for output in ["text", "json"] {
            let (code, out, said) = ringside(&["check", "-o", output, path.to_str().unwrap()]);
            assert_eq!((code, out.as_str()), (Some(2), ""), "{said}");
            let begin = format!("ringside: cannot read {}: ", path.display());
            assert!(said.starts_with(&begin) && said.lines().count() == 1, "{said}");
        }
        assert_eq!(ringside(&["run", path.to_str().unwrap()]).0, Some(2));
    }
    // A folder is all the configs in it.
    let parts = folder.0.join("parts");
    fs::create_dir(&parts).unwrap();
    let lines: Vec<&str> = VALID.lines().collect();
    fs::write(parts.join("1.yaml"), lines[..2].join("\n")).unwrap();
    fs::write(parts.join("2.yml"), lines[2..].join("\n")).unwrap();
    let (code, _, said) = ringside(&["check", "--no-files", parts.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let split = parts.join("1.yaml").display().to_string();
    let rest = parts.join("2.yml").display().to_string();
    assert_eq!(ringside(&["check", "-c", &split, "-c", &rest]).0, Some(0));
    assert_eq!(ringside(&["check", &split]).0, Some(0), "nothing is missing from the first alone");
}

#[test]
fn a_token_that_would_be_refused_at_start_is_told() {
    let folder = Folder::new("tokens");
    for (token, why) in [
        ("", "a token has at least 16 bytes"),
        ("short\n", "a token has at least 16 bytes"),
        ("first line of two\nand the second", "a token is one word of ASCII"),
        ("0123456789abcdef\n", ""),
    ] {
        let path = folder.file("token", token).display().to_string();
        let admin = format!("admin: {{ tokens: [{{ name: ci, token_file: {path} }}] }}\n");
        let file = folder.file("admin.yaml", format!("{VALID}{admin}")).display().to_string();
        let (code, _, said) = ringside(&["check", &file]);
        assert_eq!(code, Some(i32::from(!why.is_empty())), "{said}");
        assert!(said.contains(why), "{said}");
        let (code, _, _) = ringside(&["check", "--no-files", &file]);
        assert_eq!(code, Some(0));
    }
}

#[test]
fn the_files_that_a_config_names_are_looked_at() {
    let folder = Folder::new("named");
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["reviews.shop".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let ((certificate, key), (_, other)) = (pair(), pair());
    let write = |name, text: &str| folder.file(name, text).display().to_string();
    let (certificate, key) = (write("a.crt", &certificate), write("a.key", &key));
    let (other, empty) = (write("b.key", &other), write("empty", ""));
    let missing = folder.0.join("missing").display().to_string();
    let pipe = folder.0.join("pipe").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let check_with = |flags: &[&str], cert: &str, key: &str| {
        let text = format!(
            "{VALID}identities:\n  - name: mesh\n    cert_file: {cert}\n    key_file: {key}\n"
        );
        let file = folder.file("tls.yaml", text).display().to_string();
        let (code, out, said) = ringside(&[&["check", "-o", "json", &file], flags].concat());
        assert_eq!(code, Some(1), "{said}");
        let found: Value = serde_json::from_str(&out).unwrap();
        let of_files = found.as_array().unwrap().iter().filter_map(|found| {
            let path = found["path"].as_str()?.strip_prefix("identities[0].")?;
            assert_eq!(found["file"], file.as_str());
            let message = found["message"].as_str()?.replace(&*folder.0.to_string_lossy(), "");
            Some(format!("{}:{} {path}: {message}", found["line"], found["column"]))
        });
        let of_files: Vec<String> = of_files.collect();
        // What is wrong with the files is told beside all else.
        assert!(out.contains("the key `identities` is not supported yet"), "{out}");
        of_files.join("; ")
    };
    for (cert, key, expect) in [
        (&certificate, &key, ""),
        (
            &certificate,
            &other,
            "8:15 key_file: the certificate was made for another key than this one",
        ),
        (&key, &certificate, "7:16 cert_file: there is no certificate in this file"),
        (&certificate, &empty, "8:15 key_file: there is no private key in this file"),
        (
            &missing,
            &pipe,
            "7:16 cert_file: cannot read the file `/missing`: No such file or directory (os error 2); \
             8:15 key_file: cannot read the file `/pipe`: it is not a regular file",
        ),
    ] {
        assert_eq!(check_with(&[], cert, key), expect);
        assert_eq!(check_with(&["--no-files"], cert, key), "");
    }
    let tokens = format!("{VALID}admin: {{ tokens: [{{ name: ci, token_file: {missing} }}] }}\n");
    let file = folder.file("tokens.yaml", tokens).display().to_string();
    let (code, _, said) = ringside(&["check", &file]);
    assert!(code == Some(1) && said.contains("check with `--no-files`"), "{said}");
    assert_eq!(ringside(&["check", "--no-files", &file]).0, Some(0));
}

#[test]
fn a_name_in_two_files_names_both() {
    let folder = Folder::new("twice");
    let one = folder.file("one.yaml", VALID);
    let other = folder.file(
        "other.yaml",
        "version: 1\nservices:\n  - { name: app, endpoints: [{ address: \"127.0.0.1:1\" }] }\n",
    );
    let (code, _, said) = ringside(&["check", one.to_str().unwrap(), other.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("one.yaml:3:") && said.contains("other.yaml:3:"), "{said}");
}

#[test]
fn hostile_files_are_named_errors_soon() {
    let folder = Folder::new("hostile");
    let mut invalid = VALID.as_bytes().to_vec();
    invalid.extend(b"x-note: \xff\xfe\n");
    let huge = folder.0.join("huge.yaml");
    fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    for (path, says) in [
        (folder.file("latin.yaml", invalid), "this byte is not UTF-8"),
        (folder.file("latin.toml", b"version = 1 # \xe9\n"), "this byte is not UTF-8"),
        (huge, "at most 32 MiB"),
        (PathBuf::from("/dev/zero"), "at most 32 MiB"),
        (folder.file("empty.yaml", ""), ""),
        (folder.file("nul.yaml", "\0"), ""),
        (folder.file("deep.yaml", "[".repeat(20_000)), "nests at most 64 levels"),
    ] {
        let begun = Instant::now();
        let (code, _, said) = check(&path);
        assert_eq!(code, Some(1), "{}: {said}", path.display());
        assert!(said.contains(says) && said.contains("error: "), "{}: {said}", path.display());
        assert!(
            said.contains(&format!("{}:1:", path.display())) || says.contains("byte"),
            "{said}"
        );
        assert!(said.len() < 10_000 && begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn help_and_version_are_there() {
    let (code, out, said) = ringside(&["--version"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(out, format!("ringside {}\n", env!("CARGO_PKG_VERSION")));
    for arguments in [&["--help"][..], &["run", "--help"], &["check", "--help"]] {
        let (code, out, said) = ringside(arguments);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(out.contains("Usage: ringside"), "{out}");
    }
    let help = ringside(&["--help"]).1;
    for command in
        ["run", "check", "explain", "push", "rollback", "diff", "status", "drain", "demo", "man"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
}

#[test]
fn wrong_arguments_exit_with_two_and_say_what_is_right() {
    for (arguments, says) in [
        (&[][..], "Usage: ringside"),
        (&["check"], "name a file"),
        (&["run"], "name a file"),
        (&["chekc", "x.yaml"], "'check'"),
        (&["check", "x.yaml", "--strickt"], "'--strict'"),
        (&["completions"], "<SHELL>"),
        (&["completions", "tcsh"], "bash, elvish, fish, powershell, zsh"),
        (&["man", "run"], "'run'"),
        (&["run", "x.yaml", "--workers", "0"], "--workers"),
        (&["run", "x.yaml", "--workers", "1025"], "1..=1024"),
        (&["demo", "--seconds", "0"], "0 is not in 1.."),
        (&["run", "x.yaml", "--io", "kqueue"], "io_uring"),
        (&["run", "x.yaml", "--admin", "unix:here"], "begins with `/`"),
        (&["run", "x.yaml", "--admin", "everywhere"], "is not an address"),
    ] {
        let (code, out, said) = ringside(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn every_shell_gets_completions_that_it_takes() {
    for (shell, says) in [
        ("bash", "complete -F _ringside"),
        ("zsh", "#compdef ringside"),
        ("fish", "complete -c ringside"),
        ("elvish", "edit:completion:arg-completer[ringside]"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'ringside'"),
    ] {
        let (code, out, said) = ringside(&["completions", shell]);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{shell}");
        for text in [says, "check", "workers", "completions"] {
            assert!(out.contains(text), "{shell}: no {text}");
        }
        assert!(!out.contains("intercept"), "{shell} completes what is not there");
    }
    // What bash makes of it, for the beginning of a command and for the values of an option.
    let script = r#"
        source <("$0" completions bash)
        for line in "ringside che" "ringside run --io io"; do
            COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _ringside ringside "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            echo "${COMPREPLY[@]}"
        done"#;
    let program = env!("CARGO_BIN_EXE_ringside");
    let output = Command::new("bash").args(["-c", script, program]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "check\nio_uring\n", "{output:?}");
}

#[test]
fn the_manual_page_has_every_command_with_its_options() {
    let (code, page, said) = ringside(&["man"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(page.lines().any(|line| line.starts_with(".TH ringside 1")), "{page}");
    for heading in ["NAME", "SYNOPSIS", "COMMANDS", "EXIT STATUS", "SIGNALS", "SEE ALSO"] {
        let count = page
            .lines()
            .filter(|line| line.trim_start_matches(".SH ").trim_matches('"') == heading);
        assert_eq!(count.count(), 1, "{heading}: {page}");
    }
    for command in
        ["run", "check", "explain", "push", "rollback", "diff", "status", "drain", "demo", "man"]
    {
        let heading = format!(".SS \"ringside {command}\"");
        assert!(page.contains(&heading), "no {heading} in {page}");
    }
    // roff has hyphens escaped.
    for option in ["workers", "io", "admin", "strict", "seconds"] {
        assert!(page.contains(&format!(r"\-\-{option}")), "no {option} in {page}");
    }
    assert!(!page.contains("intercept"), "it tells of what is not there");
}

#[test]
fn commands_of_later_are_known_and_not_supported_yet() {
    let help = ringside(&["--help"]).1;
    for line in ["certs", "top", "tap --route r", "doctor", "intercept install", "upgrade"] {
        let (code, out, said) = ringside(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((code, out.as_str()), (Some(2), ""), "{line}: {said}");
        assert!(said.contains("not supported yet") && said.lines().count() == 1, "{line}: {said}");
        let name = line.split(' ').next().unwrap();
        assert!(!help.contains(&format!("\n  {name}")), "{help}");
    }
}

#[test]
fn explain_says_where_a_request_would_go() {
    let folder = Folder::new("explain");
    let text = VALID.replace(
        "backends",
        "hosts: [a], matches: [{ headers: [{ name: x, exact: b }] }], backends",
    );
    let file = folder.file("explain.yaml", text);
    let file = file.to_str().unwrap();
    let explain = |rest: &[&str]| ringside(&[&["explain", "-c", file], rest].concat());

    let (code, out, said) = explain(&["GET", "http://a/p?q", "-H", "X: b", "--from", "10.0.0.1"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(out.starts_with("request   GET a/p?q on web from 10.0.0.1\n"), "{out}");
    assert!(out.contains("all[0]  takes it\n") && out.contains("127.0.0.1:9080  next\n"), "{out}");

    let (code, out, _) = explain(&["GET", "/", "-H", "host: a", "-o", "json"]);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["cause"]), (Some(1), &"no_route".into()));
    assert_eq!(value["tried"][0]["failed"]["condition"], "header");

    for (rest, says) in [
        (&["GET", "a/b"][..], "is not a URL"),
        (&["GET", "/b"], "add -H 'host: HOST'"),
        (&["GET", "http://a/", "-H", "x"], "is not a header"),
        (&["GET", "http://a/", "--listener", "x"], "there is no listener \"x\"; there are web"),
        (&["GET", "http://a/", "--peer", "spiffe://a/b"], "--peer: not supported yet"),
        (&["GET", "http://a/", "--admin", "127.0.0.1:1"], "cannot be used with"),
        (&["GET", "http://a/", "--from", "x"], "invalid"),
        (&["GET"], "required"),
    ] {
        let (code, out, said) = explain(rest);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{rest:?}: {said}");
        assert!(said.contains(says), "{rest:?}: {said}");
    }
    let (code, _, said) = ringside(&["explain", "-c", "/nowhere.yaml", "GET", "http://a/"]);
    assert_eq!(code, Some(2), "{said}");
    let wrong = folder.file("wrong.yaml", "listeners: []");
    let (code, _, said) = ringside(&["explain", "-c", wrong.to_str().unwrap(), "GET", "http://a/"]);
    assert!(code == Some(2) && said.contains("the config is invalid"), "{said}");
}

#[test]
fn admin_is_not_at_an_abstract_socket() {
    let folder = Folder::new("abstract");
    let says = "an abstract socket has no file mode to protect it";
    for key in ["admin", "probes"] {
        let text = format!("{VALID}{key}: {{ address: \"unix:@x\" }}\n");
        let (code, _, said) = check(&folder.file("a.yaml", text));
        assert!(code == Some(1) && said.contains(says), "{key}: {said}");
    }
    let file = folder.file("b.yaml", VALID.replace("127.0.0.1:8080", "127.0.0.1:0"));
    let (code, _, said) = ringside(&["run", file.to_str().unwrap(), "--admin", "unix:@x"]);
    assert!(code == Some(2) && said.contains(says), "{said}");
}

#[test]
fn a_port_that_is_taken_is_said_with_the_next_step() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new("taken");
    let address = taken.local_addr().unwrap().to_string();
    let file = folder.file("a.yaml", VALID.replace("127.0.0.1:8080", &address));
    let (code, _, said) = ringside(&["run", file.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    let last = said.lines().last().unwrap();
    let begin = format!("ringside: listener web: cannot listen on {address}: ");
    assert!(last.starts_with(&begin) && last.contains("`ss -ltnp` tells which"), "{said}");
}

//! What programs get to see.

use config::{Format, Severity, parse};

const TEXT: &str = "listeners: [{ name: web, address: 127.0.0.1:80, http: {} }]
services: [{ name: a, endpoints: [{ address: 127.0.0.1:81 }] }]
routes:
- { name: all, backends: [{ service: a }], timeouts: { response: 5 } }
- { name: all, backends: [{ service: a }] }
";

#[test]
fn the_path_leads_to_the_mistake() {
    let diagnostics = parse("c.yaml", TEXT, Format::Yaml).unwrap_err();
    let first = &diagnostics.list[0];
    assert_eq!((first.file.as_str(), first.line, first.column), ("c.yaml", 4, 66));
    assert_eq!(
        (first.severity, first.path.as_str()),
        (Severity::Error, "routes[0].timeouts.response")
    );
    let line = "c.yaml:4:66: error: `5` is not what it should be: a duration is a whole number and \
                ms, s, m or h (say the unit: `5s` or `5ms`)";
    assert_eq!(first.to_string(), line);
}

#[test]
fn json_has_all_of_it() {
    let json = parse("c.yaml", TEXT, Format::Yaml).unwrap_err().to_json();
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list[0]["hint"], "say the unit: `5s` or `5ms`");
    assert_eq!(list[0]["related"], serde_json::Value::Null);
    assert_eq!(list[1]["path"], "routes[1].name");
    assert_eq!((&list[1]["line"], &list[1]["column"]), (&5.into(), &11.into()));
    assert_eq!(list[1]["related"]["line"], 4);
}

/// What follows from a mistake that is told already is not told again.
#[test]
fn one_typo_is_one_error() {
    let text = TEXT.lines().take(3).collect::<Vec<_>>().join("\n")
        + "\n- { name: all, backends: [{ service: a }] }\n- { name: web, hosts: [x], listeners: [web], backends: [{ service: a }] }\n";
    assert!(parse("c", &text, Format::Yaml).is_ok());
    for (right, wrong, message) in [
        ("http: {}", "htttp: {}", "unknown key `htttp`"),
        ("http: {}", "detect: {}", "the key `detect` is not supported yet"),
        ("http: {}", "http: {}, tcpp: {}", "unknown key `tcpp`"),
        ("address: 127.0.0.1:80", "adress: 127.0.0.1:80", "unknown key `adress`"),
        ("endpoints:", "endpoint:", "unknown key `endpoint`"),
        (
            "backends: [{ service: a }] }\n- ",
            "backend: [{ service: a }] }\n- ",
            "unknown key `backend`",
        ),
        ("name: web, address", "nmae: web, address", "unknown key `nmae`"),
        ("listeners: [{", "listners: [{", "unknown key `listners`"),
        ("services: [{", "servces: [{", "unknown key `servces`"),
        (", http: {}", "", "needs exactly one of http | tcp"),
        (
            "listeners: [{ name: web, address: 127.0.0.1:80, http: {} }]",
            "",
            "needs the key `listeners`",
        ),
    ] {
        // A route that names a listener which nobody has is a mistake of its own.
        let text = match right.len() > 20 {
            true => text.replace(", listeners: [web]", ""),
            false => text.clone(),
        };
        let diagnostics = parse("c", &text.replacen(right, wrong, 1), Format::Yaml).unwrap_err();
        assert_eq!(diagnostics.len(), 1, "{wrong}: {diagnostics}");
        assert!(diagnostics.list[0].message.contains(message), "{diagnostics}");
    }
}

#[test]
fn colors_only_where_they_are_wanted() {
    let diagnostics = parse("c.yaml", TEXT, Format::Yaml).unwrap_err();
    assert!(diagnostics.render(true).contains('\u{1b}'));
    assert!(!diagnostics.render(false).contains('\u{1b}'));
}

#[test]
fn the_hash_follows_the_content() {
    let hash = |text: &str| parse("c", text, Format::Yaml).unwrap().hash;
    let listeners = TEXT.lines().next().unwrap();
    let same = hash(&format!("workers: 1\n{listeners}"));
    assert_eq!(same, hash(&format!("# why\n{listeners}\n\nworkers:   1\nx-note: 1")));
    assert_ne!(same, hash(&format!("workers: 2\n{listeners}")));
}

//! The reference of all keys, printed from the same tables that the reader reads by.

use std::fmt::Write;

use crate::config::CONFIG;
use crate::definition::{Key, Kind, Object, Presence};

/// Markdown: a section per object, a row per key. `docs/config.md` is this text.
pub fn reference() -> String {
    let mut text = String::from(
        "# The config, key by key\n\n\
         Generated from the tables in `config/` (`cargo run -p config --example reference`). \
         YAML, TOML or JSON, by the file's extension.\n\n\
         A duration is a whole number and `ms`, `s`, `m` or `h`; a size a whole number and `B`, \
         `KiB`, `MiB` or `GiB`; a ratio is in percent: `50%`. `none` is no limit. A name is \
         `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`. An address is `127.0.0.1:8080`, `\"[::1]:8080\"`, \
         `unix:/path` or `unix:@name`. In files, `${NAME}` and `${NAME:-default}` in a text are variables of the environment, and `$${` is a `${`. A regex is in RE2's syntax and has to fit \
         the whole text.\n",
    );
    object("config", &CONFIG, &mut text);
    text
}

fn object(path: &str, object_: &Object, text: &mut String) {
    let _ = writeln!(text, "\n## `{path}`\n\n{}", object_.about);
    if !object_.one_of.is_empty() {
        let _ = writeln!(text, "Exactly one of {}.", code_list(object_.one_of));
    }
    text.push_str("\n| key | value | default | |\n|---|---|---|---|\n");
    let accepted = || object_.keys.iter().filter(|key| !is_not_yet(key));
    for key in accepted() {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            key.name,
            value(&key.kind),
            default(key.presence),
            key.about
        );
    }
    let not_yet: Vec<_> =
        object_.keys.iter().filter(|key| is_not_yet(key)).map(|k| k.name).collect();
    if !not_yet.is_empty() {
        let _ = writeln!(text, "\nNot supported yet: {}.", code_list(&not_yet));
    }
    for key in accepted() {
        let path = match path {
            "config" => key.name.to_string(),
            _ => format!("{path}.{}", key.name),
        };
        if let Some((inner, suffix)) = inner_object(&key.kind) {
            object(&format!("{path}{suffix}"), inner, text);
        }
    }
}

fn is_not_yet(key: &Key) -> bool {
    matches!(key.presence, Presence::NotYet)
}

fn inner_object(kind: &Kind) -> Option<(&'static Object, &'static str)> {
    match kind {
        Kind::Object(object) => Some((object, "")),
        Kind::OrNone(inner) | Kind::OrWords(_, inner) => inner_object(inner),
        Kind::List(inner) => inner_object(inner).map(|(object, _)| (object, "[]")),
        _ => None,
    }
}

fn default(presence: Presence) -> String {
    match presence {
        Presence::Required => "required".into(),
        Presence::Default(text) => format!("`{text}`"),
        Presence::Optional | Presence::NotYet => String::new(),
    }
}

fn value(kind: &Kind) -> String {
    match kind {
        Kind::Name => "name".into(),
        Kind::Number => "number".into(),
        Kind::Text => "text".into(),
        Kind::Duration => "duration".into(),
        Kind::Size => "size".into(),
        Kind::Ratio => "ratio".into(),
        Kind::Address => "address".into(),
        Kind::Network => "network, `10.0.0.0/8`".into(),
        Kind::Method => "method".into(),
        Kind::Host => "host".into(),
        Kind::Path => "path".into(),
        Kind::Regex => "regex".into(),
        Kind::Status => "status".into(),
        Kind::Headers => "map: header to text".into(),
        Kind::Labels => "map: key to text".into(),
        Kind::Word(vocabulary) => code_list(&vocabulary.words()),
        Kind::OrNone(inner) => format!("{} or `none`", value(inner)),
        Kind::OrWords(words, inner) => format!("{} or {}", code_list(words), value(inner)),
        Kind::List(inner) => format!("list: {}", value(inner)),
        Kind::Object(_) => "map".into(),
        Kind::Part(object) => format!("map: keys of {}", object.name),
    }
}

fn code_list(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

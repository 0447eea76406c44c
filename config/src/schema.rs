//! The JSON Schema (2020-12) of the config, printed from the same tables that the reader reads by, for
//! editors and for those who make configs by program. What only the whole can tell, such as a route
//! that names no service, is for `check`.

use serde_json::{Map, Value as Json, json};

use crate::config::CONFIG;
use crate::defaults::LISTS;
use crate::definition::{Key, Kind, Object, Presence};
use crate::document::as_json;
use crate::reader::default_node;

/// The schema of a whole config, of YAML, TOML and JSON alike.
pub fn schema() -> Json {
    let mut schema = object(&CONFIG, Part::Whole);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("ringside config");
    // Ignored: anchors and annotations.
    schema["patternProperties"] = json!({ "^x-": {} });
    schema["allOf"] = LISTS.map(|(key, list, _)| relax(&mut schema, key, list)).into();
    schema
}

/// What the items of a list need, they may have from `defaults`: so they need it where there are none.
fn relax(schema: &mut Json, key: &str, list: &str) -> Json {
    let items = &mut schema["properties"][list]["items"];
    let mut needs = Map::new();
    for need in ["required", "oneOf"] {
        let taken = items.as_object_mut().and_then(|items| items.remove(need));
        needs.extend(taken.map(|taken| (need.to_owned(), taken)));
    }
    items["required"] = json!(["name"]);
    let has_defaults = json!({
        "required": ["defaults"],
        "properties": { "defaults": { "type": "object", "required": [key] } },
    });
    json!({ "if": has_defaults, "else": { "properties": { list: { "items": needs } } } })
}

/// How much of an object has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// Some of its keys: `defaults`.
    Some,
}

fn object(object: &Object, part: Part) -> Json {
    let accepted = || object.keys.iter().filter(|key| !is_not_yet(key));
    let properties: Map<String, Json> =
        accepted().map(|key| (key.name.to_owned(), property(key, part))).collect();
    let mut schema = json!({
        // In YAML a key without a value is an object without keys.
        "type": ["object", "null"],
        "description": object.about,
        "properties": properties,
        "additionalProperties": false,
    });
    let apart = accepted().filter_map(|key| Some((key.name, key.not_with?)));
    for (key, other) in apart.filter(|(key, other)| key < other) {
        schema["not"] = json!({ "required": [key, other] });
    }
    if part == Part::Some {
        return schema;
    }
    let is_required = |key: &&Key| matches!(key.presence, Presence::Required);
    let required: Vec<&str> = accepted().filter(is_required).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
        schema["type"] = json!("object");
    }
    let choice: Vec<Json> = object
        .one_of
        .iter()
        .filter(|name| accepted().any(|key| key.name == **name))
        .map(|name| json!({ "required": [name] }))
        .collect();
    if !choice.is_empty() {
        schema["oneOf"] = Json::from(choice);
        schema["type"] = json!("object");
    }
    schema
}

fn is_not_yet(key: &Key) -> bool {
    matches!(key.presence, Presence::NotYet)
}

fn property(key: &Key, part: Part) -> Json {
    let mut schema = value(&key.kind, part);
    schema["description"] = json!(key.about);
    if let Presence::Default(text) = key.presence {
        schema["default"] = as_json(&default_node(text));
    }
    schema
}

/// `${NAME}` may stand in any text of a file, and for a number too.
const VARIABLE: &str = r"\$\{";

fn text(pattern: &str) -> Json {
    json!({ "type": "string", "pattern": format!("^(?:{pattern})$|{VARIABLE}") })
}

fn number() -> Json {
    json!({ "anyOf": [
        { "type": "integer" },
        { "type": "string", "pattern": VARIABLE },
    ] })
}

fn value(kind: &Kind, part: Part) -> Json {
    match kind {
        Kind::Name => text("[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
        Kind::Number | Kind::Status => number(),
        // Zero is zero in any unit.
        Kind::Duration => json!({ "anyOf": [text("[0-9]+(?:ms|s|m|h)"), { "const": 0 }] }),
        Kind::Size => json!({ "anyOf": [text("[0-9]+(?:B|KiB|MiB|GiB)"), { "const": 0 }] }),
        Kind::Ratio => text(r"[0-9]+(?:\.[0-9]+)?%"),
        Kind::Path => text("/.*"),
        Kind::Text | Kind::Address | Kind::Network | Kind::Method | Kind::Host | Kind::Regex => {
            json!({ "type": "string" })
        }
        Kind::Headers | Kind::Labels => {
            json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })
        }
        Kind::Word(vocabulary) => words(&vocabulary.words()),
        Kind::OrNone(inner) => json!({ "anyOf": [{ "const": "none" }, value(inner, part)] }),
        Kind::OrWords(known, inner) => json!({ "anyOf": [words(known), value(inner, part)] }),
        Kind::List(inner) => {
            // What replaces a list is whole.
            json!({ "type": ["array", "null"], "items": value(inner, Part::Whole) })
        }
        Kind::Object(inner) => object(inner, part),
        Kind::Part(inner) => {
            let mut part = object(inner, Part::Some);
            // Each has its own.
            part["properties"].as_object_mut().map(|keys| keys.remove("name"));
            part
        }
    }
}

/// `true` and `308` are words in the config, and something else for who reads YAML.
fn words(words: &[&str]) -> Json {
    let plain = |word: &&str| serde_json::from_str::<Json>(word).ok();
    let truths = words.iter().filter_map(plain);
    let words = words.iter().map(|word| json!(word));
    let variable = json!({ "type": "string", "pattern": VARIABLE });
    json!({ "anyOf": [{ "enum": words.chain(truths).collect::<Vec<_>>() }, variable] })
}

//! `defaults`: what every listener, service or route has that does not say otherwise.
//!
//! Merged into the tree before it is checked, key by key; a list, and a choice of one key among
//! several, is replaced whole, and what only goes with another choice is left out. What comes from
//! there is wrong there, also where no item takes it: values keep their places, and each part is read
//! once as an item of its own.

use crate::definition::{Key, Kind, Object, Presence};
use crate::listener::LISTENER;
use crate::reader::default_node;
use crate::report::{Problem, Report, Step};
use crate::route::ROUTE;
use crate::service::SERVICE;
use crate::source::Span;
use crate::tree::{Entry, Node, Value};

pub(crate) const DEFAULTS: Object = Object {
    name: "defaults",
    about: "Merged under each item that leaves a key out; the keys are those of the item, but for `name`.",
    one_of: &[],
    keys: &[
        Key::optional("listener", Kind::Part(&LISTENER), "Under each of `listeners`."),
        Key::optional("service", Kind::Part(&SERVICE), "Under each of `services`."),
        Key::optional("route", Kind::Part(&ROUTE), "Under each of `routes`."),
    ],
};

/// Which list each of its keys is for.
pub(crate) const LISTS: [(&str, &str, &Object); 3] = [
    ("listener", "listeners", &LISTENER),
    ("service", "services", &SERVICE),
    ("route", "routes", &ROUTE),
];

/// The tree with its defaults merged; `None` where it has none.
pub(crate) fn with_defaults(tree: &Node, report: &mut Report<'_>) -> Option<Node> {
    let defaults = tree.get("defaults")?;
    // Its own keys; what is in each is checked where it is merged.
    report.at(Step::Key("defaults"), |report| {
        let Some(fields) = report.fields(defaults, &DEFAULTS) else { return };
        for (key, _, object) in LISTS {
            if let Some(part) = fields.node(key) {
                check_part(part, object, fields.report);
            }
        }
    });
    let mut tree = tree.clone();
    let Value::Map(entries) = &mut tree.value else { return None };
    for (key, list, object) in LISTS {
        let Some(part) = defaults.get(key) else { continue };
        let list = entries.iter_mut().find(|entry| entry.key == list);
        if let Some(Value::List(items)) = list.map(|entry| &mut entry.value.value) {
            items.iter_mut().for_each(|item| merge(item, part, object));
        }
    }
    Some(tree)
}

/// What would be reported at every item is reported once, also where there is no item.
fn check_part(part: &Node, object: &'static Object, report: &mut Report<'_>) {
    let Value::Map(entries) = &part.value else {
        if !matches!(part.value, Value::Null) {
            let message = format!("defaults are a map, not {}", part.describe());
            report.add(Problem::error(part.span, message));
        }
        return;
    };
    for entry in entries {
        match entry.key.as_str() {
            "name" => {
                let message = "each has a name of its own, so `name` has no default";
                report.add(Problem::error(entry.key_span, message));
            }
            _ => drop(report.check_key(entry, object)),
        }
    }
}

/// Reads each part as an item that says nothing else, so that a wrong value is told where no item
/// takes it. Whatever a part leaves to the items is made up, and nobody's mistake.
pub(crate) fn read_alone(
    defaults: &Node,
    report: &mut Report<'_>,
    mut read: impl FnMut(&'static str, &Node, &mut Report<'_>),
) {
    for (key, _, object) in LISTS {
        let Some(part) = defaults.get(key) else { continue };
        let made_up = |name: &str| {
            let value = match name {
                "name" => default_node("a"),
                "address" => default_node("127.0.0.1:1"),
                "backends" => default_node("[]"),
                _ => default_node("{}"),
            };
            Entry { key: name.to_owned(), key_span: Span::NOWHERE, value }
        };
        let required = object.keys.iter().filter(|key| matches!(key.presence, Presence::Required));
        let entries = required.map(|key| made_up(key.name)).collect();
        let mut item = Node { span: Span::NOWHERE, value: Value::Map(entries) };
        merge(&mut item, part, object);
        if let Value::Map(entries) = &mut item.value
            && let Some(choice) = object.one_of.first()
            && !entries.iter().any(|entry| object.one_of.contains(&entry.key.as_str()))
        {
            entries.push(made_up(choice));
        }
        report.at(Step::Key(key), |report| {
            report.where_written(|report| read(key, &item, report));
        });
    }
}

fn merge(item: &mut Node, defaults: &Node, object: &Object) {
    let Value::Map(defaults) = &defaults.value else { return };
    if matches!(item.value, Value::Null) {
        item.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut item.value else { return };
    for default in defaults {
        let Some(key) = object.keys.iter().find(|key| key.name == default.key) else { continue };
        if let Some(given) = entries.iter_mut().find(|entry| entry.key == default.key) {
            if let Some(inner) = object_of(&key.kind) {
                merge_inner(given, default, inner);
            }
            continue;
        }
        let chosen = |entry: &&Entry| object.one_of.contains(&entry.key.as_str());
        let chosen = entries.iter().find(chosen).map(|entry| entry.key.as_str());
        let fits = match chosen {
            Some(choice) if object.one_of.contains(&key.name) => choice == key.name,
            Some(choice) => key.only_with.is_none_or(|wanted| wanted == choice),
            None => true,
        };
        let is_said = |other| entries.iter().any(|entry| entry.key == other);
        if fits && !key.not_with.is_some_and(is_said) && key.name != "name" {
            entries.push(default.clone());
        }
    }
}

/// Maps merge; anything else that is given stands.
fn merge_inner(given: &mut Entry, default: &Entry, object: &Object) {
    if matches!(given.value.value, Value::Map(_) | Value::Null) {
        merge(&mut given.value, &default.value, object);
    }
}

fn object_of(kind: &Kind) -> Option<&'static Object> {
    match kind {
        Kind::Object(object) => Some(object),
        Kind::OrNone(inner) | Kind::OrWords(_, inner) => object_of(inner),
        _ => None,
    }
}

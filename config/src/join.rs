//! Several files as one config: lists join, anything else may be there once.

use crate::diagnostic::quoted;
use crate::reader::{Problem, Report};
use crate::source::Span;
use crate::tree::{Entry, Node, Value};

/// The one tree of all files, without the keys that nobody reads (`x-…`).
pub(crate) fn join(roots: Vec<Node>, report: &mut Report<'_>) -> Node {
    let span =
        roots.first().map_or(Span::NOWHERE, |root| Span { end: root.span.start, ..root.span });
    let mut joined: Vec<Entry> = Vec::new();
    for root in roots {
        match root.value {
            Value::Map(entries) => {
                let entries = entries.into_iter().filter(|entry| !entry.key.starts_with("x-"));
                entries.for_each(|entry| add(&mut joined, entry, report));
            }
            Value::Null => {}
            Value::Scalar(_) | Value::List(_) => {
                let message = format!("a config is a map, not {}", root.describe());
                report.add(Problem::error(root.span, message).hint("it begins with `version: 1`"));
            }
        }
    }
    Node { span, value: Value::Map(joined) }
}

fn add(joined: &mut Vec<Entry>, entry: Entry, report: &mut Report<'_>) {
    // A file has its keys once, so this one is from an earlier file: only then it is worth a look.
    let from_other_file =
        |known: &&mut Entry| known.key_span.file != entry.key_span.file && known.key == entry.key;
    let first_is_other =
        joined.first().is_some_and(|first| first.key_span.file != entry.key_span.file);
    let known = if first_is_other { joined.iter_mut().find(from_other_file) } else { None };
    let Some(known) = known else {
        joined.push(entry);
        return;
    };
    match (&mut known.value.value, entry.value.value) {
        (Value::List(items), Value::List(more)) => items.extend(more),
        (Value::Scalar(version), Value::Scalar(other))
            if entry.key == "version" && version.text == other.text => {}
        (_, Value::Null) => {}
        _ => {
            let message = format!("the key {} is in two files", quoted(&entry.key));
            report.add(
                Problem::error(entry.key_span, message).related(known.key_span, "the first one"),
            );
        }
    }
}

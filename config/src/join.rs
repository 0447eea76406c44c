//! Several files as one config: lists join, anything else may be there once.

use std::collections::HashMap;

use crate::diagnostic::quoted;
use crate::report::Problem;
use crate::source::Span;
use crate::tree::{Entry, Node, Value};

/// The one tree of all files, without the keys that nobody reads (`x-…`).
pub(crate) fn join(roots: Vec<Node>, faults: &mut Vec<Problem>) -> Node {
    let span =
        roots.first().map_or(Span::NOWHERE, |root| Span { end: root.span.start, ..root.span });
    let mut joined = Joined::default();
    for root in roots {
        match root.value {
            Value::Map(entries) => {
                let entries = entries.into_iter().filter(|entry| !entry.key.starts_with("x-"));
                entries.for_each(|entry| joined.add(entry, faults));
            }
            Value::Null => {}
            Value::Scalar(_) | Value::List(_) => {
                let message = format!("a config is a map, not {}", root.describe());
                faults.push(Problem::error(root.span, message).hint("it begins with `version: 1`"));
            }
        }
    }
    Node { span, value: Value::Map(joined.entries) }
}

#[derive(Default)]
struct Joined {
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
}

impl Joined {
    fn add(&mut self, entry: Entry, faults: &mut Vec<Problem>) {
        let Some(&index) = self.by_key.get(&entry.key) else {
            self.by_key.insert(entry.key.clone(), self.entries.len());
            self.entries.push(entry);
            return;
        };
        let first = &mut self.entries[index];
        match (&mut first.value.value, entry.value.value) {
            (Value::List(items), Value::List(more)) => items.extend(more),
            (Value::Scalar(version), Value::Scalar(other))
                if entry.key == "version" && version.text == other.text => {}
            (_, Value::Null) => {}
            (empty @ Value::Null, value) => *empty = value,
            _ => {
                let message = format!("the key {} is in two files", quoted(&entry.key));
                let problem = Problem::error(entry.key_span, message);
                faults.push(problem.related(first.key_span, "the first one"));
            }
        }
    }
}

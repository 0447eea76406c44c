//! Walks a tree, collects everything that is wrong with it, and hands out checked values.
//!
//! A reading function takes a node and the report and answers `Some` value, or `None` after it
//! has told the report why. Nothing stops at the first mistake: an object reads all its fields
//! before it gives up, so one run of `check` shows them all. Which keys an object has is not
//! decided here but in its [`Object`] table.

use std::cell::Cell;

use crate::definition::{Key, Object, Presence, Words};
use crate::diagnostic::quoted;
use crate::report::{Complaint, Problem, Report, Step};
use crate::source::Span;
use crate::tree::{Entry, Node, Scalar, Shape, Style, Value};

impl<'s> Report<'s> {
    /// Opens an object: reports every key that it does not have, and a choice that was not made.
    /// An empty YAML value (`http:`) is an object without keys.
    pub(crate) fn fields<'n, 'r>(
        &'r mut self,
        node: &'n Node,
        object: &'static Object,
    ) -> Option<Fields<'n, 'r, 's>> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                let message = format!("{} is a map, not {}", object.name, node.describe());
                self.add(Problem::error(node.span, message).hint(keys_hint(object)));
                return None;
            }
        };
        let mut meant = Vec::new();
        for entry in entries {
            meant.extend(self.check_key(entry, object));
        }
        self.check_choice(node, entries, &meant, object);
        Some(Fields { object, span: node.span, entries, meant, asked: Cell::new(0), report: self })
    }

    /// The entries of a map whose keys are names that somebody chose.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Null => Some(&[]),
            Value::Scalar(_) | Value::List(_) => {
                let message = format!("this is {what}, not {}", node.describe());
                self.add(Problem::error(node.span, message));
                None
            }
        }
    }

    /// For a key that the object does not have, the one that was meant.
    pub(crate) fn check_key(
        &mut self,
        entry: &Entry,
        object: &'static Object,
    ) -> Option<&'static str> {
        match object.keys.iter().find(|key| key.name == entry.key) {
            Some(Key { name, presence: Presence::NotYet, .. }) => self.at(Step::Key(name), |r| {
                r.add(not_yet(entry.key_span, &format!("the key {}", quoted(name))));
                None
            }),
            Some(_) => None,
            None => self.add_unknown_key(entry, object),
        }
    }

    fn add_unknown_key(&mut self, entry: &Entry, object: &'static Object) -> Option<&'static str> {
        let message = format!("unknown key {} in {}", quoted(&entry.key), object.name);
        let problem = Problem::error(entry.key_span, message);
        if self.is_full() {
            self.add(problem);
            return None;
        }
        let meant = closest(&entry.key, object.keys.iter().map(|key| key.name));
        self.add(problem.hint(meant.map_or_else(|| keys_hint(object), did_you_mean)));
        meant
    }

    fn check_choice(
        &mut self,
        node: &Node,
        entries: &[Entry],
        meant: &[&str],
        object: &'static Object,
    ) {
        if object.one_of.is_empty() {
            return;
        }
        let mut given = entries.iter().filter(|e| object.one_of.contains(&e.key.as_str()));
        let is_built = |name: &&str| {
            let key = object.keys.iter().find(|key| key.name == *name);
            key.is_some_and(|key| !matches!(key.presence, Presence::NotYet))
        };
        let choice: Vec<&str> = object.one_of.iter().copied().filter(is_built).collect();
        let choice = choice.join(" | ");
        match (given.next(), given.next()) {
            (Some(_), None) => {}
            (Some(first), Some(second)) => {
                let message = format!("{} has exactly one of {choice}", object.name);
                self.add(
                    Problem::error(second.key_span, message)
                        .related(first.key_span, "there is this already"),
                );
            }
            (None, _) if meant.iter().any(|key| object.one_of.contains(key)) => {}
            (None, _) => {
                let message = format!("{} needs exactly one of {choice}", object.name);
                self.add(Problem::error(node.span, message));
            }
        }
    }
}

/// An open object. Every accepted key of its table has to be asked for: a key that is accepted
/// and not read would be ignored in silence.
pub(crate) struct Fields<'n, 'r, 's> {
    object: &'static Object,
    pub(crate) span: Span,
    entries: &'n [Entry],
    /// Keys that are there under another name, which was reported: they are not missing.
    meant: Vec<&'static str>,
    /// One bit for each key of the table.
    asked: Cell<u64>,
    pub(crate) report: &'r mut Report<'s>,
}

impl<'n, 's> Fields<'n, '_, 's> {
    /// The value of a key that is required or has a default.
    pub(crate) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node, &mut Report<'s>) -> Option<T>,
    ) -> Option<T> {
        if let Some(node) = self.node(key) {
            return self.report.at(Step::Key(key), |report| read(node, report));
        }
        match self.definition(key).presence {
            Presence::Default(text) => {
                let node = default_node(text);
                self.report.at(Step::Key(key), |report| read(&node, report))
            }
            Presence::Required if self.meant.contains(&key) => None,
            Presence::Required => {
                let message = format!("{} needs the key {}", self.object.name, quoted(key));
                self.report.add(Problem::error(self.span, message));
                None
            }
            Presence::Optional | Presence::NotYet => None,
        }
    }

    /// The value of a key that may be left out: `Some(None)` when it is.
    pub(crate) fn find<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node, &mut Report<'s>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.node(key) {
            Some(_) => self.get(key, read).map(Some),
            None => Some(None),
        }
    }

    pub(crate) fn node(&self, key: &str) -> Option<&'n Node> {
        let index = self.object.keys.iter().position(|known| known.name == key);
        self.asked.set(self.asked.get() | index.map_or(0, |index| 1 << index));
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub(crate) fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.key_span)
    }

    fn definition(&self, key: &'static str) -> &'static Key {
        let found = self.object.keys.iter().find(|known| known.name == key);
        found.unwrap_or_else(|| unreachable!("`{key}` is not in the table of {}", self.object.name))
    }
}

impl Drop for Fields<'_, '_, '_> {
    fn drop(&mut self) {
        let forgotten = self.object.keys.iter().enumerate().find(|(index, key)| {
            !matches!(key.presence, Presence::NotYet) && self.asked.get() & (1 << index) == 0
        });
        if let Some((_, key)) = forgotten
            && !std::thread::panicking()
        {
            debug_assert!(false, "nobody read `{}` of {}", key.name, self.object.name);
        }
    }
}

/// Reads each item of a list; `None` if one of them is wrong.
pub(crate) fn list<'s, T>(
    node: &Node,
    report: &mut Report<'s>,
    mut read: impl FnMut(&Node, &mut Report<'s>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Null => &[],
        Value::Scalar(_) | Value::Map(_) => {
            let message = format!("this is a list, not {}", node.describe());
            report.add(
                Problem::error(node.span, message)
                    .hint("write `[…]`, or a line with `- ` for each item"),
            );
            return None;
        }
    };
    let mut values = Some(Vec::with_capacity(items.len()));
    for (index, item) in items.iter().enumerate() {
        let value = report.at(Step::Index(index), |report| read(item, report));
        values = values.zip(value).map(|(mut values, value)| {
            values.push(value);
            values
        });
    }
    values
}

/// `none` is no limit, anything else is for `read`.
pub(crate) fn or_none<'s, T>(
    node: &Node,
    report: &mut Report<'s>,
    read: impl FnOnce(&Node, &mut Report<'s>) -> Option<T>,
) -> Option<Option<T>> {
    match node.as_scalar() {
        Some(scalar) if scalar.text == "none" => Some(None),
        _ => read(node, report).map(Some),
    }
}

/// A scalar that `parse` turns into a value, whatever its style.
pub(crate) fn scalar<T>(
    node: &Node,
    report: &mut Report<'_>,
    what: &str,
    parse: impl FnOnce(&Scalar) -> Result<T, Complaint>,
) -> Option<T> {
    let Value::Scalar(scalar) = &node.value else {
        report.add(not_a(node, what));
        return None;
    };
    match parse(scalar) {
        Ok(value) => Some(value),
        Err(complaint) => {
            report.add(Problem::because(node.span, complaint));
            None
        }
    }
}

/// A text; a plain number or `true` is not one.
pub(crate) fn text<T>(
    node: &Node,
    report: &mut Report<'_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, Complaint>,
) -> Option<T> {
    scalar(node, report, what, |scalar| match scalar.shape() {
        Shape::Text => parse(&scalar.text),
        Shape::Number | Shape::Boolean => {
            let complaint = Complaint::new(format!("{what} is a text, not {}", node.describe()));
            Err(complaint.hint(format!("put it in quotes: \"{}\"", &*scalar.text)))
        }
    })
}

/// One word of a closed set.
pub(crate) fn word<T: Copy>(node: &Node, report: &mut Report<'_>, words: &Words<T>) -> Option<T> {
    let known = || words.accepted.iter().map(|(word, _)| *word);
    scalar(node, report, "a word", |scalar| {
        if let Some((_, value)) = words.accepted.iter().find(|(word, _)| *word == scalar.text) {
            return Ok(*value);
        }
        let given = quoted(&scalar.text);
        let choice = known().collect::<Vec<_>>().join(" | ");
        if words.not_yet.contains(&scalar.text.as_str()) {
            let message = format!("{given} is not supported yet");
            return Err(Complaint::new(message).hint(format!("today it is {choice}")));
        }
        let hint = truth_hint(&scalar.text, known())
            .or_else(|| closest(&scalar.text, known()).map(did_you_mean));
        Err(Complaint { message: format!("{given} is not one of {choice}"), hint })
    })
}

/// The words that YAML 1.1 took for a truth value, where one is known.
fn truth_hint(given: &str, mut known: impl Iterator<Item = &'static str>) -> Option<String> {
    let truth = match given.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => "true",
        "no" | "off" | "false" => "false",
        _ => return None,
    };
    known.any(|word| word == truth).then(|| format!("write `{truth}`"))
}

fn not_a(node: &Node, what: &str) -> Problem {
    let problem = Problem::error(node.span, format!("expected {what}, found {}", node.describe()));
    match node.value {
        Value::Null => problem.hint("give it a value, or leave the key out"),
        Value::List(_) => {
            problem.hint("a text that begins with `[`, such as `\"[::1]:80\"`, needs quotes")
        }
        Value::Map(_) | Value::Scalar(_) => problem,
    }
}

pub(crate) fn not_yet(span: Span, what: &str) -> Problem {
    Problem::error(span, format!("{what} is not supported yet"))
        .hint("it is in the interface, but this version of ringside does not have it; take it out")
}

fn did_you_mean(word: &str) -> String {
    format!("did you mean `{word}`?")
}

/// The value under `key`, or under an unknown key that is closest to it: what is misspelt is
/// reported when the object is opened, and there all the same.
pub(crate) fn meant<'n>(node: &'n Node, object: &Object, key: &str) -> Option<&'n Node> {
    const UNKNOWN_MAX: usize = 100; // each costs a look at every key
    let Value::Map(entries) = &node.value else { return None };
    if let Some(entry) = entries.iter().find(|entry| entry.key == key) {
        return Some(&entry.value);
    }
    let names = || object.keys.iter().map(|key| key.name);
    let mut unknown = entries.iter().filter(|entry| names().all(|name| name != entry.key));
    let found = unknown.by_ref().take(UNKNOWN_MAX).find(|e| closest(&e.key, names()) == Some(key));
    found.map(|entry| &entry.value)
}

/// The known word that is nearest, if it is near.
pub(crate) fn closest<'k>(given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    const GIVEN_BYTES_MAX: usize = 128; // distance costs the product of both lengths
    const KNOWN_MAX: usize = 5_000; // services, for one; a guess is not worth seconds
    if given.len() > GIVEN_BYTES_MAX {
        return None;
    }
    let plain = |word: &str| word.to_ascii_lowercase().replace('-', "_");
    let given = plain(given);
    known
        .take(KNOWN_MAX)
        .map(|word| (strsim::damerau_levenshtein(&given, &plain(word)), word))
        .filter(|(distance, word)| *distance <= word.len().div_ceil(3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn keys_hint(object: &Object) -> String {
    let accepted = object.keys.iter().filter(|key| !matches!(key.presence, Presence::NotYet));
    let names: Vec<_> = accepted.map(|key| key.name).collect();
    format!("its keys: {}", names.join(", "))
}

/// The text of a default as a tree: `{}`, `[a, b]` or a scalar.
pub(crate) fn default_node(text: &'static str) -> Node {
    let span = Span::NOWHERE;
    if text == "{}" {
        return Node { span, value: Value::Map(Vec::new()) };
    }
    let Some(items) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return Node::scalar(span, text, Style::Plain);
    };
    let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
    let items = items.map(|item| Node::scalar(span, item, Style::Plain)).collect();
    Node { span, value: Value::List(items) }
}

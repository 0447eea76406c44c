//! A config text as a tree in which every value knows where it stands.
//!
//! YAML, TOML and JSON all end up here, so nothing behind this page knows which of them a config
//! was written in. Numbers and truth values stay text until somebody asks for them: what a plain
//! `5` means depends on the key.

use crate::source::Span;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing was written, or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the text; no key twice.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) style: Style,
}

/// How a scalar was written decides what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes: a number, `true`, or a word.
    Plain,
    /// Text, whatever it looks like.
    Quoted,
    /// `${NAME}` was in it: whatever the key needs.
    Substituted,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// What a plain scalar is, by the core schema of YAML 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Number,
    Boolean,
    Text,
}

impl Node {
    pub(crate) fn null(span: Span) -> Node {
        Node { span, value: Value::Null }
    }

    pub(crate) fn scalar(span: Span, text: impl Into<String>, style: Style) -> Node {
        Node { span, value: Value::Scalar(Scalar { text: text.into(), style }) }
    }

    pub(crate) fn as_scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The value under `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// The items of the list under `key`; none if there is no such list.
    pub(crate) fn items(&self, key: &str) -> &[Node] {
        match self.get(key).map(|list| &list.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// Of all texts in it, keys too.
    pub(crate) fn text_bytes(&self) -> usize {
        match &self.value {
            Value::Null => 0,
            Value::Scalar(scalar) => scalar.text.len(),
            Value::List(items) => items.iter().map(Node::text_bytes).sum(),
            Value::Map(entries) => {
                entries.iter().map(|entry| entry.key.len() + entry.value.text_bytes()).sum()
            }
        }
    }

    /// Shows every span of it.
    pub(crate) fn each_span(&self, look: &mut impl FnMut(Span)) {
        look(self.span);
        match &self.value {
            Value::Null | Value::Scalar(_) => {}
            Value::List(items) => items.iter().for_each(|item| item.each_span(look)),
            Value::Map(entries) => entries.iter().for_each(|entry| {
                look(entry.key_span);
                entry.value.each_span(look);
            }),
        }
    }

    pub(crate) fn each_span_mut(&mut self, change: &mut impl FnMut(&mut Span)) {
        change(&mut self.span);
        match &mut self.value {
            Value::Null | Value::Scalar(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.each_span_mut(change)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| {
                change(&mut entry.key_span);
                entry.value.each_span_mut(change);
            }),
        }
    }

    /// Its texts are now further down in a document's: the first of them is at `first`.
    pub(crate) fn move_to(&mut self, first: u32) {
        self.each_span_mut(&mut |span| {
            if *span != Span::NOWHERE {
                span.file += first;
            }
        });
    }

    /// How a message calls it: "a list", "the number `5`".
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            Value::Scalar(scalar) => scalar.describe(),
        }
    }
}

impl Scalar {
    pub(crate) fn shape(&self) -> Shape {
        match self.style {
            Style::Quoted | Style::Substituted => Shape::Text,
            Style::Plain if matches!(self.text.as_str(), "true" | "false") => Shape::Boolean,
            Style::Plain if is_number(&self.text) => Shape::Number,
            Style::Plain => Shape::Text,
        }
    }

    fn describe(&self) -> String {
        let text = crate::diagnostic::quoted(&self.text);
        match self.shape() {
            Shape::Number => format!("the number {text}"),
            Shape::Boolean => text,
            Shape::Text => format!("the text {text}"),
        }
    }
}

fn is_number(text: &str) -> bool {
    let starts_like_one =
        text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    starts_like_one && (text.parse::<f64>().is_ok() || is_radix_number(text))
}

fn is_radix_number(text: &str) -> bool {
    let digits = |prefix, radix| {
        text.strip_prefix(prefix)
            .is_some_and(|rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    digits("0x", 16) || digits("0o", 8)
}

//! A document at rest: a few bytes for each value instead of a hundred.
//!
//! Between two pushes a config is kept and not looked at. Nearly every text in it stands in the source
//! that it was read from, right at its span, so it is enough to keep where. What is spelt otherwise there
//! (escapes, folded lines, `${NAME}`) is kept as text.
//!
//! A value is: a byte that says what and how it was written; its span; then what is in it. A span is
//! three numbers: the file, the start as the distance from the start before it, the length. Numbers are
//! as long as they have to be (LEB128).

use std::collections::HashMap;
use std::sync::Arc;

use crate::document::Document;
use crate::source::{Sources, Span};
use crate::tree::{Entry, Node, Scalar, Style, Value};

/// A document that nobody looks at; [`Resting::document`] is it again, to the byte. Cheap to clone.
#[derive(Clone)]
pub struct Resting {
    sources: Arc<Sources>,
    packed: Arc<[u8]>,
}

impl Resting {
    pub(crate) fn new(sources: &Arc<Sources>, tree: &Node) -> Resting {
        let mut packer = Packer { sources, out: Vec::new(), last: 0 };
        packer.node(tree);
        Resting { sources: sources.clone(), packed: packer.out.into() }
    }

    /// What they take together, in bytes: a text that several were read from counts once.
    pub fn bytes<'a>(all: impl IntoIterator<Item = &'a Resting>) -> usize {
        let mut texts = HashMap::new();
        let mut packed = 0;
        for resting in all {
            packed += resting.packed.len();
            texts.extend(resting.sources.lengths());
        }
        packed + texts.values().sum::<usize>()
    }

    /// As it was before. Takes some 10 ms for 100,000 values.
    pub fn document(&self) -> Document {
        let mut unpacker = Unpacker { sources: &self.sources, rest: &self.packed, last: 0 };
        let tree = unpacker.node();
        Document::of(self.sources.clone(), tree)
    }
}

const NULL: u8 = 0;
const PLAIN: u8 = 1;
const QUOTED: u8 = 2;
const SUBSTITUTED: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;

/// Where a text is: what its span covers, that without its quotes, or from this number on itself, so
/// much longer.
const AT_SPAN: u32 = 0;
const IN_QUOTES: u32 = 1;
const SPELT: u32 = 2;

/// What stands between the first and the last byte of a text.
fn within(text: &str) -> Option<&str> {
    text.get(1..text.len().checked_sub(1)?)
}

struct Packer<'a> {
    sources: &'a Sources,
    out: Vec<u8>,
    /// Where the span before started.
    last: u32,
}

impl Packer<'_> {
    fn node(&mut self, node: &Node) {
        let Node { span, value } = node;
        let kind = match value {
            Value::Null => NULL,
            Value::Scalar(Scalar { style: Style::Plain, .. }) => PLAIN,
            Value::Scalar(Scalar { style: Style::Quoted, .. }) => QUOTED,
            Value::Scalar(Scalar { style: Style::Substituted, .. }) => SUBSTITUTED,
            Value::List(_) => LIST,
            Value::Map(_) => MAP,
        };
        self.out.push(kind);
        self.span(*span);
        match value {
            Value::Null => {}
            Value::Scalar(scalar) => self.text(&scalar.text, *span),
            Value::List(items) => {
                self.count(items.len());
                items.iter().for_each(|item| self.node(item));
            }
            Value::Map(entries) => {
                self.count(entries.len());
                for Entry { key, key_span, value } in entries {
                    self.span(*key_span);
                    self.text(key, *key_span);
                    self.node(value);
                }
            }
        }
    }

    fn span(&mut self, span: Span) {
        // No file at all is 0.
        self.number(span.file.wrapping_add(1));
        let distance = span.start.wrapping_sub(self.last).cast_signed();
        // Small ones of either sign are small numbers (zigzag).
        self.number((distance << 1 ^ distance >> 31).cast_unsigned());
        self.number(span.end.wrapping_sub(span.start));
        self.last = span.start;
    }

    fn text(&mut self, text: &str, span: Span) {
        let written = self.sources.at(span);
        if written == Some(text) {
            self.number(AT_SPAN);
        } else if written.and_then(within) == Some(text) {
            self.number(IN_QUOTES);
        } else {
            self.number(SPELT + u32::try_from(text.len()).expect("a config has at most 32 MiB"));
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).expect("a config has at most 32 MiB"));
    }

    fn number(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }
}

/// Reads what a [`Packer`] wrote with the same sources: anything else is a bug, and panics.
struct Unpacker<'a> {
    sources: &'a Sources,
    rest: &'a [u8],
    last: u32,
}

impl<'a> Unpacker<'a> {
    fn node(&mut self) -> Node {
        let kind = self.take(1)[0];
        let span = self.span();
        let mut scalar = |style| Value::Scalar(Scalar { text: self.text(span).to_owned(), style });
        let value = match kind {
            NULL => Value::Null,
            PLAIN => scalar(Style::Plain),
            QUOTED => scalar(Style::Quoted),
            SUBSTITUTED => scalar(Style::Substituted),
            LIST => Value::List((0..self.number()).map(|_| self.node()).collect()),
            MAP => Value::Map((0..self.number()).map(|_| self.entry()).collect()),
            other => unreachable!("{other} was never written"),
        };
        Node { span, value }
    }

    fn entry(&mut self) -> Entry {
        let key_span = self.span();
        let key = self.text(key_span).to_owned();
        Entry { key, key_span, value: self.node() }
    }

    fn span(&mut self) -> Span {
        let file = self.number().wrapping_sub(1);
        let zigzag = self.number();
        let distance = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        let start = self.last.wrapping_add(distance);
        let end = start.wrapping_add(self.number());
        self.last = start;
        Span { file, start, end }
    }

    fn text(&mut self, span: Span) -> &'a str {
        let written = self.sources.at(span);
        match self.number() {
            AT_SPAN => written.expect("it was there"),
            IN_QUOTES => written.and_then(within).expect("it was there"),
            spelt => {
                let bytes = self.take((spelt - SPELT) as usize);
                std::str::from_utf8(bytes).expect("it was a text")
            }
        }
    }

    fn number(&mut self) -> u32 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = self.take(1)[0];
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Format;

    /// That it is the same again, with every span; how large it was at rest.
    #[track_caller]
    fn rests(text: &str, format: Format) -> usize {
        let document = Document::parse("a", text.as_bytes(), format).unwrap();
        let resting = document.rest();
        let again = resting.document();
        assert_eq!(format!("{:?}", again.tree()), format!("{:?}", document.tree()));
        resting.packed.len()
    }

    #[test]
    fn it_is_the_same_again() {
        let yaml = "a: &x [1, 'two', \"th\\u0072ee\", ~]\nb: *x\n\"c\": { d: |\n  folded\n  text\n }\ne: \"\"\n";
        rests(&yaml.replace("{ d: |\n  folded\n  text\n }", "|\n  folded\n  text"), Format::Yaml);
        rests("a = [1, 'two', \"th\\u0072ee\"]\n[b.\"c d\"]\nd = '''x'''", Format::Toml);
        rests("{\"a\\n\": [null, true, 1e3, \"ä\\u00e4\", {}, []]}", Format::Json);
    }

    #[test]
    fn what_was_put_together_rests_too() {
        let base = "services:\n  - { name: a, endpoints: [] }\n";
        let base = Document::parse("a", base.as_bytes(), Format::Yaml).unwrap();
        let item = b"{\"endpoints\": [{\"address\": \"10.0.0.1:80\"}]}";
        let item = Document::parse("(body)", item, Format::Json).unwrap();
        let both = base.with_item(crate::Kind::Services, "b", &item).unwrap();
        let again = both.rest().document();
        assert_eq!(format!("{:?}", again.tree()), format!("{:?}", both.tree()));
        assert_eq!(again.text_hash(), both.text_hash());
        let (base, both) = (base.rest(), both.rest());
        let texts: usize = both.sources.texts().map(|(_, text)| text.len()).sum();
        assert_eq!(Resting::bytes([&base, &both]), texts + base.packed.len() + both.packed.len());
    }

    #[test]
    fn a_value_takes_a_few_bytes() {
        let service =
            |n: u32| format!("- {{ name: s{n}, endpoints: [{{ address: \"10.0.0.{n}:80\" }}] }}\n");
        let text: String = (0..200).map(service).collect();
        // Each has eight values and three keys.
        assert!(rests(&format!("services:\n{text}"), Format::Yaml) < 200 * 80);
    }

    proptest! {
        #[test]
        fn any_document_rests(
            keys in prop::collection::vec("\\PC{0,6}", 1..6),
            texts in prop::collection::vec("\\PC{0,200}", 1..6),
            numbers: Vec<i64>,
        ) {
            let map = |n: usize| serde_json::json!({
                "texts": texts, "numbers": numbers, keys[n % keys.len()].clone(): keys,
            });
            let value = serde_json::json!({ "list": [map(0), map(1)], "more": map(2) });
            rests(&value.to_string(), Format::Json);
            rests(&format!("{value:#}"), Format::Yaml);
        }
    }
}

//! YAML into a tree, by the events of the parser.
//!
//! Taken: YAML 1.2, anchors and aliases, merge keys (`<<`). Not taken, with an error that says
//! so: several documents, tags, keys that are not scalars, a key twice. The parser bounds how
//! deep a text nests; [`NODES_MAX`] bounds what aliases can blow it up to.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError};

use crate::diagnostic::quoted;
use crate::report::Problem;
use crate::source::{SOURCE_BYTES_MAX, Span};
use crate::tree::{Entry, Node, Scalar, Style, Value};

/// Deeper than any config; the interface needs seven.
pub(crate) const NESTING_MAX: usize = 64;
/// Keys and values of one text with its aliases followed: 100,000 routes of 40. Each takes about
/// 100 bytes.
pub(crate) const NODES_MAX: usize = 4_000_000;
/// What aliases may add to that: somebody who saves writing by them, not somebody who makes a bomb.
const ALIASED_NODES_MAX: usize = 500_000;
/// The same in bytes of text.
const ALIASED_BYTES_MAX: usize = SOURCE_BYTES_MAX;

/// Reads one document. The first fault of its syntax ends it: what follows would be guesses. A key
/// that is there twice is put to the `faults`, and its first value stands. `notation` is what the text
/// is said to be.
pub(crate) fn read(
    file: u32,
    text: &str,
    notation: &str,
    faults: &mut Vec<Problem>,
) -> Result<Node, Problem> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.map_err(|fault| syntax_problem(file, text, notation, &fault))?;
        let start = span.start.byte_offset().unwrap_or(0);
        let end = span.end.byte_offset().unwrap_or(start);
        builder.take(event, Span::new(file, start, end))?;
    }
    faults.append(&mut builder.faults);
    Ok(builder.root.unwrap_or(Node::null(Span::top(file))))
}

fn options() -> Options {
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = NESTING_MAX;
    options.block_nesting_limit = NESTING_MAX;
    options
}

/// A list or map that is not closed yet.
struct Open {
    span: Span,
    anchor: usize,
    /// Nodes before it was opened, to know the size of what an anchor names.
    nodes_before: usize,
    /// Levels of what is in it so far.
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, keys: HashMap<String, Span>, key: Option<Key>, merged: Vec<Node> },
}

struct Key {
    text: String,
    span: Span,
    role: KeyRole,
}

enum KeyRole {
    Usual,
    /// `<<`
    Merge,
    /// It is there already; its value is dropped.
    Second,
}

struct Anchored {
    node: Node,
    nodes: usize,
    /// Of all texts in it.
    bytes: usize,
    height: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    /// What aliases have added.
    aliased_nodes: usize,
    aliased_bytes: usize,
    documents: usize,
    faults: Vec<Problem>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) => self.count_document(span),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), span)?;
                self.charge(1, span)?;
                let node = scalar_node(span, &text, style);
                self.remember(anchor, &node, 1, 0)?;
                self.place(node, 0)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), span)?;
                self.open(span, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), span)?;
                let (entries, keys, merged) = (Vec::new(), HashMap::new(), Vec::new());
                self.open(span, anchor, Content::Map { entries, keys, key: None, merged })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn count_document(&mut self, span: Span) -> Result<(), Problem> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(Problem::error(span, "a config is one document, and here a second begins")
                .hint("take out the line `---`, or make it two files"));
        }
        Ok(())
    }

    fn open(&mut self, span: Span, anchor: usize, content: Content) -> Result<(), Problem> {
        let nodes_before = self.nodes;
        self.charge(1, span)?;
        self.open.push(Open { span, anchor, nodes_before, height: 0, content });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Problem> {
        let Some(Open { span, anchor, nodes_before, height, content }) = self.open.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::List(items) => Value::List(fitted(items)),
            Content::Map { entries, merged, .. } => Value::Map(fitted(merge(entries, merged))),
        };
        let span = Span { end: end.end.max(span.end), ..span };
        let node = Node { span, value };
        self.remember(anchor, &node, self.nodes - nodes_before, height + 1)?;
        self.place(node, height + 1)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Problem> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(Problem::error(span, "an anchor cannot be used inside of itself"));
        };
        let (nodes, bytes, height) = (anchored.nodes, anchored.bytes, anchored.height);
        self.charge(nodes, span)?;
        self.aliased_nodes = self.aliased_nodes.saturating_add(nodes);
        self.aliased_bytes = self.aliased_bytes.saturating_add(bytes);
        if self.aliased_nodes > ALIASED_NODES_MAX || self.aliased_bytes > ALIASED_BYTES_MAX {
            let message = format!(
                "aliases may stand for at most {ALIASED_NODES_MAX} keys and values, and {} MiB",
                ALIASED_BYTES_MAX >> 20
            );
            let hint = "name a service or put it into `defaults`, instead of copying it";
            return Err(Problem::error(span, message).hint(hint));
        }
        // The parser sees an alias as one level, whatever it stands for.
        if self.open.len() + height > NESTING_MAX {
            return Err(too_deep(span));
        }
        let node = self.anchors[&anchor].node.clone();
        self.place(node, height)
    }

    fn remember(
        &mut self,
        anchor: usize,
        node: &Node,
        nodes: usize,
        height: usize,
    ) -> Result<(), Problem> {
        if anchor == 0 {
            return Ok(());
        }
        self.charge(nodes, node.span)?;
        let bytes = node.text_bytes();
        self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes, height });
        Ok(())
    }

    fn charge(&mut self, nodes: usize, span: Span) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            let message =
                format!("a config has at most {NODES_MAX} keys and values, its aliases followed");
            return Err(Problem::error(span, message));
        }
        Ok(())
    }

    /// Puts a finished node where the parser is: as the root, an item, a key or a value.
    fn place(&mut self, node: Node, height: usize) -> Result<(), Problem> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.height = open.height.max(height);
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, keys, key, merged } => match key.take() {
                None => *key = Some(as_key(node, keys, &mut self.faults)?),
                Some(Key { role: KeyRole::Merge, span, .. }) => merge_source(node, span, merged)?,
                Some(Key { role: KeyRole::Second, .. }) => {}
                Some(Key { text, span, role: KeyRole::Usual }) => {
                    entries.push(Entry { key: text, key_span: span, value: node });
                }
            },
        }
        Ok(())
    }
}

/// Most lists and maps have one or two items, and all of them stay.
fn fitted<T>(mut items: Vec<T>) -> Vec<T> {
    items.shrink_to_fit();
    items
}

fn refuse_tag(has_tag: bool, span: Span) -> Result<(), Problem> {
    if has_tag {
        let hint = "take out the `!…`; a text is put in quotes instead";
        return Err(Problem::error(span, "YAML tags are not taken").hint(hint));
    }
    Ok(())
}

fn scalar_node(span: Span, text: &str, style: ScalarStyle) -> Node {
    match style {
        ScalarStyle::Plain if matches!(text, "" | "~" | "null" | "Null" | "NULL") => {
            Node::null(span)
        }
        ScalarStyle::Plain => Node::scalar(span, text, Style::Plain),
        _ => Node::scalar(span, text, Style::Quoted),
    }
}

fn as_key(
    node: Node,
    keys: &mut HashMap<String, Span>,
    faults: &mut Vec<Problem>,
) -> Result<Key, Problem> {
    let span = node.span;
    let Value::Scalar(Scalar { text, style }) = node.value else {
        let message = format!("a key is a word, not {}", node.describe());
        return Err(Problem::error(span, message)
            .hint("a text that begins with `{`, `[` or `*` needs quotes"));
    };
    let role = match keys.get(&text) {
        Some(first) => {
            let message = format!("the key {} is there twice", quoted(&text));
            let problem = Problem::error(span, message).related(*first, "the first one");
            faults.push(problem.hint("take one of them out"));
            KeyRole::Second
        }
        None if text == "<<" && style == Style::Plain => KeyRole::Merge,
        None => KeyRole::Usual,
    };
    keys.entry(text.clone()).or_insert(span);
    Ok(Key { text, span, role })
}

/// What stands behind `<<`: a map, or a list of maps of which earlier ones win.
fn merge_source(node: Node, key_span: Span, merged: &mut Vec<Node>) -> Result<(), Problem> {
    let is_map = |node: &Node| matches!(node.value, Value::Map(_));
    match node.value {
        Value::Map(_) => merged.push(node),
        Value::List(items) if items.iter().all(is_map) => merged.extend(items),
        _ => return Err(Problem::error(key_span, "`<<` takes a map, or a list of maps")),
    }
    Ok(())
}

fn merge(mut entries: Vec<Entry>, merged: Vec<Node>) -> Vec<Entry> {
    if merged.is_empty() {
        return entries;
    }
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for node in merged {
        if let Value::Map(more) = node.value {
            entries.extend(more.into_iter().filter(|entry| known.insert(entry.key.clone())));
        }
    }
    entries
}

fn too_deep(span: Span) -> Problem {
    Problem::error(span, format!("a config nests at most {NESTING_MAX} levels deep"))
}

fn syntax_problem(file: u32, text: &str, notation: &str, fault: &ScanError) -> Problem {
    let at = fault.marker().byte_offset().unwrap_or(0);
    let span = Span::new(file, at, at);
    let problem = match fault.kind() {
        ErrorKind::RecursionLimitExceeded => return too_deep(span),
        _ => Problem::error(span, format!("this is not {notation}: {}", fault.info())),
    };
    match syntax_hint(text, at) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// The usual reason, looked for in the line where the parser stopped and in the one before.
fn syntax_hint(text: &str, at: usize) -> Option<&'static str> {
    const BYTES_LOOKED_AT: usize = 400;
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let from = at.saturating_sub(BYTES_LOOKED_AT);
    let to = (at + BYTES_LOOKED_AT).min(bytes.len());
    let is_break = |byte: &u8| *byte == b'\n';
    let line_start = bytes[from..at].iter().rposition(is_break).map_or(from, |i| from + i + 1);
    let line_end = bytes[at..to].iter().position(is_break).map_or(to, |i| at + i);
    let line_before =
        bytes[from..line_start.saturating_sub(1).max(from)].iter().rposition(is_break);
    let start = line_before.map_or(from, |i| from + i + 1);
    let near = String::from_utf8_lossy(&bytes[start..line_end]);
    if near.contains("regex") {
        return Some("a regex needs quotes: `\"/[a-z]+\"`");
    }
    if near.contains("[::") || near.contains("]:") {
        return Some("an IPv6 address needs quotes: `\"[::1]:8080\"`");
    }
    if near.contains("*") {
        return Some("a text that begins with `*` needs quotes: `\"*.example.com\"`");
    }
    if near.contains('\t') {
        return Some("YAML is indented with spaces, not with tabs");
    }
    if near.contains("${") {
        return Some("inside `{…}` and `[…]`, `${NAME}` needs quotes: `\"${NAME}\"`");
    }
    None
}

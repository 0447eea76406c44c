//! TOML into the same tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::quoted;
use crate::report::Problem;
use crate::source::Span;
use crate::tree::{Entry, Node, Style, Value};
use crate::yaml::NODES_MAX;

pub(crate) fn read(file: u32, text: &str) -> Result<Node, Problem> {
    refuse_deep_keys(file, text)?;
    refuse_many(file, text)?;
    let table = DeTable::parse(text).map_err(|fault| {
        let at = fault.span().unwrap_or(0..0);
        let message = fault.message().lines().next().unwrap_or_default();
        let message = match text.get(at.clone()) {
            Some(key) if message == "duplicate key" => {
                format!("the key {} is there twice", quoted(key.trim()))
            }
            _ => format!("this is not TOML: {message}"),
        };
        Problem::error(Span::new(file, at.start, at.end), message)
    })?;
    Ok(Node { span: Span::top(file), value: map(file, table.into_inner()) })
}

/// `a.a.a…` makes a table for each dot before the parser looks how deep they are: 16 MiB of it
/// took a gigabyte.
fn refuse_deep_keys(file: u32, text: &str) -> Result<(), Problem> {
    const DOTS_MAX: usize = 1_000;
    let in_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.\"' \t".contains(&byte);
    let mut dots = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' => dots += 1,
            byte if in_key(byte) => {}
            _ => dots = 0,
        }
        if dots > DOTS_MAX {
            let message = format!("this is not TOML that we take: {DOTS_MAX} dots in a row");
            return Err(Problem::error(Span::new(file, at, at), message));
        }
    }
    Ok(())
}

/// The parser holds all of a text before anybody can count it: 16 MiB of `1,` took gigabytes. So what
/// it will make is counted from above, by the signs that each key and value but the first needs,
/// wherever they stand outside of strings and comments.
fn refuse_many(file: u32, text: &str) -> Result<(), Problem> {
    let bytes = text.as_bytes();
    let (mut nodes, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'#' => at += rest_of_line(&bytes[at..]),
            quote @ (b'"' | b'\'') => {
                at += string(&bytes[at..], quote);
                continue;
            }
            b'=' => nodes += 2,
            b',' | b'[' | b'{' | b'.' => nodes += 1,
            _ => {}
        }
        if nodes > NODES_MAX {
            let message = format!("a config has at most {NODES_MAX} keys and values");
            return Err(Problem::error(Span::new(file, at, at), message));
        }
        at += 1;
    }
    Ok(())
}

/// The length of the string at the beginning of `text`, quotes included. One that is not closed ends
/// where the parser goes on too: at the end of its line, or of the text.
fn string(text: &[u8], quote: u8) -> usize {
    let triple = [quote; 3];
    let (is_long, open) = match text.starts_with(&triple) {
        true => (true, 3),
        false => (false, 1),
    };
    let mut at = open;
    while at < text.len() {
        match text[at] {
            b'\\' if quote == b'"' => at += 1,
            b'\n' if !is_long => return at,
            byte if byte == quote && !is_long => return at + 1,
            _ if is_long && text[at..].starts_with(&triple) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

fn rest_of_line(text: &[u8]) -> usize {
    text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len())
}

fn map(file: u32, table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> =
        table.into_iter().map(|(key, value)| entry(file, key, value)).collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Value::Map(entries)
}

fn entry(file: u32, key: Spanned<std::borrow::Cow<'_, str>>, value: Spanned<DeValue<'_>>) -> Entry {
    let key_span = span(file, &key);
    Entry { key: key.into_inner().into_owned(), key_span, value: node(file, value) }
}

fn node(file: u32, value: Spanned<DeValue<'_>>) -> Node {
    let span = span(file, &value);
    let plain = |text: String| Node::scalar(span, text, Style::Plain);
    match value.into_inner() {
        DeValue::String(text) => Node::scalar(span, text, Style::Quoted),
        DeValue::Integer(number) => {
            let decimal = i64::from_str_radix(number.as_str(), number.radix());
            plain(decimal.map_or_else(|_| number.as_str().into(), |number| number.to_string()))
        }
        DeValue::Float(number) => plain(number.as_str().into()),
        DeValue::Boolean(truth) => plain(truth.to_string()),
        DeValue::Datetime(time) => plain(time.to_string()),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| node(file, item)).collect();
            Node { span, value: Value::List(items) }
        }
        DeValue::Table(table) => Node { span, value: map(file, table) },
    }
}

fn span<T>(file: u32, spanned: &Spanned<T>) -> Span {
    Span::new(file, spanned.span().start, spanned.span().end)
}

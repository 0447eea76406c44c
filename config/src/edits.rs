//! Header fields that a route changes. Those that say where a message ends, or who may hold the
//! connection, are ringside's own.

use crate::definition::{Key, Kind, Object};
use crate::diagnostic::quoted;
use crate::name::is_token;
use crate::reader::{list, text};
use crate::report::{Complaint, Problem, Report};
use crate::source::Span;
use crate::tree::{Node, Value};

/// What is done to the fields of a head: first removed, then set, then added. Names are in lower
/// case, and none is one that ringside alone may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Written in place of all fields of that name.
    pub set: Vec<(String, String)>,
    /// Written beside what is there.
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

pub(crate) const EDITS: Object = Object {
    name: "header edits",
    about: "Fields to change, in this order: `remove`, `set`, `add`; the route's before the backend's.",
    one_of: &[],
    keys: &[
        Key::optional("set", Kind::Headers, "In place of all fields of that name."),
        Key::optional("add", Kind::Headers, "Beside what is there."),
        Key::optional("remove", Kind::List(&Kind::Text), "All fields of these names."),
    ],
};

pub(crate) fn edits(node: &Node, report: &mut Report<'_>) -> Option<HeaderEdits> {
    let mut fields = report.fields(node, &EDITS)?;
    let set = fields.find("set", lines);
    let add = fields.find("add", lines);
    let remove = fields.find("remove", |node, report| {
        list(node, report, |n, r| text(n, r, "the name of a header", editable))
    });
    let (set, add, remove) = (set?, add?, remove?);
    Some(HeaderEdits {
        set: set.unwrap_or_default(),
        add: add.unwrap_or_default(),
        remove: remove.unwrap_or_default(),
    })
}

fn lines(node: &Node, report: &mut Report<'_>) -> Option<Vec<(String, String)>> {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Null => &[],
        Value::Scalar(_) | Value::List(_) => {
            let message = format!("headers are a map, not {}", node.describe());
            report.add(Problem::error(node.span, message).hint("write `{ NAME: \"VALUE\" }`"));
            return None;
        }
    };
    let mut lines: Option<Vec<(String, String)>> = Some(Vec::with_capacity(entries.len()));
    let mut names: Vec<(String, Span)> = Vec::new();
    for entry in entries {
        let value = text(&entry.value, report, "the value of a header", header_value);
        let name = match editable(&entry.key) {
            Ok(name) => Some(name),
            Err(complaint) => {
                report.add(Problem::because(entry.key_span, complaint));
                None
            }
        };
        let name = name.and_then(|name| match names.iter().find(|(known, _)| *known == name) {
            Some((_, first)) => {
                let message = format!("the header {} is there twice", quoted(&name));
                report.add(Problem::error(entry.key_span, message).related(*first, "first here"));
                None
            }
            None => Some(name),
        });
        names.extend(name.iter().map(|name| (name.clone(), entry.key_span)));
        lines = lines.zip(name.zip(value)).map(|(mut lines, line)| {
            lines.push(line);
            lines
        });
    }
    lines
}

/// RFC 9110 §7.6.1 and §6.6.2, RFC 9112 §6: what is of one connection, and what says where a
/// message ends.
const OWN: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-ringside-cause",
];

fn editable(given: &str) -> Result<String, Complaint> {
    if !is_token(given) {
        return Err(Complaint::new(format!("{} is not the name of a header", quoted(given))));
    }
    let name = given.to_ascii_lowercase();
    if name == "host" {
        let message = "the header `host` is not changed like the others";
        return Err(Complaint::new(message).hint("write `rewrite: { host: NAME }`"));
    }
    if OWN.contains(&name.as_str()) {
        let message = format!("the header {} is ringside's own to say", quoted(given));
        return Err(Complaint::new(message)
            .hint("it belongs to one connection, or says where a message ends; take it out"));
    }
    Ok(name)
}

/// RFC 9110 §5.5.
pub(crate) fn header_value(given: &str) -> Result<String, Complaint> {
    const VALUE_BYTES_MAX: usize = 8 << 10;
    let wrong = || Complaint::new(format!("{} is not the value of a header", quoted(given)));
    if given.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(wrong().hint("it has a line end or another control character in it"));
    }
    if given.trim_matches([' ', '\t']) != given {
        return Err(wrong().hint("white space at its ends is no part of a value: take it out"));
    }
    if given.len() > VALUE_BYTES_MAX {
        return Err(wrong().hint("a value has at most 8KiB"));
    }
    Ok(given.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(editable("X-Via").unwrap(), "x-via");
        assert_eq!(editable("set-cookie").unwrap(), "set-cookie");
        let others = ["", "a b", "a:b", "a\r\nb", "é", "Host"];
        for name in others.into_iter().chain(OWN) {
            assert!(editable(name).is_err() && editable(&name.to_uppercase()).is_err(), "{name}");
        }
    }

    #[test]
    fn values() {
        for value in ["", "a", "a b\tc", "é", "\"x\""] {
            assert_eq!(header_value(value).unwrap(), value);
        }
        for value in ["a\r\nx: y", "a\nb", "\0", " a", "a\t", "\x7f"] {
            assert!(header_value(value).is_err(), "{value:?}");
        }
    }
}

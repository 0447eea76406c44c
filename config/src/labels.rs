//! What endpoints are told apart by, and what a backend asks of those that it takes.

use std::fmt;
use std::sync::Arc;

use crate::diagnostic::quoted;
use crate::reader::text;
use crate::report::{Complaint, Problem, Report};
use crate::tree::{Node, Value};

const LABELS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 256;

/// Keys with their values, by key; cheap to clone, and nothing where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Option<Arc<[Label]>>);

type Label = (Box<str>, Box<str>);

impl Labels {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether all of `wanted` are among these.
    pub fn include(&self, wanted: &Labels) -> bool {
        wanted.list().iter().all(|(key, value)| self.get(key) == Some(value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list().iter().map(|(key, value)| (&**key, &**value))
    }

    /// As one writes them.
    pub fn to_json(&self) -> serde_json::Value {
        self.iter().map(|(key, value)| (key.to_owned(), serde_json::Value::from(value))).collect()
    }

    fn get(&self, key: &str) -> Option<&str> {
        let list = self.list();
        let at = list.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&list[at].1)
    }

    fn list(&self) -> &[Label] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// `version=v1, zone=a`
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

pub(crate) fn labels(node: &Node, report: &mut Report<'_>) -> Option<Labels> {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Null => &[],
        Value::Scalar(_) | Value::List(_) => {
            let message = format!("labels are a map, not {}", node.describe());
            report.add(Problem::error(node.span, message).hint("write `{ version: v1 }`"));
            return None;
        }
    };
    if entries.len() > LABELS_MAX {
        let problem = Problem::error(node.span, format!("there are at most {LABELS_MAX} labels"));
        report.add(problem.hint("leave out those that no backend asks for"));
        return None;
    }
    let read = entries.iter().map(|entry| {
        let value = text(&entry.value, report, "the value of a label", value);
        let key = match is_key(&entry.key) {
            true => Some(entry.key.as_str().into()),
            false => {
                let message = format!("{} is not the key of a label", quoted(&entry.key));
                let hint = "letters, digits, `.`, `_`, `-` and `/`, as in `app.kubernetes.io/name`";
                report.add(Problem::error(entry.key_span, message).hint(hint));
                None
            }
        };
        key.zip(value)
    });
    // All are read before it gives up.
    let read: Vec<Option<Label>> = read.collect();
    let mut labels = read.into_iter().collect::<Option<Vec<_>>>()?;
    labels.sort_unstable();
    Some(Labels((!labels.is_empty()).then(|| labels.into())))
}

fn is_key(given: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    (1..=KEY_BYTES_MAX).contains(&given.len()) && given.bytes().all(fits)
}

fn value(given: &str) -> Result<Box<str>, Complaint> {
    if given.len() > VALUE_BYTES_MAX || given.chars().any(char::is_control) {
        let message = format!("{} is not the value of a label", quoted(given));
        let hint = format!("at most {VALUE_BYTES_MAX} bytes, without control characters");
        return Err(Complaint::new(message).hint(hint));
    }
    Ok(given.into())
}

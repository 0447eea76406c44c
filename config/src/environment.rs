//! `${NAME}` and `${NAME:-default}` inside the strings of a file; `$${` is a `${` that is none.
//!
//! Keys and comments are left alone, and what a variable holds is text that is never parsed as
//! YAML: it cannot add keys.

use crate::diagnostic::quoted;
use crate::report::{Complaint, Problem, Report};
use crate::tree::{Node, Scalar, Style, Value};

/// What a variable holds; `None` where it is not set.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(crate) fn substitute(node: &mut Node, lookup: Lookup<'_>, faults: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Null => {}
        Value::List(items) => items.iter_mut().for_each(|item| substitute(item, lookup, faults)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| substitute(&mut entry.value, lookup, faults));
        }
        Value::Scalar(scalar) => match expand(&scalar.text, lookup) {
            Ok(None) => {}
            Ok(Some(text)) => {
                scalar.text = text;
                scalar.style = Style::Substituted;
            }
            Err(complaint) => faults.push(Problem::because(node.span, complaint)),
        },
    }
}

/// Says of each `${NAME}` that is still there that it stays: a push has no variables.
pub(crate) fn warn_of_variables(node: &Node, report: &mut Report<'_>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| warn_of_variables(item, report)),
        Value::Map(entries) => {
            entries.iter().for_each(|entry| warn_of_variables(&entry.value, report));
        }
        Value::Scalar(Scalar { text, style }) if *style != Style::Substituted => {
            // In a file they are put in already, or have their error.
            let nothing = |_: &str| Some(String::new());
            if matches!(expand(text, &nothing), Ok(Some(_))) {
                let message = format!("{} stays as it is", quoted(text));
                let hint = "variables are put in where files are read, and never in a push";
                report.add(Problem::warning(node.span, message).hint(hint));
            }
        }
        Value::Null | Value::Scalar(_) => {}
    }
}

/// `None` where there was nothing to put in.
fn expand(text: &str, lookup: Lookup<'_>) -> Result<Option<String>, Complaint> {
    const EXPANDED_BYTES_MAX: usize = 64 << 10;
    let mut rest = text;
    let mut expanded = String::new();
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        let (inside, behind) = after.split_once('}').ok_or_else(|| {
            Complaint::new("a `${` without its `}`").hint("write `${NAME}` or `${NAME:-default}`")
        })?;
        expanded.push_str(before);
        expanded.push_str(&variable(inside, lookup)?);
        if expanded.len() > EXPANDED_BYTES_MAX {
            return Err(Complaint::new("with its variables put in, this text is too long"));
        }
        rest = behind;
    }
    if rest.len() == text.len() {
        return Ok(None);
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

/// `NAME` or `NAME:-default`; the default also stands in for an empty variable, as in a shell.
fn variable(inside: &str, lookup: Lookup<'_>) -> Result<String, Complaint> {
    let (name, default) = match inside.split_once(":-") {
        Some((_, default)) if default.contains("${") => {
            let complaint = Complaint::new("a default is text, and has no variable in it");
            return Err(complaint.hint("set one variable where ringside is started, and name that"));
        }
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        let message = format!("{} is not the name of a variable", quoted(name));
        return Err(Complaint::new(message).hint("write `${NAME}` or `${NAME:-default}`"));
    }
    match (lookup(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.into()),
        (None, None) => Err(Complaint::new(format!("the variable {} is not set", quoted(name)))
            .hint(format!("set it, or give a default: `${{{name}:-…}}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<Option<String>, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, &lookup).map_err(|complaint| complaint.message)
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("${A}", "a"),
            ("x${A}y${A}", "xaya"),
            ("${B:-b}", "b"),
            ("${A:-b}", "a"),
            ("${EMPTY:-b}", "b"),
            ("${B:-}", ""),
            ("$${A}", "${A}"),
            ("$$${A}${A}$${", "$${A}a${"),
        ] {
            assert_eq!(expanded(text).unwrap().as_deref(), Some(expected), "{text}");
        }
        assert_eq!(expanded("$A {A}").unwrap(), None);
        for text in ["${B}", "${", "${}", "${a b}", "${1}"] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }
}

//! JSON into the same tree. JSON is YAML, so the YAML reader builds the tree and its positions;
//! but a `.json` file that only a YAML reader takes would be a surprise to everybody else, so a
//! strict JSON parser sees it first.

use serde::de::IgnoredAny;

use crate::report::Problem;
use crate::source::Span;
use crate::tree::Node;
use crate::yaml;

pub(crate) fn read(file: u32, text: &str, faults: &mut Vec<Problem>) -> Result<Node, Problem> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|fault| {
        let at = offset(text, fault.line(), fault.column());
        let message = fault.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Problem::error(Span::new(file, at, at), format!("this is not JSON: {message}"))
    })?;
    yaml::read(file, text, "JSON that we take", faults)
}

/// The byte at a line and column, both from 1, columns in bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let line_start: usize =
        text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (line_start + column.saturating_sub(1)).min(text.len())
}

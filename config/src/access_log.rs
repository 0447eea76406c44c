//! What is written about each exchange, and where to.

use std::path::PathBuf;

use crate::definition::{Key, Kind, Object, Words};
use crate::diagnostic::quoted;
use crate::reader::{text, word};
use crate::report::{Complaint, Problem, Report};
use crate::tree::Node;
use crate::units::{Ratio, ratio};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    pub format: LogFormat,
    pub output: LogOutput,
    /// How many of the exchanges are written.
    pub sample: Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
}

const FORMAT: Words<LogFormat> = Words { accepted: &[("json", LogFormat::Json)], not_yet: &[] };

pub(crate) const ACCESS_LOG: Object = Object {
    name: "access_log",
    about: "One line per exchange, per TCP connection, and per HTTP connection whose end no exchange \
            tells. `access_log: none` switches it off.",
    one_of: &[],
    keys: &[
        Key::default("format", Kind::Word(&FORMAT), "json", "How a line is written."),
        Key::default(
            "output",
            Kind::OrWords(&["stdout", "stderr"], &Kind::Text),
            "stdout",
            "A file is named with a `/` in it.",
        ),
        Key::default("sample", Kind::Ratio, "100%", "How many of the exchanges are written."),
        Key::not_yet("redact"),
    ],
};

pub(crate) fn access_log(node: &Node, report: &mut Report<'_>) -> Option<AccessLog> {
    if node.as_scalar().is_some() {
        let message = format!("an access log is a map or `none`, not {}", node.describe());
        report
            .add(Problem::error(node.span, message).hint("where nothing is logged, write `none`"));
        return None;
    }
    let mut fields = report.fields(node, &ACCESS_LOG)?;
    let format = fields.get("format", |node, report| word(node, report, &FORMAT));
    let output = fields.get("output", output);
    let sample = fields.get("sample", ratio);
    Some(AccessLog { format: format?, output: output?, sample: sample? })
}

fn output(node: &Node, report: &mut Report<'_>) -> Option<LogOutput> {
    text(node, report, "an output", |given| match given {
        "stdout" => Ok(LogOutput::Stdout),
        "stderr" => Ok(LogOutput::Stderr),
        path if path.contains('/') && !path.contains('\0') => Ok(LogOutput::File(path.into())),
        other => Err(Complaint::new(format!("{} is not stdout, stderr or a file", quoted(other)))
            .hint("a file is named with a `/` in it: `/var/log/ringside.json`")),
    })
}

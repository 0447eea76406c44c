//! What is wrong with a config, said to people and to programs.
//!
//! A diagnostic names one mistake: where it is (file, line, column, and the path of keys that
//! leads there), what is wrong, and where we know it, what to write instead. It carries the line
//! it talks about, clipped, so that it can be printed after the text is gone. Text that came from
//! the config is escaped before it gets here: a terminal never sees a control character from a
//! file.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The config is not used.
    Error,
    /// The config is used; `check --strict` refuses it.
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// A place in a config text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// The line, if the place is inside a text that we could read.
    pub(crate) excerpt: Option<Excerpt>,
}

/// One line of a config, clipped, and the bytes of it that the caret stands under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// No line break, no control character.
    pub(crate) text: String,
    /// `start <= end <= text.len()`, both on character boundaries.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The beginning of the line is missing.
    pub(crate) is_clipped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: String,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// The keys that lead there, `routes[2].timeouts.response`; empty at the top and for syntax.
    pub path: String,
    /// The named item that it is in, `services/cart`; `None` elsewhere, and for an item without a name.
    pub item: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    /// Another place that has to do with it, and how: where a name was defined first.
    pub related: Option<(Place, String)>,
    pub(crate) excerpt: Option<Excerpt>,
}

/// All that was found in one config, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// What others found in the same texts, put in its place.
    pub fn join(&mut self, others: Diagnostics) {
        self.list.extend(others.list);
        self.sort();
    }

    pub(crate) fn sort(&mut self) {
        self.list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    }

    /// For people: each with its line, a caret under the place, and the hint.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.list {
            text.push_str(&renderer.render(&[diagnostic.group()]));
            text.push_str("\n\n");
        }
        text
    }

    /// For programs: an array of objects with `severity`, `file`, `line`, `column`, `path`,
    /// `message`, `hint` (or null) and `related` (or null).
    pub fn to_json(&self) -> String {
        let list: Vec<_> = self.list.iter().map(Diagnostic::json).collect();
        serde_json::Value::from(list).to_string()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// One line: `file:line:column: error: message (hint)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.as_str();
        write!(f, "{}:{}:{}: {severity}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    fn json(&self) -> serde_json::Value {
        let related = self.related.as_ref().map(|(place, message)| {
            serde_json::json!({
                "file": place.file, "line": place.line, "column": place.column, "message": message,
            })
        });
        serde_json::json!({
            "severity": self.severity.as_str(),
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "item": self.item,
            "message": self.message,
            "hint": self.hint,
            "related": related,
        })
    }

    fn group(&self) -> Group<'_> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let at = (self.file.as_str(), self.line, self.column);
        let mut group =
            show(Group::with_title(title), at, &self.excerpt, AnnotationKind::Primary, "");
        if let Some((place, message)) = &self.related {
            let at = (place.file.as_str(), place.line, place.column);
            group = show(group, at, &place.excerpt, AnnotationKind::Context, message);
        }
        match &self.hint {
            Some(hint) => group.element(Level::HELP.message(hint.as_str())),
            None => group,
        }
    }
}

/// Adds a place to a group: its line with a mark, or where there is none, its position alone.
fn show<'a>(
    group: Group<'a>,
    (file, line, column): (&'a str, u32, u32),
    excerpt: &'a Option<Excerpt>,
    kind: AnnotationKind,
    label: &'a str,
) -> Group<'a> {
    let origin = Origin::path(file).line(line as usize).char_column(column as usize);
    let Some(Excerpt { text, start, end, is_clipped }) = excerpt else {
        return group.element(origin);
    };
    let label = Some(label).filter(|label| !label.is_empty());
    let snippet = Snippet::source(text.as_str())
        .line_start(line as usize)
        .annotation(kind.span(*start..*end).label(label));
    // The renderer counts the column in what it shows; in a clipped line that would be wrong.
    if *is_clipped {
        group.element(origin).element(snippet)
    } else {
        group.element(snippet.path(file))
    }
}

/// Text from a config as it may stand in a message: escaped, and not longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const CHARACTERS_SHOWN: usize = 60;
    let mut shown: String =
        text.chars().take(CHARACTERS_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARACTERS_SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

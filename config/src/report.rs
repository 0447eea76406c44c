//! What is wrong, collected while the reader goes on.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::source::{Sources, Span};

/// More are counted, not kept: a file of a million mistakes has one cause. Warnings have the room
/// that errors leave; how many are missing takes a place for each.
const DIAGNOSTICS_MAX: usize = 98;

/// What is there more than once is counted once, of as many as these.
const SEEN_MAX: usize = 100_000;

/// One mistake on its way into the report.
#[derive(Clone)]
pub(crate) struct Problem {
    severity: Severity,
    span: Span,
    complaint: Complaint,
    related: Option<Box<(Span, String)>>,
    /// Where it is told from elsewhere than the place that the reader is at.
    path: Option<Box<str>>,
}

/// Why a text is not the value it should be; where it stands is the caller's to add.
#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>) -> Complaint {
        Complaint { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Complaint {
        self.hint = Some(hint.into());
        self
    }
}

impl Problem {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Problem {
        Problem::because(span, Complaint::new(message))
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(span, message) }
    }

    pub(crate) fn because(span: Span, complaint: Complaint) -> Problem {
        Problem { severity: Severity::Error, span, complaint, related: None, path: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.complaint = self.complaint.hint(hint);
        self
    }

    pub(crate) fn related(mut self, span: Span, message: impl Into<String>) -> Problem {
        self.related = Some(Box::new((span, message.into())));
        self
    }

    pub(crate) fn path(mut self, path: impl Into<String>) -> Problem {
        self.path = Some(path.into().into_boxed_str());
        self
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Key(&'static str),
    Index(usize),
}

/// What was found so far, and where in the tree the reader is.
pub(crate) struct Report<'s> {
    sources: &'s Sources,
    path: Vec<Step>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// Hashes of the places and messages of so many that were found.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// Of these values the reason why they are wrong was told.
    told: HashSet<Span>,
    /// Only errors are told now, and only of what somebody has written.
    only_written: bool,
    errors_not_kept: usize,
    warnings_not_kept: usize,
}

impl<'s> Report<'s> {
    pub(crate) fn new(sources: &'s Sources) -> Report<'s> {
        Report {
            sources,
            path: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            told: HashSet::new(),
            only_written: false,
            errors_not_kept: 0,
            warnings_not_kept: 0,
        }
    }

    pub(crate) fn add(&mut self, problem: Problem) {
        let Problem { severity, span, complaint, related, path } = problem;
        if self.only_written && (span == Span::NOWHERE || severity == Severity::Warning) {
            return;
        }
        let Complaint { message, hint } = complaint;
        if self.told.contains(&span) {
            return;
        }
        // A YAML alias brings the same mistake to several places, and what follows from a mistake is
        // found again.
        let same = self.hasher.hash_one((span.file, span.start, &message));
        if self.seen.len() < SEEN_MAX && !self.seen.insert(same) {
            return;
        }
        let (kept, not_kept) = match severity {
            Severity::Error => (&mut self.errors, &mut self.errors_not_kept),
            Severity::Warning => (&mut self.warnings, &mut self.warnings_not_kept),
        };
        if kept.len() >= DIAGNOSTICS_MAX {
            *not_kept += 1;
            return;
        }
        let place = self.sources.place(span);
        let path = path.map_or_else(|| path_text(&self.path), String::from);
        kept.push(Diagnostic {
            severity,
            file: place.file,
            line: place.line,
            column: place.column,
            path,
            item: None,
            message,
            hint,
            related: related.map(|related| (self.sources.place(related.0), related.1)),
            excerpt: place.excerpt,
        });
    }

    /// Adds a problem that explains all others of the same value.
    pub(crate) fn add_reason(&mut self, problem: Problem) {
        let span = problem.span;
        self.add(problem);
        self.told.insert(span);
    }

    /// An error that is added now is only counted: no need to look for a good hint.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= DIAGNOSTICS_MAX
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Everything found, in the order of the text.
    pub(crate) fn finish(mut self) -> Diagnostics {
        let room = DIAGNOSTICS_MAX - self.errors.len();
        self.warnings_not_kept += self.warnings.len().saturating_sub(room);
        self.warnings.truncate(room);
        let mut list = self.errors;
        list.append(&mut self.warnings);
        let mut found = Diagnostics { list };
        found.sort();
        let not_kept = [
            (self.errors_not_kept, Severity::Error, "errors"),
            (self.warnings_not_kept, Severity::Warning, "warnings"),
        ];
        for (count, severity, what) in not_kept {
            if count > 0
                && let Some(last) = found.list.last()
            {
                let (message, path) = (format!("{count} more {what} are not shown"), String::new());
                let (item, hint, related, excerpt) = (None, None, None, None);
                let more = Diagnostic {
                    severity,
                    message,
                    path,
                    item,
                    hint,
                    related,
                    excerpt,
                    ..last.clone()
                };
                found.list.push(more);
            }
        }
        found
    }

    /// The keys that lead to where the reader is.
    pub(crate) fn path_text(&self) -> String {
        path_text(&self.path)
    }

    /// Reads something of which a part is made up: that part has no mistakes.
    pub(crate) fn where_written<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        self.only_written = true;
        let value = read(self);
        self.only_written = false;
        value
    }

    /// Reads something one step down the path.
    pub(crate) fn at<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let value = read(self);
        self.path.pop();
        value
    }
}

fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

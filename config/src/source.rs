//! The texts that a config is made of, and where in them a byte stands.

use std::sync::{Arc, OnceLock};

use crate::diagnostic::{Excerpt, Place};

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    /// Index into [`Sources`]; `u32::MAX` for a value that no file holds, such as a default.
    pub(crate) file: u32,
    /// `start <= end <=` length of the text, which is at most [`SOURCE_BYTES_MAX`].
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) const NOWHERE: Span = Span { file: u32::MAX, start: 0, end: 0 };

    pub(crate) fn new(file: u32, start: usize, end: usize) -> Span {
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        let end = u32::try_from(end).unwrap_or(u32::MAX).max(start);
        Span { file, start, end }
    }

    /// The first byte of a file, for what concerns all of it.
    pub(crate) fn top(file: u32) -> Span {
        Span { file, start: 0, end: 0 }
    }
}

/// A config text may be this long: 100,000 routes take about 20 MiB.
pub(crate) const SOURCE_BYTES_MAX: usize = 32 << 20;

/// A shown line keeps this many bytes around the caret.
const EXCERPT_BYTES_BEFORE: usize = 100;
const EXCERPT_BYTES_AFTER: usize = 100;

#[derive(Clone, Default)]
pub(crate) struct Sources {
    list: Vec<Arc<Source>>,
}

struct Source {
    name: Box<str>,
    text: Box<str>,
    /// Offset of each line's first byte; filled when the first diagnostic asks.
    line_starts: OnceLock<Vec<u32>>,
}

impl Sources {
    pub(crate) fn add(&mut self, name: &str, text: String) -> u32 {
        let text = text.into();
        let source = Source { name: name.into(), text, line_starts: OnceLock::new() };
        self.list.push(Arc::new(source));
        self.list.len() as u32 - 1
    }

    /// Names and texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|source| (&*source.name, &*source.text))
    }

    /// Which texts they are, and how long each is.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = (*const u8, usize)> {
        self.list.iter().map(|source| (source.text.as_ptr(), source.text.len()))
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Takes over those of another document; tells where the first of them is now.
    pub(crate) fn adopt(&mut self, others: &Sources) -> u32 {
        let first = self.list.len() as u32;
        self.list.extend(others.list.iter().cloned());
        first
    }

    /// Those that are used, and where each one is then.
    pub(crate) fn only(&self, used: &[bool]) -> (Sources, Vec<u32>) {
        let (mut list, mut places) = (Vec::new(), Vec::with_capacity(self.list.len()));
        for (source, used) in self.list.iter().zip(used) {
            places.push(list.len() as u32);
            if *used {
                list.push(source.clone());
            }
        }
        (Sources { list }, places)
    }

    pub(crate) fn text(&self, file: u32) -> &str {
        self.list.get(file as usize).map_or("", |source| &source.text)
    }

    /// What a span covers; `None` where there is no such text.
    pub(crate) fn at(&self, span: Span) -> Option<&str> {
        self.list.get(span.file as usize)?.text.get(span.start as usize..span.end as usize)
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        match self.list.get(span.file as usize) {
            Some(source) => source.place(span),
            None => Place { file: "(default)".into(), line: 1, column: 1, excerpt: None },
        }
    }
}

impl Source {
    fn place(&self, span: Span) -> Place {
        let start = floor_boundary(&self.text, span.start as usize);
        let starts = self.line_starts.get_or_init(|| line_starts(&self.text));
        let line = starts.partition_point(|&first| first as usize <= start);
        let line_start = starts.get(line.wrapping_sub(1)).map_or(0, |&first| first as usize);
        let rest = &self.text[line_start..];
        let line_text = rest.split(['\n', '\r']).next().unwrap_or("");
        let end = (span.end as usize).clamp(start, line_start.max(start) + line_text.len());
        Place {
            file: self.name.to_string(),
            line: line as u32,
            column: self.text[line_start..start].chars().count() as u32 + 1,
            excerpt: Some(clip(line_text, start - line_start, end - line_start)),
        }
    }
}

fn line_starts(text: &str) -> Vec<u32> {
    let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
    std::iter::once(0).chain(after_breaks.map(|(at, _)| at as u32 + 1)).collect()
}

/// The part of a line around `start..end`, with what a terminal should not see replaced.
fn clip(line: &str, start: usize, end: usize) -> Excerpt {
    let start = floor_boundary(line, start);
    let end = floor_boundary(line, end.min(start + EXCERPT_BYTES_AFTER)).max(start);
    let from = floor_boundary(line, start.saturating_sub(EXCERPT_BYTES_BEFORE));
    let to = floor_boundary(line, end.saturating_add(EXCERPT_BYTES_AFTER));
    let before = if from > 0 { "…" } else { "" };
    let after = if to < line.len() { "…" } else { "" };
    let head = format!("{before}{}", printable(&line[from..start]));
    let marked = printable(&line[start..end]);
    let tail = printable(&line[end..to]);
    let (start, end) = (head.len(), head.len() + marked.len());
    Excerpt { text: format!("{head}{marked}{tail}{after}"), start, end, is_clipped: from > 0 }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The last character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

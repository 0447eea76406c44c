//! From files, or from one text, to a checked [`Config`].

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::diagnostic::Diagnostics;
use crate::document::Document;
use crate::environment::{Lookup, substitute};
use crate::join::join;
use crate::report::{Problem, Report};
use crate::source::{SOURCE_BYTES_MAX, Sources, Span};
use crate::tree::Node;
use crate::{json, toml_text, yaml};

/// A config that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Only of [`Severity::Warning`](crate::Severity::Warning).
    pub warnings: Diagnostics,
    /// 16 hexadecimal digits that change when the content does: comments, formatting, the order
    /// of keys and the notation (YAML, TOML, JSON) are not content.
    pub hash: String,
}

impl Loaded {
    /// What is left to know once a plan has been made of it: routes are most of a config, and the plan
    /// has them.
    pub fn without_routes(mut self) -> Loaded {
        self.config.routes = Vec::new();
        self
    }
}

/// Why there is no config.
#[derive(Debug)]
pub enum Failure {
    /// A file or folder could not be read: `check` exits with 2.
    Unreadable { path: PathBuf, error: io::Error },
    /// It was read and is wrong: `check` exits with 1.
    Invalid(Diagnostics),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreadable { path, error } => {
                write!(f, "cannot read {}: {error}", path.display())
            }
            Failure::Invalid(diagnostics) => write!(f, "{diagnostics}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The notation of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Toml,
    Json,
}

impl Format {
    /// By the extension; what has none of ours is YAML.
    pub fn of(path: &Path) -> Format {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Format::Toml,
            Some("json") => Format::Json,
            _ => Format::Yaml,
        }
    }
}

/// Reads files and folders and checks them: see [`Document::load`].
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Failure> {
    Document::load(paths)?.check().map_err(Failure::Invalid)
}

/// Reads one text and checks it: see [`Document::parse`].
pub fn parse(name: &str, text: &str, format: Format) -> Result<Loaded, Diagnostics> {
    Document::parse(name, text.as_bytes(), format)?.check()
}

/// The texts of all files that the paths name.
pub(crate) fn read_texts(paths: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    let mut bytes_left = SOURCE_BYTES_MAX;
    for path in files(paths)? {
        let bytes = read_file(&path, bytes_left)?;
        bytes_left = bytes_left.saturating_sub(bytes.len());
        texts.push(Text { name: path.display().to_string(), bytes, format: Format::of(&path) });
    }
    Ok(texts)
}

pub(crate) struct Text {
    name: String,
    bytes: Vec<u8>,
    format: Format,
}

impl Text {
    /// Its name, and what it says.
    pub(crate) fn parts(&self) -> (&str, &[u8]) {
        (&self.name, &self.bytes)
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// At most one byte more than may be there, so that too much is noticed and not stored.
    pub(crate) fn new(name: &str, bytes: &[u8], format: Format) -> Text {
        let bytes = bytes[..bytes.len().min(SOURCE_BYTES_MAX + 1)].to_vec();
        Text { name: name.into(), bytes, format }
    }
}

/// Every file that the paths name, folders opened.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |error| Failure::Unreadable { path: path.clone(), error };
        if path.metadata().map_err(unreadable)?.is_dir() {
            files.extend(files_in(path).map_err(unreadable)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        // Editors and mounts have hidden files of their own.
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden || !matches!(extension, Some("yaml" | "yml" | "toml" | "json")) {
            continue;
        }
        // A link to nothing is a part that is missing.
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let metadata = path.metadata().map_err(named)?;
        if metadata.is_file() {
            files.push(path);
        } else if !metadata.is_dir() {
            return Err(named(io::Error::other("it is not a regular file")));
        }
    }
    if files.is_empty() {
        let message = "there is no .yaml, .yml, .toml or .json file in this folder";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    files.sort();
    Ok(files)
}

/// Reads at most one byte more than may be there, so that too much is noticed and not stored.
fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::Unreadable { path: path.into(), error })?;
    Ok(bytes)
}

/// The texts as one document.
pub(crate) fn read(
    texts: Vec<Text>,
    environment: Option<Lookup<'_>>,
) -> Result<Document, Diagnostics> {
    let mut sources = Sources::default();
    let mut faults = Vec::new();
    let too_large = texts.iter().map(|text| text.bytes.len()).sum::<usize>() > SOURCE_BYTES_MAX;
    let mut formats = Vec::new();
    for Text { name, bytes, format } in texts {
        formats.push(format);
        let bytes = if too_large { Vec::new() } else { bytes };
        add_source(&mut sources, &name, bytes, &mut faults);
    }
    if too_large {
        let message = format!("a config has at most {} MiB", SOURCE_BYTES_MAX >> 20);
        faults.push(Problem::error(Span::top(formats.len() as u32 - 1), message));
    }
    let (mut roots, mut twice) = (Vec::new(), Vec::new());
    if faults.is_empty() {
        for (file, format) in (0..).zip(&formats) {
            match tree(file, sources.text(file), *format, &mut twice) {
                Ok(root) => roots.push(root),
                Err(fault) => faults.push(fault),
            }
        }
    }
    // What is missing from a text that could not be read is not a mistake of its own.
    if !faults.is_empty() {
        let mut report = Report::new(&sources);
        faults.into_iter().chain(twice).for_each(|fault| report.add(fault));
        return Err(report.finish());
    }
    let mut faults = twice;
    let mut tree = join(roots, &mut faults);
    if let Some(lookup) = environment {
        substitute(&mut tree, lookup, &mut faults);
    }
    Ok(Document::new(sources, tree, faults))
}

/// Up to the first byte that is not UTF-8, if there is one.
fn add_source(sources: &mut Sources, name: &str, bytes: Vec<u8>, faults: &mut Vec<Problem>) {
    let (text, is_whole) = match String::from_utf8(bytes) {
        Ok(text) => (text, true),
        Err(fault) => {
            let valid = fault.utf8_error().valid_up_to();
            let mut bytes = fault.into_bytes();
            bytes.truncate(valid);
            (String::from_utf8(bytes).unwrap_or_default(), false)
        }
    };
    let text = match text.strip_prefix('\u{feff}') {
        Some(without_mark) => without_mark.to_owned(),
        None => text,
    };
    let end = text.len();
    let file = sources.add(name, text);
    if !is_whole {
        let message = "this byte is not UTF-8, and a config is";
        faults.push(Problem::error(Span::new(file, end, end), message));
    }
}

fn tree(file: u32, text: &str, format: Format, faults: &mut Vec<Problem>) -> Result<Node, Problem> {
    match format {
        Format::Yaml => yaml::read(file, text, "YAML", faults),
        Format::Toml => toml_text::read(file, text),
        Format::Json => json::read(file, text, faults),
    }
}

//! Regular expressions of routes: RE2's syntax on bytes, always of a whole text.
//!
//! Each is compiled to a table of states once, here: matching is one look per byte, allocates
//! nothing and keeps nothing between texts, whoever sends them. What would need too large a table
//! is an error of the config.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use crate::diagnostic::quoted;
use crate::report::Complaint;

/// Of one regex, in bytes of its table; `[^/]{1,200}` takes 10 KiB.
const REGEX_BYTES_MAX: usize = 256 << 10;
/// What building that table may take, in bytes.
const BUILD_BYTES_MAX: usize = 4 << 20;
/// Of all different regexes of a config.
const REGEXES_BYTES_MAX: usize = 64 << 20;
/// Of one regex, as it is written.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// A regular expression that fits a text only as a whole.
#[derive(Clone)]
pub struct Regex(Arc<Compiled>);

struct Compiled {
    text: String,
    states: dense::DFA<Vec<u32>>,
    start: StateID,
}

impl Regex {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub fn is_match(&self, text: impl IntoIterator<Item = u8>) -> bool {
        let mut text = text.into_iter();
        let end = text.try_fold(self.start(), |state, byte| self.next(state, byte));
        end.is_some_and(|end| self.ends(end))
    }

    /// Where a text begins; for those who walk all texts at once.
    pub(crate) fn start(&self) -> StateID {
        self.0.start
    }

    /// Where a byte leads; `None`: no text that goes on like this fits.
    pub(crate) fn next(&self, state: StateID, byte: u8) -> Option<StateID> {
        let state = self.0.states.next_state(state, byte);
        (!self.0.states.is_dead_state(state)).then_some(state)
    }

    /// Whether a text that ends here fits.
    pub(crate) fn ends(&self, state: StateID) -> bool {
        self.0.states.is_match_state(self.0.states.next_eoi_state(state))
    }

    fn compile(text: &str) -> Result<Regex, Complaint> {
        let too_large = || {
            let message = format!("the regex {} is too large", quoted(text));
            Complaint::new(message).hint(
                "its table of states takes more than 256KiB: use fewer counted repetitions, such \
                 as `{1,500}`, and fewer `.*`",
            )
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(too_large());
        }
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let parsed = parser.parse(text).map_err(|error| not_a_regex(text, &error))?;
        let automaton = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(BUILD_BYTES_MAX)),
            )
            .build_from_hir(&parsed)
            .map_err(|_| too_large())?;
        let states = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    // All of them run on to the text's end, so that the longest counts.
                    .match_kind(MatchKind::All)
                    .dfa_size_limit(Some(REGEX_BYTES_MAX))
                    .determinize_size_limit(Some(BUILD_BYTES_MAX)),
            )
            .build_from_nfa(&automaton)
            .map_err(|_| too_large())?;
        let start = states.start_state(&start::Config::new().anchored(Anchored::Yes));
        let start = start.map_err(|_| too_large())?;
        Ok(Regex(Arc::new(Compiled { text: text.into(), states, start })))
    }
}

fn not_a_regex(text: &str, error: &regex_syntax::Error) -> Complaint {
    let reason = match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        _ => "it cannot be read".into(),
    };
    let message = format!("{} is not a regex: {reason}", quoted(text));
    Complaint::new(message).hint("the syntax is RE2's, on bytes: without `\\p{…}` and `(?u)`")
}

/// Two are the same when they are written the same.
impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Regex {}

impl PartialOrd for Regex {
    fn partial_cmp(&self, other: &Regex) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Regex {
    fn cmp(&self, other: &Regex) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.as_str())
    }
}

/// For callers who have no config: the same syntax and the same bound, an error in words.
impl std::str::FromStr for Regex {
    type Err = String;

    fn from_str(text: &str) -> Result<Regex, String> {
        Regex::compile(text).map_err(|complaint| complaint.message)
    }
}

/// Those of a config: the same text is compiled once, and all together stay within a bound.
#[derive(Default)]
pub(crate) struct Regexes {
    by_text: HashMap<String, Regex>,
    bytes: usize,
}

impl Regexes {
    pub(crate) fn compile(&mut self, text: &str) -> Result<Regex, Complaint> {
        if let Some(known) = self.by_text.get(text) {
            return Ok(known.clone());
        }
        if self.bytes > REGEXES_BYTES_MAX {
            let message = "the regexes of this config are too large together";
            return Err(Complaint::new(message).hint(
                "their tables of states take more than 64MiB: use `exact` and `prefix` where they do",
            ));
        }
        let regex = Regex::compile(text)?;
        self.bytes += regex.0.states.memory_usage() + text.len() + size_of::<Compiled>();
        self.by_text.insert(text.into(), regex.clone());
        Ok(regex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_fits_the_whole_text_or_not() {
        for (regex, fits, not) in [
            ("/a", &["/a"][..], &["/a/", "/ab", "x/a", ""][..]),
            ("/a|/ab", &["/a", "/ab"], &["/abc"]),
            ("/.*", &["/", "/a/b"], &["", "a/"]),
            ("", &[""], &["/"]),
            ("^/v[0-9]+$", &["/v12"], &["/v", "/v1/"]),
            ("(?i)/Ab", &["/aB"], &["/b"]),
            ("/[^/]+/x", &["/é/x"], &["//x"]),
            (r"/\w+\b", &["/a_1"], &["/a-"]),
            ("/é", &["/é"], &["/e"]),
            ("/[^/]{1,200}", &["/a"], &["/"]),
        ] {
            let regex: Regex = regex.parse().unwrap();
            fits.iter().for_each(|text| assert!(regex.is_match(text.bytes()), "{regex:?} {text}"));
            not.iter().for_each(|text| assert!(!regex.is_match(text.bytes()), "{regex:?} {text}"));
        }
    }

    #[test]
    fn what_is_no_regex_or_too_large_is_told_apart() {
        for text in ["(", "a**b{", "(?=a)", r"\1", "[z-a]", r"\p{L}", "é+[é]"] {
            let message = Regex::compile(text).unwrap_err().message;
            assert!(message.contains("is not a regex"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        let long = "a".repeat(5_000);
        for text in ["(a|b)*a(a|b){20}", "(((a{100}){100}){100}){100}", long.as_str()] {
            assert!(Regex::compile(text).unwrap_err().message.contains("is too large"));
        }
    }

    #[test]
    fn the_same_text_is_compiled_once() {
        let mut regexes = Regexes::default();
        let first = regexes.compile("/a.*").unwrap();
        let bytes = regexes.bytes;
        assert!(Arc::ptr_eq(&first.0, &regexes.compile("/a.*").unwrap().0));
        assert_eq!(regexes.bytes, bytes);
        regexes.bytes = REGEXES_BYTES_MAX + 1;
        assert!(regexes.compile("/a.*").is_ok());
        assert!(regexes.compile("/b").unwrap_err().message.contains("too large together"));
    }
}

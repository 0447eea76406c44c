//! Conditions on a request beside its host, path and method: on headers, cookies and the query.

use crate::definition::{Key, Kind, Object, TRUTH};
use crate::diagnostic::quoted;
use crate::edits::header_value;
use crate::name::is_token;
use crate::reader::{list, text, word};
use crate::regex::{Regex, Regexes};
use crate::report::{Complaint, Problem, Report};
use crate::tree::Node;

/// What has to hold of the values that one name has in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of a header, in lower case; of a cookie, or decoded of the query, as it is.
    pub name: String,
    /// Holds if it does of any one of the values.
    pub test: Test,
    /// Holds if the test does not, so also where the name is not there.
    pub negated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The name is there, with whatever value.
    Present,
    Exact(String),
    /// Never empty.
    Prefix(String),
    /// Of the whole value.
    Regex(Regex),
}

impl Test {
    /// Whether one value passes.
    pub fn takes(&self, value: impl IntoIterator<Item = u8>) -> bool {
        let mut value = value.into_iter();
        match self {
            Test::Present => true,
            Test::Exact(text) => value.eq(text.bytes()),
            Test::Prefix(text) => text.bytes().all(|byte| value.next() == Some(byte)),
            Test::Regex(regex) => regex.is_match(value),
        }
    }
}

const ONE_OF: &[&str] = &["exact", "prefix", "regex", "present"];

/// The keys of all three, whose values are compared in one way.
macro_rules! keys {
    ($name:literal) => {
        &[
            Key::required("name", Kind::Text, $name),
            Key::optional("exact", Kind::Text, "The whole value."),
            Key::optional("prefix", Kind::Text, "How the value begins."),
            Key::optional("regex", Kind::Regex, "The whole value."),
            Key::optional("present", Kind::Word(&TRUTH), "Whether it is there at all."),
            Key::default("not", Kind::Word(&TRUTH), "false", "The opposite has to hold."),
        ]
    };
}

pub(crate) const HEADER: Object = Object {
    name: "a header match",
    about: "A condition on a header: one of its lines has to fit, as far as it goes on to the service. \
            Where the client is not trusted, its `x-forwarded-…` and `x-request-id` are not there.",
    one_of: ONE_OF,
    keys: keys!("In any case."),
};

pub(crate) const COOKIE: Object = Object {
    name: "a cookie match",
    about: "A condition on a cookie: one of that name has to fit.",
    one_of: ONE_OF,
    keys: keys!("As it is sent."),
};

pub(crate) const QUERY: Object = Object {
    name: "a query match",
    about: "A condition on the query: one parameter of that name has to fit. Both are decoded: \
            `%20` and `+` are a space.",
    one_of: ONE_OF,
    keys: keys!("Decoded."),
};

pub(crate) fn headers(
    node: &Node,
    report: &mut Report<'_>,
    regexes: &mut Regexes,
) -> Option<Vec<Condition>> {
    conditions(node, report, regexes, &HEADER, header_name, |given| header_value(given).map(drop))
}

pub(crate) fn cookies(
    node: &Node,
    report: &mut Report<'_>,
    regexes: &mut Regexes,
) -> Option<Vec<Condition>> {
    conditions(
        node,
        report,
        regexes,
        &COOKIE,
        |given| match is_token(given) {
            true => Ok(given.into()),
            false => Err(Complaint::new(format!("{} is not the name of a cookie", quoted(given)))),
        },
        cookie_value,
    )
}

pub(crate) fn query(
    node: &Node,
    report: &mut Report<'_>,
    regexes: &mut Regexes,
) -> Option<Vec<Condition>> {
    conditions(
        node,
        report,
        regexes,
        &QUERY,
        |given| match given {
            "" => Err(Complaint::new("a parameter has a name")),
            given => Ok(given.into()),
        },
        |_| Ok(()),
    )
}

/// What no request can have would never fit, or always.
fn cookie_value(given: &str) -> Result<(), Complaint> {
    let wrong = || Complaint::new(format!("{} is not the value of a cookie", quoted(given)));
    if given.contains(';') {
        return Err(wrong().hint("a `;` ends it: write what stands before"));
    }
    header_value(given)
        .map(drop)
        .map_err(|complaint| Complaint { message: wrong().message, ..complaint })
}

fn header_name(given: &str) -> Result<String, Complaint> {
    if !is_token(given) {
        return Err(Complaint::new(format!("{} is not the name of a header", quoted(given))));
    }
    match given.to_ascii_lowercase() {
        name if name == "host" => Err(Complaint::new("a route compares the host by its `hosts`")
            .hint("move it there, without a port")),
        name if name == "cookie" => Err(Complaint::new("a route compares cookies by `cookies`")
            .hint("write `cookies: [{ name: NAME, exact: VALUE }]`")),
        name => Ok(name),
    }
}

fn conditions(
    node: &Node,
    report: &mut Report<'_>,
    regexes: &mut Regexes,
    object: &'static Object,
    name: fn(&str) -> Result<String, Complaint>,
    value: fn(&str) -> Result<(), Complaint>,
) -> Option<Vec<Condition>> {
    list(node, report, |node, report| {
        let mut fields = report.fields(node, object)?;
        let name = fields.get("name", |n, r| text(n, r, "a name", name));
        let exact = |given: &str| value(given).map(|()| given.to_owned());
        let exact = fields.find("exact", |n, r| text(n, r, "a value", exact));
        // One may well end with white space that another word follows.
        let prefix = |given: &str| {
            value(match given.trim_end_matches([' ', '\t']) {
                "" => given,
                trimmed => trimmed,
            })
            .and_then(|()| prefix(given))
        };
        let prefix = fields.find("prefix", |n, r| text(n, r, "a value", prefix));
        let regex = fields.find("regex", |n, r| regex(n, r, regexes));
        let present = fields.find("present", |n, r| word(n, r, &TRUTH));
        let not = fields.get("not", |n, r| word(n, r, &TRUTH));
        let (name, not) = (name?, not?);
        let (test, negated) = match (exact?, prefix?, regex?, present?) {
            (Some(text), None, None, None) => (Test::Exact(text), not),
            (None, Some(text), None, None) => (Test::Prefix(text), not),
            (None, None, Some(regex), None) => (Test::Regex(regex), not),
            (None, None, None, Some(present)) => (Test::Present, not == present),
            // The choice was reported when the object was opened.
            _ => return None,
        };
        Some(Condition { name, test, negated })
    })
}

fn prefix(given: &str) -> Result<String, Complaint> {
    match given {
        "" => {
            Err(Complaint::new("every value begins with an empty text")
                .hint("write `present: true`"))
        }
        given => Ok(given.into()),
    }
}

pub(crate) fn regex(node: &Node, report: &mut Report<'_>, regexes: &mut Regexes) -> Option<Regex> {
    if report.is_full() {
        // Compiling costs, and what it could say would only be counted.
        report.add(Problem::error(node.span, "this regex was not looked at"));
        return None;
    }
    text(node, report, "a regex", |given| regexes.compile(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_values() {
        let regex = Test::Regex("a+".parse().unwrap());
        for (test, takes, not) in [
            (Test::Present, &["", "a"][..], &[][..]),
            (Test::Exact("ab".into()), &["ab"], &["", "a", "abc", "AB"]),
            (Test::Prefix("ab".into()), &["ab", "abc"], &["", "a", "xab"]),
            (regex, &["a", "aaa"], &["", "ab"]),
        ] {
            takes.iter().for_each(|text| assert!(test.takes(text.bytes()), "{test:?} {text}"));
            not.iter().for_each(|text| assert!(!test.takes(text.bytes()), "{test:?} {text}"));
        }
    }
}

//! Names of listeners, services and routes, and other words that end up in headers, logs and
//! metrics: what they may contain is decided here, once, so nobody has to escape them later.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use crate::diagnostic::quoted;
use crate::reader::text;
use crate::report::{Complaint, Report};
use crate::tree::Node;

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn parse(text: &str) -> Option<Name> {
        const NAME_BYTES_MAX: usize = 128;
        let first = text.bytes().next()?;
        let follows = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = text.len() <= NAME_BYTES_MAX
            && first.is_ascii_alphanumeric()
            && text.bytes().all(follows);
        fits.then(|| Name(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

pub(crate) fn name(node: &Node, report: &mut Report<'_>) -> Option<Name> {
    text(node, report, "a name", |given| {
        Name::parse(given).ok_or_else(|| {
            let message = format!("{} is not a name", quoted(given));
            Complaint::new(message).hint(
                "a name has 1 to 128 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
            )
        })
    })
}

/// RFC 9110 §5.6.2, and not longer than anybody's.
pub(crate) fn is_token(text: &str) -> bool {
    const TOKEN_BYTES_MAX: usize = 256;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

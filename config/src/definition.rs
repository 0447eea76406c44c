//! What keys there are: one table per object, from which everything else follows.
//!
//! The reader asks these tables which keys it may accept, which ones are not built yet and what a
//! key that was left out means; the reference in `docs/config.md` is printed from them. A default
//! stands here as the text that one could have written, and is read by the same code.

/// One kind of object in the config.
pub(crate) struct Object {
    /// As a message calls it: "a listener".
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) keys: &'static [Key],
    /// Keys of which exactly one has to be given; empty where there is no such choice.
    pub(crate) one_of: &'static [&'static str],
}

pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
    /// One sentence for the reference.
    pub(crate) about: &'static str,
    /// Of the object's choices, the one without which this means nothing.
    pub(crate) only_with: Option<&'static str>,
    /// The key that says the same in another way: at most one of both is there.
    pub(crate) not_with: Option<&'static str>,
}

#[derive(Clone, Copy)]
pub(crate) enum Presence {
    Required,
    /// Left out, it is this text.
    Default(&'static str),
    /// Left out, it is nothing.
    Optional,
    /// A key of the interface whose feature is not built: an error that says so.
    NotYet,
}

/// What may stand under a key, as the reference prints it.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Name,
    Text,
    Number,
    Duration,
    Size,
    Ratio,
    Address,
    Network,
    Method,
    Host,
    Path,
    Regex,
    Status,
    /// Header names, each with its value.
    Headers,
    /// Keys that somebody chose, each with its value.
    Labels,
    Word(&'static dyn Vocabulary),
    /// `none`, or the other.
    OrNone(&'static Kind),
    /// A word from the list, or the other.
    OrWords(&'static [&'static str], &'static Kind),
    List(&'static Kind),
    Object(&'static Object),
    /// Any of its keys, none of them required.
    Part(&'static Object),
}

impl Key {
    pub(crate) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Key {
        Key { name, kind, presence: Presence::Required, about, only_with: None, not_with: None }
    }

    pub(crate) const fn default(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        about: &'static str,
    ) -> Key {
        Key { presence: Presence::Default(default), ..Key::required(name, kind, about) }
    }

    pub(crate) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Key {
        Key { presence: Presence::Optional, ..Key::required(name, kind, about) }
    }

    pub(crate) const fn not_yet(name: &'static str) -> Key {
        Key { presence: Presence::NotYet, ..Key::required(name, Kind::Text, "") }
    }

    pub(crate) const fn only_with(self, choice: &'static str) -> Key {
        Key { only_with: Some(choice), ..self }
    }

    pub(crate) const fn not_with(self, other: &'static str) -> Key {
        Key { not_with: Some(other), ..self }
    }
}

/// The words that stand for the values of one closed set.
pub(crate) struct Words<T: 'static> {
    pub(crate) accepted: &'static [(&'static str, T)],
    /// Words of the interface whose feature is not built.
    pub(crate) not_yet: &'static [&'static str],
}

/// A switch.
pub(crate) const TRUTH: Words<bool> =
    Words { accepted: &[("true", true), ("false", false)], not_yet: &[] };

/// [`Words`] of any type, for the reference.
pub(crate) trait Vocabulary: Sync {
    fn words(&self) -> Vec<&'static str>;
}

impl<T: Sync> Vocabulary for Words<T> {
    fn words(&self) -> Vec<&'static str> {
        self.accepted.iter().map(|(word, _)| *word).collect()
    }
}

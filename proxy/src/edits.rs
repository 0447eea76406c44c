//! Changes to the fields of a head, worked out once per plan: which names fall away, and which lines
//! come at the end.

use config::HeaderEdits;

/// What route and backend do to a head, as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// In lower case.
    dropped: Vec<Box<[u8]>>,
    /// Whole field lines.
    lines: Vec<u8>,
}

impl Edits {
    /// Nothing is changed.
    pub const NONE: &'static Edits = &Edits { dropped: Vec::new(), lines: Vec::new() };

    /// One after the other: in each, fields are removed, then set, then added.
    pub fn new(steps: &[&HeaderEdits]) -> Edits {
        let mut dropped: Vec<&str> = Vec::new();
        let mut lines: Vec<(&str, &str)> = Vec::new();
        for HeaderEdits { set, add, remove } in steps {
            let replaced = remove.iter().chain(set.iter().map(|(name, _)| name));
            for name in replaced {
                dropped.push(name);
                lines.retain(|(known, _)| known != name);
            }
            lines
                .extend(set.iter().chain(add).map(|(name, value)| (name.as_str(), value.as_str())));
        }
        dropped.sort_unstable();
        dropped.dedup();
        let lines: String =
            lines.into_iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
        Edits {
            dropped: dropped.into_iter().map(|name| name.as_bytes().into()).collect(),
            lines: lines.into_bytes(),
        }
    }

    /// Whether a field of this name, in any case, does not go on.
    #[inline]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
    }

    /// Whether any field falls away.
    #[inline]
    pub fn drops_any(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// The names that fall away.
    pub fn dropped(&self) -> impl Iterator<Item = &[u8]> {
        self.dropped.iter().map(|name| &**name)
    }

    /// The field lines to write at the end, each with its CR LF.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Whether there is a line of this name, in lower case, to write.
    pub fn writes(&self, name: &str) -> bool {
        let lines = self.lines.split(|&byte| byte == b'\n');
        lines.into_iter().any(|line| {
            line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
        let owned = |lines: &[(&str, &str)]| {
            lines.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let remove = remove.iter().map(|name| name.to_string()).collect();
        HeaderEdits { set: owned(set), add: owned(add), remove }
    }

    #[test]
    fn the_later_step_sees_what_the_earlier_one_wrote() {
        let route = step(&[("a", "1"), ("b", "2")], &[("c", "3"), ("a", "4")], &["a", "d"]);
        let backend = step(&[("b", "5")], &[("c", "6")], &["a"]);
        let edits = Edits::new(&[&route, &backend]);
        assert_eq!(edits.lines(), b"c: 3\r\nb: 5\r\nc: 6\r\n");
        for (name, drops) in [("A", true), ("b", true), ("d", true), ("c", false), ("e", false)] {
            assert_eq!(edits.drops(name.as_bytes()), drops, "{name}");
        }
        assert!(edits.writes("c") && edits.writes("b") && !edits.writes("a"));
        let alone = Edits::new(&[&route]);
        assert_eq!(alone.lines(), b"a: 1\r\nb: 2\r\nc: 3\r\na: 4\r\n");
        assert_eq!(Edits::new(&[&HeaderEdits::default()]), Edits::default());
    }
}

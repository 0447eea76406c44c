//! Paths with a new beginning.

/// What stands in place of the part of a path that a route's match took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPrefix<'a> {
    /// Begins with `/`, and ends with one only as a whole.
    pub prefix: &'a str,
    /// In bytes of the path; a whole number of segments.
    pub matched: usize,
}

impl NewPrefix<'_> {
    /// Appends the new path. One that has no beginning (`*`, or none) stays.
    pub fn write(self, out: &mut Vec<u8>, path: &[u8]) {
        if path.first() != Some(&b'/') {
            out.extend_from_slice(path);
            return;
        }
        let rest = path.get(self.matched..).unwrap_or_default();
        // The root's slash is the rest's own, if there is a rest.
        if self.prefix != "/" || rest.is_empty() {
            out.extend_from_slice(self.prefix.as_bytes());
        }
        out.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        for (path, matched, prefix, expect) in [
            ("/api", 4, "/v2", "/v2"),
            ("/api/", 4, "/v2", "/v2/"),
            ("/api/x", 4, "/v2/b", "/v2/b/x"),
            ("/api/x", 4, "/", "/x"),
            ("/api", 4, "/", "/"),
            ("/x", 0, "/v2", "/v2/x"),
            ("/", 0, "/v2", "/v2/"),
            ("/x", 0, "/", "/x"),
            ("*", 0, "/v2", "*"),
            ("", 0, "/v2", ""),
        ] {
            let mut out = Vec::new();
            NewPrefix { prefix, matched }.write(&mut out, path.as_bytes());
            assert_eq!(out, expect.as_bytes(), "{path} {prefix}");
        }
    }
}

//! What this proxy calls itself where the config does not say.

use std::fs;

use config::Name;

/// The host's name, as far as it is a name here.
pub fn host_name() -> Name {
    let given = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    as_name(given.trim())
}

/// What no name may hold becomes `-`; a host without a name is called ringside.
fn as_name(given: &str) -> Name {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let text: String = given.chars().map(fits).collect();
    let text = text.trim_start_matches(['.', '_', '-']);
    // A host name has at most 64 bytes, a name 128.
    Name::parse(text).unwrap_or_else(|| Name::parse("ringside").expect("a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_name() {
        for (host, name) in [
            ("web-1.example.com", "web-1.example.com"),
            ("_a b\u{e9}c", "a-b-c"),
            ("(none)", "none-"),
            ("", "ringside"),
            ("---", "ringside"),
        ] {
            assert_eq!(as_name(host), name, "{host}");
        }
        assert!(!host_name().is_empty());
    }
}

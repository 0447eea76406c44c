//! Which of many texts a text begins with, on whole segments: `/api` begins `/api/x`, not `/apix`.
//!
//! A table of hashes. A text is hashed from its beginning, segment by segment, and wherever one ends the
//! hash so far is looked for: as many steps as the deepest key has segments, whatever the keys are
//! like and whatever a client sends. The longest key that is found knows the next shorter one that
//! begins it, and so on. With many keys the time goes by in waiting for memory: so what is looked
//! at on the way is eight bytes of each key, and a key and its text are waited for together.

use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::quality::FixedState;

/// Keys, each with a value. Immutable.
#[derive(Debug)]
pub struct Prefixes<V> {
    separator: u8,
    /// Bit n: a key has n separators. The last bit: that many or more.
    depths: u64,
    /// How many separators a key has at most.
    deepest: usize,
    /// Where in `places` each beginning of a hash begins, and where the last ends: one more than a
    /// power of two. Empty if there are so few that they are all looked at.
    starts: Box<[u32]>,
    /// Of each key, in the order of their hashes.
    places: Box<[Place]>,
    /// In the order of `places`.
    keys: Box<[Key<V>]>,
    /// The texts of all keys.
    bytes: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The end of the key's hash.
    tag: u32,
    /// Where in `bytes` its text begins.
    start: u32,
}

#[derive(Debug)]
struct Key<V> {
    len: u32,
    /// The longest other key that this one begins with; [`NONE`] if there is none.
    parent: u32,
    value: V,
}

const NONE: u32 = u32::MAX;
/// So many keys have the beginning of their hashes in common. A cache line has eight places.
const KEYS_PER_START: usize = 4;
/// So few keys are looked for without `starts`.
const FEW: usize = 16;
/// Keys come from the config, so nobody outside chooses which of them collide.
const HASHER: FixedState = FixedState::with_seed(0x7072_6566_6978_6573);

impl<V> Default for Prefixes<V> {
    fn default() -> Prefixes<V> {
        Prefixes::new(Vec::new(), 0)
    }
}

impl<V> Prefixes<V> {
    /// No key is there twice. One that ends with a separator has an empty last segment.
    pub fn new(entries: Vec<(Vec<u8>, V)>, separator: u8) -> Prefixes<V> {
        let number = |count: usize| u32::try_from(count).expect("fewer than 2^32 bytes of keys");
        let (mut depths, mut deepest) = (0, 0);
        for (key, _) in &entries {
            let depth = separators(key, separator).count();
            depths |= depth_bit(depth);
            deepest = deepest.max(depth);
        }
        let whole = |(key, value): (Vec<u8>, V)| {
            let mut hash = 0;
            hashes(&key, separator, depths, deepest, |of_more| hash = of_more);
            (hash, key, value)
        };
        let mut entries: Vec<(u64, Vec<u8>, V)> = entries.into_iter().map(whole).collect();
        entries.sort_unstable_by_key(|(hash, ..)| *hash);
        let count = (entries.len() / KEYS_PER_START).next_power_of_two();
        let before = |start| entries.partition_point(|(hash, ..)| start_of(*hash, count) < start);
        let starts = match entries.len() {
            ..=FEW => Box::default(),
            _ => (0..=count).map(|start| number(before(start))).collect(),
        };
        let bytes: Box<[u8]> = entries.iter().flat_map(|(_, key, _)| key).copied().collect();
        let mut start = 0;
        let place = |(hash, key, value): (u64, Vec<u8>, V)| {
            let place = Place { tag: hash as u32, start: number(start) };
            start += key.len();
            (place, Key { len: number(key.len()), parent: NONE, value })
        };
        let (places, keys): (Vec<Place>, Vec<Key<V>>) = entries.into_iter().map(place).unzip();
        let (places, keys) = (places.into(), keys.into());
        let mut prefixes = Prefixes { separator, depths, deepest, starts, places, keys, bytes };
        for at in 0..prefixes.keys.len() {
            let text = prefixes.text(at);
            let begin = |other: usize| other != at && prefixes.begins(other, text);
            prefixes.keys[at].parent = prefixes.longest(text, begin).map_or(NONE, number);
        }
        prefixes
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.keys.iter().map(|key| &key.value)
    }

    /// All keys with their values, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &V)> {
        (0..self.keys.len()).map(|at| (self.text(at), &self.keys[at].value))
    }

    /// The keys that `text` begins with, the longest first: their lengths and values. The empty key
    /// begins everything.
    #[inline]
    pub fn of<'a>(&'a self, text: &[u8]) -> impl Iterator<Item = (usize, &'a V)> {
        // A key with the text's hash is nearly always the one that begins it.
        let mut at = self.longest(text, |_| true);
        if at.is_some_and(|at| !self.begins(at, text)) {
            at = self.longest(text, |at| self.begins(at, text));
        }
        std::iter::from_fn(move || {
            let key = self.keys.get(at?)?;
            at = Some(key.parent as usize);
            Some((key.len as usize, &key.value))
        })
    }

    /// Where the longest key is whose hash the text has at a boundary, and that is `wanted`.
    #[inline]
    fn longest(&self, text: &[u8], wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let mut longest = None;
        hashes(text, self.separator, self.depths, self.deepest, |hash| {
            let among = match &*self.starts {
                [] => 0..self.places.len(),
                starts => {
                    let start = start_of(hash, starts.len() - 1);
                    starts[start] as usize..starts[start + 1] as usize
                }
            };
            let tag = hash as u32;
            let mut alike = among.filter(|at| self.places[*at].tag == tag && wanted(*at));
            longest = alike.next().or(longest);
        });
        longest
    }

    fn begins(&self, at: usize, text: &[u8]) -> bool {
        let key = self.text(at);
        text.starts_with(key) && is_whole(text, key.len(), self.separator)
    }

    fn text(&self, at: usize) -> &[u8] {
        &self.bytes[self.places[at].start as usize..][..self.keys[at].len as usize]
    }
}

/// The hashes of what a text begins with, wherever a segment ends that may be the last of a key.
#[inline]
fn hashes(text: &[u8], separator: u8, depths: u64, deepest: usize, mut visit: impl FnMut(u64)) {
    let mut hasher = HASHER.build_hasher();
    let mut hashed = 0;
    let mut end_at = |len: usize, depth: usize| {
        if depths & depth_bit(depth) != 0 {
            hasher.write(&text[hashed..len]);
            hashed = len;
            visit(hasher.finish());
        }
    };
    let mut depth = 0;
    if text.first().is_some_and(|first| *first != separator) {
        end_at(0, depth);
    }
    for len in separators(text, separator) {
        end_at(len, depth);
        depth += 1;
        if depth > deepest {
            return;
        }
    }
    end_at(text.len(), depth);
}

/// Where a text has separators; eight bytes are looked at together.
#[inline]
fn separators(text: &[u8], separator: u8) -> impl Iterator<Item = usize> {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    let (mut words, mut next, mut found) = (text.chunks(8), 0, 0u64);
    std::iter::from_fn(move || {
        while found == 0 {
            let word = words.next()?;
            let mut bytes = [!separator; 8];
            bytes[..word.len()].copy_from_slice(word);
            // A byte that is a separator is zero now; its highest bit is set in what follows.
            let unlike = u64::from_le_bytes(bytes) ^ u64::from_ne_bytes([separator; 8]);
            found = !(((unlike & LOW) + LOW) | unlike | LOW);
            next += 8;
        }
        let at = next - 8 + found.trailing_zeros() as usize / 8;
        found &= found - 1;
        Some(at)
    })
}

fn depth_bit(depth: usize) -> u64 {
    1 << depth.min(63)
}

/// Which of so many beginnings a hash has; a power of two.
fn start_of(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

/// Whether a segment ends at `len`.
fn is_whole(text: &[u8], len: usize, separator: u8) -> bool {
    len == 0 || len == text.len() || text[len] == separator
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(keys: &[&str], text: &str) -> Vec<String> {
        let entries = keys.iter().map(|key| (key.as_bytes().to_vec(), *key)).collect();
        let prefixes = Prefixes::new(entries, b'/');
        let found = prefixes.of(text.as_bytes()).map(|(len, key)| {
            assert_eq!(len, key.len());
            (*key).to_owned()
        });
        found.collect()
    }

    #[test]
    fn rows() {
        let keys = ["", "/api", "/api-x", "/api/v1", "/api/v1/", "/apix", "/b/c"];
        for (text, expect) in [
            ("", &[""][..]),
            ("*", &[""]),
            ("/", &[""]),
            ("/api", &["/api", ""]),
            ("/api/", &["/api", ""]),
            ("/api/v1", &["/api/v1", "/api", ""]),
            ("/api/v1/", &["/api/v1/", "/api/v1", "/api", ""]),
            ("/api/v11", &["/api", ""]),
            ("/api-x/a", &["/api-x", ""]),
            ("/api-", &[""]),
            ("/b", &[""]),
            ("/zzz", &[""]),
        ] {
            assert_eq!(found(&keys, text), expect, "{text}");
        }
        assert_eq!(found(&["/a\x01/", "/a\x02", "/a\x02\x01"], "/a\x02/x"), ["/a\x02"]);
        assert!(found(&[], "/a").is_empty());
        assert!(found(&["/a"], "").is_empty());
    }

    #[test]
    fn a_text_with_the_hash_of_a_key_is_not_that_key() {
        let tag = |text: &str| {
            let mut tag = 0;
            hashes(text.as_bytes(), b'/', depth_bit(1), 1, |hash| tag = hash as u32);
            tag
        };
        let mut known = std::collections::HashMap::new();
        let pair = (0..1_000_000).find_map(|n| {
            let text = format!("/{n}");
            let other = known.insert(tag(&text), text.clone())?;
            Some((other, text))
        });
        let (key, text) = pair.expect("two of a million have 32 bits in common");
        assert_eq!(found(&[&key], &key), [&*key]);
        assert!(found(&[&key], &text).is_empty());
        assert_eq!(found(&[&key, &text], &text), [&*text]);
    }

    #[test]
    fn keys_may_be_deeper_than_there_are_bits() {
        let deep = "/a".repeat(100);
        let deeper = "/a".repeat(101);
        assert_eq!(found(&[&deep, &deeper, "/a"], &deep), [&*deep, "/a"]);
        assert_eq!(found(&[&deep, &deeper], &"/a".repeat(5_000)), [&*deeper, &*deep]);
        assert!(found(&[&deep], &"/a".repeat(99)).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn like_trying_each(
            beginning in "(/shared-by-all|/b)?",
            keys in prop::collection::hash_set("(/[a!]{0,2}){0,4}|(/aaaaaa[ab\x01\x02]{0,3}){1,3}", 0..60),
            text in "(/[a!b\x01]{0,2}){0,6}|(/aaaaaa[ab\x01\x02]{0,3}){1,4}",
            cut in 0usize..40,
        ) {
            let keys: Vec<String> = keys.iter().map(|key| format!("{beginning}{key}")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let text = format!("{beginning}{text}");
            let text = if cut < text.len() && cut % 2 == 0 { &text[..cut] } else { &text };
            let mut expect: Vec<&str> = keys.clone();
            expect.retain(|key| match text.strip_prefix(key) {
                Some(rest) => key.is_empty() || rest.is_empty() || rest.starts_with('/'),
                None => false,
            });
            expect.sort_by_key(|key| std::cmp::Reverse(key.len()));
            prop_assert_eq!(found(&keys, text), expect);
        }
    }
}

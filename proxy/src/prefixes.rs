//! Which of many texts a text begins with, on whole segments: `/api` begins `/api/x`, not `/apix`.
//!
//! A radix tree laid flat: the keys in one order, in which each stands before all that begin with it,
//! and for each the next shorter key that begins it. Looking one up is a binary search and then a walk
//! up. The search is among eight bytes of each key, those that follow what all have in common, and
//! only then among texts, of which it never compares a byte again that is known to be equal. With many
//! keys the time goes by in waiting for memory, so little of it is needed, and what is needed is asked
//! for at once: where a key's text is stands beside its digest, so that text and value come together.
//! What a look-up costs is set by the keys; of the text, no more is read than is equal to one of them.

/// Keys, each with a value. Immutable.
#[derive(Debug)]
pub struct Prefixes<V> {
    separator: u8,
    /// So many bytes are the same in all keys.
    shared: u32,
    /// What all keys begin with, and then what follows it in each, in their order.
    bytes: Box<[u8]>,
    /// One for each key, ascending in the order of [`place`], and one behind the last, for its end.
    slots: Box<[Slot]>,
    /// The digest of each [`STRIDE`]th slot: what is searched first, as near as can be.
    marks: Box<[u64]>,
    /// In the same order.
    values: Box<[V]>,
}

/// Four of them in a cache line.
#[derive(Debug)]
struct Slot {
    /// Of what follows what all have in common.
    digest: u64,
    /// Where in the bytes that is; it ends where the next begins.
    start: u32,
    /// The longest other key that this one begins with; [`NONE`] if there is none.
    parent: u32,
}

const NONE: u32 = u32::MAX;

/// So many slots, four cache lines, are left to search when the marks are.
const STRIDE: usize = 16;

impl<V> Default for Prefixes<V> {
    fn default() -> Prefixes<V> {
        Prefixes::new(Vec::new(), 0)
    }
}

impl<V> Prefixes<V> {
    /// No key is there twice. One that ends with a separator has an empty last segment.
    pub fn new(mut entries: Vec<(Vec<u8>, V)>, separator: u8) -> Prefixes<V> {
        let order = |a: &[u8], b: &[u8]| {
            let places = |key| <[u8]>::iter(key).map(|byte| place(*byte, separator));
            places(a).cmp(places(b))
        };
        entries.sort_unstable_by(|(a, _), (b, _)| order(a, b));
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            let (bytes, slots, marks, values) = Default::default();
            return Prefixes { separator, shared: 0, bytes, slots, marks, values };
        };
        // What these have in common, those between them have too.
        let shared = common(first, last);
        let mut bytes = first[..shared].to_vec();
        let mut slots: Vec<Slot> = Vec::with_capacity(entries.len() + 1);
        let slot = |bytes: &[u8], rest: &[u8], parent| {
            let start = u32::try_from(bytes.len()).expect("fewer than 2^32 bytes");
            Slot { digest: digest(rest, separator), start, parent }
        };
        for (at, (key, _)) in entries.iter().enumerate() {
            // What the key before begins with, it too, or nothing between them does.
            let mut parent = at.checked_sub(1);
            while let Some(above) = parent {
                let (above_key, _) = &entries[above];
                if key.starts_with(above_key) && is_whole(key, above_key.len(), separator) {
                    break;
                }
                parent = Some(slots[above].parent as usize).filter(|at| *at != NONE as usize);
            }
            let parent = parent.map_or(NONE, |at| u32::try_from(at).expect("fewer than 2^32 keys"));
            slots.push(slot(&bytes, &key[shared..], parent));
            bytes.extend_from_slice(&key[shared..]);
        }
        let marks = slots.iter().step_by(STRIDE).skip(1).map(|slot| slot.digest).collect();
        slots.push(slot(&bytes, &[], NONE));
        let shared = u32::try_from(shared).expect("fewer than 2^32 bytes");
        let values = entries.into_iter().map(|(_, value)| value).collect();
        Prefixes { separator, shared, bytes: bytes.into(), slots: slots.into(), marks, values }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, in the keys' order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }

    /// All keys with their values, in the keys' order.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, &V)> {
        let keys = (0..).map(|at| [self.shared(), self.rest(at)].concat());
        keys.zip(&self.values)
    }

    fn shared(&self) -> &[u8] {
        &self.bytes[..self.shared as usize]
    }

    /// What follows that in a key.
    fn rest(&self, at: usize) -> &[u8] {
        &self.bytes[self.slots[at].start as usize..self.slots[at + 1].start as usize]
    }

    /// The keys that `text` begins with, the longest first: their lengths and values. The empty key
    /// begins everything.
    #[inline]
    pub fn of<'a>(&'a self, text: &[u8]) -> impl Iterator<Item = (usize, &'a V)> {
        let (mut at, common) = self.last_not_after(text);
        std::iter::from_fn(move || {
            while let Some(value) = self.values.get(at as usize) {
                let len = self.shared as usize + self.rest(at as usize).len();
                let found =
                    (len <= common && is_whole(text, len, self.separator)).then_some((len, value));
                at = self.slots[at as usize].parent;
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }

    /// The last key that does not come after `text`, and how many bytes they have in common. All that
    /// begin the text begin this one too; [`NONE`] if none does.
    #[inline]
    fn last_not_after(&self, text: &[u8]) -> (u32, usize) {
        // Whatever is unlike what all begin with, none begins.
        let Some(text) = text.strip_prefix(self.shared()) else { return (NONE, 0) };
        let Some((_end, slots)) = self.slots.split_last() else { return (NONE, 0) };
        let wanted = digest(text, self.separator);
        let first = STRIDE * self.marks.partition_point(|mark| *mark < wanted);
        let near = &slots[first..slots.len().min(first + STRIDE)];
        let before = first + near.partition_point(|slot| slot.digest < wanted);
        // Nearly always none or one.
        let alike = match &slots[before..] {
            [first, second, ..] if first.digest == wanted && second.digest != wanted => 1,
            [first, ..] if first.digest != wanted => 0,
            rest => rest.partition_point(|slot| slot.digest == wanted),
        };
        let (mut low, mut high) = (before, before + alike);
        let (mut common_low, mut common_high) = (0, 0);
        while low < high {
            let middle = low + (high - low) / 2;
            let key = self.rest(middle);
            // What stands between two that are so far equal is equal as far.
            let known = common_low.min(common_high);
            let common = known + common(&key[known..], &text[known..]);
            let is_after = match (key.get(common), text.get(common)) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(a), Some(b)) => place(*a, self.separator) > place(*b, self.separator),
            };
            match is_after {
                true => (high, common_high) = (middle, common),
                false => (low, common_low) = (middle + 1, common),
            }
        }
        let Some(last) = low.checked_sub(1) else { return (NONE, 0) };
        if low == before {
            common_low = common(self.rest(last), text);
        }
        (last as u32, self.shared as usize + common_low)
    }
}

/// How many bytes are equal at the beginning.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let difference = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if difference != 0 {
            return len + difference.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(a, b)| a == b).count()
}

/// The first eight bytes as a number, in the order of [`place`] as far as it goes: the lesser text never
/// has the greater number.
fn digest(text: &[u8], separator: u8) -> u64 {
    // 0 is the end. The bytes 0 to 2, which hardly any text has, are not told apart.
    const ODD: u8 = 2;
    let digit = |byte: u8| if byte == separator { 1 } else { byte.max(ODD) };
    let mut digits = [0; 8];
    match text.first_chunk::<8>() {
        Some(first) => digits = first.map(digit),
        None => digits.iter_mut().zip(text).for_each(|(to, byte)| *to = digit(*byte)),
    }
    if digits.iter().fold(false, |any, digit| any | (*digit == ODD)) {
        // What follows such a byte says nothing any more.
        let odd = digits.iter().position(|digit| *digit == ODD);
        digits[odd.map_or(8, |at| at + 1)..].fill(0);
    }
    u64::from_be_bytes(digits)
}

/// The separator comes before every other byte, so that what begins with a key follows it.
fn place(byte: u8, separator: u8) -> u16 {
    if byte == separator { 0 } else { u16::from(byte) + 1 }
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
    fn keys_and_texts_may_be_deep() {
        let (deep, deeper) = ("/a".repeat(100), "/a".repeat(101));
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

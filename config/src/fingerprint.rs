//! A short hash of what a config says.
//!
//! FNV-1a of 64 bits: to tell two of our own configs apart, not to withstand somebody who wants
//! two to be equal.

use crate::tree::{Entry, Node, Value};

pub(crate) fn fingerprint(tree: &Node) -> String {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.node(tree);
    format!("{:016x}", hash.0)
}

/// Of texts, to the byte, with their names.
pub(crate) fn of_texts<'t>(texts: impl Iterator<Item = (&'t str, &'t [u8])>) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for (name, text) in texts {
        hash.tagged(b't', name);
        text.iter().for_each(|byte| hash.byte(*byte));
        hash.byte(0xff);
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn node(&mut self, node: &Node) {
        match &node.value {
            Value::Null => self.tagged(b'n', ""),
            Value::Scalar(scalar) => self.tagged(b's', &scalar.text),
            Value::List(items) => {
                self.tagged(b'l', &items.len().to_string());
                items.iter().for_each(|item| self.node(item));
            }
            Value::Map(entries) => {
                self.tagged(b'm', &entries.len().to_string());
                let mut sorted: Vec<&Entry> = entries.iter().collect();
                sorted.sort_by(|a, b| a.key.cmp(&b.key));
                for entry in sorted {
                    self.tagged(b'k', &entry.key);
                    self.node(&entry.value);
                }
            }
        }
    }

    /// A tag before and a byte that UTF-8 does not have behind keep neighbours apart.
    fn tagged(&mut self, tag: u8, text: &str) {
        self.byte(tag);
        text.bytes().for_each(|byte| self.byte(byte));
        self.byte(0xff);
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

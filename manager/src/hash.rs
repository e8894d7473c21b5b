//! Maps that are asked many times for each change of a task.
//!
//! Keys are identifiers that managers draw at random, and names that administrators choose: nobody who could gain by it
//! chooses keys that collide, so a hash of a few multiplications does.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with a quick hash; make it with `default`.
pub(crate) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<QuickHasher>>;

/// Half of the golden ratio's digits: an odd number without a pattern.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Eight bytes at a time: rotate, mix, multiply.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct QuickHasher(u64);

impl QuickHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(SPREAD);
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ bytes.len() as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn finish(&self) -> u64 {
        // The map goes by the lowest bits and the highest: both have to depend on all.
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(SPREAD);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    #[test]
    fn identifiers_spread_over_low_and_high_bits() {
        let hash = |text: &str| BuildHasherDefault::<QuickHasher>::default().hash_one(text);
        let hashes: Vec<u64> = (0..4096).map(|number| hash(&format!("node{number}"))).collect();
        let distinct = |bits: fn(&u64) -> u64| hashes.iter().map(bits).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|hash| *hash), 4096);
        // 4096 throws into as many places hit 63 % of them.
        assert!(distinct(|hash| hash & 4095) > 2400);
        assert!(distinct(|hash| hash >> 52) > 2400);
    }
}

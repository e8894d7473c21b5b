//! Answers from outside, kept for as long as they said, within bounds of number and size: the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::Key;
use super::reply::Reply;

const MOST: usize = 8192;
const MOST_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// In the order of their coming; of an entry that was replaced, the older serial means nothing any more.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    reply: Arc<Reply>,
    came: Instant,
    serial: u64,
}

impl Cache {
    /// The answer and its age.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<Reply>, Duration)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.came);
        (age < entry.reply.lifetime?).then(|| (entry.reply.clone(), age))
    }

    pub(super) fn put(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        if reply.lifetime.is_none() {
            return;
        }
        self.serial += 1;
        self.bytes += cost(&key, &reply);
        self.order.push_back((key.clone(), self.serial));
        let entry = Entry {
            reply,
            came: now,
            serial: self.serial,
        };
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= cost(&key, &old.reply);
        }
        while self.order.len() > MOST || self.bytes > MOST_BYTES {
            self.drop_oldest();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            serial: self.serial,
            ..Self::default()
        };
    }

    fn drop_oldest(&mut self) {
        let Some((key, serial)) = self.order.pop_front() else {
            return;
        };
        if self.entries.get(&key).is_some_and(|e| e.serial == serial)
            && let Some(entry) = self.entries.remove(&key)
        {
            self.bytes -= cost(&key, &entry.reply);
        }
    }
}

fn cost(key: &Key, reply: &Reply) -> usize {
    key.len() + reply.len()
}

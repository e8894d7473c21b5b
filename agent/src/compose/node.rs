//! Looking into trees and changing them, where what they mean does not matter yet.

use super::yaml::{Node, Place, Value};

impl Node {
    /// Text that was quoted: never a number or nothing.
    pub(super) fn quoted(place: Place, text: &str) -> Self {
        let value = Value::Scalar {
            text: text.to_owned(),
            plain: false,
        };
        Self { place, value }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entries of a mapping; of anything else, none.
    pub(super) fn entries(&self) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list, or the node itself.
    pub(super) fn items_mut(&mut self) -> &mut [Node] {
        if !matches!(self.value, Value::List(_)) {
            return std::slice::from_mut(self);
        }
        match &mut self.value {
            Value::List(items) => items,
            _ => &mut [],
        }
    }

    /// The value of a mapping's key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let found = self.entries().iter().find(|(known, _)| known == key);
        found.map(|(_, node)| node)
    }

    /// As [`Node::get`], to be changed.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let found = entries.iter_mut().find(|(known, _)| known == key);
        found.map(|(_, node)| node)
    }

    /// Takes a key out of a mapping.
    pub(super) fn remove(&mut self, key: &str) -> Option<Node> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let index = entries.iter().position(|(known, _)| known == key)?;
        Some(entries.remove(index).1)
    }

    /// Adds a key that the mapping does not have.
    pub(super) fn push(&mut self, key: &str, node: Node) {
        if let Value::Map(entries) = &mut self.value {
            entries.push((key.to_owned(), node));
        }
    }

    /// Whether both say the same, wherever they stand; keys may stand in any order.
    pub(super) fn same(&self, other: &Node) -> bool {
        let empty =
            |node: &Node| node.is_null() || matches!(&node.value, Value::Map(entries) if entries.is_empty());
        match (&self.value, &other.value) {
            _ if empty(self) || empty(other) => empty(self) && empty(other),
            (Value::Scalar { text, .. }, Value::Scalar { text: known, .. }) => {
                text == known && self.kind() == other.kind()
            }
            (Value::List(items), Value::List(known)) => {
                items.len() == known.len() && items.iter().zip(known).all(|(item, known)| item.same(known))
            }
            (Value::Map(entries), Value::Map(known)) => {
                let found =
                    |(key, node): &(String, Node)| other.get(key).is_some_and(|known| node.same(known));
                entries.len() == known.len() && entries.iter().all(found)
            }
            _ => false,
        }
    }
}

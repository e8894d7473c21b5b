//! A later file over an earlier one: mappings are joined, lists are added to, except those that are one value as a
//! whole; anything else is replaced (Compose Specification, section Merge).

use super::yaml::{Node, Value};

/// Lists that are one value: the later one counts alone.
const WHOLE: [&str; 4] = ["command", "entrypoint", "test", "x-prepare"];

/// Lays `over` over `base`.
pub(crate) fn merge(base: Node, over: Node) -> Node {
    let value = match (base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => Value::Map(join(base, over)),
        (Value::List(mut base), Value::List(over)) => {
            base.extend(over);
            Value::List(base)
        }
        (_, over) => over,
    };
    Node {
        place: over.place,
        value,
    }
}

fn join(mut base: Vec<(String, Node)>, over: Vec<(String, Node)>) -> Vec<(String, Node)> {
    for (key, node) in over {
        match base.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) if WHOLE.contains(&key.as_str()) => *known = node,
            Some((_, known)) => *known = merge(known.clone(), node),
            None => base.push((key, node)),
        }
    }
    base
}

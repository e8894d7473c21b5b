//! A later file over an earlier one, or a service over the one that it extends: mappings are joined, lists are added to, except those that are one value as a
//! whole; anything else is replaced (Compose Specification, section Merge).

use super::yaml::{Node, Value};

/// Lists and mappings that are replaced as a whole.
const WHOLE: [&str; 4] = ["command", "entrypoint", "test", "x-prepare"];
/// Mappings that may be written as lists of `key=value`, or of keys alone.
const PAIRS: [&str; 8] = [
    "annotations",
    "args",
    "depends_on",
    "environment",
    "extra_hosts",
    "labels",
    "networks",
    "sysctls",
];

/// Lists that may be written as one text, to which a list is added.
const ONE_OR_MORE: [&str; 5] = ["dns", "dns_opt", "dns_search", "env_file", "tmpfs"];
/// Lists in which nothing stands twice.
const UNIQUE: [&str; 12] = [
    "cap_add",
    "cap_drop",
    "constraints",
    "device_cgroup_rules",
    "expose",
    "external_links",
    "generic_resources",
    "group_add",
    "networks",
    "preferences",
    "profiles",
    "security_opt",
];

/// `over` on top of `base`.
pub(crate) fn merge(base: Node, over: Node) -> Node {
    merge_under("", base, over)
}

fn merge_under(key: &str, base: Node, over: Node) -> Node {
    let (base, over) = match (&base.value, &over.value) {
        (Value::List(_), Value::Map(_)) if PAIRS.contains(&key) => (mapping(base), over),
        (Value::Map(_), Value::List(_)) if PAIRS.contains(&key) => (base, mapping(over)),
        (Value::Scalar { .. }, Value::List(_)) if ONE_OR_MORE.contains(&key) => (listed(base), over),
        (Value::List(_), Value::Scalar { .. }) if ONE_OR_MORE.contains(&key) => (base, listed(over)),
        (Value::Scalar { .. }, Value::Map(_)) if key == "build" => (context(base), over),
        (Value::Map(_), Value::Scalar { .. }) if key == "build" => (base, context(over)),
        _ => (base, over),
    };
    let value = match (base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => Value::Map(join(base, over)),
        (Value::List(mut base), Value::List(over)) if UNIQUE.contains(&key) => {
            for item in over {
                if !base.iter().any(|known| known.same(&item)) {
                    base.push(item);
                }
            }
            Value::List(base)
        }
        (Value::List(mut base), Value::List(over)) => {
            let named: Vec<_> = over.iter().filter_map(|item| identity(key, item)).collect();
            base.retain(|item| identity(key, item).is_none_or(|known| !named.contains(&known)));
            base.extend(over);
            Value::List(base)
        }
        // A file without a value for a key says nothing of it.
        (base, Value::Scalar { text, plain: true }) if text.is_empty() => base,
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
            Some((_, known)) => *known = merge_under(&key, known.clone(), node),
            None => base.push((key, node)),
        }
    }
    base
}

/// `a` as `[a]`; nothing stays nothing.
fn listed(node: Node) -> Node {
    if node.is_null() {
        return node;
    }
    Node {
        place: node.place.clone(),
        value: Value::List(vec![node]),
    }
}

/// `build: a` as `build: {context: a}`.
fn context(node: Node) -> Node {
    if node.is_null() {
        return node;
    }
    Node {
        place: node.place.clone(),
        value: Value::Map(vec![("context".to_owned(), node)]),
    }
}

/// `[a=1, b]` as `{a: 1, b: }`.
fn mapping(node: Node) -> Node {
    let Value::List(items) = node.value else {
        return node;
    };
    let entry = |item: Node| {
        let Value::Scalar { text, .. } = &item.value else {
            return None;
        };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (text.clone(), String::new()),
        };
        let plain = !text.contains('=');
        let value = Value::Scalar { text: value, plain };
        Some((
            key,
            Node {
                place: item.place,
                value,
            },
        ))
    };
    Node {
        place: node.place,
        value: Value::Map(items.into_iter().filter_map(entry).collect()),
    }
}

/// What makes two items of a list the same thing, of which the later counts: where a volume, secret or config lies in the
/// container; a port as it is written, or in the long form by its numbers.
fn identity(key: &str, item: &Node) -> Option<String> {
    match (&item.value, key) {
        (Value::Scalar { text, .. }, "volumes") => {
            let mut parts = text.split(':');
            let first = parts.next()?;
            Some(parts.next().unwrap_or(first).to_owned())
        }
        (Value::Map(entries), "volumes") => field(entries, "target"),
        (Value::Map(entries), "ports") => {
            let parts = ["host_ip", "target", "published", "protocol"];
            Some(format!("{:?}", parts.map(|part| field(entries, part))))
        }
        (Value::Scalar { text, .. }, "ports" | "secrets" | "configs") => Some(text.clone()),
        (Value::Map(entries), "secrets" | "configs") => {
            field(entries, "target").or_else(|| field(entries, "source"))
        }
        _ => None,
    }
}

fn field(entries: &[(String, Node)], key: &str) -> Option<String> {
    entries.iter().find_map(|(known, node)| match &node.value {
        Value::Scalar { text, .. } if known == key => Some(text.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{write, yaml::parse};
    use super::*;
    use std::path::Path;

    #[test]
    fn what_may_be_written_in_two_ways_is_one_thing() {
        let node = |text: &str| parse(Path::new("f"), text).unwrap();
        let base = "build: ./app\ndns: 1.1.1.1\ncap_add: [A, B]\nports: [{target: 1, mode: host}]\n";
        let over = "build: {target: x}\ndns: [1.1.1.1]\ncap_add: [B, C]\nports: [{target: 1}]\n";
        assert_eq!(
            write::write(&merge(node(base), node(over))),
            "build:\n  context: ./app\n  target: x\ndns:\n  - 1.1.1.1\n  - 1.1.1.1\ncap_add:\n  - A\n  - B\n  - C\n\
             ports:\n  -\n    target: 1\n"
        );
    }

    #[test]
    fn later_files_count_more() {
        let node = |text: &str| parse(Path::new("f"), text).unwrap();
        let base = "s:\n  environment: [A=1, B=2]\n  volumes: ['old:/d', 'keep:/k']\n  ports: ['1:1']\n  command: [x, y]\n";
        let over =
            "s:\n  environment: {B: 3}\n  volumes: ['new:/d:ro']\n  ports: ['1:1', '2:2']\n  command: [z]\n";
        let merged = write::write(&merge(node(base), node(over)));
        assert_eq!(
            merged,
            "s:\n  environment:\n    A: \"1\"\n    B: 3\n  volumes:\n    - \"keep:/k\"\n    - \"new:/d:ro\"\n  \
             ports:\n    - \"1:1\"\n    - \"2:2\"\n  command:\n    - z\n"
        );
    }
}

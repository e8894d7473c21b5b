//! A tree of nodes as YAML: what `stack config` shows after merges and interpolation.

use super::yaml::{Node, Value};

/// The tree as block YAML, two blanks a level.
pub(crate) fn write(node: &Node) -> String {
    let mut text = String::new();
    block(node, 0, &mut text);
    text
}

fn block(node: &Node, level: usize, text: &mut String) {
    match &node.value {
        Value::Scalar { .. } => text.push_str(&format!("{}\n", scalar(node))),
        Value::List(items) => {
            for item in items {
                text.push_str(&"  ".repeat(level));
                text.push('-');
                below(item, level, text);
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                text.push_str(&format!("{}{}:", "  ".repeat(level), quoted(key, false)));
                below(value, level, text);
            }
        }
    }
}

/// What stands behind a dash or a colon.
fn below(node: &Node, level: usize, text: &mut String) {
    match &node.value {
        Value::List(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Map(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Value::Scalar { .. } if node.is_null() => text.push_str(" null\n"),
        Value::Scalar { .. } => text.push_str(&format!(" {}\n", scalar(node))),
        _ => {
            text.push('\n');
            block(node, level + 1, text);
        }
    }
}

fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, plain } => quoted(text, *plain),
        _ => String::new(),
    }
}

/// Bare where that reads back as the same value; as a JSON string, which YAML understands, otherwise.
fn quoted(text: &str, plain: bool) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
    let bare = !text.is_empty() && text.bytes().all(safe) && !text.starts_with('-');
    let typed = ["true", "false", "null", "yes", "no", "on", "off"]
        .contains(&text.to_ascii_lowercase().as_str())
        || text.parse::<f64>().is_ok();
    if bare && (plain || !typed) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let text = "a:\n  - x: 1\n    y: \"1\"\n  - \"b: c #\"\nempty: []\nnone: null\nm:\n  k: true\n";
        let written = write(&parse(Path::new("f"), text).unwrap());
        assert_eq!(
            written,
            "a:\n  -\n    x: 1\n    y: \"1\"\n  - \"b: c #\"\nempty: []\nnone: null\nm:\n  k: true\n"
        );
        assert_eq!(write(&parse(Path::new("f"), &written).unwrap()), written);
    }
}

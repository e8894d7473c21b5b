//! `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, `${NAME?message}`, `${NAME:+other}`,
//! `${NAME+other}` and `$$`, in values of a compose file (Compose Specification, section Interpolation). What stands
//! behind the operator may hold variables itself.

use std::sync::Arc;

use super::Variables;
use super::error::ComposeError;
use super::yaml::{Node, Value};

/// Replaces variables in every value of the tree, whose root has the path; keys stay as they are. A variable that is not set is empty, and
/// named in a warning.
pub(crate) fn interpolate(
    node: &mut Node,
    path: &str,
    variables: &Variables,
    warnings: &mut Vec<String>,
) -> Result<(), ComposeError> {
    walk(node, path, &mut Expander { variables, warnings })
}

fn walk(node: &mut Node, path: &str, expander: &mut Expander<'_>) -> Result<(), ComposeError> {
    let place = node.place.clone();
    match &mut node.value {
        Value::Scalar { text, .. } => {
            if text.contains('$') {
                *text = expander.expand(text).map_err(|problem| ComposeError::Value {
                    place,
                    path: Arc::from(path),
                    problem,
                })?;
            }
            Ok(())
        }
        Value::List(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                walk(node, &format!("{path}[{index}]"), expander)?;
            }
            Ok(())
        }
        Value::Map(entries) => {
            for (key, node) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                walk(node, &path, expander)?;
            }
            Ok(())
        }
    }
}

struct Expander<'v> {
    variables: &'v Variables,
    warnings: &'v mut Vec<String>,
}

impl Expander<'_> {
    fn expand(&mut self, text: &str) -> Result<String, String> {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            result.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                result.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let end = closing(after)
                    .ok_or_else(|| format!("${{ without }} in {text:?}; write $$ for a dollar sign"))?;
                result.push_str(&self.braced(&after[..end])?);
                rest = &after[end + 1..];
            } else {
                let name = name_length(rest);
                if name == 0 {
                    return Err(format!("a lone $ in {text:?}; write $$ for a dollar sign"));
                }
                result.push_str(&self.plain(&rest[..name]));
                rest = &rest[name..];
            }
        }
        result.push_str(rest);
        Ok(result)
    }

    fn plain(&mut self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_else(|| {
            let warning = format!("the variable {name} is not set: it is taken as empty");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
            String::new()
        })
    }

    /// `NAME`, or `NAME` with an operator and a word.
    fn braced(&mut self, inner: &str) -> Result<String, String> {
        let (name, rest) = inner.split_at(name_length(inner));
        if name.is_empty() {
            return Err(format!("${{{inner}}} names no variable"));
        }
        let (empty_counts, operator) = match rest.strip_prefix(':') {
            Some(operator) => (true, operator),
            None => (false, rest),
        };
        let set = self
            .variables
            .get(name)
            .filter(|value| !(empty_counts && value.is_empty()))
            .cloned();
        match (operator.chars().next(), set) {
            (None, _) if empty_counts => Err(format!("${{{inner}}}: an operator is missing after the colon")),
            (None, _) => Ok(self.plain(name)),
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.expand(&operator[1..]),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let message = self.expand(&operator[1..])?;
                let message = if message.is_empty() {
                    "it is required".to_owned()
                } else {
                    message
                };
                Err(format!("the variable {name} is not set: {message}"))
            }
            (Some(other), _) => Err(format!(
                "${{{inner}}}: {other:?} is not an operator; there are - ? + and the same after a colon"
            )),
        }
    }
}

/// Length of the name that the text begins with.
fn name_length(text: &str) -> usize {
    let starts = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts {
        return 0;
    }
    text.find(|other: char| !other.is_ascii_alphanumeric() && other != '_')
        .unwrap_or(text.len())
}

/// Where the brace closes that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(index),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let variables = Variables::from([
            ("A".to_owned(), "1".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        Expander {
            variables: &variables,
            warnings: &mut Vec::new(),
        }
        .expand(text)
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("$A-${A}", "1-1"),
            ("$$A", "$A"),
            ("${B:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${B:-${A}y}", "1y"),
            ("${A:+set}", "set"),
            ("${B:+set}", ""),
            ("${A:?no}", "1"),
            ("$B!", "!"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            expand("${B:?say it}").unwrap_err(),
            "the variable B is not set: say it"
        );
        for text in ["${A", "$", "${}", "${A:}", "${A!x}", "a $ b"] {
            assert!(expand(text).is_err(), "{text}");
        }
    }
}

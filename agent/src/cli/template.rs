//! The part of Go's templates that `--format` is used for.
//!
//! `{{.Field}}`, `{{.Spec.Name}}`, `{{json .}}`, `{{index .Labels "key"}}`, `{{upper …}}`, `{{lower …}}`, `\t` and `\n`.
//! Anything else between braces is refused by name.

use anyhow::{Result, bail};
use serde_json::Value;

/// Expands a template over a value.
///
/// # Errors
/// An expression that is not built, or a field that is not there.
pub(crate) fn expand(template: &str, value: &Value) -> Result<String> {
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let mut text = String::new();
    let mut rest = template.as_str();
    while let Some(start) = rest.find("{{") {
        text.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let Some(end) = inner.find("}}") else {
            bail!("template parsing error: {template:?} has {{{{ without }}}}");
        };
        text.push_str(&expression(inner[..end].trim(), value)?);
        rest = &inner[end + 2..];
    }
    text.push_str(rest);
    Ok(text)
}

fn expression(text: &str, value: &Value) -> Result<String> {
    let (verb, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    match verb {
        "json" => Ok(path(argument, value)?.to_string()),
        "upper" => Ok(shown(path(argument, value)?).to_uppercase()),
        "lower" => Ok(shown(path(argument, value)?).to_lowercase()),
        "index" => {
            let (object, key) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
            let object = path(object, value)?;
            let key = key.trim().trim_matches('"');
            let found = key.parse::<usize>().ok().and_then(|index| object.get(index));
            Ok(found.or_else(|| object.get(key)).map(shown).unwrap_or_default())
        }
        _ if argument.is_empty() && verb.starts_with('.') => Ok(shown(path(verb, value)?)),
        _ => bail!(
            "template parsing error: {{{{{text}}}}} is not built: use .Field, json, index, upper or lower"
        ),
    }
}

fn path<'v>(path: &str, value: &'v Value) -> Result<&'v Value> {
    let Some(fields) = path.strip_prefix('.') else {
        bail!("template parsing error: {path:?} is not a field such as .Name");
    };
    let mut found = value;
    for field in fields.split('.').filter(|field| !field.is_empty()) {
        found = match found.get(field) {
            Some(inner) => inner,
            // As Go's maps: what is not there has no value; but a row has all that it can have.
            None if found.is_null() => &Value::Null,
            None => bail!("template: can't evaluate field {field} in {{{{{path}}}}}"),
        };
    }
    Ok(found)
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates() {
        let value = json!({"Name": "web", "Spec": {"Labels": {"a.b": "c"}, "N": 3, "L": ["x", "y"]}});
        for (template, expected) in [
            ("{{.Name}}: {{ .Spec.N }}", "web: 3"),
            ("{{json .Spec.L}}", r#"["x","y"]"#),
            ("{{index .Spec.Labels \"a.b\"}}{{index .Spec.L 1}}", "cy"),
            ("{{.Spec.Labels}}\\t{{upper .Name}}", "map[a.b:c]\tWEB"),
        ] {
            assert_eq!(expand(template, &value).unwrap(), expected);
        }
        for template in ["{{.Nope}}", "{{range .L}}", "{{.Name", "{{Name}}"] {
            assert!(expand(template, &value).is_err(), "{template}");
        }
    }
}

//! Files of `NAME=value` lines, as `env_file` names them.

use super::Variables;

/// Reads the lines, quotes and comments taken off. A name without `=` takes its value from the variables, or is left out.
///
/// # Errors
/// The line that is wrong, by number.
pub(crate) fn parse(text: &str, variables: &Variables) -> Result<Vec<(String, String)>, String> {
    read(text, variables, &|value| unquote(value.trim()))
}

/// As [`parse`], but values are taken as they stand (`format: raw`).
///
/// # Errors
/// The line that is wrong, by number.
pub(crate) fn parse_raw(text: &str, variables: &Variables) -> Result<Vec<(String, String)>, String> {
    read(text, variables, &str::to_owned)
}

fn read(
    text: &str,
    variables: &Variables,
    value_of: &dyn Fn(&str) -> String,
) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}').trim_start();
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value_of(value))),
            None => (line.trim_end(), variables.get(line.trim_end()).cloned()),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!(
                "line {}: {name:?} is not the name of a variable",
                index + 1
            ));
        }
        if let Some(value) = value {
            pairs.push((name.to_owned(), value));
        }
    }
    Ok(pairs)
}

/// Quotes around the whole value go; in double quotes `\n`, `\"` and `\\` mean what they do in a shell. Without quotes,
/// ` #` begins a comment.
fn unquote(value: &str) -> String {
    if let Some(inner) = quoted(value, '\'') {
        return inner.to_owned();
    }
    if let Some(inner) = quoted(value, '"') {
        return inner
            .replace("\\n", "\n")
            .replace("\\\"", "\"")
            .replace("\\\\", "\\");
    }
    value.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

fn quoted(value: &str, quote: char) -> Option<&str> {
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let variables = Variables::from([("FROM_SHELL".to_owned(), "s".to_owned())]);
        let text = "# c\nA=1 # one\nexport B='x y'\nC=\"a\\nb\"\n\nFROM_SHELL\nMISSING\nD=\nE=a=b\n";
        let pairs = parse(text, &variables).unwrap();
        let shown: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(shown, ["A=1", "B=x y", "C=a\nb", "FROM_SHELL=s", "D=", "E=a=b"]);
        assert_eq!(
            parse_raw("A='x' # y\n", &variables).unwrap(),
            [("A".to_owned(), "'x' # y".to_owned())]
        );
        assert!(parse("A B=1", &variables).unwrap_err().starts_with("line 1"));
    }
}

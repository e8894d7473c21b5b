//! The physical form of a Dockerfile: parser directives, comments, continuation lines.
//!
//! Rules: Dockerfile reference, "Format", "Parser directives" and "Escape"; behaviour of Docker's classic parser.

/// One instruction, joined from its continuation lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Number of its first physical line, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
}

/// The lines of a file and its escape character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) escape: char,
    pub(crate) lines: Vec<Line>,
}

/// A complaint about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) number: usize,
    pub(crate) reason: String,
}

/// Splits a file into instructions.
pub(crate) fn split(text: &str) -> Result<Lines, Complaint> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = directives(text)?;
    let mut lines: Vec<Line> = Vec::new();
    let mut open: Option<Line> = None;
    for (index, raw) in text.lines().enumerate() {
        if is_comment(raw) {
            continue;
        }
        // Blank lines inside a continuation are passed over.
        let blank = raw.trim().is_empty();
        let content = if open.is_some() { raw } else { raw.trim_start() };
        let (content, continues) = strip_continuation(content, escape);
        match &mut open {
            Some(_) if blank => continue,
            Some(line) => line.text.push_str(content),
            None if blank => continue,
            None => {
                open = Some(Line {
                    number: index + 1,
                    text: content.to_owned(),
                })
            }
        }
        if !continues {
            lines.extend(open.take());
        }
    }
    lines.extend(open);
    for line in &mut lines {
        line.text.truncate(line.text.trim_end().len());
    }
    lines.retain(|line| !line.text.trim().is_empty());
    Ok(Lines { escape, lines })
}

fn is_comment(raw: &str) -> bool {
    raw.trim_start().starts_with('#')
}

fn strip_continuation(content: &str, escape: char) -> (&str, bool) {
    let trimmed = content.trim_end_matches([' ', '\t', '\r']);
    match trimmed.strip_suffix(escape) {
        Some(rest) => (rest, true),
        None => (content.trim_end_matches('\r'), false),
    }
}

/// The escape character set by `# escape=` among the directives at the very top.
fn directives(text: &str) -> Result<char, Complaint> {
    let mut escape = None;
    let mut seen = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let Some((name, value)) = directive(raw) else {
            break;
        };
        let complain = |reason: String| Complaint {
            number: index + 1,
            reason,
        };
        if seen.contains(&name) {
            return Err(complain(format!("only one {name} parser directive can be used")));
        }
        if name == "escape" {
            escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                other => {
                    return Err(complain(format!("invalid escape {other:?}: must be ` or \\")));
                }
            };
        }
        seen.push(name);
    }
    Ok(escape.unwrap_or('\\'))
}

/// `# name=value`; anything else ends the directives.
fn directive(raw: &str) -> Option<(String, &str)> {
    let (name, value) = raw.trim().strip_prefix('#')?.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    matches!(name.as_str(), "escape" | "syntax" | "check").then(|| (name, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        split(text)
            .unwrap()
            .lines
            .into_iter()
            .map(|line| (line.number, line.text))
            .collect()
    }

    #[test]
    fn continuations_skip_comments_and_blanks() {
        let found = texts("FROM x\n\n# c\nENV a=1 \\\n  # inside\n\n  b=2\n CMD x \\");
        assert_eq!(
            found,
            [
                (1, "FROM x".into()),
                (4, "ENV a=1   b=2".into()),
                (8, "CMD x".into())
            ]
        );
    }

    #[test]
    fn the_escape_directive_counts_only_at_the_top() {
        let lines = split("# escape=`\nCOPY a `\n b").unwrap();
        assert_eq!((lines.escape, lines.lines[0].text.as_str()), ('`', "COPY a  b"));
        assert_eq!(split("# hello\n# escape=`\nFROM x").unwrap().escape, '\\');
        assert_eq!(
            split("# syntax=docker/dockerfile:1\n# escape=`\nFROM x")
                .unwrap()
                .escape,
            '`'
        );
        assert_eq!(split("# escape=x\n").unwrap_err().number, 1);
        assert!(
            split("# escape=`\n# escape=`\n")
                .unwrap_err()
                .reason
                .contains("only one")
        );
    }

    #[test]
    fn windows_line_ends_are_fine() {
        assert_eq!(
            texts("FROM x\r\nENV a=1 \\\r\n b=2\r\n"),
            [(1, "FROM x".into()), (2, "ENV a=1  b=2".into())]
        );
    }
}

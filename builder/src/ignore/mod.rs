//! `.dockerignore`: which paths of a context do not exist for the build.
//!
//! The algorithm is that of github.com/moby/patternmatcher (`MatchesUsingParentResults`): the last pattern that
//! matches a path or one of its parents decides, a pattern with `!` takes back.

mod glob;

pub(crate) use self::glob::Glob;

/// A line that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclamation,
    #[error("{0}")]
    Pattern(String),
}

/// A compiled `.dockerignore`.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    takes_back: bool,
}

impl Ignore {
    /// Compiles the text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        let patterns = lines
            .filter(|line| !line.is_empty())
            .map(pattern)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            patterns: patterns.into_iter().flatten().collect(),
        })
    }

    /// Whether the path (relative, with `/`) is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut matched = vec![false; self.patterns.len()];
        let mut excluded = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            excluded = self.decide(&path[..end], &mut matched);
        }
        excluded
    }

    /// Whether nothing below an excluded directory can be taken back, so that it need not be looked into.
    pub fn is_final(&self) -> bool {
        !self.patterns.iter().any(|pattern| pattern.takes_back)
    }

    /// Decides one path, given which patterns matched its parent; leaves there which match now.
    fn decide(&self, path: &str, matched: &mut [bool]) -> bool {
        let mut excluded = false;
        for (pattern, inherited) in self.patterns.iter().zip(matched) {
            if !*inherited {
                // As in moby, a pattern that could change nothing is not even tried.
                if pattern.takes_back != excluded {
                    continue;
                }
                *inherited = pattern.glob.matches(path);
            }
            if *inherited {
                excluded = !pattern.takes_back;
            }
        }
        excluded
    }
}

fn pattern(line: &str) -> Result<Option<Pattern>, IgnoreError> {
    let (text, takes_back) = match line.strip_prefix('!') {
        Some(rest) => (rest.trim(), true),
        None => (line, false),
    };
    if text.is_empty() {
        return Err(IgnoreError::LoneExclamation);
    }
    let text = clean(text);
    if text.is_empty() {
        return Ok(None);
    }
    let glob = Glob::with_double_star(&text).map_err(IgnoreError::Pattern)?;
    Ok(Some(Pattern { glob, takes_back }))
}

/// Go's `filepath.Clean`, without a leading `/`; the context's root itself becomes empty.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if text.starts_with('/') => {}
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn excludes(patterns: &str, path: &str) -> bool {
        Ignore::parse(patterns).unwrap().excludes(path)
    }

    #[test]
    fn the_last_match_decides() {
        let cases = [
            ("*\n!build\n!entry.sh", "build/bin/web", false),
            ("*\n!build\n!entry.sh", "entry.sh", false),
            ("*\n!build\n!entry.sh", "src/main.rs", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("/node_modules", "node_modules/x/y", true),
            ("node_modules", "sub/node_modules/x", false),
            ("**/node_modules", "sub/node_modules/x", true),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs\n!docs/README.md", "docs/other", true),
            ("./a/../b/", "b/c", true),
            ("# comment\n\n  spaced  ", "spaced", true),
            ("**\n!a/b", "a/b/c", false),
            ("**\n!a/b", "a/c", true),
            ("a/*\n!a/b", "a", false),
            (".", "anything", false),
            ("", "anything", false),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(excludes(patterns, path), expected, "{patterns:?} {path}");
        }
        assert_eq!(Ignore::parse("!").unwrap_err(), IgnoreError::LoneExclamation);
        assert!(matches!(
            Ignore::parse("a[").unwrap_err(),
            IgnoreError::Pattern(_)
        ));
    }

    proptest! {
        #[test]
        fn what_is_below_an_excluded_directory_is_excluded_unless_taken_back(
            patterns in prop::collection::vec("[ab*/]{1,4}", 0..4), path in "[ab](/[ab]){0,3}",
        ) {
            let ignore = Ignore::parse(&patterns.join("\n")).unwrap();
            if let Some((parent, _)) = path.rsplit_once('/') {
                prop_assert!(!ignore.excludes(parent) || ignore.excludes(&path));
            }
            prop_assert!(ignore.is_final());
        }
    }
}

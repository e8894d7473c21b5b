//! Patterns of file names: Go's `filepath.Match`, and Docker's extension with `**` (github.com/moby/patternmatcher).

/// A compiled pattern; matching takes time proportional to pattern × path, whatever the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: any sign but `/`.
    One,
    /// `*`: any run without `/`.
    Run,
    /// `**` at the end: any run at all.
    Anything,
    /// `**/` in the middle, which may match nothing: leads into the next token or over it.
    Enter,
    /// What `**/` eats: any run that ends in `/`.
    Inside,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Go's `filepath.Match`: a second `*` adds nothing.
    pub(crate) fn plain(pattern: &str) -> Result<Self, String> {
        compile(pattern, false)
    }

    /// The form of .dockerignore.
    pub(crate) fn with_double_star(pattern: &str) -> Result<Self, String> {
        compile(pattern, true)
    }

    /// Whether the whole path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        // The positions in the pattern that the text so far can have led to.
        let mut states = vec![false; self.0.len() + 1];
        states[0] = true;
        self.pass_empty(&mut states);
        for c in path.chars() {
            states = self.step(&states, c);
        }
        states[self.0.len()]
    }

    fn step(&self, states: &[bool], c: char) -> Vec<bool> {
        let mut next = vec![false; states.len()];
        for (i, token) in self.0.iter().enumerate().filter(|(i, _)| states[*i]) {
            match token {
                Token::Run if c != '/' => next[i] = true,
                Token::Anything => next[i] = true,
                Token::Inside => {
                    next[i] = true;
                    next[i + 1] |= c == '/';
                }
                Token::One if c != '/' => next[i + 1] = true,
                Token::Literal(expected) if *expected == c => next[i + 1] = true,
                Token::Class { negated, ranges } if c != '/' => {
                    let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                    next[i + 1] |= inside != *negated;
                }
                _ => {}
            }
        }
        self.pass_empty(&mut next);
        next
    }

    /// Follows the tokens that may match nothing; all lead forwards, so once is enough.
    fn pass_empty(&self, states: &mut [bool]) {
        for (i, token) in self.0.iter().enumerate() {
            match token {
                _ if !states[i] => {}
                Token::Run | Token::Anything => states[i + 1] = true,
                Token::Enter => {
                    states[i + 1] = true;
                    states[i + 2] = true;
                }
                _ => {}
            }
        }
    }
}

fn compile(pattern: &str, double_star: bool) -> Result<Glob, String> {
    // patternmatcher compares `**text` as a suffix, whatever comes before.
    if let Some(text) = pattern
        .strip_prefix("**")
        .filter(|text| double_star && is_suffix(text))
    {
        let literals = text.chars().map(Token::Literal);
        return Ok(Glob(std::iter::once(Token::Anything).chain(literals).collect()));
    }
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '*' if chars.peek() == Some(&'*') && double_star => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() {
                    Token::Anything
                } else {
                    tokens.push(Token::Enter);
                    Token::Inside
                }
            }
            '*' => Token::Run,
            '?' => Token::One,
            '[' => class(&mut chars, pattern)?,
            '\\' => Token::Literal(chars.next().ok_or_else(|| bad(pattern))?),
            other => Token::Literal(other),
        };
        tokens.push(token);
    }
    Ok(Glob(tokens))
}

fn is_suffix(text: &str) -> bool {
    !text.starts_with('/') && !text.is_empty() && !text.contains(['*', '?', '[', '\\'])
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, pattern: &str) -> Result<Token, String> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next().ok_or_else(|| bad(pattern))? {
            ']' if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
            ']' | '-' => return Err(bad(pattern)),
            '\\' => chars.next().ok_or_else(|| bad(pattern))?,
            c => c,
        };
        let mut high = low;
        if chars.next_if_eq(&'-').is_some() {
            high = match chars.next().ok_or_else(|| bad(pattern))? {
                ']' | '-' => return Err(bad(pattern)),
                '\\' => chars.next().ok_or_else(|| bad(pattern))?,
                c => c,
            };
        }
        ranges.push((low, high));
    }
}

fn bad(pattern: &str) -> String {
    format!("syntax error in pattern {pattern:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Glob::with_double_star(pattern).unwrap().matches(path)
    }

    /// The table of github.com/moby/patternmatcher's tests, as far as a single pattern goes.
    #[test]
    fn patterns_match_as_mobys_tests_say() {
        let cases = [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "file", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "dir/a-file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("a\\*b", "a*b", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("dist/*.whl", "dist/proxy.py-2.4.0rc3-py3-none-any.whl", true),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        for bad in ["[", "[^", "[^bc", "[]a]", "[-]", "a[", "\\"] {
            assert!(Glob::plain(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn plain_patterns_agree_with_globset(pattern in "[ab*?/]{0,7}", path in "[ab]{1,3}(/[ab]{1,3}){0,2}") {
            let ours = Glob::plain(&pattern).unwrap().matches(&path);
            // globset knows `**`; written with one star it means the same as Go's.
            let mut single = pattern.clone();
            while single.contains("**") { single = single.replace("**", "*"); }
            let theirs = globset::GlobBuilder::new(&single).literal_separator(true).build().unwrap();
            prop_assert_eq!(ours, theirs.compile_matcher().is_match(&path));
        }

        #[test]
        fn nothing_panics(pattern in "[ -~]{0,20}", path in "[ -~]{0,20}") {
            let _ = Glob::with_double_star(&pattern).map(|glob| glob.matches(&path));
        }
    }
}

//! Words of an instruction: quotes, escapes and variables (Dockerfile reference, "Environment replacement").

/// Looks a variable up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces variables and takes quotes away; the result is one word.
pub(crate) fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    let mut words = Expander::new(word, escape, lookup).run()?;
    let all: Vec<String> = words
        .iter_mut()
        .map(|word| std::mem::take(&mut word.text))
        .collect();
    Ok(all.concat())
}

/// The same, split at blanks outside quotes (also those that a variable brings in).
pub(crate) fn expand_many(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
    let words = Expander::new(text, escape, lookup).run()?;
    let kept = words.into_iter().filter(|word| !word.blank);
    Ok(kept.map(|word| word.text).collect())
}

/// Splits at blanks outside quotes and leaves everything as it is.
pub(crate) fn split_quoted(text: &str, escape: char) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(c);
        match quote {
            Some('\'') if c != '\'' => {}
            _ if c == escape => word.extend(chars.next()),
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
    }
    if quote.is_some() {
        return Err(format!(
            "unexpected end of statement while looking for matching quote: {text}"
        ));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// A run of text, or the blanks between two.
struct Piece {
    text: String,
    blank: bool,
}

struct Expander<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: Lookup<'a>,
    done: Vec<Piece>,
    word: Option<String>,
}

impl<'a> Expander<'a> {
    fn new(text: &str, escape: char, lookup: Lookup<'a>) -> Self {
        Self {
            chars: text.chars().collect(),
            at: 0,
            escape,
            lookup,
            done: Vec::new(),
            word: None,
        }
    }

    fn run(mut self) -> Result<Vec<Piece>, String> {
        while let Some(c) = self.next() {
            match c {
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '$' => {
                    let value = self.variable()?;
                    self.push_split(&value);
                }
                c if c == self.escape => {
                    let next = self.next();
                    self.word().extend(next);
                }
                c if c.is_whitespace() => self.end_word(c),
                c => self.word().push(c),
            }
        }
        self.finish_word();
        Ok(self.done)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn word(&mut self) -> &mut String {
        self.word.get_or_insert_default()
    }

    fn finish_word(&mut self) {
        self.done
            .extend(self.word.take().map(|text| Piece { text, blank: false }));
    }

    fn end_word(&mut self, blank: char) {
        self.finish_word();
        self.done.push(Piece {
            text: blank.into(),
            blank: true,
        });
    }

    fn push_split(&mut self, value: &str) {
        for c in value.chars() {
            if c.is_whitespace() {
                self.end_word(c)
            } else {
                self.word().push(c)
            }
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        self.word();
        loop {
            match self
                .next()
                .ok_or("unexpected end of statement while looking for matching single-quote")?
            {
                '\'' => return Ok(()),
                c => self.word().push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.word();
        loop {
            match self
                .next()
                .ok_or("unexpected end of statement while looking for matching double-quote")?
            {
                '"' => return Ok(()),
                '$' => {
                    let value = self.variable()?;
                    self.word().push_str(&value);
                }
                c if c == self.escape => {
                    let next = self.next();
                    // Inside double quotes the escape is only for these; elsewhere it stays.
                    let special = next.is_some_and(|n| n == '"' || n == '$' || n == self.escape);
                    if !special {
                        self.word().push(c);
                    }
                    self.word().extend(next);
                }
                c => self.word().push(c),
            }
        }
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.peek() == Some('{') {
            self.at += 1;
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".into());
        }
        Ok((self.lookup)(&name).unwrap_or_default())
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while let Some(c) = self.peek() {
            let first = self.at == start;
            // A digit first is a positional parameter of one digit.
            if first && c.is_ascii_digit() {
                self.at += 1;
                break;
            }
            if !(c.is_ascii_alphanumeric() || c == '_') {
                break;
            }
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    /// `${name}`, `${name:-word}`, `${name-word}`, the same with `+` and `?`.
    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: a variable name must follow ${".into());
        }
        let colon = self.peek() == Some(':');
        self.at += usize::from(colon);
        let value = (self.lookup)(&name).filter(|value| !colon || !value.is_empty());
        match self.next() {
            Some('}') if !colon => Ok(value.unwrap_or_default()),
            Some('-') => {
                let word = self.operand()?;
                Ok(value.unwrap_or(word))
            }
            Some('+') => {
                let word = self.operand()?;
                Ok(value.map(|_| word).unwrap_or_default())
            }
            Some('?') => {
                let word = self.operand()?;
                value.ok_or_else(|| format!("{name}: {}", if word.is_empty() { "not set" } else { &word }))
            }
            Some(other) => Err(format!(
                "unsupported modifier ({other}) in substitution of {name}"
            )),
            None => Err(format!("unexpected end of statement in ${{{name}")),
        }
    }

    /// The word after a modifier, up to its closing brace, expanded itself.
    fn operand(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut depth = 1;
        while let Some(c) = self.next() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                c if c == self.escape => drop(self.next()),
                _ => {}
            }
            if depth == 0 {
                let inner: String = self.chars[start..self.at - 1].iter().collect();
                return expand(&inner, self.escape, self.lookup);
            }
        }
        Err("unexpected end of statement: a brace is not closed".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vars(name: &str) -> Option<String> {
        match name {
            "x" => Some("1".into()),
            "empty" => Some(String::new()),
            "two" => Some("a b".into()),
            _ => None,
        }
    }

    fn one(text: &str) -> Result<String, String> {
        expand(text, '\\', &vars)
    }

    #[test]
    fn variables_are_replaced_as_in_the_reference() {
        let cases = [
            ("$x", "1"),
            ("${x}y", "1y"),
            ("$xy", ""),
            ("${no:-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${x:+set}", "set"),
            ("${no:+set}", ""),
            ("${no:-${x}2}", "12"),
            ("\\$x", "$x"),
            ("'$x'", "$x"),
            ("\"$x \\\" \\n\"", "1 \" \\n"),
            ("a\"b c\"'d e'", "ab cd e"),
            ("$", "$"),
            ("$ {x}", "$ {x}"),
            ("$two", "a b"),
        ];
        for (text, expected) in cases {
            assert_eq!(one(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "${",
            "${x",
            "${x:",
            "${x:^y}",
            "'open",
            "\"open",
            "${no:?gone}",
            "${}",
        ] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blanks_split_unless_quoted() {
        let many = |text| expand_many(text, '\\', &vars).unwrap();
        assert_eq!(many("a $two \"$two\" 'x y'"), ["a", "a", "b", "a b", "x y"]);
        assert_eq!(
            split_quoted("a=\"1 2\" b='x'  c=\\ d", '\\').unwrap(),
            ["a=\"1 2\"", "b='x'", "c=\\ d"]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,60}") {
            let _ = expand(&text, '\\', &vars);
            let _ = expand_many(&text, '`', &vars);
            let _ = split_quoted(&text, '\\');
        }

        #[test]
        fn text_without_special_signs_is_itself(text in "[a-zA-Z0-9/._:=-]{0,40}") {
            prop_assert_eq!(one(&text), Ok(text));
        }
    }
}

//! Command lines as one writes them: `service create --name web bb sh -c 'echo x'`.

use anyhow::{Result, ensure};

/// The words of a command line.
pub trait Words {
    /// One by one.
    ///
    /// # Errors
    /// A quote that does not end.
    fn words(&self) -> Result<Vec<String>>;
}

/// A line, split as a shell splits it: at blanks, but not inside of `'` or `"`. There are no other signs with a meaning.
impl Words for str {
    fn words(&self) -> Result<Vec<String>> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for letter in self.chars() {
            match quote {
                Some(end) if letter == end => quote = None,
                None if letter == '\'' || letter == '"' => {
                    quote = Some(letter);
                    word.get_or_insert_default();
                }
                None if letter.is_whitespace() => words.extend(word.take()),
                _ => word.get_or_insert_default().push(letter),
            }
        }
        ensure!(quote.is_none(), "a quote does not end: {self}");
        words.extend(word);
        Ok(words)
    }
}

impl Words for String {
    fn words(&self) -> Result<Vec<String>> {
        self.as_str().words()
    }
}

/// Words that are split already.
impl<T: AsRef<str>> Words for [T] {
    fn words(&self) -> Result<Vec<String>> {
        Ok(self.iter().map(|word| word.as_ref().to_owned()).collect())
    }
}

impl<T: AsRef<str>, const N: usize> Words for [T; N] {
    fn words(&self) -> Result<Vec<String>> {
        self.as_slice().words()
    }
}

impl<T: AsRef<str>> Words for Vec<T> {
    fn words(&self) -> Result<Vec<String>> {
        self.as_slice().words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_at_blanks_outside_of_quotes() {
        let split = |line: &str| line.words().unwrap();
        assert_eq!(split("a  b\n c"), ["a", "b", "c"]);
        assert_eq!(split("sh -c 'echo \"x y\"'"), ["sh", "-c", "echo \"x y\""]);
        assert_eq!(split("--env A='' \"\" b"), ["--env", "A=", "", "b"]);
        assert!("a 'b".words().is_err());
        assert_eq!(["a b", "c"].words().unwrap(), ["a b", "c"]);
    }
}

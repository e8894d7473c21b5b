//! The keys that let a client go: Docker's `detachKeys`, by default Ctrl-P Ctrl-Q. They hold where there is a terminal.

use crate::api::error::{ApiError, ApiResult};

const DEFAULT: [u8; 2] = [0x10, 0x11];

/// A sequence of keys, and how much of it was pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct DetachKeys {
    keys: Vec<u8>,
    pressed: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`: letters, and `ctrl-` with one of `a`–`z`, `@`, `[`, `\`, `]`, `^`, `_`. Empty: the default.
    ///
    /// # Errors
    /// 400 for a key that there is not.
    pub(in crate::api) fn parse(text: &str) -> ApiResult<Self> {
        let keys = match text {
            "" => DEFAULT.to_vec(),
            text => text.split(',').map(key).collect::<Option<_>>().ok_or_else(|| {
                ApiError::bad_request(format!(
                    "Invalid detach keys ({text}) provided: use letters and ctrl-<letter>, separated by commas"
                ))
            })?,
        };
        Ok(Self { keys, pressed: 0 })
    }

    /// What of the client's input is the process's, and whether the keys have been pressed. A beginning of the
    /// sequence is held back until it is known to be none.
    pub(in crate::api) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.pressed) == Some(&byte) {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.pressed]);
            self.pressed = usize::from(self.keys.first() == Some(&byte));
            if self.pressed == 0 {
                passed.push(byte);
            } else if self.keys.len() == 1 {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

fn key(word: &str) -> Option<u8> {
    let one = |text: &str| match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    };
    match word.strip_prefix("ctrl-") {
        None => one(word),
        Some(name) => match one(name)? {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            other @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_') => Some(other - b'@'),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        assert_eq!(DetachKeys::parse("").unwrap().keys, [16, 17]);
        assert_eq!(DetachKeys::parse("ctrl-a,x,ctrl-\\").unwrap().keys, [1, b'x', 28]);
        for bad in ["ctrl-", "ctrl-A", "ab", "a,,b"] {
            assert!(DetachKeys::parse(bad).unwrap_err().message.contains(bad), "{bad}");
        }
    }

    #[test]
    fn the_sequence_is_found_wherever_it_is_cut() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ls\n\x10"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"a\x10b"), (b"a\x10b".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        assert_eq!(
            DetachKeys::parse("x").unwrap().filter(b"ax"),
            (b"a".to_vec(), true)
        );
    }
}

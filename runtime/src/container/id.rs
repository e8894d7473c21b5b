//! Names: the container id, and signals as users write them.

use std::fmt;
use std::str::FromStr;

use super::Error;

/// Longest id accepted (runc's limit).
const MAX_LENGTH: usize = 1024;

/// A container id: letters, digits, `_`, `+`, `-` and `.`, never `.` or `..`, so that it is a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let well_formed = !text.is_empty()
            && text.len() <= MAX_LENGTH
            && text != "."
            && text != ".."
            && text.bytes().all(allowed);
        if !well_formed {
            return Err(Error::InvalidId(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signal number, parsed as `kill(1)` does: `9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(i32);

/// First and last real-time signal that the C library leaves to programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

impl Signal {
    /// `SIGKILL`.
    pub const KILL: Self = Self(9);
    /// `SIGTERM`.
    pub const TERM: Self = Self(15);

    /// The number of the signal, or `None` outside 1 to 64.
    pub fn from_raw(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number on this architecture.
    pub fn as_raw(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::InvalidSignal(text.to_owned());
        if let Ok(number) = text.parse() {
            return Self::from_raw(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        real_time(name)
            .or_else(|| {
                nix::sys::signal::Signal::from_str(&format!("SIG{name}"))
                    .ok()
                    .map(|signal| Self(signal as i32))
            })
            .ok_or_else(unknown)
    }
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<Signal> {
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        REAL_TIME.start() + offset_of(offset, '+')?
    } else {
        let offset = name.strip_prefix("RTMAX")?;
        REAL_TIME.end() - offset_of(offset, '-')?
    };
    REAL_TIME.contains(&number).then_some(Signal(number))
}

fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?
        .parse()
        .ok()
        .filter(|n| (0..=30).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_file_name() {
        for good in ["a", "web.1", "0f-_+"] {
            assert!(ContainerId::from_str(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(ContainerId::from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_parse_by_number_and_name() {
        for (text, number) in [
            ("9", 9),
            ("kill", 9),
            ("SIGTERM", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(Signal::from_str(text).unwrap().as_raw(), number, "{text}");
        }
        for bad in ["0", "65", "-1", "SIGNOSUCH", "RTMIN+99", ""] {
            assert!(Signal::from_str(bad).is_err(), "{bad}");
        }
    }
}

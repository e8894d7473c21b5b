//! Signals as users write them: `9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`.

use super::error::{EngineError, Result};

/// First real-time signal of the Linux C libraries (34; 32 and 33 are theirs, signal(7)).
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;

/// Names by number, signal(7), x86 and ARM numbering.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal; empty stands for `default`.
///
/// # Errors
/// [`EngineError::Invalid`] naming the text.
pub fn parse_or(text: &str, default: i32) -> Result<i32> {
    if text.is_empty() {
        return Ok(default);
    }
    parse(text).ok_or_else(|| EngineError::Invalid(format!("invalid signal: {text}")))
}

fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(position) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(position + 1).ok();
    }
    match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        "UNUSED" => Some(31),
        _ => real_time(name),
    }
}

fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        SIGRTMIN + offset(rest, '+')?
    } else {
        SIGRTMAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

fn offset(rest: &str, sign: char) -> Option<i32> {
    match rest.strip_prefix(sign) {
        None if rest.is_empty() => Some(0),
        None => None,
        Some(digits) => digits.parse::<u8>().ok().map(i32::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_signal() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigkill", 9),
            ("SIGTERM", 15),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SYS", 31),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["0", "65", "-1", "NOPE", "RTMIN+40", "RTMIN-1", "SIG"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse_or("", SIGTERM).unwrap(), 15);
    }
}

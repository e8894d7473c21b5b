//! Go's durations (`1m30s`, `500ms`) in nanoseconds.

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses a duration that is 0 or positive.
pub(super) fn parse(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |n| end + n);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == &rest[end..unit_end])?;
        sum += number * factor;
        rest = &rest[unit_end..];
    }
    // Below 2^63 with room: a longer wait than 200 years is a mistake.
    (!text.is_empty() && sum < 6.3e18).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse("1m30s"), Some(90_000_000_000));
        assert_eq!(parse("1.5s"), Some(1_500_000_000));
        assert_eq!(parse("500ms"), Some(500_000_000));
        for bad in ["", "5", "s", "1x", "-1s", "1s ", "99999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

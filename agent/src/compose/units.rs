//! Durations and sizes as people write them.

/// Nanoseconds of `1h30m`, `1.5s`, `500ms`, `10us`.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration such as 1m30s or 500ms");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text.trim();
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|other: char| !other.is_ascii_digit() && other != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|other: char| other.is_ascii_digit() || other == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total > 9.2e18 {
        return Err(format!("{text:?} is too long a duration"));
    }
    // In range by the check above; a fraction of a nanosecond means nothing.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked against the largest value above"
    )]
    Ok(total.round() as i64)
}

/// Bytes of `64m`, `1.5g`, `1024`, `10kb`, in powers of 1024 as Docker counts.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a size such as 512k, 64m or 1g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|other: char| !other.is_ascii_digit() && other != '.')
        .unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| wrong())?;
    let unit = match lower[digits..].trim() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let total = number * unit;
    if total > 9.2e18 {
        return Err(format!("{text:?} is too large a size"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked against the largest value above"
    )]
    Ok(total as i64)
}

/// Billionths of a processor of `0.5`, `2`.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let number: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is not a number of processors such as 0.5"))?;
    if !(0.0..=1e6).contains(&number) {
        return Err(format!(
            "{text:?} is not a number of processors that a machine could have"
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range by the check above")]
    Ok((number * 1e9).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(duration("500ms"), Ok(500_000_000));
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert_eq!(bytes("1.5gb"), Ok(3 << 29));
        assert_eq!(bytes("77"), Ok(77));
        assert_eq!(nano_cpus("0.25"), Ok(250_000_000));
        for text in ["", "5", "s", "1x", "1m2", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "m", "1q", "-5", "9999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(nano_cpus("many").is_err() && nano_cpus("-1").is_err());
    }
}

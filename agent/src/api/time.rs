//! Moments as the API's clients write them: Unix seconds with fraction, RFC 3339, or a duration before now (`10m`, `1h30m`).

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::error::{ApiError, ApiResult};

/// Parses `since`, `until` and the like.
pub fn moment(text: &str) -> ApiResult<OffsetDateTime> {
    let wrong = || {
        ApiError::bad_request(format!(
            "invalid time {text:?}: want Unix seconds, RFC 3339 or a duration"
        ))
    };
    if let Some(stamp) = unix(text) {
        return Ok(stamp);
    }
    if let Ok(stamp) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(stamp);
    }
    let ago = duration(text).ok_or_else(wrong)?;
    OffsetDateTime::now_utc().checked_sub(ago).ok_or_else(wrong)
}

fn unix(text: &str) -> Option<OffsetDateTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i128 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(seconds * 1_000_000_000 + nanos).ok()
}

/// Go's durations: `1h30m`, `1.5s`, `100ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::checked_seconds_f64(number * unit)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms() {
        assert_eq!(moment("60").unwrap().unix_timestamp(), 60);
        assert_eq!(moment("60.5").unwrap().unix_timestamp_nanos(), 60_500_000_000);
        assert_eq!(moment("1970-01-01T00:01:00Z").unwrap().unix_timestamp(), 60);
        assert!(moment("1h").unwrap() < OffsetDateTime::now_utc());
        assert!(moment("yesterday").is_err() && moment("").is_err());
    }

    #[test]
    fn go_durations() {
        assert_eq!(duration("1h30m").unwrap(), Duration::minutes(90));
        assert_eq!(duration("1.5s").unwrap(), Duration::milliseconds(1500));
        assert_eq!(duration("100ms").unwrap(), Duration::milliseconds(100));
        assert!(duration("5").is_none() && duration("5x").is_none());
    }
}

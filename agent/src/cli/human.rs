//! Times, sizes and identifiers as people read them, in Docker's words.

use proto::Timestamp;
use serde_json::Value;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// How long something takes or took: `About a minute`, `3 hours`.
pub(crate) fn duration(seconds: i64) -> String {
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        _ => long_duration(seconds),
    }
}

fn long_duration(seconds: i64) -> String {
    // Rounded to hours, as Docker does: 1 h 45 min is two hours.
    let hours = (seconds + HOUR / 2) / HOUR;
    match hours {
        0..=1 => "About an hour".to_owned(),
        2..48 => format!("{hours} hours"),
        48..336 => format!("{} days", hours / 24),
        336..1440 => format!("{} weeks", hours / 24 / 7),
        1440..17520 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago a moment was: `2 minutes ago`; `N/A` for what has not happened.
pub(crate) fn ago(moment: Timestamp) -> String {
    if moment.is_zero() {
        return "N/A".to_owned();
    }
    format!("{} ago", duration(seconds_since(moment)))
}

/// As [`ago`], of RFC 3339 text.
pub(crate) fn ago_of(text: &Value) -> String {
    text.as_str()
        .and_then(|text| text.parse().ok())
        .map_or_else(|| "N/A".to_owned(), ago)
}

/// As [`ago`], of seconds since 1970.
pub(crate) fn ago_of_unix(seconds: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds)
        .map(Timestamp)
        .unwrap_or_default();
    ago(moment)
}

/// A moment as Go prints it: `2026-01-02 15:04:05.25 +0000 UTC`.
pub(crate) fn moment(moment: Timestamp) -> String {
    let moment = moment.0.to_offset(time::UtcOffset::UTC);
    let fraction = format!(".{:09}", moment.nanosecond());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let (hour, minute, second) = moment.to_hms();
    format!(
        "{} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC",
        moment.date()
    )
}

/// As [`moment`], of seconds since 1970.
pub(crate) fn moment_of_unix(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map(|time| moment(Timestamp(time)))
        .unwrap_or_default()
}

/// As [`moment`], of RFC 3339 text.
pub(crate) fn moment_of(text: &Value) -> String {
    let read = text.as_str().and_then(|text| text.parse().ok());
    read.map(moment).unwrap_or_default()
}

/// Order of names in which numbers count as such, as Docker sorts volumes: `v2` before `v10`, and `v1` before `v01`.
pub(crate) fn natural(one: &str, other: &str) -> std::cmp::Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let (&[first, ref rest @ ..], &[second, ref others @ ..]) = (one, other) {
        if first.is_ascii_digit() && second.is_ascii_digit() {
            let ((zeros, digits, after), (more_zeros, others, others_after)) = (number(one), number(other));
            let by_value = digits.len().cmp(&others.len()).then(digits.cmp(others));
            let order = by_value.then(zeros.cmp(&more_zeros));
            if order.is_ne() {
                return order;
            }
            (one, other) = (after, others_after);
        } else if first != second {
            let digits_first = second.is_ascii_digit().cmp(&first.is_ascii_digit());
            return digits_first.then(first.cmp(&second));
        } else {
            (one, other) = (rest, others);
        }
    }
    one.len().cmp(&other.len())
}

/// How many zeros lead a number, its other digits, and what comes after it.
fn number(text: &[u8]) -> (usize, &[u8], &[u8]) {
    let zeros = text.iter().take_while(|&&byte| byte == b'0').count();
    let digits = text[zeros..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    (zeros, &text[zeros..zeros + digits], &text[zeros + digits..])
}

/// Seconds between a moment and now.
pub(crate) fn seconds_since(moment: Timestamp) -> i64 {
    (time::OffsetDateTime::now_utc() - moment.0).whole_seconds()
}

/// Sizes in powers of 1000 with three significant digits, as `docker image ls` has them: `1.45MB`.
pub(crate) fn size(bytes: i64) -> String {
    size_in(bytes, 3)
}

/// As [`size`] with four digits, as sums are shown (`system df`, `prune`).
pub(crate) fn sum(bytes: i64) -> String {
    size_in(bytes, 4)
}

fn size_in(bytes: i64, digits: usize) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), UNITS[unit])
}

/// Go's `%.3g` for values below 1000.
fn significant(value: f64, digits: usize) -> String {
    let before = if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{value:.*}", digits.saturating_sub(before));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The first twelve characters of an identifier, without the name of its hash.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// An image as lists show it: a name with a tag without the digest behind it.
pub(crate) fn image(name: &str) -> &str {
    match name.split_once('@') {
        Some((tagged, _)) if tagged.rsplit('/').next().is_some_and(|last| last.contains(':')) => tagged,
        _ => name,
    }
}

/// Text that is cut at a length, with an ellipsis for what is missing.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_images_are_shown_by_their_names() {
        for (full, shown) in [
            ("web:1@sha256:aa", "web:1"),
            ("host:5000/web:1@sha256:aa", "host:5000/web:1"),
            ("host:5000/web@sha256:aa", "host:5000/web@sha256:aa"),
            ("web", "web"),
        ] {
            assert_eq!(image(full), shown);
        }
    }

    const DAY: i64 = 24 * HOUR;

    #[test]
    fn moments_and_orders_as_go_has_them() {
        assert_eq!(moment_of_unix(0), "1970-01-01 00:00:00 +0000 UTC");
        let text = Value::from("2026-11-23T13:12:09.4350Z");
        assert_eq!(moment_of(&text), "2026-11-23 13:12:09.435 +0000 UTC");
        let mut names = ["v10", "v001", "V1", "v2", "v1.5", "v", "v1", "va", "v1a"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["V1", "v", "v1", "v1.5", "v1a", "v001", "v2", "v10", "va"]);
    }

    #[test]
    fn docker_s_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (3700, "About an hour"),
            (7 * HOUR, "7 hours"),
            (3 * DAY, "3 days"),
            (20 * DAY, "2 weeks"),
            (100 * DAY, "3 months"),
            (1000 * DAY, "2 years"),
        ] {
            assert_eq!(duration(seconds), words);
        }
        for (bytes, words) in [
            (0, "0B"),
            (999, "999B"),
            (1450, "1.45kB"),
            (1_450_096, "1.45MB"),
            (63_000_000, "63MB"),
        ] {
            assert_eq!(size(bytes), words);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
    }
}

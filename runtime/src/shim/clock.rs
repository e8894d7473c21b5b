//! Timestamps as Docker writes them: RFC 3339 in UTC with up to nine fractional digits (`time.RFC3339Nano` of Go).

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What Docker shows for a time that never came.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// Longest timestamp: `2026-11-23T08:00:00.123456789Z`.
const LENGTH: usize = 30;

/// A timestamp, rendered on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    text: [u8; LENGTH],
    len: usize,
}

impl Stamp {
    /// The present moment.
    pub(super) fn now() -> Self {
        Self::at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The moment `since` the epoch.
    fn at(since: Duration) -> Self {
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let mut stamp = Self {
            text: [0; LENGTH],
            len: 0,
        };
        let mut rest = &mut stamp.text[..];
        // Neither write can fail before the year 10000.
        let _ = write!(
            rest,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        );
        if since.subsec_nanos() != 0 {
            let _ = write!(rest, ".{:09}", since.subsec_nanos());
        }
        stamp.len = LENGTH - rest.len();
        if since.subsec_nanos() != 0 {
            while stamp.text[stamp.len - 1] == b'0' {
                stamp.len -= 1;
            }
        }
        stamp.text[stamp.len] = b'Z';
        stamp.len += 1;
        stamp
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or(NEVER)
    }
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> String {
        Stamp::at(Duration::new(seconds, nanos)).as_str().to_owned()
    }

    #[test]
    fn as_go_formats_them() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399, 0), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(at(1_795_420_800, 500_000_000), "2026-11-23T08:00:00.5Z");
        assert_eq!(at(1_795_420_800, 123_456_789), "2026-11-23T08:00:00.123456789Z");
        assert_eq!(at(4_107_542_399, 999_999_990), "2100-02-28T23:59:59.99999999Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00Z");
    }
}

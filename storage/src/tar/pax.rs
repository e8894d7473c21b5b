//! PAX extended header records: `"<length> <key>=<value>\n"` (POSIX.1-2017 pax, "pax Extended Header").

/// What the records of one extended header say about the next entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: super::Xattrs,
    /// `GNU.sparse.*` without the prefix.
    pub(super) sparse: Vec<(String, String)>,
}

/// Reads all records; anything malformed is an error, never skipped.
pub(super) fn parse(mut data: &[u8]) -> Result<Pax, String> {
    let mut pax = Pax::default();
    // Some writers pad the data with NULs.
    while data.first().is_some_and(|b| *b != 0) {
        let (key, value, rest) = record(data)?;
        apply(&mut pax, key, value)?;
        data = rest;
    }
    Ok(pax)
}

fn record(data: &[u8]) -> Result<(&str, &[u8], &[u8]), String> {
    let malformed = || "malformed PAX record".to_owned();
    let space = data
        .iter()
        .take(20)
        .position(|b| *b == b' ')
        .ok_or_else(malformed)?;
    let digits = &data[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let length: usize = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok())
        .ok_or_else(malformed)?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return Err(malformed());
    }
    let body = &data[space + 1..length - 1];
    let equals = body
        .iter()
        .position(|b| *b == b'=')
        .filter(|at| *at > 0)
        .ok_or_else(malformed)?;
    let key = std::str::from_utf8(&body[..equals]).map_err(|_| malformed())?;
    Ok((key, &body[equals + 1..], &data[length..]))
}

fn apply(pax: &mut Pax, key: &str, value: &[u8]) -> Result<(), String> {
    let bad = || format!("PAX record {key} has an invalid value");
    match key {
        "path" | "linkpath" => {
            if value.contains(&0) {
                return Err(bad());
            }
            // An empty value deletes the record: the header's own field counts.
            let value = (!value.is_empty()).then(|| value.to_vec());
            if key == "path" {
                pax.path = value
            } else {
                pax.link = value
            }
        }
        "size" => pax.size = Some(decimal(value).ok_or_else(bad)?),
        "uid" => pax.uid = Some(decimal(value).and_then(|n| n.try_into().ok()).ok_or_else(bad)?),
        "gid" => pax.gid = Some(decimal(value).and_then(|n| n.try_into().ok()).ok_or_else(bad)?),
        "mtime" if value.is_empty() => pax.mtime = None,
        "mtime" => pax.mtime = Some(time(value).ok_or_else(bad)?),
        _ => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                pax.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
            } else if let Some(name) = key.strip_prefix("GNU.sparse.") {
                let value = std::str::from_utf8(value).map_err(|_| bad())?;
                pax.sparse.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(())
}

pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut. Negative times round towards the past.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let pax = parse(b"12 path=a/b\n9 size=7\n26 mtime=1700000000.1234567\n25 SCHILY.xattr.user.x=1\n\n")
            .unwrap_err();
        assert_eq!(pax, "malformed PAX record");
        let pax = parse(b"12 path=a/b\n9 size=7\n28 mtime=1700000000.1234567\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.size, Some(7));
        assert_eq!(pax.mtime, Some((1_700_000_000, 123_456_700)));
        let pax = parse(b"25 SCHILY.xattr.user.x=1\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn damage_is_an_error() {
        for bad in [
            &b"x path=a\n"[..],
            b"99 path=a\n",
            b"9 path=a",
            b"5 =a\n",
            b"11 path=a\0b\n",
            b"9 size=x\n",
            b"0 \n",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn negative_times_round_down() {
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
    }
}

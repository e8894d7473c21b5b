//! `--chown=user[:group]`, by number or by the names that the image knows.

use storage::{RootError, RootFd};

use crate::error::StepError;

/// Longest account file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// User and group ID. A user alone names the group of the same name or number, as Docker has it.
pub(crate) fn parse(text: &str, root: &RootFd) -> Result<(u32, u32), StepError> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    if user.is_empty() || group.is_empty() || group.contains(':') {
        return Err(StepError::Invalid(format!(
            "invalid --chown {text:?}: must be user[:group]"
        )));
    }
    Ok((
        id(user, root, "/etc/passwd", "user")?,
        id(group, root, "/etc/group", "group")?,
    ))
}

fn id(name: &str, root: &RootFd, file: &str, what: &str) -> Result<u32, StepError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let accounts = match root.read_file(file, LIMIT) {
        Ok(bytes) => bytes,
        Err(RootError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let found = String::from_utf8_lossy(&accounts)
        .lines()
        .find_map(|line| number_of(line, name));
    found.ok_or_else(|| {
        StepError::Invalid(format!(
            "unable to find {what} {name}: no matching entries in {file} of the image; use a number"
        ))
    })
}

/// The third field of `name:x:number:…`.
fn number_of(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:\nweb:x:33:34::/:\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nweb:x:35:\n").unwrap();
        let root = RootFd::open_host(dir.path()).unwrap();
        assert_eq!(parse("web", &root).unwrap(), (33, 35));
        assert_eq!(parse("web:root", &root).unwrap(), (33, 0));
        assert_eq!(parse("7:8", &root).unwrap(), (7, 8));
        assert_eq!(parse("7", &root).unwrap(), (7, 7));
        assert!(
            parse("nobody", &root)
                .unwrap_err()
                .to_string()
                .contains("unable to find user nobody")
        );
        assert!(parse(":1", &root).is_err());
    }
}

//! What a container has changed: the writable layer read beside the layers below it (`docker diff`).

use std::path::{Path, PathBuf};

use crate::root_fd::{FileKind, RootError, RootFd};

/// How a path differs from the image (`docker diff`); `path` is absolute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub path: String,
    pub kind: ChangeKind,
}

/// Docker's numbers: modified 0, added 1, deleted 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// All changes, sorted by path. A directory in which something changed counts as modified, as Docker lists it.
pub(super) fn changes(upper: &RootFd, lower: &RootFd) -> Result<Vec<Change>, RootError> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/")];
    while let Some(dir) = pending.pop() {
        for entry in upper.read_dir(&dir)? {
            let path = dir.join(&entry.name);
            let kind = classify(upper, lower, &path)?;
            if entry.kind == FileKind::Directory {
                pending.push(path.clone());
            }
            found.push(Change {
                path: path.to_string_lossy().into_owned(),
                kind,
            });
        }
    }
    found.sort();
    Ok(found)
}

fn classify(upper: &RootFd, lower: &RootFd, path: &Path) -> Result<ChangeKind, RootError> {
    let now = upper.lstat(path)?;
    if now.kind == FileKind::CharDevice && now.rdev == 0 {
        return Ok(ChangeKind::Deleted);
    }
    match lower.lstat(path) {
        Ok(_) => Ok(ChangeKind::Modified),
        Err(RootError::NotFound { .. }) => Ok(ChangeKind::Added),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_and_modified_are_told_apart() {
        let (upper, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, file) in [(&lower, "etc/old"), (&upper, "etc/old"), (&upper, "etc/new")] {
            std::fs::create_dir_all(dir.path().join("etc")).unwrap();
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let open = |dir: &tempfile::TempDir| RootFd::open_host(dir.path()).unwrap();
        let found = changes(&open(&upper), &open(&lower)).unwrap();
        let shown: Vec<_> = found.iter().map(|c| (c.path.as_str(), c.kind)).collect();
        assert_eq!(
            shown,
            [
                ("/etc", ChangeKind::Modified),
                ("/etc/new", ChangeKind::Added),
                ("/etc/old", ChangeKind::Modified)
            ]
        );
    }
}

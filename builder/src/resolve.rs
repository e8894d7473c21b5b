//! Where a path of a file system leads, symlinks and all, without leaving its root.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use storage::{FileKind, RootError, RootFd, Stat};

use crate::error::StepError;

/// Symlinks that are followed (the kernel's own bound, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A path without symlinks in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Relative to the root; empty for the root itself.
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) stat: Option<Stat>,
    /// How many leading components exist.
    pub(crate) existing: usize,
}

/// Follows `path` from the root as far as it exists; the rest is taken as written.
pub(crate) fn resolve(root: &RootFd, path: &Path) -> Result<Resolved, StepError> {
    let mut todo: Vec<OsString> = parts(path).rev().map(OsStr::to_owned).collect();
    let mut done: Vec<OsString> = Vec::new();
    let mut existing = 0;
    let mut links = 0;
    let mut stat = Some(root.stat("/")?);
    while let Some(part) = todo.pop() {
        if part == ".." {
            done.pop();
            existing = existing.min(done.len());
            stat = look(root, &done)?;
            continue;
        }
        done.push(part);
        if existing + 1 < done.len() {
            stat = None;
            continue;
        }
        stat = look(root, &done)?;
        match stat {
            Some(found) if found.kind == FileKind::Symlink => {
                links += 1;
                let here = join(&done);
                if links > MAX_LINKS {
                    return Err(StepError::Invalid(format!(
                        "too many symbolic links in {}",
                        here.display()
                    )));
                }
                let target = root.read_link(&here)?;
                done.pop();
                if target.is_absolute() {
                    done.clear();
                }
                existing = done.len();
                todo.extend(parts(&target).rev().map(OsStr::to_owned));
                stat = look(root, &done)?;
            }
            Some(found) => {
                existing += 1;
                if found.kind != FileKind::Directory && !todo.is_empty() {
                    let here = join(&done);
                    return Err(StepError::Invalid(format!(
                        "/{} is not a directory",
                        here.display()
                    )));
                }
            }
            None => {}
        }
    }
    Ok(Resolved {
        path: join(&done),
        stat,
        existing,
    })
}

fn look(root: &RootFd, parts: &[OsString]) -> Result<Option<Stat>, RootError> {
    match root.lstat(Path::new("/").join(join(parts))) {
        Ok(stat) => Ok(Some(stat)),
        Err(RootError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn join(parts: &[OsString]) -> PathBuf {
    parts.iter().collect()
}

/// The components without `.` and slashes.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = &OsStr> {
    let bytes = path.as_os_str().as_bytes();
    bytes
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(OsStr::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_and_missing_ends_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        std::fs::write(dir.path().join("usr/bin/sh"), "").unwrap();
        symlink("usr/bin", dir.path().join("bin")).unwrap();
        symlink("/bin/sh", dir.path().join("shell")).unwrap();
        symlink("../../../usr", dir.path().join("up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = RootFd::open_host(dir.path()).unwrap();
        let shown = |path: &str| {
            let found = resolve(&root, Path::new(path)).unwrap();
            (
                found.path.display().to_string(),
                found.existing,
                found.stat.is_some(),
            )
        };
        assert_eq!(shown("/bin/sh"), ("usr/bin/sh".into(), 3, true));
        assert_eq!(shown("shell"), ("usr/bin/sh".into(), 3, true));
        assert_eq!(shown("/up/bin/"), ("usr/bin".into(), 2, true));
        assert_eq!(shown("/bin/new/deep"), ("usr/bin/new/deep".into(), 2, false));
        assert_eq!(shown("/"), (String::new(), 0, true));
        assert_eq!(shown("/../../bin"), ("usr/bin".into(), 2, true));
        assert!(resolve(&root, Path::new("/loop")).is_err());
        assert!(resolve(&root, Path::new("/bin/sh/x")).is_err());
    }
}

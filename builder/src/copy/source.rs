//! Where `COPY` and `ADD` take files from: the context without what is ignored, or another stage.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::{FileKind, RootFd, Stat};

use crate::error::StepError;
use crate::ignore::{Glob, Ignore};
use crate::resolve::resolve;

/// A tree to copy from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) root: Arc<RootFd>,
    pub(crate) ignore: Ignore,
}

/// A source argument, found: a file or a directory, with symlinks on the way resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Relative to the source's root.
    pub(crate) path: PathBuf,
    /// The last component as it was written: the name that a copied file gets.
    pub(crate) name: PathBuf,
    pub(crate) is_dir: bool,
}

/// A member of a selected tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Relative to the selected path; empty for itself.
    pub(crate) relative: PathBuf,
    pub(crate) stat: Stat,
}

impl Source {
    /// The matches of one argument, in order. An argument that climbs out is an error, one without a match too.
    pub(crate) fn select(&self, argument: &str) -> Result<Vec<Selected>, StepError> {
        let clean = clean(argument)?;
        let candidates = if argument.contains(['*', '?', '[']) {
            self.expand(&clean)?
        } else {
            vec![clean]
        };
        let mut found = Vec::new();
        for path in candidates {
            found.extend(self.look(&path)?);
        }
        if found.is_empty() {
            return Err(StepError::NotInContext(argument.to_owned()));
        }
        Ok(found)
    }

    /// The selected tree without what is ignored: parents first, names in order.
    pub(crate) fn tree(&self, selected: &Path) -> Result<Vec<Node>, StepError> {
        let mut nodes = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let path = selected.join(&relative);
            let stat = self.root.lstat(Path::new("/").join(&path))?;
            let is_dir = stat.kind == FileKind::Directory;
            let excluded = self.excludes(&path);
            if excluded && (!is_dir || self.ignore.is_final()) {
                continue;
            }
            if is_dir {
                let entries = self.root.read_dir(Path::new("/").join(&path))?;
                pending.extend(entries.into_iter().rev().map(|entry| relative.join(entry.name)));
            }
            if !matches!(stat.kind, FileKind::Socket | FileKind::Unknown) {
                nodes.push((Node { relative, stat }, excluded));
            }
        }
        Ok(drop_empty(nodes))
    }

    fn look(&self, path: &Path) -> Result<Option<Selected>, StepError> {
        let resolved = match resolve(&self.root, path) {
            // Through a file: it is not there.
            Err(StepError::Invalid(_)) => return Ok(None),
            other => other?,
        };
        let Some(stat) = resolved.stat else {
            return Ok(None);
        };
        let is_dir = stat.kind == FileKind::Directory;
        let shown = !self.excludes(path) && !self.excludes(&resolved.path);
        // An ignored directory still counts for what is taken back in it.
        if !shown && (!is_dir || self.tree(&resolved.path)?.is_empty()) {
            return Ok(None);
        }
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        Ok(Some(Selected {
            path: resolved.path,
            name,
            is_dir,
        }))
    }

    /// Go's glob: the signs of a pattern never match a slash, so it is expanded name by name.
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, StepError> {
        let mut found = vec![PathBuf::new()];
        for part in pattern.iter() {
            let text = part.to_string_lossy();
            let glob = Glob::plain(&text).map_err(StepError::Invalid)?;
            let mut next = Vec::new();
            for dir in found {
                let at = Path::new("/").join(&dir);
                if self
                    .root
                    .stat(&at)
                    .is_ok_and(|stat| stat.kind == FileKind::Directory)
                {
                    let entries = self.root.read_dir(&at)?;
                    let names = entries
                        .into_iter()
                        .filter(|entry| glob.matches(&entry.name.to_string_lossy()));
                    next.extend(names.map(|entry| dir.join(entry.name)));
                }
            }
            found = next;
        }
        Ok(found)
    }

    fn excludes(&self, path: &Path) -> bool {
        !path.as_os_str().is_empty()
            && self
                .ignore
                .excludes(&String::from_utf8_lossy(path.as_os_str().as_bytes()))
    }
}

/// Leaves out the ignored directories in which nothing is taken back.
fn drop_empty(nodes: Vec<(Node, bool)>) -> Vec<Node> {
    let mut needed: HashSet<PathBuf> = HashSet::new();
    let mut kept = Vec::with_capacity(nodes.len());
    // Children stand behind their parents.
    for (node, excluded) in nodes.into_iter().rev() {
        if excluded && !needed.contains(&node.relative) {
            continue;
        }
        needed.extend(node.relative.parent().map(Path::to_owned));
        kept.push(node);
    }
    kept.reverse();
    kept
}

/// The argument without `.`, `..` and a leading slash.
fn clean(argument: &str) -> Result<PathBuf, StepError> {
    let mut parts = Vec::new();
    for part in argument.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => {
                return Err(StepError::Invalid(format!(
                    "forbidden path outside the build context: {argument}"
                )));
            }
            ".." => {}
            other => parts.push(other),
        }
    }
    Ok(parts.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ignore: &str) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt", "other/e"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        std::os::unix::fs::symlink("sub", dir.path().join("link")).unwrap();
        let root = Arc::new(RootFd::open_host(dir.path()).unwrap());
        (
            dir,
            Source {
                root,
                ignore: Ignore::parse(ignore).unwrap(),
            },
        )
    }

    fn selected(source: &Source, argument: &str) -> Vec<String> {
        let found = source.select(argument).unwrap_or_default();
        found.iter().map(|one| one.path.display().to_string()).collect()
    }

    #[test]
    fn arguments_are_paths_or_patterns() {
        let (_dir, source) = source("");
        assert_eq!(selected(&source, "*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(selected(&source, "./sub/../a.txt"), ["a.txt"]);
        assert_eq!(selected(&source, "/su?/*"), ["sub/c.txt", "sub/deep"]);
        assert_eq!(selected(&source, "link"), ["sub"]);
        assert_eq!(selected(&source, "."), [""]);
        assert!(
            source
                .select("../x")
                .unwrap_err()
                .to_string()
                .contains("outside the build context")
        );
        assert!(
            source
                .select("nope")
                .unwrap_err()
                .to_string()
                .contains("stat nope: file does not exist")
        );
        assert!(source.select("*.none").is_err());
    }

    #[test]
    fn ignored_files_are_not_there() {
        let (_dir, source) = source("*\n!sub/deep\n!a.txt");
        assert_eq!(selected(&source, "*.txt"), ["a.txt"]);
        assert!(source.select("other").is_err());
        let tree = source.tree(Path::new("")).unwrap();
        let names: Vec<String> = tree
            .iter()
            .map(|node| node.relative.display().to_string())
            .collect();
        assert_eq!(names, ["", "a.txt", "sub", "sub/deep", "sub/deep/d.txt"]);
    }
}

//! The path of a tar entry as a place below a root: cleaned lexically, refused when it climbs out.

/// A relative path without `.`, `..` and empty components; the root itself is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InRoot(Vec<u8>);

impl InRoot {
    /// Cleans `path` as Go's `filepath.Clean` does; `None` if it leads above the root. A leading `/` means the root.
    pub(crate) fn parse(path: &[u8]) -> Option<Self> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()?),
                _ => parts.push(part),
            }
        }
        Some(Self(parts.join(&b'/')))
    }

    /// Stands for no place at all: the data of an entry that makes no file.
    pub(crate) fn nowhere() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Number of components.
    pub(crate) fn depth(&self) -> usize {
        if self.is_root() {
            0
        } else {
            self.0.split(|b| *b == b'/').count()
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The containing directory and the last component; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => Some((Self(self.0[..at].to_vec()), &self.0[at + 1..])),
            None => Some((Self(Vec::new()), &self.0)),
        }
    }
}

/// Whether a symlink at `at` with the relative target `link` leads above the root, as Docker checks it.
///
/// An absolute target counts from the container's root and cannot.
pub(crate) fn link_climbs_out(at: &InRoot, link: &[u8]) -> bool {
    if link.starts_with(b"/") {
        return false;
    }
    let dir = at.split().map(|(dir, _)| dir.0).unwrap_or_default();
    InRoot::parse(&[dir.as_slice(), b"/", link].concat()).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(path: &str) -> Option<String> {
        InRoot::parse(path.as_bytes()).map(|p| String::from_utf8(p.0).unwrap())
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        assert_eq!(clean("./a//b/../c/").as_deref(), Some("a/c"));
        assert_eq!(clean("/etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(clean("./").as_deref(), Some(""));
        for bad in ["..", "../x", "a/../../x", "/../x"] {
            assert_eq!(clean(bad), None, "{bad}");
        }
    }

    #[test]
    fn relative_links_may_not_lead_above_the_root() {
        let at = InRoot::parse(b"a/b/link").unwrap();
        assert!(!link_climbs_out(&at, b"../../x"));
        assert!(link_climbs_out(&at, b"../../../x"));
        assert!(!link_climbs_out(&at, b"/../../../x"));
    }
}

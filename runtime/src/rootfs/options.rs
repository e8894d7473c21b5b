//! Mount options as config.json writes them (runtime-spec, config.md, "Linux mount options"), sorted by the system
//! call that acts on each.

use sys::mount::{MountAttr, attr};

/// Options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `Some(recursive)` for a bind mount.
    pub(crate) bind: Option<bool>,
    /// Attributes of the mount itself.
    pub(crate) attr: MountAttr,
    /// Attributes of the mount and all below it (`rro` and its kin).
    pub(crate) recursive: MountAttr,
    /// Propagation type (`MS_SHARED` …) and whether it applies to the mounts below too.
    pub(crate) propagation: Option<(u64, bool)>,
    /// Options of the filesystem: a name, with a value or without.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Sorts `options`. Answers with the first one that is not implemented.
pub(crate) fn parse(options: &[String]) -> Result<Options, String> {
    let mut parsed = Options::default();
    for option in options {
        if !parsed.take_generic(option) {
            parsed.take_data(option)?;
        }
    }
    Ok(parsed)
}

/// What an option does to the attributes: bits to set, bits to clear.
type Change = (u64, u64);

impl Options {
    fn take_generic(&mut self, option: &str) -> bool {
        match option {
            "defaults" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            _ => {
                if let Some(propagation) = propagation(option) {
                    self.propagation = Some(propagation);
                } else if let Some(change) = attribute(option) {
                    apply(&mut self.attr, change);
                } else if let Some(change) = option.strip_prefix('r').and_then(attribute) {
                    apply(&mut self.recursive, change);
                } else {
                    return false;
                }
            }
        }
        true
    }

    fn take_data(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        // Extensions of other runtimes, and words of mount(8) that are not the kernel's.
        let foreign = [
            "tmpcopyup",
            "copy-symlink",
            "idmap",
            "ridmap",
            "src-nofollow",
            "dest-nofollow",
        ];
        if name.is_empty() || foreign.contains(&name) || ["remount", "move"].contains(&name) {
            return Err(option.to_owned());
        }
        self.data.push((name.to_owned(), value));
        Ok(())
    }
}

/// The later option wins.
fn apply(attr: &mut MountAttr, (set, clear): Change) {
    attr.set = (attr.set & !clear) | set;
    attr.clear = (attr.clear & !set) | clear;
}

/// `MS_*` bits of a propagation option, and whether it is recursive.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    let of = |word: &str| {
        Some(match word {
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "private" => libc::MS_PRIVATE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        })
    };
    of(option)
        .map(|kind| (kind, false))
        .or_else(|| option.strip_prefix('r').and_then(of).map(|kind| (kind, true)))
}

fn attribute(option: &str) -> Option<Change> {
    Some(match option {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        // The access time settings are one field, not bits: to change it is to clear all of it.
        "noatime" => (attr::NOATIME, attr::ATIME_MASK),
        "strictatime" => (attr::STRICTATIME, attr::ATIME_MASK),
        "relatime" | "atime" | "nostrictatime" | "norelatime" => (0, attr::ATIME_MASK),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_are_sorted_by_their_system_call() {
        let options = parsed(&[
            "rbind",
            "ro",
            "rslave",
            "nosuid",
            "rnodev",
            "size=64k",
            "newinstance",
        ]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attr.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(options.recursive.set, attr::NODEV);
        assert_eq!(options.propagation, Some((libc::MS_SLAVE, true)));
        assert_eq!(options.data[0], ("size".to_owned(), Some("64k".to_owned())));
        assert_eq!(options.data[1], ("newinstance".to_owned(), None));
    }

    #[test]
    fn recursive_read_only_and_relative_time_are_told_apart() {
        assert_eq!(parsed(&["rro"]).recursive.set, attr::RDONLY);
        assert_eq!(parsed(&["rw"]).attr.clear, attr::RDONLY);
        assert_eq!(parsed(&["rrw"]).recursive.clear, attr::RDONLY);
        assert_eq!(parsed(&["relatime"]).attr.clear, attr::ATIME_MASK);
    }

    #[test]
    fn the_later_option_wins() {
        let options = parsed(&["ro", "rw", "noatime", "strictatime"]);
        assert_eq!(options.attr.set, attr::STRICTATIME);
        assert_eq!(options.attr.clear & attr::RDONLY, attr::RDONLY);
    }

    #[test]
    fn foreign_extensions_are_refused() {
        assert_eq!(parse(&["tmpcopyup".to_owned()]).unwrap_err(), "tmpcopyup");
    }
}

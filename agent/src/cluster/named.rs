//! Addresses of this node that its user has named. They are kept on disk, for the time after a restart and for another role.

use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Beside what else makes this node a part of its cluster: where networks between nodes reach it …
const DATA_PATH: &str = "data-path-addr";
/// … and where all else of other nodes does.
const ADVERTISED: &str = "advertise-addr";

/// What the user has named when this node became part of its cluster.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The address at which networks between nodes reach it.
    pub data_path: Option<IpAddr>,
    /// The address under which the other nodes know it.
    pub advertised: Option<IpAddr>,
}

impl Named {
    /// What is kept in the directory.
    pub(super) fn load(state_dir: &Path) -> Self {
        Self {
            data_path: load(&state_dir.join(DATA_PATH)),
            advertised: load(&state_dir.join(ADVERTISED)),
        }
    }

    /// Keeps what was named and forgets the rest.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn save(self, state_dir: &Path) -> io::Result<()> {
        save(&state_dir.join(DATA_PATH), self.data_path)?;
        save(&state_dir.join(ADVERTISED), self.advertised)
    }

    /// What is named here, and of the rest what was named before.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            data_path: self.data_path.or(before.data_path),
            advertised: self.advertised.or(before.advertised),
        }
    }
}

fn load(path: &Path) -> Option<IpAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    let address = text.trim().parse().ok();
    if address.is_none() {
        tracing::warn!("{} holds no address: it is not used", path.display());
    }
    address
}

fn save(path: &Path, address: Option<IpAddr>) -> io::Result<()> {
    match address {
        Some(address) => {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            // A torn write is no address; it is written before the record that makes this node one of a cluster.
            std::fs::write(path, address.to_string())
        }
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_kept_until_it_is_named_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Named::load(dir.path()), Named::default());
        let address = "192.0.2.7".parse().unwrap();
        let named = Named {
            data_path: Some(address),
            ..Named::default()
        };
        named.save(dir.path()).unwrap();
        assert_eq!(Named::load(dir.path()), named);
        let other = Named {
            advertised: Some(address),
            ..Named::default()
        };
        let both = other.or(named);
        both.save(dir.path()).unwrap();
        assert_eq!(Named::load(dir.path()), both);
        other.save(dir.path()).unwrap();
        assert_eq!(Named::load(dir.path()), other);
        Named::default().save(dir.path()).unwrap();
        Named::default().save(dir.path()).unwrap();
        assert_eq!(Named::load(dir.path()), Named::default());
        std::fs::write(dir.path().join(DATA_PATH), "torn").unwrap();
        assert_eq!(Named::load(dir.path()), Named::default());
    }
}

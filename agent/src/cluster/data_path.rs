//! The address at which networks between nodes reach this one: that from which it speaks to the managers, or another that
//! its user has named. The word of the user is kept on disk, for the time after a restart.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netd::Netd;
use proto::object::DataPath;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::AddressError;
use crate::api::error::chain;

/// Beside what else makes this node a part of its cluster.
const FILE: &str = "data-path-addr";

/// What the user has named, as an address of this host; `None` if that was nothing.
///
/// # Errors
/// [`AddressError::DataPath`], [`AddressError::Interface`] or [`AddressError::Elsewhere`].
pub async fn resolve(netd: &Netd, asked: &str) -> Result<Option<IpAddr>, AddressError> {
    if asked.is_empty() {
        return Ok(None);
    }
    let malformed = || AddressError::DataPath(asked.to_owned());
    let text = match asked.contains([':', '[']) && asked.parse::<IpAddr>().is_err() {
        // A port has no place here.
        true => return Err(malformed()),
        false => super::resolve(netd, asked).await?,
    };
    let address: IpAddr = text.parse().map_err(|_| malformed())?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(malformed());
    }
    match netd.underlay_facts(address).await {
        Ok(Some(_)) => Ok(Some(address)),
        Ok(None) => Err(AddressError::Elsewhere(address)),
        Err(error) => Err(AddressError::Interface {
            name: asked.to_owned(),
            why: chain(&error),
        }),
    }
}

/// What the user has named when this node became part of its cluster.
pub(super) fn load(state_dir: &Path) -> Option<IpAddr> {
    let text = std::fs::read_to_string(path(state_dir)).ok()?;
    let address = text.trim().parse().ok();
    if address.is_none() {
        tracing::warn!("{} holds no address: it is not used", path(state_dir).display());
    }
    address
}

/// Keeps what the user has named; nothing, if it was nothing.
pub(super) fn save(state_dir: &Path, address: Option<IpAddr>) -> std::io::Result<()> {
    let path = path(state_dir);
    match address {
        Some(address) => {
            std::fs::create_dir_all(state_dir)?;
            // A torn write is no address; it is written before the record that makes this node one of a cluster.
            std::fs::write(path, address.to_string())
        }
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The data path of a node, always as it is now. `seen` is the address by which the managers know it.
pub(super) async fn follow(
    netd: std::sync::Arc<Netd>,
    named: Option<IpAddr>,
    seen: Option<IpAddr>,
) -> (watch::Receiver<DataPath>, AbortOnDropHandle<()>) {
    let changes = netd.host_changes();
    let (sender, receiver) = watch::channel(look(&netd, named, seen).await);
    let following = async move {
        let mut changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!("changes of the data path will not be noticed: {}", chain(&error));
                return;
            }
        };
        loop {
            changes.next().await;
            let now = look(&netd, named, seen).await;
            sender.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        }
    };
    (receiver, AbortOnDropHandle::new(tokio::spawn(following)))
}

async fn look(netd: &Netd, named: Option<IpAddr>, seen: Option<IpAddr>) -> DataPath {
    let facts = match named.or(seen) {
        Some(address) => netd.underlay_facts(address).await.unwrap_or_else(|error| {
            tracing::warn!("the link of the data path is not known: {}", chain(&error));
            None
        }),
        None => None,
    };
    DataPath {
        addr: named.map(|address| address.to_string()).unwrap_or_default(),
        mtu: facts.as_ref().map_or(0, |facts| facts.mtu),
        forwards: facts.is_some_and(|facts| facts.forwards),
        next_hop6: facts
            .and_then(|facts| facts.next_hop6)
            .map(|address| address.to_string())
            .unwrap_or_default(),
        // A kernel that cannot encrypt has none.
        public_key: netd.encryption_key().await.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_kept_until_it_is_named_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        let address = "192.0.2.7".parse().unwrap();
        save(dir.path(), Some(address)).unwrap();
        assert_eq!(load(dir.path()), Some(address));
        save(dir.path(), None).unwrap();
        save(dir.path(), None).unwrap();
        assert_eq!(load(dir.path()), None);
        std::fs::write(path(dir.path()), "torn").unwrap();
        assert_eq!(load(dir.path()), None);
    }
}

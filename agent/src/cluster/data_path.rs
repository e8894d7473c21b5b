//! The address at which networks between nodes reach this one: that from which it speaks to the managers, or another that
//! its user has named ([`super::named`]).

use std::net::IpAddr;

use netd::Netd;
use proto::object::DataPath;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::AddressError;
use crate::api::error::chain;

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

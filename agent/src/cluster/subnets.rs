//! What the cluster's networks must not overlap: the host's routes, and networks of this node alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use netd::Netd;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::api::error::chain;
use crate::worker::networks::is_swarm;

/// The subnets, sorted, always as they are now.
pub(super) async fn follow(netd: Arc<Netd>) -> (watch::Receiver<Vec<String>>, AbortOnDropHandle<()>) {
    // What changes while they are read is heard afterwards.
    let (changes, mut networks) = (netd.host_changes(), netd.network_changes());
    let (sender, receiver) = watch::channel(look(&netd).await.unwrap_or_default());
    let following = async move {
        let mut changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(
                    "changes of the host's routes will not be noticed: {}",
                    chain(&error)
                );
                return;
            }
        };
        loop {
            tokio::select! {
                () = changes.next() => {}
                changed = networks.changed() => if changed.is_err() { return },
            }
            if let Some(now) = look(&netd).await {
                sender.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
        }
    };
    (receiver, AbortOnDropHandle::new(tokio::spawn(following)))
}

/// The subnets as they are; `None` if that cannot be said.
pub(super) async fn look(netd: &Netd) -> Option<Vec<String>> {
    let routes = netd
        .claimed_subnets()
        .await
        .inspect_err(|error| tracing::warn!("the host's routes are not known: {}", chain(error)))
        .ok()?;
    let networks = netd
        .networks()
        .into_iter()
        .filter(|(config, _)| !is_swarm(config));
    let own = networks.flat_map(|(_, state)| {
        let v6 = state.ipv6.map(|v6| IpNet::from(v6.subnet));
        [state.subnet.into()].into_iter().chain(v6)
    });
    let distinct: BTreeSet<String> = routes.into_iter().chain(own).map(|s| s.to_string()).collect();
    Some(distinct.into_iter().collect())
}

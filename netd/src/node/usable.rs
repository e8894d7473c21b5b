//! New IPv6 addresses are in use a moment after they were given. Whoever is told of them shall reach them at once, so it is
//! waited for; not by the node itself, for whom everybody else waits.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::Node;
use crate::error::{Result, chain};
use crate::netlink::until_usable;
use crate::types::{Endpoint, Mac, NetworkState};
use crate::{names, netns};

/// IPv6 addresses of one namespace that have been given.
#[derive(Debug)]
pub(crate) struct Usable {
    namespace: PathBuf,
    addresses: Vec<Ipv6Addr>,
}

impl Usable {
    /// Returns when they are; after a while also if they are not.
    pub(crate) async fn wait(self) {
        if self.addresses.is_empty() {
            return;
        }
        let waited = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.wait_in() {
                tracing::debug!(error = chain(&error), "new IPv6 addresses are not waited for");
            }
        });
        let _ = waited.await; // it has said itself what went wrong
    }

    /// Fine if the namespace is gone.
    fn wait_in(&self) -> Result<()> {
        let Some(namespace) = netns::open(&self.namespace)? else {
            return Ok(());
        };
        let usable = netns::run(&self.namespace, &namespace, || until_usable(&self.addresses))?;
        if !usable {
            tracing::warn!(addresses = ?self.addresses, "the kernel does not get to new IPv6 addresses");
        }
        Ok(())
    }
}

impl Node {
    /// The IPv6 addresses of a network's bridge.
    pub(crate) fn usable_on(&self, state: &NetworkState) -> Usable {
        let own = state.ipv6.map(|v6| v6.gateway);
        let link_local = own.map(|_| Mac::from_ipv4(state.gateway).link_local());
        Usable {
            namespace: self.fabric.path.clone(),
            addresses: own.into_iter().chain(link_local).collect(),
        }
    }

    /// Those of a sandbox's interfaces.
    pub(crate) fn usable_in(&self, sandbox: &str, endpoints: &[Endpoint]) -> Usable {
        let own = endpoints.iter().filter_map(|e| Some(e.ipv6?.address));
        Usable {
            namespace: names::netns(&self.config.run_dir, sandbox),
            addresses: own.collect(),
        }
    }
}

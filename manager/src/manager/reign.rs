//! What only the leader does: begun when this manager leads, ended when it does not any more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use proto::Node;
use proto::object::{ManagerStatus, NodeDescription, Reachability};

use super::record::Record;
use super::roles;
use super::{ManagerConfig, ManagerError};
use crate::dispatcher::Dispatcher;
use crate::files::chain;
use crate::orchestration::Orchestration;
use crate::seat::Seat;
use crate::state::{Kind, Reader, Store, StoreError};

/// Until the next attempt to begin, after one that failed.
const RETRY: Duration = Duration::from_millis(200);

/// What a reign is made of.
#[derive(Debug, Clone)]
pub(super) struct Realm {
    pub(super) config: Arc<ManagerConfig>,
    pub(super) record: Record,
    pub(super) store: Store,
    pub(super) seat: Seat,
    pub(super) dispatcher: Dispatcher,
}

impl Realm {
    /// Reigns whenever this manager leads. Never returns.
    pub(super) async fn reign_when_leading(self) {
        let mut leadership = self.seat.consensus().leadership();
        loop {
            let led = leadership.wait_for(|seen| seen.term().is_some()).await;
            let Some(term) = led.ok().and_then(|seen| seen.term()) else {
                // Consensus has stopped.
                return std::future::pending().await;
            };
            let deposed = async {
                // Without a sender consensus has stopped, which is the end of a reign, too.
                let _ = leadership.wait_for(|seen| seen.term() != Some(term)).await;
            };
            tokio::select! {
                Err(error) = self.reign() => {
                    tracing::warn!(error = chain(&error), "this manager could not begin to lead");
                    tokio::time::sleep(RETRY).await;
                }
                () = deposed => {
                    tracing::info!(term, "this manager leads no more");
                }
            }
            self.seat.set_reign(false);
            self.dispatcher.end_sessions();
        }
    }

    async fn reign(&self) -> Result<Infallible, ManagerError> {
        if let Err(error) = self.seat.consensus().settle().await {
            // It is tried again with the next change of a manager; until then the others decide as they are.
            tracing::warn!(
                error = chain(&error),
                "an unfinished change of the managers stays so"
            );
        }
        self.introduce().await?;
        self.dispatcher.lead().await?;
        self.seat.set_reign(true);
        tracing::info!("this manager leads");
        let (loads, contacts) = (self.dispatcher.loads(), self.dispatcher.contacts());
        let orchestration =
            Orchestration::run_with(self.store.clone(), loads, contacts, std::future::pending());
        let roles = roles::keep(self.store.clone(), self.seat.clone(), self.dispatcher.clone());
        tokio::join!(orchestration, roles);
        // The store is gone.
        std::future::pending().await
    }

    /// This manager leads, and says so on its node. The node's description is brought up to date before the loops read it.
    async fn introduce(&self) -> Result<(), StoreError> {
        let own = &self.record;
        let status = ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: own.address.clone(),
        };
        let update = self.store.update(|tx| {
            let Some(node) = tx.get::<Node>(&own.node_id) else {
                return Err(StoreError::NotFound {
                    kind: Kind::Node,
                    id: own.node_id.to_string(),
                });
            };
            let mut now = Node::clone(&node);
            now.manager_status = Some(status);
            now.description = NodeDescription {
                tls_info: now.description.tls_info,
                volumes: now.description.volumes,
                ..self.config.description.clone()
            };
            if now != *node {
                tx.update(now)?;
            }
            // Whoever led before does not, whatever becomes of it.
            let leads = |node: &Node| node.manager_status.as_ref().is_some_and(|status| status.leader);
            for other in tx.all::<Node>() {
                if other.id != own.node_id && leads(&other) {
                    tx.modify(&other.id, |node: &mut Node| {
                        node.manager_status
                            .iter_mut()
                            .for_each(|status| status.leader = false);
                    })?;
                }
            }
            Ok(())
        });
        update.await
    }
}

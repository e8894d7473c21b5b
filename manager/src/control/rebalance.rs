//! Spreading services over the nodes again, when a user asks for it.

use proto::Cluster;

use super::{Control, ControlError, Result};
use crate::orchestrator::preview_rebalance;
use crate::state::{Kind, Reader};

pub use crate::orchestrator::{PlannedMove, RebalancePlan, Unmoved};

impl Control {
    /// What would move now, and which services stay uneven.
    pub fn rebalance_plan(&self) -> RebalancePlan {
        self.store.view(|tx| preview_rebalance(&tx))
    }

    /// Has every service looked at. The moves happen one after the other.
    ///
    /// # Errors
    /// [`ControlError::Unavailable`].
    pub async fn rebalance(&self) -> Result<()> {
        self.store
            .update(|tx| {
                let cluster = tx.all::<Cluster>().into_iter().next();
                let cluster = cluster.ok_or_else(|| ControlError::not_found(Kind::Cluster, "default"))?;
                Ok(tx.modify::<Cluster>(cluster.id.as_str(), |cluster| cluster.rebalances += 1)?)
            })
            .await
    }
}

//! The cluster's settings that concern this manager's own files.

use std::sync::Arc;

use proto::Cluster;

use crate::state::consensus::{Compaction, Consensus};
use crate::state::{Filter, Kind, Reader, Store};

/// Tells consensus when to write snapshots and how many to keep, now and whenever it changes, until the store is gone.
pub(super) async fn follow(store: Store, consensus: Arc<Consensus>) {
    let read = |cluster: Option<Arc<Cluster>>| cluster.as_deref().map(compaction).unwrap_or_default();
    let (cluster, mut events) = store.view_and_watch(Filter::kinds(&[Kind::Cluster]), |tx| {
        tx.all::<Cluster>().into_iter().next()
    });
    consensus.compact_as(read(cluster));
    while events.next().await.is_some() {
        let cluster = store.view(|tx| tx.all::<Cluster>().into_iter().next());
        consensus.compact_as(read(cluster));
    }
}

fn compaction(cluster: &Cluster) -> Compaction {
    let Some(raft) = &cluster.spec.raft else {
        return Compaction::default();
    };
    let mut compaction = Compaction {
        keep: raft.keep_old_snapshots.unwrap_or(0),
        ..Compaction::default()
    };
    if raft.snapshot_interval > 0 {
        compaction.interval = raft.snapshot_interval;
    }
    compaction
}

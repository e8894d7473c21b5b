//! This manager's place among the managers: whether it leads, and who does if not.

use std::sync::Arc;

use proto::NodeId;
use tokio::sync::watch;

use crate::state::consensus::{Consensus, Leadership, Member};

/// This manager's place among the managers. Cheap to clone: all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    own: Member,
    consensus: Arc<Consensus>,
    reigns: watch::Sender<bool>,
}

impl Seat {
    pub(crate) fn new(own: Member, consensus: Arc<Consensus>) -> Self {
        Self {
            own,
            consensus,
            reigns: watch::Sender::new(false),
        }
    }

    /// Who this manager is.
    pub(crate) fn own(&self) -> &Member {
        &self.own
    }

    pub(crate) fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// Whether this manager leads and everything that only a leader does is at work.
    pub(crate) fn reigns(&self) -> bool {
        *self.reigns.borrow()
    }

    /// Changes when [`Seat::reigns`] does.
    pub(crate) fn reign(&self) -> watch::Receiver<bool> {
        self.reigns.subscribe()
    }

    /// See [`Seat::reigns`].
    pub(crate) fn set_reign(&self, reigns: bool) {
        self.reigns.send_if_modified(|current| {
            let changed = *current != reigns;
            *current = reigns;
            changed
        });
    }

    /// The leader, as far as this manager knows; itself only when it is ready for others.
    pub(crate) fn leader(&self) -> Option<Member> {
        let leadership = self.consensus.leadership().borrow().clone();
        match leadership {
            Leadership::Follows(leader) => Some(leader),
            Leadership::Leads { .. } if self.reigns() => Some(self.own.clone()),
            Leadership::Leads { .. } | Leadership::Unknown => None,
        }
    }

    /// Waits until there is a leader.
    pub(crate) async fn await_leader(&self) -> Member {
        let (mut leadership, mut reign) = (self.consensus.leadership(), self.reign());
        loop {
            leadership.borrow_and_update();
            reign.borrow_and_update();
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.changed(&mut leadership, &mut reign).await;
        }
    }

    /// Waits until the leader is another than this one.
    pub(crate) async fn until_deposed(self, leader: Member) {
        let (mut leadership, mut reign) = (self.consensus.leadership(), self.reign());
        loop {
            leadership.borrow_and_update();
            reign.borrow_and_update();
            if self.leader().as_ref() != Some(&leader) {
                return;
            }
            self.changed(&mut leadership, &mut reign).await;
        }
    }

    /// Whether a node is one of the managers, as consensus has it.
    pub(crate) fn has_member(&self, node: &NodeId) -> bool {
        self.consensus
            .members()
            .iter()
            .any(|member| member.member.node == *node)
    }

    async fn changed(&self, leadership: &mut watch::Receiver<Leadership>, reign: &mut watch::Receiver<bool>) {
        let changed = tokio::select! {
            biased;
            changed = leadership.changed() => changed,
            changed = reign.changed() => changed,
        };
        // Consensus has stopped: nothing will change any more.
        if changed.is_err() {
            std::future::pending().await
        }
    }
}

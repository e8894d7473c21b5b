//! Members come and go, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, LogId};
use tokio::time::timeout;

use super::leadership::is_quorum;
use super::peers::Sent;
use super::{Consensus, Member};

/// How long a new member may take to receive all that it must know.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long a change of the membership may take to be agreed upon.
const AGREEMENT: Duration = Duration::from_secs(10);

/// The membership could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader can.
    #[error("this manager is not the leader of the cluster")]
    NotLeader,
    /// What is left could not decide anything.
    #[error("can't remove member from the raft: this would result in a loss of quorum")]
    Quorum,
    /// The new member is not reached or too slow. It is not a member.
    #[error("the manager at {address} did not receive the cluster's state within {} s", CATCH_UP.as_secs())]
    Late {
        /// Where it should be.
        address: String,
    },
    /// Too few members agreed in time. They still may.
    #[error("too few managers agreed to the change of their membership within {} s", AGREEMENT.as_secs())]
    NoAgreement,
    /// openraft said no.
    #[error("change the membership: {0}")]
    Refused(String),
}

/// One member, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Its number.
    pub id: u64,
    /// Who it is.
    pub member: Member,
    /// Whether it takes part in decisions.
    pub votes: bool,
    /// Whether it has answered lately.
    pub reachable: bool,
}

impl Consensus {
    /// The members. Which are reachable is known to the leader alone.
    pub fn members(&self) -> Vec<MemberState> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let told = self.reachable.borrow().clone();
        let heard = |id| {
            let last = self.peers.last_answer(id);
            told.contains(&id) || last.is_some_and(|at| at.elapsed() < self.timing.lost)
        };
        membership
            .nodes()
            .map(|(&id, member)| MemberState {
                id,
                member: member.clone(),
                votes: voters.contains(&id),
                reachable: id == metrics.id || heard(id),
            })
            .collect()
    }

    /// Makes somebody a member, once it has received everything.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add(&self, id: u64, member: Member) -> Result<(), MembershipError> {
        let _one_at_a_time = self.changing.lock().await;
        let address = member.address.clone();
        let learners = BTreeMap::from([(id, member)]);
        let added = self.change(ChangeMembers::AddNodes(learners)).await?;
        if !self.has_received(id, added).await {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await?;
            return Err(MembershipError::Late { address });
        }
        self.peers.answered(id, Sent::now());
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])))
            .await?;
        Ok(())
    }

    /// Takes a member out. It may be this one.
    ///
    /// # Errors
    /// [`MembershipError::Quorum`] if the others that are reachable could not decide anything alone.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let _one_at_a_time = self.changing.lock().await;
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Ok(());
        };
        if !member.votes {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await?;
            return Ok(());
        }
        if !can_spare(&members, id) {
            return Err(MembershipError::Quorum);
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
            .await?;
        Ok(())
    }

    /// Ends a change that an earlier leader has begun, and takes out whom it has not made a voter.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn settle(&self) -> Result<(), MembershipError> {
        let _one_at_a_time = self.changing.lock().await;
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let learners = membership.learner_ids().count();
        let [.., wanted] = membership.get_joint_config().as_slice() else {
            return Ok(());
        };
        if membership.get_joint_config().len() > 1 || learners > 0 {
            self.change(ChangeMembers::ReplaceAllVoters(wanted.clone()))
                .await?;
            let members = self.raft.metrics().borrow().membership_config.clone();
            let learners: BTreeSet<u64> = members.membership().learner_ids().collect();
            if !learners.is_empty() {
                self.change(ChangeMembers::RemoveNodes(learners)).await?;
            }
        }
        Ok(())
    }

    /// Whether the others could decide without this member.
    pub fn can_spare(&self, id: u64) -> bool {
        can_spare(&self.members(), id)
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<LogId<u64>, MembershipError> {
        let changed = timeout(AGREEMENT, self.raft.change_membership(change, false)).await;
        let changed = changed.map_err(|_| MembershipError::NoAgreement)?;
        changed
            .map(|response| response.log_id)
            .map_err(|error| match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MembershipError::NotLeader,
                other => MembershipError::Refused(other.to_string()),
            })
    }

    /// Waits until the learner has the entry.
    async fn has_received(&self, id: u64, entry: LogId<u64>) -> bool {
        let mut metrics = self.raft.metrics();
        let received = metrics.wait_for(|now| {
            let matched = now
                .replication
                .as_ref()
                .and_then(|progress| progress.get(&id).copied())
                .flatten();
            now.replication.is_none() || matched >= Some(entry)
        });
        matches!(timeout(CATCH_UP, received).await, Ok(Ok(now)) if now.replication.is_some())
    }
}

/// Whether the other voters that are reachable are more than half of the other voters.
fn can_spare(members: &[MemberState], id: u64) -> bool {
    let others = || members.iter().filter(|other| other.votes && other.id != id);
    let voters: BTreeSet<u64> = others().map(|other| other.id).collect();
    let reachable = others()
        .filter(|other| other.reachable)
        .map(|other| other.id)
        .collect();
    !voters.is_empty() && is_quorum(&openraft::Membership::new(vec![voters], ()), &reachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_must_be_able_to_decide() {
        let state = |id: u64, reachable| MemberState {
            id,
            member: Member::default(),
            votes: true,
            reachable,
        };
        let three = |gone: bool| vec![state(1, true), state(2, true), state(3, !gone)];
        assert!(can_spare(&three(false), 2) && can_spare(&three(true), 3));
        assert!(!can_spare(&three(true), 2), "3 is away: 1 could not decide alone");
        assert!(!can_spare(&[state(1, true)], 1));
        assert!(can_spare(&[state(1, true), state(2, false)], 2));
    }
}

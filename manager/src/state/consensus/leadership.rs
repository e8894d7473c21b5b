//! Who leads, as this member sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::{Membership, RaftMetrics, ServerState};

use super::Member;
use super::peers::Peers;

/// Who leads, as this member sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody that is known: an election is under way, or too few members are there for one.
    #[default]
    Unknown,
    /// Another member.
    Follows(Member),
    /// This one, and it has applied all that was agreed upon before its term.
    Leads {
        /// Grows from leader to leader.
        term: u64,
    },
}

impl Leadership {
    /// The term in which this member leads.
    pub fn term(&self) -> Option<u64> {
        match self {
            Self::Leads { term } => Some(*term),
            Self::Unknown | Self::Follows(_) => None,
        }
    }
}

pub(super) type Metrics = RaftMetrics<u64, Member>;

/// What a member has to do, from what openraft says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// It has no vote, or has none to ask: it waits for what comes.
    Idle,
    /// It leads alone.
    Alone,
    /// It leads, and the others have agreed to go on without it: openraft does not step down by itself.
    Removed,
    /// It leads others, and has to show that it lives.
    Lead,
    /// It would lead if nobody else did.
    Follow,
}

impl Stance {
    pub(super) fn of(metrics: &Metrics) -> Self {
        let membership = metrics.membership_config.membership();
        let votes = membership.voter_ids().any(|id| id == metrics.id);
        let agreed = metrics.last_applied >= *metrics.membership_config.log_id();
        let others = membership.nodes().any(|(id, _)| *id != metrics.id);
        match metrics.state {
            ServerState::Leader if !votes && agreed => Self::Removed,
            ServerState::Leader if others => Self::Lead,
            ServerState::Leader => Self::Alone,
            _ if votes => Self::Follow,
            _ => Self::Idle,
        }
    }
}

/// What is to be told of it. `heard`: the leader was heard lately; `muted`: this leader is giving up.
pub(super) fn leadership(metrics: &Metrics, heard: bool, muted: bool) -> Leadership {
    if metrics.state == ServerState::Leader {
        let applied = metrics.last_applied.map(|id| id.leader_id.term);
        return match applied == Some(metrics.current_term) && !muted {
            true => Leadership::Leads {
                term: metrics.current_term,
            },
            false => Leadership::Unknown,
        };
    }
    let membership = metrics.membership_config.membership();
    let leader = metrics.current_leader.filter(|&id| heard && id != metrics.id);
    let member = leader.and_then(|id| membership.get_node(&id));
    member.cloned().map_or(Leadership::Unknown, Leadership::Follows)
}

/// How long ago, at most, most voters agreed that this member leads; `None` if they have not, or it does not.
///
/// Whoever leads next was chosen by a majority after that: one that has agreed to this leader since would have to be in it.
pub(super) fn confirmed_ago(metrics: &Metrics, peers: &Peers) -> Option<Duration> {
    if metrics.state != ServerState::Leader || peers.is_muted() {
        return None;
    }
    let ago = |id: u64| match id == metrics.id {
        true => Some(Duration::ZERO),
        false => peers.answered_ago(id),
    };
    agreed_ago(metrics.membership_config.membership(), ago)
}

/// When most voters, of both sets while the membership changes, have answered.
fn agreed_ago(
    membership: &Membership<u64, Member>,
    ago: impl Fn(u64) -> Option<Duration>,
) -> Option<Duration> {
    let of_set = |voters: &BTreeSet<u64>| {
        let mut answers: Vec<Duration> = voters.iter().filter_map(|id| ago(*id)).collect();
        answers.sort();
        answers.get(voters.len() / 2).copied()
    };
    let sets = membership.get_joint_config().iter().map(of_set);
    sets.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Whether these members decide: more than half of the voters, of both sets while the membership changes.
pub(super) fn is_quorum(membership: &Membership<u64, Member>, members: &BTreeSet<u64>) -> bool {
    let configs = membership.get_joint_config();
    configs
        .iter()
        .all(|voters| voters.intersection(members).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn both_sets_of_a_changing_membership_must_agree() {
        let changing = Membership::<u64, Member>::new(vec![set(&[1, 2, 3]), set(&[3, 4, 5])], set(&[]));
        assert!(is_quorum(&changing, &set(&[2, 3, 4])));
        assert!(!is_quorum(&changing, &set(&[1, 2, 4])));
        let two = Membership::<u64, Member>::new(vec![set(&[1, 2])], set(&[]));
        assert!(!is_quorum(&two, &set(&[1])) && is_quorum(&two, &set(&[1, 2])));
    }
    #[test]
    fn most_have_agreed_when_the_last_of_a_majority_has() {
        let ago = |id: u64| (id != 5).then(|| Duration::from_secs(id - 1));
        let of = |sets: Vec<BTreeSet<u64>>| {
            let membership = Membership::<u64, Member>::new(sets, set(&[]));
            agreed_ago(&membership, ago).map(|ago| ago.as_secs())
        };
        assert_eq!(of(vec![set(&[1])]), Some(0), "alone");
        assert_eq!(of(vec![set(&[1, 2])]), Some(1));
        assert_eq!(of(vec![set(&[1, 2, 3])]), Some(1));
        assert_eq!(of(vec![set(&[1, 2, 3, 4])]), Some(2));
        assert_eq!(of(vec![set(&[1, 5])]), None);
        assert_eq!(of(vec![set(&[1, 2, 3]), set(&[1, 4])]), Some(3));
        assert_eq!(of(vec![set(&[1, 2, 3]), set(&[1, 5])]), None);
    }
}

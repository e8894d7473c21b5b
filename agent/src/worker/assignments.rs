//! The assignments of this node: decoding the dispatcher's messages into one consistent set.
//!
//! Input: [`AssignmentsMessage`]s, complete first, then increments chained by `applies_to`. Output: typed [`Change`]s. A
//! gap in the chain is an error; the session then starts again from a complete set.

use proto::object::{NetworkKey, NetworkMember, Peer};
use proto::wire::assignment_change::{Action, Kind};
use proto::wire::assignments_message::Type;
use proto::wire::{AssignmentChange, AssignmentsMessage};
use proto::{Config, Network, Secret, ServiceEndpoint, Task};
use thiserror::Error;

/// One object that the node must know, or must forget.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A task of this node, new or with another desired state.
    Task(Box<Task>),
    /// A secret that one of the tasks reads.
    Secret(Box<Secret>),
    /// A config that one of the tasks reads.
    Config(Box<Config>),
    /// A network that one of the tasks is on.
    Network(Box<Network>),
    /// A service that can be reached from here.
    Endpoint(Box<ServiceEndpoint>),
    /// A node of the cluster.
    Peer(Peer),
    /// A task of another node on a network of this one.
    Member(Box<NetworkMember>),
    /// What tunnels between nodes are keyed with.
    NetworkKey(NetworkKey),
    /// The object with this identifier is no longer for this node.
    Remove(Kind, String),
}

/// A decoded message.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignments {
    /// Whether everything that is not listed is to be forgotten.
    pub complete: bool,
    /// What changed, or in a complete set: all there is.
    pub changes: Vec<Change>,
}

impl Assignments {
    /// Nothing is assigned to this node.
    pub fn nothing() -> Self {
        Self {
            complete: true,
            changes: Vec::new(),
        }
    }
}

/// A message that cannot be followed.
#[derive(Debug, Error)]
pub enum AssignmentsError {
    /// Increments were lost.
    #[error("assignments apply to {given:?} but this node is at {expected:?}")]
    Gap {
        /// What the message applies to.
        given: String,
        /// Where the node is.
        expected: String,
    },
    /// An object that this version does not understand.
    #[error("decode the {kind} {id} that was assigned")]
    Decode {
        /// Kind of the object.
        kind: &'static str,
        /// Its identifier.
        id: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Follows the chain of messages.
#[derive(Debug, Default)]
pub struct Chain {
    at: String,
}

impl Chain {
    /// Checks that `message` continues the chain, and decodes it.
    pub fn follow(&mut self, message: AssignmentsMessage) -> Result<Assignments, AssignmentsError> {
        let complete = message.r#type() == Type::Complete;
        if !complete && message.applies_to != self.at {
            return Err(AssignmentsError::Gap {
                given: message.applies_to,
                expected: self.at.clone(),
            });
        }
        let changes = message
            .changes
            .into_iter()
            .filter_map(|change| decode(change).transpose());
        let changes = changes.collect::<Result<_, _>>()?;
        self.at = message.results_in;
        Ok(Assignments { complete, changes })
    }
}

/// `None` for an object of a kind that only newer managers know.
fn decode(change: AssignmentChange) -> Result<Option<Change>, AssignmentsError> {
    let (Ok(kind), Ok(action)) = (Kind::try_from(change.kind), Action::try_from(change.action)) else {
        return Ok(None);
    };
    if action == Action::Remove {
        return Ok(Some(Change::Remove(kind, change.id)));
    }
    let object = &change.object;
    let decoded = match kind {
        Kind::Task => serde_json::from_slice(object).map(|task| Change::Task(Box::new(task))),
        Kind::Secret => serde_json::from_slice(object).map(|secret| Change::Secret(Box::new(secret))),
        Kind::Config => serde_json::from_slice(object).map(|config| Change::Config(Box::new(config))),
        Kind::Network => serde_json::from_slice(object).map(|network| Change::Network(Box::new(network))),
        Kind::ServiceEndpoint => {
            serde_json::from_slice(object).map(|endpoint| Change::Endpoint(Box::new(endpoint)))
        }
        Kind::Peer => serde_json::from_slice(object).map(Change::Peer),
        Kind::Member => serde_json::from_slice(object).map(|member| Change::Member(Box::new(member))),
        Kind::NetworkKey => serde_json::from_slice(object).map(Change::NetworkKey),
    };
    let kind = kind.as_str_name();
    decoded.map(Some).map_err(|source| AssignmentsError::Decode {
        kind,
        id: change.id,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(r#type: Type, applies_to: &str, results_in: &str, id: &str) -> AssignmentsMessage {
        let object = serde_json::to_vec(&Task {
            id: id.into(),
            ..Task::default()
        })
        .unwrap();
        let change = AssignmentChange {
            action: 0,
            kind: Kind::Task.into(),
            id: id.into(),
            object,
        };
        AssignmentsMessage {
            r#type: r#type.into(),
            applies_to: applies_to.into(),
            results_in: results_in.into(),
            changes: vec![change],
        }
    }

    #[test]
    fn increments_follow_a_complete_set() {
        let mut chain = Chain::default();
        assert!(
            chain
                .follow(message(Type::Complete, "", "1", "a"))
                .unwrap()
                .complete
        );
        let next = chain.follow(message(Type::Incremental, "1", "2", "b")).unwrap();
        assert!(!next.complete);
        assert!(matches!(&next.changes[0], Change::Task(task) if task.id.as_str() == "b"));
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut chain = Chain::default();
        chain.follow(message(Type::Complete, "", "1", "a")).unwrap();
        let error = chain
            .follow(message(Type::Incremental, "2", "3", "b"))
            .unwrap_err();
        assert!(matches!(error, AssignmentsError::Gap { .. }), "{error}");
    }

    #[test]
    fn removals_carry_only_the_identifier() {
        let mut removal = message(Type::Complete, "", "1", "a");
        removal.changes[0].action = Action::Remove.into();
        removal.changes[0].object.clear();
        let decoded = Chain::default().follow(removal).unwrap();
        assert_eq!(decoded.changes, vec![Change::Remove(Kind::Task, "a".into())]);
    }
}

//! What a user says about a node.

use super::Labels;
use crate::json::{api_struct, api_word};

api_word! {
    /// What a node is trusted with.
    pub enum NodeRole {
        /// Runs tasks.
        #[default]
        Worker = "worker",
        /// Keeps the cluster's state, and runs tasks.
        Manager = "manager",
    }
}

api_word! {
    /// Whether a node runs tasks.
    pub enum Availability {
        /// Runs tasks and gets new ones.
        #[default]
        Active = "active",
        /// Keeps its tasks and gets no new ones.
        Pause = "pause",
        /// Its tasks run elsewhere.
        Drain = "drain",
    }
}

api_struct! {
    /// What a user says about a node.
    pub struct NodeSpec {
        /// Usually empty: nodes go by their hostname.
        pub name: String,
        /// Labels for constraints, `node.labels.…`.
        pub labels: Labels,
        /// What it is trusted with.
        pub role: NodeRole,
        /// Whether it runs tasks.
        pub availability: Availability,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_always_said() {
        let spec = serde_json::to_value(NodeSpec::default()).unwrap();
        assert_eq!(
            (&spec["Role"], &spec["Availability"]),
            (&"worker".into(), &"active".into())
        );
        assert!(spec.get("Labels").is_none(), "what is empty is left out");
    }
}

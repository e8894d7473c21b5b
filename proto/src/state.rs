//! The life of a task, as SwarmKit numbers it: a clock that only grows.
//!
//! ```text
//! NEW → PENDING → ASSIGNED → ACCEPTED → PREPARING → READY → STARTING → RUNNING → COMPLETE
//!  orchestrator allocator scheduler  └──────────────── node ──────────────────┘  │ SHUTDOWN, FAILED, REJECTED
//!                                                                                 └ REMOVE, ORPHANED
//! ```
//! A manager writes `desired_state`; after the assignment the node alone writes the observed state.

crate::json::api_word! {
    /// How far a task has come. Later is greater.
    pub enum TaskState {
        /// Made by the orchestrator.
        #[default]
        New = "new",
        /// Has its addresses; waits for a node.
        Pending = "pending",
        /// Has a node.
        Assigned = "assigned",
        /// The node has taken it.
        Accepted = "accepted",
        /// The node fetches the image, makes volumes and networks.
        Preparing = "preparing",
        /// All is there; waits to be wanted running.
        Ready = "ready",
        /// The container starts, or runs and is not yet healthy.
        Starting = "starting",
        /// The container runs, and is healthy where it has a healthcheck.
        Running = "running",
        /// The container ended by itself with code 0.
        Complete = "complete",
        /// The container was stopped because the task is no longer wanted.
        Shutdown = "shutdown",
        /// The container ended with another code, or never started.
        Failed = "failed",
        /// The node could not run it.
        Rejected = "rejected",
        /// Only desired: to be removed with its container.
        Remove = "remove",
        /// The node was gone for so long that nobody knows.
        Orphaned = "orphaned",
    }
}

impl TaskState {
    /// SwarmKit's number of the state.
    pub const fn number(self) -> u32 {
        match self {
            Self::New => 0,
            Self::Pending => 64,
            Self::Assigned => 192,
            Self::Accepted => 256,
            Self::Preparing => 320,
            Self::Ready => 384,
            Self::Starting => 448,
            Self::Running => 512,
            Self::Complete => 576,
            Self::Shutdown => 640,
            Self::Failed => 704,
            Self::Rejected => 768,
            Self::Remove => 800,
            Self::Orphaned => 832,
        }
    }

    /// Whether a task in this state will never run again.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_follows_the_numbers() {
        let states = [
            TaskState::New,
            TaskState::Ready,
            TaskState::Running,
            TaskState::Complete,
            TaskState::Orphaned,
        ];
        assert!(
            states
                .windows(2)
                .all(|pair| pair[0] < pair[1] && pair[0].number() < pair[1].number())
        );
        assert!(TaskState::Failed.is_terminal() && !TaskState::Running.is_terminal());
    }
}

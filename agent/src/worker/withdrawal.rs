//! The other nodes' word that a task of this one is not in their services any more.
//!
//! A client on another node reaches a task until that node has been told otherwise and has put it into force. So before a
//! task gets its stop signal the managers are asked whether everybody has. Where nobody can be asked, nobody is waited for.

use std::time::Duration;

use manager::remote::NodeChannel;
use proto::TaskId;
use proto::wire::AwaitWithdrawalRequest;
use proto::wire::dispatcher_client::DispatcherClient;
use tokio::sync::watch;

/// How long a node that hears nothing may hold up the end of another's task. If it is lost the managers say so in about
/// as much time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the managers.
#[derive(Debug)]
pub struct Withdrawal {
    client: DispatcherClient<NodeChannel>,
    session: watch::Receiver<Option<String>>,
}

impl Withdrawal {
    /// Asks in this session, as long as there is one.
    pub fn new(client: DispatcherClient<NodeChannel>, session: watch::Receiver<Option<String>>) -> Self {
        Self { client, session }
    }

    /// Returns when the other nodes send nobody to the task any more, or that cannot be known.
    pub async fn everywhere(&self, task: &TaskId) {
        let session = self.session.borrow().clone();
        let Some(session_id) = session else { return };
        let request = AwaitWithdrawalRequest {
            session_id,
            task_id: task.to_string(),
        };
        let mut client = self.client.clone();
        let mut session = self.session.clone();
        session.mark_unchanged();
        tokio::select! {
            answer = tokio::time::timeout(PATIENCE, client.await_withdrawal(request)) => match answer {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => tracing::debug!(task.id = %task, "withdrawal is not confirmed: {}", status.message()),
                Err(_) => tracing::info!(task.id = %task, "not every node has confirmed in time that the task is withdrawn"),
            },
            // Whoever was asked is there no longer.
            _ = session.changed() => {}
        }
    }
}

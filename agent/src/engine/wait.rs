//! Waiting for a container: subscriptions that miss nothing between the call and the first poll.

use futures::FutureExt;
use tokio::sync::watch;

use super::Engine;
use super::error::Result;
use super::kill::Ends;
use super::request::{WaitCondition, Waiter};
use super::state::{ContainerState, ExitStatus};

impl Engine {
    /// Subscribes to an exit; the returned future can be polled later without missing it.
    ///
    /// # Errors
    /// No such container.
    pub fn wait(&self, name: &str, condition: WaitCondition) -> Result<Waiter> {
        let container = self.registry.find(name)?;
        // In this order: an end between the two is seen by the one or the other.
        let mut ends = Ends::of(&container);
        let state = container.state();
        let watch = container.watch();
        Ok(match condition {
            WaitCondition::NotRunning if !state.status.is_active() => {
                futures::future::ready(status(&state)).boxed()
            }
            WaitCondition::NotRunning | WaitCondition::NextExit => {
                // It may have been started again since: the state of now has forgotten the code.
                async move {
                    let state = ends.next().await;
                    ExitStatus {
                        code: state.last_code,
                        error: None,
                    }
                }
                .boxed()
            }
            WaitCondition::Removed => removed(watch).boxed(),
        })
    }

    /// The state of one container, at every change.
    ///
    /// # Errors
    /// No such container.
    pub fn watch(&self, name: &str) -> Result<watch::Receiver<ContainerState>> {
        Ok(self.registry.find(name)?.watch())
    }
}

async fn removed(mut watch: watch::Receiver<ContainerState>) -> ExitStatus {
    match watch.wait_for(|state| state.removed).await {
        Ok(state) => status(&state),
        Err(_) => ExitStatus {
            code: 0,
            error: Some("the engine stopped".into()),
        },
    }
}

/// Why a container could not start is told by the start, not by a wait.
fn status(state: &ContainerState) -> ExitStatus {
    ExitStatus {
        code: state.exit_code,
        error: None,
    }
}

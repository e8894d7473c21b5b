//! Signals and stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use super::container::Container;
use super::error::{EngineError, Result};
use super::signals::{self, SIGKILL, SIGTERM};
use super::state::{ContainerState, Status};

/// Seconds between a stop's signal and the kill, unless the container says otherwise.
pub(super) const DEFAULT_GRACE: i64 = 10;
/// After SIGKILL a process ends unless the kernel is stuck; then the caller hears of it.
const KILL_GRACE: Duration = Duration::from_secs(30);

impl Engine {
    /// Signals it, waits `timeout` seconds (`None`: the container's own, else 10; negative: for ever), then kills.
    ///
    /// # Errors
    /// [`EngineError::Unchanged`] if it does not run; an unknown signal; a process that even SIGKILL does not end.
    pub async fn stop(&self, name: &str, timeout: Option<i64>, signal: Option<&str>) -> Result<()> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let own = signals::parse_or(&record.config.stop_signal, SIGTERM)?;
        let signal = signals::parse_or(signal.unwrap_or_default(), own)?;
        let grace = timeout.or(record.config.stop_timeout).unwrap_or(DEFAULT_GRACE);
        if let Some(mut ends) = self.begin_stop(&container).await? {
            self.send_signal(&container, signal).await;
            let grace = u64::try_from(grace).ok().map(Duration::from_secs);
            if !ended(&mut ends, grace).await {
                self.send_signal(&container, SIGKILL).await;
                if !ended(&mut ends, Some(KILL_GRACE)).await {
                    return Err(EngineError::Conflict(format!(
                        "container {} does not end, even killed",
                        container.id
                    )));
                }
            }
        }
        self.announce(&container.record(), "stop", &[]);
        Ok(())
    }

    /// Notes that the end is wanted. `None`: there is nothing left to wait for.
    async fn begin_stop(&self, container: &Container) -> Result<Option<Ends>> {
        let _lifecycle = container.lifecycle.lock().await;
        match container.state().status {
            Status::Running => {
                let ends = Ends::of(container);
                container
                    .update_regardless(|record| record.state.stopped_by_hand = true)
                    .await;
                Ok(Some(ends))
            }
            Status::Restarting => {
                container.cancel_delay();
                container
                    .update_regardless(|record| {
                        record.state.status = Status::Exited;
                        record.state.stopped_by_hand = true;
                    })
                    .await;
                // It would have started again with the places that it had.
                self.leave_places(&container.record()).await;
                Ok(None)
            }
            _ => Err(EngineError::Unchanged(container.id.to_string())),
        }
    }

    /// [`Self::stop`] if it runs, then [`Self::start`].
    ///
    /// # Errors
    /// Those of both, but not that it did not run.
    pub async fn restart(
        self: &Arc<Self>,
        name: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        let container = self.registry.find(name)?;
        match self.stop(container.id.as_str(), timeout, signal).await {
            Ok(()) | Err(EngineError::Unchanged(_)) => {}
            Err(error) => return Err(error),
        }
        match self.start(container.id.as_str()).await {
            Ok(()) | Err(EngineError::Unchanged(_)) => {}
            Err(error) => return Err(error),
        }
        self.announce(&container.record(), "restart", &[]);
        Ok(())
    }

    /// Sends a signal (`KILL`, `SIGTERM`, `9`; empty: KILL).
    ///
    /// # Errors
    /// An unknown signal, or a container that does not run.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let signal = signals::parse_or(signal, SIGKILL)?;
        let record = container.record();
        let not_running = || {
            EngineError::Conflict(format!(
                "cannot kill container: {name}: container {} is not running",
                container.id
            ))
        };
        {
            let _lifecycle = container.lifecycle.lock().await;
            if container.state().status != Status::Running {
                return Err(not_running());
            }
            // Only a signal that is meant to end it keeps the restart policy quiet.
            let ends = [
                SIGKILL,
                SIGTERM,
                signals::parse_or(&record.config.stop_signal, SIGTERM)?,
            ];
            if ends.contains(&signal) {
                container
                    .update_regardless(|record| record.state.stopped_by_hand = true)
                    .await;
            }
        }
        self.announce(&record, "kill", &[("signal", signal.to_string())]);
        match container.shim().kill(signal, None).await {
            Err(error) if container.state().status == Status::Running => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills a running container and waits for its end.
    pub(crate) async fn kill_and_wait(&self, container: &Container) -> Result<()> {
        let Some(mut ends) = self.begin_stop(container).await? else {
            return Ok(());
        };
        self.send_signal(container, SIGKILL).await;
        match ended(&mut ends, Some(KILL_GRACE)).await {
            true => Ok(()),
            false => Err(EngineError::Conflict(format!(
                "container {} does not end, even killed",
                container.id
            ))),
        }
    }

    /// A failure is no news: the container is ending anyway, or the wait for its end will tell.
    async fn send_signal(&self, container: &Container, signal: i32) {
        self.announce(&container.record(), "kill", &[("signal", signal.to_string())]);
        if let Err(error) = container.shim().kill(signal, None).await {
            tracing::debug!(container.id = %container.id, "signal {signal} was not delivered: {error}");
        }
    }
}

/// Sees the next end of a container.
#[derive(Debug)]
pub(crate) struct Ends {
    watch: watch::Receiver<ContainerState>,
    before: u64,
}

impl Ends {
    pub(crate) fn of(container: &Container) -> Self {
        let mut watch = container.watch();
        let before = watch.borrow_and_update().exits;
        Self { watch, before }
    }

    /// The state at the next end.
    pub(crate) async fn next(&mut self) -> ContainerState {
        let before = self.before;
        match self
            .watch
            .wait_for(|state| state.exits > before || state.removed)
            .await
        {
            Ok(state) => state.clone(),
            // The container is gone from memory: so is its process.
            Err(_) => ContainerState {
                removed: true,
                ..Default::default()
            },
        }
    }
}

async fn ended(ends: &mut Ends, grace: Option<Duration>) -> bool {
    match grace {
        None => {
            ends.next().await;
            true
        }
        Some(grace) => tokio::time::timeout(grace, ends.next()).await.is_ok(),
    }
}

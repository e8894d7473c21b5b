//! The end of a container: supervision, putting away what it used, and what follows: exited, restarted, or removed.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::process::Command;
use tokio::sync::{MutexGuard, oneshot};

use super::Engine;
use super::container::{Container, Lifecycle};
use super::create::remove_tree;
use super::error::{EngineError, Result};
use super::record::ContainerRecord;
use super::restart::RestartPolicy;
use super::shim::{self, ExitReport, ExitWait};
use super::state::{ContainerState, Status};
use crate::api::error::chain;

/// The exit code of a container whose end nobody saw (Docker's).
const UNKNOWN_EXIT: i32 = 255;

impl Engine {
    /// Watches a running container until its end.
    pub(crate) fn supervise(self: &Arc<Self>, container: Arc<Container>, exit: ExitWait) {
        let engine = self.clone();
        tokio::spawn(async move {
            let report = exit.exit().await;
            engine.ended(container, report).await;
        });
    }

    /// Takes note of an end. `report`: what the shim said; without one, what it left on disk.
    ///
    /// Boxed, because a restart begins here what ends here again.
    pub(crate) async fn ended(self: &Arc<Self>, container: Arc<Container>, report: Option<ExitReport>) {
        let mut lifecycle = container.lifecycle.lock().await;
        container.set_prober(None);
        let report = match report.or_else(|| shim::read_exit(&container.paths.exit())) {
            Some(report) => report,
            None => {
                // The shim is gone without a trace; its container may still run, and must not when its end is told.
                self.delete_leftover_state(&container).await;
                lost()
            }
        };
        let restarts = Next::after(&container.record(), &report) == Next::Restart;
        self.release_network(&container).await;
        if !restarts {
            self.leave_places(&container.record()).await;
        }
        let life = life(&container.state(), &report);
        let next = self.settle(&container, &report).await;
        self.announce_end(&container.record(), &report);
        self.clear_bundle(&container).await;
        match next {
            Next::Stay => self.forget_task_files(&container).await,
            Next::Remove => self.remove_after_end(&container, &mut lifecycle).await,
            Next::Restart => {
                let delay = lifecycle.backoff.delay(life);
                self.restart_later(&container, delay);
            }
        }
    }

    /// Writes the end into the record; it is durable when this returns.
    async fn settle(&self, container: &Container, report: &ExitReport) -> Next {
        let mut next = Next::Stay;
        container
            .update_regardless(|record| {
                next = Next::after(record, report);
                let state = &mut record.state;
                state.status = if next == Next::Restart {
                    Status::Restarting
                } else {
                    Status::Exited
                };
                state.restart_count += u32::from(next == Next::Restart);
                state.end(report.exit_code);
                state.oom_killed = report.oom_killed;
                state.error = report.error.clone().unwrap_or_default();
                state.finished_at = Some(report.finished());
                Self::remember_addresses(record);
                record.attached.clear();
                record.ports.clear();
            })
            .await;
        next
    }

    fn announce_end(&self, record: &ContainerRecord, report: &ExitReport) {
        if report.oom_killed {
            self.announce(record, "oom", &[]);
        }
        let seconds = match (record.state.started_at, record.state.finished_at) {
            (Some(start), Some(end)) => (end - start).whole_seconds().max(0),
            _ => 0,
        };
        let extra = [
            ("exitCode", report.exit_code.to_string()),
            ("execDuration", seconds.to_string()),
        ];
        self.announce(record, "die", &extra);
    }

    fn restart_later(self: &Arc<Self>, container: &Arc<Container>, delay: Duration) {
        let (cancel, cancelled) = oneshot::channel::<()>();
        container.set_delay(cancel);
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let due = async {
                tokio::time::sleep(delay).await;
                // Nobody asks again for what starts by itself: without managers it would be given up.
                engine.await_places(&container.record()).await;
            };
            tokio::select! {
                () = due => engine.start_again(&container).await,
                _ = cancelled => {}
            }
        });
    }

    async fn start_again(self: &Arc<Self>, container: &Arc<Container>) {
        let mut lifecycle = container.lifecycle.lock().await;
        if container.state().status != Status::Restarting {
            return;
        }
        if let Err(error) = Box::pin(self.launch(container, &mut lifecycle)).await {
            tracing::warn!(container.id = %container.id, "could not be started again: {}", chain(&error));
        }
    }

    async fn release_network(&self, container: &Container) {
        self.announce_networks("disconnect", &container.record());
        if let Err(error) = self.config.netd.detach(container.id.as_str()).await {
            tracing::warn!(container.id = %container.id, "could not be disconnected: {}", chain(&error));
        }
    }

    /// Removes what a container that does not run may have left: shim, runtime state, cgroup, sandbox, places, bundle.
    /// Works from any point at which a start or an end was interrupted.
    pub(crate) async fn put_away(&self, container: &Container) {
        self.clear_bundle(container).await;
        self.release_network(container).await;
        self.leave_places(&container.record()).await;
    }

    async fn delete_leftover_state(&self, container: &Container) {
        if let Err(error) = self.delete_runtime_state(container).await {
            tracing::warn!(container.id = %container.id, "left something behind: {}", chain(&error));
        }
    }

    async fn clear_bundle(&self, container: &Container) {
        self.end_shim(container).await;
        let deleted = self.delete_runtime_state(container).await;
        let bundle = container.paths.bundle.clone();
        let removed = super::blocking(move || remove_tree(&bundle)).await;
        for error in [deleted, removed].into_iter().filter_map(Result::err) {
            tracing::warn!(container.id = %container.id, "left something behind: {}", chain(&error));
        }
    }

    /// Ends a shim that waits for a start which will not come.
    async fn end_shim(&self, container: &Container) {
        if container.paths.socket().exists() && !container.paths.exit().exists() {
            // Not there to be asked: nothing to end. Its container, if any, goes with the runtime state.
            let _ = container.shim().shutdown().await;
        }
    }

    /// `runtime delete --force`, for what a shim did not live to delete itself.
    async fn delete_runtime_state(&self, container: &Container) -> Result<()> {
        if !container.paths.runtime_state.exists() {
            return Ok(());
        }
        self.runtime_delete(container.id.as_str()).await
    }

    pub(crate) async fn runtime_delete(&self, id: &str) -> Result<()> {
        let failed = |source: std::io::Error| EngineError::Shim {
            action: "delete the runtime's state",
            container: id.to_owned(),
            source: source.into(),
        };
        let output = Command::new(&self.config.runtime_bin)
            .arg("--root")
            .arg(self.config.run_dir.join("runtime"))
            .args(["delete", "--force", id])
            .output()
            .await
            .map_err(failed)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(std::io::Error::other(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ))),
        }
    }
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Restart,
    Remove,
}

impl Next {
    fn after(record: &ContainerRecord, report: &ExitReport) -> Self {
        let policy = match record.task {
            // The orchestrator replaces a task's container; nobody restarts it.
            Some(_) => RestartPolicy::No,
            None => RestartPolicy::parse(&record.host_config.restart_policy).unwrap_or(RestartPolicy::No),
        };
        let state = &record.state;
        if policy.wants_restart(report.exit_code, state.restart_count, state.stopped_by_hand) {
            Self::Restart
        } else if record.host_config.auto_remove {
            Self::Remove
        } else {
            Self::Stay
        }
    }
}

/// The end of a container whose shim is gone without a trace.
pub(crate) fn lost() -> ExitReport {
    ExitReport {
        exit_code: UNKNOWN_EXIT,
        error: Some("the container ended while nobody watched: its shim is gone".into()),
        ..Default::default()
    }
}

fn life(state: &ContainerState, report: &ExitReport) -> Duration {
    let started = state.started_at.unwrap_or_else(OffsetDateTime::now_utc);
    Duration::try_from(report.finished() - started).unwrap_or_default()
}

/// For callers that hold the lifecycle lock.
pub(crate) type Locked<'a, 'b> = &'a mut MutexGuard<'b, Lifecycle>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::tests::sample;
    use crate::engine::request::TaskRef;

    fn report(exit_code: i32) -> ExitReport {
        ExitReport {
            exit_code,
            ..Default::default()
        }
    }

    #[test]
    fn what_follows_an_end() {
        let mut record = sample();
        assert_eq!(Next::after(&record, &report(1)), Next::Stay);
        record.host_config.auto_remove = true;
        assert_eq!(Next::after(&record, &report(1)), Next::Remove);
        record.host_config.auto_remove = false;
        record.host_config.restart_policy.name = "always".into();
        assert_eq!(Next::after(&record, &report(0)), Next::Restart);
        record.state.stopped_by_hand = true;
        assert_eq!(Next::after(&record, &report(0)), Next::Stay);
    }

    #[test]
    fn a_tasks_container_is_never_restarted_here() {
        let mut record = sample();
        record.host_config.restart_policy.name = "always".into();
        record.task = Some(TaskRef::default());
        assert_eq!(Next::after(&record, &report(1)), Next::Stay);
    }
}

//! Runs the healthcheck of a running container, probe by probe, and publishes its verdict.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Engine;
use super::attach::live;
use super::container::Container;
use super::error::Result;
use super::exec::Executed;
use super::health::{OUTPUT_LIMIT, Probe};
use super::id::ExecId;
use super::signals::SIGKILL;
use super::state::{Health, HealthStatus, Status};
use crate::api::types::exec::ExecConfig;
use crate::api::types::inspect::HealthResult;

impl Engine {
    /// Begins probing a container that has just been started or found running; ends any earlier probing.
    pub(crate) fn start_probing(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        let Some(probe) = Probe::from_config(record.config.healthcheck.as_ref()) else {
            return container.set_prober(None);
        };
        let (engine, probed) = (self.clone(), container.clone());
        let prober = tokio::spawn(async move { engine.keep_probing(&probed, &probe).await });
        container.set_prober(Some(prober.abort_handle()));
    }

    async fn keep_probing(&self, container: &Container, probe: &Probe) {
        loop {
            let health = container.state().health.unwrap_or_default();
            tokio::time::sleep(probe.pause(&health, age(container))).await;
            let result = self.probe(container, probe).await;
            self.take_in(container, probe, result).await;
        }
    }

    /// One probe.
    async fn probe(&self, container: &Container, probe: &Probe) -> HealthResult {
        let start = now();
        let outcome = match self.run_probe(container, probe).await {
            Ok(outcome) => outcome,
            // Docker's word for a probe that could not even begin.
            Err(error) => (-1, crate::api::error::chain(&error)),
        };
        HealthResult {
            start,
            end: now(),
            exit_code: i64::from(outcome.0),
            output: outcome.1,
        }
    }

    async fn run_probe(&self, container: &Container, probe: &Probe) -> Result<(i32, String)> {
        let record = container.record();
        let id = ExecId::random();
        let config = ExecConfig {
            cmd: Some(probe.words(record.config.shell.as_deref())),
            attach_stdout: true,
            attach_stderr: true,
            ..Default::default()
        };
        let Executed { connection, exit, .. } = self.execute(container, &id, &config, true).await?;
        let mut output = live(connection, false, false).output;
        let mut text = Vec::new();
        let finished = async {
            while let Some(chunk) = output.next().await {
                // Read on after the limit, so that the probe is not held up.
                let room = OUTPUT_LIMIT.saturating_sub(text.len());
                text.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
            }
            exit.exit().await.map_or(-1, |report| report.exit_code)
        };
        match tokio::time::timeout(probe.timeout, finished).await {
            Ok(code) => Ok((code, String::from_utf8_lossy(&text).into_owned())),
            Err(_) => {
                // Its end may have come first; nothing else is to be done then.
                let _ = container.shim().kill(SIGKILL, Some(id.as_str())).await;
                Ok((
                    -1,
                    format!("Health check exceeded timeout ({})", seconds(probe.timeout)),
                ))
            }
        }
    }

    async fn take_in(&self, container: &Container, probe: &Probe, result: HealthResult) {
        let in_start_period = age(container) < probe.start_period;
        let mut health = container.state().health.unwrap_or_default();
        let changed = health.record(result, probe.retries, in_start_period);
        let write = |record: &mut super::record::ContainerRecord| {
            if record.state.status == Status::Running {
                record.state.health = Some(health);
            }
        };
        match changed {
            None => container.update_in_memory(write).await,
            Some(status) => {
                container.update_regardless(write).await;
                self.announce_health(container, status);
            }
        }
    }

    fn announce_health(&self, container: &Container, status: HealthStatus) {
        self.announce(
            &container.record(),
            &format!("health_status: {}", status.as_str()),
            &[],
        );
    }
}

/// What `inspect` shows of a health.
pub(crate) fn describe(health: &Health) -> crate::api::types::inspect::InspectHealth {
    crate::api::types::inspect::InspectHealth {
        status: health.status.as_str().to_owned(),
        failing_streak: i64::from(health.failing_streak),
        log: health.log.clone(),
    }
}

fn age(container: &Container) -> Duration {
    let started = container.state().started_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Duration::try_from(OffsetDateTime::now_utc() - started).unwrap_or_default()
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// `30s`, `1.5s`, as Go prints durations below a minute.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

//! The verdict over a container's probes. Pure: probe results in, status and transitions out.

use std::time::Duration;

use super::state::{Health, HealthStatus};
use crate::api::types::config::HealthConfig;
use crate::api::types::inspect::HealthResult;

/// Probes remembered in `State.Health.Log`.
const LOG_LENGTH: usize = 5;
/// Bytes of a probe's output kept.
pub const OUTPUT_LIMIT: usize = 4096;

/// How a container is probed; Docker's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub command: ProbeCommand,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in this time after the start do not count.
    pub start_period: Duration,
    /// Interval during the start period.
    pub start_interval: Duration,
    pub retries: u32,
}

/// What a probe executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeCommand {
    /// `["CMD", …]`
    Words(Vec<String>),
    /// `["CMD-SHELL", line]`
    Shell(String),
}

impl Probe {
    /// The probe of a container; `None` if it has none or it is switched off.
    pub fn from_config(config: Option<&HealthConfig>) -> Option<Self> {
        let config = config?;
        let (kind, rest) = config.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" if !rest.is_empty() => ProbeCommand::Words(rest.to_vec()),
            "CMD-SHELL" => ProbeCommand::Shell(rest.join(" ")),
            _ => return None,
        };
        Some(Self {
            command,
            interval: or_default(config.interval, 30),
            timeout: or_default(config.timeout, 30),
            start_period: or_default(config.start_period, 0),
            start_interval: or_default(config.start_interval, 5),
            retries: u32::try_from(config.retries).ok().filter(|n| *n > 0).unwrap_or(3),
        })
    }

    /// The words to execute; `shell` is the container's, by default `/bin/sh -c`.
    pub fn words(&self, shell: Option<&[String]>) -> Vec<String> {
        match &self.command {
            ProbeCommand::Words(words) => words.clone(),
            ProbeCommand::Shell(line) => {
                let mut words = match shell {
                    Some(shell) if !shell.is_empty() => shell.to_vec(),
                    _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                };
                words.push(line.clone());
                words
            }
        }
    }

    /// How long to sleep before the next probe.
    pub fn pause(&self, health: &Health, since_start: Duration) -> Duration {
        let starting = health.status == HealthStatus::Starting && since_start < self.start_period;
        if starting {
            self.start_interval
        } else {
            self.interval
        }
    }
}

impl Health {
    /// Takes in a probe's result. `in_start_period`: failures do not count yet. Returns the new status if it changed.
    pub fn record(
        &mut self,
        result: HealthResult,
        retries: u32,
        in_start_period: bool,
    ) -> Option<HealthStatus> {
        let before = self.status;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(in_start_period && self.status == HealthStatus::Starting) {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(LOG_LENGTH);
        self.log.drain(..surplus);
        (self.status != before).then_some(self.status)
    }
}

fn or_default(nanoseconds: i64, default_seconds: u64) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(given) if given > 0 => Duration::from_nanos(given),
        _ => Duration::from_secs(default_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i64) -> HealthResult {
        HealthResult {
            exit_code,
            ..Default::default()
        }
    }

    fn config(test: &[&str]) -> HealthConfig {
        HealthConfig {
            test: test.iter().map(|w| (*w).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn forms_of_a_test() {
        let probe = Probe::from_config(Some(&config(&["CMD", "wget", "x"]))).unwrap();
        assert_eq!(probe.words(None), ["wget", "x"]);
        assert_eq!((probe.interval.as_secs(), probe.retries), (30, 3));
        let probe = Probe::from_config(Some(&config(&["CMD-SHELL", "exit 0"]))).unwrap();
        assert_eq!(probe.words(None), ["/bin/sh", "-c", "exit 0"]);
        assert_eq!(
            probe.words(Some(&["/bin/ash".into(), "-ec".into()])),
            ["/bin/ash", "-ec", "exit 0"]
        );
        for off in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(Probe::from_config(Some(&config(off))), None, "{off:?}");
        }
    }

    #[test]
    fn unhealthy_after_retries_in_a_row_healthy_at_once() {
        let mut health = Health::default();
        assert_eq!(health.record(result(1), 2, false), None);
        assert_eq!(health.record(result(1), 2, false), Some(HealthStatus::Unhealthy));
        assert_eq!(health.failing_streak, 2);
        assert_eq!(health.record(result(0), 2, false), Some(HealthStatus::Healthy));
        assert_eq!(
            (health.failing_streak, health.record(result(1), 2, false)),
            (0, None)
        );
        assert_eq!(health.status, HealthStatus::Healthy);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_first_healthy() {
        let mut health = Health::default();
        for _ in 0..10 {
            assert_eq!(health.record(result(1), 1, true), None);
        }
        assert_eq!((health.failing_streak, health.log.len()), (0, LOG_LENGTH));
        health.record(result(0), 1, true);
        assert_eq!(health.record(result(1), 1, true), Some(HealthStatus::Unhealthy));
    }

    #[test]
    fn the_start_interval_holds_while_starting() {
        let mut probe = Probe::from_config(Some(&config(&["CMD", "x"]))).unwrap();
        probe.start_period = Duration::from_secs(60);
        let health = Health::default();
        assert_eq!(
            probe.pause(&health, Duration::from_secs(1)),
            Duration::from_secs(5)
        );
        assert_eq!(
            probe.pause(&health, Duration::from_secs(61)),
            Duration::from_secs(30)
        );
        let healthy = Health {
            status: HealthStatus::Healthy,
            ..health
        };
        assert_eq!(
            probe.pause(&healthy, Duration::from_secs(1)),
            Duration::from_secs(30)
        );
    }
}

//! How an update is to go, with the defaults filled in.

use std::time::Duration;

use proto::spec::{FailureAction, ServiceSpec, UpdateConfig, UpdateOrder};
use proto::upkeep::Upkeep;

/// Added to the delay where that is as long as the time of monitoring.
const BEYOND_DELAY: Duration = Duration::from_secs(1);
/// Time of monitoring where none is said.
const DEFAULT_MONITOR: Duration = Duration::from_secs(5);

/// How an update is to go.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) parallelism: usize,
    pub(super) delay: Duration,
    pub(super) monitor: Duration,
    pub(super) failure_action: FailureAction,
    pub(super) max_failure_ratio: f32,
    pub(super) order: UpdateOrder,
    /// How long a new task may take until it runs, counted from when it may start.
    pub(super) progress_deadline: Option<Duration>,
}

impl Config {
    /// What the spec says of updates, or of rollbacks. A parallelism of 0 means all `slots` at once.
    pub(super) fn of(spec: &ServiceSpec, rollback: bool, slots: usize) -> Self {
        let config = if rollback {
            &spec.rollback_config
        } else {
            &spec.update_config
        };
        let default = UpdateConfig::default();
        let config = config.as_ref().unwrap_or(&default);
        let delay = nanoseconds(config.delay);
        let upkeep = Upkeep::of(&spec.labels);
        let monitor = if config.monitor > 0 {
            nanoseconds(config.monitor)
        } else {
            DEFAULT_MONITOR
        };
        Self {
            parallelism: match usize::try_from(config.parallelism) {
                Ok(0) | Err(_) => slots,
                Ok(parallelism) => parallelism,
            },
            delay,
            monitor: if delay >= monitor {
                delay + BEYOND_DELAY
            } else {
                monitor
            },
            failure_action: config.failure_action,
            max_failure_ratio: config.max_failure_ratio,
            // Two at once is what a fenced service must never have, and two tasks cannot have one address.
            order: match upkeep.fencing.is_some() || spec.task_template.has_fixed_address() {
                true => UpdateOrder::StopFirst,
                false => config.order,
            },
            progress_deadline: upkeep.progress_deadline,
        }
    }
}

fn nanoseconds(count: i64) -> Duration {
    Duration::from_nanos(count.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::NetworkAttachmentConfig;

    #[test]
    fn monitoring_outlasts_the_delay() {
        let mut spec = ServiceSpec::default();
        let monitor = |spec: &ServiceSpec| Config::of(spec, false, 3).monitor;
        assert_eq!(monitor(&spec), Duration::from_secs(5));
        spec.update_config = Some(UpdateConfig {
            delay: 10_000_000_000,
            ..UpdateConfig::default()
        });
        assert_eq!(monitor(&spec), Duration::from_secs(11));
        // A rollback has a configuration of its own.
        assert_eq!(Config::of(&spec, true, 3).delay, Duration::ZERO);
    }

    #[test]
    fn a_task_with_an_address_of_its_own_stops_first() {
        let mut spec = ServiceSpec {
            update_config: Some(UpdateConfig {
                order: UpdateOrder::StartFirst,
                ..UpdateConfig::default()
            }),
            ..ServiceSpec::default()
        };
        assert_eq!(Config::of(&spec, false, 1).order, UpdateOrder::StartFirst);
        spec.task_template.networks = vec![NetworkAttachmentConfig {
            addresses: vec!["10.0.0.9".into()],
            ..NetworkAttachmentConfig::default()
        }];
        assert_eq!(Config::of(&spec, false, 1).order, UpdateOrder::StopFirst);
    }

    #[test]
    fn no_parallelism_is_all_at_once() {
        let spec = ServiceSpec {
            update_config: Some(UpdateConfig {
                parallelism: 0,
                ..UpdateConfig::default()
            }),
            ..ServiceSpec::default()
        };
        assert_eq!(Config::of(&spec, false, 7).parallelism, 7);
    }
}

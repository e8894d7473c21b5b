//! When a standalone container is started again, and after how long. Pure; Docker's restart manager.

use std::time::Duration;

use super::error::{EngineError, Result};
use crate::api::types::host_config::RestartPolicy as Wanted;

/// First delay; doubles with every restart in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The delay stops growing here.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that lived this long starts again with the first delay.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// Whatever happened; also when the daemon starts.
    Always,
    /// As always, unless it was stopped by hand.
    UnlessStopped,
    /// After an exit code other than 0, at most this often in a row (0: no limit).
    OnFailure(u32),
}

impl RestartPolicy {
    /// Reads the policy of a create request.
    ///
    /// # Errors
    /// An unknown policy, or a retry count where none belongs.
    pub fn parse(wanted: &Wanted) -> Result<Self> {
        let count = u32::try_from(wanted.maximum_retry_count)
            .map_err(|_| EngineError::Invalid("maximum retry count cannot be negative".into()))?;
        let policy = match wanted.name.as_str() {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => return Ok(Self::OnFailure(count)),
            other => return Err(EngineError::Invalid(format!("invalid restart policy '{other}'"))),
        };
        if count != 0 {
            return Err(EngineError::Invalid(format!(
                "maximum retry count cannot be used with restart policy '{}'",
                wanted.name
            )));
        }
        Ok(policy)
    }

    /// Does an exit lead to another start? `restarts` counts those in a row so far.
    pub fn wants_restart(self, exit_code: i32, restarts: u32, stopped_by_hand: bool) -> bool {
        if stopped_by_hand {
            return false;
        }
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(limit) => exit_code != 0 && (limit == 0 || restarts < limit),
        }
    }

    /// Is a container that is found ended when the daemon starts to be started?
    pub fn wants_start_with_daemon(self, exit_code: i32, restarts: u32, stopped_by_hand: bool) -> bool {
        // `always` means also after a stop by hand: Docker's documented difference to unless-stopped.
        self == Self::Always || self.wants_restart(exit_code, restarts, stopped_by_hand)
    }
}

/// The delays between restarts in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// The delay before the next start of a container that lived for `life`.
    pub fn delay(&mut self, life: Duration) -> Duration {
        let delay = match self.next {
            Some(next) if life < LONG_LIFE => next,
            _ => FIRST_DELAY,
        };
        self.next = Some((delay * 2).min(LONGEST_DELAY));
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, count: i64) -> Wanted {
        Wanted {
            name: name.into(),
            maximum_retry_count: count,
        }
    }

    #[test]
    fn policies_are_read_strictly() {
        assert_eq!(RestartPolicy::parse(&wanted("", 0)).unwrap(), RestartPolicy::No);
        assert_eq!(
            RestartPolicy::parse(&wanted("on-failure", 3)).unwrap(),
            RestartPolicy::OnFailure(3)
        );
        for bad in [
            wanted("always", 1),
            wanted("sometimes", 0),
            wanted("on-failure", -1),
        ] {
            assert!(RestartPolicy::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn on_failure_counts() {
        let policy = RestartPolicy::OnFailure(2);
        assert!(policy.wants_restart(1, 0, false) && policy.wants_restart(1, 1, false));
        assert!(!policy.wants_restart(1, 2, false) && !policy.wants_restart(0, 0, false));
        assert!(RestartPolicy::OnFailure(0).wants_restart(1, 1000, false));
    }

    #[test]
    fn a_stop_by_hand_is_respected_except_by_always_at_daemon_start() {
        for policy in [
            RestartPolicy::Always,
            RestartPolicy::UnlessStopped,
            RestartPolicy::OnFailure(0),
        ] {
            assert!(!policy.wants_restart(1, 0, true), "{policy:?}");
        }
        assert!(RestartPolicy::Always.wants_start_with_daemon(0, 0, true));
        assert!(!RestartPolicy::UnlessStopped.wants_start_with_daemon(0, 0, true));
        assert!(RestartPolicy::UnlessStopped.wants_start_with_daemon(0, 0, false));
        assert!(!RestartPolicy::No.wants_start_with_daemon(1, 0, false));
    }

    #[test]
    fn delays_double_up_to_a_minute_and_start_over_after_a_long_life() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let delays: Vec<u128> = (0..12).map(|_| backoff.delay(short).as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        assert_eq!(backoff.delay(LONG_LIFE), FIRST_DELAY);
        assert_eq!(backoff.delay(short).as_millis(), 200);
    }
}

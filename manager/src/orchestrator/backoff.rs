//! How long a restart waits: always as long as the policy says, as Docker's, or longer from one failure to the next
//! where the service has the label `shoal.restart.max-delay`.
//!
//! Each task carries the number of failures before it, so that a new leader goes on as the last one would have, however
//! few ended tasks are kept. A task that ran for as long as the longest delay begins anew.

use std::time::Duration;

use proto::Task;
use proto::upkeep::Upkeep;

/// Delay of a restart where the policy does not name one.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);
/// From where the delay doubles if the policy's is nothing: the first restart is then at once.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// How long the task waits before it starts, if it is a restart.
pub(crate) fn restart_delay(task: &Task, upkeep: &Upkeep) -> Duration {
    let policy = policy_delay(task);
    let Some(longest) = upkeep.restart_max_delay else {
        return policy;
    };
    let doubled = match policy.is_zero() {
        true => doubled(FIRST_DELAY, task.failures.checked_sub(2)),
        false => doubled(policy, task.failures.checked_sub(1)),
    };
    // A policy with a longer delay than the longest is not made shorter.
    doubled.min(longest).max(policy)
}

/// The number of failures before the replacement of a task that has ended; 0 where nobody counts them.
pub(crate) fn failures_with(task: &Task, upkeep: &Upkeep) -> u32 {
    let Some(longest) = upkeep.restart_max_delay else {
        return 0;
    };
    let lived: Duration = (task.status.timestamp.0 - task.meta.created_at.0)
        .try_into()
        .unwrap_or_default();
    let waited = match task.failures {
        0 => Duration::ZERO,
        _ => restart_delay(task, upkeep),
    };
    match lived.saturating_sub(waited) >= longest {
        true => 1,
        false => task.failures.saturating_add(1),
    }
}

fn doubled(first: Duration, times: Option<u32>) -> Duration {
    let Some(times) = times else { return Duration::ZERO };
    1u32.checked_shl(times)
        .and_then(|factor| first.checked_mul(factor))
        .unwrap_or(Duration::MAX)
}

fn policy_delay(task: &Task) -> Duration {
    let delay = task.spec.restart_policy.as_ref().and_then(|policy| policy.delay);
    delay.map_or(DEFAULT_DELAY, |nanos| {
        Duration::from_nanos(nanos.try_into().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Timestamp;
    use proto::spec::RestartPolicy;

    use super::*;

    fn upto(seconds: u64) -> Upkeep {
        Upkeep {
            restart_max_delay: Some(Duration::from_secs(seconds)),
            ..Upkeep::default()
        }
    }

    /// A restart after so many failures, with so many seconds as the policy's delay.
    fn task(failures: u32, delay: i64) -> Task {
        let mut task = Task {
            failures,
            ..Task::default()
        };
        std::sync::Arc::make_mut(&mut task.spec).restart_policy = Some(RestartPolicy {
            delay: Some(delay * 1_000_000_000),
            ..RestartPolicy::default()
        });
        task
    }

    fn delays(delay: i64, upkeep: &Upkeep) -> Vec<u64> {
        let one = |failures| restart_delay(&task(failures, delay), upkeep).as_secs();
        (1..8).map(one).collect()
    }

    #[test]
    fn the_delay_doubles_only_where_that_is_asked_for() {
        assert_eq!(delays(5, &Upkeep::default()), [5; 7]);
        assert_eq!(delays(5, &upto(100)), [5, 10, 20, 40, 80, 100, 100]);
        assert_eq!(delays(0, &upto(10)), [0, 1, 2, 4, 8, 10, 10]);
        assert_eq!(delays(20, &upto(10)), [20; 7], "the policy's delay is the least");
        assert_eq!(restart_delay(&Task::default(), &Upkeep::default()), DEFAULT_DELAY);
    }

    #[test]
    fn a_task_that_ran_long_enough_begins_anew() {
        let ended = |lived: i64| {
            let mut task = task(4, 5);
            task.status.timestamp = Timestamp(task.meta.created_at.0 + time::Duration::seconds(lived));
            task
        };
        let upkeep = upto(100);
        assert_eq!(failures_with(&ended(50), &upkeep), 5);
        assert_eq!(
            failures_with(&ended(139), &upkeep),
            5,
            "it waited for 40 s of these"
        );
        assert_eq!(failures_with(&ended(140), &upkeep), 1);
        assert_eq!(failures_with(&ended(50), &Upkeep::default()), 0);
    }

    proptest! {
        #[test]
        fn the_delay_never_shrinks_nor_leaves_its_bounds(failures in 1..u32::MAX, delay in 0..1000i64, longest in 1..100_000u64) {
            let (upkeep, policy) = (upto(longest), Duration::from_secs(delay.unsigned_abs()));
            let now = restart_delay(&task(failures, delay), &upkeep);
            let before = restart_delay(&task(failures - 1, delay), &upkeep);
            prop_assert!(before <= now);
            prop_assert!(now >= policy && now <= policy.max(Duration::from_secs(longest)));
        }
    }
}

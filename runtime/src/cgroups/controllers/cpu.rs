//! cpu and cpuset: shares, quota, period, burst, and which processors and memory nodes
//! (Documentation/scheduler/sched-bwc.rst, Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::LinuxCpu;

use super::super::Error;
use super::super::plan::{Builder, Place};

/// Default period, microseconds.
const PERIOD: u64 = 100_000;

/// Plans `cpu`. Times are microseconds; a quota of -1 is none, 0 and absent leave the default.
pub(crate) fn plan(builder: &mut Builder<'_>, cpu: Option<&LinuxCpu>) -> Result<(), Error> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    let set = |value: Option<u64>| value.filter(|value| *value != 0);
    let times = set(cpu.shares()).is_some()
        || set(cpu.period()).is_some()
        || cpu.quota().is_some_and(|quota| quota != 0)
        || cpu.burst().is_some()
        || cpu.idle().is_some();
    if times {
        let place = builder.place("cpu", "cpu")?;
        if place.unified {
            unified(builder, place, cpu)
        } else {
            separate(builder, place, cpu)
        }
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            let place = builder.place("cpuset", "cpu.cpus")?;
            builder.write(place, file, list);
        }
    }
    Ok(())
}

fn separate(builder: &mut Builder<'_>, place: Place, cpu: &LinuxCpu) {
    // Idle before shares: an idle group refuses shares.
    let numbers = [
        ("cpu.idle", cpu.idle().map(|value| value.to_string())),
        (
            "cpu.shares",
            cpu.shares().filter(|v| *v != 0).map(|v| v.to_string()),
        ),
        (
            "cpu.cfs_period_us",
            cpu.period().filter(|v| *v != 0).map(|v| v.to_string()),
        ),
        (
            "cpu.cfs_quota_us",
            cpu.quota().filter(|v| *v != 0).map(|v| v.to_string()),
        ),
        ("cpu.cfs_burst_us", cpu.burst().map(|value| value.to_string())),
    ];
    for (file, value) in numbers {
        if let Some(value) = value {
            builder.write(place, file, value);
        }
    }
}

fn unified(builder: &mut Builder<'_>, place: Place, cpu: &LinuxCpu) {
    if let Some(idle) = cpu.idle() {
        builder.write(place, "cpu.idle", idle);
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        builder.write(place, "cpu.weight", weight(shares));
    }
    let quota = cpu.quota().unwrap_or(0);
    if quota != 0 || cpu.period().is_some_and(|period| period != 0) {
        let period = cpu.period().filter(|period| *period != 0).unwrap_or(PERIOD);
        let quota = if quota > 0 {
            quota.to_string()
        } else {
            "max".to_owned()
        };
        builder.write(place, "cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst() {
        builder.write(place, "cpu.max.burst", burst);
    }
}

/// v1 shares (2 to 262144, default 1024) as v2 weight (1 to 10000, default 100), so that both defaults meet: the curve of
/// crun and runc since 2025.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::tests::assert_both;
    use super::weight;
    use serde_json::json;

    #[test]
    fn shares_and_quota_are_planned() {
        assert_both(
            json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1", "mems": ""}}),
            &[
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
            ],
            &["cpu.weight=100", "cpu.max=50000 100000", "cpuset.cpus=0-1"],
        );
    }

    #[test]
    fn no_quota_is_the_maximum() {
        assert_both(
            json!({"cpu": {"quota": -1}}),
            &["cpu.cfs_quota_us=-1"],
            &["cpu.max=max 100000"],
        );
        assert_both(json!({"cpu": {"shares": 0, "quota": 0}}), &[], &[]);
    }

    #[test]
    fn the_ends_of_the_curve_meet() {
        assert_eq!(
            [weight(2), weight(1024), weight(262_143), weight(262_144)],
            [1, 100, 10_000, 10_000]
        );
    }
}

//! blkio and io: weights and throttles (Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst).

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::super::Error;
use super::super::plan::{Builder, Otherwise, Place, unavailable};

/// Plans `block_io`. Weights are 10 to 1000; rates are bytes or operations per second.
pub(crate) fn plan(builder: &mut Builder<'_>, block_io: Option<&LinuxBlockIo>) -> Result<(), Error> {
    let Some(block_io) = block_io.filter(|block_io| **block_io != LinuxBlockIo::default()) else {
        return Ok(());
    };
    let place = builder.place("blkio", "blockIO")?;
    plan_weights(builder, place, block_io)?;
    for (v1, v2, devices) in [
        ("read_bps_device", "rbps", block_io.throttle_read_bps_device()),
        ("write_bps_device", "wbps", block_io.throttle_write_bps_device()),
        ("read_iops_device", "riops", block_io.throttle_read_iops_device()),
        (
            "write_iops_device",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            plan_throttle(builder, place, v1, v2, device);
        }
    }
    Ok(())
}

fn plan_weights(builder: &mut Builder<'_>, place: Place, block_io: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        write_weight(builder, place, None, weight)?;
    }
    for device in block_io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(unavailable(
                "blockIO.weightDevice.leafWeight",
                "is not implemented",
            ));
        }
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            write_weight(builder, place, Some((device.major(), device.minor())), weight)?;
        }
    }
    Ok(())
}

/// The weight of one device or, with `None`, of the others. BFQ has files of its own in both versions.
fn write_weight(
    builder: &mut Builder<'_>,
    place: Place,
    device: Option<(i64, i64)>,
    weight: u16,
) -> Result<(), Error> {
    if !(10..=1000).contains(&weight) {
        return Err(unavailable(
            "blockIO.weight",
            format!("{weight} is not within 10 to 1000"),
        ));
    }
    let value = |weight: u64| match device {
        Some((major, minor)) => format!("{major}:{minor} {weight}"),
        None => weight.to_string(),
    };
    let weight = u64::from(weight);
    let suffix = if device.is_some() && !place.unified {
        "_device"
    } else {
        ""
    };
    let (first, second, converted) = if place.unified {
        ("io.bfq.weight".to_owned(), "io.weight".to_owned(), spread(weight))
    } else {
        (
            format!("blkio.bfq.weight{suffix}"),
            format!("blkio.weight{suffix}"),
            weight,
        )
    };
    let otherwise = Otherwise::Write(second, value(converted));
    builder.write_or(place, first, value(weight), otherwise);
    Ok(())
}

/// BFQ's 10 to 1000 on the 1 to 10000 of `io.weight`, as crun and runc do.
fn spread(weight: u64) -> u64 {
    1 + (weight - 10) * 9999 / 990
}

fn plan_throttle(builder: &mut Builder<'_>, place: Place, v1: &str, v2: &str, device: &LinuxThrottleDevice) {
    let (major, minor, rate) = (device.major(), device.minor(), device.rate());
    if place.unified {
        let rate = if rate == 0 {
            "max".to_owned()
        } else {
            rate.to_string()
        };
        builder.write(place, "io.max", format!("{major}:{minor} {v2}={rate}"));
    } else {
        builder.write(
            place,
            format!("blkio.throttle.{v1}"),
            format!("{major}:{minor} {rate}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::tests::UNIFIED;
    use super::super::super::plan::tests::{assert_both, planned};
    use super::spread;
    use serde_json::json;

    #[test]
    fn weights_and_throttles_are_planned() {
        assert_both(
            json!({"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}}),
            &["blkio.bfq.weight=500", "blkio.throttle.read_bps_device=8:0 1000"],
            &["io.bfq.weight=500", "io.max=8:0 rbps=1000"],
        );
    }

    #[test]
    fn the_ends_of_both_scales_meet() {
        assert_eq!([spread(10), spread(300), spread(1000)], [1, 2930, 10_000]);
    }

    #[test]
    fn a_weight_is_within_bounds() {
        assert!(planned(UNIFIED, json!({"blockIO": {"weight": 5}})).is_err());
    }
}

//! memory: limit, reservation, swap (Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).

use oci_spec::runtime::LinuxMemory;

use super::super::Error;
use super::super::plan::{Builder, Otherwise, Place, unavailable};

/// Plans `memory`. Values are bytes; -1 is no limit, 0 and absent leave the kernel's default.
pub(crate) fn plan(builder: &mut Builder<'_>, memory: Option<&LinuxMemory>) -> Result<(), Error> {
    let Some(memory) = memory.filter(|memory| **memory != LinuxMemory::default()) else {
        return Ok(());
    };
    if memory.use_hierarchy() == Some(false) {
        return Err(unavailable(
            "memory.useHierarchy",
            "hierarchical accounting cannot be switched off",
        ));
    }
    let place = builder.place("memory", "memory")?;
    if place.unified {
        unified(builder, place, memory)
    } else {
        separate(builder, place, memory)
    }
}

fn separate(builder: &mut Builder<'_>, place: Place, memory: &LinuxMemory) -> Result<(), Error> {
    // The limit first: the kernel keeps memory+swap at least as large as memory.
    for (file, value) in [
        ("memory.limit_in_bytes", memory.limit()),
        ("memory.memsw.limit_in_bytes", memory.swap()),
        ("memory.soft_limit_in_bytes", memory.reservation()),
    ] {
        if let Some(value) = value.filter(|value| *value != 0) {
            builder.write(place, file, value);
        }
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(unavailable(
                "memory.swappiness",
                format!("{swappiness} is not within 0 to 100"),
            ));
        }
        builder.write(place, "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        builder.write(place, "memory.oom_control", 1);
    }
    Ok(())
}

fn unified(builder: &mut Builder<'_>, place: Place, memory: &LinuxMemory) -> Result<(), Error> {
    if memory.swappiness().is_some() {
        return Err(unavailable("memory.swappiness", "cgroup v2 has no swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unavailable(
            "memory.disableOOMKiller",
            "cgroup v2 cannot switch the OOM killer off",
        ));
    }
    if let Some(swap) = swap_alone(memory)? {
        // A kernel without swap has no such file, and nothing that it could limit.
        builder.write_or(place, "memory.swap.max", swap, Otherwise::Skip);
    }
    for (file, value) in [
        ("memory.max", memory.limit()),
        ("memory.low", memory.reservation()),
    ] {
        if let Some(value) = value.filter(|value| *value != 0) {
            builder.write(place, file, limit(value));
        }
    }
    Ok(())
}

/// v2 limits swap by itself, the configuration gives memory and swap together.
fn swap_alone(memory: &LinuxMemory) -> Result<Option<String>, Error> {
    let limit = memory.limit().unwrap_or(0);
    match memory.swap().unwrap_or(0) {
        0 => Ok(None),
        -1 => Ok(Some("max".to_owned())),
        _ if limit <= 0 => Err(unavailable("memory.swap", "needs memory.limit")),
        swap if swap < limit => Err(unavailable(
            "memory.swap",
            "is less than memory.limit, which it includes",
        )),
        swap => Ok(Some((swap - limit).to_string())),
    }
}

fn limit(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::tests::UNIFIED;
    use super::super::super::plan::tests::{assert_both, planned};
    use serde_json::json;

    #[test]
    fn limits_are_planned() {
        assert_both(
            json!({"memory": {"limit": 1000, "swap": 1500, "reservation": 500}}),
            &[
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=1500",
                "memory.soft_limit_in_bytes=500",
            ],
            &["memory.swap.max=500", "memory.max=1000", "memory.low=500"],
        );
    }

    #[test]
    fn minus_one_is_no_limit_and_zero_is_unset() {
        assert_both(
            json!({"memory": {"limit": -1, "swap": -1, "reservation": 0}}),
            &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            &["memory.swap.max=max", "memory.max=max"],
        );
    }

    #[test]
    fn what_v2_cannot_do_is_refused() {
        for memory in [
            json!({"swappiness": 10}),
            json!({"disableOOMKiller": true}),
            json!({"swap": 5}),
            json!({"swap": 5, "limit": 9}),
        ] {
            assert!(planned(UNIFIED, json!({ "memory": memory })).is_err());
        }
    }
}

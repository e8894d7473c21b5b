//! pids: how many processes and threads (Documentation/admin-guide/cgroup-v1/pids.rst).

use oci_spec::runtime::LinuxPids;

use super::super::Error;
use super::super::plan::Builder;

/// Plans `pids`; a limit below 1 is none.
pub(crate) fn plan(builder: &mut Builder<'_>, pids: Option<&LinuxPids>) -> Result<(), Error> {
    let Some(pids) = pids else {
        return Ok(());
    };
    let place = builder.place("pids", "pids")?;
    let limit = pids.limit();
    let value = if limit > 0 {
        limit.to_string()
    } else {
        "max".to_owned()
    };
    builder.write(place, "pids.max", value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::tests::assert_both;
    use serde_json::json;

    #[test]
    fn a_limit_or_none() {
        assert_both(json!({"pids": {"limit": 5}}), &["pids.max=5"], &["pids.max=5"]);
        assert_both(
            json!({"pids": {"limit": -1}}),
            &["pids.max=max"],
            &["pids.max=max"],
        );
    }
}

//! `linux.resources` as writes to files.

use oci_spec::runtime::LinuxResources;

use super::controllers::{cpu, devices, hugetlb, io, memory, pids};
use super::{Error, Layout};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// Index of the hierarchy in [`Layout::hierarchies`].
    pub(crate) hierarchy: usize,
    /// File below the container's directory.
    pub(crate) file: String,
    /// What to write.
    pub(crate) value: String,
    /// What to do if there is no such file.
    pub(crate) otherwise: Otherwise,
}

/// What takes the place of a write to a file that a kernel may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Nothing: the write fails.
    Fail,
    /// It is left out: without the file there is nothing to limit.
    Skip,
    /// Another file, and what to write to it.
    Write(String, String),
}

/// Everything to set, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Files to write.
    pub(crate) writes: Vec<Write>,
    /// Device program of the unified hierarchy, where devices are not a matter of files.
    pub(crate) device_program: Option<Vec<sys::bpf::Instruction>>,
}

/// Collects the writes for one machine, and knows where each controller is.
pub(super) struct Builder<'a> {
    layout: &'a Layout,
    pub(super) plan: Plan,
}

/// Interface of a controller on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hierarchy: usize,
    pub(super) unified: bool,
}

impl Builder<'_> {
    /// Where `controller` is, or the error for `field` that it is nowhere.
    pub(super) fn place(&self, controller: &str, field: &str) -> Result<Place, Error> {
        if let Some(hierarchy) = self.layout.unified() {
            return Ok(Place {
                hierarchy,
                unified: true,
            });
        }
        let hierarchy = self.layout.v1(controller).ok_or_else(|| {
            unavailable(
                field,
                format!("this machine has no {controller} cgroup controller"),
            )
        })?;
        Ok(Place {
            hierarchy,
            unified: false,
        })
    }

    /// Adds a write of `value` to `file`.
    pub(super) fn write(&mut self, place: Place, file: impl Into<String>, value: impl ToString) {
        self.write_or(place, file, value, Otherwise::Fail);
    }

    /// Adds a write of `value` to `file`, or `otherwise` if there is no such file.
    pub(super) fn write_or(
        &mut self,
        place: Place,
        file: impl Into<String>,
        value: impl ToString,
        otherwise: Otherwise,
    ) {
        self.plan.writes.push(Write {
            hierarchy: place.hierarchy,
            file: file.into(),
            value: value.to_string(),
            otherwise,
        });
    }
}

/// The error that `field` cannot be done here.
pub(super) fn unavailable(field: &str, reason: impl Into<String>) -> Error {
    Error::Unavailable {
        field: field.to_owned(),
        reason: reason.into(),
    }
}

/// Plans `resources` on `layout`. Devices are denied unless a rule allows them, with or without `resources`.
pub(crate) fn plan(resources: Option<&LinuxResources>, layout: &Layout) -> Result<Plan, Error> {
    let mut builder = Builder {
        layout,
        plan: Plan::default(),
    };
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    devices::plan(&mut builder, rules.unwrap_or_default())?;
    if let Some(resources) = resources {
        memory::plan(&mut builder, resources.memory().as_ref())?;
        cpu::plan(&mut builder, resources.cpu().as_ref())?;
        pids::plan(&mut builder, resources.pids().as_ref())?;
        io::plan(&mut builder, resources.block_io().as_ref())?;
        hugetlb::plan(
            &mut builder,
            resources.hugepage_limits().as_deref().unwrap_or_default(),
        )?;
        plan_unified(&mut builder, resources)?;
    }
    Ok(builder.plan)
}

/// `unified`: files of the v2 interface, written as they are.
fn plan_unified(builder: &mut Builder<'_>, resources: &LinuxResources) -> Result<(), Error> {
    let Some(files) = resources.unified().as_ref().filter(|files| !files.is_empty()) else {
        return Ok(());
    };
    let Some(hierarchy) = builder.layout.unified() else {
        return Err(unavailable(
            "unified",
            "this machine does not control resources by cgroup v2",
        ));
    };
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, value) in files {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(unavailable(
                "unified",
                format!("{file:?} is no file of a controller"),
            ));
        }
        builder.write(
            Place {
                hierarchy,
                unified: true,
            },
            file.as_str(),
            value,
        );
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::layout::tests::{HYBRID, UNIFIED};
    use super::*;
    use serde_json::{Value, json};

    /// The files and values that `resources` plans, devices left out.
    pub(crate) fn planned(mountinfo: &str, resources: Value) -> Result<Vec<(String, String)>, Error> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let plan = plan(Some(&resources), &Layout::parse(mountinfo))?;
        Ok(plan
            .writes
            .into_iter()
            .filter(|write| !write.file.starts_with("devices."))
            .map(|write| (write.file, write.value))
            .collect())
    }

    /// Asserts what `resources` plans on v1 and on v2, as `file=value`.
    pub(crate) fn assert_both(resources: Value, v1: &[&str], v2: &[&str]) {
        for (layout, expected) in [(HYBRID, v1), (UNIFIED, v2)] {
            let writes = planned(layout, resources.clone()).unwrap();
            let texts: Vec<_> = writes
                .iter()
                .map(|(file, value)| format!("{file}={value}"))
                .collect();
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn unified_files_are_for_v2() {
        let resources = json!({"unified": {"memory.high": "1000", "io.weight": "7"}});
        assert!(planned(HYBRID, resources.clone()).is_err());
        assert_eq!(planned(UNIFIED, resources).unwrap().len(), 2);
        assert!(planned(UNIFIED, json!({"unified": {"../x.y": "1"}})).is_err());
        assert!(planned(UNIFIED, json!({"unified": {"cgroup.procs": "1"}})).is_err());
    }
}

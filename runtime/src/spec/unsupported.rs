//! The fields of config.json that this runtime does not act on. Each is refused by its path: nothing is parsed and
//! then forgotten.

use oci_spec::runtime::{Linux, LinuxResources, Mount, Process, Spec};

use super::Error;

/// A field's path, and whether it is set.
type Field<'a> = (&'a str, bool);

/// Refuses a configuration that sets a field which is not implemented.
pub(super) fn refuse(spec: &Spec) -> Result<(), Error> {
    first_set(&[
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ])?;
    refuse_hooks(spec)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        refuse_mount(index, mount)?;
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    refuse_linux(linux)?;
    linux.resources().as_ref().map_or(Ok(()), refuse_resources)
}

/// Refuses a process that sets a field which is not implemented.
pub(super) fn refuse_process(process: &Process) -> Result<(), Error> {
    let text = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    first_set(&[
        ("process.commandLine", text(process.command_line())),
        ("process.apparmorProfile", text(process.apparmor_profile())),
        ("process.selinuxLabel", text(process.selinux_label())),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
        ("process.user.username", text(process.user().username())),
    ])
}

fn refuse_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    let listed = |hooks: &Option<Vec<_>>| hooks.as_ref().is_some_and(|list| !list.is_empty());
    #[allow(deprecated)]
    let prestart = listed(hooks.prestart());
    first_set(&[
        ("hooks.prestart", prestart),
        ("hooks.createRuntime", listed(hooks.create_runtime())),
        ("hooks.createContainer", listed(hooks.create_container())),
        ("hooks.startContainer", listed(hooks.start_container())),
        ("hooks.poststart", listed(hooks.poststart())),
        ("hooks.poststop", listed(hooks.poststop())),
    ])
}

fn refuse_mount(index: usize, mount: &Mount) -> Result<(), Error> {
    let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    first_set(&[
        (
            &format!("mounts[{index}].uidMappings"),
            mapped(mount.uid_mappings()),
        ),
        (
            &format!("mounts[{index}].gidMappings"),
            mapped(mount.gid_mappings()),
        ),
    ])
}

fn refuse_linux(linux: &Linux) -> Result<(), Error> {
    let label = linux
        .mount_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty());
    let offsets = linux
        .time_offsets()
        .as_ref()
        .is_some_and(|offsets| !offsets.is_empty());
    let devices = linux
        .net_devices()
        .as_ref()
        .is_some_and(|devices| !devices.is_empty());
    let listener = linux
        .seccomp()
        .as_ref()
        .is_some_and(|seccomp| seccomp.listener_path().is_some());
    first_set(&[
        ("linux.netDevices", devices),
        ("linux.mountLabel", label),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.timeOffsets", offsets),
        ("linux.seccomp.listenerPath", listener),
    ])
}

fn refuse_resources(resources: &LinuxResources) -> Result<(), Error> {
    let network = resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some() || network.priorities().as_ref().is_some_and(|list| !list.is_empty())
    });
    let rdma = resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty());
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    first_set(&[
        ("linux.resources.network", network),
        ("linux.resources.rdma", rdma),
        // The kernel dropped both limits; runc ignores them, and a limit that does not limit is a trap.
        (
            "linux.resources.memory.kernel",
            memory.is_some_and(|memory| memory.kernel().is_some_and(|limit| limit > 0)),
        ),
        (
            "linux.resources.memory.kernelTCP",
            memory.is_some_and(|memory| memory.kernel_tcp().is_some_and(|limit| limit > 0)),
        ),
        (
            "linux.resources.cpu.realtimeRuntime",
            cpu.is_some_and(|cpu| cpu.realtime_runtime().is_some_and(|value| value != 0)),
        ),
        (
            "linux.resources.cpu.realtimePeriod",
            cpu.is_some_and(|cpu| cpu.realtime_period().is_some_and(|value| value != 0)),
        ),
        (
            "linux.resources.blockIO.leafWeight",
            resources
                .block_io()
                .as_ref()
                .is_some_and(|io| io.leaf_weight().is_some_and(|weight| weight != 0)),
        ),
    ])
}

fn first_set(fields: &[Field<'_>]) -> Result<(), Error> {
    match fields.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(Error::Unsupported((*name).to_owned())),
        None => Ok(()),
    }
}

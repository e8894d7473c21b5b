//! Control groups: limits as the container and the machine see them, devices, the OOM killer, groups within groups.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use integration::Agent;
use serde_json::{Value, json};

use super::{Check, When, id, run_script, state};

pub(super) const CHECKS: &[Check] = &[
    ("limits", When::Always, limits),
    ("more-limits", When::Always, more_limits),
    ("no-limits", When::Oldest, no_limits),
    ("devices", When::Always, devices),
    ("oom", When::Always, oom),
    ("groups-within", When::Always, groups_within),
    ("parents", When::Oldest, parents),
];

/// The directory of a running container, from the machine's point of view.
fn group(agent: &Agent, name: &str) -> Result<PathBuf> {
    let pid = &state(agent, name)?["Pid"];
    let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = membership
        .trim()
        .strip_prefix("0::/")
        .context(membership.clone())?;
    ensure!(path.ends_with(&id(agent, name)?), "{path}");
    Ok(Path::new("/sys/fs/cgroup").join(path))
}

fn ensure_files(group: &Path, expected: &[(&str, &str)]) -> Result<()> {
    for (file, value) in expected {
        let found = std::fs::read_to_string(group.join(file)).with_context(|| (*file).to_owned())?;
        ensure!(found.trim() == *value, "{file}: {found:?}, expected {value:?}");
    }
    Ok(())
}

fn limits(agent: &mut Agent) -> Result<()> {
    let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"];
    let words = [
        &["run", "-d", "--name", "limits"],
        &limits[..],
        &["bb", "sleep", "1000"],
    ]
    .concat();
    agent.cli_ok(&words)?;
    let expected = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "50"),
    ];
    ensure_files(&group(agent, "limits")?, &expected)?;
    let mut inside = vec!["exec".to_owned(), "limits".to_owned(), "cat".to_owned()];
    inside.extend(expected.map(|(file, _)| format!("/sys/fs/cgroup/{file}")));
    let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
    let seen = agent.cli_ok(&inside)?;
    ensure!(
        seen.lines().eq(expected.map(|(_, value)| value)),
        "inside: {seen}"
    );
    let write = agent.cli(&[
        "exec",
        "limits",
        "sh",
        "-c",
        "echo max > /sys/fs/cgroup/memory.max",
    ])?;
    ensure!(!write.status.success(), "a container raised its own limit");
    agent.cli_ok(&["rm", "-f", "limits"])?;
    Ok(())
}

/// A container with a configuration that the command line has no words for.
fn create(agent: &Agent, name: &str, host: &Value, command: &[&str]) -> Result<()> {
    let body = json!({"Image": "bb", "Cmd": command, "HostConfig": host});
    agent.post(&format!("/containers/create?name={name}"), &body)?;
    agent.post(&format!("/containers/{name}/start"), &Value::Null)?;
    Ok(())
}

fn more_limits(agent: &mut Agent) -> Result<()> {
    let host = json!({
        "Memory": 64 << 20, "MemorySwap": 64 << 20, "MemoryReservation": 32 << 20,
        "CpuShares": 2048, "CpusetCpus": "1", "CpusetMems": "0",
        "BlkioWeight": 300,
        "BlkioDeviceReadBps": [{"Path": "/dev/vda", "Rate": 1_048_576}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/vda", "Rate": 100}],
    });
    create(agent, "more", &host, &["sleep", "1000"])?;
    let group = group(agent, "more")?;
    let expected = [
        ("memory.swap.max", "0"),
        ("memory.low", "33554432"),
        ("cpuset.cpus.effective", "1"),
        ("cpuset.mems.effective", "0"),
    ];
    ensure_files(&group, &expected)?;
    let weight: u32 = std::fs::read_to_string(group.join("cpu.weight"))?
        .trim()
        .parse()?;
    ensure!((101..1000).contains(&weight), "cpu.weight: {weight}");
    let max = std::fs::read_to_string(group.join("io.max"))?;
    ensure!(
        max.contains("rbps=1048576 wbps=max riops=max wiops=100"),
        "io.max: {max}"
    );
    // Docker's 10 to 1000 are 1 to 10000 here, unless BFQ has the disk.
    let weight = ["io.bfq.weight", "io.weight"]
        .map(|file| std::fs::read_to_string(group.join(file)).unwrap_or_default());
    ensure!(
        weight
            .iter()
            .any(|text| text.contains("default 2930") || text.contains("300")),
        "io.weight: {weight:?}"
    );
    agent.cli_ok(&["rm", "-f", "more"])?;
    Ok(())
}

fn no_limits(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&["run", "-d", "--name", "free", "bb", "sleep", "1000"])?;
    ensure_files(
        &group(agent, "free")?,
        &[
            ("memory.max", "max"),
            ("cpu.max", "max 100000"),
            ("cpu.weight", "100"),
        ],
    )?;
    agent.cli_ok(&["rm", "-f", "free"])?;
    Ok(())
}

fn devices(agent: &mut Agent) -> Result<()> {
    let numbers = std::fs::read_to_string("/sys/class/block/vda/dev")?;
    let (major, minor) = numbers.trim().split_once(':').context(numbers.clone())?;
    // A node may be made, but the disk not be opened; what every program needs works.
    let script = format!(
        "mknod /disk b {major} {minor} || exit 1\n\
         head -c 1 /disk 2>&1 && exit 2\n\
         head -c 1 /dev/zero > /dev/null || exit 3\n\
         head -c 1 /dev/urandom > /dev/tty 2> /dev/null\n\
         exit 0"
    );
    let said = run_script(agent, &[], &script)?;
    ensure!(said.contains("Operation not permitted"), "{said}");
    let mapped = json!({"Devices": [{"PathOnHost": "/dev/vda", "PathInContainer": "/dev/disk", "CgroupPermissions": "r"}]});
    let script =
        "head -c 1 /dev/disk > /dev/null || exit 1; (echo > /dev/disk) 2> /dev/null && exit 2; exit 0";
    create(agent, "disk", &mapped, &["sh", "-c", script])?;
    expect_code(agent, "disk", 0)?;
    let all = run_script(
        agent,
        &["--privileged"],
        "head -c 1 /dev/vda > /dev/null && echo read",
    )?;
    ensure!(all == "read\n", "{all}");
    Ok(())
}

fn expect_code(agent: &Agent, name: &str, code: i64) -> Result<()> {
    let end = agent.post(&format!("/containers/{name}/wait"), &Value::Null)?;
    if end["StatusCode"] != code {
        bail!("{name} ended with {end}: {}", agent.cli_ok(&["logs", name])?);
    }
    agent.cli_ok(&["rm", name])?;
    Ok(())
}

fn oom(agent: &mut Agent) -> Result<()> {
    let host = json!({"Memory": 16 << 20, "MemorySwap": 16 << 20});
    create(
        agent,
        "hog",
        &host,
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
    )?;
    agent.post("/containers/hog/wait", &Value::Null)?;
    let state = state(agent, "hog")?;
    ensure!(state["OOMKilled"] == true && state["ExitCode"] == 137, "{state}");
    agent.cli_ok(&["rm", "hog"])?;
    Ok(())
}

/// A container that is an init system or an engine itself: it moves its processes to groups below its own and passes the
/// controllers on. From then on nobody may be in its own group (cgroups(7), no internal processes).
fn groups_within(agent: &mut Agent) -> Result<()> {
    let script = "cd /sys/fs/cgroup; mkdir init; echo 1 > init/cgroup.procs; echo +memory +pids > cgroup.subtree_control; \
                  cat init/cgroup.controllers; sleep 1000 & sleep 1000";
    agent.cli_ok(&[
        "run",
        "-d",
        "--privileged",
        "--name",
        "nest",
        "bb",
        "sh",
        "-c",
        script,
    ])?;
    integration::eventually("the container has made its groups", || {
        ensure!(agent.cli_ok(&["logs", "nest"])?.contains("memory"));
        Ok(())
    })?;
    let said = agent.cli_ok(&["exec", "nest", "echo", "joined"])?;
    ensure!(said == "joined\n", "{said}");
    agent.cli_ok(&["rm", "-f", "nest"])?;
    Ok(())
}

/// A parent that exists, has a limit and passes nothing on yet; and one that does not exist.
fn parents(agent: &mut Agent) -> Result<()> {
    let parent = Path::new("/sys/fs/cgroup/batch");
    std::fs::create_dir(parent)?;
    for (name, path) in [("there", "/batch"), ("new", "/batch/a/b")] {
        let host = json!({"CgroupParent": path, "Memory": 32 << 20});
        create(agent, name, &host, &["sleep", "1000"])?;
        ensure_files(&group(agent, name)?, &[("memory.max", "33554432")])?;
        agent.cli_ok(&["rm", "-f", name])?;
    }
    for path in ["batch/a/b", "batch/a", "batch"] {
        std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(path))?;
    }
    Ok(())
}

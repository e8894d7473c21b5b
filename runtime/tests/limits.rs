//! Cgroup limits bite, on whichever cgroup version this machine has.

mod common;

use std::fs;

use common::Bundle;
use serde_json::json;

#[test]
fn processes_are_limited() {
    let mut bundle = Bundle::new(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait"]);
    bundle.config["linux"]["resources"] = json!({"pids": {"limit": 4}});
    let ended = bundle.run();
    assert!(ended.stderr.contains("can't fork"), "{ended:?}");
    bundle.assert_nothing_left();
}

#[test]
fn memory_is_limited() {
    // The shell's pipe reader has no bound of its own.
    let mut bundle = Bundle::new(&["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=60"]);
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let ended = bundle.run();
    assert_ne!(ended.code, 0, "{ended:?}");
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 128 << 20}});
    bundle.run().expect(0);
}

#[test]
fn values_arrive_in_the_files() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = json!({
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "pids": {"limit": 77},
    });
    bundle.create().expect(0);
    let read = |file: &str| {
        bundle
            .cgroups()
            .iter()
            .find_map(|dir| fs::read_to_string(dir.join(file)).ok())
            .map(|text| text.trim().to_owned())
    };
    assert_eq!(read("pids.max").as_deref(), Some("77"));
    assert_eq!(read("cpuset.cpus").as_deref(), Some("0"));
    let cpu = read("cpu.max").unwrap_or_else(|| read("cpu.cfs_quota_us").unwrap());
    assert!(cpu.starts_with("50000"), "{cpu}");
    let memory = read("memory.max").unwrap_or_else(|| read("memory.limit_in_bytes").unwrap());
    assert_eq!(memory, (64 << 20).to_string());
    for dir in bundle.cgroups() {
        let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert!(
            members.lines().any(|pid| pid == bundle.pid().to_string()),
            "init is not in {dir:?}"
        );
    }
}

#[test]
fn devices_are_denied_unless_allowed() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "mknod /dev/kmsg c 1 11 && { cat /dev/kmsg; } 2>&1; mknod /dev/disk b 254 0 && { dd if=/dev/disk count=1; } 2>&1; cat </dev/null && echo null",
    ]);
    bundle.config["linux"]["resources"] = json!({"devices": []});
    let text = bundle.run().stdout;
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
    assert!(text.ends_with("null\n"), "{text}");
    bundle.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}]});
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "mknod /dev/kmsg c 1 11; { true >/dev/kmsg && echo opened; } 2>&1; { cat /dev/kmsg; } 2>&1"
    ]);
    let text = bundle.run().stdout;
    assert!(
        text.contains("opened") && text.contains("not permitted"),
        "{text}"
    );
}

#[test]
fn what_this_machine_cannot_limit_is_an_error() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]});
    bundle.run().expect_failure("huge");
    bundle.assert_nothing_left();
}

/// In a mount namespace that shows the unified hierarchy alone. The machine's controllers may still be bound to v1, so that
/// there are no limits to test; entering, the device program, the view from inside and removal are v2's all the same.
#[test]
fn on_the_unified_hierarchy_devices_are_a_program() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /proc/self/cgroup | grep ^0:; grep -c ' cgroup2 ' /proc/mounts; mknod /dev/kmsg c 1 11; { cat /dev/kmsg; } 2>&1; \
         mknod /dev/mem2 c 1 5 && dd if=/dev/mem2 of=/dev/null count=1 2>/dev/null && echo zero; ls /sys/fs/cgroup/cgroup.procs",
    ]);
    bundle.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    bundle.write();
    let script = format!(
        "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && {} --root {} run -b {} {id} && \
         test ! -e /sys/fs/cgroup/{id} && echo gone",
        env!("CARGO_BIN_EXE_runtime"),
        bundle.dir.path().join("state").display(),
        bundle.bundle().display(),
        id = bundle.id
    );
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "0::/",
        "1",
        "cat: can't open '/dev/kmsg': Operation not permitted",
        "zero",
        "/sys/fs/cgroup/cgroup.procs",
        "gone",
    ];
    assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

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

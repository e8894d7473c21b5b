//! Who a payload is and what it may do: identities, capabilities, limits, namespaces, seccomp, terminals.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::Bundle;
use serde_json::json;

fn status(bundle: &Bundle) -> String {
    bundle.output()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

#[test]
fn the_capabilities_are_the_configured_ones() {
    let bundle = Bundle::new(&["cat", "/proc/self/status"]);
    let text = status(&bundle);
    assert_eq!(field(&text, "CapEff"), "00000000a80425fb");
    assert_eq!(field(&text, "CapBnd"), "00000000a80425fb");
    // CVE-2022-29162, CVE-2022-24769: nothing is inheritable.
    assert_eq!(field(&text, "CapInh"), "0000000000000000");
    assert_eq!(field(&text, "CapAmb"), "0000000000000000");
}

#[test]
fn an_ambient_capability_that_cannot_be_granted_is_left_out() {
    // As `runc spec` writes it.
    let mut bundle = Bundle::new(&["cat", "/proc/self/status"]);
    let one = ["CAP_KILL"];
    bundle.config["process"]["capabilities"] =
        json!({"bounding": one, "effective": one, "permitted": one, "ambient": one});
    let text = status(&bundle);
    assert_eq!(field(&text, "CapEff"), "0000000000000020");
    assert_eq!(field(&text, "CapAmb"), "0000000000000000");
}

#[test]
fn no_capabilities_configured_are_none() {
    let mut bundle = Bundle::new(&["cat", "/proc/self/status"]);
    bundle.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    let text = status(&bundle);
    assert_eq!(
        (field(&text, "CapEff"), field(&text, "CapBnd")),
        ("0000000000000000", "0000000000000000")
    );
}

#[test]
fn ambient_capabilities_reach_another_user() {
    let mut bundle = Bundle::new(&["cat", "/proc/self/status"]);
    let one = json!(["CAP_NET_BIND_SERVICE"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    bundle.config["process"]["capabilities"] =
        json!({"bounding": one, "effective": one, "permitted": one, "inheritable": one, "ambient": one});
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    let text = status(&bundle);
    assert_eq!(field(&text, "CapEff"), "0000000000000400");
    assert_eq!(field(&text, "NoNewPrivs"), "1");
    // CVE-2022-36109: exactly the groups of the configuration.
    assert_eq!(field(&text, "Groups"), "7");
    assert_eq!(field(&text, "Uid"), "1000\t1000\t1000\t1000");
}

#[test]
fn a_capability_that_the_runtime_lacks_is_named() {
    let mut bundle = Bundle::new(&["true"]);
    let one = json!(["CAP_SYS_RESOURCE"]);
    bundle.config["process"]["capabilities"] = json!({"bounding": one, "effective": one, "permitted": one});
    bundle.write();
    let (runtime, dir) = (bundle.command(), bundle.bundle());
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .args(["run", "-b", dir.to_str().unwrap(), &bundle.id])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("CAP_SYS_RESOURCE is not available"), "{text}");
    bundle.assert_nothing_left();
}

#[test]
fn rlimits_umask_and_oom_score_are_set() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj; echo $HOME",
    ]);
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["process"]["user"]["umask"] = json!(0o27);
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    fs::create_dir(bundle.rootfs().join("etc")).unwrap();
    fs::write(
        bundle.rootfs().join("etc/passwd"),
        "0:x:5:5::/wrong:/\nroot:x:0:0::/root:/bin/sh\n",
    )
    .unwrap();
    assert_eq!(bundle.output(), "100\n200\n0027\n500\n/root\n");
}

#[test]
fn a_hard_limit_above_ours_is_a_clear_error() {
    let mut bundle = Bundle::new(&["true"]);
    let held = rustix::thread::capabilities(None).unwrap().permitted;
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 1_000_000_000}]);
    let text = if held.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        "RLIMIT_NOFILE"
    } else {
        "CAP_SYS_RESOURCE"
    };
    bundle.run().expect_failure(text);
}

/// Stdio that is a pipe belongs to the payload's user, who may open /dev/stdout.
#[test]
fn stdout_can_be_opened_by_another_user() {
    let mut bundle = Bundle::new(&["sh", "-c", "echo hello >/dev/stdout"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.write();
    let dir = bundle.bundle();
    let output = bundle
        .command()
        .args(["run", "-b", dir.to_str().unwrap(), &bundle.id])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "{output:?}");
}

#[test]
fn sysctls_of_own_namespaces_are_written_and_others_refused() {
    let mut bundle = Bundle::new(&[
        "cat",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/kernel/domainname",
    ]);
    bundle.config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "7", "kernel.domainname": "dom"});
    assert_eq!(bundle.output(), "7\ndom\n");
    bundle.config["linux"]["sysctl"] = json!({"kernel.core_pattern": "x"});
    bundle.run().expect_failure("not a setting of a namespace");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}]);
    bundle.run().expect_failure("needs a net namespace");
}

#[test]
fn a_user_namespace_maps_root_to_nobody_special() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /proc/self/uid_map; id -u; stat -c %u /owned; touch /made; ls -l /dev/null | wc -l; mount | grep -c proc",
    ]);
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    fs::write(bundle.rootfs().join("owned"), "").unwrap();
    common::host(
        "chown",
        &["-R", "100000:100000", bundle.rootfs().to_str().unwrap()],
    );
    let text = bundle.output();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"],
        "{text}"
    );
    assert_eq!(lines[1..4], ["0", "0", "1"], "{text}");
    assert_eq!(fs::metadata(bundle.rootfs().join("made")).unwrap().uid(), 100_000);
    bundle.assert_nothing_left();
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    let map = bundle.exec(&[], &["cat", "/proc/self/uid_map"]).expect(0).stdout;
    assert!(map.contains("100000"), "{map}");
}

#[test]
fn namespaces_are_joined_by_path() {
    let first = Bundle::new(&["sleep", "1000"]);
    first.create().expect(0);
    first.runtime(&["start", &first.id]).expect(0);
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid());
    let mut second = Bundle::new(&[
        "sh",
        "-c",
        "for kind in net pid ipc; do readlink /proc/self/ns/$kind; done",
    ]);
    second.config["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "network", "path": path("net")},
        {"type": "pid", "path": path("pid")}, {"type": "ipc", "path": path("ipc")},
    ]);
    second.config["hostname"] = json!("");
    let text = second.output();
    for (line, kind) in text.lines().zip(["net", "pid", "ipc"]) {
        assert_eq!(Path::new(line), fs::read_link(path(kind)).unwrap());
    }
    second.assert_nothing_left();
}

#[test]
fn a_user_namespace_is_joined_by_path_and_owns_what_is_new() {
    let mut first = Bundle::new(&["sleep", "1000"]);
    first.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    first.config["linux"]["uidMappings"] = map.clone();
    first.config["linux"]["gidMappings"] = map;
    common::host(
        "chown",
        &["-R", "100000:100000", first.rootfs().to_str().unwrap()],
    );
    first.create().expect(0);
    first.runtime(&["start", &first.id]).expect(0);
    let mut second = Bundle::new(&[
        "sh",
        "-c",
        "readlink /proc/self/ns/user; id -u; echo $$; hostname",
    ]);
    second.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user", "path": format!("/proc/{}/ns/user", first.pid())}));
    common::host(
        "chown",
        &["-R", "100000:100000", second.rootfs().to_str().unwrap()],
    );
    let text = second.output();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        Path::new(lines[0]),
        fs::read_link(format!("/proc/{}/ns/user", first.pid())).unwrap()
    );
    assert_eq!(lines[1..], ["0", "1", "box"], "{text}");
}

#[test]
fn seccomp_denies_what_the_profile_says() {
    for no_new_privileges in [false, true] {
        let mut bundle = Bundle::new(&["sh", "-c", "mkdir /x 2>&1; grep Seccomp: /proc/self/status"]);
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        let text = bundle.output();
        assert!(
            text.contains("not supported") && text.contains("Seccomp:\t2"),
            "{text}"
        );
    }
}

#[test]
fn a_terminal_is_the_containers_own() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "tty; stty size; stat -c %t:%T /dev/console; echo >/dev/tty && echo ok",
    ]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    let text = bundle.output();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[..3], ["/dev/pts/0", "33 77", "88:0"], "{text:?}");
    assert!(text.contains("ok"), "{text:?}");
    bundle.config["process"]["terminal"] = json!(false);
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    assert!(
        bundle
            .exec(&["--tty"], &["tty"])
            .expect(0)
            .stdout
            .contains("/dev/pts/")
    );
}

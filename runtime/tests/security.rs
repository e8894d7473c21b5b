//! What a container must not be able to do: identities, limits of privilege, and a regression test for each known class of
//! escape that this part of the runtime answers for, named by its CVE.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::Bundle;
use serde_json::{Value, json};

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
    let held = rustix::thread::capabilities(None).unwrap().permitted;
    if held.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        return;
    }
    let one = json!(["CAP_SYS_RESOURCE"]);
    bundle.config["process"]["capabilities"] = json!({"bounding": one, "effective": one, "permitted": one});
    bundle.run().expect_failure("CAP_SYS_RESOURCE is not available");
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

/// CVE-2024-21626: a working directory that is a descriptor of the runtime's.
#[test]
fn cve_2024_21626_working_directory_by_descriptor() {
    let mut bundle = Bundle::new(&["pwd"]);
    for number in 3..32 {
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        assert_ne!(bundle.run().code, 0, "descriptor {number}");
    }
    bundle.assert_nothing_left();
    bundle.config["process"]["cwd"] = json!("/");
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    for number in 3..16 {
        assert_ne!(
            bundle
                .exec(&["--cwd", &format!("/proc/self/fd/{number}")], &["pwd"])
                .code,
            0
        );
    }
}

/// Nothing but stdio is open in a payload, whatever the caller had open.
#[test]
fn only_stdio_reaches_the_payload() {
    let bundle = Bundle::new(&["sh", "-c", "echo /proc/self/fd/*"]);
    bundle.write();
    let script = format!(
        "exec 5</etc/passwd 9</ 77</dev/null; exec {} --root {} run -b {} {}",
        env!("CARGO_BIN_EXE_runtime"),
        bundle.dir.path().join("state").display(),
        bundle.bundle().display(),
        bundle.id
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .output()
        .unwrap();
    // The shell itself opens the directory as 3 to list it.
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n"
    );
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-54867: /proc or /sys of the image is a link.
#[test]
fn cve_2023_27561_proc_and_sys_as_links_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let bundle = Bundle::new(&["true"]);
        let canary = bundle.dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        for target in [canary.as_path(), Path::new("/elsewhere"), Path::new("elsewhere")] {
            symlink(target, bundle.rootfs().join(name)).unwrap();
            bundle.run().expect_failure(&format!("/{name}"));
            fs::remove_file(bundle.rootfs().join(name)).unwrap();
        }
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
        bundle.assert_nothing_left();
    }
}

/// CVE-2019-16884: a volume in the place of /proc, so that masks and labels fall on a fake.
#[test]
fn cve_2019_16884_a_volume_on_proc_is_refused() {
    let mut bundle = Bundle::new(&["true"]);
    let volume = bundle.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    bundle.mount("/proc", "bind", &volume, &["bind"]);
    bundle
        .run()
        .expect_failure("only a procfs may be mounted on /proc");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["destination"] = Value::from("/proc/sys");
    bundle.run().expect_failure("/proc");
}

/// CVE-2025-31133: /dev/null of the image is a link, and masks are made of it.
#[test]
fn cve_2025_31133_masks_are_not_of_the_images_null() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /proc/timer_list | wc -c; stat -c %t:%T /proc/timer_list; echo x",
    ]);
    bundle.without_mount("/dev").without_mount("/dev/pts");
    bundle.without_mount("/dev/shm").without_mount("/dev/mqueue");
    let canary = bundle.dir.path().join("canary");
    fs::write(&canary, "untouched").unwrap();
    fs::create_dir(bundle.rootfs().join("dev")).unwrap();
    for target in [Path::new("/proc/sys/kernel/domainname"), canary.as_path()] {
        let null = bundle.rootfs().join("dev/null");
        symlink(target, &null).unwrap();
        let ended = bundle.run();
        // The link is no null device: refused; masks would have been the host's device in any case.
        ended.expect_failure("/dev/null");
        fs::remove_file(null).unwrap();
    }
    fs::write(bundle.rootfs().join("dev/null"), "a file").unwrap();
    bundle.run().expect_failure("/dev/null");
    fs::remove_file(bundle.rootfs().join("dev/null")).unwrap();
    assert_eq!(bundle.output(), "0\n1:3\nx\n");
    assert_eq!(fs::read_to_string(canary).unwrap(), "untouched");
}

/// CVE-2026-41579: /dev of the image is a link, through which nodes and links are made.
#[test]
fn cve_2026_41579_dev_as_a_link_is_left_alone() {
    let mut bundle = Bundle::new(&["true"]);
    for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(mount);
    }
    let canary = bundle.dir.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("ptmx"), "untouched").unwrap();
    symlink(&canary, bundle.rootfs().join("dev")).unwrap();
    bundle.run().expect_failure("/dev");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(canary.join("ptmx")).unwrap(), "untouched");
}

/// CVE-2025-52565: /dev/console of the image is a link.
#[test]
fn cve_2025_52565_console_as_a_link_is_refused() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["process"]["terminal"] = json!(true);
    for mount in ["/dev", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(mount);
    }
    let canary = bundle.dir.path().join("canary");
    fs::write(&canary, "untouched").unwrap();
    fs::create_dir(bundle.rootfs().join("dev")).unwrap();
    symlink("/proc/sys/kernel/domainname", bundle.rootfs().join("dev/console")).unwrap();
    bundle.run().expect_failure("/dev/console");
    fs::remove_file(bundle.rootfs().join("dev/console")).unwrap();
    bundle.run().expect(0);
}

/// CVE-2021-30465: mount targets that are links out of the root lead to places inside it.
#[test]
fn cve_2021_30465_targets_stay_inside() {
    let mut bundle = Bundle::new(&["sh", "-c", "ls /outside"]);
    let outside = bundle.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let source = bundle.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    symlink("/../../../../../../../outside", bundle.rootfs().join("link")).unwrap();
    fs::create_dir(bundle.rootfs().join("outside")).unwrap();
    bundle.mount("/link/made", "bind", &source, &["bind"]);
    assert_eq!(bundle.output(), "made\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
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

/// CVE-2019-5736: the runtime's binary is open for writing to nobody through a process that a container can see.
#[test]
fn cve_2019_5736_the_binary_is_sealed() {
    let bundle = Bundle::new(&["/proc/self/exe", "--version"]);
    // The payload is the runtime itself.
    assert!(bundle.output().starts_with("runtime "));
    bundle.create().expect(0);
    let exe = format!("/proc/{}/exe", bundle.pid());
    let flags = rustix::fs::statvfs(&exe).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // Opening it for writing would fail in any case while it runs (ETXTBSY); this does not.
    let permissions = fs::metadata(&exe).unwrap().permissions();
    let error = fs::set_permissions(&exe, permissions).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(30), "EROFS: {error}");
}

/// CVE-2021-30465 as a race: the mount target is on a volume that somebody flips between a directory and a link.
#[test]
fn cve_2021_30465_a_flipping_target_leads_nowhere_else() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut bundle = Bundle::new(&["true"]);
    let dir = bundle.dir.path().to_owned();
    let (volume, outside, source) = (dir.join("volume"), dir.join("outside"), dir.join("source"));
    for path in [&volume, &outside, &source, &volume.join("target")] {
        fs::create_dir(path).unwrap();
    }
    symlink(&outside, volume.join("other")).unwrap();
    fs::create_dir_all(bundle.rootfs().join(outside.strip_prefix("/").unwrap())).unwrap();
    bundle.mount("/volume", "bind", &volume, &["bind"]).mount(
        "/volume/target/made",
        "bind",
        &source,
        &["bind"],
    );
    let stop = AtomicBool::new(false);
    let succeeded = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (volume.join("target"), volume.join("other"));
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let succeeded = (0..60).filter(|_| bundle.run().code == 0).count();
        stop.store(true, Ordering::Relaxed);
        succeeded
    });
    assert!(succeeded > 0, "no container was made at all");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside"
    );
    bundle.assert_nothing_left();
}

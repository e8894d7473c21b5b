//! What a container must not be able to do: a regression test for each known class of escape that this part of the runtime
//! answers for, named by its CVE. Canaries are directories of the test's own and the domain name of a namespace.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::Bundle;
use serde_json::{Value, json};

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

/// CVE-2016-9962: a process on its way into the container, with the runtime's descriptors still open, is seen by root in
/// there. It must show none of them.
#[test]
fn cve_2016_9962_a_joining_process_shows_nothing() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "echo watching >/log; while true; do for link in /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd; do \
         readlink $link >>/seen; done; done",
    ]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    common::eventually(|| bundle.rootfs().join("log").exists());
    for _ in 0..60 {
        bundle.exec(&[], &["true"]).expect(0);
    }
    bundle.runtime(&["kill", &bundle.id, "KILL"]).expect(0);
    let seen = fs::read_to_string(bundle.rootfs().join("seen")).unwrap();
    // What the watcher may see: its own root, program and stdio, and those of the payloads.
    let dir = bundle.dir.path().to_str().unwrap().to_owned();
    let stdio = [format!("{dir}/out"), format!("{dir}/err")];
    let foreign = |line: &&str| {
        !["/", "/bin/busybox", "/dev/null", "/seen"].contains(line)
            && !line.starts_with("/proc")
            && !stdio.iter().any(|path| path == line)
    };
    let foreign: Vec<&str> = seen.lines().filter(foreign).collect();
    assert!(seen.contains("/bin/busybox"), "the watcher saw nothing at all");
    assert_eq!(foreign, Vec::<&str>::new());
}

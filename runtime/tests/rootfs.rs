//! The root filesystem: mounts, overlay, devices, masks.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Bundle, make_root};
use serde_json::json;

#[test]
fn proc_dev_and_sys_are_as_docker_sets_them_up() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "hostname; stat -c '%n %t:%T %a' /dev/null /dev/tty; readlink /dev/ptmx; readlink /dev/fd; touch /sys/x 2>&1; cat /proc/1/comm; \
         ls /sys/fs/cgroup | wc -l; touch /sys/fs/cgroup/x 2>&1; echo >/proc/sys/kernel/domainname; ls /dev/pts /dev/shm /dev/mqueue",
    ]);
    let text = bundle.run().stdout;
    for line in [
        "box",
        "/dev/null 1:3 666",
        "/dev/tty 5:0 666",
        "pts/ptmx",
        "/proc/self/fd",
        "touch: /sys/x: Read-only file system",
        "sh",
        "ptmx",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is missing in {text}"
        );
    }
    assert!(
        text.contains("touch: /sys/fs/cgroup/x: Read-only file system"),
        "{text}"
    );
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_refuse() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware /proc/acpi | grep -v : | wc -w; touch /sys/firmware/x 2>&1; \
         { echo 1 >/proc/sys/kernel/domainname; } 2>&1; stat -c %t:%T /proc/keys",
    ]);
    let text = bundle.output();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1]), ("0", "0"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert_eq!(lines.last(), Some(&"1:3"));
}

#[test]
fn binds_are_what_their_options_say() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /data/file /conf/app; { echo x >/data/new; } 2>&1; echo y >/rw/new; { echo z >/rro/sub/new; } 2>&1; cat /conf/app; \
         { echo z >/plain/sub/new; } 2>&1; grep -c ' /data ' /proc/self/mountinfo",
    ]);
    let data = bundle.dir.path().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("file"), "content\n").unwrap();
    // A mount below the source, for the recursive options; made in a mount namespace of its own and so invisible here.
    bundle
        .mount("/data", "bind", &data, &["rbind", "ro", "rprivate"])
        .mount("/rw", "bind", &data, &["bind", "nosuid"])
        .mount("/conf/app", "bind", &data.join("file"), &["bind", "ro"])
        .mount("/rro", "bind", &data, &["rbind", "rro"])
        .mount("/plain", "bind", &data, &["rbind", "ro"]);
    bundle.write();
    let script = format!(
        "mount -t tmpfs sub {0}/sub && exec {1} --root {2} run -b {3} {4}",
        data.display(),
        env!("CARGO_BIN_EXE_runtime"),
        bundle.dir.path().join("state").display(),
        bundle.bundle().display(),
        bundle.id
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..2],
        ["content", "content"],
        "{text} {:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(lines[2].contains("Read-only"), "{text}");
    assert!(lines[3].contains("Read-only"), "recursive: {text}");
    assert_eq!(
        lines[4..],
        ["content", "1"],
        "the mount below a plain read-only bind stays writable: {text}"
    );
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "y\n");
    bundle.assert_nothing_left();
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1k count=100 2>&1; ls -l /t/x | wc -l",
    ]);
    bundle.mount(
        "/t",
        "tmpfs",
        Path::new("tmpfs"),
        &["size=64k", "mode=1770", "noexec"],
    );
    let text = bundle.output();
    assert!(
        text.starts_with("1770\n") && text.contains("No space left"),
        "{text}"
    );
}

#[test]
fn a_read_only_root_refuses_writes_and_its_mounts_do_not() {
    let mut bundle = Bundle::new(&["sh", "-c", "{ touch /x; } 2>&1; touch /dev/shm/x && echo ok"]);
    bundle.config["root"]["readonly"] = json!(true);
    // Mount targets are made before the root is closed.
    bundle.mount("/made/here", "tmpfs", Path::new("tmpfs"), &[]);
    let text = bundle.output();
    assert!(
        text.contains("Read-only file system") && text.ends_with("ok\n"),
        "{text}"
    );
}

#[test]
fn a_missing_working_directory_is_made() {
    let mut bundle = Bundle::new(&["pwd"]);
    bundle.config["process"]["cwd"] = json!("/a/b/c");
    assert_eq!(bundle.output(), "/a/b/c\n");
}

#[test]
fn propagation_is_the_hosts_only_if_asked_for() {
    let mut bundle = Bundle::new(&["grep", "-E", " /(private|shared|slave) ", "/proc/self/mountinfo"]);
    let data = bundle.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    bundle
        .mount("/private", "bind", &data, &["rbind"])
        .mount("/shared", "bind", &data, &["rbind", "rshared"])
        .mount("/slave", "bind", &data, &["rbind", "rslave"]);
    bundle.write();
    let script = format!(
        "mount --bind {0} {0} && mount --make-shared {0} && exec {1} --root {2} run -b {3} {4}",
        data.display(),
        env!("CARGO_BIN_EXE_runtime"),
        bundle.dir.path().join("state").display(),
        bundle.bundle().display(),
        bundle.id
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of = |name: &str| {
        text.lines()
            .find(|line| line.contains(&format!(" /{name} ")))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        !of("private").contains("shared:") && !of("private").contains("master:"),
        "{text}"
    );
    assert!(of("shared").contains("shared:"), "{text}");
    assert!(of("slave").contains("master:"), "{text}");
}

#[test]
fn two_hundred_layers_mount() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "cat /layer/0 /layer/199; cat /top; echo new >/written; ls /layer | wc -l",
    ]);
    let layers = bundle.dir.path().join("layers");
    let mut lower = Vec::new();
    for index in 0..200 {
        let layer = layers.join(format!("a-rather-long-name-for-a-layer-directory-{index:08}"));
        fs::create_dir_all(layer.join("layer")).unwrap();
        fs::write(layer.join(format!("layer/{index}")), format!("{index}\n")).unwrap();
        fs::write(layer.join("top"), format!("layer {index}\n")).unwrap();
        lower.insert(0, layer);
    }
    make_root(lower.last().unwrap());
    let (upper, work) = (bundle.dir.path().join("upper"), bundle.dir.path().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    bundle.write();
    let overlay = json!({"lower": lower, "upper": upper, "work": work, "options": ["volatile"]});
    let file = bundle.dir.path().join("overlay.json");
    fs::write(&file, overlay.to_string()).unwrap();
    let (dir, file) = (bundle.bundle(), file.to_str().unwrap().to_owned());
    let ended = bundle.runtime(&["run", "--overlay", &file, "-b", dir.to_str().unwrap(), &bundle.id]);
    assert_eq!(ended.expect(0).stdout, "0\n199\nlayer 199\n200\n");
    assert_eq!(fs::read_to_string(upper.join("written")).unwrap(), "new\n");
    bundle.assert_nothing_left();
}

/// As in images of machines with systemd-resolved.
#[test]
fn a_file_is_mounted_through_a_link_that_dangles() {
    let mut bundle = Bundle::new(&["sh", "-c", "cat /etc/resolv.conf; readlink /etc/resolv.conf"]);
    fs::create_dir(bundle.rootfs().join("etc")).unwrap();
    std::os::unix::fs::symlink("/run/stub.conf", bundle.rootfs().join("etc/resolv.conf")).unwrap();
    let file = bundle.dir.path().join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.11\n").unwrap();
    bundle.mount("/etc/resolv.conf", "bind", &file, &["bind"]);
    assert_eq!(bundle.output(), "nameserver 127.0.0.11\n/run/stub.conf\n");
}

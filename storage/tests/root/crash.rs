//! A process killed at any moment, and a disk that fills: nothing half made is left.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use serde_json::json;
use storage::{CreateVolume, Kind, Storage};

use crate::common::{Tar, docker_archive};

const ROOT: &str = "SHOAL_TEST_CRASH_ROOT";
const STEP: &str = "step done";

fn archive(number: usize) -> Vec<u8> {
    let layer = |part: usize| {
        let files = (0..20).fold(Tar::new(), |tar, i| {
            tar.file(
                &format!("d{part}/f{i}"),
                format!("{number} {part} {i}").as_bytes(),
            )
        });
        files.done()
    };
    docker_archive(&[layer(0), layer(1)], &[&format!("image:{number}")], json!({}))
}

/// The victim: loads, prepares and removes until it is killed, with a line for each step.
#[test]
#[ignore = "run by the test below, which kills it"]
fn victim() {
    // Without a root there is nobody to kill it.
    let Ok(root) = std::env::var(ROOT) else { return };
    let storage = Storage::open(Path::new(&root)).unwrap();
    let step = || println!("{STEP}");
    for number in 0.. {
        let images = storage.images();
        images
            .load(&mut archive(number % 7).as_slice(), &mut |_| {})
            .unwrap();
        step();
        let image = images.get(&format!("image:{}", number % 7)).unwrap();
        let key = format!("c{}", number % 3);
        storage.snapshots().remove(&key).unwrap();
        storage.snapshots().prepare(&key, &image.id).unwrap();
        step();
        let name = format!("volume{}", number % 2);
        storage.volumes().remove(&name, true, &|_| Vec::new()).unwrap();
        storage
            .volumes()
            .create(CreateVolume {
                name: Some(name.clone()),
                ..Default::default()
            })
            .unwrap();
        step();
        let view = storage.snapshots().view(&key).unwrap();
        assert!(storage.volumes().copy_up(&name, &view, "/d0").unwrap());
        step();
        if number % 3 == 2 {
            let oldest = format!("image:{}", (number + 5) % 7);
            images.remove(&oldest, Default::default(), &|_| None).unwrap();
            step();
        }
    }
}

fn check(root: &Path) {
    let storage = Storage::open(root).unwrap();
    for dir in ["ingest", "trash"] {
        assert_eq!(std::fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
    }
    let images = storage.images().list().unwrap();
    for layer in images.iter().flat_map(|image| &image.layers) {
        // Whole and byte for byte: the digest is checked on the way.
        storage.layers().write_tar(layer, &mut std::io::sink()).unwrap();
    }
    for snapshot in storage.snapshots().list().unwrap() {
        storage
            .snapshots()
            .view(&snapshot.key)
            .unwrap()
            .read_dir("/")
            .unwrap();
    }
    for volume in storage.volumes().list().unwrap() {
        let files = std::fs::read_dir(&volume.mountpoint).unwrap().count();
        assert!(files == 0 || files == 20, "{} has {files} files", volume.name);
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::victim", "--ignored", "--nocapture"])
            .env(ROOT, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let steps = output
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains(STEP));
        assert_eq!(
            steps.take(1 + round).count(),
            1 + round,
            "the victim failed by itself"
        );
        // Somewhere inside the step that follows.
        std::thread::sleep(Duration::from_millis(round as u64 * 13 % 40));
        child.kill().unwrap();
        child.wait().unwrap();
        check(dir.path());
    }
}

/// A store on a small file system of its own, which is attached nowhere.
fn small_disk(size: &str) -> (std::os::fd::OwnedFd, std::path::PathBuf) {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&fs, "size", size).unwrap();
    fsconfig_create(&fs).unwrap();
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd()).into();
    (mount, path)
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let (_mount, root) = small_disk("6m");
    let storage = Storage::open(&root).unwrap();
    let big = Tar::new().file("small", b"s").file("big", &[7; 8 << 20]).done();
    let archive = docker_archive(std::slice::from_ref(&big), &["big"], json!({}));
    let lease = storage.leases().acquire("test", Duration::from_secs(60)).unwrap();
    let errors = [
        storage
            .images()
            .load(&mut &*archive, &mut |_| {})
            .map(drop)
            .unwrap_err(),
        storage
            .layers()
            .apply_tar(&mut &*big, &lease)
            .map(drop)
            .unwrap_err(),
        storage.layers().unpack(&mut &*big).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::NoSpace, "{}", error.chain());
        assert!(
            error.to_string().contains("no space left in") && error.to_string().contains("try again"),
            "{error}"
        );
        for dir in ["ingest", "trash"] {
            assert_eq!(std::fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
        }
        assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 1);
    }
    assert!(storage.images().list().unwrap().is_empty());

    // What fits still works afterwards.
    let fits = docker_archive(&[Tar::new().file("f", b"x").done()], &["fits"], json!({}));
    storage.images().load(&mut &*fits, &mut |_| {}).unwrap();
}

#[test]
fn a_volume_that_does_not_fit_stays_empty() {
    let (_mount, root) = small_disk("6m");
    let storage = Storage::open(&root).unwrap();
    let volume = storage
        .volumes()
        .create(CreateVolume {
            name: Some("data".into()),
            ..Default::default()
        })
        .unwrap();
    let image = tempfile::tempdir().unwrap();
    std::fs::write(image.path().join("a"), "a").unwrap();
    std::fs::write(image.path().join("big"), vec![7; 8 << 20]).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let view = storage::RootFd::new(rustix::fs::openat(CWD, image.path(), flags, Mode::empty()).unwrap());
    let error = storage.volumes().copy_up("data", &view, "/").unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{}", error.chain());
    assert_eq!(std::fs::read_dir(&volume.mountpoint).unwrap().count(), 0);
    std::fs::remove_file(image.path().join("big")).unwrap();
    assert!(storage.volumes().copy_up("data", &view, "/").unwrap());
}

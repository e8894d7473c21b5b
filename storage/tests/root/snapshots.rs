//! Containers' file systems: preparing, viewing, comparing.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;
use storage::{ChangeKind, FileKind, Kind};

use crate::common::{Store, Tar, docker_archive, hello};

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn a_view_sees_upper_over_lower_and_attaches_nothing() {
    let store = Store::new();
    let top = Tar::new()
        .file("etc/.wh.hello", b"")
        .file("etc/passwd", b"root:x:0:0::/:\n")
        .done();
    let id = store
        .load(&docker_archive(&[hello(), top], &["bb"], json!({})))
        .unwrap()[0]
        .id;
    let snapshots = store.storage.snapshots();
    let paths = snapshots.prepare("c1", &id).unwrap();
    assert_eq!(paths.lower.len(), 2);
    assert!(paths.upper.is_dir() && paths.work.is_dir());
    fs::write(paths.upper.join("written"), "by the container").unwrap();
    let before = mounts();
    let view = snapshots.view("c1").unwrap();
    assert_eq!(mounts(), before);
    assert_eq!(view.read_file("/written", 100).unwrap(), b"by the container");
    assert_eq!(view.read_file("/etc/passwd", 100).unwrap(), b"root:x:0:0::/:\n");
    assert!(!view.exists("/etc/hello"));
    let image = snapshots.view_image(&id).unwrap();
    assert!(!image.exists("/written"));
    let names: Vec<_> = image
        .read_dir("/etc")
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.kind))
        .collect();
    assert_eq!(names, [("passwd".into(), FileKind::File)]);

    assert_eq!(snapshots.usage("c1").unwrap(), 16);
    assert_eq!(snapshots.mounts("c1").unwrap(), paths);
    let error = snapshots.prepare("c1", &id).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    snapshots.remove("c1").unwrap();
    snapshots.remove("c1").unwrap();
    assert_eq!(snapshots.mounts("c1").unwrap_err().kind(), Kind::NotFound);
    assert!(!paths.upper.exists());
}

#[test]
fn changes_are_told() {
    let store = Store::new();
    let id = store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap()[0]
        .id;
    let snapshots = store.storage.snapshots();
    let upper = snapshots.prepare("c1", &id).unwrap().upper;
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/new"), "x").unwrap();
    let (mode, kind) = (nix::sys::stat::Mode::empty(), nix::sys::stat::SFlag::S_IFCHR);
    nix::sys::stat::mknod(&upper.join("etc/hello"), kind, mode, 0).unwrap();
    let changes = snapshots.diff("c1").unwrap();
    let shown: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
    assert_eq!(
        shown,
        [
            ("/etc", ChangeKind::Modified),
            ("/etc/hello", ChangeKind::Deleted),
            ("/etc/new", ChangeKind::Added)
        ]
    );
}

#[test]
fn hundreds_of_layers_mount() {
    let store = Store::new();
    let layers: Vec<Vec<u8>> = (0..300)
        .map(|i| Tar::new().file(&format!("f{i}"), i.to_string().as_bytes()).done())
        .collect();
    let id = store
        .load(&docker_archive(&layers, &["many"], json!({})))
        .unwrap()[0]
        .id;
    store.storage.snapshots().prepare("c", &id).unwrap();
    let view = store.storage.snapshots().view("c").unwrap();
    for i in [0, 150, 299] {
        assert_eq!(
            view.read_file(format!("/f{i}"), 10).unwrap(),
            i.to_string().as_bytes()
        );
    }
}

#[test]
fn the_root_has_the_images_mode_and_an_image_of_nothing_works() {
    let store = Store::new();
    let bottom = Tar::new().dir("./", 0o751).file("a", b"1").done();
    let id = store
        .load(&docker_archive(&[bottom, hello()], &["a"], json!({})))
        .unwrap()[0]
        .id;
    let upper = store.storage.snapshots().prepare("c1", &id).unwrap().upper;
    assert_eq!(fs::metadata(upper).unwrap().mode() & 0o7777, 0o751);

    let empty = store.load(&docker_archive(&[], &["empty"], json!({}))).unwrap()[0].id;
    let paths = store.storage.snapshots().prepare("c2", &empty).unwrap();
    assert_eq!(paths.lower.len(), 1);
    assert!(
        store
            .storage
            .snapshots()
            .view("c2")
            .unwrap()
            .read_dir("/")
            .unwrap()
            .is_empty()
    );
    assert!(store.storage.snapshots().prepare("../x", &empty).is_err());
    assert!(
        store
            .storage
            .snapshots()
            .prepare("c3", &storage::ImageId(storage::Digest::of(b"no")))
            .is_err()
    );
}

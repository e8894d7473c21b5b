//! Volumes between two stores: nothing is lost, and nothing half arrives.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::XattrFlags;
use storage::{CreateVolume, Kind, Volume, Volumes};

use crate::common::Store;

fn source(store: &Store) -> Volume {
    let request = CreateVolume {
        name: Some("data".into()),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    let volume = store.storage.volumes().create(request).unwrap();
    fill(&volume.mountpoint);
    volume
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    fs::write(dir.join("deep/er/file"), "x").unwrap();
    chown(dir.join("deep/er/file"), Some(999), Some(70_000)).unwrap();
    fs::set_permissions(dir.join("deep/er/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(dir.join("deep/er/file"), dir.join("link")).unwrap();
    // Links are data here, wherever they lead.
    symlink("../../../../etc/passwd", dir.join("out")).unwrap();
    fs::write(dir.join("n".repeat(200)), "long").unwrap();
    fs::write(dir.join(".wh.file"), "no whiteout here").unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 40 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    File::create(dir.join("hole")).unwrap().set_len(5 << 20).unwrap();
    let device = makedev(1, 3);
    mknod(
        &dir.join("null"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        device,
    )
    .unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::S_IRUSR).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
    let deep = File::open(dir.join("deep")).unwrap();
    rustix::fs::fsetxattr(&deep, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    chown(dir, Some(70), Some(70)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o2700)).unwrap();
}

fn sent(volumes: &Volumes) -> Vec<u8> {
    let mut tar = Vec::new();
    volumes.send("data", &mut tar).unwrap();
    tar
}

#[test]
fn a_volume_arrives_with_everything_a_file_system_knows() {
    let (from, to) = (Store::new(), Store::new());
    let volume = source(&from);
    let (here, there) = (from.storage.volumes(), to.storage.volumes());
    let contents = here.contents("data").unwrap();
    assert_eq!(contents.sockets, 1);
    let tar = sent(&here);
    assert!(tar.len() < 1 << 20, "{} bytes: holes were written out", tar.len());
    let incoming = there.receive(&mut tar.as_slice()).unwrap();
    assert!(
        there.list().unwrap().is_empty(),
        "visible before it was looked at"
    );
    let arrived = incoming.keep(&volume, &contents).unwrap();

    assert_eq!(
        (&arrived.labels, &arrived.created_at),
        (&volume.labels, &volume.created_at)
    );
    let dir = &arrived.mountpoint;
    let at = |path: &str| fs::symlink_metadata(dir.join(path)).unwrap();
    let file = at("deep/er/file");
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()),
        (0o4750, 999, 70_000, 2)
    );
    assert_eq!(at("link").ino(), file.ino());
    assert_eq!(
        fs::read_link(dir.join("out")).unwrap(),
        Path::new("../../../../etc/passwd")
    );
    assert_eq!((at("sparse").len(), at("hole").len()), (100 << 20, 5 << 20));
    assert!(at("sparse").blocks() * 512 < 1 << 20);
    let mut middle = [0; 13];
    File::open(dir.join("sparse"))
        .unwrap()
        .read_exact_at(&mut middle, 40 << 20)
        .unwrap();
    assert_eq!(&middle, b"in the middle");
    assert_eq!(at("null").rdev(), makedev(1, 3));
    assert!(!dir.join("socket").exists());
    let root = at("");
    assert_eq!((root.mode() & 0o7777, root.uid()), (0o2700, 70));
    assert_eq!(
        root.mtime_nsec(),
        fs::metadata(&volume.mountpoint).unwrap().mtime_nsec()
    );
    let mut opaque = [0; 1];
    let deep = File::open(dir.join("deep")).unwrap();
    rustix::fs::fgetxattr(&deep, "trusted.overlay.opaque", &mut opaque).unwrap();
    assert!(there.contents("data").unwrap().same(&contents));
}

#[test]
fn what_differs_does_not_become_a_volume() {
    let (from, to) = (Store::new(), Store::new());
    let volume = source(&from);
    let (here, there) = (from.storage.volumes(), to.storage.volumes());
    let contents = here.contents("data").unwrap();
    let tar = sent(&here);
    for cut in [0, 100, 5000, tar.len() / 2, tar.len() - 1500] {
        if let Ok(incoming) = there.receive(&mut &tar[..cut]) {
            let refused = incoming.keep(&volume, &contents).unwrap_err();
            assert_eq!(refused.kind(), Kind::Conflict, "cut at {cut}: {refused}");
        }
    }
    // The smallest change after the copy is seen: in a file's data, its mode, a new name.
    let changes: [&dyn Fn(&Path); 3] = [
        &|dir| {
            let file = File::options().write(true).open(dir.join("hole")).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            (&file).write_all(b"\x01").unwrap();
            file.set_modified(time).unwrap();
        },
        &|dir| fs::set_permissions(dir.join("hole"), fs::Permissions::from_mode(0o600)).unwrap(),
        &|dir| fs::write(dir.join("new"), "").unwrap(),
    ];
    for change in changes {
        change(&volume.mountpoint);
        let changed = here.contents("data").unwrap();
        let incoming = there.receive(&mut tar.as_slice()).unwrap();
        assert_eq!(
            incoming.keep(&volume, &changed).unwrap_err().kind(),
            Kind::Conflict
        );
    }
    assert!(there.list().unwrap().is_empty());
    assert_eq!(to.names("volumes"), [""; 0]);
    assert_eq!(to.names("ingest"), [""; 0]);
}

#[test]
fn a_volume_that_is_there_is_not_replaced() {
    let (from, to) = (Store::new(), Store::new());
    let volume = source(&from);
    let contents = from.storage.volumes().contents("data").unwrap();
    let there = to.storage.volumes();
    let own = there
        .create(CreateVolume {
            name: Some("data".into()),
            ..Default::default()
        })
        .unwrap();
    fs::write(own.mountpoint.join("mine"), "").unwrap();
    let incoming = there
        .receive(&mut sent(&from.storage.volumes()).as_slice())
        .unwrap();
    let refused = incoming.keep(&volume, &contents).unwrap_err();
    assert_eq!(refused.to_string(), "volume data is here already");
    assert!(own.mountpoint.join("mine").exists());
}

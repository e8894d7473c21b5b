//! Unpacking layers and writing their tars again.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::{Store, Tar};

fn root_of(store: &Store, layer: &storage::Layer) -> PathBuf {
    store
        .dir
        .path()
        .join("layers")
        .join(layer.diff_id.hex())
        .join("fs")
}

fn xattr(path: &std::path::Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value[..n].to_vec())
}

#[test]
fn owners_modes_links_and_whiteouts_arrive() {
    let store = Store::new();
    let tar = Tar::new()
        .dir("./", 0o711)
        .dir("bin/", 0o755)
        .owned_file("bin/su", b"program", 0o4755, 1234)
        .hard_link("bin/su2", "bin/su")
        .symlink("sbin", "bin")
        .file("deep/er/file", b"x")
        .file("gone/.wh.old", b"")
        .file("fresh/.wh..wh..opq", b"")
        .done();
    let layer = store.apply(&tar, &store.lease()).unwrap();
    let root = root_of(&store, &layer);
    assert_eq!(layer.size, 8);
    assert_eq!(layer.tar_size, tar.len() as u64);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.nlink()), (0o4755, 1234, 2));
    assert_eq!(su.mtime(), 1_700_000_000);
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_700_000_000);
    assert_eq!(fs::read_link(root.join("sbin")).unwrap(), PathBuf::from("bin"));
    assert_eq!(fs::metadata(root.join("deep/er")).unwrap().mode() & 0o7777, 0o755);
    let whiteout = fs::symlink_metadata(root.join("gone/old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(
        xattr(&root.join("fresh"), "trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(fs::read_dir(root.join("fresh")).unwrap().count(), 0);
}

#[test]
fn a_layer_that_deletes_and_makes_the_same_directory_hides_the_old_one() {
    let store = Store::new();
    let before = Tar::new()
        .file(".wh.d", b"")
        .dir("d/", 0o755)
        .file("d/new", b"n")
        .done();
    let after = Tar::new()
        .dir("d/", 0o755)
        .file("d/new", b"m")
        .file(".wh.d", b"")
        .done();
    for tar in [before, after] {
        let layer = store.apply(&tar, &store.lease()).unwrap();
        let dir = root_of(&store, &layer).join("d");
        assert!(dir.join("new").is_file());
        assert_eq!(xattr(&dir, "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    }
}

#[test]
fn pax_times_attributes_and_capabilities_are_kept_but_overlays_own_are_not() {
    let store = Store::new();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::new();
    tar.0
        .append_pax_extensions([
            ("mtime", &b"1700000000.123456789"[..]),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .unwrap();
    let tar = tar.owned_file("ping", b"p", 0o755, 7).done();
    let layer = store.apply(&tar, &store.lease()).unwrap();
    let path = root_of(&store, &layer).join("ping");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec(), meta.uid()),
        (1_700_000_000, 123_456_789, 7)
    );
    assert_eq!(
        xattr(&path, "security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(xattr(&path, "user.note").as_deref(), Some(&b"hi"[..]));
    assert_eq!(xattr(&path, "trusted.overlay.redirect"), None);
}

#[test]
fn the_tar_comes_out_as_it_went_in() {
    let store = Store::new();
    // Replaced files, an unpadded end, a whiteout with data: all of it is part of the digest.
    let mut tar = Tar::new()
        .file("a", b"first")
        .file("b", &[7; 3000])
        .file("a", b"second")
        .file("c/x", b"below")
        .symlink("c", "b")
        .file(".wh.z", b"odd")
        .file("last", b"no padding")
        .done();
    let end = tar.windows(10).rposition(|w| w == b"no padding").unwrap() + 10;
    tar.truncate(end);
    let lease = store.lease();
    let layer = store.apply(&tar, &lease).unwrap();
    let root = root_of(&store, &layer);
    assert_eq!(fs::read(root.join("a")).unwrap(), b"second");
    let mut out = Vec::new();
    store
        .storage
        .layers()
        .write_tar(&layer.diff_id, &mut out)
        .unwrap();
    assert_eq!(out, tar);

    fs::write(root.join("b"), [8; 3000]).unwrap();
    let error = store
        .storage
        .layers()
        .write_tar(&layer.diff_id, &mut Vec::new())
        .unwrap_err();
    assert!(error.to_string().contains("changed on disk"), "{error}");
}

#[test]
fn gzip_and_zstd_give_the_same_layer() {
    let store = Store::new();
    let lease = store.lease();
    let tar = crate::common::hello();
    let plain = store.apply(&tar, &lease).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    assert_eq!(store.apply(&gzip.finish().unwrap(), &lease).unwrap(), plain);
    assert_eq!(
        store.apply(&zstd::encode_all(&*tar, 1).unwrap(), &lease).unwrap(),
        plain
    );
    assert_eq!(store.names("layers").len(), 2);
}

#[test]
fn every_cut_of_an_archive_is_an_error_or_whole() {
    let store = Store::new();
    let lease = store.lease();
    let tar = Tar::new().file("a", &[1; 700]).file("b", &[2; 10]).done();
    // After `b` there is only padding, which may be missing.
    for cut in [600, 1100, 1536 + 300, 1536 + 512 + 5] {
        let error = store.apply(&tar[..cut], &lease).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{cut}: {error}");
        store.assert_clean();
    }
    let zstd = zstd::encode_all(&*tar, 1).unwrap();
    let error = store.apply(&zstd[..zstd.len() - 4], &lease).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    store.assert_clean();
    assert!(store.apply(&tar[..2048 + 10], &lease).is_ok());
}

/// GNU tar's listing of a tree: names, modes, owners, times, links and the sum of each file.
fn listing(root: &std::path::Path) -> String {
    let script = "find . -mindepth 1 -printf '%P %y %m %U %G %T@ %l %n\\n' | sort; \
                  find . -type f -print0 | sort -z | xargs -0 -r sha256sum";
    let out = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_result_is_gnu_tars_for_each_of_its_formats() {
    let source = tempfile::tempdir().unwrap();
    let prepare = "mkdir -p d/e && echo one > d/one && ln d/one d/e/two && ln -s ../d/one d/link && mkfifo d/fifo && \
        mknod d/dev c 1 3 && truncate -s 1M d/sparse && printf x | dd of=d/sparse bs=1 seek=500000 conv=notrunc 2>/dev/null && \
        chmod 2750 d/e && chown 1:2 d/one && touch -d @1600000000.5 d/e && \
        n=$(printf '%0150d' 7) && echo long > d/$n && ln -s $n d/longlink";
    assert!(
        Command::new("sh")
            .arg("-c")
            .arg(prepare)
            .current_dir(source.path())
            .status()
            .unwrap()
            .success()
    );
    for format in ["gnu", "posix", "ustar"] {
        for sparse in [&["-S"][..], &[], &["-S", "--sparse-version=0.1"]] {
            if format == "ustar" && !sparse.is_empty() {
                continue;
            }
            let mut tar = Vec::new();
            let mut command = Command::new("tar");
            command
                .arg(format!("--format={format}"))
                .args(sparse)
                .args(["--numeric-owner", "-c", "d"]);
            let mut child = command
                .current_dir(source.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            child.stdout.take().unwrap().read_to_end(&mut tar).unwrap();
            // ustar cannot hold the long names and says so.
            assert!(child.wait().unwrap().success() || format == "ustar");

            let store = Store::new();
            let lease = store.lease();
            let layer = store.apply(&tar, &lease).unwrap();
            let theirs = tempfile::tempdir().unwrap();
            let mut child = Command::new("tar")
                .args(["-x", "--numeric-owner", "-p"])
                .current_dir(theirs.path())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&tar).unwrap();
            assert!(child.wait().unwrap().success());
            // Symlinks have their own times in ours and in GNU tar's alike.
            assert_eq!(
                listing(&root_of(&store, &layer)),
                listing(theirs.path()),
                "{format} {sparse:?}"
            );

            let mut out = Vec::new();
            store
                .storage
                .layers()
                .write_tar(&layer.diff_id, &mut out)
                .unwrap();
            assert!(out == tar, "{format} {sparse:?}");
        }
    }
}

#[test]
fn a_view_is_exported_as_a_tar_that_gives_the_same_tree() {
    let store = Store::new();
    let lease = store.lease();
    let tar = Tar::new()
        .dir("d/", 0o2750)
        .owned_file("d/f", b"data", 0o4711, 12)
        .hard_link("d/g", "d/f")
        .symlink("l", "d/f")
        .done();
    let layer = store.apply(&tar, &lease).unwrap();
    let view = store.storage.snapshots().view_layers(&[layer.diff_id]).unwrap();
    let mut out = Vec::new();
    view.write_tar("/", "", &mut out).unwrap();
    let again = store.apply(&out, &lease).unwrap();
    assert_eq!(
        listing(&root_of(&store, &again)),
        listing(&root_of(&store, &layer))
    );

    let mut part = Vec::new();
    view.write_tar("/d", "renamed", &mut part).unwrap();
    let names: Vec<String> = tar::Archive::new(&*part)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["renamed/", "renamed/f", "renamed/g"]);
}

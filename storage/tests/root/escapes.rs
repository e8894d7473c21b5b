//! Archives that try to write outside: each is refused, or lands inside, and nothing beside the root changes.

use std::fs;

use storage::Kind;

use crate::common::{Store, Tar};

/// Applies the tar beside a canary; the error text, or `None` if it was accepted.
fn attempt(tar: Vec<u8>) -> Option<String> {
    let store = Store::new();
    let canary = store.dir.path().join("canary");
    fs::write(&canary, "alive").unwrap();
    let outcome = store.apply(&tar, &store.lease());
    assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
    assert!(!std::path::Path::new("/tmp/shoal-escape").exists());
    assert!(!store.dir.path().join("escape").exists());
    match outcome {
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
            store.assert_clean();
            Some(error.to_string())
        }
    }
}

#[test]
fn names_that_climb_are_refused_by_name() {
    for path in [
        "../escape",
        "a/../../escape",
        "/../escape",
        "../../../../tmp/shoal-escape",
    ] {
        let error = attempt(Tar::new().file(path, b"x").done()).unwrap();
        assert!(error.contains(path) && error.contains("climbs out"), "{error}");
    }
    // An absolute name counts from the root, as in every tar.
    assert_eq!(attempt(Tar::new().file("/tmp/shoal-escape", b"x").done()), None);
}

#[test]
fn links_that_climb_are_refused() {
    for target in ["../escape", "../../../../../../tmp"] {
        assert!(
            attempt(Tar::new().symlink("link", target).done())
                .unwrap()
                .contains("climbs out")
        );
        assert!(
            attempt(Tar::new().hard_link("link", target).done())
                .unwrap()
                .contains("climbs out")
        );
    }
    assert!(attempt(Tar::new().hard_link("link", "/etc/passwd").done()).is_some());
}

#[test]
fn a_file_through_an_absolute_symlink_stays_inside() {
    let through = Tar::new()
        .symlink("tmp", "/tmp")
        .file("tmp/shoal-escape", b"x")
        .done();
    // The link's target does not exist inside: refused, for it would have to be made behind a symlink.
    assert!(attempt(through).is_some());
    let inside = Tar::new()
        .dir("real/", 0o755)
        .symlink("l", "/real")
        .file("l/f", b"x")
        .done();
    assert_eq!(attempt(inside), None);
    // The file replaces the link, and does not follow it.
    assert_eq!(
        attempt(
            Tar::new()
                .symlink("f", "/tmp/shoal-escape")
                .file("f", b"x")
                .done()
        ),
        None
    );
    assert!(attempt(Tar::new().symlink("l", "/etc").hard_link("p", "l/passwd").done()).is_some());
}

#[test]
fn a_directory_in_place_of_a_symlink_takes_no_mode_outside() {
    let before = fs::metadata("/tmp").unwrap().permissions();
    assert_eq!(
        attempt(Tar::new().symlink("d", "/tmp").dir("d/", 0o000).done()),
        None
    );
    assert_eq!(fs::metadata("/tmp").unwrap().permissions(), before);
}

#[test]
fn whiteouts_of_parents_are_refused() {
    for path in [
        ".wh...",
        ".wh..",
        "a/.wh...",
        ".wh.",
        "../.wh.x",
        "../.wh..wh..opq",
    ] {
        assert!(attempt(Tar::new().file(path, b"").done()).is_some(), "{path}");
    }
}

#[test]
fn two_sizes_for_one_entry_are_refused() {
    let mut tar = Tar::new();
    tar.0.append_pax_extensions([("size", &b"0"[..])]).unwrap();
    let hidden = Tar::new().file("../escape", b"x").done();
    let error = attempt(tar.file("innocent", &hidden).done()).unwrap();
    assert!(error.contains("header says"), "{error}");
}

#[test]
fn unknown_types_and_damaged_headers_are_refused() {
    let mut header = Tar::header(tar::EntryType::new(b'V'), 0o644, 0);
    header = Tar::named(header, "volume");
    let mut tar = Tar::new();
    tar.0.append(&header, &[][..]).unwrap();
    assert!(attempt(tar.done()).unwrap().contains("unsupported type"));
    let mut damaged = Tar::new().file("f", b"x").done();
    damaged[110] ^= 0x40;
    assert!(attempt(damaged).unwrap().contains("checksum"));
}

#[test]
fn endless_nesting_is_refused() {
    let mut tar = Tar::new();
    let deep = "d/".repeat(2000);
    tar.0.append_pax_extensions([("path", deep.as_bytes())]).unwrap();
    assert!(
        attempt(tar.dir("short", 0o755).done())
            .unwrap()
            .contains("nested too deeply")
    );
}

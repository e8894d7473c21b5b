//! Names of images as people write them, files that are put in, and bind sources that are missing.

use super::*;

#[test]
fn image_names_are_shown_as_people_write_them() {
    for (given, shown) in [
        ("bb", "bb:latest"),
        ("docker.io/library/bb:1", "bb:1"),
        ("a/b", "a/b:latest"),
    ] {
        assert_eq!(familiar(given), shown);
    }
}

#[test]
fn an_injected_file_has_its_mode_and_a_clean_target() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0");
    let file = |target: &str| InjectedFile {
        target: target.into(),
        content: "secret".into(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        mode: 0o440,
    };
    assert_eq!(
        write_file(&path, &file("/run/secrets/../secrets/k"))
            .unwrap()
            .target,
        "/run/secrets/k"
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o440);
    assert!(write_file(&path, &file("relative")).is_err());
    assert!(!format!("{:?}", file("/k")).contains("secret"));
}

#[test]
fn a_missing_bind_source_is_made_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let path = path.to_str().unwrap();
    assert!(
        bind_source(path, false)
            .unwrap_err()
            .to_string()
            .contains("bind source path does not exist")
    );
    bind_source(path, true).unwrap();
    bind_source(path, false).unwrap();
}

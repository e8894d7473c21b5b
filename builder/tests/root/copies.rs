//! Where files come from and where they land.

use std::io::Write;

use storage::FileKind;

use crate::common::{Bench, Context};

#[test]
fn directories_give_their_contents_and_files_go_where_the_target_says() {
    let bench = Bench::new();
    let text = "FROM scratch\nCOPY dir /a\nCOPY f /file\nCOPY f /into/\nCOPY f g /many/\nWORKDIR /w\nCOPY f .\nCOPY *.txt ./t/\n\
        COPY f /a\n";
    let context = Context::new(text)
        .dir("dir/", 0o700)
        .dir("dir/sub/", 0o750)
        .entry("dir/sub/x", tar::EntryType::Regular, b"x", 0o4755, 1_500_000_000)
        .symlink("dir/link", "/anywhere")
        .file("f", b"f")
        .file("g", b"g")
        .file("one.txt", b"1")
        .file("two.txt", b"2");
    let (_, view) = bench.built(&context);
    for path in [
        "/a/sub/x",
        "/file",
        "/into/f",
        "/many/f",
        "/many/g",
        "/w/f",
        "/w/t/one.txt",
        "/w/t/two.txt",
        "/a/f",
    ] {
        assert_eq!(view.stat(path).unwrap().kind, FileKind::File, "{path}");
    }
    let x = view.stat("/a/sub/x").unwrap();
    assert_eq!((x.mode, x.uid, x.gid, x.mtime.0), (0o4755, 0, 0, 1_500_000_000));
    assert_eq!(view.stat("/a/sub").unwrap().mode, 0o750);
    assert_eq!(view.stat("/a").unwrap().mode, 0o755);
    assert_eq!(view.read_link("/a/link").unwrap().to_str(), Some("/anywhere"));

    let error = bench.refused(
        &Context::new("FROM scratch\nCOPY a b /x\n")
            .file("a", b"")
            .file("b", b""),
    );
    assert!(
        error.contains("the destination must be a directory and end with a /"),
        "{error}"
    );
}

#[test]
fn existing_directories_keep_their_attributes_and_links_are_followed() {
    let bench = Bench::new();
    let rootfs = Context::new("FROM scratch\nCOPY root /\nCOPY --chmod=1777 empty /tmp\n")
        .dir("root/", 0o755)
        .dir("root/tmp/", 0o1777)
        .dir("root/usr/", 0o755)
        .dir("root/usr/bin/", 0o711)
        .symlink("root/bin", "usr/bin")
        .file("root/plain", b"p")
        .dir("empty/", 0o755);
    bench.build(&rootfs).unwrap();
    let context =
        Context::new("FROM test\nCOPY f /bin/\nCOPY f /tmp/deep/f\nCOPY f /bin/tool\n").file("f", b"f");
    let (_, view) = bench.built(&context);
    assert_eq!(view.lstat("/bin").unwrap().kind, FileKind::Symlink);
    assert_eq!(view.read_file("/usr/bin/f", 9).unwrap(), b"f");
    assert_eq!(view.read_file("/usr/bin/tool", 9).unwrap(), b"f");
    assert_eq!(view.stat("/usr/bin").unwrap().mode, 0o711);
    assert_eq!(view.stat("/tmp").unwrap().mode, 0o1777);
    assert_eq!(view.stat("/tmp/deep").unwrap().mode, 0o755);

    bench
        .build_with(&rootfs, |request| request.tags = vec!["base".parse().unwrap()])
        .unwrap();
    let over_link = Context::new("FROM base\nCOPY root /\n")
        .dir("root/bin/", 0o755)
        .file("root/bin/x", b"x");
    assert!(
        bench
            .refused(&over_link)
            .contains("cannot copy to non-directory: /bin")
    );
    let under_file = Context::new("FROM base\nCOPY f /plain/f\n").file("f", b"");
    assert!(bench.refused(&under_file).contains("/plain is not a directory"));
}

#[test]
fn owners_are_numbers_or_names_of_the_image() {
    let bench = Bench::new();
    let text = "FROM scratch\nCOPY passwd group /etc/\nCOPY --chown=web:ops --chmod=0640 f /new/f\nCOPY --chown=7 f /seven\n";
    let context = Context::new(text)
        .file("passwd", b"root:x:0:0::/:\nweb:x:33:33::/:\n")
        .file("group", b"ops:x:44:\n")
        .file("f", b"f");
    let (_, view) = bench.built(&context);
    let stat = view.stat("/new/f").unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (33, 44, 0o640));
    let dir = view.stat("/new").unwrap();
    assert_eq!((dir.uid, dir.gid), (33, 44));
    assert_eq!(view.stat("/seven").unwrap().gid, 7);
}

#[test]
fn ignored_files_do_not_exist() {
    let bench = Bench::new();
    let context = Context::new("FROM scratch\nCOPY . /all/\n")
        .file(".dockerignore", b"# nothing but\n*\n!keep\nkeep/*.log\n")
        .dir("keep/", 0o755)
        .file("keep/a", b"a")
        .file("keep/b.log", b"b")
        .file("secret", b"s");
    let (_, view) = bench.built(&context);
    let names = |path: &str| -> Vec<_> { view.read_dir(path).unwrap().into_iter().map(|e| e.name).collect() };
    assert_eq!(names("/all"), ["keep"]);
    assert_eq!(names("/all/keep"), ["a"]);
    let context = Context::new("FROM scratch\nCOPY secret /\n")
        .file(".dockerignore", b"secret")
        .file("secret", b"s");
    assert!(
        bench
            .refused(&context)
            .contains("excluded by .dockerignore: stat secret")
    );
    let context = Context::new("FROM scratch\nCOPY a /\n")
        .file(".dockerignore", b"[")
        .file("a", b"");
    assert!(bench.refused(&context).contains("syntax error in pattern"));
}

#[test]
fn add_unpacks_local_archives_only() {
    let bench = Bench::new();
    let inner = Context::new("inner").dir("d/", 0o755).file("d/x", b"x").tar();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&inner).unwrap();
    let gzip = gzip.finish().unwrap();
    let text = "FROM scratch\nADD a.tar /tar\nADD a.tar.gz /gz/\nCOPY a.tar /copied\nADD plain /plain\n";
    let context = Context::new(text)
        .file("a.tar", &inner)
        .file("a.tar.gz", &gzip)
        .file("plain", b"not a tar");
    let (_, view) = bench.built(&context);
    for dir in ["/tar", "/gz"] {
        assert_eq!(view.read_file(format!("{dir}/d/x"), 9).unwrap(), b"x");
        // Archives keep their owners.
        assert_eq!(view.stat(format!("{dir}/d/x")).unwrap().uid, 1000);
    }
    assert_eq!(view.read_file("/copied", 1 << 20).unwrap(), inner);
    assert_eq!(view.read_file("/plain", 99).unwrap(), b"not a tar");
    let xz = Context::new("FROM scratch\nADD a.xz /\n").file("a.xz", b"\xfd7zXZ\0 rest of it");
    assert!(bench.refused(&xz).contains("xz compression is not supported"));
}

#[test]
fn a_context_cannot_reach_the_host() {
    let bench = Bench::new();
    // An absolute link counts from the context; one that climbs is refused when the context is unpacked.
    let context = Context::new("FROM scratch\nCOPY passwd /p\n").symlink("passwd", "/etc/passwd");
    assert!(bench.refused(&context).contains("stat passwd"));
    let context = Context::new("FROM scratch\nCOPY up /p\n").symlink("up", "../../etc/passwd");
    assert!(bench.refused(&context).contains("climbs out"));
    let context = Context::new("FROM scratch\nCOPY d/passwd /p\n").symlink("d", "/etc");
    assert!(bench.refused(&context).contains("stat d/passwd"));
    let context = Context::new("FROM scratch\nCOPY . /\n").file(".wh.x", b"");
    assert!(bench.refused(&context).contains("names that begin with .wh."));
}

#[test]
fn a_target_stays_inside_the_image() {
    let bench = Bench::new();
    let context = Context::new("FROM scratch\nCOPY root /\nCOPY f /out/f\nCOPY f /../../up\n")
        .dir("root/", 0o755)
        .symlink("root/out", "/../../../tmp")
        .file("f", b"f");
    let (_, view) = bench.built(&context);
    assert_eq!(view.read_file("/tmp/f", 9).unwrap(), b"f");
    assert_eq!(view.read_file("/up", 9).unwrap(), b"f");
}

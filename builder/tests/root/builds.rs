//! What a build says, what it remembers, and what ends up in the configuration.

use std::collections::BTreeMap;

use crate::common::{Bench, Context};

#[test]
fn output_is_the_classic_builders() {
    let bench = Bench::new();
    let context =
        Context::new("FROM scratch\nCOPY hello /\nENV A=1\nCMD [\"/hello\"]\n").file("hello", b"hi");
    let (id, lines) = bench.build(&context).unwrap();
    assert_eq!(lines[0], "Step 1/4 : FROM scratch");
    assert_eq!(lines[1], " ---> ");
    assert_eq!(lines[2], "Step 2/4 : COPY hello /");
    assert!(
        lines[3].starts_with(" ---> ") && lines[3].len() == 6 + 12,
        "{}",
        lines[3]
    );
    assert_eq!(lines[4], "Step 3/4 : ENV A=1");
    assert_eq!(lines[7], format!(" ---> {}", id.short()));
    assert_eq!(lines[8], format!("Successfully built {}", id.short()));
    assert_eq!(lines[9], "Successfully tagged test:latest");
    assert_eq!(lines.len(), 10);
    assert_eq!(bench.storage.images().get("test").unwrap().id, id);
}

#[test]
fn building_again_unchanged_gives_the_same_image_and_a_change_only_its_own_steps() {
    let bench = Bench::new();
    let text = "FROM scratch\nENV A=1\nCOPY a /\nCOPY b /\nCMD [\"x\"]\n";
    let context = |b: &[u8], mtime| {
        Context::new(text)
            .entry("a", tar::EntryType::Regular, b"a", 0o644, mtime)
            .file("b", b)
    };
    let (first, _) = bench.build(&context(b"1", 1)).unwrap();
    // Times do not count.
    let (again, lines) = bench.build(&context(b"1", 2)).unwrap();
    assert_eq!(again, first);
    assert_eq!(
        lines.iter().filter(|line| *line == " ---> Using cache").count(),
        4
    );
    let (changed, lines) = bench.build(&context(b"2", 1)).unwrap();
    assert_ne!(changed, first);
    assert_eq!(
        lines.iter().filter(|line| *line == " ---> Using cache").count(),
        2
    );
    let (_, lines) = bench
        .build_with(&context(b"1", 1), |request| request.no_cache = true)
        .unwrap();
    assert!(!lines.contains(&" ---> Using cache".to_owned()));
    // The memory of a layer ends with it; steps without one are known still.
    let force = storage::image::RemoveOptions {
        force: true,
        no_prune: false,
    };
    for image in bench.storage.images().list().unwrap() {
        bench
            .storage
            .images()
            .remove(&image.id.to_string(), force, &|_| None)
            .unwrap();
    }
    let (_, lines) = bench.build(&context(b"1", 1)).unwrap();
    assert_eq!(
        lines.iter().filter(|line| *line == " ---> Using cache").count(),
        2
    );
}

#[test]
fn layers_are_reproducible_across_stores() {
    let text = "FROM scratch\nWORKDIR /w\nCOPY . /deep/er/\n";
    let context = Context::new(text)
        .dir("d/", 0o750)
        .file("d/x", b"x")
        .file("a", b"a");
    let shuffled = Context::new(text)
        .file("a", b"a")
        .dir("d/", 0o750)
        .file("d/x", b"x");
    let (one, _) = Bench::new().built(&context);
    let (two, _) = Bench::new().built(&shuffled);
    assert_eq!(one.layers, two.layers);
    assert_eq!(one.layers.len(), 2);
}

#[test]
fn every_instruction_reaches_the_configuration() {
    let bench = Bench::new();
    let text = "ARG base=scratch\nFROM $base\nARG v=1\nENV V=$v W=\"${v:+yes} x\"\nLABEL l=\"a b\" m=$V\n\
        WORKDIR /app\nWORKDIR sub\nUSER ${V}:2\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\n\
        HEALTHCHECK --interval=5s --retries=2 CMD check me\nSHELL [\"/bin/x\", \"-e\"]\nENTRYPOINT run it\n\
        CMD [\"a\", \"b\"]\nONBUILD COPY x /\nMAINTAINER Me <m@x>\n";
    let (image, _) = bench.built(&Context::new(text));
    let config = image.config.config;
    assert_eq!(config.env, ["V=1", "W=yes x"]);
    assert_eq!(
        config.labels,
        BTreeMap::from([("l".into(), "a b".into()), ("m".into(), "1".into())])
    );
    assert_eq!(
        (config.working_dir.as_str(), config.user.as_str()),
        ("/app/sub", "1:2")
    );
    assert_eq!(
        config.exposed_ports.into_iter().collect::<Vec<_>>(),
        ["53/udp", "80/tcp"]
    );
    assert!(config.volumes.contains("/data"));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    let check = config.healthcheck.unwrap();
    assert_eq!(
        (check.interval, check.retries, check.test[1].as_str()),
        (5_000_000_000, 2, "check me")
    );
    assert_eq!(config.entrypoint.unwrap(), ["/bin/x", "-e", "run it"]);
    assert_eq!(config.cmd.unwrap(), ["a", "b"]);
    assert_eq!(config.on_build, ["COPY x /"]);
    assert_eq!(image.config.author.as_deref(), Some("Me <m@x>"));
    assert_eq!(
        image
            .config
            .history
            .iter()
            .filter(|step| !step.empty_layer)
            .count(),
        image.layers.len()
    );
}

#[test]
fn build_arguments_come_from_the_request_and_unused_ones_are_named() {
    let bench = Bench::new();
    let context = Context::new("ARG tag\nFROM scratch\nARG tag=none\nARG other\nLABEL t=$tag o=$other\n");
    let given = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    let (_, lines) = bench
        .build_with(&context, |request| {
            request.build_args =
                BTreeMap::from([given("tag", "7"), given("typo", "x"), given("http_proxy", "p")]);
            request.labels = BTreeMap::from([("extra".to_owned(), "1".to_owned())]);
        })
        .unwrap();
    let labels = bench.storage.images().get("test").unwrap().config.config.labels;
    assert_eq!(
        (
            labels["t"].as_str(),
            labels["o"].as_str(),
            labels["extra"].as_str()
        ),
        ("7", "", "1")
    );
    assert!(lines.contains(&"[Warning] One or more build-args [typo] were not consumed".to_owned()));
    assert!(lines.iter().any(|line| line.starts_with("Step 6/6 : LABEL")));
}

#[test]
fn images_and_stages_can_be_built_upon() {
    let bench = Bench::new();
    bench
        .build(&Context::new("FROM scratch\nENV A=1\nCOPY f /f\nONBUILD COPY own /own\n").file("f", b"base"))
        .unwrap();
    let base = bench.storage.images().get("test").unwrap();
    let tagged = bench.build_with(&Context::new("FROM test\n"), |r| {
        r.tags = vec!["plain:1".parse().unwrap()]
    });
    // The trigger needs its file.
    assert!(tagged.unwrap_err().chain().contains("stat own"));

    let text = "FROM test AS one\nCOPY g /g\nFROM scratch\nCOPY --from=one /g /from-stage\nCOPY --from=0 /f /from-number\n\
        COPY --from=test f /from-image\n";
    let context = Context::new(text).file("g", b"stage").file("own", b"mine");
    let (_, lines) = bench
        .build_with(&context, |r| r.tags = vec!["top".parse().unwrap()])
        .unwrap();
    assert_eq!(lines[1], format!(" ---> {}", base.id.short()));
    assert_eq!(lines[2], "# Executing 1 build trigger");
    let id = bench.storage.images().get("top").unwrap().id;
    let view = bench.storage.snapshots().view_image(&id).unwrap();
    for (path, data) in [
        ("from-stage", "stage"),
        ("from-number", "base"),
        ("from-image", "base"),
    ] {
        assert_eq!(view.read_file(path, 100).unwrap(), data.as_bytes(), "{path}");
    }
    let one = bench
        .build_with(&context, |r| r.target = Some("one".into()))
        .unwrap()
        .0;
    let image = bench.storage.images().get(&one.to_string()).unwrap();
    assert_eq!(image.config.config.env, ["A=1"]);
    assert!(image.config.config.on_build.is_empty());
    assert_eq!(
        bench
            .storage
            .snapshots()
            .view_image(&one)
            .unwrap()
            .read_file("own", 9)
            .unwrap(),
        b"mine"
    );
}

#[test]
fn a_file_of_only_from_names_the_image_itself() {
    let bench = Bench::new();
    let (id, _) = bench.build(&Context::new("FROM scratch\nENV A=1\n")).unwrap();
    let (same, _) = bench
        .build_with(&Context::new("FROM test\n"), |request| {
            request.tags = vec!["other".parse().unwrap()]
        })
        .unwrap();
    assert_eq!(same, id);
    assert_eq!(bench.storage.images().get("other").unwrap().id, id);
    assert!(
        bench
            .refused(&Context::new("FROM scratch\n"))
            .contains("No image was generated")
    );
}

#[test]
fn what_cannot_be_built_says_where_and_what_to_do() {
    let bench = Bench::new();
    let cases = [
        (
            "FROM scratch\nRUN make\n",
            "RUN is not built yet: Dockerfile line 2: RUN make",
        ),
        (
            "FROM nope:1\n",
            "Dockerfile line 1: FROM nope:1: image nope:1 is not on this machine",
        ),
        (
            "FROM scratch\nCOPY nope /\n",
            "Dockerfile line 2: COPY nope /: file not found in build context",
        ),
        ("FROM scratch\nCOPY ../x /\n", "outside the build context"),
        (
            "FROM scratch\nADD https://x/y /\n",
            "ADD of a remote source is not built yet",
        ),
        (
            "FROM scratch\nFOO\n",
            "Dockerfile line 2: unknown instruction: FOO",
        ),
        (
            "FROM scratch\nCOPY --chown=web Dockerfile /\n",
            "unable to find user web",
        ),
        (
            "FROM scratch\nCOPY --chmod=u+x Dockerfile /\n",
            "must be an octal mode",
        ),
        (
            "FROM --platform=plan9/mips scratch\nENV a=1\n",
            "platform plan9/mips cannot be built",
        ),
        ("FROM Bad_Name!\n", "invalid reference format"),
        ("\n# empty\n", "cannot be empty"),
    ];
    for (text, expected) in cases {
        let error = bench.refused(&Context::new(text));
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let error = bench
        .build_with(&Context::new(""), |r| r.dockerfile = "../../etc/passwd".into())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot locate specified Dockerfile: ../../etc/passwd"
    );
    let error = bench
        .build_with(&Context::new(""), |r| {
            r.context = Box::leak(Box::new(&b"garbage"[..]))
        })
        .unwrap_err();
    assert!(
        error.is_user_error() && error.to_string().contains("unpack the build context"),
        "{}",
        error.chain()
    );
    assert!(bench.storage.gc().unwrap().layers.is_empty());
}

//! Images: built, named, saved, loaded, imported, removed.

use anyhow::{Context, Result};
use integration::{Agent, image};

#[test]
fn a_dockerfile_becomes_an_image() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let dockerfile = "ARG BASE=bb\nFROM ${BASE}\nLABEL who=test\nENV GREETING=hi NAME=you\nWORKDIR /work\n\
        COPY --chown=1000:1000 *.txt ./\nUSER app\nEXPOSE 80\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"echo $GREETING $NAME; id -u; ls\"]\n";
    let files = [
        ("a.txt", &b"a"[..], 0o644),
        ("b.txt", b"b", 0o644),
        ("c.log", b"c", 0o644),
        (".dockerignore", b"*\n!*.txt\nb.txt\n", 0o644),
    ];
    agent.build("made:1", &image::context(dockerfile, &files)?)?;
    assert_eq!(agent.cli_ok(&["run", "--rm", "made:1"])?, "hi you\n1000\na.txt\n");
    let inspected = agent.get("/images/made:1/json")?;
    assert_eq!(inspected["Config"]["Labels"]["who"], "test");
    assert!(inspected["Config"]["ExposedPorts"]["80/tcp"].is_object());
    // The same context again: everything comes from the cache, so that it is the same image.
    let first = inspected["Id"].clone();
    agent.build("made:2", &image::context(dockerfile, &files)?)?;
    assert_eq!(agent.get("/images/made:2/json")?["Id"], first);
    assert!(agent.cli_ok(&["image", "history", "made:1"])?.contains("COPY"));
    Ok(())
}

#[test]
fn save_and_load_give_the_same_image_back() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    agent.cli_ok(&["image", "tag", "bb", "registry.example/team/bb:v1"])?;
    let id = agent.get("/images/bb/json")?["Id"].clone();
    let file = agent.host.directory().join("bb.tar");
    let file = file.to_str().context("a path")?;
    agent.cli_ok(&["image", "save", "-o", file, "bb", "registry.example/team/bb:v1"])?;
    assert!(
        agent
            .cli_ok(&["image", "rm", "bb"])?
            .contains("Untagged: bb:latest")
    );
    let removed = agent.cli_ok(&["image", "rm", "registry.example/team/bb:v1"])?;
    assert!(removed.contains("Deleted: sha256:"), "{removed}");
    assert!(!agent.cli_ok(&["image", "ls"])?.contains("bb"));
    let loaded = agent.cli_ok(&["image", "load", "-i", file])?;
    assert!(loaded.contains("Loaded image: bb:latest"), "{loaded}");
    assert_eq!(agent.get("/images/bb/json")?["Id"], id);
    assert_eq!(agent.cli_ok(&["run", "--rm", "bb", "echo", "back"])?, "back\n");
    Ok(())
}

#[test]
fn an_image_in_use_stays() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    agent.cli_ok(&["run", "-d", "--name", "user", "bb", "sleep", "1000"])?;
    let refused = agent.cli(&["image", "rm", "bb"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("container"), "{said}");
    agent.cli_ok(&["rm", "-f", "user"])?;
    agent.cli_ok(&["image", "rm", "bb"])?;
    Ok(())
}

#[test]
fn a_chain_of_hundreds_of_layers_runs() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let copies: Vec<String> = (0..150).map(|index| format!("COPY f /many/{index}")).collect();
    let dockerfile = format!("FROM bb\n{}\n", copies.join("\n"));
    agent.build("deep", &image::context(&dockerfile, &[("f", b"x", 0o644)])?)?;
    assert_eq!(
        agent
            .cli_ok(&["run", "--rm", "deep", "sh", "-c", "ls /many | wc -l"])?
            .trim(),
        "150"
    );
    Ok(())
}

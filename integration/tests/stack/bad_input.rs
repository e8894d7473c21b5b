//! Bad input gets one clear error that names the thing and the remedy; nothing is left half made, running tasks are
//! not disturbed, and the agent stays up.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::{Agent, agent::escape, http, image};
use serde_json::{Value, json};

/// An agent with a running service that nothing in a test may disturb.
struct Witness {
    agent: Agent,
    before: Value,
    pid: Option<u32>,
}

impl Witness {
    fn new() -> Result<Self> {
        let agent = Agent::start_swarm()?;
        agent.build_busybox()?;
        agent.cli_ok(&["service", "create", "--name", "witness", "bb", "sleep", "1000"])?;
        agent.wait_running("witness", 1)?;
        let before = agent.get("/containers/json")?[0]["Id"].clone();
        let pid = agent.pid();
        Ok(Self { agent, before, pid })
    }

    /// The error of a command that must fail, and that the witness must survive.
    fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.agent.cli(words)?;
        ensure!(
            !output.status.success(),
            "{words:?} succeeded: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.undisturbed()
            .with_context(|| format!("after {words:?}: {said}"))?;
        Ok(said)
    }

    fn undisturbed(&self) -> Result<()> {
        let now = self.agent.get("/containers/json")?;
        ensure!(now.as_array().map(Vec::len) == Some(1), "one container: {now}");
        ensure!(now[0]["Id"] == self.before, "the witness was replaced");
        ensure!(self.agent.pid() == self.pid);
        Ok(())
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.agent.host.directory().join(name);
        fs::write(&path, content)?;
        Ok(path.to_str().context("a path")?.to_owned())
    }
}

#[test]
fn broken_files_are_refused_with_their_place() -> Result<()> {
    let witness = Witness::new()?;
    for (text, expected) in [
        ("services: [", "stack.yml:"),
        (
            "services:\n  a:\n    image: bb\n    imagee: x\n",
            "stack.yml:4:13: services.a.imagee",
        ),
        (
            "services:\n  a:\n    image: bb\n    ports: nope\n",
            "services.a.ports: this must be a list",
        ),
        (
            "services:\n  a:\n    image: bb\n    env_file: gone.env\n",
            "gone.env",
        ),
        (
            "services:\n  a:\n    image: bb\n    volumes: ['..:/x:y']\n",
            "services.a.volumes[0]",
        ),
        (
            "services:\n  a:\n    image: bb\n    volumes: ['v:/x']\nvolumes:\n  v: {name: 'a/../b'}\n",
            "is not a name",
        ),
    ] {
        let file = witness.file("stack.yml", text.as_bytes())?;
        let said = witness.refused(&["stack", "deploy", "-c", &file, "s"])?;
        assert!(said.contains(expected), "{text}\n{said}");
    }
    assert_eq!(
        witness.agent.get("/services")?.as_array().map(Vec::len),
        Some(1),
        "nothing half deployed"
    );
    Ok(())
}

#[test]
fn what_is_not_there_is_named() -> Result<()> {
    let witness = Witness::new()?;
    let said = witness.refused(&["run", "--rm", "nosuch", "true"])?;
    assert!(said.contains("nosuch:latest"), "{said}");
    let created = witness
        .agent
        .ask("POST", "/containers/create", Some(&json!({"Image": "nosuch"})))?;
    assert_eq!(created.status, 404);
    let pulled = witness
        .agent
        .ask("POST", "/images/create?fromImage=nosuch&tag=latest", None)?;
    assert!(
        pulled.status >= 400,
        "a pull that cannot be is no success: {}",
        pulled.text()
    );
    let said = witness.refused(&[
        "service",
        "create",
        "--restart-condition",
        "none",
        "--name",
        "gone",
        "nosuch",
    ])?;
    assert!(said.contains("gone.1") && said.contains("nosuch"), "{said}");
    witness.agent.cli_ok(&["service", "rm", "gone"])?;
    for words in [
        &["inspect", "x1"][..],
        &["service", "ps", "x1"],
        &["volume", "inspect", "x1"],
        &["network", "rm", "x1"],
        &["exec", "x1", "true"],
    ] {
        let said = witness.refused(words)?;
        assert!(said.contains("x1"), "{words:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() -> Result<()> {
    let witness = Witness::new()?;
    let agent = &witness.agent;
    let _holder = agent
        .host
        .enter(|| std::net::TcpListener::bind("0.0.0.0:9090"))??;
    let said = witness.refused(&["run", "--rm", "-p", "9090:80", "bb", "true"])?;
    assert!(said.contains("9090"), "{said}");
    agent.cli_ok(&[
        "service",
        "create",
        "--name",
        "one",
        "-p",
        "9191:80",
        "--replicas",
        "0",
        "bb",
        "sleep",
        "1000",
    ])?;
    let said = witness.refused(&[
        "service", "create", "--name", "two", "-p", "9191:80", "bb", "sleep", "1000",
    ])?;
    assert!(said.contains("9191") && said.contains("one"), "{said}");
    agent.cli_ok(&["service", "rm", "one"])?;
    Ok(())
}

#[test]
fn names_that_climb_are_refused() -> Result<()> {
    let witness = Witness::new()?;
    for name in ["..", "../x", "a/b", "-x"] {
        let answer = witness
            .agent
            .ask("POST", "/volumes/create", Some(&json!({"Name": name})))?;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        let body = json!({"Image": "bb"});
        let answer = witness.agent.ask(
            "POST",
            &format!("/containers/create?name={}", escape(name)),
            Some(&body),
        )?;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    let said = witness.refused(&["run", "--rm", "-v", "../../etc/..:x", "bb", "true"])?;
    assert!(!said.is_empty());
    Ok(())
}

#[test]
fn broken_archives_leave_nothing() -> Result<()> {
    let witness = Witness::new()?;
    let agent = &witness.agent;
    let file = agent.host.directory().join("bb.tar");
    let whole = file.to_str().context("a path")?.to_owned();
    agent.cli_ok(&["image", "save", "-o", &whole, "bb"])?;
    let bytes = fs::read(&whole)?;
    let count = agent.get("/images/json?all=1")?.as_array().map(Vec::len);
    for (name, content) in [
        ("half.tar", &bytes[..bytes.len() / 2]),
        ("short.tar", &bytes[..700]),
        ("text.tar", &b"this is no archive"[..]),
        ("empty.tar", b""),
    ] {
        let path = witness.file(name, content)?;
        let said = witness.refused(&["image", "load", "-i", &path])?;
        assert!(said.len() > 10, "{name}: {said}");
    }
    // Entries that climb out of the root: into an image, and out of a build's context.
    let outside = agent.host.directory().join("outside");
    for name in ["../../../../../../../../..", "a/../../../../../../../../.."] {
        let path = format!("{name}{}", outside.display());
        let archive = image::raw_entry(&path, b"x")?;
        let tar = witness.file("climb.tar", &archive)?;
        let _ = agent.cli(&["image", "import", &tar, "climber"])?;
        let _ = agent.ask("DELETE", "/images/climber?force=1", None)?;
        assert!(!outside.exists(), "{path} was written");
    }
    assert_eq!(
        agent.get("/images/json?all=1")?.as_array().map(Vec::len),
        count,
        "nothing half made"
    );
    witness.undisturbed()
}

/// A disk so small that a test can fill it: MiB.
const SMALL_DISK: u32 = 24;

#[test]
fn a_full_disk_stops_what_needs_room_and_nothing_else() -> Result<()> {
    let agent = Agent::start_on_small_disk(SMALL_DISK)?;
    agent.build_busybox()?;
    let archive = agent.host.directory().join("bb.tar").display().to_string();
    agent.cli_ok(&["image", "save", "-o", &archive, "bb"])?;
    let counting = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
    agent.cli_ok(&["run", "-d", "--name", "witness", "bb", "sh", "-c", counting])?;
    let pid = agent.get("/containers/witness/json")?["State"]["Pid"].clone();
    // A volume is filled to the last page, as a container does it.
    agent.cli_ok(&["volume", "create", "filler"])?;
    let fill =
        "dd if=/dev/zero of=/v/x bs=4k 2>/dev/null; while echo x >/v/$RANDOM$RANDOM; do :; done 2>/dev/null";
    agent.cli_ok(&[
        "run",
        "--rm",
        "-v",
        "filler:/v",
        "bb",
        "sh",
        "-c",
        &format!("{fill}; true"),
    ])?;

    let before = agent.get("/images/json?all=1")?;
    // Room for so many was set aside; all of it is used up, and the database is given up at the last.
    let mut refusals = 0;
    for number in 0..4000 {
        let tagged = agent.ask("POST", &format!("/images/bb/tag?repo=full{number}"), None)?;
        if tagged.status != 201 {
            full(&tagged)?;
            refusals += 1;
        }
        if refusals == 2 {
            break;
        }
    }
    assert_eq!(refusals, 2, "the disk never became full");
    let load = http::open(&agent.socket(), "POST", "/images/load", &[], &fs::read(&archive)?)?.finish()?;
    full(&load)?;
    let context = image::context("FROM bb\nCOPY x /x\n", &[("x", &vec![7; 1 << 20], 0o644)])?;
    let headers = [("Content-Type", "application/x-tar")];
    full(&http::open(&agent.socket(), "POST", "/build?t=never", &headers, &context)?.finish()?)?;
    assert_eq!(agent.ask("GET", "/images/never/json", None)?.status, 404);
    // What needs next to nothing may find it; then it is there, and otherwise nothing of it is.
    for (make, body, path) in [
        ("/volumes/create", json!({"Name": "small"}), "/volumes/small"),
        ("/networks/create", json!({"Name": "small"}), "/networks/small"),
        (
            "/containers/create?name=small",
            json!({"Image": "bb", "HostConfig": {"Binds": ["filled:/bin"]}}),
            "/containers/small/json",
        ),
    ] {
        let made = agent.ask("POST", make, Some(&body))?;
        let found = agent.ask("GET", path, None)?.status;
        if made.status == 201 {
            assert_eq!(found, 200, "{path}");
        } else {
            full(&made).with_context(|| make.to_owned())?;
            assert_eq!(found, 404, "{path}");
        }
    }
    assert_eq!(agent.get("/containers/witness/json")?["State"]["Pid"], pid);
    agent.cli_ok(&["exec", "witness", "true"])?;

    // The way out of it must not need room itself.
    agent.cli_ok(&["volume", "rm", "filler"])?;
    agent.cli_ok(&["image", "load", "-i", &archive])?;
    agent.cli_ok(&["volume", "create", "after"])?;
    agent.cli_ok(&["network", "create", "after"])?;
    agent.cli_ok(&["run", "--rm", "-v", "after:/bin", "bb", "true"])?;
    let now = agent.get("/images/json?all=1")?;
    assert_eq!(
        now.as_array().map(Vec::len),
        before.as_array().map(Vec::len),
        "{now}"
    );
    let seen = agent.cli_ok(&["logs", "-n", "1", "witness"])?;
    integration::eventually("the log goes on", || {
        ensure!(agent.cli_ok(&["logs", "-n", "1", "witness"])? != seen);
        Ok(())
    })?;
    assert_eq!(agent.get("/containers/witness/json")?["State"]["Pid"], pid);
    Ok(())
}

/// An answer that names a full disk and the remedy.
fn full(answer: &http::Answer) -> Result<()> {
    let said = answer.text();
    ensure!(
        said.contains("o space left") && said.contains("free some"),
        "{}: {said}",
        answer.status
    );
    Ok(())
}

#[test]
fn a_stale_version_is_refused() -> Result<()> {
    let witness = Witness::new()?;
    let agent = &witness.agent;
    let service = agent.get("/services/witness")?;
    let mut spec = service["Spec"].clone();
    spec["Labels"] = json!({"a": "1"});
    let path = format!("/services/witness/update?version={}", service["Version"]["Index"]);
    agent.post(&path, &spec)?;
    spec["Labels"] = json!({"a": "2"});
    let second = agent.ask("POST", &path, Some(&spec))?;
    assert!(
        second.status >= 400 && second.text().contains("out of sequence"),
        "{}: {}",
        second.status,
        second.text()
    );
    assert_eq!(agent.get("/services/witness")?["Spec"]["Labels"]["a"], "1");
    witness.undisturbed()
}

#[test]
fn run_in_a_dockerfile_is_refused_where_it_stands() -> Result<()> {
    let witness = Witness::new()?;
    let context = image::context("FROM bb\nCOPY x /x\nRUN make\n", &[("x", b"x", 0o644)])?;
    let headers = [("Content-Type", "application/x-tar")];
    let answer = http::open(
        &witness.agent.socket(),
        "POST",
        "/build?t=never",
        &headers,
        &context,
    )?
    .finish()?;
    let said = answer.text();
    assert!(said.contains("RUN") && said.contains('3'), "{said}");
    assert_eq!(witness.agent.ask("GET", "/images/never/json", None)?.status, 404);
    witness.undisturbed()
}

#[test]
fn junk_on_the_socket_is_answered() -> Result<()> {
    let witness = Witness::new()?;
    let agent = &witness.agent;
    for (method, path, body, status) in [
        ("GET", "/nothing/here", None, 404),
        ("GET", "/v1.99/info", None, 400),
        ("GET", "/v1.44/containers/json?filters=%7B", None, 400),
        ("POST", "/containers/create", Some(json!({"Image": 7})), 400),
        ("POST", "/services/create", Some(json!({"Name": "x y"})), 400),
        ("POST", "/services/create", Some(json!([])), 400),
    ] {
        let answer = agent.ask(method, path, body.as_ref())?;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.json()?["message"].is_string(), "{path}: {}", answer.text());
    }
    witness.undisturbed()
}

#[test]
fn a_command_line_that_nobody_reads_ends_without_a_word() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = std::process::Command::new(integration::binaries().join("agent"))
        .args(["stack", "config", "-c", "-"])
        .stdin(std::fs::File::open(
            integration::workspace().join("examples/counter/docker-stack.yml"),
        )?)
        .stdout(writer)
        .current_dir(integration::workspace().join("examples/counter"))
        .output()?;
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(141), &b""[..])
    );
    Ok(())
}

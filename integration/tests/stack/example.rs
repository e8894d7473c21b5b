//! The README's first command: the counter example from nothing to answers, and everything that a user then does.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use integration::{Agent, binaries, eventually, workspace};

/// The example is prepared in its own folder, so one test at a time does.
static FOLDER: Mutex<()> = Mutex::new(());

fn folder() -> MutexGuard<'static, ()> {
    FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `agent up` of a folder, with this agent's directories.
fn up_of(agent: &Agent, folder: &Path) -> Command {
    let mut command = Command::new(binaries().join("agent"));
    command
        .arg("up")
        .arg("--root")
        .arg(agent.root())
        .arg("--run-dir")
        .arg(agent.run_dir())
        .arg(folder)
        .stdin(Stdio::null());
    command
}

fn up(agent: &Agent, words: &[&str]) -> Result<Output> {
    let mut command = up_of(agent, &workspace().join("examples/counter"));
    command.args(words);
    agent.host.enter(|| command.output())?.context("run agent up")
}

#[test]
fn up_speaks_to_the_agent_that_it_is_told_and_starts_no_other() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let folder = agent.host.directory().join("told");
    std::fs::create_dir(&folder)?;
    let stack = "services: {web: {image: bb, command: sleep 1000}}\n";
    std::fs::write(folder.join("docker-stack.yml"), stack)?;
    let elsewhere = folder.join("elsewhere");
    let (folder, elsewhere) = (folder.to_string_lossy(), elsewhere.to_string_lossy());
    let words = [
        "up",
        "--detach",
        "--root",
        &elsewhere,
        "--run-dir",
        &elsewhere,
        &folder,
    ];
    agent.cli_ok(&words)?;
    ensure!(!Path::new(&*elsewhere).exists());
    ensure!(agent.cli_ok("stack services told")?.contains("told_web"));
    Ok(())
}

/// Names of the tasks that answer on the port, and the last count.
fn ask(agent: &Agent, port: u16, times: usize) -> Result<(BTreeSet<String>, u64)> {
    let mut names = BTreeSet::new();
    let mut last = 0;
    for _ in 0..times {
        let answer = agent.host.get(&format!("127.0.0.1:{port}"), "/")?;
        let (name, count) = parse(&answer).with_context(|| format!("answer {answer:?}"))?;
        ensure!(count > last, "the count only grows: {count} after {last}");
        last = count;
        names.insert(name);
    }
    Ok((names, last))
}

/// `Hello from counter_web.1.abc, visit 7`
fn parse(answer: &str) -> Option<(String, u64)> {
    let (name, count) = answer.trim().split_once(" from ")?.1.split_once(", visit ")?;
    Some((name.to_owned(), count.parse().ok()?))
}

#[test]
fn the_example_from_nothing() -> Result<()> {
    let _alone = folder();
    let agent = Agent::start()?;
    let output = up(&agent, &["--detach"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "agent up: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("http://localhost:8000") && said.contains("http://localhost:8080"),
        "{said}"
    );

    // All three replicas answer on the published port, and through the proxy.
    for port in [8000, 8080] {
        let (names, _) = ask(&agent, port, 40)?;
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names.iter().all(|name| name.starts_with("counter_web.")),
            "{names:?}"
        );
    }
    let (_, count) = ask(&agent, 8000, 1)?;

    // Five, then none, then three.
    agent.cli_ok(&["service", "scale", "counter_web=5"])?;
    assert_eq!(ask(&agent, 8000, 60)?.0.len(), 5);
    agent.cli_ok(&["service", "scale", "counter_web=0"])?;
    agent.wait_running("counter_web", 0)?;
    eventually("nobody is there to answer", || {
        ensure!(agent.host.get("127.0.0.1:8000", "/").is_err(), "somebody answers");
        Ok(())
    })?;
    agent.cli_ok(&["service", "scale", "counter_web=3"])?;
    assert!(ask(&agent, 8000, 5)?.1 > count);

    // A second time changes nothing.
    let before = agent.wait_running("counter_web", 3)?;
    let output = up(&agent, &["--detach"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(ids(&agent.wait_running("counter_web", 3)?), ids(&before));

    // The volume outlives the stack.
    let (_, count) = ask(&agent, 8000, 1)?;
    agent.cli_ok(&["stack", "rm", "counter"])?;
    assert!(agent.cli_ok(&["volume", "ls"])?.contains("counter_data"));
    let output = up(&agent, &["--detach"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(ask(&agent, 8000, 1)?.1, count + 1, "it counts on");
    Ok(())
}

#[test]
fn up_in_the_foreground_ends_with_what_it_started() -> Result<()> {
    let _alone = folder();
    // A host without an agent: `up` starts one itself.
    let mut agent = Agent::start()?;
    agent.stop()?;
    let log = agent.host.directory().join("up.log");
    let file = std::fs::File::create(&log)?;
    let mut command = up_of(&agent, &workspace().join("examples/counter"));
    command.stdout(file.try_clone()?).stderr(file);
    let mut process = agent.host.enter(|| command.spawn())??;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let mut wait = || {
        eventually("the stack is up and its logs come", || {
            if let Some(status) = process.try_wait()? {
                bail!("up ended with {status}: {}", said());
            }
            let text = said();
            ensure!(
                text.contains("http://localhost:8000") && text.contains("| listening on port 8000"),
                "{text}"
            );
            Ok(())
        })
    };
    // Building the images' programs takes its time the first time.
    wait().or_else(|_| wait()).or_else(|_| wait())?;
    assert!(agent.host.get("127.0.0.1:8000", "/")?.contains("visit 1"));
    let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let status = process.wait()?;
    assert!(status.success(), "{status}: {}", said());
    assert!(
        !agent.socket().exists() || agent.get("/_ping").is_err(),
        "the agent is gone"
    );
    assert!(has_data(&agent.root()), "the data stays");
    agent.run()?;
    assert_eq!(
        agent.get("/containers/json?all=1")?.as_array().map(Vec::len),
        Some(0)
    );
    assert!(agent.cli_ok(&["volume", "ls"])?.contains("counter_data"));
    Ok(())
}

#[test]
fn up_says_which_task_failed_and_why() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let folder = agent.host.directory().join("broken");
    std::fs::create_dir(&folder)?;
    let text = "services:\n  bad:\n    image: bb\n    command: sh -c 'exit 5'\n    deploy: {restart_policy: {delay: 100ms}}\n";
    std::fs::write(folder.join("docker-stack.yml"), text)?;
    let mut command = up_of(&agent, &folder);
    command.arg("--detach");
    let output = agent.host.enter(|| command.output())??;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("broken_bad.1") && said.contains("non-zero exit (5)"),
        "{said}"
    );
    Ok(())
}

fn ids(tasks: &[serde_json::Value]) -> BTreeSet<String> {
    tasks.iter().map(|task| task["ID"].to_string()).collect()
}

fn has_data(root: &Path) -> bool {
    let volume = root.join("storage/volumes/counter_data/_data/count");
    volume.exists()
}

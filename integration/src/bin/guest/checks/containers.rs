//! Images and single containers.

use anyhow::{Result, ensure};
use integration::{Agent, eventually, http, image};
use serde_json::json;

use super::{Check, When, run_script, state};

pub(super) const CHECKS: &[Check] = &[
    ("build", When::Always, build),
    ("run", When::Always, run),
    ("exec", When::Oldest, exec),
    ("diff", When::Oldest, diff),
    ("many-layers", When::Oldest, many_layers),
    ("published-port", When::Oldest, published_port),
    ("stop", When::Oldest, stop),
    ("agent-within", When::Oldest, agent_within),
];

fn build(agent: &mut Agent) -> Result<()> {
    agent.build_busybox()?;
    let images = agent.cli_ok(&["image", "ls"])?;
    ensure!(images.contains("bb"), "{images}");
    Ok(())
}

fn run(agent: &mut Agent) -> Result<()> {
    let said = run_script(agent, &[], "echo hello; mount | grep ' / '")?;
    ensure!(said.starts_with("hello\n") && said.contains("overlay"), "{said}");
    let seven = agent.cli(&["run", "--rm", "bb", "sh", "-c", "exit 7"])?;
    ensure!(seven.status.code() == Some(7), "{seven:?}");
    Ok(())
}

fn exec(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&["run", "-d", "--name", "exec", "bb", "sleep", "1000"])?;
    let said = agent.cli_ok(&["exec", "exec", "cat", "/proc/self/cgroup", "/proc/1/comm"])?;
    ensure!(said == "0::/\nsleep\n", "{said:?}");
    let top = agent.cli_ok(&["top", "exec"])?;
    ensure!(top.contains("sleep 1000"), "{top}");
    let three = agent.cli(&["exec", "exec", "sh", "-c", "exit 3"])?;
    ensure!(three.status.code() == Some(3), "{three:?}");
    agent.cli_ok(&["rm", "-f", "exec"])?;
    Ok(())
}

/// Looks at image and container from outside, through a view of the storage.
fn diff(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&[
        "run",
        "--name",
        "diff",
        "bb",
        "sh",
        "-c",
        "echo new > /etc/file; rm /bin/true",
    ])?;
    let changes = agent.get("/containers/diff/changes")?;
    let has = |path, kind| {
        changes
            .as_array()
            .is_some_and(|list| list.contains(&json!({"Path": path, "Kind": kind})))
    };
    ensure!(has("/etc/file", 1) && has("/bin/true", 2), "{changes}");
    agent.cli_ok(&["rm", "diff"])?;
    Ok(())
}

/// As many layers as the page of mount(2)'s options could never name by path.
fn many_layers(agent: &mut Agent) -> Result<()> {
    let archive = image::layered("layers", 260)?;
    let headers = [("Content-Type", "application/x-tar")];
    let loaded = http::open(&agent.socket(), "POST", "/images/load", &headers, &archive)?
        .finish()?
        .success()?
        .text();
    ensure!(loaded.contains("layers"), "{loaded}");
    let count = agent.cli_ok(&["run", "--rm", "layers", "sh", "-c", "ls /layer | wc -l"])?;
    ensure!(count.trim() == "260", "{count}");
    Ok(())
}

fn published_port(agent: &mut Agent) -> Result<()> {
    let serve = "mkdir /www; echo served > /www/index.html; httpd -f -p 80 -h /www";
    agent.cli_ok(&["network", "create", "net"])?;
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        "-p",
        "8080:80",
        "bb",
        "sh",
        "-c",
        serve,
    ];
    agent.cli_ok(&words)?;
    eventually("the published port answers", || {
        let body = agent.host.get("127.0.0.1:8080", "/")?;
        ensure!(body == "served\n", "{body}");
        Ok(())
    })?;
    let by_name = run_script(agent, &["--network", "net"], "wget -q -O - http://web/")?;
    ensure!(by_name == "served\n", "{by_name}");
    agent.cli_ok(&["rm", "-f", "web"])?;
    agent.cli_ok(&["network", "rm", "net"])?;
    Ok(())
}

fn stop(agent: &mut Agent) -> Result<()> {
    let forks = "trap 'exit 5' TERM; sleep 1000 & sleep 1000 & echo ready; while :; do sleep 0.1; done";
    agent.cli_ok(&["run", "-d", "--name", "stop", "bb", "sh", "-c", forks])?;
    eventually("the trap is set", || {
        ensure!(agent.cli_ok(&["logs", "stop"])? == "ready\n");
        Ok(())
    })?;
    agent.cli_ok(&["stop", "stop"])?;
    let state = state(agent, "stop")?;
    ensure!(state["ExitCode"] == 5 && state["OOMKilled"] == false, "{state}");
    agent.cli_ok(&["rm", "stop"])?;
    Ok(())
}

/// An agent in a container: the root of its groups is the container's group, where it is not alone, and its layers lie on a
/// volume.
fn agent_within(agent: &mut Agent) -> Result<()> {
    let script = "/shoal/agent run --root /data/root --run-dir /data/run > /data/log 2>&1 & \
                  export AGENT_HOST=unix:///data/run/agent.sock; \
                  for i in $(seq 100); do /shoal/agent version > /dev/null 2>&1 && break; sleep 0.2; done; \
                  busybox tar -c -f - bin etc | /shoal/agent image import - inner; \
                  /shoal/agent run --rm --memory 32m inner /bin/cat /sys/fs/cgroup/memory.max || cat /data/log";
    let flags = ["--privileged", "-v", "/shoal:/shoal:ro", "-v", "within:/data"];
    let said = run_script(agent, &flags, script)?;
    ensure!(said.trim().ends_with("\n33554432"), "{said}");
    agent.cli_ok(&["volume", "rm", "within"])?;
    Ok(())
}

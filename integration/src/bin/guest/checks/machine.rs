//! The agent and the machine: a crash touches no container, an end leaves nothing.

use anyhow::{Context, Result, ensure};
use integration::census::Census;
use integration::{Agent, eventually};
use serde_json::Value;

use super::{Check, When, state};

pub(super) const CHECKS: &[Check] = &[
    ("kill-and-restart", When::Always, kill_and_restart),
    ("leave", When::Always, leave),
];

fn processes(agent: &Agent) -> Result<Vec<(String, Value)>> {
    let list = agent.get("/containers/json")?;
    let mut found = Vec::new();
    for container in list.as_array().into_iter().flatten() {
        let id = container["Id"].as_str().context("an id")?;
        found.push((id.to_owned(), state(agent, id)?["Pid"].clone()));
    }
    found.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(found)
}

fn kill_and_restart(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&["run", "-d", "--name", "alone", "bb", "sleep", "1000"])?;
    let before = processes(agent)?;
    ensure!(before.len() >= 3, "{before:?}");
    agent.kill()?;
    agent.run()?;
    let after = processes(agent)?;
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(agent.cli_ok(&["exec", "alone", "echo", "there"])? == "there\n");
    agent.wait_running("web", 2)?;
    eventually("the service answers again", || {
        agent.host.get("127.0.0.1:8090", "/").map(drop)
    })
}

fn leave(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&["rm", "-f", "alone"])?;
    agent.cli_ok(&["service", "rm", "web"])?;
    eventually("no container is left", || {
        let list = agent.get("/containers/json?all=1")?;
        ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
        Ok(())
    })?;
    agent.cli_ok(&["network", "rm", "over"])?;
    agent.cli_ok(&["swarm", "leave", "--force"])?;
    Ok(())
}

/// An idle agent that is asked to end takes everything along.
pub(super) fn nothing_is_left(agent: Agent, before: &Census) -> Result<()> {
    drop(agent);
    eventually("a clean machine", || {
        let left = Census::take().since(before);
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

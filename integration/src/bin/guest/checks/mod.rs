//! What must work on every kernel. Each check is a user's action and what it must have led to.

mod containers;
mod encryption;
mod limits;
mod machine;
mod swarm;

use std::time::Instant;

use anyhow::{Context, Result};
use integration::census::Census;
use integration::vm::{BRIEF, DONE, line};
use integration::{Agent, Host};
use serde_json::Value;

/// Name, whether it is made on every kernel, and the check.
type Check = (&'static str, When, fn(&mut Agent) -> Result<()>);

/// On which kernels a check is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Only on the oldest: newer ones do not differ in it, and it takes long.
    Oldest,
}

/// Runs all checks and reports. That one fails does not keep the others from being made.
pub(crate) fn run() -> Result<()> {
    let before = Census::take();
    let mut agent = Agent::start_on(Host::this_machine()?).context("start the agent")?;
    let mut count = 0;
    let mut check = |name: &str, outcome: Result<()>, since: Instant| {
        println!("{}", line(name, &outcome));
        println!("guest: {name} took {:.1} s", since.elapsed().as_secs_f32());
        count += 1;
    };
    let parts = [
        containers::CHECKS,
        limits::CHECKS,
        swarm::CHECKS,
        encryption::CHECKS,
        machine::CHECKS,
    ];
    let brief = std::fs::read_to_string("/proc/cmdline")?.contains(BRIEF);
    for (name, when, action) in parts.into_iter().flatten() {
        if brief && *when == When::Oldest {
            continue;
        }
        let start = Instant::now();
        check(name, action(&mut agent), start);
    }
    let start = Instant::now();
    check("nothing-is-left", machine::nothing_is_left(agent, &before), start);
    println!("CHECK {DONE} {count}");
    Ok(())
}

/// The full id of a container.
fn id(agent: &Agent, name: &str) -> Result<String> {
    let container = agent.get(&format!("/containers/{name}/json"))?;
    container["Id"]
        .as_str()
        .map(str::to_owned)
        .context("a container without an id")
}

/// `State` of a container.
fn state(agent: &Agent, name: &str) -> Result<Value> {
    Ok(agent.get(&format!("/containers/{name}/json"))?["State"].clone())
}

/// Runs a shell script in a new container of the image `bb`; what it printed, if it ended well.
fn run_script(agent: &Agent, flags: &[&str], script: &str) -> Result<String> {
    let words = [&["run", "--rm"], flags, &["bb", "sh", "-c", script]].concat();
    agent.cli_ok(&words)
}

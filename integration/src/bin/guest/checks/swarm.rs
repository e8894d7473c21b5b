//! A swarm of one node: replicas behind one address, names, published ports.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use integration::{Agent, eventually};

use super::{Check, When, run_script};

pub(super) const CHECKS: &[Check] = &[
    ("swarm-init", When::Always, init),
    ("service", When::Always, service),
    ("virtual-address", When::Always, virtual_address),
    ("service-port", When::Always, service_port),
];

fn init(agent: &mut Agent) -> Result<()> {
    agent.cli_ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    agent.cli_ok(&["network", "create", "-d", "overlay", "--attachable", "over"])?;
    Ok(())
}

fn service(agent: &mut Agent) -> Result<()> {
    let serve = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";
    let options = [
        "--replicas",
        "2",
        "--network",
        "over",
        "-p",
        "8090:80",
        "--limit-memory",
        "64m",
        "--stop-grace-period",
        "1s",
    ];
    let words = [
        &["service", "create", "-d", "--name", "web"],
        &options[..],
        &["bb", "sh", "-c", serve],
    ]
    .concat();
    agent.cli_ok(&words)?;
    agent.wait_running("web", 2)?;
    Ok(())
}

fn virtual_address(agent: &mut Agent) -> Result<()> {
    let service = agent.get("/services/web")?;
    let addresses: Vec<&str> = service["Endpoint"]["VirtualIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|vip| vip["Addr"].as_str()?.split('/').next())
        .collect();
    let found = run_script(agent, &["--network", "over"], "nslookup web")?;
    ensure!(
        addresses.iter().any(|address| found.contains(address)),
        "{addresses:?} in {found}"
    );
    let tasks = run_script(agent, &["--network", "over"], "nslookup tasks.web")?;
    ensure!(tasks.matches("Address").count() >= 3, "{tasks}");
    let ask = "for i in $(seq 20); do wget -q -O - http://web/ || echo failed; done";
    let names = run_script(agent, &["--network", "over"], ask)?;
    ensure!(!names.contains("failed"), "{names}");
    ensure!(
        names.lines().collect::<BTreeSet<_>>().len() == 2,
        "both replicas answer: {names}"
    );
    Ok(())
}

fn service_port(agent: &mut Agent) -> Result<()> {
    eventually("the service answers on the machine's loopback", || {
        let name = agent.host.get("127.0.0.1:8090", "/")?;
        let name = name.lines().next().context("an empty answer")?;
        ensure!(!name.is_empty());
        Ok(())
    })
}

//! No node may be taken for lost because the machines are busy.

use anyhow::{Result, bail};

use crate::Options;
use crate::process::Busy;
use crate::side::{Kind, Node, Side};
use crate::table::{Figure, Table};

/// What a manager writes to its log when it gives a node up.
const ALARM: &str = "node is down: it has missed its heartbeats";

/// Alarms of three nodes while twice as many processes want to run as there are processors.
pub(crate) fn false_alarms(options: &Options, table: &mut Table) -> Result<()> {
    let side = Side::new(Kind::Agent, 3, 1)?;
    side.service("web", options.replicas)?;
    let processors = std::thread::available_parallelism()?.get();
    let busy = Busy::start(2 * processors)?;
    std::thread::sleep(options.load());
    drop(busy);
    let Node::Agent(manager) = &side.nodes[0] else {
        bail!("not an agent");
    };
    let alarms = manager.log().lines().filter(|line| line.contains(ALARM)).count();
    let mut figure = Figure::count(&format!(
        "false alarms in {} min at {} busy processes on {processors} processors",
        options.load_minutes,
        2 * processors
    ));
    figure.alone(alarms as f64);
    table.add(figure);
    Ok(())
}

//! What a manager weighs.

use std::time::Duration;

use anyhow::Result;

use crate::Options;
use crate::process::pss;
use crate::side::Side;
use crate::table::{Figure, Table};

/// What is allocated while tasks start shall be given back first, as far as it ever is.
const SETTLE: Duration = Duration::from_secs(5);

/// Proportional set size of the manager's daemon among three nodes, with tasks on all of them.
pub(crate) fn manager(options: &Options, table: &mut Table) -> Result<()> {
    let title = format!("manager, 3 nodes, {} tasks: PSS", options.memory_tasks);
    let mut figure = Figure::megabytes(&title);
    // One after the other: twice a hundred containers are no part of the figure.
    let sides = table.one_by_one(|kind| {
        let side = Side::new(kind, 3, 1)?;
        side.service("web", options.memory_tasks)?;
        std::thread::sleep(SETTLE);
        let sizes = side.nodes[0].pids().into_iter().map(pss);
        Ok(sizes.sum::<Result<u64>>()? as f64 / 1000.0)
    });
    figure.values(sides);
    table.add(figure);
    Ok(())
}

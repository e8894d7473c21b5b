//! Figures of a cluster beside those of Docker Swarm where it runs: `cargo xtask bench cluster`.
//!
//! Nodes are network namespaces on one bridge, as in the tests. Rounds alternate between the two sides; columns are
//! medians, a ratio is the median of the pairs' ratios. What cannot be measured is named with the reason.
//!
//! - [`side`]: a cluster of agents or of dockerds, behind one face; [`docker`]: the latter
//! - [`failover`], [`memory`], [`alarms`], [`scale`], [`network`]: the figures
//! - [`column`]: one side's values; [`table`]: how they are shown

mod alarms;
mod column;
mod docker;
mod failover;
mod memory;
mod network;
mod process;
mod scale;
mod side;
mod table;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use table::Table;

/// What to measure.
#[derive(Debug, Parser)]
#[command(about = "Figures of a cluster, beside Docker Swarm where it runs")]
struct Options {
    /// Pairs of each figure of times
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Tasks of the service whose node is lost
    #[arg(long, default_value_t = 6)]
    replicas: usize,
    /// Tasks of the cluster whose manager's memory is taken
    #[arg(long, default_value_t = 100)]
    memory_tasks: usize,
    /// Minutes under full load without a false alarm
    #[arg(long, default_value_t = 2.0)]
    load_minutes: f64,
    /// Simulated nodes
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Tasks on the simulated nodes
    #[arg(long, default_value_t = 30_000)]
    tasks: usize,
    /// Services that they belong to
    #[arg(long, default_value_t = 30)]
    services: usize,
    /// Only these figures
    #[arg(long, value_delimiter = ',', value_parser = FIGURES)]
    only: Vec<String>,
    /// Leave Docker out
    #[arg(long)]
    without_docker: bool,
    /// Add the table to this file
    #[arg(long)]
    write: Option<std::path::PathBuf>,
}

const FIGURES: [&str; 7] = [
    "node", "leader", "restart", "memory", "alarms", "network", "scale",
];

impl Options {
    fn wants(&self, figure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == figure)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let docker = match docker::missing() {
        _ if options.without_docker => Err("left out".to_owned()),
        Some(what) => Err(format!("{what} is not installed")),
        None => Ok(()),
    };
    let mut table = Table::new(docker);
    type Figure = fn(&Options, &mut Table) -> Result<()>;
    let figures: [(&str, Figure); 7] = [
        ("node", failover::node),
        ("leader", failover::leader),
        ("restart", failover::restart),
        ("memory", memory::manager),
        ("alarms", alarms::false_alarms),
        ("network", network::overlay),
        ("scale", scale::simulated),
    ];
    for (name, figure) in figures {
        if options.wants(name) {
            eprintln!("--- {name}");
            if let Err(error) = figure(&options, &mut table) {
                table.failed(name, &format!("{error:#}"));
            }
        }
    }
    let text = table.markdown();
    println!("{text}");
    if let Some(file) = &options.write {
        let before = std::fs::read_to_string(file).unwrap_or_default();
        std::fs::write(file, format!("{before}\n{text}"))?;
    }
    Ok(())
}

impl Options {
    fn load(&self) -> Duration {
        Duration::from_secs_f64(self.load_minutes * 60.0)
    }
}

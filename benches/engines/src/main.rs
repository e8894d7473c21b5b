//! openraft and raft-rs under the same weather: an in-memory network that loses, delays, doubles and cuts, disks that are
//! slow and forget what was not synced, crashes and restarts, all under virtual time and drawn from one seed.
//!
//! ```text
//! engines [--engine NAME] [--case NAME] [--seeds N] [--first SEED] [--trace]
//! SIM_SEED=17 engines --engine openraft --case flapping     the one run, with its trace
//! ```
//! What was found stands in docs/consensus.md.

mod cases;
mod cluster;
mod engine_openraft;
mod engine_raftrs;
mod oracle;
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use anyhow::{Context, Result, bail};
use cluster::Engine;
use engine_openraft::{OpenRaft, Rules};
use engine_raftrs::RaftRs;
use world::World;

struct Wish {
    engine: Option<String>,
    case: Option<String>,
    seeds: u64,
    first: u64,
    trace: bool,
}

/// What one run came to.
pub struct Outcome {
    violations: Vec<String>,
    /// From the end of all trouble until a write was acknowledged, in virtual milliseconds.
    healed_in: Option<u64>,
    acked: usize,
    trace: Vec<String>,
}

fn engines() -> Vec<(&'static str, fn() -> Box<dyn Engine>)> {
    vec![
        ("openraft", || Box::new(OpenRaft::new(Rules::GOOD))),
        ("openraft-stock", || Box::new(OpenRaft::new(Rules::STOCK))),
        ("openraft-no-prevote", || {
            Box::new(OpenRaft::new(Rules::NO_PREVOTE))
        }),
        ("openraft-no-quorum-check", || {
            Box::new(OpenRaft::new(Rules::NO_QUORUM_CHECK))
        }),
        ("openraft-no-ticks", || Box::new(OpenRaft::new(Rules::NO_TICKS))),
        ("openraft-hasty-purge", || {
            Box::new(OpenRaft::new(Rules::HASTY_PURGE))
        }),
        ("raft-rs", || Box::new(RaftRs::new(true))),
        ("raft-rs-no-prevote", || Box::new(RaftRs::new(false))),
    ]
}

fn main() -> Result<()> {
    let mut wish = wish()?;
    if let Ok(seed) = std::env::var("SIM_SEED") {
        wish.first = seed.parse().context("SIM_SEED is a number")?;
        wish.seeds = 1;
        wish.trace = true;
    }
    if !wish.trace {
        std::panic::set_hook(Box::new(|_| {}));
    }
    for (name, make) in engines() {
        if wish.engine.as_deref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        for case in cases::ALL {
            if wish.case.as_deref().is_none_or(|wanted| wanted == case.name) {
                report(name, make, case, &wish);
            }
        }
    }
    Ok(())
}

fn report(name: &str, make: fn() -> Box<dyn Engine>, case: &cases::Case, wish: &Wish) {
    let mut bad: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut healed = Vec::new();
    let mut acked = 0;
    for seed in wish.first..wish.first + wish.seeds {
        let outcome = run(make, case, seed);
        if wish.trace {
            outcome.trace.iter().for_each(|line| println!("{line}"));
        }
        for violation in &outcome.violations {
            let kind = violation.split(':').next().unwrap_or(violation).to_owned();
            let seeds = bad.entry(kind).or_default();
            if seeds.last() != Some(&seed) {
                seeds.push(seed);
            }
            if wish.trace {
                println!("VIOLATION {violation}");
            }
        }
        healed.extend(outcome.healed_in);
        acked += outcome.acked;
    }
    healed.sort_unstable();
    let at = |part: f64| healed.get((healed.len().saturating_sub(1) as f64 * part) as usize);
    println!(
        "{name:26} {:16} {} seeds, {acked} writes, healed in ms p50 {} p99 {} max {}{}",
        case.name,
        wish.seeds,
        at(0.5).map_or("-".into(), ToString::to_string),
        at(0.99).map_or("-".into(), ToString::to_string),
        at(1.0).map_or("-".into(), ToString::to_string),
        if bad.is_empty() { ", good" } else { "" },
    );
    for (kind, seeds) in bad {
        println!(
            "    {kind}: {} seeds, e.g. {:?}",
            seeds.len(),
            &seeds[..seeds.len().min(6)]
        );
    }
}

/// One run, in a runtime of its own whose clock jumps from one event to the next.
fn run(make: fn() -> Box<dyn Engine>, case: &cases::Case, seed: u64) -> Outcome {
    let world = World::new(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    let inner = world.clone();
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(cases::play(case, make(), inner));
    }));
    if ran.is_err() {
        world.violation("the case panicked".to_owned());
    }
    drop(runtime);
    world.outcome()
}

fn wish() -> Result<Wish> {
    let mut wish = Wish {
        engine: None,
        case: None,
        seeds: 100,
        first: 1,
        trace: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--engine" => wish.engine = Some(value()?),
            "--case" => wish.case = Some(value()?),
            "--seeds" => wish.seeds = value()?.parse()?,
            "--first" => wish.first = value()?.parse()?,
            "--trace" => wish.trace = true,
            _ => bail!("unknown flag {flag}"),
        }
    }
    Ok(wish)
}

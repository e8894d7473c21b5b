//! The manager under a deterministic simulation: the real store, loops, dispatcher and consensus, imagined nodes and
//! networks, virtual time, and trouble of every kind, all from one seed.
//!
//! ```text
//! cargo test -p manager --test sim                          a few hundred seeds
//! SIM_SEED=17 cargo test -p manager --test sim alone        one seed of one story, with its trace
//! SIM_LIVE=1 SIM_SEED=17 cargo test … -- --nocapture     the same, shown as it grows
//! RUSTFLAGS='--cfg tokio_unstable' SIM_SEED=17 cargo test -p manager --test sim contended
//!                                                           the same where writers meet: see [`story::Kind`]
//! SIM_SEEDS=5000 cargo test -p manager --test sim           more seeds
//! ```
//! - [`world`]: time, chance, links, the trace
//! - [`worker`]: a node: its session with the manager and its containers, which are imagined
//! - [`user`]: what users ask for, and what they were told; [`ledger`]: several that write to one object at once
//! - [`managers`]: one manager over a store in memory; [`group`]: several, which agree by consensus; [`busy`]: one that is
//!   overtaken by others
//! - [`trouble`]: what goes wrong
//! - [`invariants`]: what must hold whatever happens; what was found by it stands in docs/consensus.md
//! - [`story`]: one run from its beginning to its judgement

// `tokio_unstable` is no feature of ours: see `story::play`.
#![allow(unexpected_cfgs)]

mod busy;
mod group;
mod invariants;
mod ledger;
mod managers;
mod story;
mod trouble;
mod user;
mod worker;
mod world;

use story::Kind;

/// One manager that is restarted now and then, over a store in memory.
#[test]
fn alone() {
    story::play_seeds(Kind::Alone, 240);
}

/// Three managers that agree by consensus.
#[test]
fn group() {
    story::play_seeds(Kind::Group, 40);
}

/// The same, while several write to one object at once.
#[test]
fn contended() {
    story::play_seeds(Kind::Contended, 40);
}

/// The simulation is worth something only if a seed is always the same story.
#[test]
fn a_seed_is_always_the_same_story() {
    for kind in [Kind::Alone, Kind::Group] {
        for seed in [3, 14] {
            let (one, two) = (story::play(kind, seed), story::play(kind, seed));
            if let Some(at) = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two) {
                let from = at.saturating_sub(10);
                panic!(
                    "{kind:?} {seed} differs:\n{:#?}\n{:#?}",
                    &one.trace[from..=at],
                    &two.trace[from..=at]
                );
            }
            assert_eq!(one.trace.len(), two.trace.len());
        }
    }
}

//! `cargo xtask lint`: what must be clean at every commit.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::{cargo, run as run_command};

/// Which of the house's crates each one may know. The only arrows that are allowed.
const ARROWS: [(&str, &[&str]); 11] = [
    ("proto", &[]),
    ("sys", &[]),
    ("runtime", &["sys"]),
    ("storage", &["sys"]),
    ("netd", &["proto", "sys"]),
    ("builder", &["storage"]),
    ("manager", &["proto"]),
    (
        "agent",
        &["builder", "manager", "netd", "proto", "storage", "sys"],
    ),
    ("integration", &[]),
    ("counter", &[]),
    ("xtask", &[]),
];

/// Formatting, clippy, arrows, and licences where cargo-deny is installed.
pub(crate) fn run() -> Result<()> {
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    arrows()?;
    run_command(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    run_command(cargo().args([
        "deny",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))
    .context("cargo-deny is needed: cargo install --locked cargo-deny")
}

fn arrows() -> Result<()> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?
    {
        let name = package["name"].as_str().unwrap_or_default();
        let known = allowed
            .get(name)
            .with_context(|| format!("crate {name} has no place in the house: xtask/src/lint.rs"))?;
        let ours = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|dependency| dependency["name"].as_str());
        wrong.extend(
            ours.filter(|other| allowed.contains_key(other) && !known.contains(other))
                .map(|other| format!("{name} → {other}")),
        );
    }
    if !wrong.is_empty() {
        bail!("arrows that the house does not allow: {}", wrong.join(", "));
    }
    Ok(())
}

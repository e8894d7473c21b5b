//! `cargo xtask test`: builds the binaries, runs every test as root, and closes with a census of what was left behind.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{cargo, workspace};

/// Runs every test, or those whose names contain the filter.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    require_root()?;
    // The tests that are black boxes start these two; nothing else would build them.
    crate::run(cargo().args(["build", "--package", "runtime", "--package", "agent", "--bins"]))?;
    let census = workspace().join("target/census.json");
    take_census(&census)?;
    crate::run(
        cargo()
            .args(["test", "--workspace", "--exclude", "integration"])
            .args(filter),
    )?;
    crate::run(
        cargo()
            .args(["test", "--package", "integration", "--test", "stack"])
            .args(filter),
    )?;
    crate::run(
        cargo()
            .args([
                "test",
                "--package",
                "integration",
                "--lib",
                "--test",
                "vm",
                "--example",
                "cluster_figures",
            ])
            .args(filter),
    )?;
    // A test program of its own, so that the run closes with cargo's summary of it.
    crate::run(
        cargo()
            .args(["test", "--package", "integration", "--test", "census"])
            .env("SHOAL_CENSUS", &census),
    )
}

fn take_census(file: &Path) -> Result<()> {
    crate::run(
        cargo()
            .args([
                "run",
                "--quiet",
                "--package",
                "integration",
                "--bin",
                "census",
                "--",
            ])
            .arg(file),
    )
}

fn require_root() -> Result<()> {
    if !is_root() {
        bail!("the tests make namespaces, mounts and cgroups: run `cargo xtask test` as root");
    }
    Ok(())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

//! The agent in real virtual machines, on each kernel that was fetched: cgroup v2 alone, and no feature newer than that
//! kernel. What is checked is in `src/bin/guest`.

use std::path::Path;

use anyhow::{Context, Result};
use integration::vm;

/// One after the other: each has the computer's two processors for itself. The oldest kernel lacks most and gets all checks.
#[test]
fn everything_works_on_other_kernels_with_unified_cgroups() -> Result<()> {
    for (number, kernel) in vm::kernels()?.into_iter().enumerate() {
        let words = if number == 0 { "" } else { vm::BRIEF };
        let report = vm::run(&kernel, Path::new(env!("CARGO_BIN_EXE_guest")), words)?;
        let checks = report
            .verdict()
            .with_context(|| format!("Linux {}", kernel.release))?;
        println!("Linux {}: {checks} checks", kernel.release);
    }
    Ok(())
}

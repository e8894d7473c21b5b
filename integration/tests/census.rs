//! The last test of a run: nothing is left behind of what the others made.

use integration::census::Census;

#[test]
fn nothing_is_left_behind() -> anyhow::Result<()> {
    let Some(file) = std::env::var_os("SHOAL_CENSUS") else {
        println!("without a census from before there is nothing to compare: `cargo xtask test` takes one");
        return Ok(());
    };
    let before: Census = serde_json::from_slice(&std::fs::read(file)?)?;
    // A process that has been told to end may take a moment to be gone.
    integration::eventually("a clean machine", || {
        let left = Census::take().since(&before);
        anyhow::ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

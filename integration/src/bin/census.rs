//! Writes a census to the file that is named, for the test that compares at the end of the run.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: census FILE")?;
    let text = serde_json::to_vec_pretty(&integration::census::Census::take())?;
    std::fs::write(&file, text).with_context(|| file)
}

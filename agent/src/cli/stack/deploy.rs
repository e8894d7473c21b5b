//! `stack deploy`: its flags, and the files and variables that it reads.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::super::client::Client;
use super::super::converge::{self, WaitFlags};
use super::apply::deploy;
use super::dry_run;
use crate::compose::{self, Loaded};

/// `stack deploy`
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Path to a Compose file, or "-" to read from stdin
    #[arg(short = 'c', long = "compose-file", required = true)]
    files: Vec<PathBuf>,
    /// Prune services that are no longer referenced
    #[arg(long)]
    prune: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitFlags,
    stack: String,
}

impl Deploy {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        check_name(&self.stack)?;
        let loaded = load(&self.files)?;
        for service in loaded
            .stack
            .services
            .iter()
            .filter(|service| service.build.is_some())
        {
            eprintln!(
                "warning: services.{}.build: not acted on by stack deploy, which takes the image {} as it is; `agent up` builds",
                service.key, service.container.image
            );
        }
        let plan = compose::plan(&loaded.stack, &self.stack);
        if self.dry_run {
            return dry_run::print(client, &plan, &self.stack, self.prune).await;
        }
        let services = deploy(client, &plan, &self.stack, self.prune).await?;
        converge::reach(client, &services, &self.wait, false).await
    }
}

/// Loads files with this process's environment; prints what they warn of.
pub(crate) fn load(files: &[PathBuf]) -> Result<Loaded> {
    let loaded = compose::load(files, &variables(files)?)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(loaded)
}

/// What `$NAME` may stand for: this process's environment, and under it the file `.env` beside the first compose file.
fn variables(files: &[PathBuf]) -> Result<compose::Variables> {
    let mut variables: compose::Variables = std::env::vars().collect();
    let file = files
        .first()
        .map_or_else(|| PathBuf::from(".env"), |first| first.with_file_name(".env"));
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let pairs = compose::env_file(&text)
                .map_err(|problem| anyhow::anyhow!("env file {}: {problem}", file.display()))?;
            for (name, value) in pairs {
                variables.entry(name).or_insert(value);
            }
            Ok(variables)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(variables),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// A stack's name becomes part of the names of everything in it.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(plain) && name.as_bytes()[0].is_ascii_alphanumeric() {
        return Ok(());
    }
    bail!("invalid stack name {name:?}: use letters, digits, - and _, beginning with a letter or digit");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_names() {
        assert!(check_name("my-app_1").is_ok());
        for name in ["", "-a", "a b", "a.b", "../x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}

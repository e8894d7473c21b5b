//! `swarm unlock` and `swarm unlock-key`.

use std::io::{IsTerminal, Write, stdin, stdout};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::client::{Client, query};
use super::container::text;
use super::terminal::Silent;

/// `swarm unlock-key`
#[derive(Debug, Args)]
pub(crate) struct UnlockKey {
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
    /// Rotate unlock key
    #[arg(long)]
    rotate: bool,
}

impl UnlockKey {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        if self.rotate {
            let swarm = client.get("/swarm").await?;
            if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] != true {
                bail!("cannot rotate because autolock is not turned on");
            }
            let version = swarm["Version"]["Index"].to_string();
            let query = query(&[("version", &version), ("rotateManagerUnlockKey", "true")]);
            client
                .post(&format!("/swarm/update{query}"), &swarm["Spec"])
                .await?;
            if !self.quiet {
                println!("Successfully rotated manager unlock key.\n");
            }
        }
        let key = key(client).await?;
        if self.quiet {
            println!("{key}");
        } else {
            print_key(&key);
        }
        Ok(())
    }
}

/// Asks for the key, or reads it where nobody can be asked.
pub(crate) async fn unlock(client: &Client) -> Result<()> {
    let info = client.get("/info").await?;
    match text(&info["Swarm"]["LocalNodeState"]).as_str() {
        "locked" => {}
        "inactive" => bail!("this node is not part of a swarm"),
        _ => bail!("swarm is not locked"),
    }
    let key = read_key()?;
    client.post("/swarm/unlock", &json!({ "UnlockKey": key })).await?;
    Ok(())
}

/// Shows the key of a swarm that has just begun to lock its managers.
pub(crate) async fn show_key(client: &Client) -> Result<()> {
    print_key(&key(client).await?);
    Ok(())
}

async fn key(client: &Client) -> Result<String> {
    let answer = client.get("/swarm/unlockkey").await;
    let key = text(&answer.context("could not fetch unlock key")?["UnlockKey"]);
    if key.is_empty() {
        bail!("no unlock key is set");
    }
    Ok(key)
}

fn print_key(key: &str) {
    println!(
        "To unlock a swarm manager after it restarts, run the `agent swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager."
    );
}

fn read_key() -> Result<String> {
    let mut line = String::new();
    let silent = match stdin().is_terminal() {
        true => {
            print!("Please enter unlock key: ");
            stdout().flush()?;
            Some(Silent::enter()?)
        }
        false => None,
    };
    stdin().read_line(&mut line).context("read the unlock key")?;
    if silent.is_some() {
        println!();
    }
    Ok(line.trim().to_owned())
}

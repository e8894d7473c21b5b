//! `exec` in a container.

use anyhow::Result;
use clap::{ArgAction, Args};
use serde_json::json;

use super::client::{Client, escape};
use super::container::text;
use super::run::refused;
use super::terminal::{self, Ended};

/// `exec`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Exec {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Set environment variables
    #[arg(short, long)]
    env: Vec<String>,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Print usage
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        terminal::require(self.tty, self.interactive && !self.detach)?;
        let body = json!({
            "Cmd": self.command, "Env": self.env, "User": self.user.clone().unwrap_or_default(), "Tty": self.tty,
            "WorkingDir": self.workdir.clone().unwrap_or_default(), "Privileged": self.privileged,
            "AttachStdin": self.interactive && !self.detach, "AttachStdout": !self.detach, "AttachStderr": !self.detach,
        });
        let created = client
            .post(&format!("/containers/{}/exec", escape(&self.container)), &body)
            .await?;
        let path = format!("/exec/{}", text(&created["Id"]));
        let start = json!({
            "Detach": self.detach, "Tty": self.tty,
            "ConsoleSize": terminal::size().filter(|_| self.tty).map(|(rows, columns)| [rows, columns]),
        });
        if self.detach {
            client.post(&format!("{path}/start"), &start).await?;
            return Ok(());
        }
        let stream = client
            .hijack(&format!("{path}/start"), &start)
            .await
            .map_err(refused)?;
        let raw = (self.tty && self.interactive)
            .then(terminal::Raw::enter)
            .transpose()?;
        if self.tty {
            terminal::follow_size(client.clone(), path.clone());
        }
        let ended = terminal::converse(stream, self.interactive, self.tty).await?;
        drop(raw);
        if ended == Ended::Detached {
            return Ok(());
        }
        let code = client.get(&format!("{path}/json")).await?["ExitCode"]
            .as_i64()
            .unwrap_or_default();
        if code == 0 {
            Ok(())
        } else {
            Err(super::Silent(i32::try_from(code).unwrap_or(255)).into())
        }
    }
}

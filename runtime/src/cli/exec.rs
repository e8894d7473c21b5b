//! `exec`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::foreground::{self, Signals};
use super::spawn::{hand_over, stdio};
use crate::container::{self, ContainerId, ExecRequest, StateDir};
use crate::spec;

/// `exec`: the process is that of config.json with the changes of the flags, or the one of `--process`.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Unix socket that receives the master of the process's terminal.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File that receives the process id.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// File with the process as JSON; no other flag changes it.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["cwd", "env", "tty", "user", "cap", "additional_gids", "no_new_privs", "command"])]
    process: Option<PathBuf>,
    /// Working directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable to add to the environment.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Numeric user, and group if one is given.
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Additional group.
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Capability to add to the bounding, effective and permitted set.
    #[arg(short, long, value_name = "CAP_NAME")]
    cap: Vec<String>,
    /// The process and its descendants cannot gain privileges.
    #[arg(long)]
    no_new_privs: bool,
    /// Return when the process runs.
    #[arg(short, long)]
    detach: bool,
    /// The container.
    id: ContainerId,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn execute(&self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let process = self.build(state)?;
        let size = process.console_size().map(|size| (size.height(), size.width()));
        let terminal = process.terminal().unwrap_or(false);
        let stdio = stdio(terminal, size, self.detach, self.console_socket.as_deref())?;
        let signals = if self.detach {
            None
        } else {
            Some(Signals::block()?)
        };
        let created = container::exec(state, &self.id, ExecRequest { process, stdio })?;
        hand_over(&created, self.console_socket.as_deref(), self.pid_file.as_deref())?;
        match signals {
            None => Ok(ExitCode::SUCCESS),
            Some(signals) => {
                let terminal = created
                    .terminal
                    .as_ref()
                    .filter(|_| self.console_socket.is_none());
                foreground::wait(&signals, &created.pidfd, terminal)
            }
        }
    }

    fn build(&self, state: &StateDir) -> anyhow::Result<Process> {
        if let Some(path) = &self.process {
            return Ok(spec::load_process(path).map_err(container::Error::from)?);
        }
        ensure!(!self.command.is_empty(), "a command, or --process, is needed");
        let bundle = container::state(state, &self.id)?.bundle().clone();
        let config = spec::load(&bundle).map_err(container::Error::from)?;
        let mut process = config.process().clone().context("config.json has no process")?;
        process
            .set_args(Some(self.command.clone()))
            .set_terminal(Some(self.tty))
            .set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if !self.env.is_empty() {
            let env = process.env().iter().flatten().chain(&self.env).cloned().collect();
            process.set_env(Some(env));
        }
        if let Some(user) = &self.user {
            process.set_user(parse_user(user)?);
        }
        if !self.additional_gids.is_empty() {
            process
                .user_mut()
                .set_additional_gids(Some(self.additional_gids.clone()));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        self.add_capabilities(&mut process)?;
        Ok(process)
    }

    /// Never to the inheritable set (CVE-2022-29162).
    fn add_capabilities(&self, process: &mut Process) -> anyhow::Result<()> {
        if self.cap.is_empty() {
            return Ok(());
        }
        let mut sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
        let mut added = HashSet::new();
        for name in &self.cap {
            let capability: Capability = serde_json::from_value(serde_json::Value::from(name.as_str()))
                .with_context(|| format!("--cap {name}"))?;
            added.insert(capability);
        }
        let with =
            |set: &Option<HashSet<Capability>>| Some(set.iter().flatten().chain(&added).copied().collect());
        let (bounding, effective, permitted) = (
            with(sets.bounding()),
            with(sets.effective()),
            with(sets.permitted()),
        );
        sets.set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted);
        process.set_capabilities(Some(sets));
        Ok(())
    }
}

/// All five sets empty; oci-spec's default is not.
fn no_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(HashSet::new()))
        .set_effective(Some(HashSet::new()))
        .set_inheritable(Some(HashSet::new()))
        .set_permitted(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    sets
}

/// Numbers only (CVE-2026-30892): decimal digits, and below the value that setresuid(2) takes for "no change".
fn parse_user(text: &str) -> anyhow::Result<User> {
    let number = |part: &str| -> anyhow::Result<u32> {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match part.parse::<u32>() {
            Ok(number) if digits && number < u32::MAX => Ok(number),
            _ => bail!("--user {text:?}: {part:?} is no user or group number"),
        }
    };
    let mut user = User::default();
    match text.split_once(':') {
        Some((uid, gid)) => user.set_uid(number(uid)?).set_gid(number(gid)?),
        None => user.set_uid(number(text)?).set_gid(0),
    };
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2016-3697, CVE-2026-30892.
    #[test]
    fn a_user_is_a_number() {
        assert_eq!(parse_user("1000:7").unwrap().gid(), 7);
        assert_eq!(parse_user("1").unwrap().uid(), 1);
        for bad in [
            "",
            "root",
            "1:",
            ":1",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "1:2:3",
            " 1",
            "0x1",
        ] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_empty_sets_are_empty() {
        let sets = no_capabilities();
        assert!(sets.bounding().as_ref().unwrap().is_empty());
        assert!(sets.ambient().as_ref().unwrap().is_empty());
    }
}

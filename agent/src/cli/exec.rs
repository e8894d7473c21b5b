//! `exec` in a container, and in a task on whatever node.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use proto::TaskState;
use proto::object::{Service, Task};
use serde_json::json;

use super::client::{Client, escape, filters, is_not_found, query};
use super::container::text;
use super::run::refused;
use super::terminal::{self, Ended};

/// What is run, and how.
#[derive(Debug, Args)]
struct Process {
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
}

/// `exec`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Exec {
    #[command(flatten)]
    process: Process,
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
        let create = format!("/containers/{}/exec", escape(&self.container));
        self.process.run(client, &create, "/exec", &self.command).await
    }
}

/// `service exec`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ServiceExec {
    #[command(flatten)]
    process: Process,
    /// The service, and which of its tasks: by slot, or by node where it is global
    #[arg(value_name = "SERVICE[.SLOT]")]
    service: String,
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl ServiceExec {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let task = running_task(client, &self.service).await?;
        self.process.run_in_task(client, &task, &self.command).await
    }
}

/// `task exec`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct TaskExec {
    #[command(flatten)]
    process: Process,
    #[arg(value_name = "TASK")]
    task: String,
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl TaskExec {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        self.process.run_in_task(client, &self.task, &self.command).await
    }
}

impl Process {
    async fn run_in_task(&self, client: &Client, task: &str, command: &[String]) -> Result<()> {
        let path = format!("/tasks/{}/exec", escape(task));
        self.run(client, &path, &path, command).await
    }

    /// `create` is where the process is prepared; below `execs` it is found then.
    async fn run(&self, client: &Client, create: &str, execs: &str, command: &[String]) -> Result<()> {
        terminal::require(self.tty, self.interactive && !self.detach)?;
        let body = json!({
            "Cmd": command, "Env": self.env, "User": self.user.clone().unwrap_or_default(), "Tty": self.tty,
            "WorkingDir": self.workdir.clone().unwrap_or_default(), "Privileged": self.privileged,
            "AttachStdin": self.interactive && !self.detach, "AttachStdout": !self.detach, "AttachStderr": !self.detach,
        });
        let created = client.post(create, &body).await?;
        let path = format!("{execs}/{}", text(&created["Id"]));
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

/// The running task that `SERVICE`, `SERVICE.SLOT` or `SERVICE.NODE` means: of several the one in the lowest slot.
async fn running_task(client: &Client, name: &str) -> Result<String> {
    let (service, place) = find_service(client, name).await?;
    let wanted = filters(
        &[],
        &[("service", service.id.as_str()), ("desired-state", "running")],
    )?;
    let tasks = format!("/tasks{}", query(&[("filters", &wanted)]));
    let mut tasks: Vec<Task> = client.fetch(&tasks).await?;
    tasks.retain(|task| task.status.state == TaskState::Running);
    if let Some(place) = &place {
        let node = match client.get(&format!("/nodes/{}", escape(place))).await {
            Ok(node) => text(&node["ID"]).to_owned(),
            Err(_) => place.clone(),
        };
        tasks.retain(|task| match task.slot {
            0 => task.node_id.as_str() == node,
            slot => slot.to_string() == *place,
        });
    }
    let chosen = tasks.iter().min_by_key(|task| (task.slot, task.id.as_str()));
    match chosen {
        Some(task) => Ok(task.id.to_string()),
        None => bail!(
            "no task of {name} is running: `service ps {}` says why",
            service.spec.name
        ),
    }
}

/// A service, and what stands behind its name's last dot if the whole is no service's name.
async fn find_service(client: &Client, name: &str) -> Result<(Service, Option<String>)> {
    let fetch = async |name: &str| {
        client
            .fetch::<Service>(&format!("/services/{}", escape(name)))
            .await
    };
    match (fetch(name).await, name.rsplit_once('.')) {
        (Err(error), Some((service, place))) if is_not_found(&error) => {
            let service = fetch(service).await.context(format!("no such service: {name}"))?;
            Ok((service, Some(place.to_owned())))
        }
        (found, _) => Ok((found?, None)),
    }
}

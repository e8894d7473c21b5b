//! `up`: from a folder with a compose file to a running stack, with nothing there before.
//!
//! ```text
//! agent there? ─no→ start one ─→ swarm? ─no→ init ─→ prepare ─→ build ─→ deploy ─→ converge ─→ logs … Ctrl-C
//! ```
//! Ctrl-C ends what this call has started: the stack if it was not there before, the agent if it did not run. Data
//! stays. With `--detach` everything stays up and the exit code says whether all services are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use proto::object::Service;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, escape};
use super::container::text;
use super::context::Context;
use super::image::BuildRequest;
use super::{converge, service, stack};
use crate::compose::{self, Stack};

/// `up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Directory of everything durable, if an agent has to be started
    #[arg(long, default_value = "/var/lib/shoal", value_name = "DIR")]
    root: PathBuf,
    /// Directory of the agent's socket
    #[arg(long, default_value = "/run/shoal", value_name = "DIR")]
    run_dir: PathBuf,
    /// Return when all services are up
    #[arg(short, long)]
    detach: bool,
    /// Name of the stack [default: the file's `name`, or the folder's]
    #[arg(short, long)]
    name: Option<String>,
    /// Compose file [default: docker-stack.yml, compose.yaml, compose.yml, docker-compose.yml in PATH]
    #[arg(short = 'c', long = "compose-file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder of the stack
    #[arg(default_value = ".")]
    path: PathBuf,
}

const FILES: [&str; 4] = [
    "docker-stack.yml",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
];

/// How long tasks may take to end at Ctrl-C; another Ctrl-C ends the wait.
const END: Duration = Duration::from_secs(60);

/// Label of containers whose image `up` has built: its identifier.
const IMAGE_LABEL: &str = "shoal.image";

impl Up {
    /// `host`: the agent that was asked for; without one, that of the run directory, which is started if it does not run.
    pub(crate) async fn run(self, host: Option<&str>) -> Result<()> {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut started = Started::default();
        let outcome = tokio::select! {
            outcome = self.bring_up(host, &mut started) => outcome,
            _ = interrupted.recv() => Ok(()),
            _ = terminated.recv() => Ok(()),
        };
        if self.detach {
            return outcome;
        }
        if outcome.is_ok() {
            eprintln!("\nstopping");
        }
        let ended = started.end().await;
        outcome.and(ended)
    }

    /// Everything from nothing to the logs. Returns when all is up and `--detach` was given, or the logs end.
    async fn bring_up(&self, host: Option<&str>, started: &mut Started) -> Result<()> {
        let files = self.files()?;
        let stack = stack::load(&files)?.stack;
        let name = self.stack_name(&stack)?;
        let client = match host {
            Some(_) => Client::new(host)?,
            None => self.agent(started).await?,
        };
        swarm(&client).await?;
        prepare(&stack).await?;
        let built = build(&client, &stack).await?;
        if stack::services(&client, &name).await?.is_empty() {
            started.stack = Some((client.clone(), name.clone()));
        }
        let mut plan = compose::plan(&stack, &name);
        mark(&mut plan, &name, &built);
        let services = stack::deploy(&client, &plan, &name, true).await?;
        converge::wait(&client, &services, false).await?;
        print_addresses(&client, &name).await?;
        if self.detach {
            Ok(())
        } else {
            follow(&client, &name).await
        }
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        if self.path.is_file() {
            return Ok(vec![self.path.clone()]);
        }
        let found = FILES
            .iter()
            .map(|file| self.path.join(file))
            .find(|file| file.exists());
        let found = found
            .with_context(|| format!("there is none of {} in {}", FILES.join(", "), self.path.display()))?;
        Ok(vec![found])
    }

    fn stack_name(&self, stack: &Stack) -> Result<String> {
        let folder = || {
            let folder = std::path::absolute(&stack.directory).ok()?.canonicalize().ok()?;
            Some(folder.file_name()?.to_str()?.to_ascii_lowercase())
        };
        let name = self.name.clone().or_else(|| stack.name.clone()).or_else(folder);
        let name = name.context("the stack needs a name: use --name")?;
        stack::check_name(&name)?;
        Ok(name)
    }

    /// A client of the agent that runs, or of one that is started now.
    async fn agent(&self, started: &mut Started) -> Result<Client> {
        let socket = self.run_dir.join("agent.sock");
        let client = Client::new(socket.to_str())?;
        if client.get("/info").await.is_ok() {
            return Ok(client);
        }
        let own = std::env::current_exe().context("find this program")?;
        ensure_runtime(&own).await?;
        std::fs::create_dir_all(&self.root).with_context(|| format!("make {}", self.root.display()))?;
        let log = self.root.join("agent.log");
        eprintln!(
            "starting an agent in {} (log: {})",
            self.root.display(),
            log.display()
        );
        let mut child = self.spawn(&own, &log)?;
        let ready = wait_ready(&client, &mut child, &log).await;
        if self.detach && ready.is_ok() {
            // It lives on; nobody waits for it here.
            drop(child);
        } else {
            started.agent = Some(child);
        }
        ready.map(|()| client)
    }

    fn spawn(&self, own: &Path, log: &Path) -> Result<Child> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        Command::new(own)
            .arg("run")
            .arg("--root")
            .arg(&self.root)
            .arg("--run-dir")
            .arg(&self.run_dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C on this terminal is ours to answer, not the agent's.
            .process_group(0)
            .spawn()
            .context("start the agent")
    }
}

/// What this call has started, and ends.
#[derive(Debug, Default)]
struct Started {
    agent: Option<Child>,
    stack: Option<(Client, String)>,
}

impl Started {
    async fn end(self) -> Result<()> {
        let removed = match &self.stack {
            Some((client, name)) => {
                let removed = stack::remove(client, name).await;
                let gone = stack::wait_gone(client, name);
                removed.and(converge::limited(Some(END), gone).await)
            }
            None => Ok(()),
        };
        if let Some(mut agent) = self.agent {
            if let Some(pid) = agent.id().and_then(|pid| i32::try_from(pid).ok()) {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop the agent")?;
            }
            agent.wait().await.context("wait for the agent to stop")?;
        }
        removed
    }
}

/// `runtime` lies beside `agent`. A checkout's `cargo run` builds only `agent`, so the other is built here.
async fn ensure_runtime(own: &Path) -> Result<()> {
    if own.with_file_name("runtime").exists() {
        return Ok(());
    }
    let Some(cargo) = std::env::var_os("CARGO") else {
        bail!(
            "there is no program `runtime` beside {}: install both",
            own.display()
        );
    };
    eprintln!("building the runtime");
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "runtime", "--bin", "runtime"]);
    if own.components().any(|part| part.as_os_str() == "release") {
        build.arg("--release");
    }
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let status = build.status().await.context("start cargo")?;
    ensure!(
        status.success(),
        "building the runtime: cargo ended with {status}"
    );
    Ok(())
}

async fn wait_ready(client: &Client, child: &mut Child, log: &Path) -> Result<()> {
    loop {
        if client.get("/info").await.is_ok() {
            return Ok(());
        }
        // There is no event for a socket that does not exist yet but the child's own end.
        let pause = tokio::time::sleep(std::time::Duration::from_millis(10));
        tokio::select! {
            status = child.wait() => {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!("the agent ended with {}:\n{}", status?, last.join("\n"));
            }
            () = pause => {}
        }
    }
}

async fn swarm(client: &Client) -> Result<()> {
    let info = client.get("/info").await?;
    match info["Swarm"]["LocalNodeState"].as_str().unwrap_or("inactive") {
        "active" => Ok(()),
        "inactive" => {
            // A swarm for this machine alone: nobody else is to reach its port.
            let body = json!({"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377", "Spec": {}});
            client
                .post("/swarm/init", &body)
                .await
                .context("make this node a swarm of one")
                .map(drop)
        }
        "locked" => bail!("the swarm of this node is locked: `agent swarm unlock` opens it"),
        other => bail!("this node's swarm state is {other}: wait, or `agent swarm leave --force`"),
    }
}

async fn prepare(stack: &Stack) -> Result<()> {
    let Some((program, arguments)) = stack.prepare.split_first() else {
        return Ok(());
    };
    eprintln!("preparing: {}", stack.prepare.join(" "));
    let directory = stack
        .directory
        .canonicalize()
        .with_context(|| format!("find {}", stack.directory.display()))?;
    let program = if program.contains('/') {
        directory.join(program)
    } else {
        PathBuf::from(program)
    };
    let status = Command::new(&program)
        .args(arguments)
        .current_dir(&directory)
        .status()
        .await;
    let status = status.with_context(|| format!("x-prepare: start {}", program.display()))?;
    ensure!(
        status.success(),
        "x-prepare: {} ended with {status}",
        program.display()
    );
    Ok(())
}

async fn build(client: &Client, stack: &Stack) -> Result<BTreeMap<String, String>> {
    let mut images = BTreeMap::new();
    for service in &stack.services {
        let Some(build) = &service.build else { continue };
        eprintln!("building {}", service.container.image);
        let request = BuildRequest {
            tags: vec![service.container.image.clone()],
            arguments: build.args.iter().cloned().collect(),
            labels: build.labels.clone(),
            target: build.target.clone(),
            ..BuildRequest::default()
        };
        let mut said = String::new();
        let folder = stack.directory.join(&build.context);
        let dockerfile = folder.join(build.dockerfile.as_deref().unwrap_or("Dockerfile"));
        let context = Context::folder(&folder, dockerfile.to_str())
            .with_context(|| format!("build the image of service {}", service.key))?;
        let built = request.send(client, context, |line: &Value| {
            said.push_str(line["stream"].as_str().unwrap_or_default());
        });
        if let Err(error) = built.await {
            eprint!("{said}");
            return Err(error.context(format!("build the image of service {}", service.key)));
        }
        let path = format!("/images/{}/json", escape(&service.container.image));
        let image = client.get(&path).await?;
        images.insert(service.key.clone(), text(&image["Id"]));
    }
    Ok(images)
}

/// An image that was built anew under its old name is a change that the spec would not show.
fn mark(plan: &mut compose::StackPlan, stack: &str, built: &BTreeMap<String, String>) {
    for (key, image) in built {
        let name = format!("{stack}_{key}");
        let service = plan.services.iter_mut().find(|spec| spec.name == name);
        if let Some(container) = service.and_then(|spec| spec.task_template.container_spec.as_mut()) {
            container.labels.insert(IMAGE_LABEL.to_owned(), image.clone());
        }
    }
}

async fn print_addresses(client: &Client, name: &str) -> Result<()> {
    for service in stack::services(client, name).await? {
        for port in published(&service) {
            println!("{}: http://localhost:{port}", service.spec.name);
        }
    }
    Ok(())
}

fn published(service: &Service) -> impl Iterator<Item = u16> + '_ {
    let tcp = service
        .endpoint
        .ports
        .iter()
        .filter(|port| port.protocol == proto::spec::PortProtocol::Tcp);
    tcp.map(|port| port.published_port).filter(|&port| port > 0)
}

/// The logs of all services until the agent ends or the user has seen enough.
async fn follow(client: &Client, name: &str) -> Result<()> {
    let mut streams = tokio::task::JoinSet::new();
    for found in stack::services(client, name).await? {
        let client = client.clone();
        streams.spawn(async move {
            let path = format!(
                "/services/{}/logs?stdout=1&stderr=1&follow=1&details=1&tail=all",
                found.id
            );
            let body = client.stream(&path).await?;
            service::follow(&client, body).await
        });
    }
    while let Some(ended) = streams.join_next().await {
        ended??;
    }
    Ok(())
}

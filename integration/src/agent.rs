//! An agent under test: the real binary on a [`Host`], with folders of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::words::Words;
use crate::{Host, binaries, eventually, image};

/// A small file system in memory.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn mount(place: PathBuf, size: u32) -> Result<Self> {
        std::fs::create_dir(&place)?;
        let options = format!("size={size}m,mode=700");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("small"),
            &place,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .context("mount a small disk: the tests need root")?;
        Ok(Self(place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing can be done about an error here; the census reports what stays.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A running agent. Dropped, it removes its containers and ends.
#[derive(Debug)]
pub struct Agent {
    /// The root's own file system; gone before the folder that it is mounted in.
    _disk: Option<Disk>,
    /// The machine that it runs on.
    pub host: Host,
    /// Further flags of the daemon, from its next start on.
    pub flags: Vec<String>,
    process: Option<Child>,
}

impl Agent {
    /// Starts an agent on a new host.
    pub fn start() -> Result<Self> {
        Self::start_on(Host::new()?)
    }

    /// Starts an agent on this host.
    pub fn start_on(host: Host) -> Result<Self> {
        let mut agent = Self {
            _disk: None,
            host,
            flags: Vec::new(),
            process: None,
        };
        agent.run()?;
        Ok(agent)
    }

    /// Starts an agent on a new host whose root lies on a disk of so many MiB.
    pub fn start_on_small_disk(size: u32) -> Result<Self> {
        let host = Host::new()?;
        let mut agent = Self {
            _disk: Some(Disk::mount(host.directory().join("root"), size)?),
            host,
            flags: Vec::new(),
            process: None,
        };
        agent.run()?;
        Ok(agent)
    }

    /// Starts an agent on a new host and makes it a swarm of one node.
    pub fn start_swarm() -> Result<Self> {
        let agent = Self::start()?;
        let body = json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "127.0.0.1:2377"});
        agent.post("/swarm/init", &body)?;
        Ok(agent)
    }

    /// Starts the process, again if it has been killed, and waits until it answers.
    pub fn run(&mut self) -> Result<()> {
        let mut command = Command::new(binaries().join("agent"));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        command
            .arg("run")
            .arg("--root")
            .arg(self.root())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(&self.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(self.host.enter(|| command.spawn())?.context("start the agent")?);
        eventually("the agent answers", || {
            if let Some(status) = self
                .process
                .as_mut()
                .and_then(|process| process.try_wait().ok().flatten())
            {
                bail!("the agent ended with {status}:\n{}", self.log());
            }
            http::request(&self.socket(), "GET", "/_ping", None)?.success()?;
            Ok(())
        })
    }

    /// Kills the process as a power cut would, and waits until it is gone. Containers are not touched.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM)?;
        process.wait()?;
        Ok(())
    }

    /// Process identifier of the agent.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Folder of its state.
    pub fn root(&self) -> PathBuf {
        self.host.directory().join("root")
    }

    /// Folder of what lives as long as the machine.
    pub fn run_dir(&self) -> PathBuf {
        self.host.directory().join("run")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    fn log_file(&self) -> PathBuf {
        self.host.directory().join("agent.log")
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// GET; the JSON of a success.
    pub fn get(&self, path: &str) -> Result<Value> {
        http::request(&self.socket(), "GET", path, None)?
            .success()?
            .json()
    }

    /// POST with a JSON body; the JSON of a success, or null if it has no body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self
            .ask("POST", path, Some(body))?
            .success()
            .with_context(|| format!("POST {path}"))?;
        if answer.body.is_empty() {
            Ok(Value::Null)
        } else {
            answer.json()
        }
    }

    /// DELETE; a success.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.ask("DELETE", path, None)?
            .success()
            .with_context(|| format!("DELETE {path}"))?;
        Ok(())
    }

    /// Any request, whatever the answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        http::request(&self.socket(), method, path, body)
    }

    /// Runs our command line against this agent: a line, or words.
    pub fn cli(&self, words: &(impl Words + ?Sized)) -> Result<Output> {
        let mut command = Command::new(binaries().join("agent"));
        command
            .args(words.words()?)
            .env("AGENT_HOST", format!("unix://{}", self.socket().display()))
            .stdin(Stdio::null());
        self.host
            .enter(|| command.output())?
            .context("run the command line")
    }

    /// Runs our command line with these words on its standard input.
    pub fn cli_with(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut process = self.cli_piped(words)?;
        let stdin = process.stdin.take().context("standard input")?;
        // It may have ended without reading it.
        let _ = { stdin }.write_all(input.as_bytes());
        Ok(process.wait_with_output()?)
    }

    /// Starts our command line with pipes at both ends.
    pub fn cli_piped(&self, words: &[&str]) -> Result<Child> {
        let mut command = Command::new(binaries().join("agent"));
        command
            .args(words)
            .env("AGENT_HOST", format!("unix://{}", self.socket().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.host
            .enter(|| command.spawn())?
            .context("run the command line")
    }

    /// Runs our command line; what it prints, if it ends well.
    pub fn cli_ok(&self, words: &(impl Words + ?Sized)) -> Result<String> {
        let words = words.words()?;
        let output = self.cli(words.as_slice())?;
        ensure!(
            output.status.success(),
            "agent {}: {}\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs our command line; what it says, if it ends badly.
    pub fn cli_refused(&self, words: &(impl Words + ?Sized)) -> Result<String> {
        let words = words.words()?;
        let output = self.cli(words.as_slice())?;
        ensure!(!output.status.success(), "agent {} succeeded", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Builds an image from a context.
    pub fn build(&self, name: &str, context: &[u8]) -> Result<()> {
        let path = format!("/build?t={name}&version=1");
        let headers = [("Content-Type", "application/x-tar")];
        let answer = http::open(&self.socket(), "POST", &path, &headers, context)?
            .finish()?
            .success()?;
        ensure!(
            answer.text().contains("Successfully built"),
            "build of {name}: {}",
            answer.text()
        );
        Ok(())
    }

    /// Builds the image `bb` with a shell and tools.
    pub fn build_busybox(&self) -> Result<()> {
        self.build("bb", &image::busybox("")?)
    }

    /// Tasks of a service that run, by their names `service.slot.id`.
    pub fn running_tasks(&self, service: &str) -> Result<Vec<Value>> {
        let filters = json!({"service": [service], "desired-state": ["running"]}).to_string();
        let tasks = self.get(&format!("/tasks?filters={}", escape(&filters)))?;
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        Ok(tasks
            .into_iter()
            .filter(|task| task["Status"]["State"] == "running")
            .collect())
    }

    /// Waits until a service has exactly so many running tasks.
    pub fn wait_running(&self, service: &str, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} running tasks of {service}"), || {
            let tasks = self.running_tasks(service)?;
            if tasks.len() != count {
                let listed = self
                    .get("/tasks")
                    .map(|tasks| summary(&tasks))
                    .unwrap_or_default();
                bail!("{} run:\n{listed}\nlog:\n{}", tasks.len(), tail(&self.log()));
            }
            Ok(tasks)
        })
    }

    fn remove_everything(&self) -> Result<()> {
        for service in self
            .get("/services")
            .ok()
            .and_then(|list| list.as_array().cloned())
            .unwrap_or_default()
        {
            self.delete(&format!(
                "/services/{}",
                service["ID"].as_str().unwrap_or_default()
            ))?;
        }
        eventually("no container is left", || {
            let containers = self.get("/containers/json?all=1")?;
            let containers = containers.as_array().cloned().unwrap_or_default();
            for container in &containers {
                let id = container["Id"].as_str().unwrap_or_default();
                let _ = self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
            }
            ensure!(containers.is_empty(), "{} are left", containers.len());
            Ok(())
        })
    }
}

impl Drop for Agent {
    /// Removes everything through the front door, then asks the agent to end: with no container left it takes its
    /// network along.
    fn drop(&mut self) {
        if self.process.is_none() {
            // A test killed it and then failed: only a running agent can clean up after itself.
            let _ = self.run();
        }
        let cleaned = self.remove_everything();
        if let (false, Err(error)) = (std::thread::panicking(), &cleaned) {
            eprintln!("cleaning up: {error:#}\n{}", self.log());
        }
        if let Some(mut process) = self.process.take() {
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of the agent ----\n{}", tail(&self.log()));
        }
    }
}

/// Percent-escapes what has a meaning in a query.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The docker command line, if this machine has one of the version that the tests are written for.
pub fn docker() -> Option<&'static Path> {
    let found = ["/usr/local/bin/docker", "/usr/bin/docker"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists())?;
    let output = Command::new(found).args(["--version"]).output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .contains("version 28.")
        .then_some(found)
}

fn summary(tasks: &Value) -> String {
    let line = |task: &Value| {
        format!(
            "{} slot {} desired {} is {} {}",
            task["ServiceName"],
            task["Slot"],
            task["DesiredState"],
            task["Status"]["State"],
            task["Status"]["Err"]
        )
    };
    tasks
        .as_array()
        .into_iter()
        .flatten()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

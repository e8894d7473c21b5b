//! The stock docker command line works against the agent unchanged, and ours prints the same tables. Where the machine
//! has no docker 28, the same calls are made by the other tests in raw HTTP.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::{Agent, agent};

/// The stock command line against one agent.
pub(crate) struct Docker<'a> {
    agent: &'a Agent,
    program: &'static std::path::Path,
    config: tempfile::TempDir,
}

impl<'a> Docker<'a> {
    /// `None` where the machine has none of the right version.
    pub(crate) fn new(agent: &'a Agent) -> Result<Option<Self>> {
        let Some(program) = agent::docker() else {
            println!("this machine has no docker 28");
            return Ok(None);
        };
        let config = tempfile::Builder::new().prefix("shoal-test-docker-").tempdir()?;
        Ok(Some(Self {
            agent,
            program,
            config,
        }))
    }

    /// What it prints, if it ends well.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "docker {}: {}{error}",
            words.join(" "),
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    pub(crate) fn output(&self, words: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(self.program);
        command
            .args(words)
            .env("DOCKER_HOST", format!("unix://{}", self.agent.socket().display()));
        command
            .env("DOCKER_CONFIG", self.config.path())
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CLI_HINTS", "false");
        command.stdin(std::process::Stdio::null());
        self.agent.host.enter(|| command.output())?.context("docker")
    }
}

#[test]
fn docker_drives_containers() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let Some(docker) = Docker::new(&agent)? else {
        return Ok(());
    };
    assert_eq!(docker.run(&["run", "--rm", "bb", "echo", "hi"])?, "hi\n");
    docker.run(&[
        "run", "-d", "--name", "box", "-p", "8081:80", "-e", "A=b", "bb", "sleep", "1000",
    ])?;
    assert_eq!(docker.run(&["exec", "box", "sh", "-c", "echo $A"])?, "b\n");
    assert!(
        docker
            .run(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.NetworkSettings.IPAddress}}",
                "box"
            ])?
            .starts_with("running ")
    );
    for words in [
        &["version"][..],
        &["info"],
        &["top", "box"],
        &["image", "inspect", "bb"],
        &["network", "inspect", "bridge"],
        &["volume", "create", "vol"],
        &["system", "df"],
    ] {
        docker.run(words)?;
    }
    for line in [
        "run --nope bb",
        "run -p 8000-8002:80-81 bb",
        "run --memory x bb",
        "run --name box bb",
        "create --nope bb",
        "create -p a:b bb",
        "create --name box bb",
        "create",
        "exec --nope box ls",
        "exec box",
        "exec nobox ls",
        "exec box nosuch",
        "ps --nope",
        "ps extra",
        "rm",
        "start nobox",
        "nosuch",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (theirs, ours) = (docker.output(&words)?, agent.cli(&words)?);
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
    }
    agent.cli_ok(&["create", "--name", "ports", "-p", "8000-8001:90-91", "bb", "true"])?;
    let bound = "{{json .HostConfig.PortBindings}}";
    assert_eq!(
        docker.run(&["inspect", "-f", bound, "ports"])?,
        "{\"90/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"8000\"}],\"91/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"8001\"}]}\n"
    );
    docker.run(&["stop", "-t", "1", "box"])?;
    docker.run(&["rm", "box"])?;
    Ok(())
}

#[test]
fn docker_drives_a_stack_and_both_print_the_same() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let Some(docker) = Docker::new(&agent)? else {
        return Ok(());
    };
    docker.run(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    let file = agent.host.directory().join("stack.yml");
    std::fs::write(
        &file,
        "services:\n  web:\n    image: bb\n    command: sleep 1000\n    ports: ['8082:80']\n    deploy: {replicas: 2}\n    volumes: ['data:/data']\n  job:\n    image: bb\n    command: sleep 1000\nvolumes:\n  data:\n",
    )?;
    docker.run(&["stack", "deploy", "-c", file.to_str().context("a path")?, "s"])?;
    agent.wait_running("s_web", 2)?;
    agent.wait_running("s_job", 1)?;
    for words in [
        &["service", "ls"][..],
        &["stack", "ls"],
        &["stack", "services", "s"],
        &["stack", "ps", "s"],
        &["service", "ps", "s_web"],
        &["node", "ls"],
        &["volume", "ls"],
        &["network", "ls"],
        &["image", "ls"],
        &["ps", "--no-trunc"],
        &["secret", "ls"],
        &["config", "ls"],
        &["volume", "ls", "-q"],
        &["service", "ps", "-q", "s_web"],
        &["node", "ls", "-q"],
        &["node", "inspect", "--pretty", "self"],
        &["volume", "ls", "--format", "json"],
        &["network", "ls", "--format", "json"],
        &["network", "ls", "-q", "--format", "{{.Name}}"],
        &[
            "ps",
            "--format",
            "{{.ID}} {{.CreatedAt}} {{.LocalVolumes}} {{.Size}} {{.Platform}}",
        ],
        &[
            "images",
            "--format",
            "{{.CreatedAt}} {{.VirtualSize}} {{.Containers}} {{.UniqueSize}}",
        ],
    ] {
        let (theirs, ours) = (docker.run(words)?, agent.cli_ok(words)?);
        assert_eq!(clean(&ours), clean(&theirs), "{words:?}");
    }
    docker.run(&["service", "scale", "-d", "s_web=1"])?;
    agent.wait_running("s_web", 1)?;
    docker.run(&["stack", "rm", "s"])?;
    assert!(
        docker.run(&["volume", "ls", "-q"])?.contains("s_data"),
        "volumes stay"
    );
    docker.run(&["swarm", "leave", "--force"])?;
    Ok(())
}

/// Without blanks at the ends of lines, and without how many seconds ago something was: the clock goes on between two
/// commands.
pub(crate) fn clean(table: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kept = words.iter().enumerate().filter(|(index, word)| {
            let next = words.get(index + 1).copied().unwrap_or_default();
            !(word.parse::<u32>().is_ok() && ["second", "seconds", "minutes"].contains(&next))
        });
        kept.map(|(_, word)| *word)
            .collect::<Vec<_>>()
            .join(" ")
            .replace("seconds", "second")
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

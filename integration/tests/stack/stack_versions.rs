//! Stacks: a changed file behind a secret or config is a new version and rolls the services that have it.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::{Agent, eventually};
use serde_json::{Value, json};

const FILE: &str = "\
services:
  a:
    image: bb
    command: [sleep, '1000']
    stop_grace_period: 1s
    configs: [c]
    secrets: [s]
  b: {image: bb, command: [sleep, '1000'], stop_grace_period: 1s}
configs:
  c: {file: ./c.txt}
secrets:
  s: {file: ./s.txt}
";

struct Stack(Agent);

impl Stack {
    fn new() -> Result<Self> {
        let agent = Agent::start_swarm()?;
        agent.build_busybox()?;
        let stack = Self(agent);
        stack.write("stack.yml", FILE)?;
        Ok(stack)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.0.host.directory().join(name), text)?)
    }

    /// Deploys with this content; what is printed.
    fn deploy(&self, config: &str, secret: &str) -> Result<String> {
        self.deploy_with("--prune", config, secret)
    }

    fn deploy_with(&self, flags: &str, config: &str, secret: &str) -> Result<String> {
        self.write("c.txt", config)?;
        self.write("s.txt", secret)?;
        let path = self.0.host.directory().join("stack.yml");
        self.0
            .cli_ok(&format!("stack deploy {flags} -c {} st", path.display()))
    }

    /// Names of secrets or configs, sorted.
    fn names(&self, kind: &str) -> Result<Vec<String>> {
        let list = self.0.get(&format!("/{kind}"))?;
        let name = |object: &Value| object["Spec"]["Name"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<String> = list.as_array().context("a list")?.iter().map(name).collect();
        names.sort();
        Ok(names)
    }

    fn version(&self, service: &str) -> Result<Value> {
        Ok(self.0.get(&format!("/services/{service}"))?["Version"].clone())
    }

    /// Waits until the task of `a` reads this.
    fn reads(&self, config: &str, secret: &str) -> Result<()> {
        eventually("the task reads it", || {
            let tasks = self.0.wait_running("st_a", 1)?;
            let id = tasks[0]["Status"]["ContainerStatus"]["ContainerID"].as_str();
            let id = id.context("a container")?;
            let read = self.0.cli_ok(&format!("exec {id} cat /c /run/secrets/s"))?;
            ensure!(read == format!("{config}{secret}"), "it reads {read:?}");
            Ok(())
        })
    }
}

#[test]
fn a_changed_file_is_a_new_version_and_an_unchanged_one_is_none() -> Result<()> {
    let stack = Stack::new()?;
    stack.deploy("one", "alpha")?;
    assert_eq!(stack.names("configs")?, ["st_c"]);
    stack.reads("one", "alpha")?;
    let before = [stack.version("st_a")?, stack.version("st_b")?];
    let objects = [stack.0.get("/configs")?, stack.0.get("/secrets")?];
    stack.deploy("one", "alpha")?;
    assert_eq!([stack.version("st_a")?, stack.version("st_b")?], before);
    assert_eq!([stack.0.get("/configs")?, stack.0.get("/secrets")?], objects);

    let said = stack.deploy("two", "alpha")?;
    assert!(said.contains("config st_c-2 (a new version of st_c)"), "{said}");
    stack.reads("two", "alpha")?;
    assert_eq!(stack.version("st_b")?, before[1], "it has no part in this");
    assert_eq!(stack.names("secrets")?, ["st_s"]);
    stack.deploy("two", "beta")?;
    stack.reads("two", "beta")?;
    assert_eq!(stack.names("secrets")?, ["st_s", "st_s-2"]);
    assert!(
        !stack.0.get("/secrets")?.to_string().contains("YmV0YQ"),
        "the content shows"
    );
    stack.0.cli_ok("stack rm st")?;
    assert!(stack.names("configs")?.is_empty() && stack.names("secrets")?.is_empty());
    Ok(())
}

#[test]
fn old_versions_stay_as_long_as_a_service_can_go_back_to_them() -> Result<()> {
    let stack = Stack::new()?;
    stack.deploy("one", "alpha")?;
    stack.deploy("two", "alpha")?;
    stack.reads("two", "alpha")?;
    stack.0.cli_ok("service rollback st_a")?;
    stack.reads("one", "alpha")?;
    assert_eq!(stack.names("configs")?, ["st_c", "st_c-2"]);
    // What the file says is there already: nothing is made.
    stack.deploy("two", "alpha")?;
    stack.reads("two", "alpha")?;
    assert_eq!(stack.names("configs")?, ["st_c", "st_c-2"]);
    for number in 3..=12 {
        stack.deploy_with("--detach=true", &number.to_string(), "alpha")?;
    }
    stack.deploy("eight", "alpha")?;
    stack.reads("eight", "alpha")?;
    stack.deploy("nine", "alpha")?;
    stack.reads("nine", "alpha")?;
    let names = stack.names("configs")?;
    assert!(!names.contains(&"st_c".to_owned()), "nobody needs it: {names:?}");
    stack.0.cli_ok("service rollback st_a")?;
    stack.reads("eight", "alpha")
}

#[test]
fn what_others_made_is_left_alone() -> Result<()> {
    let stack = Stack::new()?;
    let made = json!({"Name": "st_c", "Data": "b25l", "Labels": {"owner": "somebody"}});
    stack.0.post("/configs/create", &made)?;
    let before = stack.0.get("/configs")?;
    stack.write("c.txt", "two")?;
    stack.write("s.txt", "alpha")?;
    let path = stack.0.host.directory().join("stack.yml");
    let said = stack
        .0
        .cli_refused(&format!("stack deploy -c {} st", path.display()))?;
    assert!(said.contains("config st_c is there with other content"), "{said}");
    assert_eq!(stack.0.get("/configs")?, before);
    assert!(stack.names("services")?.is_empty());

    stack.write(
        "stack.yml",
        &FILE.replace("c: {file: ./c.txt}", "c: {external: true, name: st_c}"),
    )?;
    stack.deploy("two", "alpha")?;
    stack.reads("one", "alpha")?;
    assert_eq!(stack.0.get("/configs")?, before);
    Ok(())
}

//! Stacks: what a file says is acted on or refused, a failed deployment leaves nothing, and an unchanged one changes nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::{Agent, binaries, eventually};
use serde_json::{Value, json};

fn swarm() -> Result<Agent> {
    let agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    Ok(agent)
}

fn file(agent: &Agent, name: &str, text: &str) -> Result<String> {
    let path = agent.host.directory().join(name);
    fs::write(&path, text)?;
    Ok(path.to_str().context("a path")?.to_owned())
}

/// Names of everything of one kind, sorted.
fn names(agent: &Agent, kind: &str) -> Result<Vec<String>> {
    let list = agent.get(&format!("/{kind}"))?;
    let name = |object: &Value| {
        let name = object["Spec"]["Name"].as_str().or(object["Name"].as_str());
        name.unwrap_or_default().to_owned()
    };
    let mut names: Vec<String> = list.as_array().context("a list")?.iter().map(name).collect();
    names.sort();
    Ok(names)
}

fn refused(agent: &Agent, words: &[&str]) -> Result<String> {
    let output = agent.cli(words)?;
    ensure!(!output.status.success(), "{words:?} succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_no_node_could_run_is_refused_by_name() -> Result<()> {
    let agent = swarm()?;
    let cases = [
        (json!({"CapabilityAdd": ["NOPE"]}), json!({}), "NOPE"),
        (json!({"Env": ["A={{.Nope}}"]}), json!({}), ".Nope"),
        (json!({"Hosts": ["nonsense"]}), json!({}), "nonsense"),
        (json!({"Swap": 1}), json!({}), "ContainerSpec: Swap: "),
        (
            json!({"Mounts": [{"Type": "volume", "Source": "vol", "Target": "/v",
                "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]}),
            json!({}),
            "nfs",
        ),
        (json!({}), json!({"LogDriver": {"Name": "syslog"}}), "syslog"),
        (
            json!({}),
            json!({"Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": "moon"}}]}}),
            "moon",
        ),
        (
            json!({}),
            json!({"Networks": [{"Target": "host"}]}),
            "network host",
        ),
    ];
    for (container, task, word) in cases {
        let mut spec = json!({"Name": "web", "TaskTemplate": task});
        spec["TaskTemplate"]["ContainerSpec"] = container;
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = json!("bb");
        let answer = agent.ask("POST", "/services/create", Some(&spec))?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 400, "{spec}: {said}");
        assert!(said.contains(word), "{spec}: {said}");
    }
    assert!(names(&agent, "services")?.is_empty());
    Ok(())
}

#[test]
fn a_deployment_that_fails_takes_back_what_it_made() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --detach=true --name holder -p 8080:80 bb sleep 1000")?;
    let before = [names(&agent, "networks")?, names(&agent, "services")?];
    let text = "services:\n  a: {image: bb, secrets: [s], networks: [n]}\n  b: {image: bb, ports: ['8080:1']}\n\
                networks: {n: {}}\nsecrets: {s: {content: x}}\n";
    let path = file(&agent, "stack.yml", text)?;
    let said = refused(&agent, &["stack", "deploy", "-c", &path, "st"])?;
    assert!(
        said.contains("st_b") && said.contains("8080") && said.contains("holder"),
        "{said}"
    );
    assert_eq!([names(&agent, "networks")?, names(&agent, "services")?], before);
    assert!(names(&agent, "secrets")?.is_empty());
    Ok(())
}

#[test]
fn files_are_merged_and_variables_come_from_the_file_beside() -> Result<()> {
    let agent = swarm()?;
    file(&agent, ".env", "SHOAL_TEST_IMAGE=bb\n")?;
    let base = "services:\n  a:\n    image: $SHOAL_TEST_IMAGE\n    environment: [A=1, B=2]\n    ports: ['8080:80']\n";
    let one = file(&agent, "one.yml", base)?;
    let two = file(
        &agent,
        "two.yml",
        "services:\n  a:\n    environment: {B: 3}\n    ports: ['8080:80']\n",
    )?;
    let merged = agent.cli_ok(&["stack", "config", "-c", &one, "-c", &two])?;
    let expected = "services:\n  a:\n    image: bb\n    environment:\n      A: \"1\"\n      B: 3\n    ports:\n      - \"8080:80\"\n";
    assert_eq!(merged, expected);
    let text = "services:\n  a: {image: bb}\nvolumes:\n  v: {external: true, driver: local}\n";
    let path = file(&agent, "both.yml", text)?;
    let said = refused(&agent, &["stack", "config", "-c", &path])?;
    assert!(said.contains("external and driver exclude each other"), "{said}");
    Ok(())
}

#[test]
fn an_unchanged_file_changes_nothing_and_a_changed_network_is_refused() -> Result<()> {
    let agent = swarm()?;
    let text = "services:\n  a:\n    image: bb\n    command: [sleep, '1000']\n    stop_grace_period: 1s\n    configs: [c]\n    \
                networks: [n]\nnetworks:\n  n: {}\nconfigs:\n  c: {content: x}\n";
    let path = file(&agent, "stack.yml", text)?;
    agent.cli_ok(&["stack", "deploy", "-c", &path, "st"])?;
    let before = agent.get("/services/st_a")?;
    agent.cli_ok(&["stack", "deploy", "--detach=true", "-c", &path, "st"])?;
    assert_eq!(agent.get("/services/st_a")?["Version"], before["Version"]);
    let changed = file(&agent, "stack.yml", &text.replace("n: {}", "n: {internal: true}"))?;
    let said = refused(&agent, &["stack", "deploy", "-c", &changed, "st"])?;
    assert!(
        said.contains("network st_n") && said.contains("internal"),
        "{said}"
    );
    assert_eq!(agent.get("/services/st_a")?["Version"], before["Version"]);
    agent.cli_ok("stack rm st")?;
    assert!(names(&agent, "configs")?.is_empty());
    Ok(())
}

#[test]
fn a_published_port_answers_on_an_internal_network() -> Result<()> {
    let agent = swarm()?;
    let text = "services:\n  a:\n    image: bb\n    command: [busybox, httpd, -f, -p, '80', -h, /etc]\n    \
                stop_grace_period: 1s\n    ports: ['8080:80']\n    networks: [n]\nnetworks:\n  n: {internal: true}\n";
    let path = file(&agent, "stack.yml", text)?;
    agent.cli_ok(&["stack", "deploy", "-c", &path, "st"])?;
    eventually("the port answers", || {
        agent.host.get("127.0.0.1:8080", "/passwd").map(drop)
    })?;
    Ok(())
}

#[test]
fn up_replaces_tasks_whose_image_it_has_built_anew() -> Result<()> {
    let agent = swarm()?;
    let folder = agent.host.directory().join("app");
    fs::create_dir(&folder)?;
    fs::write(folder.join("Dockerfile"), "FROM bb\nCOPY version /version\n")?;
    fs::write(
        folder.join("compose.yaml"),
        "services:\n  a: {build: ., image: app, command: [sleep, '1000'], stop_grace_period: 1s}\n",
    )?;
    let up = |version: &str| -> Result<Value> {
        fs::write(folder.join("version"), version)?;
        let output = agent.host.enter(|| {
            Command::new(binaries().join("agent"))
                .args(["up", "--detach", "--name", "st", "--root"])
                .arg(agent.root())
                .arg("--run-dir")
                .arg(agent.run_dir())
                .arg(&folder)
                .output()
        })??;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tasks = agent.wait_running("st_a", 1)?;
        Ok(tasks[0]["Status"]["ContainerStatus"]["ContainerID"].clone())
    };
    let first = up("1")?;
    assert_eq!(up("1")?, first, "nothing has changed");
    assert_ne!(up("2")?, first, "the image has");
    Ok(())
}

#[test]
fn nobody_waits_for_tasks_that_have_ended_for_good() -> Result<()> {
    let agent = swarm()?;
    let create = ["service", "create", "--restart-condition", "none", "--name"];
    agent.cli_ok(&[&create[..], &["well", "bb", "sh", "-c", "exit 0"]].concat())?;
    let said = refused(
        &agent,
        &[&create[..], &["badly", "bb", "sh", "-c", "exit 3"]].concat(),
    )?;
    assert!(
        said.contains("badly.1") && said.contains("non-zero exit (3)"),
        "{said}"
    );
    Ok(())
}

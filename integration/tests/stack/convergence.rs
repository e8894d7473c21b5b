//! Commands that wait end with the truth: when, with which exit code, and in which words.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::{Agent, binaries};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn swarm() -> Result<Agent> {
    let agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    Ok(agent)
}

fn states(agent: &Agent, service: &str) -> Result<Vec<Value>> {
    let tasks = agent.get("/tasks")?;
    let id = &agent.get(&format!("/services/{service}"))?["ID"];
    let tasks = tasks.as_array().context("a list")?.iter();
    let own = tasks.filter(|task| task["ServiceID"] == *id);
    Ok(own.map(|task| task["Status"]["State"].clone()).collect())
}

#[test]
fn a_job_is_waited_for_until_it_is_through() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --mode replicated-job --replicas 3 --max-concurrent 2 --name job bb sh -c 'sleep 0.5'")?;
    assert_eq!(states(&agent, "job")?, ["complete", "complete", "complete"]);
    agent.cli_ok("service create --mode global-job --name each bb true")?;
    assert_eq!(states(&agent, "each")?, ["complete"]);
    let said = agent.cli_refused(
        "service create --mode replicated-job --name bad --restart-condition none bb sh -c 'exit 7'",
    )?;
    assert!(
        said.contains("task bad.1") && said.contains("non-zero exit (7)"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_service_that_keeps_failing_ends_the_wait_with_its_error() -> Result<()> {
    let agent = swarm()?;
    let said = agent.cli_refused("service create --name web --restart-delay 10ms bb sh -c 'exit 3'")?;
    assert!(
        said.contains("task web.1") && said.contains("non-zero exit (3)"),
        "{said}"
    );
    agent.cli_ok("service rm web")?;

    agent.cli_ok("service create --name web --stop-grace-period 1s bb sleep 1000")?;
    let said = agent.cli_refused("service update --args 'false' web")?;
    assert!(
        said.contains("service web: update paused") && said.contains("non-zero exit (1)"),
        "{said}"
    );
    agent.cli_ok("service rollback web")?;
    agent.cli_ok("service scale web=2")?;
    let said = agent.cli_refused("service update --update-failure-action rollback --args false web")?;
    assert!(said.contains("service web: rolled back"), "{said}");
    agent.wait_running("web", 2)?;
    Ok(())
}

#[test]
fn the_wait_has_a_limit_and_what_was_asked_for_goes_on() -> Result<()> {
    let agent = swarm()?;
    let create = "service create --name web --constraint node.labels.there==yes";
    let said = agent.cli_refused(&format!("{create} --wait-timeout 300ms bb sleep 1000"))?;
    assert!(
        said.contains("goes on in the background") && said.contains("no suitable node"),
        "{said}"
    );
    let node = agent.get("/nodes")?[0]["ID"]
        .as_str()
        .context("a node")?
        .to_owned();
    agent.cli_ok(&format!("node update --label-add there=yes {node}"))?;
    agent.wait_running("web", 1)?;
    Ok(())
}

#[test]
fn an_interruption_ends_the_wait_alone() -> Result<()> {
    let agent = swarm()?;
    let mut command = Command::new(binaries().join("agent"));
    command
        .args([
            "service",
            "create",
            "--name",
            "web",
            "--constraint",
            "node.labels.there==yes",
            "bb",
        ])
        .env("AGENT_HOST", format!("unix://{}", agent.socket().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = agent.host.enter(|| command.spawn())??;
    let mut lines = BufReader::new(process.stderr.take().context("its errors")?).lines();
    let waits = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("no suitable node")));
    ensure!(waits.is_some(), "it does not wait");
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT)?;
    let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
    assert_eq!(process.wait()?.code(), Some(130));
    assert!(rest.concat().contains("goes on in the background"), "{rest:?}");
    assert_eq!(states(&agent, "web")?, ["pending"]);
    Ok(())
}

#[test]
fn a_dry_run_shows_what_differs_and_changes_nothing() -> Result<()> {
    let agent = swarm()?;
    let file = |text: &str| -> Result<String> {
        let path = agent.host.directory().join("stack.yml");
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let everything = || -> Result<Vec<Value>> {
        ["services", "secrets", "configs", "networks", "nodes"]
            .iter()
            .map(|kind| agent.get(&format!("/{kind}")))
            .collect()
    };
    let web = "services:\n  web:\n    image: bb\n    command: [sleep, '1000']\n    stop_grace_period: 1s\n    \
               environment: {A: 1, DB_PASSWORD: sesame}\n    configs: [c]\n    secrets: [s]\n";
    let old = "  old: {image: bb, command: [sleep, '1000'], stop_grace_period: 1s}\n";
    let contents = "configs: {c: {content: x}}\nsecrets: {s: {content: y}}\n";
    let path = file(&format!("{web}{old}{contents}"))?;
    let before = everything()?;
    let said = agent.cli_ok(&format!("stack deploy --dry-run -c {path} st"))?;
    let all = "+ network st_default\n+ secret st_s\n+ config st_c\n+ service st_web\n+ service st_old\n";
    assert_eq!(said, all);
    assert_eq!(everything()?, before);

    agent.cli_ok(&format!("stack deploy -c {path} st"))?;
    let before = everything()?;
    let said = agent.cli_ok(&format!("stack deploy --dry-run -c {path} st"))?;
    assert_eq!(said, "The stack st is as the files say: nothing to do.\n");
    let changed = web.replace("A: 1", "A: 2").replace("sesame", "mellon")
        + "    deploy: {replicas: 2}\n    networks: [n]\n";
    let path = file(&format!(
        "{changed}{}networks: {{n: {{}}}}\n",
        contents.replace("content: y", "content: z")
    ))?;
    let said = agent.cli_ok(&format!("stack deploy --prune --dry-run -c {path} st"))?;
    let expected = [
        "- service st_old",
        "+ network st_n",
        "+ secret st_s-2 (a new version of st_s)",
        "~ service st_web",
        "    environment.A: 1 -> 2",
        "    environment.DB_PASSWORD: changed (the value is not shown)",
        "    networks.st_default.Aliases: web -> (none)",
        "    networks.st_default.Target: st_default -> (none)",
        "    networks.st_n.Aliases: (none) -> web",
        "    networks.st_n.Target: (none) -> st_n",
        "    replicas: 1 -> 2",
        "    secrets.s.SecretName: st_s -> st_s-2",
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, expected);
    assert_eq!(everything()?, before, "a dry run changes nothing");
    agent.cli_ok(&format!("stack deploy --prune -c {path} st"))?;
    let said = agent.cli_ok(&format!("stack deploy --dry-run --prune -c {path} st"))?;
    assert_eq!(said, "The stack st is as the files say: nothing to do.\n");
    agent.cli_ok("stack rm st")?;
    assert_eq!(agent.get("/containers/json?all=1")?, serde_json::json!([]));
    Ok(())
}

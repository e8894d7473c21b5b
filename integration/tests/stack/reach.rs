//! Any node through the manager: logs and processes of tasks, wherever they run.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::{Cluster, agent::escape, eventually, http};
use serde_json::{Value, json};

use crate::docker_cli::Docker;

/// How long a line may be waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes, all with the image that the services here are made of.
fn joined() -> Result<Cluster> {
    let cluster = Cluster::joined(3)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    Ok(cluster)
}

/// A service whose tasks say where they are and then do as they are told.
fn serve(cluster: &Cluster, name: &str, mode: &[&str], script: &str) -> Result<()> {
    let mut words = vec![
        "service",
        "create",
        "-d",
        "--name",
        name,
        "-e",
        "NODE={{.Node.Hostname}}",
    ];
    words.extend(["--stop-grace-period", "1s"]);
    words.extend(mode);
    words.extend(["bb", "sh", "-c", script]);
    cluster.manager().cli_ok(&words).map(drop)
}

/// The command line at work, its lines as they come.
struct Reading {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Reading {
    fn start(cluster: &Cluster, words: &[&str]) -> Result<Self> {
        let mut child = cluster.manager().cli_piped(words)?;
        let out = lines(child.stdout.take().context("no output")?);
        let err = lines(child.stderr.take().context("no error output")?);
        Ok(Self { child, out, err })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // It may have ended of its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next line that contains all of these, in whatever order they come.
fn expect(from: &Receiver<String>, wanted: &[&str]) -> Result<()> {
    let mut missing: Vec<&str> = wanted.to_vec();
    while !missing.is_empty() {
        let Ok(line) = from.recv_timeout(PATIENCE) else {
            bail!("nobody says {missing:?}");
        };
        missing.retain(|text| !line.contains(text));
    }
    Ok(())
}

fn logs(cluster: &Cluster, words: &[&str]) -> Result<(Vec<String>, String)> {
    let mut all = vec!["service", "logs"];
    all.extend(words);
    let output = cluster.manager().cli(&all)?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    lines.sort();
    Ok((lines, String::from_utf8(output.stderr)?))
}

const GREETINGS: &[&str] = &["hello from node1", "hello from node2", "hello from node3"];

#[test]
fn logs_come_from_every_node() -> Result<()> {
    let cluster = joined()?;
    let script = "echo old; echo hello from $NODE; echo aside >&2; exec sleep 1000";
    serve(&cluster, "talk", &["--mode", "global"], script)?;
    cluster.wait_spread("talk", &[1, 1, 1])?;
    eventually("all logs are there", || {
        let (lines, error) = logs(&cluster, &["--raw", "talk"])?;
        ensure!(
            lines.len() == 6 && lines.iter().take(3).eq(GREETINGS),
            "{lines:?}"
        );
        ensure!(error == "aside\naside\naside\n", "{error}");
        Ok(())
    })?;
    let (lines, _) = logs(&cluster, &["--raw", "--tail", "2", "talk"])?;
    assert_eq!(
        lines, GREETINGS,
        "the last two lines of each, one of them on stderr"
    );
    let (lines, _) = logs(&cluster, &["--raw", "--timestamps", "talk"])?;
    let text: Vec<_> = lines.iter().map(|line| line.split_once(' ')).collect();
    assert!(
        text.iter()
            .all(|line| line.is_some_and(|(time, _)| time.ends_with('Z'))),
        "{lines:?}"
    );
    assert!(
        logs(&cluster, &["--raw", "--since", "2000-01-01T00:00:00Z", "talk"])?
            .0
            .len()
            == 6
    );
    assert!(
        logs(&cluster, &["--raw", "--since", "2999-01-01T00:00:00Z", "talk"])?
            .0
            .is_empty()
    );

    let tasks = cluster.manager().running_tasks("talk")?;
    let node = cluster.node("node3")?;
    let task = tasks
        .iter()
        .find(|task| task["NodeID"] == node["ID"])
        .context("no task")?;
    let task = task["ID"].as_str().context("a task without ID")?;
    assert_eq!(logs(&cluster, &["--raw", task])?.0, ["hello from node3", "old"]);
    if let Some(docker) = Docker::new(cluster.manager())? {
        let text = docker.run(&["service", "logs", "talk"])?;
        for node in ["node1", "node2", "node3"] {
            let found = text
                .lines()
                .find(|line| line.ends_with(&format!("hello from {node}")));
            let line = found.with_context(|| text.clone())?;
            assert!(line.contains(&format!("@{node} ")), "{line}");
        }
    }
    Ok(())
}

#[test]
fn followed_logs_take_new_tasks_along_and_say_who_is_lost() -> Result<()> {
    let mut cluster = joined()?;
    let script = "echo hello from $NODE; exec sleep 1000";
    serve(&cluster, "talk", &["--replicas", "1"], script)?;
    cluster.manager().wait_running("talk", 1)?;
    let reading = Reading::start(&cluster, &["service", "logs", "-f", "--raw", "talk"])?;
    expect(&reading.out, &["hello from node"])?;
    cluster.manager().cli_ok(&["service", "scale", "-d", "talk=3"])?;
    cluster.wait_spread("talk", &[1, 1, 1])?;
    cluster
        .manager()
        .cli_ok(&["service", "update", "-d", "--force", "talk"])?;
    expect(&reading.out, GREETINGS)?;

    // One node's agent is killed, and another's cable is cut.
    cluster.wait_spread("talk", &[1, 1, 1])?;
    cluster.nodes[2].kill()?;
    expect(
        &reading.err,
        &["some logs could not be retrieved for the following reasons: node node3 is not available"],
    )?;
    cluster.set_cable(2, false)?;
    expect(&reading.err, &["reasons: node node2 is not available"])?;
    // What is not followed ends, and says what it lacks.
    for name in ["node2", "node3"] {
        cluster.wait_state(name, "down")?;
    }
    let (_, error) = logs(&cluster, &["--raw", "talk"])?;
    for name in ["node2", "node3"] {
        let said = format!("node {name} is not available");
        assert!(
            error.starts_with("warning: incomplete log stream.") && error.contains(&said),
            "{error}"
        );
    }

    cluster.set_cable(2, true)?;
    cluster.nodes[2].run()?;
    for name in ["node2", "node3"] {
        cluster.wait_state(name, "ready")?;
    }
    eventually("the logs are whole again", || {
        let (_, error) = logs(&cluster, &["--raw", "talk"])?;
        ensure!(error.is_empty(), "{error}");
        Ok(())
    })
}

fn exec(cluster: &Cluster, words: &[&str]) -> Result<Output> {
    cluster.manager().cli(words)
}

#[test]
fn processes_run_in_tasks_of_other_nodes() -> Result<()> {
    let cluster = joined()?;
    serve(&cluster, "box", &["--mode", "global"], "exec sleep 1000")?;
    serve(&cluster, "rep", &["--replicas", "2"], "exec sleep 1000")?;
    cluster.wait_spread("box", &[1, 1, 1])?;
    let replicas = cluster.manager().wait_running("rep", 2)?;
    for node in ["node1", "node2", "node3"] {
        let output = exec(
            &cluster,
            &[
                "service",
                "exec",
                &format!("box.{node}"),
                "sh",
                "-c",
                "echo on $NODE; echo aside >&2; exit 7",
            ],
        )?;
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout)?, format!("on {node}\n"));
        assert_eq!(String::from_utf8(output.stderr)?, "aside\n");
    }
    for task in &replicas {
        let (slot, id) = (&task["Slot"], task["ID"].as_str().context("a task without ID")?);
        let name = format!("rep.{slot}");
        let here = exec(
            &cluster,
            &[
                "service",
                "exec",
                "-e",
                "A=b",
                &name,
                "sh",
                "-c",
                "echo $A; hostname",
            ],
        )?;
        let there = exec(
            &cluster,
            &["task", "exec", "-e", "A=b", id, "sh", "-c", "echo $A; hostname"],
        )?;
        assert!(
            here.status.success() && here.stdout.starts_with(b"b\n"),
            "{here:?}"
        );
        assert_eq!(here.stdout, there.stdout);
    }

    // What is typed arrives, and its end ends the process.
    let mut child = cluster
        .manager()
        .cli_piped(&["service", "exec", "-i", "box.node2", "cat"])?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all(b"through two machines\n")?;
    drop(input);
    let output = child.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"through two machines\n");

    let missing = exec(&cluster, &["service", "exec", "box.node2", "nosuch"])?;
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    for (words, expected) in [
        (["service", "exec", "nosuch", "true"], "not found"),
        (
            ["service", "exec", "rep.9", "true"],
            "no task of rep.9 is running",
        ),
        (["task", "exec", "nosuch", "true"], "not found"),
    ] {
        let refused = exec(&cluster, &words)?;
        let text = String::from_utf8(refused.stderr)?;
        assert!(
            !refused.status.success() && text.contains(expected),
            "{words:?}: {text}"
        );
    }
    Ok(())
}

#[test]
fn a_terminal_in_a_task_of_another_node_has_a_size() -> Result<()> {
    let cluster = joined()?;
    serve(&cluster, "box", &["--mode", "global"], "exec sleep 1000")?;
    cluster.wait_spread("box", &[1, 1, 1])?;
    let manager = cluster.manager();
    let filters = json!({"service": ["box"], "node": ["node2"], "desired-state": ["running"]}).to_string();
    let tasks = manager.get(&format!("/tasks?filters={}", escape(&filters)))?;
    let task = tasks[0]["ID"].as_str().context("no task")?.to_owned();
    let body = json!({
        "Tty": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Cmd": ["sh", "-c", "stty size; read line; stty size; exit 5"],
    });
    let created = manager.post(&format!("/tasks/{task}/exec"), &body)?;
    let path = format!(
        "/tasks/{task}/exec/{}",
        created["Id"].as_str().context("no exec")?
    );
    let start = serde_json::to_vec(&json!({"Tty": true, "ConsoleSize": [40, 100]}))?;
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "tcp"),
        ("Content-Type", "application/json"),
    ];
    let mut stream = http::open(
        &manager.socket(),
        "POST",
        &format!("{path}/start"),
        &headers,
        &start,
    )?;
    assert_eq!(stream.status, 101, "{:?}", stream.headers);
    assert_eq!(stream.line()?.trim(), "40 100");
    manager.post(&format!("{path}/resize?h=30&w=90"), &Value::Null)?;
    stream.connection().write_all(b"go on\n")?;
    let rest = String::from_utf8(stream.rest()?)?;
    assert!(rest.contains("30 90"), "{rest}");
    let ended = manager.get(&format!("{path}/json"))?;
    assert_eq!(
        (&ended["ExitCode"], &ended["Running"]),
        (&5.into(), &false.into()),
        "{ended}"
    );
    // An exec is found below its own task alone.
    let filters = json!({"service": ["box"], "node": ["node3"]}).to_string();
    let others = manager.get(&format!("/tasks?filters={}", escape(&filters)))?;
    let other = others[0]["ID"].as_str().context("no task")?;
    let elsewhere = path.replace(&task, other);
    assert_eq!(
        manager.ask("GET", &format!("{elsewhere}/json"), None)?.status,
        404
    );
    Ok(())
}

#[test]
fn events_come_from_every_node() -> Result<()> {
    let mut cluster = joined()?;
    let reading = Reading::start(&cluster, &["events", "--cluster", "--filter", "type=container"])?;
    // The first event that is heard tells that all are listened to.
    let names = ["node.name=node1", "node.name=node2", "node.name=node3"];
    for (node, name) in cluster.nodes.iter().zip(names) {
        eventually("the node is heard", || {
            node.cli_ok(&["run", "--rm", "bb", "true"])?;
            let heard = reading.out.try_iter().any(|line| line.contains(name));
            ensure!(heard, "nothing of {name}");
            Ok(())
        })?;
    }
    serve(&cluster, "box", &["--mode", "global"], "exec sleep 1000")?;
    expect(&reading.out, &names)?;
    cluster.nodes[2].kill()?;
    let missing = "warning: incomplete event stream. some events could not be retrieved for the following reasons: \
                   node node3 is not available";
    expect(&reading.err, &[missing])?;
    cluster.wait_state("node3", "down")?;

    // What is over is told in order, and ends.
    let output = cluster
        .manager()
        .cli(&["events", "--cluster", "--since", "1h", "--until", "0s"])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr)?.trim_end(), missing);
    let text = String::from_utf8(output.stdout)?;
    let times: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.is_sorted(), "{text}");
    for part in ["service create", names[0], names[1]] {
        assert!(text.contains(part), "nothing of {part}:\n{text}");
    }
    assert!(!text.contains(names[2]), "{text}");

    cluster.nodes[2].run()?;
    cluster.wait_state("node3", "ready")?;
    eventually("the node is heard again", || {
        cluster.nodes[2].cli_ok(&["run", "--rm", "bb", "true"])?;
        let heard = reading.out.try_iter().any(|line| line.contains(names[2]));
        ensure!(heard, "nothing of node3");
        Ok(())
    })?;
    let refused = cluster.worker().cli(&["events", "--cluster"])?;
    let text = String::from_utf8(refused.stderr)?;
    assert!(
        !refused.status.success() && text.contains("This node is not a swarm manager"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_manager_that_follows_reaches_every_task() -> Result<()> {
    let cluster = Cluster::managed(3, 1)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    serve(
        &cluster,
        "box",
        &["--mode", "global"],
        "echo hello from $NODE; exec sleep 1000",
    )?;
    cluster.wait_spread("box", &[1, 1, 1, 1])?;
    // At most one of the two leads.
    for follower in &cluster.nodes[1..3] {
        for node in ["node1", "node2", "node3", "node4"] {
            let place = format!("box.{node}");
            let words = [
                "service",
                "exec",
                "-i",
                &place,
                "sh",
                "-c",
                "cat; echo on $NODE; exit 7",
            ];
            let mut child = follower.cli_piped(&words)?;
            child.stdin.take().context("no input")?.write_all(b"typed\n")?;
            let output = child.wait_with_output()?;
            assert_eq!(output.status.code(), Some(7), "{output:?}");
            assert_eq!(String::from_utf8(output.stdout)?, format!("typed\non {node}\n"));
        }
        eventually("all logs are there", || {
            let output = follower.cli(&["service", "logs", "--raw", "box"])?;
            ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            let text = String::from_utf8(output.stdout)?;
            ensure!(text.lines().count() == 4, "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

//! Containers outlive the agent (law 4): killed and started again, it finds them as they were.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Agent, eventually, in_network_of};
use serde_json::{Value, json};

fn pids(agent: &Agent) -> Result<Vec<(String, Value)>> {
    let list = agent.get("/containers/json")?;
    let mut pids = Vec::new();
    for container in list.as_array().into_iter().flatten() {
        let id = container["Id"].as_str().context("an id")?.to_owned();
        let pid = agent.get(&format!("/containers/{id}/json"))?["State"]["Pid"].clone();
        pids.push((id, pid));
    }
    pids.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(pids)
}

#[test]
fn twenty_kills_touch_no_container() -> Result<()> {
    let mut agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    let count = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
    agent.cli_ok(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "2",
        "bb",
        "sh",
        "-c",
        count,
    ])?;
    agent.wait_running("web", 2)?;
    agent.cli_ok(&["run", "-d", "--name", "alone", "bb", "sh", "-c", count])?;
    let before = pids(&agent)?;
    assert_eq!(before.len(), 3);
    for round in 0..20 {
        agent.kill()?;
        if round % 5 == 0 {
            // Time for output that nobody but the shim can take.
            std::thread::sleep(Duration::from_millis(300));
        }
        agent.run()?;
        assert_eq!(
            pids(&agent)?,
            before,
            "after kill {round}: the same containers with the same processes"
        );
    }
    agent.wait_running("web", 2)?;
    assert_eq!(pids(&agent)?, before, "and the swarm has not replaced any");
    // Not one line is missing in between.
    let numbers = eventually("it has written many lines", || {
        let logs = agent.cli_ok("logs alone")?;
        let number = |line: &str| line.strip_prefix("line ")?.parse().ok();
        let numbers: Vec<u64> = logs.lines().filter_map(number).collect();
        ensure!(numbers.len() > 50, "{} lines", numbers.len());
        Ok(numbers)
    })?;
    assert!(
        numbers
            .iter()
            .zip(1..)
            .all(|(&number, expected)| number == expected),
        "lines are missing"
    );
    // A new replica is still made, found and removed.
    agent.cli_ok("service scale web=3")?;
    agent.wait_running("web", 3)?;
    Ok(())
}

#[test]
fn what_ends_while_the_agent_is_dead_has_its_exit_code() -> Result<()> {
    let mut agent = Agent::start()?;
    agent.build_busybox()?;
    for (name, script) in [
        ("seven", "sleep 1; echo last words; exit 7"),
        ("shot", "sleep 1; sh -c 'kill -9 $$'; exit $?"),
    ] {
        agent.cli_ok(&["run", "-d", "--name", name, "bb", "sh", "-c", script])?;
    }
    agent.cli_ok("run -d --name brief --rm bb sleep 1")?;
    agent.kill()?;
    std::thread::sleep(Duration::from_millis(1500));
    agent.run()?;
    for (name, code) in [("seven", 7), ("shot", 137)] {
        let state = agent.get(&format!("/containers/{name}/json"))?["State"].clone();
        assert_eq!(
            (&state["Status"], &state["ExitCode"]),
            (&json!("exited"), &json!(code)),
            "{name}"
        );
    }
    assert_eq!(agent.cli_ok("logs seven")?, "last words\n");
    eventually("--rm holds across the restart", || {
        ensure!(agent.ask("GET", "/containers/brief/json", None)?.status == 404);
        Ok(())
    })
}

#[test]
fn a_task_that_ends_while_the_agent_is_dead_is_replaced() -> Result<()> {
    let mut agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    agent.cli_ok("service create --name web --restart-delay 100ms bb sleep 1000")?;
    agent.wait_running("web", 1)?;
    let (_, pid) = pids(&agent)?.pop().context("a container")?;
    agent.kill()?;
    let pid = i32::try_from(pid.as_i64().context("a pid")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    agent.run()?;
    eventually("a new task runs in its place", || {
        let tasks = agent.running_tasks("web")?;
        ensure!(
            tasks.len() == 1 && tasks[0]["Status"]["ContainerStatus"]["PID"] != json!(pid),
            "{tasks:?}"
        );
        Ok(())
    })
}

#[test]
fn the_network_goes_on_without_the_agent() -> Result<()> {
    let mut agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    let serve = "mkdir /www; echo alive > /www/index.html; httpd -f -p 80 -h /www";
    agent.cli_ok(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "2",
        "-p",
        "8077:80",
        "bb",
        "sh",
        "-c",
        serve,
    ])?;
    eventually("the port answers", || agent.host.get("127.0.0.1:8077", "/"))?;
    agent.kill()?;
    for _ in 0..5 {
        assert_eq!(
            agent.host.get("127.0.0.1:8077", "/")?,
            "alive\n",
            "with the agent dead"
        );
    }
    agent.run()?;
    for _ in 0..5 {
        assert_eq!(
            agent.host.get("127.0.0.1:8077", "/")?,
            "alive\n",
            "and after it is back"
        );
    }
    Ok(())
}

/// Asks for the address of `db`, by one packet that is not sent again.
fn ask_for_db() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.connect("127.0.0.11:53")?;
    socket.send(b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01")?;
    Ok(socket)
}

/// How many addresses came.
fn addresses_of_db(socket: &UdpSocket) -> Result<u8> {
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("an answer")?;
    ensure!(
        length > 12 && answer[1] == 7 && answer[3] & 0xf == 0,
        "{:?}",
        &answer[..length]
    );
    Ok(answer[7])
}

#[test]
fn names_that_are_asked_for_without_the_agent_are_answered_by_the_next_one() -> Result<()> {
    let mut agent = Agent::start()?;
    agent.build_busybox()?;
    agent.cli_ok("network create inner")?;
    agent.cli_ok("run -d --network inner --name db bb sleep 1000")?;
    agent.cli_ok("run -d --network inner --name asks bb sleep 1000")?;
    let pid = agent.get("/containers/asks/json")?["State"]["Pid"].as_i64();
    let pid = pid.context("a process")?;
    for _ in 0..2 {
        agent.kill()?;
        let asked = in_network_of(pid, ask_for_db)??;
        agent.run()?;
        assert_eq!(addresses_of_db(&asked)?, 1);
    }
    let seen = agent.cli_ok("exec asks ls -l /proc/1/fd /proc/self/fd")?;
    assert!(
        !seen.contains("socket"),
        "what the shim keeps is not the container's: {seen}"
    );
    Ok(())
}

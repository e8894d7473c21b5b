//! Services: made, scaled, updated, rolled back, repaired.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use integration::{Agent, agent, eventually, image};
use serde_json::{Value, json};

fn swarm() -> Result<Agent> {
    let agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    Ok(agent)
}

fn containers(tasks: &[Value]) -> Vec<String> {
    let id = |task: &Value| {
        task["Status"]["ContainerStatus"]["ContainerID"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    tasks.iter().map(id).collect()
}

#[test]
fn a_service_is_scaled_up_down_and_to_nothing() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --name web --replicas 3 --stop-grace-period 1s bb sleep 1000")?;
    let first = containers(&agent.wait_running("web", 3)?);
    agent.cli_ok("service scale web=5")?;
    let five = containers(&agent.wait_running("web", 5)?);
    assert!(
        first.iter().all(|id| five.contains(id)),
        "scaling touches none of those that run"
    );
    assert!(agent.cli_ok("service ls")?.contains("5/5"));
    assert!(agent.cli_ok("service ps web")?.contains("Running"));
    agent.cli_ok("service scale web=0")?;
    agent.wait_running("web", 0)?;
    eventually("no container is left", || {
        ensure!(
            agent
                .get("/containers/json")?
                .as_array()
                .is_some_and(Vec::is_empty)
        );
        Ok(())
    })?;
    agent.cli_ok("service rm web")?;
    Ok(())
}

#[test]
fn a_killed_container_is_replaced() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --name web --restart-delay 100ms --stop-grace-period 1s bb sleep 1000")?;
    let before = containers(&agent.wait_running("web", 1)?);
    agent.cli_ok(&["kill", &before[0]])?;
    eventually("another container runs", || {
        let now = containers(&agent.running_tasks("web")?);
        ensure!(now.len() == 1 && now != before, "{now:?}");
        Ok(())
    })?;
    let history = agent.cli_ok("service ps web")?;
    assert!(
        history.contains("\\_ web.1") && history.contains("non-zero exit (137)"),
        "{history}"
    );
    Ok(())
}

#[test]
fn an_update_rolls_and_a_rollback_returns() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --name web --replicas 2 --update-monitor 200ms --env V=1 --stop-grace-period 1s bb sleep 1000")?;
    let first = containers(&agent.wait_running("web", 2)?);
    // Labels of the service are nobody's business but the manager's: no task changes.
    agent.cli_ok("service update --label-add a=b web")?;
    assert_eq!(
        sorted(containers(&agent.wait_running("web", 2)?)),
        sorted(first.clone())
    );
    agent.cli_ok("service update --env-add V=2 web")?;
    let second = containers(&agent.wait_running("web", 2)?);
    assert!(second.iter().all(|id| !first.contains(id)), "both are new");
    let env = |id: &str| -> Result<String> {
        Ok(agent.get(&format!("/containers/{id}/json"))?["Config"]["Env"].to_string())
    };
    assert!(env(&second[0])?.contains("V=2"));
    agent.cli_ok("service rollback web")?;
    assert!(env(&containers(&agent.wait_running("web", 2)?)[0])?.contains("V=1"));
    Ok(())
}

#[test]
fn a_failing_update_goes_back_by_itself() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --name web --replicas 2 --update-failure-action rollback --update-monitor 1s --restart-delay 100ms --stop-grace-period 1s bb sleep 1000")?;
    agent.wait_running("web", 2)?;
    let update = agent.cli("service update --args false web")?;
    assert!(
        !update.status.success(),
        "the truth about an update that was rolled back is an error"
    );
    eventually("the update is rolled back", || {
        let service = agent.get("/services/web")?;
        ensure!(
            service["UpdateStatus"]["State"] == "rollback_completed",
            "{}",
            service["UpdateStatus"]
        );
        Ok(())
    })?;
    agent.wait_running("web", 2)?;
    assert_eq!(
        agent.get("/services/web")?["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"],
        json!(["sleep", "1000"])
    );
    Ok(())
}

/// An image that answers with its version, and says by its healthcheck when it is ready.
fn build_web(agent: &Agent, version: &str) -> Result<()> {
    let script =
        format!("#!/bin/sh\nmkdir -p /www\necho {version} > /www/index.html\nexec httpd -f -p 80 -h /www\n");
    let dockerfile = "FROM bb\nCOPY serve /serve\nHEALTHCHECK --interval=200ms --timeout=2s --retries=3 \
        CMD wget -q -O /dev/null http://127.0.0.1/\nCMD [\"/serve\"]\n";
    agent.build(
        &format!("web:{version}"),
        &image::context(dockerfile, &[("serve", script.as_bytes(), 0o755)])?,
    )
}

#[test]
fn an_update_under_load_loses_no_request() -> Result<()> {
    let agent = swarm()?;
    build_web(&agent, "1")?;
    build_web(&agent, "2")?;
    agent.cli_ok("service create --name web --replicas 3 -p 8099:80 --update-order start-first --update-monitor 200ms --stop-signal TERM web:1")?;
    eventually("the port answers", || agent.host.get("127.0.0.1:8099", "/"))?;
    let (stop, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed: Vec<String> = std::thread::scope(|scope| -> Result<Vec<String>> {
        let load = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                match agent.host.get("127.0.0.1:8099", "/") {
                    Ok(_) => {
                        good.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            failed
        });
        let updated = agent.cli("service update --image web:2 web");
        stop.store(true, Ordering::SeqCst);
        let failed = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        ensure!(updated?.status.success(), "the update failed");
        Ok(failed)
    })?;
    assert_eq!(
        failed,
        Vec::<String>::new(),
        "besides {} good ones",
        good.load(Ordering::SeqCst)
    );
    assert!(good.load(Ordering::SeqCst) > 10);
    for _ in 0..10 {
        assert_eq!(agent.host.get("127.0.0.1:8099", "/")?, "2\n");
    }
    Ok(())
}

#[test]
fn a_service_s_name_is_one_address_before_all_tasks() -> Result<()> {
    let mut agent = swarm()?;
    agent.cli_ok("network create -d overlay --attachable net")?;
    let serve = "mkdir /www; hostname > /www/index.html; httpd -f -p 80 -h /www";
    agent.cli_ok(&format!(
        "service create --name web --replicas 3 --network net bb sh -c '{serve}'"
    ))?;
    agent.wait_running("web", 3)?;
    let ask = "for i in $(seq 40); do wget -q -O - http://web/ || echo failed; done";
    let names = agent.cli_ok(&format!("run --rm --network net bb sh -c '{ask}'"))?;
    assert!(!names.contains("failed"), "{names}");
    let distinct: std::collections::BTreeSet<&str> = names.lines().collect();
    assert_eq!(distinct.len(), 3, "all three answer: {names}");
    let balancer = |agent: &Agent| -> Result<Value> {
        Ok(agent.get("/networks/net")?["Options"]["com.shoal.balancer"].clone())
    };
    assert_eq!(balancer(&agent)?, "ebpf", "{}", agent.log());
    assert!(agent.cli_ok("info")?.contains("Balancer: ebpf"));
    // The operator wants packet filters: the same tasks, led by them.
    agent.flags = vec!["--balancer=nftables".into()];
    agent.kill()?;
    agent.run()?;
    assert_eq!(balancer(&agent)?, "nftables");
    let names = agent.cli_ok(&format!("run --rm --network net bb sh -c '{ask}'"))?;
    assert!(!names.contains("failed"), "{names}");
    let looked_up = agent.cli_ok("run --rm --network net bb nslookup tasks.web")?;
    let service = agent.get("/services/web")?;
    let vip = service["Endpoint"]["VirtualIPs"]
        .as_array()
        .and_then(|list| list.iter().find_map(|vip| vip["Addr"].as_str()));
    let vip = vip
        .and_then(|vip| vip.split('/').next())
        .context("a virtual address")?
        .to_owned();
    assert!(
        !looked_up.contains(&vip) && looked_up.matches("Address").count() >= 4,
        "{looked_up}"
    );
    Ok(())
}

#[test]
fn secrets_and_configs_reach_the_tasks() -> Result<()> {
    let agent = swarm()?;
    let file = agent.host.directory().join("content");
    std::fs::write(&file, "hidden")?;
    let file = file.to_str().context("a path")?;
    agent.cli_ok(&format!("secret create key {file}"))?;
    agent.cli_ok(&format!("config create conf {file}"))?;
    let script = "cat /run/secrets/key /etc/conf; stat -c %a /run/secrets/key; sleep 1000";
    agent.cli_ok(&format!(
        "service create --name reader --secret key --config source=conf,target=/etc/conf,mode=0400 bb sh -c '{script}'"
    ))?;
    eventually("the task has read both", || {
        let logs = agent.cli_ok("service logs --raw reader")?;
        ensure!(logs == "hiddenhidden444\n", "{logs:?}");
        Ok(())
    })?;
    assert!(
        agent.get("/secrets/key")?["Spec"]["Data"].is_null(),
        "a secret is never given out"
    );
    let refused = agent.cli("secret rm key")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("reader"), "{said}");
    // Nowhere in clear on the disk of the node but in the manager's store.
    agent.cli_ok("service rm reader")?;
    Ok(())
}

#[test]
fn a_service_waits_for_what_it_depends_on() -> Result<()> {
    let agent = swarm()?;
    let file = agent.host.directory().join("stack.yml");
    std::fs::write(
        &file,
        "services:\n  db:\n    image: bb\n    command: sh -c 'sleep 2; touch /ready; sleep 1000'\n    healthcheck: {test: [CMD, test, -f, /ready], interval: 200ms, retries: 100}\n  app:\n    image: bb\n    command: sleep 1000\n    depends_on: {db: {condition: service_healthy}}\n",
    )?;
    agent.cli_ok(&format!("stack deploy --detach -c {} s", file.display()))?;
    let waiting = eventually("the task says what it waits for", || {
        let tasks = agent.get(&format!(
            "/tasks?filters={}",
            agent::escape(r#"{"service":["s_app"]}"#)
        ))?;
        let message = tasks[0]["Status"]["Message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let err = tasks[0]["Status"]["Err"].as_str().unwrap_or_default().to_owned();
        ensure!(
            message.contains("s_db") || err.contains("s_db"),
            "{}",
            tasks[0]["Status"]
        );
        Ok(format!("{message} {err}"))
    })?;
    assert!(waiting.contains("service_healthy"), "{waiting}");
    let app = agent.wait_running("s_app", 1)?;
    let db = agent.wait_running("s_db", 1)?;
    let moment = |task: &Value| {
        task["Status"]["Timestamp"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(moment(&db[0]) <= moment(&app[0]));
    agent.cli_ok("stack rm s")?;
    Ok(())
}

#[test]
fn a_pending_task_says_why() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create -d --name lost --constraint node.labels.zone==moon bb true")?;
    eventually("the reason is on the task", || {
        let tasks = agent.get("/tasks")?;
        let said = tasks[0]["Status"]["Err"].as_str().unwrap_or_default().to_owned();
        ensure!(
            said.contains("no suitable node") && said.contains("scheduling constraints"),
            "{}",
            tasks[0]["Status"]
        );
        Ok(())
    })?;
    let node = agent.get("/nodes")?[0]["ID"]
        .as_str()
        .context("a node")?
        .to_owned();
    agent.cli_ok(&format!("node update --label-add zone=moon {node}"))?;
    eventually("the label lets it run", || {
        let tasks = agent.get("/tasks")?;
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        if !tasks.iter().any(|task| task["Status"]["State"] == "complete") {
            bail!("{tasks:?}");
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn one_task_runs_on_the_node_of_a_global_service() -> Result<()> {
    let agent = swarm()?;
    agent.cli_ok("service create --name everywhere --mode global --stop-grace-period 1s bb sleep 1000")?;
    agent.wait_running("everywhere", 1)?;
    assert!(agent.cli_ok("service ls")?.contains("global"));
    let node = agent.get("/nodes")?[0]["ID"]
        .as_str()
        .context("a node")?
        .to_owned();
    agent.cli_ok(&format!("node update --availability drain {node}"))?;
    agent.wait_running("everywhere", 0)?;
    agent.cli_ok(&format!("node update --availability active {node}"))?;
    agent.wait_running("everywhere", 1)?;
    Ok(())
}

#[test]
fn a_swarm_has_real_tokens_and_an_end() -> Result<()> {
    let agent = Agent::start()?;
    let refused = agent.cli("service ls")?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("This node is not a swarm manager"));
    let said = agent.cli_ok("swarm init --advertise-addr 127.0.0.1")?;
    assert!(said.contains("swarm join --token SWMTKN-1-"), "{said}");
    let worker = agent.cli_ok("swarm join-token -q worker")?;
    let manager = agent.cli_ok("swarm join-token -q manager")?;
    let parts: Vec<&str> = worker.trim().split('-').collect();
    assert_eq!(
        (parts[0], parts[1], parts[2].len(), parts[3].len()),
        ("SWMTKN", "1", 50, 25)
    );
    assert_eq!(
        parts[2],
        manager.trim().split('-').nth(2).unwrap_or_default(),
        "one digest, two secrets"
    );
    let rotated = agent.cli_ok("swarm join-token --rotate -q worker")?;
    assert_ne!(rotated, worker);
    assert!(agent.cli_ok("node ls")?.contains("Leader"));
    let leave = agent.cli("swarm leave")?;
    assert!(
        !leave.status.success(),
        "the last manager does not go without --force"
    );
    agent.cli_ok("swarm leave --force")?;
    assert!(agent.cli_ok("info")?.contains("Swarm: inactive"));
    Ok(())
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

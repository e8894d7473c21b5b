//! Images travel between nodes: what one node has, every node runs, and all run the same.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually, image};
use serde_json::Value;

fn serve(cluster: &Cluster, more: &[&str], image: &str) -> Result<String> {
    let mut words = vec![
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--stop-grace-period",
        "1s",
    ];
    words.extend(more);
    words.extend([image, "sleep", "1000"]);
    cluster.manager().cli_ok(&words)
}

/// An image of the test's own under this name; `mark` makes it another image.
fn build(agent: &Agent, name: &str, mark: &str) -> Result<String> {
    let dockerfile = format!("FROM bb\nCOPY mark /mark\nLABEL mark={mark}\n");
    agent.build(
        name,
        &image::context(&dockerfile, &[("mark", mark.as_bytes(), 0o644)])?,
    )?;
    id(agent, name)
}

fn id(agent: &Agent, name: &str) -> Result<String> {
    let found = agent.get(&format!("/images/{name}/json"))?;
    Ok(found["Id"].as_str().context("an ID")?.to_owned())
}

/// IDs of the images that the containers of a node are made of.
fn running(agent: &Agent) -> Result<Vec<String>> {
    let listed = agent.get("/containers/json")?;
    let ids = listed.as_array().into_iter().flatten();
    Ok(ids
        .map(|one| one["ImageID"].as_str().unwrap_or_default().to_owned())
        .collect())
}

fn errors(tasks: &Value) -> Vec<&str> {
    let tasks = tasks.as_array().into_iter().flatten();
    tasks.filter_map(|task| task["Status"]["Err"].as_str()).collect()
}

/// A task is rejected, and says so.
fn wait_rejected(manager: &Agent, error: &str) -> Result<()> {
    eventually("a task is rejected", || {
        let tasks = manager.get("/tasks")?;
        let errors = errors(&tasks);
        ensure!(errors.contains(&error), "{errors:?}");
        Ok(())
    })
}

#[test]
fn an_image_of_the_manager_runs_on_every_node() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    let made = build(manager, "web:1", "one")?;
    let said = serve(&cluster, &["--replicas", "3"], "web:1")?;
    assert_eq!(said.lines().count(), 1, "{said}");
    cluster.wait_spread("web", &[1, 1, 1])?;
    for node in &cluster.nodes {
        assert_eq!(running(node)?, *std::slice::from_ref(&made));
        // It has its name there too, and the layers are the same to the last byte.
        assert_eq!(id(node, "web:1")?, made);
        let file = node.host.directory().join("saved.tar");
        node.cli_ok(&["image", "save", "-o", file.to_str().context("a path")?, "web:1"])?;
    }
    let spec = &manager.get("/services/web")?["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"];
    assert_eq!(spec, &Value::from(format!("web:1@{made}")));
    let listed = manager.cli_ok(&["service", "ls", "--format", "{{.Image}}"])?;
    assert_eq!(listed.trim(), "web:1");
    // What travelled is pruned like any other image when nobody needs it.
    manager.cli_ok(&["service", "rm", "web"])?;
    let worker = cluster.worker();
    eventually("the worker has no container", || {
        ensure!(worker.get("/containers/json?all=1")? == serde_json::json!([]));
        Ok(())
    })?;
    worker.cli_ok(&["image", "prune", "-af"])?;
    assert_eq!(worker.get("/images/json")?, serde_json::json!([]));
    Ok(())
}

#[test]
fn the_image_that_was_meant_runs_where_its_name_is_another_ones() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let other = build(worker, "web:1", "other")?;
    let meant = build(manager, "web:1", "meant")?;
    assert_ne!(other, meant);
    serve(&cluster, &["--replicas", "2"], "web:1")?;
    cluster.wait_spread("web", &[1, 1])?;
    assert_eq!(running(worker)?, *std::slice::from_ref(&meant));
    assert_eq!(id(worker, "web:1")?, other, "somebody's name was taken away");

    // Built anew, it is rolled out by the name alone; without resolving, each node has its own.
    let newer = build(manager, "web:1", "newer")?;
    manager.cli_ok(&["service", "update", "-d", "--image", "web:1", "web"])?;
    eventually("the newer image runs", || {
        ensure!(running(manager)? == [newer.clone()] && running(worker)? == [newer.clone()]);
        Ok(())
    })?;
    manager.cli_ok(&[
        "service",
        "update",
        "-d",
        "--no-resolve-image",
        "--image",
        "web:1",
        "web",
    ])?;
    eventually("each node runs what it has", || {
        ensure!(running(manager)? == [newer.clone()] && running(worker)? == [other.clone()]);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn an_image_of_a_worker_is_found_and_one_of_nobody_is_said_so() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    worker.build_busybox()?;
    let made = build(worker, "web:1", "one")?;
    serve(&cluster, &["--replicas", "3"], "web:1")?;
    cluster.wait_spread("web", &[1, 1, 1])?;
    for node in &cluster.nodes {
        assert_eq!(running(node)?, *std::slice::from_ref(&made));
    }
    let words = [
        "service",
        "create",
        "-d",
        "--name",
        "none",
        "--restart-condition",
        "none",
        "nobody:1",
    ];
    let created = manager.cli(&words)?;
    let warned = String::from_utf8_lossy(&created.stderr).into_owned();
    ensure!(
        warned.contains("image nobody:1 is on no node of the swarm"),
        "{warned}"
    );
    wait_rejected(manager, "No such image: nobody:1 (asked 2 nodes)")
}

#[test]
fn an_image_that_comes_after_its_service_is_found() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    worker.build_busybox()?;
    let on_manager = ["--restart-delay", "1s", "--constraint", "node.role==manager"];
    serve(&cluster, &on_manager, "late:1")?;
    wait_rejected(manager, "No such image: late:1 (asked 1 node)")?;
    // The spec names no ID: the only manager is asked by its own task what the name means now.
    let made = build(worker, "late:1", "late")?;
    eventually("the manager runs it", || {
        let running = running(manager)?;
        ensure!(running == [made.clone()], "{running:?}");
        Ok(())
    })
}

#[test]
fn a_source_that_dies_is_replaced_by_another() -> Result<()> {
    let mut cluster = Cluster::joined(4)?;
    // Large enough to be on its way for a while, and the same on two nodes.
    let mut noise = vec![0u8; 64 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut noise)?;
    cluster.worker().build_busybox()?;
    let context = image::context("FROM bb\nCOPY noise /noise\n", &[("noise", &noise, 0o644)])?;
    cluster.worker().build("big:1", &context)?;
    let made = id(cluster.worker(), "big:1")?;
    let file = cluster.worker().host.directory().join("big.tar");
    let file = file.to_str().context("a path")?.to_owned();
    cluster
        .worker()
        .cli_ok(&["image", "save", "-o", &file, "big:1"])?;
    cluster.nodes[2].cli_ok(&["image", "load", "-i", &file])?;
    let last = ["--constraint", "node.hostname==node4"];
    serve(&cluster, &last, "big:1")?;
    let source = eventually("the fourth node fetches", || {
        let tasks = cluster.manager().get("/tasks")?;
        let message = tasks[0]["Status"]["Message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let source = message
            .strip_prefix("fetching image big:1 from node")
            .map(str::to_owned);
        source.with_context(|| format!("its status is {message:?}"))
    })?;
    let source: usize = source.parse()?;
    cluster.nodes[source - 1].kill()?;
    eventually("it runs all the same", || {
        ensure!(running(&cluster.nodes[3])? == *std::slice::from_ref(&made));
        Ok(())
    })?;
    cluster.nodes[source - 1].run()
}

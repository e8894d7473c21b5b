//! Networks that span nodes, as containers on three nodes see them: names and traffic, nodes that are lost and come back,
//! and what is left when services are gone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually, image};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Answers with where it runs.
pub(crate) const SERVE: &str = "mkdir /www; echo $NODE > /www/index.html; exec httpd -f -p 80 -h /www";

fn cluster() -> Result<Cluster> {
    let cluster = Cluster::joined(3)?;
    cluster.manager().build_busybox()?;
    Ok(cluster)
}

/// A service of one task per node; with `words` between its name and its image.
pub(crate) fn everywhere(cluster: &Cluster, name: &str, words: &str, script: &str) -> Result<()> {
    cluster.manager().cli_ok(&format!(
        "service create -d --name {name} --mode global --stop-grace-period 1s -e NODE={{{{.Node.Hostname}}}} {words} bb sh -c '{script}'"
    ))?;
    let spread = vec![1; cluster.nodes.len()];
    cluster.wait_spread(name, &spread).map(drop)
}

/// The container of a service's task on a node.
pub(crate) fn container(node: &Agent, service: &str) -> Result<String> {
    let names = node.cli_ok("ps --format {{.Names}}")?;
    let own = names
        .lines()
        .find(|name| name.starts_with(&format!("{service}.")));
    own.map(str::to_owned)
        .with_context(|| format!("no task of {service} among {names:?}"))
}

/// Runs a script in the container of a service's task on a node.
pub(crate) fn inside(node: &Agent, service: &str, script: &str) -> Result<String> {
    node.cli_ok(&["exec", &container(node, service)?, "sh", "-c", script])
}

/// What a name leads to, seen from a task: the answers of all its addresses.
fn answers(node: &Agent, service: &str, name: &str) -> Result<BTreeSet<String>> {
    let found = inside(node, service, &format!("nslookup {name}"))?;
    // The server's own address has a port.
    let words = found.split_whitespace().skip_while(|word| *word != "Name:");
    let addresses = words.filter_map(|word| word.parse::<Ipv4Addr>().ok());
    let ask =
        |address| format!("timeout 2 wget -q -O - http://{address}/ 2>&1 || echo no answer from {address}; ");
    let script: String = addresses.map(ask).collect();
    ensure!(!script.is_empty(), "{found}");
    let said = inside(node, service, &script)?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn all(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// From each of these nodes a name leads to exactly these.
pub(crate) fn wait_answers(cluster: &Cluster, from: &[usize], name: &str, expected: &[&str]) -> Result<()> {
    for &node in from {
        eventually(
            &format!("node{} reaches {expected:?} as {name}", node + 1),
            || {
                let found = answers(&cluster.nodes[node], "probe", name)?;
                ensure!(found == all(expected), "{found:?}\n{}", cluster.nodes[node].log());
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[test]
fn names_and_traffic_cross_nodes_and_survive_the_loss_of_nodes_and_managers() -> Result<()> {
    let mut cluster = cluster()?;
    let manager = cluster.manager();
    for network in ["one", "two"] {
        manager.cli_ok(&format!("network create -d overlay {network}"))?;
    }
    everywhere(&cluster, "probe", "--network one", "sleep 10000")?;
    everywhere(&cluster, "other", "--network two", "sleep 10000")?;
    everywhere(&cluster, "web", "--network name=one,alias=app", SERVE)?;
    everywhere(
        &cluster,
        "rival",
        "--network name=two,alias=app",
        "mkdir /www; echo rival > /www/index.html; exec httpd -f -p 80 -h /www",
    )?;
    everywhere(&cluster, "plain", "--network one --endpoint-mode dnsrr", SERVE)?;

    // The virtual address leads to every node, from every node; so does each of the tasks' own.
    let ask = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do timeout 5 wget -q -O - http://web/ || echo failed; done";
    let nodes = ["node1", "node2", "node3"];
    wait_answers(&cluster, &[0, 1, 2], "tasks.web", &nodes)?;
    wait_answers(&cluster, &[0, 1, 2], "plain", &nodes)?;
    for node in &cluster.nodes {
        let said = inside(node, "probe", ask)?;
        assert_eq!(
            said.lines().map(str::to_owned).collect::<BTreeSet<_>>(),
            all(&nodes)
        );
        // The same name is somebody else on the other network, and neither reaches the other's.
        let name = |service| inside(node, service, "timeout 5 wget -q -O - http://app/");
        assert!(nodes.contains(&name("probe")?.trim()));
        assert_eq!(name("other")?.trim(), "rival");
        assert!(inside(node, "other", "timeout 1 wget -q -O - http://web/").is_err());
    }
    peers_are_shown(&cluster)?;
    cut_off_and_connected_again(&cluster)?;
    killed_and_back(&mut cluster)?;
    restarted_under_traffic(&mut cluster)?;
    without_managers(&mut cluster)
}

fn peers_are_shown(cluster: &Cluster) -> Result<()> {
    let shown = cluster.worker().get("/networks/one")?;
    let peers = shown["Peers"].as_array().cloned().unwrap_or_default();
    let peers: BTreeSet<_> = peers
        .iter()
        .map(|peer| peer["IP"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        peers,
        BTreeSet::from(["10.99.0.1", "10.99.0.2", "10.99.0.3"]),
        "{shown}"
    );
    let verbose = cluster.worker().get("/networks/one?verbose=true")?;
    let tasks = verbose["Services"]["web"]["Tasks"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert_eq!(tasks.len(), 3, "{verbose}");
    for (network, node) in [("one", 1), ("two", 2)] {
        let listed = cluster.nodes[node].cli_ok("network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'")?;
        assert!(listed.contains(&format!("{network} overlay swarm")), "{listed}");
    }
    Ok(())
}

/// Docker's failure: after a node has returned, its names and those of others are not found (moby #53142).
fn cut_off_and_connected_again(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    cluster.set_cable(3, false)?;
    wait_answers(cluster, &[0, 1], "tasks.web", &["node1", "node2"])?;
    println!(
        "node cut off -> withdrawn everywhere, with the look-ups: {:?}",
        begin.elapsed()
    );
    // What it knew it goes on with; nothing tells it that the others are gone.
    let own = inside(
        &cluster.nodes[2],
        "probe",
        "nslookup tasks.web | grep -c ^Address",
    )?;
    assert_eq!(own.trim(), "4", "the server's own and three");
    cluster.set_cable(3, true)?;
    let begin = Instant::now();
    wait_answers(cluster, &[0, 1, 2], "tasks.web", &["node1", "node2", "node3"])?;
    println!("cable back -> names back everywhere: {:?}", begin.elapsed());
    Ok(())
}

fn killed_and_back(cluster: &mut Cluster) -> Result<()> {
    cluster.nodes[2].kill()?;
    let begin = Instant::now();
    wait_answers(cluster, &[0, 1], "tasks.web", &["node1", "node2"])?;
    println!(
        "node lost -> withdrawn everywhere, with the look-ups: {:?}",
        begin.elapsed()
    );
    cluster.nodes[2].run()?;
    wait_answers(cluster, &[0, 1, 2], "tasks.web", &["node1", "node2", "node3"])
}

/// Asks TARGET until somebody says stop, and writes whether it was answered.
const LOAD: &str = "rm -f /stop /out /over; while ! test -e /stop; do timeout 5 wget -q -O /dev/null http://TARGET/ && echo good >> /out || echo failed >> /out; done; touch /over";

/// The virtual address of the service `web`.
fn virtual_address(cluster: &Cluster) -> Result<String> {
    let found = inside(cluster.manager(), "probe", "nslookup web")?;
    let mut words = found.split_whitespace().skip_while(|word| *word != "Name:");
    let address = words.find(|word| word.parse::<Ipv4Addr>().is_ok());
    address.map(str::to_owned).context(found.clone())
}

/// Runs `work` while a task on each of these nodes asks without pause: nothing may stay without an answer.
fn under_load(
    cluster: &mut Cluster,
    from: &[usize],
    target: &str,
    work: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    for &node in from {
        let name = container(&cluster.nodes[node], "probe")?;
        let load = LOAD.replace("TARGET", target);
        cluster.nodes[node].cli_ok(&["exec", "-d", &name, "sh", "-c", &load])?;
        eventually("the load is on", || {
            inside(&cluster.nodes[node], "probe", "test -s /out").map(drop)
        })?;
    }
    let worked = work(cluster);
    for &node in from {
        // What waits for its answer counts, too.
        let count = "touch /stop; until test -e /over; do sleep 0.1; done; grep -c good /out; grep -c failed /out || true";
        let counted = inside(&cluster.nodes[node], "probe", count)?;
        let (good, failed) = counted.trim().split_once('\n').context("two counts")?;
        println!("from node{}: {good} requests answered, {failed} lost", node + 1);
        ensure!(
            failed == "0",
            "node{} lost {failed} of its requests:\n{:?}",
            node + 1,
            worked
        );
        ensure!(good.parse::<u32>()? > 5, "there was no load: {good}");
    }
    worked
}

/// Names are looked up at the agent; what is asked by address does not notice that it is away.
fn restarted_under_traffic(cluster: &mut Cluster) -> Result<()> {
    let address = virtual_address(cluster)?;
    under_load(cluster, &[1, 2], &address, |cluster| {
        cluster.nodes[2].kill()?;
        cluster.nodes[2].run()?;
        cluster.wait_state("node3", "ready")?;
        wait_answers(cluster, &[1, 2], "tasks.web", &["node1", "node2", "node3"])
    })
}

fn without_managers(cluster: &mut Cluster) -> Result<()> {
    let address = virtual_address(cluster)?;
    cluster.nodes[0].kill()?;
    let all = ["node1", "node2", "node3"];
    // The containers of the dead manager's node go on as well.
    wait_answers(cluster, &[1, 2], "tasks.web", &all)?;
    under_load(cluster, &[1, 2], &address, |cluster| {
        // What this one knows it has from its disk: nobody is there to ask.
        cluster.nodes[2].kill()?;
        cluster.nodes[2].run()?;
        wait_answers(cluster, &[1, 2], "tasks.web", &all)?;
        wait_answers(cluster, &[2], "plain", &all)
    })?;
    cluster.nodes[0].run()?;
    for node in all {
        cluster.wait_state(node, "ready")?;
    }
    wait_answers(cluster, &[0, 1, 2], "tasks.web", &all)
}

/// An image that answers with its version, and says by its healthcheck when it is ready.
fn build_web(agent: &Agent, version: &str) -> Result<()> {
    let script =
        format!("#!/bin/sh\nmkdir -p /www\necho {version} > /www/index.html\nexec httpd -f -p 80 -h /www\n");
    let dockerfile = "FROM bb\nCOPY serve /serve\nHEALTHCHECK --interval=200ms --timeout=5s --retries=5 \
        CMD wget -q -O /dev/null http://127.0.0.1/\nCMD [\"/serve\"]\n";
    let context = image::context(dockerfile, &[("serve", script.as_bytes(), 0o755)])?;
    agent.build(&format!("web:{version}"), &context)
}

#[test]
fn a_rolling_update_between_nodes_loses_no_request() -> Result<()> {
    let mut cluster = cluster()?;
    let manager = cluster.manager();
    for version in ["1", "2"] {
        build_web(manager, version)?;
    }
    manager.cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", "sleep 10000")?;
    cluster.manager().cli_ok(
        "service create --name web --replicas 3 --network net --update-order start-first --update-monitor 200ms \
         --stop-signal KILL web:1",
    )?;
    under_load(&mut cluster, &[0, 1, 2], "web", |cluster| {
        cluster
            .manager()
            .cli_ok("service update --image web:2 web")
            .map(drop)
    })?;
    for node in &cluster.nodes {
        assert_eq!(
            inside(node, "probe", "timeout 5 wget -q -O - http://web/")?.trim(),
            "2"
        );
    }
    Ok(())
}

/// One node's agent does nothing for a second, so that it goes on sending to a task that is to stop: the task waits for its word
/// before it ends. It would end at once, and it is not asked for by name, because the agent answers for names.
#[test]
fn a_task_stops_after_every_node_has_taken_it_out_of_its_service() -> Result<()> {
    let mut cluster = cluster()?;
    let manager = cluster.manager();
    manager.cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", "sleep 10000")?;
    manager.cli_ok(&format!(
        "service create -d --name web --replicas 2 --network net --constraint node.hostname!=node3 \
         --stop-signal KILL -e NODE=any bb sh -c '{SERVE}'"
    ))?;
    cluster.wait_spread("web", &[1, 1, 0])?;
    wait_answers(&cluster, &[2], "web", &["any"])?;
    let address = virtual_address(&cluster)?;
    under_load(&mut cluster, &[2], &address, |cluster| {
        let agent = cluster.nodes[2].pid().context("an agent")?;
        let agent = Pid::from_raw(i32::try_from(agent)?);
        kill(agent, Signal::SIGSTOP)?;
        let scaled = cluster.manager().cli_ok("service scale -d web=1");
        std::thread::sleep(Duration::from_secs(1));
        kill(agent, Signal::SIGCONT)?;
        scaled?;
        eventually("one task is left", || {
            let containers = |node: &Agent| node.cli_ok("ps -q --filter name=web.");
            let left = containers(&cluster.nodes[0])? + &containers(&cluster.nodes[1])?;
            ensure!(left.lines().count() == 1, "{left}");
            Ok(())
        })
    })
}

/// Everything that the kernel knows of a node's networks, without what counts or changes by itself.
fn kernel(node: &Agent) -> Result<BTreeSet<String>> {
    let fabric = node.run_dir().join("netns/fabric");
    let mut known = BTreeSet::new();
    let dumps = [
        "ip -o link",
        "ip -o address",
        "ip -4 route show table all",
        "ip rule",
        "bridge fdb",
        "ip neighbour show nud permanent",
        "nft -s list ruleset",
    ];
    for (place, namespace) in [("host", node.host.namespace()), ("fabric", fabric)] {
        for dump in dumps {
            let output = in_namespace(&namespace, dump)?;
            known.extend(
                output
                    .lines()
                    .map(|line| format!("{place}: {dump}: {}", line.trim())),
            );
        }
    }
    Ok(known)
}

fn in_namespace(namespace: &Path, line: &str) -> Result<String> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .args(line.split(' '));
    let output = command.output().context("nsenter (package util-linux)")?;
    ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn two_hundred_services_leave_nothing_behind() -> Result<()> {
    let cluster = cluster()?;
    let manager = cluster.manager();
    manager.cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", "sleep 10000")?;
    // The first published port brings rules that all of them share, and that stay.
    manager.cli_ok(
        "service create --name first --network net -p 19999:80 --stop-grace-period 1s bb sleep 10000",
    )?;
    manager.cli_ok("service rm first")?;
    eventually("the first one is gone", || {
        for node in &cluster.nodes {
            let gone = inside(node, "probe", "nslookup first").is_err();
            ensure!(gone && !node.cli_ok("ps -a --format {{.Names}}")?.contains("first."));
        }
        Ok(())
    })?;
    let before: Vec<_> = cluster.nodes.iter().map(kernel).collect::<Result<_>>()?;
    for batch in 0..5 {
        for number in 0..40 {
            // One in four has a task; the others are names and addresses alone.
            let replicas = u8::from(number % 4 == 0);
            manager.cli_ok(&format!(
                "service create -d --name s{batch}x{number} --replicas {replicas} --network net -p {}:80 --stop-grace-period 1s bb sleep 10000",
                20000 + batch * 40 + number
            ))?;
        }
        manager.wait_running(&format!("s{batch}x36"), 1)?;
        let seen = inside(
            &cluster.nodes[2],
            "probe",
            &format!("nslookup s{batch}x1 | grep -c ^Address"),
        )?;
        assert_eq!(seen.trim(), "2");
        let names: Vec<_> = (0..40).map(|number| format!("s{batch}x{number}")).collect();
        manager.cli_ok(&format!("service rm {}", names.join(" ")))?;
    }
    for (node, before) in cluster.nodes.iter().zip(before) {
        eventually("nothing is left", || {
            let now = kernel(node)?;
            let left: Vec<_> = now.difference(&before).collect();
            let lost: Vec<_> = before.difference(&now).collect();
            ensure!(
                left.is_empty() && lost.is_empty(),
                "left: {left:#?}\nlost: {lost:#?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

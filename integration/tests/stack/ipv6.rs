//! Networks with IPv6 beside IPv4: on one node, and across nodes.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::{Value, json};

use crate::who::{WHO, ask, wait_answer};

/// Says its address to whoever connects.
const SERVER: &str = "exec nc -ll -p 80 -e cat /etc/hostname";

#[test]
fn containers_of_a_dual_stack_bridge_reach_each_other_over_ipv6() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let refusal = agent.cli_refused(&["network", "create", "--subnet", "fd00:5::/64", "no"])?;
    ensure!(refusal.contains("--ipv6"), "{refusal}");
    let subnets = "--subnet 10.55.0.0/24 --subnet fd00:55::/64 --gateway fd00:55::9";
    agent.cli_ok(&format!("network create --ipv6 {subnets} dual"))?;
    let network = &agent.get("/networks/dual")?;
    ensure!(network["EnableIPv6"] == true, "{network}");
    ensure!(
        network["IPAM"]["Config"][1]["Gateway"] == "fd00:55::9",
        "{network}"
    );
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "dual",
        "--ip6",
        "fd00:55::77",
        "bb",
        "sh",
        "-c",
        SERVER,
    ];
    agent.cli_ok(&run)?;
    let web = agent.get("/containers/web/json")?;
    let settings = &web["NetworkSettings"]["Networks"]["dual"];
    ensure!(settings["GlobalIPv6Address"] == "fd00:55::77", "{settings}");
    ensure!(settings["IPv6Gateway"] == "fd00:55::9", "{settings}");
    let ask = "nslookup -type=aaaa web | grep -q fd00:55::77 && nc fd00:55::77 80 </dev/null";
    let name = web["Config"]["Hostname"].as_str().context("no hostname")?;
    eventually("the server answers over IPv6", || {
        let said = agent.cli_ok(&["run", "--rm", "--network", "dual", "bb", "sh", "-c", ask])?;
        ensure!(said.contains(name), "{said}");
        Ok(())
    })
}

#[test]
fn a_service_is_reached_over_ipv6_from_another_node() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let manager = cluster.manager();
    manager.cli_ok("network create -d overlay --ipv6 --attachable dual")?;
    let names = ["web on node1", "client on node2"];
    let place = |node: &str| format!("node.hostname=={node}");
    for (name, node, script) in [("web", "node1", SERVER), ("client", "node2", "exec sleep 1000")] {
        let place = place(node);
        let mut words = vec!["service", "create", "-d", "--name", name, "--network", "dual"];
        words.extend(["--constraint", &place, "bb", "sh", "-c", script]);
        manager.cli_ok(&words)?;
    }
    for name in ["web", "client"] {
        manager.wait_running(name, 1).with_context(|| names.join(", "))?;
    }
    let service = manager.get("/services/web")?;
    let vips = service["Endpoint"]["VirtualIPs"]
        .as_array()
        .context("no virtual IPs")?;
    ensure!(vips.len() == 2, "one of each IP version: {service}");
    let ask = |name: &str| {
        format!(
            "A=$(nslookup -type=aaaa {name} | sed -n 's/^Address: //p' | tail -1); nc -w 3 $A 80 </dev/null"
        )
    };
    let client = eventually("the client runs on the other node", || {
        let all = cluster.worker().get("/containers/json")?;
        let id = all[0]["Id"].as_str().context("no container")?;
        Ok(id.to_owned())
    })?;
    for name in ["tasks.web", "web"] {
        let ask = ask(name);
        eventually("the service answers over IPv6", || {
            let said = cluster.worker().cli_ok(&["exec", &client, "sh", "-c", &ask])?;
            ensure!(!said.trim().is_empty(), "nobody answers at {name}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_containers_port_answers_over_ipv6_where_its_network_has_it() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    agent.cli_ok("network create --ipv6 dual")?;
    let run = "run -d --name web --network dual -e NODE=web -p 8080:80 -p [::1]:9090:80 -p 0.0.0.0:7070:80 bb sh -c";
    let words: Vec<_> = run.split(' ').chain([WHO]).collect();
    agent.cli_ok(&words)?;
    let ports = agent.cli_ok(&["ps", "--format", "{{.Ports}}"])?;
    let all = "0.0.0.0:7070->80/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, [::1]:9090->80/tcp";
    ensure!(ports.trim() == all, "{ports}");
    let mut ports: Vec<_> = agent.cli_ok("port web 80")?.lines().map(str::to_owned).collect();
    ports.sort();
    let all = ["0.0.0.0:7070", "0.0.0.0:8080", "[::1]:9090", "[::]:8080"];
    ensure!(ports == all, "{ports:?}");
    let host = &agent.host;
    eventually("the server answers", || ask(host, "127.0.0.1:8080"))?;
    for address in ["127.0.0.1:7070", "[::1]:8080", "[::1]:9090"] {
        let answer = ask(host, address).with_context(|| address.to_owned())?;
        ensure!(answer.starts_with("web "), "{address}: {answer}");
    }
    for address in ["127.0.0.1:9090", "[::1]:7070"] {
        ensure!(ask(host, address).is_err(), "{address} is not published");
    }
    let refusal = agent.cli_refused("run -d -p [::1]:6060:80 bb true")?;
    ensure!(
        refusal.contains("::1: the container is on no network with IPv6"),
        "{refusal}"
    );
    agent.cli_ok("rm -f web")?;
    ensure!(ask(host, "[::1]:8080").is_err(), "withdrawn");
    Ok(())
}

/// A stack with ports in mode `host`, in both syntaxes.
fn host_ports() -> Value {
    let web = json!({
        "image": "bb",
        "command": ["sh", "-c", WHO.replace('$', "$$")],
        "environment": {"NODE": "{{.Node.Hostname}}"},
        "networks": ["dual"],
        "ports": [
            "[::]:8081:80",
            "[::1]:8082:80",
            {"target": 80, "published": 8083, "mode": "host"},
            {"target": 80, "published": 8084, "host_ip": "2001:db8:99::1"},
        ],
    });
    json!({"services": {"web": web}, "networks": {"dual": {"driver": "overlay", "enable_ipv6": true}}})
}

#[test]
fn ports_of_mode_host_answer_over_ipv6() -> Result<()> {
    let cluster = Cluster::joined(1)?;
    let agent = cluster.manager();
    agent.host.add_ipv6(1)?;
    agent.build_busybox()?;
    let client = cluster.plug_in(200)?;
    client.add_ipv6(200)?;
    let file = agent.host.directory().join("stack.yml");
    std::fs::write(&file, host_ports().to_string())?;
    let file = file.to_str().context("a path")?;
    agent.cli_ok(&["stack", "deploy", "-d", "-c", file, "s"])?;
    agent.wait_running("s_web", 1)?;
    let seen = |address: &str| vec![format!("node1 {address}")];
    for port in [8081, 8083, 8084] {
        wait_answer(
            &client,
            &format!("[2001:db8:99::1]:{port}"),
            &seen("2001:db8:99::200"),
        )?;
    }
    wait_answer(&client, "10.99.0.1:8083", &seen("10.99.0.200"))?;
    for (port, answers) in [(8081, true), (8082, true), (8083, true), (8084, false)] {
        let answer = ask(&agent.host, &format!("[::1]:{port}"));
        ensure!(answer.is_ok() == answers, "{port}: {answer:?}");
    }
    for address in ["[2001:db8:99::1]:8082", "10.99.0.1:8081", "10.99.0.1:8084"] {
        ensure!(ask(&client, address).is_err(), "{address} is not published");
    }
    Ok(())
}

/// Addresses of the two versions that do not go together by themselves.
const ASKING: &str = r#"
services:
  web:
    image: bb
    command: sh -c "exec nc -ll -p 80 -e cat /etc/hostname"
    stop_grace_period: 1s
    networks:
      back: {ipv4_address: 10.77.0.10, ipv6_address: "fd00:77::10"}
    deploy:
      placement: {constraints: [node.hostname==node1]}
networks:
  back:
    attachable: true
    enable_ipv6: true
    ipam: {config: [{subnet: 10.77.0.0/24}, {subnet: "fd00:77::/64"}]}
"#;

#[test]
fn services_and_containers_have_the_ipv6_addresses_that_they_ask_for() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let file = manager.host.directory().join("stack.yml");
    std::fs::write(&file, ASKING)?;
    manager.cli_ok(&format!("stack deploy -d -c {} s", file.display()))?;
    let tasks = manager.wait_running("s_web", 1)?;
    let addresses = &tasks[0]["NetworksAttachments"][0]["Addresses"];
    assert_eq!(*addresses, serde_json::json!(["10.77.0.10/24", "fd00:77::10/64"]));
    let run = "run -d --network s_back bb sleep 1000";
    let refused = worker.cli_refused(&run.replace("-d", "-d --ip6 fd00:77::10"))?;
    ensure!(refused.contains("fd00:77::10"), "{refused}");
    let outside = worker.cli_refused(&run.replace("-d", "-d --ip6 fd00:78::10"))?;
    ensure!(outside.contains("(fd00:77::/64)"), "{outside}");
    worker.cli_ok(&run.replace("-d", "-d --name box --ip6 fd00:77::abcd"))?;
    let on = worker.get("/containers/box/json")?["NetworkSettings"]["Networks"]["s_back"].clone();
    assert_eq!(on["GlobalIPv6Address"], "fd00:77::abcd", "{on}");
    let ask = ["exec", "box", "sh", "-c", "nc -w 3 fd00:77::10 80 </dev/null"];
    eventually("the service answers at its address", || {
        ensure!(!worker.cli_ok(&ask)?.trim().is_empty());
        Ok(())
    })?;
    // Started again it has it again, and connected anew another.
    worker.cli_ok("restart -t 0 box")?;
    worker.cli_ok("network disconnect s_back box")?;
    worker.cli_ok("network connect --ip6 fd00:77::beef s_back box")?;
    let on = worker.get("/containers/box/json")?["NetworkSettings"]["Networks"]["s_back"].clone();
    assert_eq!(on["GlobalIPv6Address"], "fd00:77::beef", "{on}");
    Ok(())
}

#[test]
fn what_a_node_reaches_over_ipv6_is_kept_from_networks() -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.init()?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    manager.cli_ok("network create -d overlay --ipv6 --subnet fd00:88::/64 net")?;
    worker.host.ip("-6 route add fd00:88:0:0:8000::/65 dev eth0")?;
    worker.host.ip("-6 route add fd00:99::/64 dev eth0")?;
    cluster.join(1, "worker")?;
    cluster.wait_state("node2", "ready")?;
    let problems = manager.get("/networks/net")?["Problems"].to_string();
    let expected =
        "subnet fd00:88::/64 of network net overlaps with fd00:88:0:0:8000::/65, which node node2 reaches";
    ensure!(problems.contains(expected), "{problems}");
    let refused = manager.cli_refused("network create -d overlay --ipv6 --subnet fd00:99::/80 other")?;
    ensure!(
        refused.contains("fd00:99::/64, which node node2 reaches otherwise"),
        "{refused}"
    );
    let refused = manager.cli_refused("network create -d overlay --ipv4=false --ipv6 six")?;
    ensure!(refused.contains("without IPv4"), "{refused}");
    Ok(())
}

#[test]
fn a_network_whose_ipv6_does_not_leave_the_host_says_so() -> Result<()> {
    let agent = Agent::start()?;
    agent.cli_ok("network create --ipv6 dual")?;
    agent.cli_ok("network create --ipv6 --internal inner")?;
    agent.cli_ok("network create plain")?;
    let problems = |network: &str| -> Result<String> {
        Ok(agent.get(&format!("/networks/{network}"))?["Problems"].to_string())
    };
    assert_eq!(problems("dual")?, "null");
    // The namespace is the test's own.
    let forward = |to: &str| {
        agent
            .host
            .enter(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", to))
    };
    forward("0")??;
    ensure!(
        problems("dual")?.contains("IPv6 forwarding is disabled"),
        "{}",
        problems("dual")?
    );
    assert_eq!([problems("inner")?, problems("plain")?], ["null", "null"]);
    let info = agent.get("/info")?["Warnings"].to_string();
    ensure!(info.contains("IPv6 forwarding is disabled"), "{info}");
    forward("1")??;
    assert_eq!(problems("dual")?, "null");
    Ok(())
}

#[test]
fn a_network_of_one_node_gives_addresses_from_its_ranges() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let create = "network create --ipv6 --subnet 10.67.0.0/24 --subnet fd00:67::/64";
    let refused = agent.cli_refused(&format!("{create} --ip-range 10.67.0.0/23 no"))?;
    ensure!(refused.contains("10.67.0.0/23"), "{refused}");
    let ranges = "--ip-range 10.67.0.64/30 --ip-range fd00:67::5:0:0:0/80";
    agent.cli_ok(&format!("{create} {ranges} net"))?;
    let pools = &agent.get("/networks/net")?["IPAM"]["Config"];
    assert_eq!(pools[0]["IPRange"], "10.67.0.64/30", "{pools}");
    assert_eq!(pools[1]["IPRange"], "fd00:67:0:0:5::/80", "{pools}");
    for number in 0..4 {
        agent.cli_ok(&format!("run -d --name box{number} --network net bb sleep 1000"))?;
        let on = agent.get(&format!("/containers/box{number}/json"))?;
        let on = &on["NetworkSettings"]["Networks"]["net"];
        assert_eq!(on["IPAddress"], format!("10.67.0.{}", 64 + number), "{on}");
        let v6 = on["GlobalIPv6Address"].as_str().unwrap_or_default();
        ensure!(
            v6.starts_with("fd00:67:0:0:5:") || v6.starts_with("fd00:67::5:"),
            "{on}"
        );
    }
    let full = agent.cli_refused("run -d --network net bb sleep 1000")?;
    ensure!(full.contains("10.67.0.64/30"), "{full}");
    agent
        .cli_ok("run -d --network net --ip 10.67.0.9 bb sleep 1000")
        .map(drop)
}

#[test]
fn a_range_of_ipv6_is_where_addresses_are_given_from() -> Result<()> {
    let cluster = Cluster::joined(1)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    let create = "network create -d overlay --attachable --ipv6 --subnet 10.66.0.0/24 --subnet fd00:66::/64";
    let refused = manager.cli_refused(&format!("{create} --ip-range fd00:66::/112 no"))?;
    ensure!(refused.contains("fd00:66::/112 is too small"), "{refused}");
    manager.cli_ok(&format!("{create} --ip-range fd00:66:0:0:5::/80 net"))?;
    eventually("the network says which part of its subnet it is", || {
        let shown = &manager.get("/networks/net")?["IPAM"]["Config"][1];
        ensure!(shown["IPRange"] == "fd00:66:0:0:5::/80", "{shown}");
        Ok(())
    })?;
    manager.cli_ok("service create -d --name web --network net bb sleep 1000")?;
    let tasks = manager.wait_running("web", 1)?;
    let addresses = tasks[0]["NetworksAttachments"][0]["Addresses"].to_string();
    ensure!(addresses.contains("\"fd00:66::5:0:0:"), "{addresses}");
    // Outside of the range is for those who ask for it.
    manager.cli_ok("run -d --name box --network net --ip6 fd00:66::77 bb sleep 1000")?;
    let on = manager.get("/containers/box/json")?["NetworkSettings"]["Networks"]["net"].clone();
    assert_eq!(on["GlobalIPv6Address"], "fd00:66::77", "{on}");
    Ok(())
}

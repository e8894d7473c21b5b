//! The stock docker command line drives a cluster of three, and ours says the same in the same words.

use std::process::Output;

use anyhow::{Result, ensure};
use integration::{Agent, Cluster};

use crate::docker_cli::{Docker, clean};

/// Two command lines and what they say differently.
struct Pair<'a> {
    docker: Docker<'a>,
    agent: &'a Agent,
    differences: Vec<String>,
}

impl<'a> Pair<'a> {
    fn new(agent: &'a Agent) -> Result<Option<Self>> {
        let docker = Docker::new(agent)?;
        Ok(docker.map(|docker| Self {
            docker,
            agent,
            differences: Vec::new(),
        }))
    }

    /// Both print the same, on both channels, and end alike. `{}` in the words is `one` for docker and `two` for ours: what is
    /// made must not be there yet.
    fn same(&mut self, line: &str) -> Result<()> {
        let (first, second) = (line.replace("{}", "one"), line.replace("{}", "two"));
        let theirs = self.docker.output(&first.split(' ').collect::<Vec<_>>())?;
        let ours = self.agent.cli(&second.split(' ').collect::<Vec<_>>())?;
        let (theirs, mut ours) = (said(&theirs), said(&ours));
        if first != second {
            ours = ours.replace("-two", "-one");
        }
        if theirs != ours {
            self.differences
                .push(format!("==== {line}\n---- docker\n{theirs}\n---- ours\n{ours}\n"));
        }
        Ok(())
    }

    /// Both print the same lines from this one up to the next that is not below it.
    fn same_block(&mut self, words: &str, head: &str) -> Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        let block = |output: Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut lines = text.lines().skip_while(|line| !line.starts_with(head));
            let head = lines.next().unwrap_or_default().to_owned();
            let below: Vec<&str> = lines.take_while(|line| line.starts_with("  ")).collect();
            format!("{head}\n{}", below.join("\n"))
        };
        let (theirs, ours) = (
            block(self.docker.output(&words)?),
            block(self.agent.cli(&words[..])?),
        );
        ensure!(
            theirs.lines().count() > 1,
            "docker says nothing of {head}: {theirs}"
        );
        if theirs != ours {
            self.differences.push(format!(
                "==== {words:?}\n---- docker\n{theirs}\n---- ours\n{ours}\n"
            ));
        }
        Ok(())
    }

    fn all(&mut self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.same(line))
    }

    fn verdict(&self) -> Result<()> {
        ensure!(self.differences.is_empty(), "{}", self.differences.join("\n"));
        Ok(())
    }
}

/// All that was said, without what differs by its nature: identifiers, who says it, and how the program is called.
fn said(output: &Output) -> String {
    let channel = |bytes| {
        let text = clean(&String::from_utf8_lossy(bytes));
        let lines = text.lines().map(line);
        // For scripts docker says once more that something failed.
        lines
            .filter(|line| line != "exit status 1")
            .collect::<Vec<_>>()
            .join("\n")
    };
    let code = output.status.code();
    format!(
        "{}\nerr: {}\n{code:?}",
        channel(&output.stdout),
        channel(&output.stderr)
    )
}

fn line(line: &str) -> String {
    let mut line = line.to_owned();
    for who in ["Error response from daemon: ", "Error: ", "agent: "] {
        line = line.replace(who, "");
    }
    line = line.replace("docker swarm", "agent swarm");
    let is_id = |word: &str| word.len() == 25 && word.chars().all(|char| char.is_ascii_alphanumeric());
    line.split_inclusive(|char: char| !char.is_ascii_alphanumeric())
        .map(|part| {
            let word = part.trim_end_matches(|char: char| !char.is_ascii_alphanumeric());
            if is_id(word) {
                part.replace(word, "ID")
            } else {
                part.to_owned()
            }
        })
        .collect()
}

#[test]
fn docker_and_ours_say_the_same_of_nodes_and_of_the_swarm() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let Some(mut pair) = Pair::new(cluster.manager())? else {
        return Ok(());
    };
    pair.all(&[
        "node ls",
        "node ls --filter role=manager",
        "node ls --filter name=node2 -q",
        "node ls --format {{.Hostname}}:{{.Status}}:{{.TLSStatus}}:{{.EngineVersion}}:{{.Self}}",
        "node update --availability drain node2",
        "node update --availability active node2",
        "node update --label-add a=b node2",
        "node inspect --pretty node2",
        "node inspect -f {{.Spec.Labels}} node2",
        "node inspect nosuch",
        "node update --role nope node2",
        "node update --availability nope node2",
        "node demote nosuch",
        "node rm node3",
        "node rm nosuch",
        "node ps nosuch",
        "node ps",
        "swarm join-token worker",
        "swarm join-token -q manager",
        "swarm unlock-key",
        "swarm unlock",
        "swarm update --task-history-limit 4",
        "swarm update --cert-expiry 1m",
        "swarm ca",
        "swarm init",
        "swarm join --token x 10.99.0.1:2377",
        "swarm leave",
        "info -f {{.Swarm.LocalNodeState}}{{.Swarm.Nodes}}{{.Swarm.Managers}}",
    ])?;
    pair.same_block("info", " Swarm:")?;
    pair.docker.run(&["node", "promote", "node2"])?;
    pair.docker.run(&["node", "demote", "node2"])?;
    pair.verdict()?;

    let Some(mut worker) = Pair::new(cluster.worker())? else {
        return Ok(());
    };
    worker.all(&[
        "node ls",
        "service ls",
        "stack ls",
        "service create bb",
        "secret ls",
        "swarm join-token worker",
        "swarm unlock-key",
        "swarm ca",
        "info -f {{.Swarm.LocalNodeState}}{{.Swarm.ControlAvailable}}",
    ])?;
    worker.same_block("info", " Swarm:")?;
    worker.verdict()
}

#[test]
fn docker_and_ours_say_the_same_of_services_and_what_they_use() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    let Some(mut pair) = Pair::new(manager)? else {
        return Ok(());
    };
    let data = manager.host.directory().join("data");
    std::fs::write(&data, "x")?;
    for kind in ["secret", "config"] {
        pair.same(&format!("{kind} create -l a=b {kind}-{{}} {}", data.display()))?;
        pair.same(&format!("{kind} create {kind}-one {}", data.display()))?;
    }
    pair.all(&[
        "network create -d overlay --attachable net-{}",
        "network inspect -f {{.Driver}}{{.Attachable}}{{.Scope}} net-one",
        "network rm nosuch",
        "network create -d overlay net-one",
        "secret ls",
        "config ls",
        "secret inspect --pretty secret-one",
        "config inspect --pretty config-one",
        "secret rm nosuch",
        "config rm nosuch",
        "secret inspect nosuch",
        "service create -d --name web-{} --network net-one --secret secret-one --config config-one --replicas 2 bb sleep 1000",
        "service create --name web-one bb",
        "service create --name x --network nosuch bb",
        "service create --name x --constraint foo bb",
        "service create --name bad_name! bb",
        "secret rm secret-one",
        "config rm config-one",
        "network rm net-one",
        "service inspect --pretty web-one",
        "service inspect nosuch",
        "service scale -d web-{}=3",
        "service scale -d nosuch=3",
        "service update -d --env-add A=b --limit-memory 64m web-{}",
        "service rollback -d web-{}",
        "service update -d nosuch",
        "service rollback -d nosuch",
        "service update -d --image bb --label-add x=y web-{}",
        "service inspect --pretty web-one",
        "service logs nosuch",
        "service logs web-one",
        "service ps nosuch",
        "service rm nosuch",
    ])?;
    manager.wait_running("web-one", 3)?;
    manager.wait_running("web-two", 3)?;
    pair.all(&[
        "service ls",
        "service ls --filter name=web-one",
        "service ps web-one",
        "service ps --filter desired-state=running web-one",
        "service rm web-{}",
    ])?;
    pair.verdict()
}

#[test]
fn docker_and_ours_say_the_same_of_stacks() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    let Some(mut pair) = Pair::new(manager)? else {
        return Ok(());
    };
    let file = manager.host.directory().join("stack.yml");
    std::fs::write(
        &file,
        "services:\n  web:\n    image: bb\n    command: sleep 1000\n    networks: [back]\n    deploy: {replicas: 2}\n\
         networks:\n  back:\n    driver: overlay\n",
    )?;
    pair.same(&format!("stack deploy -d -c {} st-{{}}", file.display()))?;
    manager.wait_running("st-one_web", 2)?;
    manager.wait_running("st-two_web", 2)?;
    pair.all(&[
        "stack ls",
        "stack services st-one",
        "stack ps st-one --no-trunc",
        "stack ps nosuch",
        "stack services nosuch",
        "stack rm nosuch",
        "stack rm st-{}",
    ])?;
    pair.verdict()
}

//! What is secret stays secret: on the disk, in the words of every command, and while a manager is locked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::{Value, json};

/// The content of the secret in these tests; in base64 it begins with [`ENCODED`].
const CONTENT: &str = "geheim-0815-that-nobody-may-read";
/// As it travels in JSON.
const ENCODED: &str = "Z2VoZWltLTA4MTUtdGhhdC1ub2JvZHktbWF5LXJlYW";

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" \
                      to unlock it.";

/// A service of this many tasks that holds the secret.
fn serve(agent: &Agent, replicas: &str) -> Result<()> {
    let made = agent.cli_with(&["secret", "create", "pw", "-"], CONTENT)?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let secret = "source=pw,target=key,uid=7,gid=8,mode=0400";
    let words = [
        "service",
        "create",
        "-d",
        "--name",
        "keeper",
        "--replicas",
        replicas,
        "--secret",
        secret,
        "--stop-grace-period",
        "1s",
        "bb",
        "sleep",
        "1000",
    ];
    agent.cli_ok(&words).map(drop)
}

fn process(task: &Value) -> Result<i64> {
    task["Status"]["ContainerStatus"]["PID"]
        .as_i64()
        .with_context(|| format!("no process in {task}"))
}

fn is_alive(process: i64) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Every regular file below a folder that lies on the folder's own file system.
fn files(dir: &Path, device: u64, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        // What lives may go while it is looked at.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() && metadata.dev() == device {
            files(&path, device, found)?;
        } else if metadata.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Fails if the secret can be read anywhere in what the agent keeps, says, or shows of its processes.
fn assert_hidden(agent: &Agent) -> Result<()> {
    let mut places = Vec::new();
    for dir in [agent.root(), agent.run_dir()] {
        files(&dir, fs::metadata(&dir)?.dev(), &mut places)?;
    }
    ensure!(places.len() > 10, "only {places:?} were looked at");
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        places.extend(["cmdline", "environ"].map(|name| process.join(name)));
    }
    for place in places {
        let content = fs::read(&place).unwrap_or_default();
        for word in [CONTENT, ENCODED] {
            ensure!(!contains(&content, word), "{} shows the secret", place.display());
        }
    }
    let log = agent.log();
    let mut said = vec![log];
    let paths = [
        "/secrets",
        "/services",
        "/tasks",
        "/containers/json?all=1",
        "/info",
        "/swarm",
    ];
    for path in paths {
        // A worker says no more than that it is one.
        said.push(agent.ask("GET", path, None)?.text());
    }
    let containers = agent.get("/containers/json?all=1")?;
    for container in containers.as_array().into_iter().flatten() {
        let id = container["Id"].as_str().unwrap_or_default();
        said.push(agent.get(&format!("/containers/{id}/json"))?.to_string());
    }
    let inspected = agent.cli(&["secret", "inspect", "pw"])?;
    said.push(String::from_utf8_lossy(&inspected.stdout).into_owned());
    for text in said {
        ensure!(
            !text.contains(CONTENT) && !text.contains(ENCODED),
            "it is in {text}"
        );
    }
    Ok(())
}

/// The secret's files on a node.
fn kept(agent: &Agent) -> Result<Vec<PathBuf>> {
    let dir = agent.run_dir().join("files");
    let mut found = Vec::new();
    files(&dir, fs::metadata(&dir)?.dev(), &mut found)?;
    Ok(found)
}

#[test]
fn a_secret_is_in_memory_alone_and_goes_with_its_task() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    cluster.set_availability("node1", "drain")?;
    serve(cluster.manager(), "1")?;
    let tasks = cluster.wait_spread("keeper", &[0, 1])?;
    let (with, without) = (cluster.worker(), cluster.manager());

    let inside = format!("/proc/{}/root/run/secrets/key", process(&tasks[0])?);
    assert_eq!(fs::read_to_string(&inside)?, CONTENT);
    let metadata = fs::metadata(&inside)?;
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (7, 8, 0o400)
    );
    assert_eq!(kept(with)?.len(), 1);
    let dir = with.run_dir().join("files");
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts.lines().find(|line| line.contains(&*dir.to_string_lossy()));
    assert!(mount.is_some_and(|line| line.contains(" tmpfs ")), "{mount:?}");

    assert_eq!(kept(without)?.len(), 0, "the other node has no task");
    assert_hidden(with)?;
    assert_hidden(without)?;

    // A task that ends by itself stays in the list, and its secret does not.
    let shim = process(&tasks[0])?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(shim)?),
        nix::sys::signal::SIGKILL,
    )?;
    eventually("another task holds the secret, and it alone", || {
        let tasks = cluster.manager().running_tasks("keeper")?;
        ensure!(tasks.len() == 1 && process(&tasks[0])? != shim, "{tasks:?}");
        ensure!(kept(with)?.len() == 1, "{:?}", kept(with)?);
        Ok(())
    })?;
    cluster
        .manager()
        .cli_ok(&["service", "scale", "-d", "keeper=0"])?;
    eventually("nothing of the secret is left", || {
        ensure!(kept(with)?.is_empty(), "{:?}", kept(with)?);
        Ok(())
    })?;
    assert_hidden(with)
}

#[test]
fn a_locked_manager_says_so_and_its_containers_run_on() -> Result<()> {
    let mut agent = Agent::start()?;
    agent.build_busybox()?;
    let said = agent.cli_ok(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--autolock"])?;
    let first = agent.cli_ok(&["swarm", "unlock-key", "-q"])?.trim().to_owned();
    assert!(first.starts_with("SWMKEY-1-") && said.contains(&first), "{said}");
    serve(&agent, "1")?;
    let before = agent.wait_running("keeper", 1)?;
    let rotated = agent.cli_ok(&["swarm", "unlock-key", "--rotate"])?;
    let key = agent.cli_ok(&["swarm", "unlock-key", "-q"])?.trim().to_owned();
    assert!(rotated.contains("Successfully rotated manager unlock key.") && rotated.contains(&key));
    assert_ne!(first, key);
    assert!(
        !agent.get("/swarm")?.to_string().contains(&key),
        "inspecting shows the key"
    );
    assert_hidden(&agent)?;
    eventually("the new key is in force", || {
        let keys = fs::read_to_string(agent.root().join("swarm/raft/keys.json"))?;
        ensure!(!keys.contains("SWMKEY"), "the key lies beside");
        Ok(())
    })?;

    agent.stop()?;
    agent.run()?;
    assert_eq!(agent.get("/info")?["Swarm"]["LocalNodeState"], "locked");
    let refused = agent.cli(&["service", "ls"])?;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains(LOCKED),
        "{refused:?}"
    );
    assert!(is_alive(process(&before[0])?), "the container was stopped");
    assert_eq!(agent.get("/containers/json")?.as_array().map(Vec::len), Some(1));
    let left = agent.cli(&["swarm", "leave"])?;
    assert!(
        String::from_utf8_lossy(&left.stderr).contains("locked"),
        "{left:?}"
    );

    for wrong in [first.as_str(), "SWMKEY-1-rubbish", ""] {
        let answer = agent.cli_with(&["swarm", "unlock"], wrong)?;
        let words = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(
            !answer.status.success() && words.contains("invalid key provided"),
            "{words}"
        );
    }
    let answer = agent.cli_with(&["swarm", "unlock"], &format!("{key}\n"))?;
    ensure!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let after = agent.wait_running("keeper", 1)?;
    assert_eq!(process(&after[0])?, process(&before[0])?, "the task was replaced");
    let again = agent.cli_with(&["swarm", "unlock"], &key)?;
    assert!(String::from_utf8_lossy(&again.stderr).contains("swarm is not locked"));

    agent.cli_ok(&["swarm", "update", "--autolock=false"])?;
    let none = agent.cli(&["swarm", "unlock-key", "-q"])?;
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("no unlock key is set"),
        "{none:?}"
    );
    eventually("the manager opens by itself again", || {
        let keys = fs::read_to_string(agent.root().join("swarm/raft/keys.json"))?;
        ensure!(keys.contains("SWMKEY"), "it is still locked");
        Ok(())
    })?;
    agent.kill()?;
    agent.run()?;
    assert_eq!(agent.get("/info")?["Swarm"]["LocalNodeState"], "active");
    agent.wait_running("keeper", 1).map(drop)
}

#[test]
fn leaving_a_locked_swarm_needs_force_and_takes_everything_along() -> Result<()> {
    let mut agent = Agent::start()?;
    agent.build_busybox()?;
    let spec = json!({"EncryptionConfig": {"AutoLockManagers": true}});
    let body = json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "127.0.0.1", "Spec": spec});
    agent.post("/swarm/init", &body)?;
    serve(&agent, "1")?;
    agent.wait_running("keeper", 1)?;
    agent.kill()?;
    agent.run()?;
    assert_eq!(agent.ask("POST", "/swarm/leave", None)?.status, 503);
    agent.cli_ok(&["swarm", "leave", "--force"])?;
    assert_eq!(agent.get("/info")?["Swarm"]["LocalNodeState"], "inactive");
    eventually("the swarm's containers are gone", || {
        let listed = agent.get("/containers/json?all=1")?;
        ensure!(listed.as_array().is_some_and(Vec::is_empty), "{listed}");
        Ok(())
    })?;
    agent.post("/swarm/init", &body).map(drop)
}

#[test]
fn the_root_is_exchanged_and_no_container_notices() -> Result<()> {
    let mut cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    serve(cluster.manager(), "2")?;
    let before = cluster.manager().wait_running("keeper", 2)?;
    let (old, token) = (
        cluster.manager().cli_ok(&["swarm", "ca"])?,
        cluster.worker_token()?,
    );
    for (words, why) in [
        (
            "swarm ca --cert-expiry 2h",
            "`--cert-expiry` flag requires the `--rotate` flag",
        ),
        (
            "swarm ca --rotate --external-ca protocol=cfssl,url=https://x",
            "--external-ca is not supported",
        ),
        (
            "swarm init --external-ca protocol=cfssl,url=https://x",
            "--external-ca is not supported",
        ),
    ] {
        let refused = cluster.manager().cli(&words.split(' ').collect::<Vec<_>>())?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{words}: {said}");
    }

    let said = cluster.manager().cli_ok(&["swarm", "ca", "--rotate"])?;
    assert!(said.contains("desired root digest: sha256:"), "{said}");
    assert!(said.contains("rotated TLS certificates: 2/2 nodes"), "{said}");
    let new = cluster.manager().cli_ok(&["swarm", "ca"])?;
    assert!(new != old && said.ends_with(&new), "{said}");
    assert_ne!(token, cluster.worker_token()?);
    for node in &cluster.nodes {
        let kept = fs::read_to_string(node.root().join("swarm/certificates/swarm-root-ca.crt"))?;
        assert_eq!(kept.trim(), new.trim());
    }
    let swarm = cluster.manager().get("/swarm")?;
    assert!(!swarm.to_string().contains("PRIVATE"), "{swarm}");
    assert_eq!(swarm["RootRotationInProgress"], false);

    // Who starts again finds its managers under the new root.
    cluster.worker_mut().kill()?;
    cluster.worker_mut().run()?;
    cluster.nodes[0].kill()?;
    cluster.nodes[0].run()?;
    for name in ["node1", "node2"] {
        cluster.wait_state(name, "ready")?;
    }
    let after = cluster.manager().wait_running("keeper", 2)?;
    let processes = |tasks: &[Value]| -> Result<Vec<i64>> {
        let mut processes: Vec<_> = tasks.iter().map(process).collect::<Result<_>>()?;
        processes.sort_unstable();
        Ok(processes)
    };
    assert_eq!(processes(&before)?, processes(&after)?);
    Ok(())
}

#[test]
fn settings_are_acted_on_and_addresses_may_be_interfaces() -> Result<()> {
    let cluster = Cluster::new(1)?;
    let agent = cluster.manager();
    let words = "swarm init --advertise-addr eth0 --listen-addr eth0:2377 --cert-expiry 3h --dispatcher-heartbeat 2s \
                 --max-snapshots 2 --snapshot-interval 50 --task-history-limit 3 --data-path-port 5000";
    agent.cli_ok(
        &words
            .split(' ')
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>(),
    )?;
    let swarm = agent.get("/swarm")?;
    assert_eq!(agent.get("/info")?["Swarm"]["NodeAddr"], "10.99.0.1");
    let spec = &swarm["Spec"];
    assert_eq!(spec["CAConfig"]["NodeCertExpiry"], 10_800_000_000_000_i64);
    assert_eq!(spec["Dispatcher"]["HeartbeatPeriod"], 2_000_000_000_i64);
    let raft = &spec["Raft"];
    assert_eq!(
        (&raft["KeepOldSnapshots"], &raft["SnapshotInterval"]),
        (&json!(2), &json!(50))
    );
    assert_eq!(spec["Orchestration"]["TaskHistoryRetentionLimit"], 3);
    assert_eq!(swarm["DataPathPort"], 5000);
    let info = agent.cli_ok(&["info"])?;
    assert!(info.contains("  Data Path Port: 5000\n"), "{info}");
    agent.cli_ok(&["swarm", "update", "--snapshot-interval", "5"])?;
    eventually("snapshots are made and kept", || {
        agent.cli_ok(&["node", "update", "--label-add", "a=b", "node1"])?;
        agent.cli_ok(&["node", "update", "--label-rm", "a", "node1"])?;
        let names = fs::read_dir(agent.root().join("swarm/raft"))?;
        let names: Vec<_> = names.map(|name| Ok(name?.file_name())).collect::<Result<_>>()?;
        let snapshots = names
            .iter()
            .filter(|name| name.to_string_lossy().starts_with("snapshot"));
        ensure!(snapshots.count() == 3, "{names:?}");
        Ok(())
    })?;
    agent.cli_ok(&["swarm", "leave", "--force"])?;
    for (words, why) in [
        (
            "swarm init --advertise-addr nosuch0",
            "interface nosuch0: no such interface",
        ),
        (
            "swarm init --advertise-addr eth0 --data-path-addr nosuch0",
            "interface nosuch0: no such interface",
        ),
        (
            "swarm init --data-path-addr 10.99.0.1:4789",
            "data path address must be a non-zero IP address or network interface (without a port number)",
        ),
        ("swarm init --data-path-addr 0.0.0.0", "non-zero IP address"),
        (
            "swarm init --data-path-addr 10.99.0.77",
            "data path address 10.99.0.77 is no address of this host",
        ),
        ("swarm init --data-path-port 1023", "between 1024 and 49151"),
        ("swarm init --data-path-port 49152", "between 1024 and 49151"),
    ] {
        let refused = agent.cli(&words.split(' ').collect::<Vec<_>>())?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{words}: {said}");
    }
    Ok(())
}

#[test]
fn the_data_path_may_have_an_address_of_its_own_and_changes_of_it_are_told() -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    for (number, node) in cluster.nodes.iter().enumerate() {
        node.host
            .ip(&format!("address add 10.98.0.{}/24 dev eth0", number + 1))?;
    }
    let manager = cluster.manager();
    manager.cli_ok(&[
        "swarm",
        "init",
        "--advertise-addr",
        "10.99.0.1",
        "--data-path-addr",
        "10.98.0.1",
    ])?;
    assert_eq!(manager.get("/swarm")?["DataPathPort"], 4789);
    let token = cluster.worker_token()?;
    let join = ["swarm", "join", "--token", &token, "--data-path-addr"];
    let join = |address: &'static str| [&join[..], &[address, "10.99.0.1:2377"]].concat();
    let refused = cluster.worker().cli(&join("10.98.0.1"))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("10.98.0.1 is no address of this host"),
        "{said}"
    );
    cluster.worker().cli_ok(&join("10.98.0.2"))?;
    let path = |node: &str| Ok::<_, anyhow::Error>(cluster.node(node)?["Description"]["DataPath"].clone());
    for (node, address) in [("node1", "10.98.0.1"), ("node2", "10.98.0.2")] {
        eventually("the node has said how it is reached", || {
            let path = path(node)?;
            ensure!(
                path["Addr"] == address && path["Mtu"] == 1500 && path["Forwards"] == true,
                "{path}"
            );
            Ok(())
        })?;
    }
    cluster.worker().host.ip("link set eth0 mtu 1400")?;
    eventually("the new size is told", || {
        let path = path("node2")?;
        ensure!(path["Mtu"] == 1400, "{path}");
        Ok(())
    })?;
    cluster.worker_mut().kill()?;
    cluster.worker().host.ip("link set eth0 mtu 1300")?;
    cluster.worker_mut().run()?;
    eventually("the address outlives the agent", || {
        let path = cluster.node("node2")?["Description"]["DataPath"].clone();
        ensure!(path["Mtu"] == 1300 && path["Addr"] == "10.98.0.2", "{path}");
        Ok(())
    })?;
    cluster.worker().cli_ok(&["swarm", "leave"])?;
    ensure!(!cluster.worker().root().join("swarm/data-path-addr").exists());
    Ok(())
}

//! Single containers, by the command line and by the API.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use integration::{Agent, eventually, http};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// Open files that an agent of a test is started with; below what machines usually allow at most.
const SOFT_LIMIT: u64 = 1000;

fn agent() -> Result<Agent> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    Ok(agent)
}

#[test]
fn run_gives_output_and_exit_code() -> Result<()> {
    let agent = agent()?;
    assert_eq!(agent.cli_ok(&["run", "--rm", "bb", "echo", "hello"])?, "hello\n");
    for (words, code) in [
        (&["sh", "-c", "exit 3"][..], 3),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = agent.cli(&[&["run", "--rm", "bb"], words].concat())?;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let left = agent.get("/containers/json?all=1")?;
    assert_eq!(left, json!([]), "--rm removes");
    Ok(())
}

#[test]
fn a_container_is_alone_and_limited() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, SOFT_LIMIT, hard)?;
    let agent = agent()?;
    let script =
        "hostname; id -u; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; ls /sys/class/net | tr '\\n' ' '";
    let shown = agent.cli_ok(&[
        "run",
        "--rm",
        "--hostname",
        "lonely",
        "-u",
        "app",
        "bb",
        "sh",
        "-c",
        script,
    ])?;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(&lines[..3], ["lonely", "1000", "sh"], "{shown}");
    assert!(lines[3].parse::<u32>()? < 8, "only its own processes: {shown}");
    // Writes go to its own top and nowhere else.
    agent.cli_ok(&["run", "--name", "writer", "bb", "sh", "-c", "echo x > /new"])?;
    let other = agent.cli(&["run", "--rm", "bb", "cat", "/new"])?;
    assert!(!other.status.success());
    let read_only = agent.cli(&["run", "--rm", "--read-only", "bb", "touch", "/x"])?;
    assert!(String::from_utf8_lossy(&read_only.stderr).contains("Read-only file system"));
    // The daemon raises its limit of open files; containers begin with the one that it was started with.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid().context("a pid")?))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line
        .context("a limit of open files")?
        .split_whitespace()
        .collect();
    assert!(
        words[3] == words[4] && words[3] != SOFT_LIMIT.to_string(),
        "{words:?}"
    );
    let files = agent.cli_ok(&["run", "--rm", "bb", "sh", "-c", "ulimit -n"])?;
    assert_eq!(files.trim(), SOFT_LIMIT.to_string());
    // A limit that bites: the memory of dd's buffer does not fit.
    let big = agent.cli(&[
        "run",
        "--rm",
        "-m",
        "16m",
        "bb",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64M",
        "count=1",
    ])?;
    assert_eq!(big.status.code(), Some(137));
    Ok(())
}

#[test]
fn groups_capabilities_and_masks_are_docker_s() -> Result<()> {
    let agent = agent()?;
    let status = agent.cli_ok(&[
        "run",
        "--rm",
        "bb",
        "grep",
        "-E",
        "Cap(Eff|Inh|Amb)|NoNewPrivs|Seccomp:",
        "/proc/self/status",
    ])?;
    for line in [
        "CapInh:\t0000000000000000",
        "CapEff:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    let id = agent.cli_ok(&["run", "--rm", "-u", "app", "bb", "id"])?;
    assert_eq!(
        id.trim(),
        "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"
    );
    let masked = agent.cli(&[
        "run",
        "--rm",
        "bb",
        "sh",
        "-c",
        "cat /proc/kcore | wc -c; echo 1 > /proc/sys/kernel/printk",
    ])?;
    assert!(String::from_utf8_lossy(&masked.stdout).starts_with('0'));
    assert!(String::from_utf8_lossy(&masked.stderr).contains("Read-only file system"));
    Ok(())
}

#[test]
fn exec_logs_top_and_stop() -> Result<()> {
    let agent = agent()?;
    let script = "trap 'echo bye; exit 7' TERM; echo up; echo oops >&2; while :; do sleep 0.1; done";
    agent.cli_ok(&["run", "-d", "--name", "box", "bb", "sh", "-c", script])?;
    eventually("the container speaks", || {
        let output = agent.cli(&["logs", "box"])?;
        ensure!(
            output.stdout == b"up\n" && output.stderr == b"oops\n",
            "{output:?}"
        );
        Ok(())
    })?;
    assert_eq!(
        agent.cli_ok(&[
            "exec",
            "-e",
            "A=b",
            "-w",
            "/etc",
            "box",
            "sh",
            "-c",
            "echo $A; pwd"
        ])?,
        "b\n/etc\n"
    );
    assert_eq!(
        agent.cli(&["exec", "box", "sh", "-c", "exit 9"])?.status.code(),
        Some(9)
    );
    assert!(agent.cli_ok(&["top", "box"])?.contains("sh -c trap"));
    let listed = agent.cli_ok(&["ps"])?;
    assert!(
        listed.starts_with("CONTAINER ID") && listed.contains("Up ") && listed.contains("box"),
        "{listed}"
    );
    agent.cli_ok(&["stop", "box"])?;
    let inspected = agent.get("/containers/box/json")?;
    assert_eq!(
        (&inspected["State"]["Status"], &inspected["State"]["ExitCode"]),
        (&json!("exited"), &json!(7))
    );
    assert!(
        String::from_utf8(agent.cli(&["logs", "-t", "box"])?.stdout)?
            .lines()
            .all(|line| line.starts_with("20"))
    );
    assert_eq!(agent.cli_ok(&["wait", "box"])?, "7\n");
    // Started again, it is the same container with the same files.
    agent.cli_ok(&["start", "box"])?;
    agent.cli_ok(&["kill", "box"])?;
    assert_eq!(agent.cli_ok(&["wait", "box"])?, "137\n");
    agent.cli_ok(&["rm", "box"])?;
    assert!(agent.cli(&["inspect", "box"])?.status.code() == Some(1));
    Ok(())
}

#[test]
fn volumes_keep_what_is_written_and_begin_with_the_image_s_files() -> Result<()> {
    let agent = agent()?;
    let context = integration::image::busybox("COPY seed /data/\nVOLUME /data")?;
    let mut tar = tar_with(&context, "seed/first", b"from the image")?;
    agent.build("seeded", &std::mem::take(&mut tar))?;
    agent.cli_ok(&["volume", "create", "keep"])?;
    let read =
        |script: &str| agent.cli_ok(&["run", "--rm", "-v", "keep:/data", "seeded", "sh", "-c", script]);
    assert_eq!(
        read("cat /data/first; echo more > /data/second")?,
        "from the image"
    );
    assert_eq!(read("cat /data/second; echo changed > /data/first")?, "more\n");
    assert_eq!(read("cat /data/first")?, "changed\n", "copied up once only");
    let denied = agent.cli(&["run", "--rm", "-v", "keep:/data:ro", "seeded", "touch", "/data/x"])?;
    assert!(String::from_utf8_lossy(&denied.stderr).contains("Read-only"));
    let host = agent.host.directory().join("bound");
    std::fs::create_dir(&host)?;
    let bind = format!("{}:/mnt", host.display());
    agent.cli_ok(&[
        "run",
        "--rm",
        "-v",
        &bind,
        "--mount",
        "type=tmpfs,target=/scratch",
        "bb",
        "sh",
        "-c",
        "echo b > /mnt/f; touch /scratch/x",
    ])?;
    assert_eq!(std::fs::read_to_string(host.join("f"))?, "b\n");
    agent.cli_ok(&["volume", "rm", "keep"])?;
    Ok(())
}

fn tar_with(context: &[u8], name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut archive = integration::image::reopen(context)?;
    integration::image::add(&mut archive, name, content)?;
    Ok(archive.into_inner()?)
}

#[test]
fn networks_join_containers_by_name_and_keep_others_out() -> Result<()> {
    let agent = agent()?;
    agent.cli_ok(&["network", "create", "one"])?;
    agent.cli_ok(&["network", "create", "two"])?;
    let serve = "mkdir /www; echo found > /www/index.html; httpd -f -p 80 -h /www";
    agent.cli_ok(&[
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "one",
        "-p",
        "8088:80",
        "bb",
        "sh",
        "-c",
        serve,
    ])?;
    let fetch = |network: &str, host: &str| {
        agent.cli(&[
            "run",
            "--rm",
            "--network",
            network,
            "bb",
            "sh",
            "-c",
            // Not as process 1, which no signal of `timeout` would end.
            &format!("timeout 3 wget -q -O - http://{host}/; exit $?"),
        ])
    };
    eventually("the server is found by name", || {
        let output = fetch("one", "server")?;
        ensure!(output.stdout == b"found\n", "{output:?}");
        Ok(())
    })?;
    assert!(
        !fetch("two", "server")?.status.success(),
        "another network does not know the name"
    );
    let address =
        agent.get("/containers/server/json")?["NetworkSettings"]["Networks"]["one"]["IPAddress"].clone();
    let address = address.as_str().context("an address")?;
    assert!(
        !fetch("two", address)?.status.success(),
        "nor is the address reached from there"
    );
    // Published: from the node itself.
    assert_eq!(agent.host.get("127.0.0.1:8088", "/index.html")?, "found\n");
    agent.cli_ok(&["rm", "-f", "server"])?;
    agent.cli_ok(&["network", "rm", "one", "two"])?;
    Ok(())
}

#[test]
fn wait_answers_its_head_at_once_and_events_tell_everything() -> Result<()> {
    let agent = agent()?;
    let mut events = http::open(&agent.socket(), "GET", "/events", &[], &[])?;
    let body = json!({"Image": "bb", "Cmd": ["sh", "-c", "sleep 0.3; exit 4"]});
    let id = agent.post("/containers/create?name=brief", &body)?["Id"]
        .as_str()
        .context("an id")?
        .to_owned();
    // Were the head not flushed, this would wait for a container that nobody has started.
    let wait = http::open(
        &agent.socket(),
        "POST",
        &format!("/containers/{id}/wait?condition=next-exit"),
        &[],
        &[],
    )?;
    assert_eq!(wait.status, 200);
    agent.post(&format!("/containers/{id}/start"), &json!(null))?;
    assert_eq!(wait.finish()?.json()?["StatusCode"], 4);
    let mut seen = Vec::new();
    while !seen.iter().any(|action| action == "die") {
        let line = events.line()?;
        if let Ok(event) = serde_json::from_str::<serde_json::Value>(&line)
            && event["Type"] == "container"
        {
            seen.push(event["Action"].as_str().unwrap_or_default().to_owned());
        }
    }
    for action in ["create", "start", "die"] {
        assert!(seen.iter().any(|known| known == action), "{action} in {seen:?}");
    }
    let again = agent.ask("POST", &format!("/containers/{id}/stop"), None)?;
    assert_eq!(again.status, 304, "a stopped container is stopped");
    Ok(())
}

#[test]
fn stdin_goes_in_and_its_end_too() -> Result<()> {
    use std::io::{Read, Write};
    let agent = agent()?;
    let body = json!({"Image": "bb", "Cmd": ["wc", "-c"], "OpenStdin": true, "StdinOnce": true, "AttachStdin": true,
        "AttachStdout": true});
    let id = agent.post("/containers/create", &body)?["Id"]
        .as_str()
        .context("an id")?
        .to_owned();
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
    let headers = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
    let mut stream = http::open(&agent.socket(), "POST", &path, &headers, &[])?;
    assert_eq!(stream.status, 101);
    agent.post(&format!("/containers/{id}/start"), &json!(null))?;
    let connection = stream.connection();
    connection.write_all(&[b'x'; 100_000])?;
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut output = Vec::new();
    connection.read_to_end(&mut output)?;
    assert!(
        output.ends_with(b"100000\n"),
        "{}",
        String::from_utf8_lossy(&output)
    );
    assert_eq!(&output[..4], [1, 0, 0, 0], "a frame of standard output");
    Ok(())
}

#[test]
fn privileged_and_host_ipc_start_on_any_machine() -> Result<()> {
    let agent = agent()?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own
        .lines()
        .find(|line| line.starts_with("CapBnd"))
        .context("CapBnd")?;
    let status = agent.cli_ok(&[
        "run",
        "--rm",
        "--privileged",
        "bb",
        "grep",
        "CapBnd",
        "/proc/self/status",
    ])?;
    assert_eq!(status.trim(), own, "all that the agent has itself");
    agent.cli_ok(&["run", "--rm", "--ipc", "host", "bb", "ls", "/dev/mqueue"])?;
    Ok(())
}

#[test]
fn detach_keys_let_the_client_go_and_nothing_else() -> Result<()> {
    let agent = agent()?;
    agent.cli_ok(&["run", "-d", "-i", "-t", "--name", "shell", "bb", "sh"])?;
    for (keys, pressed) in [("", &b"echo one\n\x10\x11"[..]), ("?detachKeys=ctrl-a", b"\x01")] {
        let sign = if keys.is_empty() { '?' } else { '&' };
        let path = format!("/containers/shell/attach{keys}{sign}stream=1&stdin=1&stdout=1");
        let headers = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
        let mut stream = http::open(&agent.socket(), "POST", &path, &headers, b"")?;
        stream.connection().write_all(pressed)?;
        stream.rest()?;
        let state = agent.get("/containers/shell/json")?["State"]["Running"].clone();
        assert_eq!(state, true, "{path}");
    }
    let refused = agent.ask(
        "POST",
        "/containers/shell/attach?detachKeys=ctrl-1&stream=1",
        None,
    )?;
    assert_eq!(refused.status, 400, "{}", refused.text());
    Ok(())
}

#[test]
fn what_is_not_acted_on_is_refused_or_said() -> Result<()> {
    let agent = agent()?;
    let create = |more: serde_json::Value| {
        let mut body = json!({"Image": "bb"});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        agent.ask("POST", "/containers/create", Some(&body))
    };
    let mixed = json!({"Type": "volume", "Source": "v", "Target": "/v", "TmpfsOptions": {"SizeBytes": 1}});
    for (more, named) in [
        (json!({"HostConfig": {"Mounts": [mixed]}}), "TmpfsOptions"),
        (
            json!({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"GwPriority": 1}}}}),
            "GwPriority",
        ),
        (json!({"HostConfig": {"Init": true}}), "Init"),
        (json!({"HostConfig": {"VolumesFrom": ["x"]}}), "VolumesFrom"),
    ] {
        let answer = create(more)?;
        assert!(
            answer.status >= 400 && answer.text().contains(named),
            "{named}: {}",
            answer.text()
        );
    }
    let ports = json!({"80/tcp": [{"HostPort": "80"}]});
    let created = create(json!({"HostConfig": {"NetworkMode": "host", "PortBindings": ports}}))?;
    assert!(
        created.text().contains("Published ports are discarded"),
        "{}",
        created.text()
    );
    let pulled = agent.ask("POST", "/images/create?fromImage=bb&tag=latest", None)?;
    assert!(
        pulled.status >= 400,
        "nobody has asked the registry: {}",
        pulled.text()
    );
    // The reason of a refusal is heard by a client that is still sending.
    let context = vec![0; 8 << 20];
    for parameter in [
        "pull=1",
        "memory=10000000",
        "networkmode=host",
        "cachefrom=%5B%22x%22%5D",
    ] {
        let headers = [("Content-Type", "application/x-tar")];
        let path = format!("/build?{parameter}");
        let answer = http::open(&agent.socket(), "POST", &path, &headers, &context)?.finish()?;
        assert!(
            answer.text().contains("--"),
            "{parameter}: {} {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

#[test]
fn contexts_come_as_the_user_has_them() -> Result<()> {
    let agent = agent()?;
    let folder = agent.host.directory().join("context");
    std::fs::create_dir_all(folder.join("kept"))?;
    std::fs::write(folder.join("kept/file"), "kept")?;
    std::fs::write(folder.join("secret"), "secret")?;
    std::fs::write(folder.join(".dockerignore"), "*\n!kept\n")?;
    std::fs::write(folder.join("Dockerfile"), "FROM bb\nCOPY . /context/\n")?;
    let folder = folder.to_str().context("a path")?;
    agent.cli_ok(&["build", "-t", "one", folder])?;
    let seen = agent.cli_ok(&["run", "--rm", "one", "ls", "-A", "/context"])?;
    assert_eq!(seen, "kept\n");
    let output = agent.cli(&["build", "/no/such/folder"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("/no/such/folder not found"),
        "{said}"
    );
    assert_eq!(
        agent.cli_ok(&["image", "inspect", "-f", "{{json .RepoTags}}", "one"])?,
        "[\"one:latest\"]\n"
    );
    Ok(())
}

//! `run` of a container.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use serde_json::{Value, json};

use super::client::{ApiError, Client, query};
use super::container::{flag, text};
use super::health::HealthFlags;
use super::networks;
use super::ports;
use super::run_more::MoreFlags;
use super::service_spec::words::environment;
use super::terminal::{self, Ended};
use crate::compose;

/// Flags of a container, as `docker run` has them.
#[derive(Debug, Args)]
pub(crate) struct ContainerFlags {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Assign a name to the container
    #[arg(long)]
    name: Option<String>,
    /// Publish a container's port(s) to the host
    #[arg(short, long)]
    publish: Vec<String>,
    /// Bind mount a volume
    #[arg(short, long)]
    volume: Vec<String>,
    /// Attach a filesystem mount to the container
    #[arg(long)]
    mount: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Set environment variables
    #[arg(short, long)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    env_file: Vec<String>,
    /// Connect a container to a network
    #[arg(long, visible_alias = "net")]
    network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long)]
    network_alias: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    entrypoint: Option<String>,
    /// Set meta data on a container
    #[arg(short, long)]
    label: Vec<String>,
    /// Restart policy to apply when a container exits
    #[arg(long, default_value = "no")]
    restart: String,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Memory limit
    #[arg(short, long)]
    memory: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    cpus: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Add Linux capabilities
    #[arg(long)]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    cap_drop: Vec<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    privileged: bool,
    /// Security Options
    #[arg(long)]
    security_opt: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long)]
    add_host: Vec<String>,
    /// Set custom DNS servers
    #[arg(long)]
    dns: Vec<String>,
    /// Sysctl options
    #[arg(long)]
    sysctl: Vec<String>,
    /// Signal to stop the container
    #[arg(long)]
    stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long)]
    stop_timeout: Option<i64>,
    #[command(flatten)]
    health: HealthFlags,
    /// Logging driver for the container
    #[arg(long)]
    log_driver: Option<String>,
    /// Log driver options
    #[arg(long)]
    log_opt: Vec<String>,
    #[command(flatten)]
    more: MoreFlags,
    /// Print usage
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Creates, starts and, unless it is detached, follows a container. The process ends with the container's exit code, or with
/// 125 for what never came to be one.
pub(crate) async fn run(
    client: &Client,
    flags: ContainerFlags,
    image: String,
    command: Vec<String>,
) -> Result<()> {
    create_and_follow(client, flags, image, command)
        .await
        .map_err(super::refused_flags)
}

async fn create_and_follow(
    client: &Client,
    flags: ContainerFlags,
    image: String,
    command: Vec<String>,
) -> Result<()> {
    terminal::require(flags.tty, flags.interactive && !flags.detach)?;
    let body = create_body(&flags, image, command)?;
    let id = created(client, &flags, &body).await.map_err(refused)?;
    if flags.detach {
        client
            .act(&format!("/containers/{id}/start"))
            .await
            .map_err(refused)?;
        println!("{id}");
        return Ok(());
    }
    let code = follow(client, &id, &flags).await?;
    if code != 0 {
        Err(super::Silent(code).into())
    } else {
        Ok(())
    }
}

/// Creates a container and prints its ID; what the daemon refuses ends with 1, unlike in [`run`].
pub(crate) async fn create(
    client: &Client,
    flags: ContainerFlags,
    image: String,
    command: Vec<String>,
) -> Result<()> {
    if flags.detach {
        let error = anyhow::anyhow!("unknown flag: --detach: a container that is only created runs nowhere");
        return Err(super::refused_flags(error));
    }
    let body = create_body(&flags, image, command).map_err(super::refused_flags)?;
    println!("{}", created(client, &flags, &body).await?);
    Ok(())
}

async fn created(client: &Client, flags: &ContainerFlags, body: &Value) -> Result<String> {
    let query = query(&[
        ("name", flags.name.as_deref().unwrap_or_default()),
        ("platform", flags.more.platform.as_deref().unwrap_or_default()),
    ]);
    let created = client.post(&format!("/containers/create{query}"), body).await?;
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", text(warning));
    }
    let id = text(&created["Id"]);
    if let Some(file) = &flags.more.cidfile {
        let written = std::fs::File::create_new(file).and_then(|mut to| to.write_all(id.as_bytes()));
        if let Err(error) = written {
            // Nobody will know the container by the name of a file that is not there.
            let _ = client.delete(&format!("/containers/{id}?force=1&v=1")).await;
            bail!("container ID file {file}: {error}");
        }
    }
    Ok(id)
}

/// How a container's streams are joined with those of this program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    pub(crate) interactive: bool,
    pub(crate) tty: bool,
    /// The container is removed at its end.
    pub(crate) removed: bool,
    /// It runs already.
    pub(crate) running: bool,
}

async fn follow(client: &Client, id: &str, flags: &ContainerFlags) -> Result<i32> {
    let joined = Joined {
        interactive: flags.interactive,
        tty: flags.tty,
        removed: flags.rm,
        running: false,
    };
    join(client, id, joined).await
}

/// Attaches before the start, so that no byte is missed, and asks for the exit code before it can be there.
pub(crate) async fn join(client: &Client, id: &str, joined: Joined) -> Result<i32> {
    let Joined {
        interactive,
        tty,
        removed,
        running,
    } = joined;
    let attach = query(&[
        ("stream", "1"),
        ("stdout", "1"),
        ("stderr", "1"),
        ("stdin", flag(interactive)),
    ]);
    let stream = client
        .hijack(&format!("/containers/{id}/attach{attach}"), &Value::Null)
        .await?;
    let condition = match (removed, running) {
        (true, _) => "removed",
        (false, false) => "next-exit",
        (false, true) => "not-running",
    };
    let waiting = tokio::spawn({
        let (client, path) = (
            client.clone(),
            format!("/containers/{id}/wait?condition={condition}"),
        );
        async move { client.act(&path).await }
    });
    if !running && let Err(error) = client.act(&format!("/containers/{id}/start")).await {
        if removed {
            let _ = client.delete(&format!("/containers/{id}?force=1&v=1")).await;
        }
        return Err(refused(error));
    }
    let raw = (tty && interactive).then(terminal::Raw::enter).transpose()?;
    if tty {
        terminal::follow_size(client.clone(), format!("/containers/{id}"));
    } else {
        pass_signals(client.clone(), id.to_owned());
    }
    let ended = terminal::converse(stream, interactive, tty).await?;
    drop(raw);
    if ended == Ended::Detached {
        return Ok(0);
    }
    let answer = waiting.await??;
    if let Some(message) = answer["Error"]["Message"].as_str() {
        bail!("{message}");
    }
    Ok(i32::try_from(answer["StatusCode"].as_i64().unwrap_or_default()).unwrap_or(255))
}

/// Signals that end this program are the container's to answer.
fn pass_signals(client: Client, id: String) {
    use tokio::signal::unix::{SignalKind, signal};
    for (kind, name) in [
        (SignalKind::interrupt(), "INT"),
        (SignalKind::terminate(), "TERM"),
    ] {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move {
            let Ok(mut signals) = signal(kind) else { return };
            while signals.recv().await.is_some() {
                let _ = client.act(&format!("/containers/{id}/kill?signal={name}")).await;
            }
        });
    }
}

/// Docker's exit codes: 125 for what the daemon refuses, 126 and 127 for what cannot be run.
pub(crate) fn refused(error: anyhow::Error) -> anyhow::Error {
    let Some(api) = error.downcast_ref::<ApiError>() else {
        return error;
    };
    let code = if api.message.contains("executable file not found")
        || api.message.contains("no such file or directory")
    {
        127
    } else if api.message.contains("permission denied") {
        126
    } else {
        125
    };
    eprintln!("agent: {}", api.message);
    super::Silent(code).into()
}

fn create_body(flags: &ContainerFlags, image: String, command: Vec<String>) -> Result<Value> {
    let (mut exposed, bindings) = ports::published(&flags.publish)?;
    for word in &flags.more.expose {
        for port in ports::exposed(word)? {
            exposed[port] = json!({});
        }
    }
    let (network, endpoints) = networks::endpoints(
        &flags.network,
        networks::First {
            aliases: &flags.network_alias,
            mac: flags.more.mac_address.as_deref(),
            ip: flags.more.ip.as_deref(),
            ip6: flags.more.ip6.as_deref(),
        },
    )?;
    let mut host = host_config(flags, &network, &bindings)?;
    flags.more.add_to(&mut host)?;
    let mut health = None;
    flags.health.apply(&mut health)?;
    Ok(json!({
        "Image": image,
        "Cmd": optional(&command),
        "Entrypoint": flags.entrypoint.as_ref().map(|word| vec![word]),
        "Hostname": flags.hostname.clone().unwrap_or_default(),
        "Domainname": flags.more.domainname.clone().unwrap_or_default(),
        "User": flags.user.clone().unwrap_or_default(),
        "WorkingDir": flags.workdir.clone().unwrap_or_default(),
        "Env": environment(&flags.env, &flags.env_file)?,
        "Labels": labels(&flags.label),
        "Tty": flags.tty,
        "OpenStdin": flags.interactive,
        "StdinOnce": flags.interactive && !flags.detach,
        "AttachStdin": flags.interactive && !flags.detach,
        "AttachStdout": !flags.detach,
        "AttachStderr": !flags.detach,
        "ExposedPorts": exposed,
        "StopSignal": flags.stop_signal,
        "StopTimeout": flags.stop_timeout,
        "Healthcheck": health,
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }))
}

fn host_config(flags: &ContainerFlags, network: &str, bindings: &Value) -> Result<Value> {
    let unit = |word: &Option<String>, read: fn(&str) -> Result<i64, String>| -> Result<i64> {
        word.as_deref()
            .map_or(Ok(0), |word| read(word).map_err(anyhow::Error::msg))
    };
    let (policy, attempts) = flags.restart.split_once(':').unwrap_or((&flags.restart, "0"));
    let console = terminal::size()
        .filter(|_| flags.tty)
        .map(|(rows, columns)| [rows, columns]);
    Ok(json!({
        "Binds": flags.volume.iter().map(|volume| bind(volume)).collect::<Result<Vec<_>>>()?,
        "Mounts": flags.mount.iter().map(|mount| long_mount(mount)).collect::<Result<Vec<_>>>()?,
        "Tmpfs": tmpfs(&flags.tmpfs),
        "PortBindings": bindings,
        "NetworkMode": network,
        "AutoRemove": flags.rm,
        "ReadonlyRootfs": flags.read_only,
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": attempts.parse::<i64>().context("restart attempts")?},
        "Memory": unit(&flags.memory, compose::bytes)?,
        "NanoCpus": unit(&flags.cpus, compose::nano_cpus)?,
        "PidsLimit": flags.pids_limit,
        "CapAdd": optional(&flags.cap_add),
        "CapDrop": optional(&flags.cap_drop),
        "Privileged": flags.privileged,
        "SecurityOpt": optional(&flags.security_opt),
        "ExtraHosts": optional(&flags.add_host),
        "Dns": flags.dns,
        "Sysctls": labels(&flags.sysctl),
        "LogConfig": {"Type": flags.log_driver.clone().unwrap_or_default(), "Config": labels(&flags.log_opt)},
        "ConsoleSize": console,
    }))
}

fn optional(words: &[String]) -> Option<&[String]> {
    (!words.is_empty()).then_some(words)
}

/// `KEY=value` words as a map.
pub(crate) fn labels(words: &[String]) -> BTreeMap<String, String> {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    words.iter().map(pair).collect()
}

/// `-v` words, a relative source starting here.
fn bind(word: &str) -> Result<String> {
    match word.split_once(':') {
        Some((source, rest)) if source.starts_with(['.', '~']) => {
            let here = std::env::current_dir()?;
            let source = compose::host_path(source, &here).map_err(anyhow::Error::msg)?;
            Ok(format!("{source}:{rest}"))
        }
        _ => Ok(word.to_owned()),
    }
}

/// `--mount type=volume,source=data,target=/data,readonly`
pub(crate) fn long_mount(word: &str) -> Result<Value> {
    let mut mount = json!({"Type": "volume"});
    for part in word.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => mount["Type"] = json!(value),
            "source" | "src" => mount["Source"] = json!(value),
            "target" | "destination" | "dst" => mount["Target"] = json!(value),
            "readonly" | "ro" => mount["ReadOnly"] = json!(value != "false"),
            "consistency" => mount["Consistency"] = json!(value),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(value),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(value != "false"),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
            "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["DriverConfig"]["Options"][name] = json!(value);
            }
            "tmpfs-size" => {
                let size = compose::bytes(value).map_err(anyhow::Error::msg)?;
                mount["TmpfsOptions"]["SizeBytes"] = json!(size);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).with_context(|| format!("tmpfs-mode {value:?}"))?;
                mount["TmpfsOptions"]["Mode"] = json!(mode);
            }
            _ => bail!("invalid argument {word:?} for --mount: the field {key:?} is not known"),
        }
    }
    if mount["Target"].is_null() {
        bail!("invalid argument {word:?} for --mount: target is required");
    }
    Ok(mount)
}

fn tmpfs(words: &[String]) -> BTreeMap<String, String> {
    let pair = |word: &String| {
        let (path, options) = word.split_once(':').unwrap_or((word, ""));
        (path.to_owned(), options.to_owned())
    };
    words.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_words() {
        let mount = long_mount("type=bind,src=/a,dst=/b,ro").unwrap();
        assert_eq!(
            mount,
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true})
        );
        assert!(long_mount("src=/a").is_err());
        assert!(long_mount("target=/a,x=y").is_err());
    }
}

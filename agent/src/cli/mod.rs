//! The command line: a client of the Docker Engine API with Docker's verbs, flags and tables, and what Docker lacks.
//!
//! Every verb is a struct of flags with a `run`; none keeps state, and none reaches past [`client`] to the daemon.

mod client;
mod container;
mod container_more;
mod context;
mod converge;
mod exec;
mod format;
mod health;
mod human;
mod image;
mod info_swarm;
mod inspect;
mod network;
mod networks;
mod output;
mod ports;
mod pretty;
mod pretty_content;
mod pretty_node;
mod rebalance;
mod run;
mod run_more;
mod secret;
mod service;
mod service_history;
mod service_spec;
mod stack;
mod swarm;
mod swarm_ca;
mod swarm_lock;
mod swarm_settings;
mod system;
mod table;
mod task;
mod template;
mod terminal;
mod up;
mod volume;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::daemon::{self, RunOptions};
use client::Client;
use image::ImageVerb;

/// Container runtime, node agent and cluster manager in one binary.
#[derive(Debug, Parser)]
#[command(name = "agent", version, disable_help_subcommand = true)]
struct Arguments {
    /// The agent to talk to
    #[arg(short = 'H', long, env = "AGENT_HOST", value_name = "unix://PATH")]
    host: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Without an image: run the daemon of this host in the foreground. With one: create and run a new container
    Run(Box<Run>),
    /// Bring up the stack of a folder: agent, swarm, images and services
    Up(up::Up),
    /// Manage stacks
    #[command(subcommand)]
    Stack(stack::StackVerb),
    /// Manage services
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Manage tasks
    #[command(subcommand)]
    Task(task::TaskVerb),
    /// Manage the swarm
    #[command(subcommand)]
    Swarm(swarm::SwarmVerb),
    /// Manage nodes
    #[command(subcommand)]
    Node(swarm::NodeVerb),
    /// Manage images
    #[command(subcommand)]
    Image(image::ImageVerb),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::VolumeVerb),
    /// Manage networks
    #[command(subcommand)]
    Network(network::NetworkVerb),
    /// Manage secrets
    #[command(subcommand)]
    Secret(secret::ContentVerb),
    /// Manage configs
    #[command(subcommand)]
    Config(secret::ContentVerb),
    /// List containers
    Ps(container::Ps),
    /// Fetch the logs of a container
    Logs(container::Logs),
    /// Execute a command in a running container
    Exec(exec::Exec),
    /// Return low-level information on objects of any kind
    Inspect(inspect::Names),
    /// Create a new container
    Create(Box<container_more::New>),
    /// Manage containers
    #[command(subcommand)]
    Container(Box<container_more::ContainerVerb>),
    /// Manage the host
    #[command(subcommand)]
    System(container_more::SystemVerb),
    /// Start one or more stopped containers
    Start(container_more::Start),
    /// Attach local standard input, output, and error streams to a running container
    Attach(container_more::Attach),
    /// Rename a container
    Rename(container_more::Rename),
    /// List port mappings or a specific mapping for the container
    Port(container_more::Port),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(container_more::Diff),
    /// Stop one or more running containers
    Stop(container::Stop),
    /// Restart one or more containers
    Restart(container::Stop),
    /// Kill one or more running containers
    Kill(container::Kill),
    /// Remove one or more containers
    Rm(container::Rm),
    /// Block until one or more containers stop, then print their exit codes
    Wait(container::Names),
    /// Display the running processes of a container
    Top(container::Top),
    /// List images
    Images(image::Ls),
    /// Build an image from a Dockerfile
    Build(image::Build),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag {
        /// Name or ID of the image
        source: String,
        /// Name that it gets
        target: String,
    },
    /// Remove one or more images
    Rmi(image::Rm),
    /// Load an image from a tar archive or STDIN
    Load(image::Load),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(image::Save),
    /// Import the contents from a tarball to create a filesystem image
    Import(image::Import),
    /// Show the history of an image
    History {
        /// Name or ID of the image
        image: String,
    },
    /// Get real time events from the server
    Events(system::Events),
    /// Display system-wide information
    Info(system::Info),
    /// Show the version information
    Version,
    /// Show disk usage
    Df,
}

/// `run`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
struct Run {
    #[command(flatten)]
    daemon: RunOptions,
    #[command(flatten)]
    container: run::ContainerFlags,
    /// Image, and the command in it with its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND [ARG...]]"
    )]
    words: Vec<String>,
}

/// An exit code whose reason has been printed already.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
struct Silent(i32);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    end_quietly_without_reader();
    let matches = Arguments::command()
        .try_get_matches()
        .unwrap_or_else(|error| misused(&error));
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| misused(&error));
    match dispatch(arguments, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error.downcast_ref::<Silent>() {
                Some(Silent(code)) => *code,
                None => {
                    eprintln!("agent: {error:#}");
                    1
                }
            };
            // A read of standard input that nobody waits for any more would hold up an ordinary end.
            std::process::exit(code);
        }
    }
}

/// `agent ps | head` ends as other programs do when nobody reads their output any more: without a word, as if SIGPIPE had
/// ended it. The signal itself stays ignored, because it would also end a client whose server hangs up.
fn end_quietly_without_reader() {
    const BY_SIGPIPE: i32 = 128 + 13;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.starts_with("failed printing to std") && text.contains("Broken pipe"))
        {
            std::process::exit(BY_SIGPIPE);
        }
        usual(panic);
    }));
}

/// Ends the program with what clap has to say.
fn misused(error: &clap::Error) -> ! {
    let _ = error.print();
    std::process::exit(usage_code(error));
}

/// Docker's exit codes for a line that it does not understand: 125 for flags, 1 for words. Help is no mistake.
fn usage_code(error: &clap::Error) -> i32 {
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => word.as_str(),
        _ => "",
    };
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand => 0,
        ErrorKind::UnknownArgument if !word.starts_with('-') => 1,
        ErrorKind::InvalidSubcommand | ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict => 1,
        _ => 125,
    }
}

/// A mistake in the flags of a container, printed: Docker ends with 125 for it.
fn refused_flags(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Silent>() {
        return error;
    }
    eprintln!("agent: {error:#}");
    Silent(125).into()
}

/// The image and the command in it; a flag that nobody took comes first among them.
fn image_and_command(words: Vec<String>) -> Result<(String, Vec<String>)> {
    let mut words = words.into_iter();
    let image = words.next().unwrap_or_default();
    if image.starts_with('-') {
        return Err(refused_flags(anyhow::anyhow!("unknown flag: {image}")));
    }
    Ok((image, words.collect()))
}

fn dispatch(arguments: Arguments, matches: &ArgMatches) -> Result<()> {
    let verb = match arguments.verb {
        Verb::Run(run) if run.words.is_empty() => {
            refuse_flags(matches, false)?;
            return daemon::run(run.daemon);
        }
        Verb::Run(run) => {
            refuse_flags(matches, true)?;
            Verb::Run(run)
        }
        verb => verb,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(act(verb, arguments.host.as_deref()));
    runtime.shutdown_background();
    outcome
}

async fn act(verb: Verb, host: Option<&str>) -> Result<()> {
    let verb = match verb {
        Verb::Up(up) => return up.run(host).await,
        verb => verb,
    };
    let client = &Client::new(host)?;
    match verb {
        Verb::Run(run) => container_run(client, *run).await,
        Verb::Up(_) => Ok(()),
        Verb::Stack(verb) => verb.run(client).await,
        Verb::Service(verb) => verb.run(client).await,
        Verb::Task(verb) => verb.run(client).await,
        Verb::Swarm(verb) => verb.run(client).await,
        Verb::Node(verb) => verb.run(client).await,
        Verb::Image(verb) => verb.run(client).await,
        Verb::Volume(verb) => verb.run(client).await,
        Verb::Network(verb) => verb.run(client).await,
        Verb::Secret(verb) => verb.run(client, secret::Kind::Secret).await,
        Verb::Config(verb) => verb.run(client, secret::Kind::Config).await,
        Verb::Ps(ps) => ps.run(client).await,
        Verb::Logs(logs) => logs.run(client).await,
        Verb::Exec(exec) => exec.run(client).await,
        Verb::Inspect(names) => names.run_any(client).await,
        Verb::Create(new) => container_more::ContainerVerb::Create(new).run(client).await,
        Verb::Container(verb) => verb.run(client).await,
        Verb::System(verb) => verb.run(client).await,
        Verb::Start(start) => start.run(client).await,
        Verb::Attach(attach) => attach.run(client).await,
        Verb::Rename(rename) => rename.run(client).await,
        Verb::Port(port) => port.run(client).await,
        Verb::Diff(diff) => diff.run(client).await,
        Verb::Stop(stop) => stop.run(client, "stop").await,
        Verb::Restart(stop) => stop.run(client, "restart").await,
        Verb::Kill(kill) => kill.run(client).await,
        Verb::Rm(rm) => rm.run(client).await,
        Verb::Wait(names) => container::wait(client, names).await,
        Verb::Top(top) => top.run(client).await,
        Verb::Images(ls) => ls.run(client).await,
        Verb::Build(build) => ImageVerb::Build(build).run(client).await,
        Verb::Tag { source, target } => ImageVerb::Tag { source, target }.run(client).await,
        Verb::Rmi(rm) => rm.run(client).await,
        Verb::Load(load) => load.run(client).await,
        Verb::Save(save) => save.run(client).await,
        Verb::Import(import) => import.run(client).await,
        Verb::History { image } => ImageVerb::History { image }.run(client).await,
        Verb::Events(events) => events.run(client).await,
        Verb::Info(info) => info.run(client).await,
        Verb::Version => system::version(client).await,
        Verb::Df => system::df(client).await,
    }
}

async fn container_run(client: &Client, run: Run) -> Result<()> {
    let (image, command) = image_and_command(run.words)?;
    run::run(client, run.container, image, command).await
}

/// Flags of the daemon mean nothing to a container, nor the other way round: neither is taken and ignored.
fn refuse_flags(matches: &ArgMatches, container: bool) -> Result<()> {
    const DAEMON: [&str; 5] = ["root", "run_dir", "runtime", "node_generic_resource", "balancer"];
    let Some(matches) = matches.subcommand_matches("run") else {
        return Ok(());
    };
    // Groups have ids too, those of the structs; flags begin with a small letter.
    let flags = matches
        .ids()
        .map(clap::Id::as_str)
        .filter(|id| id.starts_with(|first: char| first.is_lowercase()));
    for id in flags {
        let given = matches.try_contains_id(id).is_ok_and(|known| known)
            && matches.value_source(id) == Some(ValueSource::CommandLine);
        if given && id != "words" && DAEMON.contains(&id) == container {
            let flag = id.replace('_', "-");
            if container {
                bail!("--{flag} is a flag of the daemon: `agent run` without an image");
            }
            bail!("--{flag} is a flag of a container: `agent run` needs an image for it");
        }
    }
    Ok(())
}

/// Asks before something is removed, unless `--force` was given.
fn confirm(warning: &str, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    eprint!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("cancelled");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn misuse_ends_with_docker_s_codes() {
        for (line, code) in [
            ("ps --nope", 125),
            ("exec --nope x y", 125),
            ("run --pid", 125),
            ("logs -n", 125),
            ("--nope", 125),
            ("exec x", 1),
            ("rm", 1),
            ("images a b", 1),
            ("nosuch", 1),
            ("volume nosuch", 1),
            ("volume", 0),
            ("ps --help", 0),
        ] {
            let words = std::iter::once("agent").chain(line.split(' '));
            let error = Arguments::command().try_get_matches_from(words).unwrap_err();
            assert_eq!(usage_code(&error), code, "{line}: {:?}", error.kind());
        }
    }

    #[test]
    fn run_is_the_daemon_or_a_container() {
        let parse = |words: &[&str]| {
            let matches = Arguments::command()
                .try_get_matches_from(words)
                .map_err(|error| error.to_string())?;
            let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.to_string())?;
            let Verb::Run(run) = arguments.verb else {
                return Err("not run".to_owned());
            };
            refuse_flags(&matches, !run.words.is_empty()).map_err(|error| error.to_string())?;
            Ok(run.words)
        };
        assert_eq!(parse(&["agent", "run", "--root", "/x"]), Ok(vec![]));
        assert_eq!(
            parse(&["agent", "run", "--rm", "-it", "bb", "sh", "-c", "x"]).unwrap(),
            ["bb", "sh", "-c", "x"]
        );
        assert!(
            parse(&["agent", "run", "--rm"])
                .unwrap_err()
                .contains("needs an image")
        );
        assert!(
            parse(&["agent", "run", "--root", "/x", "bb"])
                .unwrap_err()
                .contains("flag of the daemon")
        );
    }
}

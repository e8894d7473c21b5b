//! The command line of the `runtime` binary: runc's verbs and flags, parsed here and answered by [`crate::container`].
//!
//! A flag that is not listed here is not built, and clap refuses it by name.

mod exec;
mod foreground;
mod query;
mod spawn;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use crate::container::{self, ContainerId, Signal, StateDir};
use crate::{seal, shim};

/// OCI runtime of Shoal.
#[derive(Debug, Parser)]
#[command(name = "runtime", version)]
struct Args {
    /// Directory for the state of containers; a tmpfs.
    #[arg(long, value_name = "DIR", default_value = "/run/shoal/runtime")]
    root: PathBuf,
    /// File to which an error is written too.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of what is written there.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// Form of the error log.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// The message.
    Text,
    /// One JSON object a line: level and msg, as runc writes it.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container; its process waits for `start`.
    Create(spawn::Create),
    /// Let the process of a created container run.
    Start {
        /// The container.
        id: ContainerId,
    },
    /// Create a container, run it, and remove it when it ends.
    Run(spawn::Run),
    /// Run a further process in a container.
    Exec(Box<exec::Exec>),
    /// Print the state of a container as JSON.
    State {
        /// The container.
        id: ContainerId,
    },
    /// List containers.
    List(query::List),
    /// List the processes of a container.
    Ps(query::Ps),
    /// Send a signal to a container's first process.
    Kill {
        /// Send it to all processes.
        #[arg(short, long)]
        all: bool,
        /// The container.
        id: ContainerId,
        /// Name or number.
        #[arg(default_value = "SIGTERM")]
        signal: Signal,
    },
    /// Remove a stopped container.
    Delete {
        /// Kill it first if it runs; succeed if it does not exist.
        #[arg(short, long)]
        force: bool,
        /// The container.
        id: ContainerId,
    },
    /// Hold the stdio of one container for the agent and reap it.
    Shim {
        /// Directory with config.json and shim.json.
        #[arg(long, value_name = "DIR")]
        bundle: PathBuf,
        /// The container.
        id: ContainerId,
    },
}

/// Whether an argument is the name of a command that makes a process of the runtime's visible inside a container. One that
/// merely looks like it costs an execve(2) and nothing else.
fn enters_containers(argument: std::ffi::OsString) -> bool {
    ["create", "run", "exec", "shim"]
        .iter()
        .any(|name| argument == *name)
}

/// Parses the arguments of the process and runs the command; the process exits with the answer.
pub fn main() -> ExitCode {
    // Before anything else, as it starts the program anew.
    if let Some(error) = std::env::args_os()
        .any(enters_containers)
        .then(seal::ensure)
        .and_then(Result::err)
    {
        eprintln!("runtime: seal the runtime's binary: {error}");
        return ExitCode::FAILURE;
    }
    let args = Args::parse();
    let state = StateDir(args.root);
    let outcome = match args.command {
        Command::Shim { bundle, id } => return shim::main(&state, &bundle, &id),
        Command::Create(create) => create.execute(&state),
        Command::Run(run) => run.execute(&state),
        Command::Exec(exec) => exec.execute(&state),
        Command::List(list) => list.execute(&state),
        Command::Ps(ps) => ps.execute(&state),
        Command::State { id } => query::state(&state, &id),
        Command::Start { id } => done(container::start(&state, &id)),
        Command::Kill { all, id, signal } => done(container::kill(&state, &id, signal, all)),
        Command::Delete { force, id } => done(container::delete(&state, &id, force)),
    };
    outcome.unwrap_or_else(|error| {
        report(&error, args.log.as_deref(), args.log_format);
        let code = error
            .downcast_ref::<container::Error>()
            .and_then(container::Error::exit_code);
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

fn done(result: Result<(), container::Error>) -> anyhow::Result<ExitCode> {
    Ok(result.map(|()| ExitCode::SUCCESS)?)
}

/// Tells an error on stderr and, if asked, in the log file.
fn report(error: &anyhow::Error, log: Option<&Path>, format: LogFormat) {
    eprintln!("runtime: {error:#}");
    let Some(path) = log else { return };
    let line = match format {
        LogFormat::Text => format!("{error:#}\n"),
        LogFormat::Json => format!(
            "{}\n",
            serde_json::json!({"level": "error", "msg": format!("{error:#}")})
        ),
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("runtime: write {path:?}: {error}");
    }
}

/// Writes a process id to a file: whole, or not at all.
fn write_pid_file(path: &Path, pid: nix::unistd::Pid) -> anyhow::Result<()> {
    let name = path.file_name().context("--pid-file has no file name")?;
    let temporary = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("write {path:?}"))
}

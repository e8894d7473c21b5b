//! What can be done to a container that exists: start, kill, delete, and asking about it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use nix::fcntl::FlockArg;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, State};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::process::{clone_flags, pidfd_send_signal};

use super::record::{Home, Lock, Record};
use super::{ContainerId, Error, Signal, StateDir};
use crate::cgroups;
use crate::process::channel::Channel;

/// How long to wait for an init that is bound to end, milliseconds.
const PATIENCE: u16 = 10_000;

pub(super) fn start(state: &StateDir, id: &ContainerId) -> Result<(), Error> {
    let home = Home::of(state, id);
    let lock = home.lock(id, FlockArg::LockExclusive)?;
    let record = home.load(id)?;
    let status = home.status(&record);
    if status != ContainerState::Created {
        return Err(wrong("start", id, status));
    }
    let init = record.open_init()?;
    let knocked = knock(&lock);
    home.remove_gate();
    let Some(socket) = knocked? else {
        // It was started, and whoever did so had no time left to take the gate away.
        return Err(wrong("start", id, ContainerState::Running));
    };
    let Err(error) = Channel::from_socket(socket).executed() else {
        return Ok(());
    };
    // Init told why and is on its way out: when we answer, the container is stopped.
    if let Some(init) = init {
        let _ = wait_for_end(&init);
    }
    Err(error.into())
}

/// Waits until a process has ended, reaped or not; `false` if it takes longer than anything should.
fn wait_for_end(pidfd: &OwnedFd) -> nix::Result<bool> {
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut ended, PollTimeout::from(PATIENCE)).map(|ready| ready > 0)
}

/// Connects to init; `None` if it does not listen any more.
fn knock(lock: &Lock) -> Result<Option<OwnedFd>, Error> {
    let path = Home::gate(lock);
    let connect = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok(socket)
    };
    match connect() {
        Ok(socket) => Ok(Some(socket)),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(Error::file("connect to", path, error)),
    }
}

pub(super) fn kill(state: &StateDir, id: &ContainerId, signal: Signal, all: bool) -> Result<(), Error> {
    let home = Home::of(state, id);
    let _lock = home.lock(id, FlockArg::LockShared)?;
    let record = home.load(id)?;
    if all {
        return Ok(cgroups::kill_all(&record.cgroups, signal.as_raw())?);
    }
    let gone = || wrong("kill", id, ContainerState::Stopped);
    let init = record.open_init()?.ok_or_else(gone)?;
    pidfd_send_signal(&init, signal.as_raw()).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => gone(),
        _ => Error::file("signal process", format!("/proc/{}", record.pid), error),
    })
}

pub(super) fn delete(state: &StateDir, id: &ContainerId, force: bool) -> Result<(), Error> {
    let home = Home::of(state, id);
    let _lock = match home.lock(id, FlockArg::LockExclusive) {
        Err(Error::NotFound(_)) if force => return Ok(()),
        lock => lock?,
    };
    let record = match home.load(id) {
        // A crash before the first record: the directory is all there is.
        Err(Error::NotFound(_)) if force => return home.remove(),
        record => record?,
    };
    let status = home.status(&record);
    if matches!(status, ContainerState::Created | ContainerState::Running) {
        if !force && status == ContainerState::Running {
            return Err(wrong("delete", id, status));
        }
        end_init(&record)?;
    }
    // Without a PID namespace of its own, its processes outlive init.
    if force || record.namespaces & clone_flags::NEWPID == 0 {
        cgroups::kill_all(&record.cgroups, libc::SIGKILL)?;
    }
    cgroups::remove(&record.cgroups)?;
    home.remove()
}

/// Kills init and waits until it has ended; its parent reaps it.
fn end_init(record: &Record) -> Result<(), Error> {
    let Some(init) = record.open_init()? else {
        return Ok(());
    };
    let failed = |error: std::io::Error| Error::file("kill process", format!("/proc/{}", record.pid), error);
    match pidfd_send_signal(&init, libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(failed(error)),
        _ => {}
    }
    match wait_for_end(&init) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        Err(error) => Err(failed(error.into())),
    }
}

pub(super) fn state(state: &StateDir, id: &ContainerId) -> Result<State, Error> {
    let home = Home::of(state, id);
    let record = home.load(id)?;
    Ok(record.to_oci(id, home.status(&record)))
}

pub(super) fn list(dir: &StateDir) -> Result<Vec<State>, Error> {
    let entries = match fs::read_dir(&dir.0) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Error::file("read", &dir.0, error))?,
    };
    let mut states: Vec<State> = entries
        .filter_map(|entry| ContainerId::from_str(entry.ok()?.file_name().to_str()?).ok())
        // A container may be deleted while the list is made.
        .filter_map(|id| state(dir, &id).ok())
        .collect();
    states.sort_by(|a, b| a.id().cmp(b.id()));
    Ok(states)
}

pub(super) fn pids(state: &StateDir, id: &ContainerId) -> Result<Vec<Pid>, Error> {
    let record = Home::of(state, id).load(id)?;
    Ok(cgroups::members(&record.cgroups)?)
}

fn wrong(operation: &'static str, id: &ContainerId, status: ContainerState) -> Error {
    Error::Status {
        operation,
        id: id.clone(),
        status,
    }
}

//! A further process in a running container.

use nix::fcntl::FlockArg;
use nix::unistd::Pid;
use oci_spec::runtime::ContainerState;

use super::create::{check_terminal, end, set_oom_score};
use super::record::Home;
use super::{ContainerId, Created, Error, ExecRequest, StateDir};
use crate::process::channel::Channel;
use crate::process::join::Joiner;
use crate::process::payload::Payload;
use crate::{cgroups, process, spec};

pub(super) fn exec(state: &StateDir, id: &ContainerId, request: ExecRequest) -> Result<Created, Error> {
    spec::check_process(&request.process)?;
    check_terminal(request.process.terminal().unwrap_or(false), &request.stdio)?;
    let home = Home::of(state, id);
    // Shared: two may be added at once, but none while the container is started or deleted.
    let _lock = home.lock(id, FlockArg::LockShared)?;
    let record = home.load(id)?;
    let stopped = || Error::Status {
        operation: "exec in",
        id: id.clone(),
        status: ContainerState::Stopped,
    };
    let target = record.open_init()?.ok_or_else(stopped)?;
    let config = spec::load(&record.bundle)?;
    let seccomp = config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let joiner = Joiner {
        target,
        namespaces: record.namespaces,
        doors: cgroups::open_doors_beside(&record.cgroups, record.pid)?,
        payload: Payload::plan(&request.process, seccomp)?,
        stdio: request.stdio,
    };
    let (channel, far) =
        Channel::pair().map_err(|error| process::Error::Step("make a channel to the process", error))?;
    let child = joiner.fork(far)?;
    let see_through = || -> Result<_, Error> {
        if let Some(score) = request.process.oom_score_adj() {
            set_oom_score(child.pid, score)?;
        }
        let terminal = channel.ready()?;
        channel.executed()?;
        Ok(terminal)
    };
    match see_through() {
        Ok(terminal) => Ok(Created {
            pid: Pid::from_raw(child.pid),
            pidfd: child.pidfd,
            terminal,
        }),
        Err(error) => {
            end(&child);
            Err(error)
        }
    }
}

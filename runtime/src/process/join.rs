//! A further process of a running container, from the fork to execve(2).

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::DumpableBehavior;
use sys::namespace::setns;
use sys::process::{Child, clone_flags, fork_with};

use super::channel::{Channel, Message};
use super::identity::Identity;
use super::init::enter_cgroups;
use super::namespaces::in_pid_namespace_of;
use super::payload::{Payload, close_all_but, numbers};
use super::{Error, caps::Sets, chain, stdio};
use crate::cgroups::Doors;
use crate::container::Stdio;
use crate::rootfs::path::{Links, Root};
use crate::tty;

/// What joins a container.
#[derive(Debug)]
pub(crate) struct Joiner {
    /// The container's init.
    pub(crate) target: OwnedFd,
    /// Types of the container's namespaces (`CLONE_NEW*`).
    pub(crate) namespaces: u64,
    pub(crate) doors: Doors,
    pub(crate) payload: Payload,
    pub(crate) stdio: Stdio,
}

impl Joiner {
    /// Forks the process, which joins and executes; the caller listens at the other end of `channel`.
    ///
    /// It is hidden before it exists, as it is born into the PID namespace that those it must be hidden from see
    /// (CVE-2016-9962).
    pub(crate) fn fork(self, channel: Channel) -> Result<Child, Error> {
        let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
        hidden.map_err(|e| Error::Step("hide the process", e.into()))?;
        let (namespaces, target) = (self.namespaces, self.target.try_clone());
        let target = target.map_err(|e| Error::Step("duplicate the pidfd of init", e))?;
        let cgroup = self.doors.unified.as_ref().map(OwnedFd::try_clone).transpose();
        let cgroup = cgroup.map_err(|e| Error::Step("duplicate the cgroup directory", e))?;
        let spawn = || fork_with(0, cgroup.as_ref().map(AsFd::as_fd), || self.run(&channel));
        let forked = if namespaces & clone_flags::NEWPID == 0 {
            spawn()
        } else {
            in_pid_namespace_of(target.as_fd(), clone_flags::NEWPID, spawn).and_then(|forked| forked)
        };
        // Only the caller comes here.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
        forked.map_err(|error| Error::Step("fork into the container's PID namespace", error))
    }

    fn run(self, channel: &Channel) -> i32 {
        // Some of its descriptors are closed by number: none may be closed a second time.
        let mut joiner = ManuallyDrop::new(self);
        let error = match joiner.set_up(channel) {
            Ok(()) => joiner.payload.execute(),
            Err(error) => error,
        };
        let code = error.code();
        let _ = channel.send(&Message::Failed {
            code,
            text: chain(&error),
        });
        code
    }

    fn set_up(&mut self, channel: &Channel) -> Result<(), Error> {
        self.leave_the_caller(channel)?;
        enter_cgroups(&self.doors.tasks)?;
        self.doors.tasks.clear();
        let rest = self.namespaces & !clone_flags::NEWPID;
        setns(&self.target, rest).map_err(|e| Error::Step("join the container's namespaces", e))?;
        if rest & clone_flags::NEWUSER != 0 {
            Identity::ROOT.assume()?;
            Sets::raise_effective()?;
        }
        rustix::process::setsid().map_err(|e| Error::Step("make a session", e.into()))?;
        let root = openat(
            CWD,
            c"/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| Error::Step("open the container's root", e.into()))?;
        let root = Root(root);
        let master = self.take_terminal(&root)?;
        stdio::install(&self.stdio)?;
        self.payload.prepare(&root)?;
        channel
            .send(&Message::Ready(master))
            .map_err(|e| Error::Step("report to the caller", e))
    }

    fn leave_the_caller(&self, channel: &Channel) -> Result<(), Error> {
        sys::process::default_signals().map_err(|e| Error::Step("reset signals", e))?;
        let mut keep = vec![channel.number()];
        keep.extend(numbers([&self.target]));
        keep.extend(numbers(&self.doors.tasks));
        if let Stdio::Fds {
            stdin,
            stdout,
            stderr,
        } = &self.stdio
        {
            keep.extend(numbers([stdin, stdout, stderr]));
        }
        close_all_but(&mut keep)
    }

    /// A terminal of the devpts that is mounted on the container's /dev/pts.
    fn take_terminal(&self, root: &Root) -> Result<Option<OwnedFd>, Error> {
        let Stdio::Terminal { size } = self.stdio else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let terminal = root
            .open(Path::new("/dev/pts"), flags, Links::Refuse)
            .and_then(|devpts| tty::open(devpts.as_fd(), size))
            .map_err(|e| Error::Step("open a terminal", e))?;
        tty::take_over(&terminal.slave).map_err(|e| Error::Step("take the terminal over", e))?;
        Ok(Some(terminal.master))
    }
}

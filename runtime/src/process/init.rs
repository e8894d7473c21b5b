//! The first process of a container, from the fork to execve(2).

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::SocketFlags;
use rustix::process::DumpableBehavior;

use super::channel::{Channel, Message};
use super::identity::Identity;
use super::namespaces::Namespaces;
use super::payload::{Payload, close_all_but, numbers};
use super::{Error, chain, stdio, sysctl};
use crate::container::Stdio;
use crate::rootfs::{self, Applied, Sources};
use crate::spec::Sysctl;
use crate::tty;

/// What a container is made of, planned and opened by the caller.
#[derive(Debug)]
pub(crate) struct Init {
    /// `tasks` of the v1 hierarchies to enter.
    pub(crate) tasks: Vec<OwnedFd>,
    pub(crate) rootfs: rootfs::Plan,
    pub(crate) sources: Option<Sources>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) payload: Payload,
    pub(crate) stdio: Stdio,
    /// Where `start` knocks; without it the payload runs as soon as the container is on record.
    pub(crate) gate: Option<OwnedFd>,
}

impl Init {
    /// Runs in the new process and answers with its exit code; with luck it never does.
    pub(crate) fn run(self, namespaces: &Namespaces, channel: Channel) -> i32 {
        // Some of its descriptors are closed by number: none may be closed a second time.
        let mut init = ManuallyDrop::new(self);
        let mut channel = channel;
        let error = match init.set_up(namespaces, &mut channel) {
            Ok(()) => init.payload.execute(),
            Err(error) => error,
        };
        let code = error.code();
        // If nobody listens any more, the exit code has to say it.
        let _ = channel.send(&Message::Failed {
            code,
            text: chain(&error),
        });
        code
    }

    fn set_up(&mut self, namespaces: &Namespaces, channel: &mut Channel) -> Result<(), Error> {
        self.leave_the_caller(namespaces, channel)?;
        enter_cgroups(&std::mem::take(&mut self.tasks))?;
        if namespaces.needs_maps() {
            channel.expect(|message| matches!(message, Message::Mapped))?;
        }
        if namespaces.has_user() {
            Identity::ROOT.assume()?;
            super::caps::Sets::raise_effective()?;
        }
        namespaces.join()?;
        rustix::process::setsid().map_err(|e| Error::Step("make a session", e.into()))?;
        self.set_names()?;
        let (applied, master) = self.build_root()?;
        stdio::install(&self.stdio)?;
        self.payload.prepare(&applied.root)?;
        drop(applied);
        channel
            .send(&Message::Ready(master))
            .map_err(|e| Error::Step("report to the caller", e))?;
        channel.expect(|message| matches!(message, Message::Commit))?;
        if let Some(gate) = self.gate.take() {
            *channel = wait_for_start(gate)?;
        }
        Ok(())
    }

    /// Nothing of the caller's stays open but what is needed; nobody may look in; signals are as a program expects.
    fn leave_the_caller(&self, namespaces: &Namespaces, channel: &Channel) -> Result<(), Error> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| Error::Step("hide the process", e.into()))?;
        sys::process::default_signals().map_err(|e| Error::Step("reset signals", e))?;
        rustix::process::umask(rustix::fs::Mode::empty());
        let mut keep = vec![channel.number()];
        keep.extend(numbers(namespaces.fds()));
        keep.extend(numbers(&self.tasks));
        keep.extend(numbers(&self.gate));
        keep.extend(numbers(self.sources.iter().flat_map(Sources::fds)));
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

    fn set_names(&self) -> Result<(), Error> {
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes())
                .map_err(|e| Error::Step("set the hostname", e.into()))?;
        }
        if let Some(name) = &self.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .map_err(|e| Error::Step("set the domain name", e.into()))?;
        }
        Ok(())
    }

    /// Builds the root, writes the sysctls and, with a terminal, takes it over; answers with its master.
    fn build_root(&mut self) -> Result<(Applied, Option<OwnedFd>), Error> {
        let Some(sources) = self.sources.take() else {
            return Err(Error::Gone("the root was built already"));
        };
        let (sysctls, stdio) = (&self.sysctls, &self.stdio);
        let mut terminal = None;
        let applied = rootfs::apply(&self.rootfs, sources, |applied| -> Result<(), Error> {
            sysctl::write(sysctls, applied.procfs.as_ref())?;
            if let Stdio::Terminal { size } = stdio {
                let opened = open_terminal(applied, *size)?;
                rootfs::attach_console(&applied.root, &opened.slave)?;
                terminal = Some(opened);
            }
            Ok(())
        })?;
        let Some(terminal) = terminal else {
            return Ok((applied, None));
        };
        tty::take_over(&terminal.slave).map_err(|e| Error::Step("take the terminal over", e))?;
        Ok((applied, Some(terminal.master)))
    }
}

/// A single thread that moves itself writes `0`.
pub(super) fn enter_cgroups(tasks: &[OwnedFd]) -> Result<(), Error> {
    for fd in tasks {
        rustix::io::write(fd, b"0").map_err(|e| Error::Step("enter the container's cgroup", e.into()))?;
    }
    Ok(())
}

fn open_terminal(applied: &Applied, size: Option<(u16, u16)>) -> Result<tty::Terminal, Error> {
    let Some(devpts) = &applied.devpts else {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no devpts is mounted on /dev/pts");
        return Err(Error::Step("open a terminal", missing));
    };
    tty::open(devpts.as_fd(), size).map_err(|e| Error::Step("open a terminal", e))
}

/// Waits for the first knock. The connection is the new channel: it closes at execve(2), or tells why there was none.
fn wait_for_start(gate: OwnedFd) -> Result<Channel, Error> {
    loop {
        match rustix::net::accept_with(&gate, SocketFlags::CLOEXEC) {
            Ok(socket) => return Ok(Channel::from_socket(socket)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => return Err(Error::Step("wait for the start", error.into())),
        }
    }
}

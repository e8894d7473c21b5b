//! Creating a container: everything is planned and opened first, so that little can fail once there is a process; what was
//! made is taken back if something does.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::process::Child;

use super::record::{Home, Lock, Record, start_time};
use super::{ContainerId, CreateRequest, Created, Error, StateDir, Stdio};
use crate::cgroups::{self, Cgroup, Layout};
use crate::process;
use crate::process::channel::{Channel, Message};
use crate::process::init::Init;
use crate::process::namespaces::{Namespaces, reap};
use crate::process::payload::Payload;
use crate::rootfs::{self, Sources};
use crate::spec;

/// When the payload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// When `start` is called, by this or another process.
    Later,
    /// At once; `create` then answers when it was executed, or why it could not be.
    Now,
}

/// Creates the container of `request`, whose bundle has `spec`.
pub(crate) fn create(
    state: &StateDir,
    request: CreateRequest,
    spec: &Spec,
    start: Start,
) -> Result<Created, Error> {
    check_stdio(spec, &request.stdio)?;
    let id = request.id.clone();
    let plans = Plans::of(spec, &id)?;
    let home = Home::of(state, &id);
    let lock = home.make(&id)?;
    let mut undo = Undo {
        home: &home,
        cgroup: None,
    };
    match build(spec, request, plans, &home, &lock, &mut undo, start) {
        Ok(created) => Ok(created),
        Err(error) => {
            undo.run();
            Err(error)
        }
    }
}

/// A terminal is asked for in two places, which must agree.
pub(super) fn check_terminal(wanted: bool, stdio: &Stdio) -> Result<(), Error> {
    match (wanted, matches!(stdio, Stdio::Terminal { .. })) {
        (true, false) => Err(Error::Terminal(
            "process.terminal is set, but no terminal was provided for",
        )),
        (false, true) => Err(Error::Terminal(
            "a terminal was provided for, but process.terminal is not set",
        )),
        _ => Ok(()),
    }
}

fn check_stdio(spec: &Spec, stdio: &Stdio) -> Result<(), Error> {
    let wanted = spec.process().as_ref().and_then(|process| process.terminal());
    check_terminal(wanted.unwrap_or(false), stdio)
}

/// What can be planned without making anything.
struct Plans {
    rootfs: rootfs::Plan,
    cgroup: cgroups::Plan,
    cgroup_path: PathBuf,
    layout: Layout,
    sysctls: Vec<spec::Sysctl>,
    payload: Payload,
}

impl Plans {
    fn of(spec: &Spec, id: &ContainerId) -> Result<Self, Error> {
        let linux = spec.linux().as_ref();
        let layout = Layout::detect()?;
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let process = spec.process().as_ref().ok_or(spec::Error::Missing("process"))?;
        Ok(Self {
            rootfs: rootfs::plan(spec)?,
            cgroup: cgroups::plan(resources, &layout)?,
            cgroup_path: linux
                .and_then(|linux| linux.cgroups_path().clone())
                .filter(|path| !path.as_os_str().is_empty())
                .unwrap_or_else(|| Path::new("/").join(id.as_str())),
            layout,
            sysctls: spec::sysctls(spec)?,
            payload: Payload::plan(process, linux.and_then(|linux| linux.seccomp().as_ref()))?,
        })
    }
}

/// What is to be taken back when `create` fails half way.
struct Undo<'a> {
    home: &'a Home,
    cgroup: Option<Cgroup>,
}

impl Undo<'_> {
    /// The error that led here is the one to tell; what stays is found by `delete --force`.
    fn run(self) {
        let removed = self
            .cgroup
            .is_none_or(|cgroup| cgroups::remove(&cgroup.directories).is_ok());
        if removed {
            let _ = self.home.remove();
        }
    }
}

fn build(
    spec: &Spec,
    request: CreateRequest,
    plans: Plans,
    home: &Home,
    lock: &Lock,
    undo: &mut Undo<'_>,
    start: Start,
) -> Result<Created, Error> {
    let mut record = first_record(spec, &request.bundle, &plans);
    home.save(&record)?;
    let cgroup = undo
        .cgroup
        .insert(cgroups::create(&plans.layout, &plans.cgroup_path, &plans.cgroup)?);
    let doors = cgroups::open_doors(&cgroup.directories)?;
    let directory = root_directory(spec, &request.bundle)?;
    let sources = Sources::open(&plans.rootfs, &request.rootfs, &directory, &cgroup.opened)?;
    let gate = match start {
        Start::Later => Some(open_gate(lock)?),
        Start::Now => None,
    };
    let own = |kind| spec::has(spec, kind);
    let namespaces = Namespaces::open(spec)?;
    let init = Init {
        tasks: doors.tasks,
        rootfs: plans.rootfs,
        sources: Some(sources),
        sysctls: plans.sysctls,
        hostname: spec
            .hostname()
            .clone()
            .filter(|name| !name.is_empty() && own(LinuxNamespaceType::Uts)),
        domainname: spec
            .domainname()
            .clone()
            .filter(|name| !name.is_empty() && own(LinuxNamespaceType::Uts)),
        payload: plans.payload,
        stdio: request.stdio,
        gate,
    };
    let oom = spec
        .process()
        .as_ref()
        .and_then(|process| process.oom_score_adj());
    let launched = launch(init, &namespaces, doors.unified.as_ref(), oom, |child| {
        record.pid = child.pid;
        // An init that died already has none; then it is not running either.
        record.start_time = start_time(child.pid).unwrap_or(0);
        home.save(&record)
    })?;
    if start == Start::Now {
        launched
            .channel
            .executed()
            .inspect_err(|_| end(&launched.child))?;
    }
    Ok(Created {
        pid: Pid::from_raw(launched.child.pid),
        pidfd: launched.child.pidfd,
        terminal: launched.terminal,
    })
}

fn first_record(spec: &Spec, bundle: &Path, plans: &Plans) -> Record {
    Record {
        bundle: bundle.to_owned(),
        pid: 0,
        start_time: 0,
        cgroups: cgroups::directories(&plans.layout, &plans.cgroup_path),
        namespaces: Namespaces::all(spec),
        annotations: spec.annotations().clone().unwrap_or_default(),
    }
}

fn root_directory(spec: &Spec, bundle: &Path) -> Result<PathBuf, Error> {
    let root = spec.root().as_ref().ok_or(spec::Error::Missing("root"))?;
    Ok(bundle.join(root.path()))
}

/// The socket that `start` knocks at.
fn open_gate(lock: &Lock) -> Result<OwnedFd, Error> {
    let path = Home::gate(lock);
    let open = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    };
    open().map_err(|error| Error::file("listen on", &path, error))
}

struct Launched {
    child: Child,
    channel: Channel,
    terminal: Option<OwnedFd>,
}

/// Forks init and sees it through its setup; `on_record` is called when it is ready, and only then it may go on.
fn launch(
    init: Init,
    namespaces: &Namespaces,
    cgroup: Option<&OwnedFd>,
    oom_score: Option<i32>,
    on_record: impl FnOnce(&Child) -> Result<(), Error>,
) -> Result<Launched, Error> {
    let step = |text| move |error: std::io::Error| process::Error::Step(text, error);
    let (channel, far) = Channel::pair().map_err(step("make a channel to init"))?;
    let child = namespaces.fork(cgroup, || init.run(namespaces, far))?;
    let see_through = || -> Result<Option<OwnedFd>, Error> {
        if let Some(score) = oom_score {
            set_oom_score(child.pid, score)?;
        }
        if namespaces.needs_maps() {
            namespaces.write_maps(child.pid)?;
            channel
                .send(&Message::Mapped)
                .map_err(step("tell init to go on"))?;
        }
        let terminal = channel.ready()?;
        on_record(&child)?;
        channel
            .send(&Message::Commit)
            .map_err(step("tell init to go on"))?;
        Ok(terminal)
    };
    match see_through() {
        Ok(terminal) => Ok(Launched {
            child,
            channel,
            terminal,
        }),
        Err(error) => {
            end(&child);
            Err(error)
        }
    }
}

/// Sets the OOM score of `pid` through the caller's procfs, whose privileges it takes to lower one.
pub(super) fn set_oom_score(pid: i32, value: i32) -> Result<(), process::Error> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string())
        .map_err(|source| process::Error::OomScore { value, source })
}

/// Ends a process that is not to be, and its whole PID namespace if it is the first of one.
pub(super) fn end(child: &Child) {
    // One that has ended by itself is only to be reaped.
    let _ = sys::process::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
    reap(&child.pidfd);
}

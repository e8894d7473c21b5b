//! Which namespaces a container makes and which it joins, and the fork into them.
//!
//! The order of joining is that of runc's nsexec: a PID namespace is entered by being born in it, so the caller joins it for
//! its children and goes back; the others are joined by the child while it still has the caller's privileges; a user
//! namespace that exists must own what is made after it, so that joining one takes a second fork.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sys::namespace::setns;
use sys::process::{Child, clone_flags, exit_now, fork_with};

use super::Error;
use crate::spec;

/// A namespace to join.
#[derive(Debug)]
struct Joined {
    flag: u64,
    kind: &'static str,
    path: PathBuf,
    fd: OwnedFd,
}

/// The namespaces of a container.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Made by the fork.
    new: u64,
    /// Made by the child once it is in its cgroups, which become the root of what it sees.
    new_cgroup: bool,
    joined: Vec<Joined>,
    pid: Option<Joined>,
    user: Option<Joined>,
    maps: Option<(String, String)>,
}

impl Namespaces {
    /// Reads the configuration and opens what is to be joined.
    pub(crate) fn open(spec: &Spec) -> Result<Self, Error> {
        let mut namespaces = Self {
            new: 0,
            new_cgroup: false,
            joined: Vec::new(),
            pid: None,
            user: None,
            maps: None,
        };
        for namespace in spec::namespaces(spec) {
            let (flag, kind) = flag(namespace.typ());
            match namespace.path() {
                None if flag == clone_flags::NEWCGROUP => namespaces.new_cgroup = true,
                None => namespaces.new |= flag,
                Some(path) => {
                    let joined = open(flag, kind, path)?;
                    match flag {
                        clone_flags::NEWPID => namespaces.pid = Some(joined),
                        clone_flags::NEWUSER => namespaces.user = Some(joined),
                        _ => namespaces.joined.push(joined),
                    }
                }
            }
        }
        if namespaces.new & clone_flags::NEWUSER != 0 {
            let linux = spec.linux().as_ref();
            let map = |maps: Option<&Vec<LinuxIdMapping>>| id_map(maps.map_or(&[], Vec::as_slice));
            namespaces.maps = Some((
                map(linux.and_then(|linux| linux.uid_mappings().as_ref())),
                map(linux.and_then(|linux| linux.gid_mappings().as_ref())),
            ));
        }
        Ok(namespaces)
    }

    /// The types of all namespaces that are the container's, new or joined.
    pub(crate) fn all(spec: &Spec) -> u64 {
        spec::namespaces(spec)
            .iter()
            .fold(0, |all, namespace| all | flag(namespace.typ()).0)
    }

    /// Whether the child must wait for [`Namespaces::write_maps`].
    pub(crate) fn needs_maps(&self) -> bool {
        self.maps.is_some()
    }

    /// Whether the child is in a user namespace that is not the caller's.
    pub(crate) fn has_user(&self) -> bool {
        self.maps.is_some() || self.user.is_some()
    }

    /// Forks into the namespaces; the child joins the rest by [`Namespaces::join`].
    pub(crate) fn fork(&self, cgroup: Option<&OwnedFd>, child: impl FnOnce() -> i32) -> Result<Child, Error> {
        let cgroup = cgroup.map(AsFd::as_fd);
        let spawn = || match &self.user {
            None => fork_with(self.new, cgroup, child),
            Some(user) => fork_through(user.fd.as_fd(), &self.joined, self.new, cgroup, child),
        };
        match &self.pid {
            None => spawn(),
            Some(pid) => in_pid_namespace(pid.fd.as_fd(), spawn).map_err(|source| pid.error(source))?,
        }
        .map_err(|error| Error::Step("fork into the container's namespaces", error))
    }

    /// Child: joins namespaces by path, where the fork through a user namespace has not done so, and takes its cgroups
    /// as the root of a new cgroup namespace.
    pub(crate) fn join(&self) -> Result<(), Error> {
        if self.user.is_none() {
            for joined in &self.joined {
                setns(&joined.fd, joined.flag).map_err(|source| joined.error(source))?;
            }
        }
        if self.new_cgroup {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
                .map_err(|error| Error::Step("make a cgroup namespace", error.into()))?;
        }
        Ok(())
    }

    /// Caller: writes the identity maps of process `pid` (user_namespaces(7)).
    pub(crate) fn write_maps(&self, pid: i32) -> Result<(), Error> {
        let Some((uids, gids)) = &self.maps else {
            return Ok(());
        };
        for (file, map) in [("gid_map", gids), ("uid_map", uids)] {
            fs::write(format!("/proc/{pid}/{file}"), map)
                .map_err(|error| Error::Step("write the identity maps of the user namespace", error))?;
        }
        Ok(())
    }

    /// The descriptors that the child needs until it has joined.
    pub(crate) fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.joined.iter().map(|joined| &joined.fd)
    }
}

impl Joined {
    fn error(&self, source: io::Error) -> Error {
        Error::Namespace {
            kind: self.kind,
            path: self.path.clone(),
            source,
        }
    }
}

fn open(flag: u64, kind: &'static str, path: &Path) -> Result<Joined, Error> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    Ok(Joined {
        flag,
        kind,
        path: path.to_owned(),
        fd: fd.map_err(|source| Error::Namespace {
            kind,
            path: path.to_owned(),
            source: source.into(),
        })?,
    })
}

/// Forks with `pid` as the namespace of the caller's children, for that one fork.
pub(crate) fn in_pid_namespace<T>(
    pid: BorrowedFd<'_>,
    spawn: impl FnOnce() -> io::Result<T>,
) -> io::Result<io::Result<T>> {
    in_pid_namespace_of(pid, clone_flags::NEWPID, spawn)
}

/// As [`in_pid_namespace`], with the namespace of a process that `target` is a pidfd of.
pub(crate) fn in_pid_namespace_of<T>(
    target: BorrowedFd<'_>,
    flag: u64,
    spawn: impl FnOnce() -> io::Result<T>,
) -> io::Result<io::Result<T>> {
    let own = fs::File::open("/proc/self/ns/pid")?;
    setns(target, flag)?;
    let spawned = spawn();
    setns(&own, clone_flags::NEWPID)?;
    Ok(spawned)
}

/// Joins `joined` and the user namespace in a first child, which forks the real one as a child of the caller.
fn fork_through(
    user: BorrowedFd<'_>,
    joined: &[Joined],
    new: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let first = fork_with(0, None, || {
        let forked = joined
            .iter()
            .try_for_each(|joined| setns(&joined.fd, joined.flag))
            .and_then(|()| setns(user, clone_flags::NEWUSER))
            .and_then(|()| fork_with(new | clone_flags::PARENT, cgroup, child));
        // The number of the child, or of the error, negative.
        let answer = match forked {
            Ok(child) => child.pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let _ = rustix::io::write(&writer, &answer.to_ne_bytes());
        exit_now(0)
    })?;
    drop(writer);
    let mut bytes = [0; 4];
    let read = rustix::io::read(&reader, &mut bytes);
    reap(&first.pidfd);
    let answer = match read? {
        4 => i32::from_ne_bytes(bytes),
        _ => -libc::EIO,
    };
    let pid = rustix::process::Pid::from_raw(answer)
        .filter(|_| answer > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(-answer))?;
    // The child is the caller's and not reaped yet: the number cannot have been used again.
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    Ok(Child { pid: answer, pidfd })
}

/// Waits for the end of a child and forgets how it ended.
pub(crate) fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {}
}

fn flag(kind: LinuxNamespaceType) -> (u64, &'static str) {
    match kind {
        LinuxNamespaceType::Mount => (clone_flags::NEWNS, "mount"),
        LinuxNamespaceType::Cgroup => (clone_flags::NEWCGROUP, "cgroup"),
        LinuxNamespaceType::Uts => (clone_flags::NEWUTS, "uts"),
        LinuxNamespaceType::Ipc => (clone_flags::NEWIPC, "ipc"),
        LinuxNamespaceType::User => (clone_flags::NEWUSER, "user"),
        LinuxNamespaceType::Pid => (clone_flags::NEWPID, "pid"),
        LinuxNamespaceType::Network => (clone_flags::NEWNET, "network"),
        LinuxNamespaceType::Time => (clone_flags::NEWTIME, "time"),
    }
}

/// Lines of `/proc/<pid>/uid_map`.
fn id_map(mappings: &[LinuxIdMapping]) -> String {
    mappings
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec_with;
    use serde_json::json;

    #[test]
    fn new_and_joined_namespaces_are_told_apart() {
        let spec = spec_with(json!({"linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "cgroup"}, {"type": "user"},
                {"type": "network", "path": "/proc/self/ns/net"}, {"type": "pid", "path": "/proc/self/ns/pid"},
            ],
            "uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65536}],
        }}))
        .unwrap();
        let namespaces = Namespaces::open(&spec).unwrap();
        assert_eq!(namespaces.new, clone_flags::NEWNS | clone_flags::NEWUSER);
        assert!(namespaces.new_cgroup && namespaces.pid.is_some());
        assert_eq!(namespaces.joined.len(), 1);
        assert_eq!(namespaces.maps.unwrap().0, "0 100000 65536\n");
        assert_eq!(Namespaces::all(&spec).count_ones(), 5);
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let spec = spec_with(
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "ipc", "path": "/nosuch"}]}}),
        );
        let error = Namespaces::open(&spec.unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "join ipc namespace \"/nosuch\"");
    }
}

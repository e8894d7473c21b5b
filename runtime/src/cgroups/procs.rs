//! The processes of a cgroup.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use nix::unistd::Pid;

use super::{Directory, Error, Version};

/// The processes in the cgroup and its descendants, ascending.
pub(crate) fn members(directories: &[Directory]) -> Result<Vec<Pid>, Error> {
    // Every hierarchy has the same members; the unified one is preferred, as nothing in it can be moved out of sight.
    let tracked = directories
        .iter()
        .find(|directory| directory.version == Version::V2)
        .or(directories.first());
    let Some(Directory { path, version }) = tracked else {
        return Ok(Vec::new());
    };
    let mut pids = of_directory(path, *version).map_err(|error| Error::file("read cgroup", path, error))?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// The processes in one directory and below; none if it does not exist.
pub(super) fn of_directory(path: &Path, version: Version) -> io::Result<Vec<Pid>> {
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(Vec::new()),
        // A threaded cgroup does not list processes; its domain above does.
        Err(error) if version == Version::V2 && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            String::new()
        }
        text => text?,
    };
    let mut pids: Vec<Pid> = text
        .lines()
        .filter_map(|line| line.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw))
        .collect();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            pids.extend(of_directory(&entry.path(), version)?);
        }
    }
    Ok(pids)
}

/// Sends `signal` to every process of the cgroup; for SIGKILL again until none is left that had not been told.
///
/// The unified hierarchy kills its descendants' processes too at once, and those that are just being forked (`cgroup.kill`,
/// Linux 5.14); elsewhere it takes rounds.
pub(crate) fn kill_all(directories: &[Directory], signal: i32) -> Result<(), Error> {
    if signal == libc::SIGKILL && kill_at_once(directories) {
        return Ok(());
    }
    let mut told: Vec<Pid> = Vec::new();
    loop {
        let new: Vec<Pid> = members(directories)?
            .into_iter()
            .filter(|pid| !told.contains(pid))
            .collect();
        for pid in &new {
            if let Some(target) = rustix::process::Pid::from_raw(pid.as_raw()) {
                send(target, signal);
            }
        }
        if new.is_empty() || signal != libc::SIGKILL {
            return Ok(());
        }
        told.extend(new);
    }
}

fn kill_at_once(directories: &[Directory]) -> bool {
    let mut unified = directories
        .iter()
        .filter(|directory| directory.version == Version::V2);
    // An older kernel has no such file; a directory that is gone has nobody in it, which the rounds find out.
    unified.next().is_some_and(|directory| {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(directory.path.join("cgroup.kill"));
        file.is_ok_and(|mut file| file.write_all(b"1").is_ok())
    })
}

/// A process that is gone already has what was wanted.
fn send(target: rustix::process::Pid, signal: i32) {
    let pidfd = rustix::process::pidfd_open(target, rustix::process::PidfdFlags::empty());
    if let Ok(pidfd) = pidfd {
        let _ = sys::process::pidfd_send_signal(&pidfd, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_collected_from_below_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "7\n3\n").unwrap();
        fs::write(dir.path().join("inner/cgroup.procs"), "0\n5\n").unwrap();
        let directory = Directory {
            path: dir.path().to_owned(),
            version: Version::V2,
        };
        let pids: Vec<i32> = members(&[directory])
            .unwrap()
            .iter()
            .map(|pid| pid.as_raw())
            .collect();
        assert_eq!(pids, [3, 5, 7]);
    }
}

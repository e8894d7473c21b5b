//! How processes end: reaping, the record of it on disk, and whether the kernel ran out of memory.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use rustix::process::{WaitOptions, waitpid};

use super::protocol::ExitRecord;

/// What wait(2) says of a dead process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Exited(i32),
    Killed(i32),
}

const UNKNOWN: Status = Status::Exited(255);

impl Status {
    /// The shell's convention: the status, or 128 + signal.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }

    pub(super) fn signal(self) -> Option<i32> {
        match self {
            Self::Exited(_) => None,
            Self::Killed(signal) => Some(signal),
        }
    }
}

/// Reaps the child `pid` if it has ended. A child that is not ours to reap counts as ended with an unknown status.
pub(super) fn reap(pid: Pid) -> Option<Status> {
    // Not nix: it has no name for real-time signals and reports their victims as an error.
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    match rustix::io::retry_on_intr(|| waitpid(pid, WaitOptions::NOHANG)) {
        Ok(None) => None,
        Ok(Some((_, status))) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Killed(signal),
            (None, None) => UNKNOWN,
        }),
        Err(_) => Some(UNKNOWN),
    }
}

/// Writes `record` to `directory/name` so that it is there as a whole or not at all, even after a crash.
pub(super) fn persist(directory: &Path, name: &str, record: &ExitRecord) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.tmp"));
    let write = || {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, directory.join(name))?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| {
        // The first error is the one that counts.
        let _ = std::fs::remove_file(&temporary);
    })
}

/// The kernel's count of processes that it killed in a memory cgroup: `oom_kill` in `memory.events` (v2) or
/// `memory.oom_control` (v1, Linux 4.13 and later).
#[derive(Debug)]
pub(super) struct OomCounter {
    file: File,
    at_start: u64,
}

impl OomCounter {
    /// The counter of the cgroup that `pid` is in; `None` where there is no memory controller or no cgroup of its own.
    pub(super) fn open(pid: Pid) -> Option<Self> {
        let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let file = File::open(counter_path(&membership)?).ok()?;
        let mut counter = Self { file, at_start: 0 };
        counter.at_start = counter.read()?;
        Some(counter)
    }

    /// Whether anything was killed since [`Self::open`].
    pub(super) fn has_risen(&mut self) -> bool {
        self.read().is_some_and(|count| count > self.at_start)
    }

    fn read(&mut self) -> Option<u64> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        oom_kills(&text)
    }
}

/// Finds the memory cgroup in the lines of /proc/PID/cgroup (cgroups(7)). A v1 hierarchy wins over the unified one: on
/// hybrid systems that is where the memory controller is.
fn counter_path(membership: &str) -> Option<PathBuf> {
    let lines = || {
        membership
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
    };
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (base, path, file) = match v1 {
        Some((_, path)) => ("/sys/fs/cgroup/memory", path, "memory.oom_control"),
        None => (
            "/sys/fs/cgroup",
            lines().find(|(controllers, _)| controllers.is_empty())?.1,
            "memory.events",
        ),
    };
    let relative = path.strip_prefix('/').filter(|path| !path.is_empty())?;
    Some(Path::new(base).join(relative).join(file))
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_shell() {
        assert_eq!((Status::Exited(7).code(), Status::Exited(7).signal()), (7, None));
        assert_eq!(
            (Status::Killed(9).code(), Status::Killed(9).signal()),
            (137, Some(9))
        );
    }

    fn end_of(script: &str) -> Status {
        let mut command = std::process::Command::new("/bin/sh");
        let mut child = command
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        assert_eq!(reap(pid), None, "it waits for its input to end");
        drop(child.stdin.take());
        let status = std::iter::repeat_with(|| reap(pid)).find_map(|status| status);
        assert!(child.wait().is_err(), "there is nothing left to reap");
        status.unwrap()
    }

    #[test]
    fn children_are_reaped_once_they_have_ended() {
        assert_eq!(end_of("read x; exit 3"), Status::Exited(3));
        assert_eq!(end_of("read x; kill -9 $$"), Status::Killed(9));
        assert_eq!(
            end_of("read x; kill -40 $$"),
            Status::Killed(40),
            "a real-time signal"
        );
    }

    #[test]
    fn a_record_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = ExitRecord {
            exit_code: 0,
            signal: None,
            oom_killed: false,
            started_at: "a".into(),
            finished_at: "b".into(),
            error: None,
        };
        persist(dir.path(), "exit.json", &record).unwrap();
        record.exit_code = 137;
        record.signal = Some(9);
        persist(dir.path(), "exit.json", &record).unwrap();
        let text = std::fs::read_to_string(dir.path().join("exit.json")).unwrap();
        assert_eq!(
            text,
            r#"{"exitCode":137,"signal":9,"oomKilled":false,"startedAt":"a","finishedAt":"b"}"#
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(persist(&dir.path().join("missing"), "exit.json", &record).is_err());
    }

    #[test]
    fn the_memory_cgroup_is_found_in_every_layout() {
        let v1 = "12:memory:/shoal/c1\n4:cpu,cpuacct:/shoal/c1\n0::/shoal/c1\n";
        assert_eq!(
            counter_path(v1).unwrap(),
            Path::new("/sys/fs/cgroup/memory/shoal/c1/memory.oom_control")
        );
        let v2 = "0::/shoal/c1\n";
        assert_eq!(
            counter_path(v2).unwrap(),
            Path::new("/sys/fs/cgroup/shoal/c1/memory.events")
        );
        assert_eq!(counter_path("3:memory:/\n"), None, "the root is nobody's own");
        assert_eq!(counter_path(""), None);
    }

    #[test]
    fn both_counter_files_are_understood() {
        assert_eq!(
            oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        assert_eq!(
            oom_kills("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(oom_kills("oom_kill_disable 0\n"), None);
    }
}

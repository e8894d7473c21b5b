//! The program of a process in a container, and everything about it that survives execve(2).
//!
//! Planned by the caller, where a bad value is an ordinary error; applied in the process in two halves, before and after it
//! may have to wait for its start.

use std::ffi::{CString, NulError};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, PosixRlimit, Process};
use rustix::process::DumpableBehavior;
use sys::process::{CloseRange, close_range};

use super::caps::Sets;
use super::identity::Identity;
use super::{Error, home, rlimits, stdio};
use crate::rootfs::enter_cwd;
use crate::rootfs::path::Root;
use crate::seccomp::{self, Program, SeccompError};

/// Directories searched when the environment has no `PATH` (what Docker sets).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A payload.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    args: Vec<CString>,
    env: Vec<CString>,
    /// Files to try to execute, in order.
    candidates: Vec<CString>,
    /// The program as it was asked for.
    program: String,
    cwd: PathBuf,
    umask: u32,
    identity: Identity,
    capabilities: Sets,
    rlimits: Vec<PosixRlimit>,
    no_new_privileges: bool,
    seccomp: Option<Program>,
}

/// Why a process cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An argument or variable has a NUL byte inside.
    #[error("process.{0}")]
    Nul(&'static str, #[source] NulError),
    /// The seccomp profile cannot be compiled.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

impl Payload {
    /// Plans `process`, filtered by `seccomp`.
    pub(crate) fn plan(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<Self, PlanError> {
        let user = process.user();
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let program = args.first().cloned().unwrap_or_default();
        let candidates: Vec<String> = candidates(&program, env);
        Ok(Self {
            args: strings("args", args)?,
            env: strings("env", env)?,
            candidates: strings("args", &candidates)?,
            program,
            cwd: process.cwd().clone(),
            umask: user.umask().unwrap_or(0o022),
            identity: Identity {
                uid: user.uid(),
                gid: user.gid(),
                groups: user.additional_gids().clone().unwrap_or_default(),
            },
            capabilities: Sets::of(process.capabilities().as_ref()),
            rlimits: process.rlimits().clone().unwrap_or_default(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            seccomp: seccomp.map(seccomp::compile).transpose()?,
        })
    }

    /// First half: everything but what the payload must not be watched doing. `root` is the container's.
    pub(crate) fn prepare(&mut self, root: &Root) -> Result<(), Error> {
        rlimits::apply(&self.rlimits)?;
        self.add_home(root)?;
        stdio::give_to(self.identity.uid);
        enter_cwd(root, &self.cwd)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.umask));
        self.capabilities.check_available()?;
        self.capabilities.apply_bounding()?;
        self.identity.assume()?;
        if self.identity.uid != 0 {
            Sets::raise_effective()?;
        }
        // A change of user makes the process dumpable by its new owner at execve(2), not before (prctl(2)).
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| Error::Step("hide the process", error.into()))
    }

    /// Second half: nothing of the runtime's is left behind, and the program runs. Returns only an error.
    ///
    /// Without `no_new_privs` a filter needs `CAP_SYS_ADMIN`, so that it precedes the last change of capabilities; with it
    /// the filter is the very last step.
    pub(crate) fn execute(&self) -> Error {
        self.finish().err().unwrap_or_else(|| self.exec())
    }

    fn finish(&self) -> Result<(), Error> {
        close_range(3, u32::MAX, CloseRange::OnExec)
            .map_err(|e| Error::Step("mark descriptors close-on-exec", e))?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(|e| Error::Step("set no_new_privs", e.into()))?;
            self.capabilities.apply()?;
            self.install_seccomp()
        } else {
            self.install_seccomp()?;
            self.capabilities.apply()
        }
    }

    fn install_seccomp(&self) -> Result<(), Error> {
        let Some(program) = &self.seccomp else {
            return Ok(());
        };
        sys::seccomp::install(&program.filter, program.flags)
            .map(drop)
            .map_err(|error| Error::Step("install the seccomp filter", error))
    }

    fn exec(&self) -> Error {
        let mut refusal = None;
        for candidate in &self.candidates {
            let Err(error) = nix::unistd::execve(candidate, &self.args, &self.env);
            match error {
                nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {}
                // As a shell does: a file that may not be executed does not hide one later in the path.
                nix::errno::Errno::EACCES => refusal = Some(error),
                error => return self.error(error),
            }
        }
        self.error(refusal.unwrap_or(nix::errno::Errno::ENOENT))
    }

    fn error(&self, errno: nix::errno::Errno) -> Error {
        let missing = errno == nix::errno::Errno::ENOENT;
        let reason = match errno {
            _ if missing && !self.program.contains('/') => "executable file not found in $PATH".to_owned(),
            nix::errno::Errno::ENOENT => "no such file or directory".to_owned(),
            nix::errno::Errno::EACCES => "permission denied".to_owned(),
            nix::errno::Errno::ENOEXEC => "exec format error".to_owned(),
            other => other.desc().to_lowercase(),
        };
        Error::Exec {
            program: self.program.clone(),
            reason,
            code: if missing { 127 } else { 126 },
        }
    }

    fn add_home(&mut self, root: &Root) -> Result<(), Error> {
        if self
            .env
            .iter()
            .any(|variable| variable.to_bytes().starts_with(b"HOME="))
        {
            return Ok(());
        }
        let home = home::directory(root, self.identity.uid);
        let variable = CString::new(format!("HOME={home}"))
            .map_err(|_| Error::Step("set HOME", std::io::ErrorKind::InvalidData.into()))?;
        self.env.push(variable);
        Ok(())
    }
}

fn strings(field: &'static str, texts: &[String]) -> Result<Vec<CString>, PlanError> {
    texts
        .iter()
        .map(|text| CString::new(text.as_str()).map_err(|error| PlanError::Nul(field, error)))
        .collect()
}

/// The program itself if it has a slash, otherwise its name in each directory of `PATH`.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.is_empty() || program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| {
            if directory.is_empty() {
                format!("./{program}")
            } else {
                format!("{directory}/{program}")
            }
        })
        .collect()
}

/// Closes every descriptor from 3 on that is not in `keep`: a process that waits must hold nothing of the caller's open.
pub(crate) fn close_all_but(keep: &mut [i32]) -> Result<(), Error> {
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .filter(|fd| *fd >= 3)
    {
        if fd > first {
            close_range(first, fd - 1, CloseRange::Now).map_err(|e| Error::Step("close descriptors", e))?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, CloseRange::Now).map_err(|e| Error::Step("close descriptors", e))
}

/// The numbers of `fds`.
pub(crate) fn numbers<'a>(fds: impl IntoIterator<Item = &'a std::os::fd::OwnedFd>) -> Vec<i32> {
    fds.into_iter().map(AsRawFd::as_raw_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_in_the_path_of_the_container() {
        let env = ["PATH=/a:/b".to_owned()];
        assert_eq!(candidates("x", &env), ["/a/x", "/b/x"]);
        assert_eq!(candidates("./x", &env), ["./x"]);
        assert_eq!(candidates("x", &[]).len(), 6);
    }

    #[test]
    fn a_missing_program_is_127_and_an_unusable_one_126() {
        let process: Process = serde_json::from_value(serde_json::json!({
            "cwd": "/", "args": ["nosuch"], "user": {"uid": 0, "gid": 0}
        }))
        .unwrap();
        let payload = Payload::plan(&process, None).unwrap();
        let missing = payload.error(nix::errno::Errno::ENOENT);
        assert_eq!(
            missing.to_string(),
            "exec: \"nosuch\": executable file not found in $PATH"
        );
        assert_eq!(missing.code(), 127);
        assert_eq!(payload.error(nix::errno::Errno::EACCES).code(), 126);
    }
}

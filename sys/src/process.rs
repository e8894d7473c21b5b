//! Making, signalling and ending processes: `clone3(2)` used as a fork into new namespaces, pidfds, `close_range(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Flags of `clone3(2)` and `unshare(2)`, the kernel's `CLONE_*`.
pub mod clone_flags {
    /// New time namespace (for children only).
    pub const NEWTIME: u64 = 0x80;
    /// New mount namespace.
    pub const NEWNS: u64 = 0x0002_0000;
    /// New cgroup namespace.
    pub const NEWCGROUP: u64 = 0x0200_0000;
    /// New UTS namespace.
    pub const NEWUTS: u64 = 0x0400_0000;
    /// New IPC namespace.
    pub const NEWIPC: u64 = 0x0800_0000;
    /// New user namespace.
    pub const NEWUSER: u64 = 0x1000_0000;
    /// New PID namespace.
    pub const NEWPID: u64 = 0x2000_0000;
    /// New network namespace.
    pub const NEWNET: u64 = 0x4000_0000;
    /// The child's parent is the caller's parent.
    pub const PARENT: u64 = 0x0000_8000;
}

/// A duplicate of another process's descriptor (`pidfd_getfd(2)`, Linux 5.6). `ESRCH` and `EBADF`: the process or the
/// descriptor is gone. Needs the right to trace the process.
pub fn duplicate_of(process: i32, descriptor: RawFd) -> io::Result<OwnedFd> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let process = Pid::from_raw(process).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?)
}

/// A process made by [`fork_with`].
#[derive(Debug)]
pub struct Child {
    /// Process id, as seen from the caller's PID namespace.
    pub pid: i32,
    /// Descriptor of the process (close-on-exec).
    pub pidfd: OwnedFd,
}

/// Exit code of a child whose closure panicked.
const PANICKED: i32 = 70;

/// `struct clone_args` up to `CLONE_ARGS_SIZE_VER2` (Linux 5.7).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks the calling process into the new namespaces of `flags` (see [`clone_flags`]) and runs `child` there; the new
/// process ends with its answer as exit code, without running anything of the caller's. With `cgroup`, a directory of
/// the v2 hierarchy, it starts as a member.
///
/// Signal handlers are reset in the child, ignored signals stay ignored. Fails with `EINVAL` when the calling process has
/// more than one thread: the child of a threaded process may not run ordinary code. The C library's cached thread id is
/// stale in the child, which only `raise` and `abort` would notice.
pub fn fork_with(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    assert_single_threaded()?;
    let mut pidfd: RawFd = -1;
    let with_parent = flags & clone_flags::PARENT != 0;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd).addr() as u64,
        // With CLONE_PARENT the child sends what its new parent's own child would.
        exit_signal: if with_parent { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
    }
    let (address, size) = (std::ptr::from_mut(&mut args), size_of::<CloneArgs>());
    // SAFETY: the only pointer in `args` is to `pidfd`, which lives across the call. Without CLONE_VM the child runs on a
    // copy of this stack, as after fork(2), and the process has no other thread (checked above) that could have held a
    // lock of the C library or the allocator.
    let returned = unsafe { libc::syscall(libc::SYS_clone3, address, size) };
    match returned {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            exit_now(outcome.unwrap_or(PANICKED))
        }
        pid if pid > 0 => Ok(Child {
            pid: i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?,
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process at once: no destructor, no exit handler, no buffer is flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives a process what execve(2) would keep from the caller otherwise: no signal blocked, `SIGPIPE` (which Rust
/// programs ignore) with its default action.
pub fn default_signals() -> io::Result<()> {
    // SAFETY: all-zero is a valid sigset_t, and sigemptyset initialises it.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` lives across both calls; SIG_DFL installs no handler, and the old mask is not asked for.
    let failed = unsafe {
        libc::sigemptyset(&raw mut none);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR
            || libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) < 0
    };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `unshare(CLONE_THREAD)` changes nothing and fails with `EINVAL` in a process of several threads.
fn assert_single_threaded() -> io::Result<()> {
    // SAFETY: unshare(2) takes no pointer; CLONE_THREAD is a check only (kernel/fork.c, check_unshare_flags).
    if unsafe { libc::unshare(libc::CLONE_THREAD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends signal number `signal`, real-time signals included, to the process behind `pidfd`.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) does; no other pointer is passed.
    if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What [`close_range`] does to the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseRange {
    /// Marks them close-on-exec.
    OnExec,
    /// Closes them. Every owner of one of them in this process must be forgotten, not dropped.
    Now,
}

/// Applies `how` to every descriptor from `first` to `last`, both included.
pub fn close_range(first: u32, last: u32, how: CloseRange) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    let flags = match how {
        CloseRange::OnExec => CLOSE_RANGE_CLOEXEC,
        CloseRange::Now => 0,
    };
    // SAFETY: takes no pointer. Closing a descriptor that a Rust value owns would break I/O safety; the
    // documentation of `CloseRange::Now` leaves that to the caller, as closing is the purpose.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Replaces the program of this process by the file that `file` is open on (`execveat(2)`, `AT_EMPTY_PATH`).
///
/// Returns only the error.
pub fn execve_fd(file: BorrowedFd<'_>, args: &[std::ffi::CString], env: &[std::ffi::CString]) -> io::Error {
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in NULL and point to NUL-terminated strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_is_refused() {
        // The test harness itself runs each test on a thread of its own.
        let error = fork_with(0, None, || 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

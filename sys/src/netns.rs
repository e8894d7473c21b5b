//! Network namespaces: run a closure inside one, make a new one.
//!
//! A network namespace belongs to a *thread* (network_namespaces(7)), so both functions work in a short-lived thread of
//! their own: the caller, which may be a worker of an async runtime, never leaves its own namespace. Sockets opened by
//! the closure stay in the namespace in which they were opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

/// The network namespace of the calling thread, as a descriptor.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Run `work` in a thread that has entered `netns`, and hand back its result.
///
/// # Errors
/// The thread could not be made, or setns(2) refused (`EPERM`, or `EINVAL` if `netns` is no network namespace).
pub fn run_in<T: Send>(netns: impl AsFd + Send, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Make a new network namespace, run `work` inside it, and hand back both. The namespace lives as long as the
/// descriptor, a socket in it, or a bind mount of it.
pub fn create<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<(OwnedFd, T)> {
    in_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok((current()?, work()))
    })
}

fn in_thread<T: Send>(body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024);
        match thread.spawn_scoped(scope, body)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> usize {
        std::fs::read_to_string("/proc/thread-self/net/dev")
            .unwrap()
            .lines()
            .count()
    }

    #[test]
    fn a_closure_runs_inside_and_the_caller_stays_outside() {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let (netns, inside) = create(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(inside, before);
        let (again, devices) = run_in(&netns, || {
            (std::fs::read_link("/proc/thread-self/ns/net").unwrap(), links())
        })
        .unwrap();
        assert_eq!(again, inside);
        assert_eq!(devices, 3, "two heading lines and lo");
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    }

    #[test]
    fn a_descriptor_of_something_else_is_refused() {
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(
            run_in(&file, || ()).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}

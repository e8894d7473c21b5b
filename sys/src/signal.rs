//! Surviving signals without passing the disposition on.

use std::io;

/// Lets the process outlive `signals` by giving them a handler that does nothing.
///
/// Unlike `SIG_IGN`, a handler does not survive execve(2) (signal(7)), so programs that this process starts see the
/// default. System calls that wait may return `EINTR`.
///
/// # Errors
/// `EINVAL` for a signal that cannot be caught.
pub fn outlive(signals: &[i32]) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    for &signal in signals {
        // SAFETY: an all-zero sigaction is a valid value: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: `action` is initialised and lives across the call; the handler does nothing, so it is
        // async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_signal_is_outlived_but_not_by_the_children() {
        outlive(&[libc::SIGUSR2]).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR2).unwrap();
        let status = Command::new("/bin/sh")
            .args(["-c", "kill -USR2 $$; sleep 5"])
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGUSR2));
    }

    #[test]
    fn what_cannot_be_caught_is_an_error() {
        assert_eq!(
            outlive(&[libc::SIGKILL]).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}

//! Entering namespaces by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Moves the calling thread into the namespaces behind `fd`.
///
/// `fd` is a namespace file and `flags` its type or 0, or `fd` is a pidfd and `flags` the set of namespaces of
/// that process to join ([`crate::process::clone_flags`]); the kernel joins a user namespace first.
pub fn setns(fd: impl AsFd, flags: u64) -> io::Result<()> {
    let flags = i32::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: takes no pointer; `fd` is open for the duration of the call.
    if unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = File::open("/dev/null").unwrap();
        assert!(setns(&file, 0).is_err());
    }
}

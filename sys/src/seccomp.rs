//! `seccomp(2)`: installing a classic BPF filter on the calling thread.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, addressing mode and size.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Installs `filter` with `flags` (`SECCOMP_FILTER_FLAG_*`) on the calling thread.
///
/// Needs `no_new_privs` or `CAP_SYS_ADMIN` in the caller's user namespace. With
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` the notification descriptor is returned.
pub fn install(filter: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let Ok(len) = u16::try_from(filter.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `program` and the `len` instructions it points to live across the call, the kernel only reads
    // them, and `Instruction` is `repr(C)` with exactly the fields of `struct sock_filter`.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    let wants_listener = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    let fd = i32::try_from(returned).unwrap_or(-1);
    // SAFETY: with the listener flag a non-negative result is a new descriptor that nobody else owns.
    Ok((wants_listener && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_is_refused_by_the_kernel() {
        let error = install(&[], 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

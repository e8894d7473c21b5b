//! The runtime's own binary, out of reach of what it starts (CVE-2019-5736).
//!
//! A container whose program is `/proc/self/exe` executes the runtime, and root in there could open it for writing once it
//! has ended. Therefore whatever enters a container runs from a detached read-only mount of the binary: the file cannot be
//! opened for writing through it, by anybody, and there is no copy of it to make. It costs one more execve(2), which a
//! caller saves that starts the runtime from a read-only mount in the first place.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use sys::mount::{MountAttr, attr, mount_setattr};

const SELF: &str = "/proc/self/exe";

/// Returns if the program of this process is sealed already; otherwise executes it again, sealed, with the same arguments.
///
/// Without `CAP_SYS_ADMIN` it returns too: then the binary is protected by its owner and mode as any other.
pub(crate) fn ensure() -> io::Result<()> {
    if rustix::fs::statvfs(SELF)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        // Executed by descriptor, it would be called by the descriptor's number on older kernels.
        rustix::thread::set_name(c"runtime")?;
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = match open_tree(CWD, SELF, flags) {
        Err(rustix::io::Errno::PERM) => return Ok(()),
        file => file?,
    };
    let read_only = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    mount_setattr(&file, false, &read_only)?;
    let args = strings(std::env::args_os())?;
    let env = std::env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variable
    });
    Err(sys::process::execve_fd(file.as_fd(), &args, &strings(env)?))
}

fn strings(texts: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    texts.map(|text| Ok(CString::new(text.into_vec())?)).collect()
}

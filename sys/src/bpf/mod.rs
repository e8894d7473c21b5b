//! `bpf(2)`: programs and maps of the kernel's virtual machine, without a library and without a compiler.
//!
//! - [`asm`] writes instructions, with labels instead of offsets.
//! - [`map`] makes and changes hash tables that programs read.
//! - [`program`] loads programs and attaches them to cgroups of the v2 hierarchy.
//! - [`ingress`] loads programs and attaches them to links, for the packets that come in there.
//!
//! A program or map lives as long as somebody holds it: a descriptor, a program that uses the map, a cgroup that the
//! program is attached to. Identifiers lead back to it.

pub mod asm;
pub mod ingress;
pub mod map;
pub mod program;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

pub use asm::Instruction;
pub use program::{attach_device_program, load_device_program};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Length of names with their NUL.
const NAME: usize = 16;

/// A kind of object that has identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program.
    Program,
    /// A map.
    Map,
}

#[repr(C, align(8))]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
    /// No byte that the kernel sees may be left to chance: it refuses what it does not know.
    fd_by_id_token_fd: u32,
}

#[repr(C, align(8))]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The identifiers of all objects of a kind on this machine. Needs `CAP_SYS_ADMIN`.
pub fn ids(kind: Kind) -> io::Result<Vec<u32>> {
    let command = match kind {
        Kind::Program => 11,
        Kind::Map => 12,
    };
    let mut found = Vec::new();
    let mut attr = IdAttr::default();
    loop {
        // SAFETY: `attr` holds no pointer; the kernel writes `next_id` into it.
        match unsafe { call(command, &mut attr) } {
            Ok(_) => found.push(attr.next_id),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            Err(error) => return Err(error),
        }
        attr.id = attr.next_id;
    }
}

/// A descriptor of an object; `None` if there is none of that identifier any more.
fn by_id(kind: Kind, id: u32) -> io::Result<Option<OwnedFd>> {
    let command = match kind {
        Kind::Program => 13,
        Kind::Map => 14,
    };
    let mut attr = IdAttr {
        id,
        ..IdAttr::default()
    };
    // SAFETY: `attr` holds no pointer, and these commands answer with a new descriptor.
    match unsafe { call(command, &mut attr).and_then(|fd| owned(fd)) } {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel says about an object.
///
/// # Safety
/// `T` must be the beginning of the kernel's structure for the object's kind, valid for any bytes, and every address in
/// `info` must be that of memory as large as the count beside it says.
unsafe fn describe<T>(object: impl AsFd, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: descriptor(object),
        info_len: size_of::<T>() as u32,
        info: (&raw mut *info).expose_provenance() as u64,
    };
    // SAFETY: `attr` names `info` with its size, and the kernel writes no more than that; the rest is promised above.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// The system call.
///
/// # Safety
/// `T` must be laid out as the beginning of the kernel's `union bpf_attr` for `command`, valid for any bytes the kernel
/// writes, and every address in it must be that of memory which the command may read or write, alive across the call.
unsafe fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: see above; the size given is that of `attr`.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// # Safety
/// `answer` must be a new descriptor that nobody else owns.
unsafe fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: promised above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn descriptor(object: impl AsFd) -> u32 {
    object.as_fd().as_raw_fd().cast_unsigned()
}

/// A name as the kernel takes it; longer ones are cut.
fn name(text: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    let length = text.len().min(NAME - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn text(name: &[u8; NAME]) -> String {
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    String::from_utf8_lossy(&name[..length]).into_owned()
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_read_back() {
        assert_eq!(text(&name("shoal_vips")), "shoal_vips");
        assert_eq!(text(&name("a_name_of_seventeen")), "a_name_of_seven");
        assert_eq!(size_of::<IdAttr>(), 16);
        assert_eq!(size_of::<InfoAttr>(), 16);
    }
}

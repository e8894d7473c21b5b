//! Programs on the packets that come in by a link (`tcx`, Linux 6.6).

use std::io;
use std::os::fd::OwnedFd;

use super::program::{Program, Refused};
use super::{Instruction, call, descriptor, owned};

const LINK_CREATE: libc::c_int = 28;
const TYPE_SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;

/// What a program answers that leaves a packet to whatever comes next.
pub const NEXT: i32 = -1;

/// No link has this index: the kernel counts up to 2^31 - 1.
const NOWHERE: u32 = u32::MAX;

/// A program on a link. It goes with this, with the process, and with the link.
#[derive(Debug)]
pub struct Attachment {
    _link: OwnedFd,
}

/// The fields of `union bpf_attr` for `BPF_LINK_CREATE` with `tcx`.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkAttr {
    program: u32,
    link: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    _hole: u32,
    expected_revision: u64,
}

/// Loads a program for packets; the kernel verifies it.
pub fn load(called: &str, code: &[Instruction]) -> Result<Program, Refused> {
    Program::verified(TYPE_SCHED_CLS, TCX_INGRESS, called, code)
}

/// Attaches it to the link of this index in the thread's network namespace, after what is there. Needs `CAP_NET_ADMIN`; waits
/// until no processor works with the old list, some milliseconds. A kernel before 6.6 answers `EINVAL`.
pub fn attach(program: &Program, link: u32) -> io::Result<Attachment> {
    let mut attr = LinkAttr {
        program: descriptor(program),
        link,
        attach_type: TCX_INGRESS,
        ..LinkAttr::default()
    };
    // SAFETY: `attr` holds no pointer, and the command answers with a new descriptor.
    let link = unsafe { call(LINK_CREATE, &mut attr).and_then(|fd| owned(fd)) }?;
    Ok(Attachment { _link: link })
}

/// Whether this kernel knows such programs: one that does looks for the link first.
///
/// # Errors
/// The kernel's: `EINVAL` of one before 6.6.
pub fn probe(program: &Program) -> io::Result<()> {
    match attach(program, NOWHERE) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::asm::{Assembler, Reg};
    use super::*;

    #[test]
    fn a_program_is_attached_to_a_link_that_is_there() {
        assert_eq!(size_of::<LinkAttr>(), 32);
        let mut code = Assembler::default();
        code.set(Reg::R0, NEXT).exit();
        let program = load("shoal_test", &code.finish().unwrap()).expect("tests of sys need root");
        let (_namespace, (there, nowhere)) =
            crate::netns::create(|| (attach(&program, 1), attach(&program, NOWHERE))).unwrap();
        there.expect("every namespace has a loopback, and the kernel has tcx");
        assert_eq!(nowhere.unwrap_err().raw_os_error(), Some(libc::ENODEV));
        probe(&program).unwrap();
    }
}

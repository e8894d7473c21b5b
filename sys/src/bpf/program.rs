//! Programs: loading, and attaching to cgroups of the v2 hierarchy.
//!
//! Several programs may be attached to one cgroup, and those of the cgroups above run too (`BPF_F_ALLOW_MULTI`): what others
//! attach is left alone. An attached program lives as long as the cgroup, whoever attached it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Instruction, Kind, NAME, by_id, call, describe, descriptor, ids, name, owned, text};

const LOAD: libc::c_int = 5;
const ATTACH: libc::c_int = 8;
const DETACH: libc::c_int = 9;
const QUERY: libc::c_int = 16;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
const TYPE_CGROUP_DEVICE: u32 = 15;
const TYPE_SOCK_ADDR: u32 = 18;
const CGROUP_DEVICE: u32 = 6;
/// What the verifier says about a refused program ends with the reason.
const LOG: usize = 256 * 1024;
/// More than the kernel allows on one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MOST_PROGRAMS: usize = 128;
const MOST_MAPS: usize = 64;

/// Where a program for socket addresses runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
}

/// The kernel refused a program.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses it{}", reason(log))]
pub struct Refused {
    /// Errno.
    pub source: io::Error,
    /// What the verifier said, if it got so far.
    pub log: String,
}

/// A program held by a descriptor.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    /// Its identifier.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Digest of its instructions, maps not counted: two programs with the same one do the same.
    pub tag: [u8; 8],
    /// Identifiers of its maps.
    pub maps: Vec<u32>,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; NAME],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct AttachAttr {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _hole: u32,
}

/// The first fields of `struct bpf_prog_info`.
#[repr(C, align(8))]
#[derive(Default)]
struct Info {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; NAME],
}

impl Program {
    /// Loads a program for socket addresses; the kernel verifies it.
    pub fn load(hook: Hook, called: &str, code: &[Instruction]) -> Result<Self, Refused> {
        Self::verified(TYPE_SOCK_ADDR, hook as u32, called, code)
    }

    /// Loads a program of this type, to be attached so; the kernel verifies it.
    pub(super) fn verified(
        prog_type: u32,
        expected_attach_type: u32,
        called: &str,
        code: &[Instruction],
    ) -> Result<Self, Refused> {
        let attr = || LoadAttr {
            prog_type,
            name: name(called),
            expected_attach_type,
            ..LoadAttr::default()
        };
        let fd = load(attr(), code, &mut []).or_else(|source| {
            // A second time with a log, for the reason: keeping one slows down every load.
            let mut log = vec![0; LOG];
            load(attr(), code, &mut log).map_err(|_| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(LOG);
                let log = String::from_utf8_lossy(&log[..end]).into_owned();
                Refused { source, log }
            })
        })?;
        Self::of(fd).map_err(|source| Refused {
            source,
            log: String::new(),
        })
    }

    /// The program of this identifier; `None` if there is none any more.
    pub fn by_id(id: u32) -> io::Result<Option<Self>> {
        by_id(Kind::Program, id)?.map(Self::of).transpose()
    }

    /// Attaches it to the cgroup directory `cgroup`, beside others. Needs `CAP_NET_ADMIN`.
    pub fn attach(&self, cgroup: impl AsFd, hook: Hook) -> io::Result<()> {
        attach(cgroup, &self.fd, hook as u32, None)
    }

    /// Takes the place of `old` on the cgroup, in one step.
    pub fn replace(&self, cgroup: impl AsFd, hook: Hook, old: &Self) -> io::Result<()> {
        attach(cgroup, &self.fd, hook as u32, Some(old.as_fd()))
    }

    /// Takes it from the cgroup.
    pub fn detach(&self, cgroup: impl AsFd, hook: Hook) -> io::Result<()> {
        let mut attr = AttachAttr {
            target: descriptor(cgroup),
            program: descriptor(&self.fd),
            attach_type: hook as u32,
            ..AttachAttr::default()
        };
        // SAFETY: `attr` holds no pointer.
        unsafe { call(DETACH, &mut attr) }.map(drop)
    }

    /// What is attached to this cgroup itself, in the order in which it runs.
    pub fn attached(cgroup: impl AsFd, hook: Hook) -> io::Result<Vec<Self>> {
        let mut ids = [0u32; MOST_PROGRAMS];
        let mut attr = QueryAttr {
            target: descriptor(cgroup),
            attach_type: hook as u32,
            ids: ids.as_mut_ptr().expose_provenance() as u64,
            count: MOST_PROGRAMS as u32,
            ..QueryAttr::default()
        };
        // SAFETY: `ids` has room for as many identifiers as `count` says and lives across the call.
        unsafe { call(QUERY, &mut attr) }?;
        let ids = ids.iter().take(attr.count as usize);
        ids.filter_map(|id| Self::by_id(*id).transpose()).collect()
    }

    fn of(fd: OwnedFd) -> io::Result<Self> {
        let mut maps = [0u32; MOST_MAPS];
        let mut info = Info {
            map_count: MOST_MAPS as u32,
            maps: maps.as_mut_ptr().expose_provenance() as u64,
            ..Info::default()
        };
        // SAFETY: `Info` is the beginning of `struct bpf_prog_info`; the one address in it is that of `maps`, with its
        // length beside it.
        unsafe { describe(&fd, &mut info) }?;
        Ok(Self {
            fd,
            id: info.id,
            name: text(&info.name),
            tag: info.tag,
            maps: maps.into_iter().take(info.map_count as usize).collect(),
        })
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names of all programs on this machine, with their identifiers.
pub fn names() -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for id in ids(Kind::Program)? {
        found.extend(Program::by_id(id)?.map(|program| (id, program.name)));
    }
    Ok(found)
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; the kernel verifies it.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        prog_type: TYPE_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    load(attr, program, &mut [])
}

/// Attaches `program` to the cgroup directory `cgroup`; it lives as long as the cgroup. Needs `CAP_SYS_ADMIN`.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    attach(cgroup, program, CGROUP_DEVICE, None)
}

fn load(mut attr: LoadAttr, program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    attr.insn_cnt = u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    attr.insns = program.as_ptr().expose_provenance() as u64;
    attr.license = c"Apache-2.0".as_ptr().expose_provenance() as u64;
    if !log.is_empty() {
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    }
    // SAFETY: `attr` holds the addresses of `program` and `log` with their lengths, and of a NUL-terminated literal, all
    // alive across the call, which writes to `log` only and answers with a new descriptor.
    unsafe { call(LOAD, &mut attr).and_then(|fd| owned(fd)) }
}

fn attach(
    cgroup: impl AsFd,
    program: impl AsFd,
    attach_type: u32,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = AttachAttr {
        target: descriptor(cgroup),
        program: descriptor(program),
        attach_type,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map(descriptor).unwrap_or_default(),
        relative: 0,
    };
    // SAFETY: `attr` holds no pointer.
    unsafe { call(ATTACH, &mut attr) }.map(drop)
}

/// The last thing that the verifier said before its statistics.
fn reason(log: &str) -> String {
    let mut lines = log
        .lines()
        .rev()
        .filter(|line| !line.is_empty() && !line.starts_with("processed "));
    lines.next().map(|line| format!(": {line}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::asm::{Assembler, Reg};
    use super::*;

    fn answer(value: i32) -> Vec<Instruction> {
        let mut a = Assembler::default();
        a.set(Reg::R0, value).exit();
        a.finish().unwrap()
    }

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<LoadAttr>(), 72);
        assert_eq!(size_of::<AttachAttr>(), 24);
        assert_eq!(size_of::<QueryAttr>(), 32);
        assert_eq!(std::mem::offset_of!(Info, name), 64);
    }

    #[test]
    fn the_empty_program_is_refused() {
        assert!(load_device_program(&[]).is_err());
    }

    #[test]
    fn a_refusal_carries_the_verifiers_reason() {
        // A program of this hook must answer 1.
        let refused = Program::load(Hook::GetPeerName4, "shoal_test", &answer(7)).unwrap_err();
        assert!(!refused.log.is_empty());
        assert!(refused.to_string().contains("R0"), "{refused}");
        assert_eq!(reason("one\ntwo\nprocessed 2 insns\n"), ": two");
    }

    #[test]
    fn the_same_instructions_have_the_same_tag() {
        let load = |value| Program::load(Hook::Connect4, "shoal_test", &answer(value)).unwrap();
        let (one, same, other) = (load(1), load(1), load(0));
        assert_eq!((one.tag, one.name.as_str()), (same.tag, "shoal_test"));
        assert_ne!(one.tag, other.tag);
        assert_ne!(one.id, same.id);
        assert!(names().unwrap().contains(&(one.id, "shoal_test".into())));
        assert_eq!(Program::by_id(one.id).unwrap().unwrap().tag, one.tag);
    }
}

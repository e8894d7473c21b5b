//! The OCI field `linux.seccomp`, compiled to a classic BPF program.
//!
//! Owns: names and numbers of system calls ([`table`], [`abi`]), what a profile means for each ABI ([`plan`]), and
//! code generation ([`codegen`], [`assembler`]). In: an [`oci_spec::runtime::LinuxSeccomp`]. Out: a [`Program`] for
//! [`sys::seccomp::install`]. Nothing here talks to the kernel.
//!
//! The meaning follows libseccomp as runc drives it, because that is what profiles were written against:
//! - names that an ABI does not know are skipped;
//! - a rule whose action is the default action is skipped;
//! - a rule without arguments beats every rule with arguments for the same call; of the others the first that matches
//!   wins; the arguments of one rule must all match, unless two of them look at the same argument, in which case each
//!   of them is a rule of its own;
//! - calls of an architecture that the profile does not list kill the process; the native one is always listed;
//! - a call that is newer than the newest one in the profile fails with `ENOSYS` if the default would refuse it, so
//!   that programs fall back to what they used before;
//! - i386's `socketcall` and `ipc` follow the rules for the calls that they multiplex. They hide the arguments from
//!   the filter; so where a rule looks at arguments, a permission is not extended to the multiplexer and a refusal
//!   covers it entirely (libseccomp lets AF_VSOCK through here).
//!
//! The generated program is a balanced tree of comparisons on the call number, with runs of numbers that share an
//! outcome merged: about seven comparisons for a call under Docker's profile. It touches nothing but the number and the
//! architecture on the way to an unconditional "allow", which lets the kernel (5.11 and later) cache that outcome in a
//! bitmap and skip the program altogether.

mod abi;
mod assembler;
mod codegen;
#[cfg(test)]
mod model;
mod plan;
mod table;
#[cfg(test)]
mod vm;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use sys::seccomp::Instruction;

use abi::Abi;

/// The kernel's limit on a classic BPF program (`BPF_MAXINSNS`, linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled filter: the two arguments of [`sys::seccomp::install`].
#[derive(Clone, Debug)]
pub struct Program {
    /// Classic BPF, at most 4096 instructions.
    pub filter: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Why a profile cannot be honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeccompError {
    /// SCMP_ACT_NOTIFY, `listenerPath` or `listenerMetadata`.
    #[error("linux.seccomp: {0} is not supported: there is no notification listener")]
    Notify(&'static str),
    /// OCI: a runtime must fail where the action does not take an errno.
    #[error("linux.seccomp: action {0} takes no errnoRet")]
    ErrnoNotAllowed(LinuxSeccompAction),
    /// Above the kernel's MAX_ERRNO for SCMP_ACT_ERRNO, or above 16 bits for SCMP_ACT_TRACE.
    #[error("linux.seccomp: errnoRet {0} is out of range")]
    ErrnoOutOfRange(u32),
    /// A rule with an empty name.
    #[error("linux.seccomp: a rule names an empty system call")]
    EmptyName,
    /// System calls have six arguments.
    #[error("linux.seccomp: rule for {name:?}: argument index {index} is above 5")]
    ArgumentIndex {
        /// First name of the rule.
        name: String,
        /// The index found.
        index: usize,
    },
    /// The kernel takes 4096 instructions.
    #[error(
        "linux.seccomp: the profile needs {0} BPF instructions, more than the {MAX_INSTRUCTIONS} allowed"
    )]
    TooLong(usize),
}

/// Compiles a profile for this machine.
///
/// # Errors
/// For anything in the profile that cannot be honoured exactly; see [`SeccompError`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    compile_for(Abi::NATIVE, profile)
}

fn compile_for(native: Abi, profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let plans = plan::plan(native, profile)?;
    let filter = codegen::generate(&plans);
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(filter.len()));
    }
    Ok(Program {
        filter,
        flags: flags(profile),
    })
}

/// As runc: a profile that says nothing about flags gets SPEC_ALLOW, without which old kernels switch on the costly
/// mitigation of speculative store bypass for every filtered process.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else {
        return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    };
    flags.iter().fold(0, |bits, flag| bits | flag_bit(*flag) as u32)
}

fn flag_bit(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // About waiting for a listener, and the kernel refuses it without one; a profile that has one is refused.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

#[cfg(test)]
mod tests;

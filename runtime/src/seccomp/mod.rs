//! OCI `linux.seccomp` compiled to a classic BPF program, without libseccomp.

use oci_spec::runtime::LinuxSeccomp;

/// A compiled filter, ready for [`sys::seccomp::install`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The instructions.
    pub filter: Vec<sys::seccomp::Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` of the configuration.
    pub flags: u32,
}

/// Why a seccomp configuration could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiler does not exist yet.
    #[error("linux.seccomp is not implemented")]
    NotBuilt,
}

/// Compiles `seccomp` for the architecture of this binary.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Program, Error> {
    let _ = seccomp;
    Err(Error::NotBuilt)
}

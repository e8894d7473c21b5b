//! The system call ABIs that a filter on this machine may meet, and how names become numbers in each of them.

use oci_spec::runtime::Arch;

use super::table::SYSCALLS;

/// Table entry of a name that the ABI does not have.
pub(super) const ABSENT: u32 = u32::MAX;

/// Marks an x32 call; it shares its audit architecture with x86_64 (asm/unistd.h, `__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A system call ABI; the discriminant is its column in [`SYSCALLS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64 = 0,
    X32 = 1,
    X86 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Abi {
    /// The ABI that this program itself uses.
    #[cfg(target_arch = "x86_64")]
    pub(super) const NATIVE: Self = Self::X86_64;
    /// The ABI that this program itself uses.
    #[cfg(target_arch = "aarch64")]
    pub(super) const NATIVE: Self = Self::Aarch64;

    /// The ABI that an OCI name stands for, or `None` where a machine of `native` can never run it: such an entry
    /// has no effect there, whatever the filter says.
    pub(super) fn from_oci(arch: Arch, native: Self) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => native,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        (abi.is_arm() == native.is_arm()).then_some(abi)
    }

    fn is_arm(self) -> bool {
        matches!(self, Self::Aarch64 | Self::Arm)
    }

    /// `AUDIT_ARCH_*` of linux/audit.h: what `seccomp_data.arch` holds.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number that `seccomp_data.nr` holds for a table entry of this ABI.
    pub(super) fn number(self, entry: &[u32; 5]) -> Option<u32> {
        match (self, entry[self as usize]) {
            (_, ABSENT) => None,
            (Self::X32, number) => Some(number | X32_BIT),
            (_, number) => Some(number),
        }
    }

    /// Whether arguments are 64 bits wide. As in libseccomp, x32 counts as a 32-bit ABI.
    pub(super) fn wide_arguments(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }
}

/// The numbers of a system call by ABI, or `None` for a name that no ABI knows.
pub(super) fn lookup(name: &str) -> Option<&'static [u32; 5]> {
    let index = SYSCALLS
        .binary_search_by(|(candidate, _)| (*candidate).cmp(name))
        .ok()?;
    Some(&SYSCALLS[index].1)
}

/// How i386 reaches a call through another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Multiplexed {
    /// The number of `socketcall` or `ipc`.
    pub(super) number: u32,
    /// What the first argument must be under `mask`.
    pub(super) selector: u64,
    pub(super) mask: u64,
}

/// The way of `name` through a multiplexer of i386: `SYS_*` of linux/net.h, and linux/ipc.h.
#[rustfmt::skip]
pub(super) fn multiplexed(name: &str) -> Option<Multiplexed> {
    let socket = |selector| Some(Multiplexed { number: 102, selector, mask: u64::from(u32::MAX) });
    // ipc(2) carries an ABI version in the upper half of its first argument.
    let ipc = |selector| Some(Multiplexed { number: 117, selector, mask: 0xffff });
    match name {
        "socket" => socket(1), "bind" => socket(2), "connect" => socket(3), "listen" => socket(4),
        "accept" => socket(5), "getsockname" => socket(6), "getpeername" => socket(7), "socketpair" => socket(8),
        "send" => socket(9), "recv" => socket(10), "sendto" => socket(11), "recvfrom" => socket(12),
        "shutdown" => socket(13), "setsockopt" => socket(14), "getsockopt" => socket(15), "sendmsg" => socket(16),
        "recvmsg" => socket(17), "accept4" => socket(18), "recvmmsg" => socket(19), "sendmmsg" => socket(20),
        "semop" => ipc(1), "semget" => ipc(2), "semctl" => ipc(3), "semtimedop" => ipc(4),
        "msgsnd" => ipc(11), "msgrcv" => ipc(12), "msgget" => ipc(13), "msgctl" => ipc(14),
        "shmat" => ipc(21), "shmdt" => ipc(22), "shmget" => ipc(23), "shmctl" => ipc(24),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_without_duplicates() {
        assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn native_numbers_agree_with_libc() {
        let number = |name: &str| Abi::NATIVE.number(lookup(name).unwrap()).unwrap();
        assert_eq!(i64::from(number("read")), libc::SYS_read);
        assert_eq!(i64::from(number("clone3")), libc::SYS_clone3);
        assert_eq!(i64::from(number("waitid")), libc::SYS_waitid);
        assert_eq!(i64::from(number("faccessat2")), libc::SYS_faccessat2);
        assert_eq!(lookup("no_such_call"), None);
    }

    #[test]
    fn an_architecture_of_another_machine_is_no_abi_here() {
        assert_eq!(Abi::from_oci(Arch::ScmpArchArm, Abi::X86_64), None);
        assert_eq!(Abi::from_oci(Arch::ScmpArchRiscv64, Abi::X86_64), None);
        assert_eq!(Abi::from_oci(Arch::ScmpArchArm, Abi::Aarch64), Some(Abi::Arm));
        assert_eq!(
            Abi::from_oci(Arch::ScmpArchNative, Abi::Aarch64),
            Some(Abi::Aarch64)
        );
    }
}

//! The default seccomp profile: what Docker's default lets a container call, as our own table.
//!
//! Everything not listed fails with EPERM. Rules that depend on capabilities are decided here, when the container's set is
//! known; the runtime only compiles the result. Names that an architecture lacks are skipped by the runtime.

use serde_json::{Value, json};

use super::caps::CapabilitySet;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// clone(2) flags that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// personality(2): Linux, 16-bit-uid Linux, and both with UNAME26; the last asks only.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Allowed for everybody, by subject.
const ALWAYS: &[&[&str]] = &[
    FILES,
    DIRECTORIES,
    DESCRIPTORS,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SCHEDULING,
    SIGNALS,
    TIME,
    SOCKETS,
    IPC,
    LIMITS,
];

#[rustfmt::skip]
const FILES: &[&str] = &[
    "open", "openat", "openat2", "creat", "close", "close_range", "read", "pread64", "readv", "preadv",
    "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2", "lseek", "_llseek", "readahead",
    "sendfile", "sendfile64", "splice", "tee", "vmsplice", "copy_file_range", "truncate", "truncate64",
    "ftruncate", "ftruncate64", "fallocate", "fadvise64", "fadvise64_64", "sync", "syncfs", "fsync",
    "fdatasync", "sync_file_range", "flock", "cachestat", "stat", "stat64", "lstat", "lstat64", "fstat",
    "fstat64", "newfstatat", "fstatat64", "statx", "statfs", "statfs64", "fstatfs", "fstatfs64", "access",
    "faccessat", "faccessat2", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "chown32", "fchown",
    "fchown32", "fchownat", "lchown", "lchown32", "umask", "utime", "utimes", "futimesat", "utimensat",
    "utimensat_time64", "getxattr", "lgetxattr", "fgetxattr", "setxattr", "lsetxattr", "fsetxattr",
    "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr", "fremovexattr", "getxattrat",
    "setxattrat", "listxattrat", "removexattrat", "name_to_handle_at", "statmount", "listmount",
];

#[rustfmt::skip]
const DIRECTORIES: &[&str] = &[
    "mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "readlink",
    "readlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2", "chdir", "fchdir", "getcwd",
    "getdents", "getdents64", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
    "fanotify_mark", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
];

#[rustfmt::skip]
const DESCRIPTORS: &[&str] = &[
    "dup", "dup2", "dup3", "fcntl", "fcntl64", "ioctl", "pipe", "pipe2", "poll", "ppoll", "ppoll_time64",
    "select", "_newselect", "pselect6", "pselect6_time64", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_ctl_old", "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2",
    "signalfd", "signalfd4", "timerfd_create", "timerfd_settime", "timerfd_settime64", "timerfd_gettime",
    "timerfd_gettime64", "memfd_create", "memfd_secret", "io_setup", "io_submit", "io_cancel", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64",
];

#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock",
    "mlock2", "mlockall", "munlock", "munlockall", "membarrier", "remap_file_pages", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "map_shadow_stack", "mseal", "futex", "futex_time64", "futex_wait",
    "futex_wake", "futex_requeue", "futex_waitv", "get_robust_list", "set_robust_list", "rseq",
];

#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "execve", "execveat", "exit", "exit_group", "fork", "vfork", "wait4", "waitid", "waitpid", "getpid",
    "getppid", "gettid", "getpgid", "setpgid", "getpgrp", "getsid", "setsid", "set_tid_address",
    "get_thread_area", "set_thread_area", "prctl", "seccomp", "pidfd_open", "pidfd_send_signal",
    "process_mrelease", "pause", "restart_syscall", "uname", "sysinfo", "getcpu", "getrandom", "uretprobe",
    "ptrace", "process_vm_readv", "process_vm_writev",
];

#[rustfmt::skip]
const IDENTITY: &[&str] = &[
    "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getresuid",
    "getresuid32", "getresgid", "getresgid32", "getgroups", "getgroups32", "setuid", "setuid32", "setgid",
    "setgid32", "setreuid", "setreuid32", "setregid", "setregid32", "setresuid", "setresuid32", "setresgid",
    "setresgid32", "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32", "capget",
    "capset",
];

#[rustfmt::skip]
const SCHEDULING: &[&str] = &[
    "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr",
    "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "getpriority", "setpriority", "ioprio_get", "ioprio_set",
];

#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "kill", "tkill", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigreturn",
    "sigaltstack", "sigprocmask", "sigreturn",
];

#[rustfmt::skip]
const TIME: &[&str] = &[
    "time", "times", "gettimeofday", "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64",
    "nanosleep", "alarm", "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
];

#[rustfmt::skip]
const SOCKETS: &[&str] = &[
    "socketpair", "bind", "connect", "listen", "accept", "accept4", "shutdown", "getsockname",
    "getpeername", "getsockopt", "setsockopt", "send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom",
    "recvmsg", "recvmmsg", "recvmmsg_time64", "socketcall",
];

#[rustfmt::skip]
const IPC: &[&str] = &[
    "ipc", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semctl", "semtimedop",
    "semtimedop_time64", "shmget", "shmat", "shmdt", "shmctl", "mq_open", "mq_unlink", "mq_notify",
    "mq_getsetattr", "mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64",
];

const LIMITS: &[&str] = &["getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage"];

/// Allowed to holders of a capability.
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "SYS_TIME",
        &["settimeofday", "stime", "clock_settime", "clock_settime64"],
    ),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    (
        "SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

#[cfg(target_arch = "x86_64")]
const OF_ARCHITECTURE: &[&str] = &["arch_prctl", "modify_ldt"];
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
const OF_ARCHITECTURE: &[&str] = &[
    "arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls",
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OF_ARCHITECTURE: &[&str] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[&str] = &[];

/// The profile for a container that holds `caps`, as `linux.seccomp` of the OCI specification.
pub fn profile(caps: &CapabilitySet) -> Value {
    let mut rules = vec![allow(&names(caps), None)];
    rules.extend(socket_families());
    rules.extend(PERSONALITIES.map(|value| allow(&["personality"], Some(argument(value, "SCMP_CMP_EQ")))));
    if !caps.contains("SYS_ADMIN") {
        let no_namespaces =
            json!({ "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
        rules.push(allow(&["clone"], Some(no_namespaces)));
        // Its flags lie in memory where a filter cannot look; ENOSYS makes the C library fall back to clone.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
}

fn names(caps: &CapabilitySet) -> Vec<&'static str> {
    let mut names: Vec<&str> = ALWAYS
        .iter()
        .chain([&OF_ARCHITECTURE])
        .flat_map(|group| group.iter().copied())
        .collect();
    for (capability, granted) in WITH_CAPABILITY {
        if caps.contains(capability) {
            names.extend(*granted);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Every address family but AF_ALG and AF_VSOCK: below the first, between the two, above the second.
fn socket_families() -> [Value; 3] {
    [
        argument(AF_ALG, "SCMP_CMP_LT"),
        argument(AF_ALG + 1, "SCMP_CMP_EQ"),
        argument(AF_VSOCK, "SCMP_CMP_GT"),
    ]
    .map(|family| allow(&["socket"], Some(family)))
}

fn allow(names: &[&str], argument: Option<Value>) -> Value {
    match argument {
        None => json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
        Some(argument) => json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": [argument] }),
    }
}

/// A condition on the first argument.
fn argument(value: u64, op: &str) -> Value {
    json!({ "index": 0, "value": value, "op": op })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::caps;
    use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

    fn typed(caps: &CapabilitySet) -> LinuxSeccomp {
        serde_json::from_value(profile(caps)).expect("a profile that the OCI types can read")
    }

    fn allowed(profile: &LinuxSeccomp, name: &str) -> bool {
        profile.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow && rule.names().iter().any(|n| n == name)
        })
    }

    fn default_profile() -> LinuxSeccomp {
        typed(&caps::resolve(false, &[], &[]).unwrap())
    }

    #[test]
    fn dangerous_calls_are_refused_by_default() {
        let profile = default_profile();
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "bpf",
            "unshare",
            "setns",
            "io_uring_setup",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "perf_event_open",
            "open_by_handle_at",
            "kexec_load",
            "init_module",
            "clone3",
            "swapon",
            "reboot",
            "settimeofday",
            "iopl",
            "ioperm",
            "mbind",
            "acct",
            "quotactl",
            "vhangup",
        ] {
            assert!(!allowed(&profile, name), "{name}");
        }
        assert_eq!(profile.default_errno_ret(), Some(1));
    }

    #[test]
    fn everyday_calls_are_allowed() {
        let profile = default_profile();
        for name in [
            "read",
            "execve",
            "clone",
            "chroot",
            "futex",
            "epoll_wait",
            "socket",
            "personality",
            "ptrace",
        ] {
            assert!(allowed(&profile, name), "{name}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let all = typed(&caps::resolve(true, &[], &[]).unwrap());
        for name in [
            "mount",
            "clone3",
            "setns",
            "bpf",
            "reboot",
            "mbind",
            "kcmp",
            "vhangup",
            "init_module",
        ] {
            assert!(allowed(&all, name), "{name}");
        }
        let refused = all
            .syscalls()
            .iter()
            .flatten()
            .any(|r| r.action() == LinuxSeccompAction::ScmpActErrno);
        assert!(!refused);
    }

    #[test]
    fn clone3_is_missing_rather_than_forbidden() {
        let profile = default_profile();
        let rule = profile
            .syscalls()
            .iter()
            .flatten()
            .find(|r| r.names() == &["clone3".to_owned()])
            .unwrap();
        assert_eq!(rule.errno_ret(), Some(38));
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut names: Vec<&str> = ALWAYS.iter().flat_map(|g| g.iter().copied()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        // Docker's profile counts 361 with the calls that every kernel since 4.8 may make.
        assert!((355..=375).contains(&count), "{count}");
    }
}

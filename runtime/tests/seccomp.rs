//! Compiled filters in the kernel: each is installed on a thread of its own, or in a child where it kills.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::utsname::uname;
use serde_json::{Value, json};

/// Names the filter that a child has to put on before it calls uname.
const CHILD: &str = "SECCOMP_TEST_PROFILE";

fn install(profile: Value) {
    let profile = serde_json::from_value(profile).unwrap();
    let program = runtime::seccomp::compile(&profile).unwrap();
    sys::seccomp::install(&program.filter, program.flags).unwrap();
}

/// Runs `act` under `profile`. Without TSYNC a filter binds the calling thread only.
fn under<T: Send + 'static>(profile: Value, act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        install(profile);
        act()
    });
    thread.join().unwrap()
}

fn deny(rule: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [rule]})
}

#[test]
fn a_refused_call_fails_with_the_errno_of_its_rule() {
    assert!(uname().is_ok());
    let rule = json!({"names": ["uname"], "action": "SCMP_ACT_ERRNO"});
    assert_eq!(under(deny(rule), || uname().unwrap_err()), Errno::EPERM);
    let rule = json!({"names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS});
    assert_eq!(under(deny(rule), || uname().unwrap_err()), Errno::ENOSYS);
    assert!(uname().is_ok());
}

#[test]
fn arguments_decide() {
    let rule = json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": libc::AF_ALG}]});
    let open = |family| socket(family, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map(drop);
    let (alg, unix) = under(deny(rule), move || {
        (open(AddressFamily::Alg), open(AddressFamily::Unix))
    });
    assert_eq!(alg, Err(Errno::EPERM));
    assert_eq!(unix, Ok(()));
}

#[test]
fn masked_arguments_decide() {
    let rule = json!({"names": ["openat", "open"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EROFS,
        "args": [{"index": 2, "op": "SCMP_CMP_MASKED_EQ", "value": libc::O_CREAT, "valueTwo": libc::O_CREAT}]});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (create, open) = under(deny(rule), move || (File::create(&path), File::open("/dev/null")));
    assert_eq!(create.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert!(open.is_ok());
}

#[test]
fn the_largest_program_that_compiles_is_accepted() {
    let args: Vec<Value> = (0..950)
        .map(|value| json!({"index": 0, "op": "SCMP_CMP_EQ", "value": value}))
        .collect();
    let rule = json!({"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": args});
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let program = runtime::seccomp::compile(&serde_json::from_value(profile.clone()).unwrap()).unwrap();
    assert!(program.filter.len() > 3500);
    assert!(under(profile, || uname().is_ok()));
}

#[test]
fn what_is_not_allowed_is_refused() {
    // What a thread needs to come to its end.
    let names = [
        "munmap",
        "mmap",
        "madvise",
        "futex",
        "rt_sigprocmask",
        "sigaltstack",
        "exit",
        "brk",
        "uname",
        "renameat2",
    ];
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EXDEV,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let (allowed, refused, new) = under(profile, || {
        let flags = rustix::fs::AtFlags::empty();
        let new = rustix::fs::statx(rustix::fs::CWD, "/", flags, rustix::fs::StatxFlags::BASIC_STATS);
        (uname().is_ok(), File::open("/dev/null"), new)
    });
    assert!(allowed);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    assert_eq!(
        new.unwrap_err(),
        rustix::io::Errno::NOSYS,
        "newer than anything in the profile"
    );
}

#[test]
fn killing_rules_kill_with_sigsys() {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let profile = deny(json!({"names": ["uname"], "action": action}));
        assert_eq!(in_child(&profile).signal(), Some(libc::SIGSYS), "{action}");
    }
    let harmless = deny(json!({"names": ["uname"], "action": "SCMP_ACT_LOG"}));
    assert!(in_child(&harmless).success());
}

fn in_child(profile: &Value) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "child", "--quiet"])
        .env(CHILD, profile.to_string());
    child.stdout(std::process::Stdio::null()).status().unwrap()
}

/// Not a test by itself: what [`in_child`] runs.
#[test]
fn child() {
    if let Ok(profile) = std::env::var(CHILD) {
        install(serde_json::from_str(&profile).unwrap());
        let _ = uname();
    }
}

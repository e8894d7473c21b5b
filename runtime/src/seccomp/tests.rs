//! Profiles and what their programs answer, run in an interpreter.

use super::abi::{Abi, X32_BIT, lookup};
use super::vm::{Call, run};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

fn errno(code: i32) -> u32 {
    0x0005_0000 | code as u32
}

fn profile(json: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// Answers calls by name under a profile compiled for `native`.
struct Filter(Program);

impl Filter {
    fn new(json: serde_json::Value) -> Self {
        Self(compile_for(Abi::X86_64, &profile(json)).unwrap())
    }

    fn call(&self, abi: Abi, name: &str, arguments: &[u64]) -> u32 {
        let number = abi.number(lookup(name).unwrap()).unwrap();
        self.number(abi, number, arguments)
    }

    fn number(&self, abi: Abi, number: u32, arguments: &[u64]) -> u32 {
        let mut padded = [0; 6];
        padded[..arguments.len()].copy_from_slice(arguments);
        run(
            &self.0.filter,
            Call {
                number,
                audit: abi.audit(),
                arguments: padded,
            },
        )
        .0
    }
}

fn one_rule(op: &str, value: u64, value_two: u64) -> Filter {
    Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                      "args": [{"index": 0, "op": op, "value": value, "valueTwo": value_two}]}]
    }))
}

#[test]
fn every_operator_compares_64_bits() {
    const BIG: u64 = 0x0000_0005_0000_0007;
    let samples = [
        0,
        7,
        8,
        BIG - 1,
        BIG,
        BIG + 1,
        0x0000_0004_ffff_ffff,
        0x0000_0006_0000_0000,
        0x0000_0005_0000_0000,
        u64::MAX,
    ];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
    ];
    for (op, holds) in operators {
        for value in [0, 7, BIG, u64::MAX] {
            let filter = one_rule(op, value, 0);
            for sample in samples {
                let expected = if holds(sample, value) { ALLOW } else { errno(1) };
                assert_eq!(
                    filter.call(Abi::X86_64, "personality", &[sample]),
                    expected,
                    "{sample:#x} {op} {value:#x}"
                );
                let expected = if holds(sample & 0xffff_ffff, value & 0xffff_ffff) {
                    ALLOW
                } else {
                    errno(1)
                };
                assert_eq!(
                    filter.call(Abi::X86, "personality", &[sample]),
                    expected,
                    "i386 {sample:#x} {op}"
                );
            }
        }
    }
}

#[test]
fn masked_equality_compares_the_masked_bits_only() {
    for (mask, value) in [
        (0x7e02_0000, 0),
        (0xff_0000_00ff, 0x12_0000_0034),
        (u64::MAX, 9),
        (0, 0),
        (0xf0, 0xff),
    ] {
        let filter = one_rule("SCMP_CMP_MASKED_EQ", mask, value);
        for sample in [
            0,
            9,
            0xf0,
            0x34,
            0x12_0000_0034,
            0x7812_0056_0000_1134,
            0x0002_0000,
            u64::MAX,
        ] {
            let expected = if sample & mask == value & mask {
                ALLOW
            } else {
                errno(1)
            };
            assert_eq!(
                filter.call(Abi::X86_64, "personality", &[sample]),
                expected,
                "{sample:#x} & {mask:#x}"
            );
        }
    }
}

#[test]
fn arguments_of_a_rule_are_anded_and_rules_are_ored() {
    let filter = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1},
                {"index": 1, "op": "SCMP_CMP_GT", "value": 100}]},
            {"names": ["ioctl", "fcntl"], "action": "SCMP_ACT_TRAP", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 2}]},
            {"names": ["prctl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 3},
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 4}]}
        ]
    }));
    let call = |name, arguments: &[u64]| filter.call(Abi::X86_64, name, arguments);
    assert_eq!(call("ioctl", &[1, 101]), ALLOW);
    assert_eq!(call("ioctl", &[1, 100]), errno(1));
    assert_eq!(call("ioctl", &[3, 101]), errno(1));
    assert_eq!(call("ioctl", &[2, 0]), 0x0003_0000);
    assert_eq!(call("fcntl", &[2, 0]), 0x0003_0000);
    assert_eq!(call("fcntl", &[1, 101]), errno(1));
    assert_eq!(
        call("prctl", &[3]),
        ALLOW,
        "two conditions on one argument are alternatives, as in runc"
    );
    assert_eq!(call("prctl", &[4]), ALLOW);
    assert_eq!(call("prctl", &[5]), errno(1));
}

#[test]
fn a_rule_without_arguments_beats_those_with() {
    let conditional = serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [
        {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}]});
    let plain = serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"});
    for rules in [[&conditional, &plain], [&plain, &conditional]] {
        let filter = Filter::new(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
        assert_eq!(filter.call(Abi::X86_64, "ioctl", &[1]), ALLOW);
        assert_eq!(filter.call(Abi::X86_64, "ioctl", &[2]), ALLOW);
    }
}

#[test]
fn actions_carry_their_errno() {
    let filter = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
        "syscalls": [
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["bpf"], "action": "SCMP_ACT_TRACE", "errnoRet": 513},
            {"names": ["kexec_load"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["reboot"], "action": "SCMP_ACT_KILL"},
            {"names": ["acct"], "action": "SCMP_ACT_LOG"},
        ]
    }));
    let call = |name| filter.call(Abi::X86_64, name, &[]);
    assert_eq!(call("read"), errno(99));
    assert_eq!(call("clone3"), errno(38));
    assert_eq!(call("mount"), errno(1));
    assert_eq!(call("bpf"), 0x7ff0_0201);
    assert_eq!(call("kexec_load"), KILL_PROCESS);
    assert_eq!(call("reboot"), 0);
    assert_eq!(call("acct"), 0x7ffc_0000);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let syscalls = serde_json::json!([{"names": ["read", "faccessat2"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["send"], "action": "SCMP_ACT_ALLOW"}]);
    let filter = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X32", "SCMP_ARCH_X86"], "syscalls": syscalls}));
    for (abi, bit) in [(Abi::X86_64, 0), (Abi::X32, X32_BIT), (Abi::X86, 0)] {
        assert_eq!(
            filter.number(abi, bit | 438, &[]),
            errno(1),
            "{abi:?}: pidfd_getfd is older, so refused"
        );
        assert_eq!(filter.number(abi, bit | 439, &[]), ALLOW, "{abi:?}");
        assert_eq!(filter.number(abi, bit | 440, &[]), errno(libc::ENOSYS), "{abi:?}");
        assert_eq!(
            filter.number(abi, bit | 9999, &[]),
            errno(libc::ENOSYS),
            "{abi:?}"
        );
    }
    assert_eq!(filter.number(Abi::X86_64, u32::MAX, &[]), errno(1));
    let open = Filter::new(
        serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    assert_eq!(open.number(Abi::X86_64, 9999, &[]), ALLOW);
    assert_eq!(open.number(Abi::X86_64, 0, &[]), errno(1));
}

#[test]
fn architectures_that_are_not_listed_are_killed() {
    let rules = serde_json::json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]);
    let native = Filter::new(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
    assert_eq!(native.call(Abi::X86_64, "read", &[]), ALLOW);
    assert_eq!(native.call(Abi::X86, "read", &[]), KILL_PROCESS);
    assert_eq!(native.call(Abi::X32, "read", &[]), KILL_PROCESS);
    assert_eq!(native.call(Abi::Aarch64, "read", &[]), KILL_PROCESS);
    let all = Filter::new(
        serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules,
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_ARM"]}),
    );
    assert_eq!(all.call(Abi::X86_64, "read", &[]), ALLOW);
    assert_eq!(all.call(Abi::X86, "read", &[]), ALLOW);
    assert_eq!(all.call(Abi::X32, "read", &[]), ALLOW);
    assert_eq!(all.number(Abi::X86, 0, &[]), errno(1), "0 is read on x86_64 only");
    assert_eq!(all.call(Abi::Arm, "read", &[]), KILL_PROCESS, "no such machine");
}

#[test]
fn aarch64_with_its_32_bit_sibling() {
    let json = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["openat", "cacheflush", "open"], "action": "SCMP_ACT_ALLOW"}]});
    let filter = Filter(compile_for(Abi::Aarch64, &profile(json)).unwrap());
    assert_eq!(filter.number(Abi::Aarch64, 56, &[]), ALLOW);
    assert_eq!(filter.number(Abi::Aarch64, 57, &[]), errno(libc::ENOSYS));
    assert_eq!(filter.number(Abi::Arm, 0xf0002, &[]), ALLOW);
    assert_eq!(filter.number(Abi::Arm, 5, &[]), ALLOW);
    assert_eq!(filter.number(Abi::X86_64, 56, &[]), KILL_PROCESS);
}

#[test]
fn multiplexers_of_i386_open_no_back_door() {
    let filter = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_NE", "value": 40}]},
            {"names": ["connect", "shmget"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(filter.call(Abi::X86, "socket", &[2]), ALLOW);
    assert_eq!(filter.call(Abi::X86, "socket", &[40]), errno(1));
    assert_eq!(
        filter.call(Abi::X86, "socketcall", &[1]),
        errno(1),
        "its arguments cannot be seen"
    );
    assert_eq!(filter.call(Abi::X86, "socketcall", &[3]), ALLOW);
    assert_eq!(filter.call(Abi::X86, "ipc", &[23]), ALLOW);
    assert_eq!(
        filter.call(Abi::X86, "ipc", &[0x1_0017]),
        ALLOW,
        "the version is not part of the call"
    );
    assert_eq!(filter.call(Abi::X86, "ipc", &[24]), errno(1));
    let denying = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO",
                      "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 38}]}]}));
    assert_eq!(denying.call(Abi::X86, "socketcall", &[1]), errno(1));
    assert_eq!(denying.call(Abi::X86, "socketcall", &[2]), ALLOW);
}

#[test]
fn jumps_longer_than_255_instructions_arrive() {
    // Every call has a chain of checks of its own, so the tree spans thousands of instructions.
    let rules: Vec<_> = super::table::SYSCALLS
        .iter()
        .map(|(name, _)| {
            serde_json::json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [
                {"index": 5, "op": "SCMP_CMP_EQ", "value": name.len()}]})
        })
        .collect();
    let filter = Filter::new(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    assert!(filter.0.filter.len() > 1500);
    for (name, numbers) in super::table::SYSCALLS {
        let Some(number) = Abi::X86_64.number(numbers) else {
            continue;
        };
        let length = name.len() as u64;
        assert_eq!(
            filter.number(Abi::X86_64, number, &[0, 0, 0, 0, 0, length]),
            errno(7),
            "{name}"
        );
        assert_eq!(
            filter.number(Abi::X86_64, number, &[0, 0, 0, 0, 0, length + 1]),
            ALLOW,
            "{name}"
        );
        assert_eq!(
            filter.number(Abi::X86_64, number, &[0, 0, 0, 0, 0, length | 1 << 32]),
            ALLOW,
            "{name}"
        );
    }
}

#[test]
fn a_scattered_profile_stays_compact_and_shallow() {
    // As Docker's default: most calls allowed, about one in six refused, two foreign ABIs.
    let allowed: Vec<_> = super::table::SYSCALLS
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 6 != 0)
        .map(|(_, (name, _))| name)
        .collect();
    let filter = Filter::new(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]}));
    assert!(filter.0.filter.len() < 800, "{}", filter.0.filter.len());
    for (index, (name, numbers)) in super::table::SYSCALLS.iter().enumerate() {
        let Some(number) = Abi::X86_64.number(numbers) else {
            continue;
        };
        let call = Call {
            number,
            audit: Abi::X86_64.audit(),
            arguments: [0; 6],
        };
        let (value, steps) = run(&filter.0.filter, call);
        assert_eq!(value, if index % 6 != 0 { ALLOW } else { errno(1) }, "{name}");
        assert!(steps <= 20, "{name} takes {steps} instructions");
    }
}

#[test]
fn an_empty_profile_is_its_default_action() {
    let filter = Filter::new(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(filter.number(Abi::X86_64, 0, &[]), ALLOW);
    assert_eq!(filter.number(Abi::X86, 0, &[]), KILL_PROCESS);
    assert_eq!(filter.0.flags, 4, "SPEC_ALLOW unless the profile says otherwise");
}

#[test]
fn flags_are_passed_on() {
    let flags = |flags: serde_json::Value| {
        Filter::new(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags}))
            .0
            .flags
    };
    assert_eq!(flags(serde_json::json!([])), 0);
    assert_eq!(
        flags(serde_json::json!([
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG"
        ])),
        3
    );
    assert_eq!(
        flags(serde_json::json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])),
        0
    );
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let refused = |json: serde_json::Value| compile(&profile(json)).unwrap_err();
    let rule = |rule: serde_json::Value| {
        refused(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}))
    };
    assert_eq!(
        refused(serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        SeccompError::Notify("SCMP_ACT_NOTIFY")
    );
    assert_eq!(
        refused(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"})),
        SeccompError::Notify("listenerPath")
    );
    assert_eq!(
        rule(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1})),
        SeccompError::ErrnoNotAllowed(LinuxSeccompAction::ScmpActAllow)
    );
    assert_eq!(
        rule(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
        SeccompError::ErrnoOutOfRange(4096)
    );
    assert_eq!(
        rule(serde_json::json!({"names": [""], "action": "SCMP_ACT_ALLOW"})),
        SeccompError::EmptyName
    );
    assert_eq!(
        rule(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 0}]})),
        SeccompError::ArgumentIndex {
            name: "read".into(),
            index: 6
        }
    );
    let alternatives: Vec<_> = (0..3000)
        .map(|value| serde_json::json!({"index": 0, "op": "SCMP_CMP_EQ", "value": value}))
        .collect();
    assert!(matches!(
        rule(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": alternatives})),
        SeccompError::TooLong(_)
    ));
}

#[test]
fn names_that_do_not_exist_are_skipped() {
    let filter = Filter::new(
        serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["future_call", "read"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    assert_eq!(filter.call(Abi::X86_64, "read", &[]), ALLOW);
}

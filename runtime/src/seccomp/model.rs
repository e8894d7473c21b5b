//! A second opinion: profiles drawn at random, and their meaning written down as directly as possible, against the
//! generated program.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Op};
use serde_json::{Value, json};

use super::abi::{Abi, lookup};
use super::vm::{Call, run};
use super::{compile_for, table};

/// xorshift64: the same profiles in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }

    /// Few values, so that comparisons meet their edges.
    fn value(&mut self) -> u64 {
        const EDGES: [u64; 9] = [
            0,
            1,
            2,
            0x7fff_ffff,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
            1 << 63,
            u64::MAX,
        ];
        self.pick(&EDGES)
    }

    fn rule(&mut self) -> Value {
        const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
        const ACTIONS: [(&str, Option<u32>); 5] = [
            ("ALLOW", None),
            ("ERRNO", Some(7)),
            ("ERRNO", None),
            ("KILL_PROCESS", None),
            ("LOG", None),
        ];
        let names: Vec<&str> = (0..=self.roll(20)).map(|_| self.name()).collect();
        let args: Vec<Value> = (0..self.roll(4))
            .map(|_| {
                let op = format!("SCMP_CMP_{}", self.pick(&OPERATORS));
                json!({"index": self.roll(3), "op": op, "value": self.value(), "valueTwo": self.value()})
            })
            .collect();
        let (action, errno) = self.pick(&ACTIONS);
        json!({"names": names, "action": format!("SCMP_ACT_{action}"), "errnoRet": errno, "args": args})
    }

    fn name(&mut self) -> &'static str {
        table::SYSCALLS[self.roll(table::SYSCALLS.len() as u64) as usize].0
    }
}

/// What a call by `name` meets, read off the profile rule by rule.
fn meaning(profile: &LinuxSeccomp, name: &str, arguments: &[u64; 6]) -> u32 {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let number = |name: &str| lookup(name).and_then(|entry| Abi::X86_64.number(entry));
    let newest = rules
        .iter()
        .flat_map(|rule| rule.names())
        .filter_map(|name| number(name))
        .max();
    if profile.default_action() != LinuxSeccompAction::ScmpActAllow
        && number(name) > newest
        && newest.is_some()
    {
        return 0x0005_0000 | libc::ENOSYS as u32;
    }
    let mut matching = None;
    for rule in rules
        .iter()
        .filter(|rule| rule.names().iter().any(|other| other == name))
    {
        let action = rule.action().as_u32(rule.errno_ret());
        let args = rule.args().as_deref().unwrap_or_default();
        if action == default {
            continue;
        }
        if args.is_empty() {
            return action;
        }
        let mut holds = args.iter().map(|arg| compare(arg, arguments[arg.index()]));
        let twice = args
            .iter()
            .enumerate()
            .any(|(i, a)| args[..i].iter().any(|b| a.index() == b.index()));
        if if twice {
            holds.any(|one| one)
        } else {
            holds.all(|one| one)
        } {
            matching.get_or_insert(action);
        }
    }
    matching.unwrap_or(default)
}

fn compare(arg: &LinuxSeccompArg, actual: u64) -> bool {
    match arg.op() {
        Op::ScmpCmpNe => actual != arg.value(),
        Op::ScmpCmpLt => actual < arg.value(),
        Op::ScmpCmpLe => actual <= arg.value(),
        Op::ScmpCmpEq => actual == arg.value(),
        Op::ScmpCmpGe => actual >= arg.value(),
        Op::ScmpCmpGt => actual > arg.value(),
        Op::ScmpCmpMaskedEq => actual & arg.value() == arg.value_two().unwrap_or(0) & arg.value(),
    }
}

#[test]
fn programs_mean_what_profiles_say() {
    let mut dice = Dice(0x0005_eec0_4b1f);
    let mut refused = 0;
    for round in 0..150 {
        let rules: Vec<Value> = (0..dice.roll(9)).map(|_| dice.rule()).collect();
        let default = dice.pick(&["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"]);
        let profile: LinuxSeccomp = serde_json::from_value(json!({"defaultAction": default,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules}))
        .unwrap();
        let program = compile_for(Abi::X86_64, &profile).unwrap();
        for _ in 0..200 {
            let name = dice.name();
            let Some(number) = lookup(name).and_then(|entry| Abi::X86_64.number(entry)) else {
                continue;
            };
            let mut arguments = [0; 6];
            arguments.fill_with(|| dice.value());
            let call = Call {
                number,
                audit: Abi::X86_64.audit(),
                arguments,
            };
            let expected = meaning(&profile, name, &arguments);
            assert_eq!(
                run(&program.filter, call).0,
                expected,
                "round {round}: {name}{arguments:x?}"
            );
            refused += usize::from(expected >> 16 == 5);
        }
    }
    assert!(refused > 1000, "the profiles say something");
}

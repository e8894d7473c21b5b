//! Device rules as an eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`): the kernel calls it with the kind of access and the
//! device number, and it answers 1 or 0. Rules are tried from the last to the first; what none matches is denied.

use sys::bpf::Instruction;

use super::devices::Rule;

// Fields of struct bpf_cgroup_dev_ctx (linux/bpf.h).
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

// Opcodes (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// The program for `rules`.
pub(super) fn generate(rules: &[Rule]) -> Vec<Instruction> {
    // r1 context, r2 kind of device, r3 access, r4 major, r5 minor, r0 answer.
    let mut program = vec![
        op(LOAD_WORD, 2, 1, ACCESS_TYPE, 0),
        op(AND32, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 3, 1, ACCESS_TYPE, 0),
        op(SHIFT_RIGHT32, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, MAJOR, 0),
        op(LOAD_WORD, 5, 1, MINOR, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
        if is_catch_all(rule) {
            // The verifier refuses unreachable instructions.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn is_catch_all(rule: &Rule) -> bool {
    rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() && rule.access == "rwm"
}

/// Tests that jump over the answer unless all hold, and the answer.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    match rule.kind {
        'b' => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, 1)),
        'c' => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, 2)),
        _ => {}
    }
    if rule.access != "rwm" {
        let bits = access_bits(&rule.access);
        tests.push(op(MOVE_REGISTER, 1, 3, 0, 0));
        tests.push(op(AND32, 1, 0, 0, bits));
        // An allowance covers a request that asks for nothing else; a denial one that asks for any of it.
        tests.push(if rule.allow {
            op(JUMP_NOT_EQUAL_REGISTER, 1, 3, 0, 0)
        } else {
            op(JUMP_EQUAL, 1, 0, 0, 0)
        });
    }
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        if let Some(number) = number {
            tests.push(op(JUMP_NOT_EQUAL, register, 0, 0, number.cast_signed()));
        }
    }
    let answer = answer(rule.allow);
    let length = tests.len() + answer.len();
    for (index, test) in tests.iter_mut().enumerate() {
        if [JUMP_NOT_EQUAL, JUMP_NOT_EQUAL_REGISTER, JUMP_EQUAL].contains(&test.code) {
            test.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
        }
    }
    tests.into_iter().chain(answer).collect()
}

fn answer(allow: bool) -> [Instruction; 2] {
    [op(MOVE, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)]
}

/// `BPF_DEVCG_ACC_*`.
fn access_bits(access: &str) -> i32 {
    access.chars().fold(0, |bits, c| {
        bits | match c {
            'm' => 1,
            'r' => 2,
            _ => 4,
        }
    })
}

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: (source << 4) | destination,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on one request, as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let mut registers = [0u32; 11];
        let mut at = 0;
        loop {
            let i = &program[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let jump = usize::try_from(i.offset).unwrap();
            let immediate = i.immediate.cast_unsigned();
            at += 1;
            match i.code {
                LOAD_WORD => registers[dst] = [(access << 16) | kind, major, minor][jump / 4],
                MOVE => registers[dst] = immediate,
                MOVE_REGISTER => registers[dst] = registers[src],
                AND32 => registers[dst] &= immediate,
                SHIFT_RIGHT32 => registers[dst] >>= immediate,
                JUMP_NOT_EQUAL if registers[dst] != immediate => at += jump,
                JUMP_NOT_EQUAL_REGISTER if registers[dst] != registers[src] => at += jump,
                JUMP_EQUAL if registers[dst] == immediate => at += jump,
                EXIT => return registers[0] == 1,
                _ => {}
            }
        }
    }

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> Rule {
        Rule {
            allow,
            kind,
            major,
            minor,
            access: access.to_owned(),
        }
    }

    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn the_last_matching_rule_decides_and_nothing_is_denied() {
        let program = generate(&[
            rule(true, 'c', Some(1), None, "rwm"),
            rule(false, 'c', Some(1), Some(11), "w"),
            rule(true, 'b', None, None, "r"),
        ]);
        assert!(run(&program, 2, READ | WRITE, 1, 3));
        assert!(run(&program, 2, READ, 1, 11));
        assert!(
            !run(&program, 2, READ | WRITE, 1, 11),
            "a denial of writing covers reading and writing"
        );
        assert!(run(&program, 1, READ, 8, 0));
        assert!(!run(&program, 1, WRITE, 8, 0));
        assert!(!run(&program, 2, READ, 10, 229), "no rule");
        assert!(!run(&generate(&[]), 2, READ, 1, 3));
    }

    #[test]
    fn nothing_follows_a_rule_for_everything() {
        let program = generate(&[rule(true, 'a', None, None, "rwm")]);
        assert!(run(&program, 1, WRITE, 8, 0));
        assert_eq!(program.last().unwrap().code, EXIT);
        assert_eq!(program.iter().filter(|i| i.code == EXIT).count(), 1);
    }

    /// The kernel's verifier accepts what is generated. Needs root.
    #[test]
    fn the_kernel_loads_the_programs() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        for rules in [
            vec![],
            vec![rule(true, 'a', None, None, "rwm")],
            vec![
                rule(true, 'c', Some(1), None, "rw"),
                rule(false, 'b', None, Some(3), "m"),
                rule(true, 'a', None, None, "r"),
            ],
        ] {
            sys::bpf::load_device_program(&generate(&rules)).unwrap();
        }
    }
}

//! From plans to instructions.
//!
//! The program: dispatch on the architecture, then per architecture a balanced tree over the call number whose leaves
//! are outcomes or the argument checks of one call.

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompOperator as Op};
use sys::seccomp::Instruction;

use super::abi::{Abi, X32_BIT};
use super::assembler::{Assembler, Target, Test};
use super::plan::{AbiPlan, Clause, Condition, Decision};

// Offsets in struct seccomp_data (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The number that a tracer writes to skip a call; not an x32 call although it has the bit.
const SKIPPED: u32 = u32::MAX;

const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// Calls from `start` up to the start of the next one share an outcome.
#[derive(Debug)]
struct Run<'a> {
    start: u32,
    outcome: Outcome<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome<'a> {
    Return(u32),
    Check {
        clauses: &'a [Clause],
        otherwise: u32,
        wide: bool,
    },
}

/// Generates the whole program.
pub(super) fn generate(plans: &[AbiPlan]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let foreign = LinuxSeccompAction::ScmpActKillProcess.as_u32(None);
    let x32 = plans.iter().find(|plan| plan.abi == Abi::X32);
    let mut next = Target::Return(foreign);
    // The first plan is the native one: written last, it is asked first.
    for plan in plans.iter().rev().filter(|plan| plan.abi != Abi::X32) {
        let mut runs = Vec::new();
        append(&mut runs, 0, plan);
        if plan.abi == Abi::X86_64 {
            match x32 {
                Some(plan) => append(&mut runs, X32_BIT, plan),
                None => push(&mut runs, X32_BIT, Outcome::Return(foreign)),
            }
            push(&mut runs, SKIPPED, Outcome::Return(plan.default));
        }
        let root = tree(&mut code, &runs);
        let section = code.load(NUMBER, root);
        next = code.branch(Test::Equal, plan.abi.audit(), section, next);
    }
    let entry = code.load(ARCHITECTURE, next);
    code.finish(entry)
}

/// Appends the runs of one ABI, whose numbers start at `base`.
fn append<'a>(runs: &mut Vec<Run<'a>>, base: u32, plan: &'a AbiPlan) {
    let default = Outcome::Return(plan.default);
    push(runs, base, default);
    for (number, decision) in &plan.decisions {
        push(runs, *number, outcome(plan, decision));
        push(runs, number + 1, default);
    }
    if let Some(newest) = plan.newest {
        push(runs, newest + 1, Outcome::Return(ENOSYS));
    }
}

fn outcome<'a>(plan: &'a AbiPlan, decision: &'a Decision) -> Outcome<'a> {
    match decision {
        Decision::Always(action) => Outcome::Return(*action),
        Decision::When(clauses) => Outcome::Check {
            clauses,
            otherwise: plan.default,
            wide: plan.abi.wide_arguments(),
        },
    }
}

/// Starts a run at `start`; replaces one that would be empty, and continues one that has the same outcome.
fn push<'a>(runs: &mut Vec<Run<'a>>, start: u32, outcome: Outcome<'a>) {
    if runs.last().is_some_and(|last| last.start >= start) {
        runs.pop();
    }
    if runs.last().is_none_or(|last| last.outcome != outcome) {
        runs.push(Run { start, outcome });
    }
}

/// Writes the search tree for `runs` (never empty); expects the call number in the accumulator.
fn tree(code: &mut Assembler, runs: &[Run<'_>]) -> Target {
    if let [only] = runs {
        return leaf(code, only.outcome);
    }
    let (low, high) = runs.split_at(runs.len() / 2);
    let yes = tree(code, high);
    let no = tree(code, low);
    code.branch(Test::GreaterOrEqual, high[0].start, yes, no)
}

fn leaf(code: &mut Assembler, outcome: Outcome<'_>) -> Target {
    match outcome {
        Outcome::Return(action) => Target::Return(action),
        Outcome::Check {
            clauses,
            otherwise,
            wide,
        } => clauses
            .iter()
            .rev()
            .fold(Target::Return(otherwise), |no, clause| {
                clause
                    .conditions
                    .iter()
                    .rev()
                    .fold(Target::Return(clause.action), |yes, condition| {
                        check(code, condition, wide, yes, no)
                    })
            }),
    }
}

/// Writes one comparison with an argument.
fn check(code: &mut Assembler, condition: &Condition, wide: bool, yes: Target, no: Target) -> Target {
    let compare = Compare {
        index: condition.index,
        value: condition.value,
        wide,
    };
    match condition.op {
        Op::ScmpCmpEq => compare.equal(code, yes, no),
        Op::ScmpCmpNe => compare.equal(code, no, yes),
        Op::ScmpCmpGe => compare.order(code, Test::GreaterOrEqual, yes, no),
        Op::ScmpCmpLt => compare.order(code, Test::GreaterOrEqual, no, yes),
        Op::ScmpCmpGt => compare.order(code, Test::Greater, yes, no),
        Op::ScmpCmpLe => compare.order(code, Test::Greater, no, yes),
        Op::ScmpCmpMaskedEq => {
            let mask = condition.value;
            Compare {
                value: condition.masked & mask,
                ..compare
            }
            .masked(code, mask, yes, no)
        }
    }
}

/// A comparison of one 64-bit argument by 32-bit halves; on a 32-bit ABI only the low half counts.
#[derive(Clone, Copy, Debug)]
struct Compare {
    index: u32,
    value: u64,
    wide: bool,
}

impl Compare {
    fn equal(self, code: &mut Assembler, yes: Target, no: Target) -> Target {
        self.masked(code, u64::MAX, yes, no)
    }

    fn masked(self, code: &mut Assembler, mask: u64, yes: Target, no: Target) -> Target {
        let low = self.half(code, Half::Low, mask, yes, no);
        if self.wide {
            self.half(code, Half::High, mask, low, no)
        } else {
            low
        }
    }

    fn half(self, code: &mut Assembler, half: Half, mask: u64, yes: Target, no: Target) -> Target {
        let mask = half.of(mask);
        if mask == 0 {
            return yes;
        }
        let mut next = code.branch(Test::Equal, half.of(self.value), yes, no);
        if mask != u32::MAX {
            next = code.and(mask, next);
        }
        code.load(half.offset(self.index), next)
    }

    /// `argument > value` or `argument >= value`.
    fn order(self, code: &mut Assembler, test: Test, yes: Target, no: Target) -> Target {
        let low = code.branch(test, Half::Low.of(self.value), yes, no);
        let low = code.load(Half::Low.offset(self.index), low);
        if !self.wide {
            return low;
        }
        let equal = code.branch(Test::Equal, Half::High.of(self.value), low, no);
        let high = code.branch(Test::Greater, Half::High.of(self.value), yes, equal);
        code.load(Half::High.offset(self.index), high)
    }
}

#[derive(Clone, Copy, Debug)]
enum Half {
    Low,
    High,
}

impl Half {
    fn of(self, value: u64) -> u32 {
        match self {
            Self::Low => value as u32,
            Self::High => (value >> 32) as u32,
        }
    }

    /// Every architecture that we know is little-endian.
    fn offset(self, index: u32) -> u32 {
        ARGUMENTS + 8 * index + if matches!(self, Self::High) { 4 } else { 0 }
    }
}

//! A classic BPF assembler that writes from the last instruction to the first.
//!
//! Jumps in classic BPF only go forward. Written backwards, every target exists already, so there is nothing to patch;
//! and whether a target is within the 255 instructions that a conditional jump can span is known at once, so that a
//! longer way goes through an unconditional jump put in between.

use sys::seccomp::Instruction;

// linux/bpf_common.h
const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const RET_K: u16 = 0x06;

/// The furthest target of a conditional jump.
const REACH: usize = u8::MAX as usize;

/// A comparison of the accumulator with a constant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

/// Somewhere to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Stop with this SECCOMP_RET_* value.
    Return(u32),
    /// An instruction, counted from the end of the program.
    Label(usize),
}

/// The program so far, reversed.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// Where each return value was written last.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// The finished program, starting at `entry`.
    pub(super) fn finish(mut self, entry: Target) -> Vec<Instruction> {
        self.follow_on(entry);
        self.reversed.reverse();
        self.reversed
    }

    /// Loads the 32-bit word at `offset` of `struct seccomp_data`.
    pub(super) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.follow_on(next);
        self.push(LD_W_ABS, 0, 0, offset)
    }

    /// Masks the accumulator.
    pub(super) fn and(&mut self, mask: u32, next: Target) -> Target {
        self.follow_on(next);
        self.push(ALU_AND_K, 0, 0, mask)
    }

    /// Compares and branches.
    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Target, no: Target) -> Target {
        // Reaching `no` may put one instruction in between.
        let yes = self.within_reach(yes, REACH - 1);
        let no = self.within_reach(no, REACH);
        let (yes, no) = (self.distance(yes), self.distance(no));
        self.push(test as u16, yes as u8, no as u8, value)
    }

    /// Lets the next instruction to be written fall through to `target`.
    fn follow_on(&mut self, target: Target) {
        if target != Target::Label(self.reversed.len()) {
            self.enter(target);
        }
    }

    /// Writes one instruction that continues at `target`, however far that is.
    fn enter(&mut self, target: Target) -> Target {
        match target {
            Target::Return(value) => self.write_return(value),
            Target::Label(_) => {
                let distance = self.distance(target);
                self.push(JMP_JA, 0, 0, distance as u32)
            }
        }
    }

    /// A target for the same continuation at most `reach` instructions away.
    fn within_reach(&mut self, target: Target, reach: usize) -> Target {
        let known = match target {
            Target::Return(value) => self
                .returns
                .iter()
                .find(|(known, _)| *known == value)
                .map(|(_, at)| Target::Label(*at)),
            label @ Target::Label(_) => Some(label),
        };
        match known {
            Some(label) if self.distance(label) <= reach => label,
            _ => self.enter(target),
        }
    }

    fn write_return(&mut self, value: u32) -> Target {
        let label = self.push(RET_K, 0, 0, value);
        self.returns.retain(|(known, _)| *known != value);
        self.returns.push((value, self.reversed.len()));
        label
    }

    /// How many instructions a jump written next would skip.
    fn distance(&self, target: Target) -> usize {
        match target {
            Target::Label(at) => self.reversed.len() - at,
            Target::Return(_) => usize::MAX,
        }
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        self.reversed.push(Instruction { code, jt, jf, k });
        Target::Label(self.reversed.len())
    }
}

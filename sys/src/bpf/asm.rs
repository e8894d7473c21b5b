//! A small assembler: typed instructions, and labels that become offsets at the end.

use std::os::fd::BorrowedFd;

use super::descriptor;

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Signed jump or memory offset.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

/// A register. Calls take their arguments in R1 to R5, which they destroy, and answer in R0; R6 to R9 stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// The end of the stack of 512 bytes; read only.
    Frame,
}

/// How much memory is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// When a jump is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum If {
    Equal = 0x10,
    NotEqual = 0x50,
}

/// A function of the kernel that programs may call (bpf-helpers(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    MapLookup = 1,
    MapUpdate = 2,
    Random = 7,
    StoreBytes = 9,
    LoadBytes = 26,
    SocketCookie = 46,
    NetnsCookie = 122,
    RedirectPeer = 155,
}

/// A place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// The program has a label that is nowhere, or jumps further than an offset can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("jump of instruction {0} leads nowhere")]
pub struct Adrift(pub usize);

/// A program under construction.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const ALU: u8 = 0x04;
const ALU64: u8 = 0x07;
const MEM: u8 = 0x60;
const REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const MODULO: u8 = 0x90;
const MOVE: u8 = 0xb0;
const ALWAYS: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// Sixty-four bits in two instructions.
const LOAD_WIDE: u8 = 0x18;
const PSEUDO_MAP_FD: u8 = 1;

impl Assembler {
    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(self.code.len());
        self
    }

    /// `to = from`
    pub fn copy(&mut self, to: Reg, from: Reg) -> &mut Self {
        self.push(ALU64 | MOVE | REGISTER, to, from as u8, 0, 0)
    }

    /// `to = value`, sign extended.
    pub fn set(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(ALU64 | MOVE, to, 0, 0, value)
    }

    /// `to += value`
    pub fn add(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(ALU64 | ADD, to, 0, 0, value)
    }

    /// `to %= by`, both as unsigned numbers of 32 bits.
    pub fn modulo(&mut self, to: Reg, by: Reg) -> &mut Self {
        self.push(ALU | MODULO | REGISTER, to, by as u8, 0, 0)
    }

    /// `to = *(from + offset)`
    pub fn load(&mut self, width: Width, to: Reg, from: Reg, offset: i16) -> &mut Self {
        self.push(LDX | MEM | width as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = from`
    pub fn store(&mut self, width: Width, to: Reg, offset: i16, from: Reg) -> &mut Self {
        self.push(STX | MEM | width as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = value`
    pub fn store_value(&mut self, width: Width, to: Reg, offset: i16, value: i32) -> &mut Self {
        self.push(ST | MEM | width as u8, to, 0, offset, value)
    }

    /// `to = map`, whose descriptor must be alive when the program is loaded.
    pub fn map(&mut self, to: Reg, map: BorrowedFd<'_>) -> &mut Self {
        let fd = descriptor(map).cast_signed();
        self.push(LOAD_WIDE, to, PSEUDO_MAP_FD, 0, fd);
        self.raw(0, 0, 0, 0)
    }

    /// `r0 = helper(r1, …)`
    pub fn call(&mut self, helper: Helper) -> &mut Self {
        self.raw(JMP | CALL, 0, 0, helper as i32)
    }

    /// Go on at the label.
    pub fn jump(&mut self, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.raw(JMP | ALWAYS, 0, 0, 0)
    }

    /// Go on at the label if register and value compare so.
    pub fn jump_if(&mut self, register: Reg, compare: If, value: i32, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(JMP | compare as u8, register, 0, 0, value)
    }

    /// Return R0.
    pub fn exit(&mut self) -> &mut Self {
        self.raw(JMP | EXIT, 0, 0, 0)
    }

    /// The instructions, with every jump pointing at its label.
    pub fn finish(mut self) -> Result<Vec<Instruction>, Adrift> {
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten().ok_or(Adrift(at))?;
            let distance = target as i64 - at as i64 - 1;
            self.code[at].offset = i16::try_from(distance).map_err(|_| Adrift(at))?;
        }
        Ok(self.code)
    }

    fn push(&mut self, code: u8, to: Reg, from: u8, offset: i16, immediate: i32) -> &mut Self {
        self.raw(code, to as u8 | from << 4, offset, immediate)
    }

    fn raw(&mut self, code: u8, registers: u8, offset: i16, immediate: i32) -> &mut Self {
        self.code.push(Instruction {
            code,
            registers,
            offset,
            immediate,
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(code: &[Instruction]) -> Vec<[u8; 4]> {
        code.iter()
            .map(|i| {
                let offset = i.offset.to_le_bytes();
                [i.code, i.registers, offset[0], offset[1]]
            })
            .collect()
    }

    /// Against the numbers of Documentation/bpf/standardization/instruction-set.rst.
    #[test]
    fn instructions_are_encoded_as_the_standard_says() {
        let mut a = Assembler::default();
        a.copy(Reg::R6, Reg::R1)
            .set(Reg::R0, -1)
            .add(Reg::R2, -16)
            .modulo(Reg::R0, Reg::R7)
            .load(Width::Word, Reg::R7, Reg::R6, 4)
            .store(Width::Double, Reg::Frame, -16, Reg::R7)
            .store_value(Width::Half, Reg::Frame, -6, 0xffff)
            .call(Helper::NetnsCookie)
            .exit();
        let code = a.finish().unwrap();
        assert_eq!(
            bytes(&code),
            [
                [0xbf, 0x16, 0, 0],
                [0xb7, 0x00, 0, 0],
                [0x07, 0x02, 0, 0],
                [0x9c, 0x70, 0, 0],
                [0x61, 0x67, 4, 0],
                [0x7b, 0x7a, 0xf0, 0xff],
                [0x6a, 0x0a, 0xfa, 0xff],
                [0x85, 0x00, 0, 0],
                [0x95, 0x00, 0, 0],
            ]
        );
        let immediates: Vec<_> = code.iter().map(|i| i.immediate).collect();
        assert_eq!(immediates, [0, -1, -16, 0, 0, 0, 0xffff, 122, 0]);
        assert_eq!(size_of::<Instruction>(), 8);
    }

    #[test]
    fn jumps_count_from_the_next_instruction_both_ways() {
        let mut a = Assembler::default();
        let (again, end) = (a.label(), a.label());
        a.place(again)
            .jump_if(Reg::R1, If::Equal, 7, end)
            .jump_if(Reg::R1, If::NotEqual, 0, again)
            .jump(end)
            .place(end)
            .exit();
        let offsets: Vec<_> = a.finish().unwrap().iter().map(|i| i.offset).collect();
        assert_eq!(offsets, [2, -2, 0, 0]);
    }

    #[test]
    fn a_label_that_is_nowhere_is_an_error() {
        let mut a = Assembler::default();
        let nowhere = a.label();
        a.exit().jump(nowhere);
        assert_eq!(a.finish(), Err(Adrift(1)));
    }
}

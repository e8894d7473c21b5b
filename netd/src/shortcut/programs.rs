//! The programs: what happens with packets that come out of a network, and with those that come in by the uplink.
//!
//! ```text
//! out, on a bridge      to a container that is reached directly? ─▶ to the host, past the fabric's routing
//! in, on the uplink     to a container of ours, from one of its network? ─▶ into its namespace, past routing and bridge
//! ```
//! Whatever is not led so goes on unchanged. Who sends is held to his name before: the packet filters of the bridge see a
//! packet first that comes out of a network.

use std::os::fd::AsFd;

use sys::bpf::Instruction;
use sys::bpf::asm::{Adrift, Assembler, Helper, If, Label, Reg, Width};
use sys::bpf::ingress::NEXT;
use sys::bpf::map::Map;

use super::tables::{ADDRESS, BRIDGE, HEADER, PORT, Tables};
use Reg::{Frame, R0, R1, R2, R3, R4, R5, R6, R7, R8};
use Width::{Half, Word};

// Fields of `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const LINK: i16 = 40;

// Types of Ethernet as that has them: in the order of the wire.
const IPV4: i32 = u16::from_be(0x0800) as i32;
const IPV6: i32 = u16::from_be(0x86dd) as i32;

// Where addresses are in a packet, behind the Ethernet header of 14 bytes.
const SOURCE4: i32 = 14 + 12;
const DESTINATION4: i32 = 14 + 16;
const SOURCE6: i32 = 14 + 8;
const DESTINATION6: i32 = 14 + 24;

// The stack: keys of both maps, as in `tables`, and the addresses of an Ethernet header.
const FAR: i16 = -24;
const FAR_ADDRESS: i16 = FAR + 4;
const NEAR: i16 = -48;
const ADDRESSES: i16 = -64;

/// Leads packets out of a network.
pub(super) fn out(tables: &Tables) -> Result<Vec<Instruction>, Adrift> {
    let mut code = Code(Assembler::default());
    let [pass, six, known] = std::array::from_fn(|_| code.0.label());
    code.begin(pass, six);
    code.address4(DESTINATION4, FAR_ADDRESS, pass);
    code.0.jump(known).place(six);
    code.read(DESTINATION6, FAR_ADDRESS, ADDRESS, pass);
    code.0
        .place(known)
        .load(Word, R1, R6, LINK)
        .store(Word, Frame, FAR, R1);
    code.lookup(&tables.far, FAR);
    code.0
        .jump_if(R0, If::Equal, 0, pass)
        .load(Word, R1, R0, 0)
        .jump_if(R1, If::Equal, 0, pass);
    code.redirect();
    code.end(pass)
}

/// Leads packets into a container.
pub(super) fn into(tables: &Tables) -> Result<Vec<Instruction>, Adrift> {
    let mut code = Code(Assembler::default());
    let [pass, six, known] = std::array::from_fn(|_| code.0.label());
    code.begin(pass, six);
    code.address4(DESTINATION4, NEAR, pass);
    code.address4(SOURCE4, FAR_ADDRESS, pass);
    code.0.jump(known).place(six);
    code.read(DESTINATION6, NEAR, ADDRESS, pass);
    code.read(SOURCE6, FAR_ADDRESS, ADDRESS, pass);
    code.0.place(known);
    code.lookup(&tables.near, NEAR);
    code.0
        .jump_if(R0, If::Equal, 0, pass)
        .copy(R8, R0)
        .load(Word, R1, R8, BRIDGE)
        .store(Word, Frame, FAR, R1);
    code.lookup(&tables.far, FAR);
    code.0.jump_if(R0, If::Equal, 0, pass);
    // As if it had come from the gateway.
    for word in [0, 4, 8] {
        code.0
            .load(Word, R1, R8, HEADER + word)
            .store(Word, Frame, ADDRESSES + word, R1);
    }
    code.0
        .copy(R1, R6)
        .set(R2, 0)
        .copy(R3, Frame)
        .add(R3, ADDRESSES.into())
        .set(R4, 12)
        .set(R5, 0)
        .call(Helper::StoreBytes)
        .jump_if(R0, If::NotEqual, 0, pass)
        .load(Word, R1, R8, PORT);
    code.redirect();
    code.end(pass)
}

struct Code(Assembler);

impl Code {
    /// R6 context; goes on with IPv4.
    fn begin(&mut self, pass: Label, six: Label) {
        let four = self.0.label();
        self.0
            .copy(R6, R1)
            .load(Word, R7, R6, PROTOCOL)
            .jump_if(R7, If::Equal, IPV6, six)
            .jump_if(R7, If::Equal, IPV4, four)
            .jump(pass)
            .place(four);
    }

    /// An IPv4 address of the packet, in sixteen bytes on the stack.
    fn address4(&mut self, from: i32, to: i16, pass: Label) {
        self.0
            .store_value(Word, Frame, to, 0)
            .store_value(Word, Frame, to + 4, 0)
            .store_value(Half, Frame, to + 8, 0)
            .store_value(Half, Frame, to + 10, 0xffff);
        self.read(from, to + 12, 4, pass);
    }

    fn read(&mut self, from: i32, to: i16, length: i16, pass: Label) {
        self.0
            .copy(R1, R6)
            .set(R2, from)
            .copy(R3, Frame)
            .add(R3, to.into())
            .set(R4, length.into())
            .call(Helper::LoadBytes)
            .jump_if(R0, If::NotEqual, 0, pass);
    }

    fn lookup(&mut self, map: &Map, key: i16) {
        self.0
            .map(R1, map.as_fd())
            .copy(R2, Frame)
            .add(R2, key.into())
            .call(Helper::MapLookup);
    }

    /// To the other end of the link that R1 has, as if it had come in there.
    fn redirect(&mut self) {
        self.0.set(R2, 0).call(Helper::RedirectPeer).exit();
    }

    fn end(mut self, pass: Label) -> Result<Vec<Instruction>, Adrift> {
        self.0.place(pass).set(R0, NEXT).exit();
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::bpf::ingress;

    #[test]
    fn the_kernel_accepts_both_programs() {
        let tables = Tables::create().expect("tests of netd need root");
        for code in [out(&tables).unwrap(), into(&tables).unwrap()] {
            ingress::load("shoal_test", &code).unwrap_or_else(|e| panic!("{e}\n{}", e.log));
        }
    }
}

//! The programs: what happens when a socket of a container connects, sends, receives, or is asked for its peer.
//!
//! ```text
//! connect, sendmsg      virtual address? ─▶ is this namespace on its network? ─▶ backends? ─▶ (sendmsg: the one it had,
//!                       if it still counts) ─▶ one at random ─▶ remember ─▶ rewrite the address
//! recvmsg, getpeername  remembered? ─▶ show the virtual address
//! ```
//! The port is left as it is. Whatever is not translated goes on unchanged: an address without backends is refused by the
//! network's gateway, at once and in the protocol's own words.

use std::os::fd::AsFd;

use sys::bpf::Instruction;
use sys::bpf::asm::{Adrift, Assembler, Helper, If, Label, Reg, Width};
use sys::bpf::map::Map;
use sys::bpf::program::Hook;

use super::tables::Tables;
use Reg::{Frame, R0, R1, R2, R3, R4, R6, R7, R8, R9};
use Width::{Double, Half, Word};

/// Every program with its name.
pub(super) const PROGRAMS: [(Hook, &str); 8] = [
    (Hook::Connect4, "shoal_connect4"),
    (Hook::Connect6, "shoal_connect6"),
    (Hook::SendMsg4, "shoal_sendmsg4"),
    (Hook::SendMsg6, "shoal_sendmsg6"),
    (Hook::RecvMsg4, "shoal_recvmsg4"),
    (Hook::RecvMsg6, "shoal_recvmsg6"),
    (Hook::GetPeerName4, "shoal_peername4"),
    (Hook::GetPeerName6, "shoal_peername6"),
];

// Fields of `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const TYPE: i16 = 32;
const PROTOCOL: i16 = 36;

// Fields of a target; see `tables::Target`.
const NETWORK: i16 = 0;
const SET: i16 = 8;
const COUNT: i16 = 12;

// The stack. Keys of maps, each as in `tables`.
/// The address that the caller gave.
const WANTED: i16 = -16;
const MEMBER: i16 = -32;
/// Socket, wanted address, port.
const FORWARD: i16 = -64;
/// Virtual address, backend.
const PAIR: i16 = -96;
const BACKEND: i16 = PAIR + 16;
/// Socket, backend, port.
const REVERSE: i16 = -128;
const SLOT: i16 = -136;

/// Within a flow's key.
const FLOW_ADDRESS: i16 = 8;
const FLOW_PORT: i16 = 24;
const FLOW_END: i16 = 28;

const SOCK_DGRAM: i32 = 2;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
/// A set of backends may be exchanged between two look-ups; the second attempt sees the new one.
const ATTEMPTS: i32 = 2;

/// The instructions of the program for `hook`.
pub(super) fn program(hook: Hook, tables: &Tables) -> Result<Vec<Instruction>, Adrift> {
    let mut code = Code {
        a: Assembler::default(),
        hook,
        tables,
    };
    match hook {
        Hook::Connect4 | Hook::Connect6 | Hook::SendMsg4 | Hook::SendMsg6 => code.steer(),
        Hook::RecvMsg4 | Hook::RecvMsg6 | Hook::GetPeerName4 | Hook::GetPeerName6 => code.reveal(),
    }
    code.a.finish()
}

struct Code<'a> {
    a: Assembler,
    hook: Hook,
    tables: &'a Tables,
}

impl Code<'_> {
    /// R6 context, R7 number of backends, R8 target, R9 attempts left.
    fn steer(&mut self) {
        let [again, pass, fresh, found, remember, rewrite] = std::array::from_fn(|_| self.a.label());
        self.begin();
        self.a.set(R9, ATTEMPTS).place(again);
        self.lookup(&self.tables.vips, WANTED);
        self.a.jump_if(R0, If::Equal, 0, pass).copy(R8, R0);
        self.only_data(pass);
        self.only_members(pass);
        self.a.load(Word, R7, R8, COUNT).jump_if(R7, If::Equal, 0, pass);
        self.flow_key();
        if self.sends() {
            self.keep(fresh, rewrite, remember);
        }
        self.a.place(fresh);
        self.draw();
        self.a
            .jump_if(R0, If::NotEqual, 0, found)
            .add(R9, -1)
            .jump_if(R9, If::NotEqual, 0, again)
            .jump(pass)
            .place(found);
        self.copy_from(R0, BACKEND);
        if self.sends() {
            self.update(&self.tables.flows, FORWARD, BACKEND);
        }
        self.reverse_key();
        self.a.place(remember);
        self.remember();
        self.a.place(rewrite);
        self.rewrite(Frame, BACKEND);
        self.a.place(pass).set(R0, 1).exit();
    }

    fn reveal(&mut self) {
        let [found, pass] = std::array::from_fn(|_| self.a.label());
        self.begin();
        self.flow_key();
        if self.names_peer() {
            let datagram = self.a.label();
            self.a
                .load(Word, R1, R6, TYPE)
                .jump_if(R1, If::Equal, SOCK_DGRAM, datagram);
            self.lookup(&self.tables.peers, FORWARD);
            self.a.jump(found).place(datagram);
        }
        self.lookup(&self.tables.flows, FORWARD);
        self.a.place(found).jump_if(R0, If::Equal, 0, pass);
        self.rewrite(R0, 0);
        self.a.place(pass).set(R0, 1).exit();
    }

    /// Context and wanted address.
    fn begin(&mut self) {
        self.a.copy(R6, R1);
        if self.is_v6() {
            for word in 0..4 {
                self.a
                    .load(Word, R1, R6, USER_IP6 + 4 * word)
                    .store(Word, Frame, WANTED + 4 * word, R1);
            }
        } else {
            self.a
                .load(Word, R1, R6, USER_IP4)
                .store_value(Double, Frame, WANTED, 0)
                .store_value(Half, Frame, WANTED + 8, 0)
                .store_value(Half, Frame, WANTED + 10, 0xffff)
                .store(Word, Frame, WANTED + 12, R1);
        }
    }

    /// An echo request is for the virtual address itself, which the gateway answers.
    fn only_data(&mut self, pass: Label) {
        if !self.sends() {
            self.a
                .load(Word, R1, R6, PROTOCOL)
                .jump_if(R1, If::Equal, ICMP, pass)
                .jump_if(R1, If::Equal, ICMPV6, pass);
        }
    }

    /// Host networking, other networks, namespaces that a container makes itself: they see no virtual address.
    fn only_members(&mut self, pass: Label) {
        self.a
            .copy(R1, R6)
            .call(Helper::NetnsCookie)
            .store(Double, Frame, MEMBER, R0)
            .load(Double, R1, R8, NETWORK)
            .store(Double, Frame, MEMBER + 8, R1);
        self.lookup(&self.tables.members, MEMBER);
        self.a.jump_if(R0, If::Equal, 0, pass);
    }

    /// A socket that sent there before goes on with the same backend, as long as it is one.
    fn keep(&mut self, fresh: Label, rewrite: Label, remember: Label) {
        self.lookup(&self.tables.flows, FORWARD);
        self.a.jump_if(R0, If::Equal, 0, fresh);
        self.copy_from(R0, BACKEND);
        self.copy(WANTED, PAIR);
        self.lookup(&self.tables.backends, PAIR);
        self.a.jump_if(R0, If::Equal, 0, fresh);
        self.reverse_key();
        self.lookup(&self.tables.flows, REVERSE);
        self.a.jump_if(R0, If::NotEqual, 0, rewrite).jump(remember);
    }

    /// R0: one of the set's backends, or nothing.
    fn draw(&mut self) {
        self.a
            .call(Helper::Random)
            .modulo(R0, R7)
            .store(Word, Frame, SLOT + 4, R0)
            .load(Word, R1, R8, SET)
            .store(Word, Frame, SLOT, R1);
        self.lookup(&self.tables.slots, SLOT);
    }

    /// Let the socket's peer be known by the virtual address.
    fn remember(&mut self) {
        if self.sends() {
            self.update(&self.tables.flows, REVERSE, WANTED);
            return;
        }
        let [datagram, done] = std::array::from_fn(|_| self.a.label());
        self.a
            .load(Word, R1, R6, TYPE)
            .jump_if(R1, If::Equal, SOCK_DGRAM, datagram);
        self.update(&self.tables.peers, REVERSE, WANTED);
        self.a.jump(done).place(datagram);
        self.update(&self.tables.flows, REVERSE, WANTED);
        self.a.place(done);
    }

    fn flow_key(&mut self) {
        self.a
            .copy(R1, R6)
            .call(Helper::SocketCookie)
            .store(Double, Frame, FORWARD, R0);
        self.copy(WANTED, FORWARD + FLOW_ADDRESS);
        self.a
            .load(Word, R1, R6, USER_PORT)
            .store(Word, Frame, FORWARD + FLOW_PORT, R1)
            .store_value(Word, Frame, FORWARD + FLOW_END, 0);
    }

    fn reverse_key(&mut self) {
        self.a
            .load(Double, R1, Frame, FORWARD)
            .store(Double, Frame, REVERSE, R1);
        self.copy(BACKEND, REVERSE + FLOW_ADDRESS);
        self.a
            .load(Double, R1, Frame, FORWARD + FLOW_PORT)
            .store(Double, Frame, REVERSE + FLOW_PORT, R1);
    }

    /// Give the caller another address: sixteen bytes at `from + offset`.
    fn rewrite(&mut self, from: Reg, offset: i16) {
        if self.is_v6() {
            for word in 0..4 {
                self.a
                    .load(Word, R1, from, offset + 4 * word)
                    .store(Word, R6, USER_IP6 + 4 * word, R1);
            }
        } else {
            self.a
                .load(Word, R1, from, offset + 12)
                .store(Word, R6, USER_IP4, R1);
        }
    }

    /// Sixteen bytes on the stack.
    fn copy(&mut self, from: i16, to: i16) {
        for half in [0, 8] {
            self.a
                .load(Double, R1, Frame, from + half)
                .store(Double, Frame, to + half, R1);
        }
    }

    /// Sixteen bytes of a map's value to the stack.
    fn copy_from(&mut self, value: Reg, to: i16) {
        for half in [0, 8] {
            self.a
                .load(Double, R1, value, half)
                .store(Double, Frame, to + half, R1);
        }
    }

    fn lookup(&mut self, map: &Map, key: i16) {
        self.a
            .map(R1, map.as_fd())
            .copy(R2, Frame)
            .add(R2, key.into())
            .call(Helper::MapLookup);
    }

    fn update(&mut self, map: &Map, key: i16, value: i16) {
        self.a
            .map(R1, map.as_fd())
            .copy(R2, Frame)
            .add(R2, key.into())
            .copy(R3, Frame)
            .add(R3, value.into())
            .set(R4, 0)
            .call(Helper::MapUpdate);
    }

    fn is_v6(&self) -> bool {
        use Hook::{Connect6, GetPeerName6, RecvMsg6, SendMsg6};
        matches!(self.hook, Connect6 | SendMsg6 | RecvMsg6 | GetPeerName6)
    }

    fn sends(&self) -> bool {
        matches!(self.hook, Hook::SendMsg4 | Hook::SendMsg6)
    }

    fn names_peer(&self) -> bool {
        matches!(self.hook, Hook::GetPeerName4 | Hook::GetPeerName6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::bpf::program::Program;

    #[test]
    fn the_kernel_accepts_every_program() {
        let tables = Tables::open(Vec::new()).expect("tests of netd need root");
        for (hook, name) in PROGRAMS {
            let code = program(hook, &tables).unwrap();
            let loaded =
                Program::load(hook, name, &code).unwrap_or_else(|e| panic!("{name}: {e}\n{}", e.log));
            assert_eq!(loaded.name, name);
        }
    }
}

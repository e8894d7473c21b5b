//! A transaction: tables, chains, rules, sets and elements, carried out all or not at all.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};

use super::expr::{Expr, Verdict};
use super::key::{Field, Key, datatype, length};
use crate::netlink::{Attributes, Request, Socket};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_LIST_ELEM: u16 = 1;
const NFT_SET_MAP: u32 = 8;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
/// Elements in one message: their list is one attribute, at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: String,
}

/// Hook numbers of the IP and bridge families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Filter,
    Nat,
}

/// A chain; `base` hangs it on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// Kind, hook, priority, and whether what no rule took is dropped.
    pub(crate) base: Option<(Kind, Hook, i32, bool)>,
}

/// What a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Fields(&'static [Field]),
    Verdict,
}

/// A set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Field],
    pub(crate) data: Data,
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    Key(Key),
    Value(Key, Key),
    Verdict(Key, Verdict),
}

/// Messages to be carried out together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    requests: Vec<Request>,
    sets: u32,
}

impl Transaction {
    pub(crate) fn create_table(&mut self, table: &Table) {
        self.push(table, NFT_MSG_NEWTABLE, NLM_F_CREATE, |a| {
            a.text(1, &table.name).number_be(2, 0);
        });
    }

    /// Delete the table with all that is in it; fine if there is none.
    pub(crate) fn delete_table(&mut self, table: &Table) {
        self.create_table(table);
        self.push(table, NFT_MSG_DELTABLE, 0, |a| {
            a.text(1, &table.name);
        });
    }

    /// An empty table, whatever was there before.
    pub(crate) fn reset_table(&mut self, table: &Table) {
        self.delete_table(table);
        self.create_table(table);
    }

    pub(crate) fn chain(&mut self, table: &Table, chain: &Chain) {
        self.push(table, NFT_MSG_NEWCHAIN, NLM_F_CREATE, |a| {
            a.text(1, &table.name).text(3, &chain.name);
            if let Some((kind, hook, priority, drop)) = chain.base {
                a.nest(4, |a| {
                    a.number_be(1, hook as u32).number_be(2, priority as u32);
                });
                a.number_be(5, u32::from(!drop));
                a.text(7, if kind == Kind::Nat { "nat" } else { "filter" });
            }
        });
    }

    pub(crate) fn rule(&mut self, table: &Table, chain: &str, expressions: &[Expr]) {
        self.push(table, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |a| {
            a.text(1, &table.name).text(2, chain).nest(4, |a| {
                for expression in expressions {
                    a.nest(NFTA_LIST_ELEM, |a| expression.encode(a));
                }
            });
        });
    }

    pub(crate) fn set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        self.push(table, NFT_MSG_NEWSET, NLM_F_CREATE, |a| {
            a.text(1, &table.name).text(2, set.name);
            a.number_be(3, if set.data == Data::None { 0 } else { NFT_SET_MAP });
            a.number_be(4, datatype(set.key)).number_be(5, length(set.key));
            match set.data {
                Data::None => {}
                Data::Fields(fields) => {
                    a.number_be(6, datatype(fields)).number_be(7, length(fields));
                }
                Data::Verdict => {
                    a.number_be(6, NFT_DATA_VERDICT);
                }
            }
            a.number_be(10, id);
        });
    }

    pub(crate) fn add(&mut self, table: &Table, set: &Set, elements: &[Element]) {
        self.elements(table, set, elements, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    }

    /// Refused as a whole if an element is not there.
    pub(crate) fn remove(&mut self, table: &Table, set: &Set, elements: &[Element]) {
        self.elements(table, set, elements, NFT_MSG_DELSETELEM, 0);
    }

    fn elements(&mut self, table: &Table, set: &Set, elements: &[Element], message: u16, flags: u16) {
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(table, message, flags, |a| {
                a.text(1, &table.name).text(2, set.name).nest(3, |a| {
                    for element in part {
                        a.nest(NFTA_LIST_ELEM, |a| element.encode(set, a));
                    }
                });
            });
        }
    }

    fn push(&mut self, table: &Table, message: u16, flags: u16, fill: impl FnOnce(&mut Attributes)) {
        let mut attrs = Attributes::after(generic(table.family as u8, 0));
        fill(&mut attrs);
        self.requests.push(Request {
            kind: kind(message),
            flags,
            body: attrs.into_bytes(),
        });
    }

    /// Carry it out; the first refusal is the error, and then nothing has changed. An empty transaction is nothing.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> io::Result<()> {
        let Some(last) = self.requests.last_mut() else {
            return Ok(());
        };
        last.flags |= NLM_F_ACK;
        let mark = |kind| Request {
            kind,
            flags: 0,
            body: generic(0, NFNL_SUBSYS_NFTABLES),
        };
        self.requests.insert(0, mark(NFNL_MSG_BATCH_BEGIN));
        self.requests.push(mark(NFNL_MSG_BATCH_END));
        socket.transact(&self.requests)
    }
}

impl Element {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Key(key) | Self::Value(key, _) | Self::Verdict(key, _) => key,
        }
    }

    fn encode(&self, set: &Set, a: &mut Attributes) {
        a.nest(1, |a| {
            a.put(1, self.key().bytes(set.key));
        });
        match (self, set.data) {
            (Self::Value(_, value), Data::Fields(fields)) => {
                a.nest(2, |a| {
                    a.put(1, value.bytes(fields));
                });
            }
            (Self::Verdict(_, verdict), Data::Verdict) => {
                a.nest(2, |a| verdict.encode(a));
            }
            _ => {}
        }
    }
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// `struct nfgenmsg`.
fn generic(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

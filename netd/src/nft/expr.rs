//! The expressions of a rule, and the phrases that our rules are made of.
//!
//! Registers are the 32-bit ones, counted from 0; nf_tables calls register n `NFT_REG32_00 + n`.

use super::ip::Ip;
use crate::netlink::Attributes;

/// `NFT_REG32_00`.
const REG32: u32 = 8;
const REG_VERDICT: u32 = 0;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Goto(String),
}

/// meta keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Protocol = 1,
    Mark = 3,
    InIndex = 4,
    OutIndex = 5,
    InName = 6,
    OutName = 7,
    L4Protocol = 16,
}

/// Where a payload offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// conntrack keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ct {
    State = 0,
    Status = 2,
    Mark = 3,
    Zone = 17,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta {
        key: Meta,
        reg: u32,
    },
    Payload {
        base: Base,
        offset: u32,
        len: u32,
        reg: u32,
    },
    Ct {
        key: Ct,
        reg: u32,
    },
    /// Set what belongs to the packet.
    SetMeta {
        key: Meta,
        reg: u32,
    },
    /// Set what belongs to the connection; `original`: as its first direction sees it.
    SetCt {
        key: Ct,
        reg: u32,
        original: bool,
    },
    /// Type of the destination address (RTN_LOCAL …).
    FibDestination {
        reg: u32,
    },
    /// A number from 0 to modulus − 1, anew for each packet.
    Random {
        modulus: u32,
        reg: u32,
    },
    /// `reg & mask`; mask has the field's length.
    Mask {
        reg: u32,
        mask: Vec<u8>,
    },
    Compare {
        reg: u32,
        equal: bool,
        value: Vec<u8>,
    },
    /// In the set, or not.
    Member {
        set: String,
        reg: u32,
        not: bool,
    },
    /// Load the map's value; no element, no match.
    Map {
        set: String,
        reg: u32,
        into: u32,
    },
    /// Take the map's verdict; no element, no match.
    VerdictMap {
        set: String,
        reg: u32,
    },
    Dnat {
        ip: Ip,
        address: u32,
        port: Option<u32>,
    },
    Load {
        reg: u32,
        value: Vec<u8>,
    },
    /// Overwrite a field of the transport header, whose checksum is at `checksum`.
    Rewrite {
        offset: u32,
        len: u32,
        reg: u32,
        checksum: u32,
    },
    Masquerade,
    /// Connection tracking does not see the packet.
    Untracked,
    /// ICMP port unreachable: a connecting client sees "connection refused" at once.
    Refuse(Ip),
    Verdict(Verdict),
}

impl Expr {
    const fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } | Self::Rewrite { .. } => "payload",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::FibDestination { .. } => "fib",
            Self::Random { .. } => "numgen",
            Self::Mask { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Member { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Untracked => "notrack",
            Self::Refuse(_) => "reject",
            Self::Verdict(_) | Self::Load { .. } => "immediate",
        }
    }

    pub(super) fn encode(&self, out: &mut Attributes) {
        out.text(NFTA_EXPR_NAME, self.name());
        out.nest(NFTA_EXPR_DATA, |a| self.encode_data(a));
    }

    fn encode_data(&self, a: &mut Attributes) {
        match self {
            Self::Meta { key, reg } => a.number_be(1, REG32 + reg).number_be(2, *key as u32),
            Self::Payload {
                base,
                offset,
                len,
                reg,
            } => a
                .number_be(1, REG32 + reg)
                .number_be(2, *base as u32)
                .number_be(3, *offset)
                .number_be(4, *len),
            Self::Ct { key, reg } => a.number_be(1, REG32 + reg).number_be(2, *key as u32),
            Self::SetMeta { key, reg } => a.number_be(3, REG32 + reg).number_be(2, *key as u32),
            Self::SetCt { key, reg, original } => {
                a.number_be(2, *key as u32).number_be(4, REG32 + reg);
                if *original {
                    a.put(3, &[0]);
                }
                a
            }
            // result addrtype, flags daddr
            Self::FibDestination { reg } => a.number_be(1, REG32 + reg).number_be(2, 3).number_be(3, 2),
            // type random
            Self::Random { modulus, reg } => {
                a.number_be(1, REG32 + reg).number_be(2, *modulus).number_be(3, 1)
            }
            Self::Mask { reg, mask } => {
                a.number_be(1, REG32 + reg)
                    .number_be(2, REG32 + reg)
                    .number_be(3, mask.len() as u32);
                value(a, 4, mask);
                value(a, 5, &vec![0; mask.len()])
            }
            Self::Compare {
                reg,
                equal,
                value: bytes,
            } => {
                a.number_be(1, REG32 + reg).number_be(2, u32::from(!equal));
                value(a, 3, bytes)
            }
            Self::Member { set, reg, not } => a
                .text(1, set)
                .number_be(2, REG32 + reg)
                .number_be(5, u32::from(*not)),
            Self::Map { set, reg, into } => a
                .text(1, set)
                .number_be(2, REG32 + reg)
                .number_be(3, REG32 + into),
            Self::VerdictMap { set, reg } => {
                a.text(1, set).number_be(2, REG32 + reg).number_be(3, REG_VERDICT)
            }
            Self::Dnat { ip, address, port } => {
                a.number_be(1, 1)
                    .number_be(2, ip.family() as u32)
                    .number_be(3, REG32 + address);
                if let Some(port) = port {
                    a.number_be(5, REG32 + port);
                }
                a
            }
            Self::Load { reg, value: bytes } => {
                a.number_be(1, REG32 + reg);
                value(a, 2, bytes)
            }
            // sreg, checksum type inet
            Self::Rewrite {
                offset,
                len,
                reg,
                checksum,
            } => {
                a.number_be(2, Base::Transport as u32)
                    .number_be(3, *offset)
                    .number_be(4, *len);
                a.number_be(5, REG32 + reg)
                    .number_be(6, 1)
                    .number_be(7, *checksum)
            }
            Self::Masquerade | Self::Untracked => a,
            Self::Refuse(Ip::V4) => a.number_be(1, 0).put(2, &[3]),
            Self::Refuse(Ip::V6) => a.number_be(1, 0).put(2, &[4]),
            Self::Verdict(verdict) => a.number_be(1, REG_VERDICT).nest(2, |a| verdict.encode(a)),
        };
    }
}

impl Verdict {
    /// As the content of a data attribute.
    pub(super) fn encode(&self, a: &mut Attributes) {
        a.nest(NFTA_DATA_VERDICT, |a| {
            match self {
                Self::Drop => a.number_be(1, 0),
                Self::Accept => a.number_be(1, 1),
                Self::Goto(chain) => a.number_be(1, -4i32 as u32).text(2, chain),
            };
        });
    }
}

fn value<'a>(a: &'a mut Attributes, kind: u16, bytes: &[u8]) -> &'a mut Attributes {
    a.nest(kind, |a| {
        a.put(NFTA_DATA_VALUE, bytes);
    })
}

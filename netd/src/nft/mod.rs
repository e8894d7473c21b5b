//! nftables spoken over netlink: our own encoder for the few messages and expressions that the node needs.
//!
//! Rules of the house: the ruleset is static, what changes are elements of sets and maps; every change is one transaction.
//! Source of numbers and layouts: linux/netfilter/nf_tables.h and net/netfilter/*.c.

mod expr;
mod ip;
mod key;
pub(crate) mod matching;
mod transaction;

pub(crate) use expr::{Base, Ct, Expr, Meta, Verdict};
pub(crate) use ip::Ip;
pub(crate) use key::{Field, Key};
pub(crate) use transaction::{Chain, Data, Element, Family, Hook, Kind, Set, Table, Transaction};

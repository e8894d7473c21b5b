//! Networks that span nodes, as plain data: who of the other nodes is where, what the kernel must know of that, and how
//! large a packet may be.

mod entries;
mod mtu;

pub(crate) use entries::{Entries, Nodes, Ports};
pub(crate) use mtu::{Limits, WIREGUARD, fitting_mtu};

//! Networks that span nodes, as plain data: who of the other nodes is where, what the kernel must know of that, and how
//! large a packet may be.

mod announcement;
mod entries;
mod mtu;

pub(crate) use announcement::announcement;
pub(crate) use entries::{Entries, Nodes, Ports, hardware_address};
pub(crate) use mtu::{Limits, WIREGUARD, fitting_mtu};

//! One node's networking: links, bridges, addresses, published ports, DNS and virtual IPs, all spoken to the kernel over
//! netlink.
//!
//! Everything that forwards lives in one `fabric` network namespace per node: a bridge per network, and an uplink veth to
//! the host's namespace. A container gets a namespace of its own, with one veth per network. What remains in the host's
//! namespace is one veth and one nftables table, both named after the instance.

mod dns;
mod error;
mod fabric;
mod firewall;
mod host;
mod ipam;
mod names;
mod netd;
mod netlink;
mod netns;
mod nft;
mod node;
mod ports;
mod store;
mod types;
mod watch;

pub use error::{Error, ErrorKind, Result};
pub use netd::Netd;
pub use types::*;

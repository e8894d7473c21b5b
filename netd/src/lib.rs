//! One node's networking: links, bridges, addresses, published ports, DNS and virtual IPs, all spoken to the kernel over
//! netlink; no helper process, no sysctl outside of namespaces that are ours.
//!
//! ```text
//!  host namespace          fabric namespace                        sandbox (one per container)
//!  eth0                    br-<network> ── ve<hash> ═══ veth ═══── eth0   tables shoal (virtual IPs), shoal_dns
//!   │ table shoal_<hash>    │  │ gateway address, DNS               lo     127.0.0.11: DNS
//!  shoal-<hash> ══ veth ══ uplink   tables shoal (ip, bridge)
//!  UDP port of VXLAN ───── vx-<network>, where the network spans nodes
//!   table shoal_<hash>_underlay
//! ```
//! - Out: container → gateway → uplink → host, which masquerades. Networks are not forwarded to one another, `internal`
//!   ones not at all, and a bridge port may speak only with its own MAC and address.
//! - In: host port → fabric uplink → backend, chosen at random from the ready ones. The client's address is kept, except
//!   for loopback clients.
//! - To other nodes: a silent bridge port, behind it a VXLAN device, with a forwarding entry and a neighbour for each
//!   container there; nothing is learned, nothing is flooded. Its port takes packets of other nodes only.
//! - Across: a virtual IP becomes a task's address in the sandbox where the connection begins.
//!
//! The room is laid out as plan, then apply: `ipam`, `firewall`, `nft`, `dns::answer` and `names` compute plain data;
//! `netlink`, `netns`, `host`, `fabric` talk to the kernel; `node` joins them under one lock; [`Netd`] is the async handle.
//! Records of networks are on disk in `state_dir`; those of sandboxes and services in `run_dir`, because they die with the
//! kernel's objects. What somebody else takes away is made again: `watch` hears of it, `node` knows what is wanted.

mod direct;
mod dns;
mod error;
mod fabric;
mod fabric6;
mod firewall;
mod host;
mod host_changes;
mod ipam;
mod mesh;
mod names;
mod netd;
mod netlink;
mod netns;
mod nft;
mod node;
mod overlay;
mod ports;
mod shortcut;
mod sockets;
mod store;
mod tunnels;
mod types;
mod watch;

pub use error::{Error, ErrorKind, Result};
pub use host_changes::HostChanges;
pub use netd::Netd;
pub use sockets::SocketError;
pub use types::*;

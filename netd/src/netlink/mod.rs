//! Netlink: a small blocking socket with strict acknowledgement checking, and what we say to rtnetlink over it.
//! nftables' own words are in `crate::nft`.

mod address;
mod conntrack;
mod generic;
mod link;
#[allow(dead_code, reason = "words for networks that span nodes")]
mod neighbour;
#[allow(dead_code, reason = "words for networks that span nodes")]
mod path;
mod policy;
#[allow(dead_code, reason = "words for networks that span nodes")]
mod port;
mod route;
mod socket;
#[allow(dead_code, reason = "words for networks that span nodes")]
mod vxlan;
mod wireguard;

pub(crate) use address::LinkAddress;
pub(crate) use conntrack::Flow;
pub(crate) use link::{Link, LinkChange, Veth};
#[allow(unused_imports, reason = "words for networks that span nodes")]
pub(crate) use neighbour::{Forwarding, Neighbour, Place, Proxy};
pub(crate) use path::Path;
pub(crate) use policy::{Detour, MAIN, MarkRule};
#[allow(unused_imports, reason = "words for networks that span nodes")]
pub(crate) use port::PortSettings;
pub(crate) use route::Route;
pub(crate) use socket::{Request, Socket, errno};
#[allow(unused_imports, reason = "words for networks that span nodes")]
pub(crate) use vxlan::{Vxlan, VxlanSettings};
pub(crate) use wireguard::{PublicKey, SecretKey, WireGuard, WireGuardPeer};

//! Netlink: a small blocking socket with strict acknowledgement checking, and what we say to rtnetlink over it.
//! nftables' own words are in `crate::nft`.

mod address;
mod attribute;
mod conntrack;
mod diag;
mod direct;
mod family;
mod generic;
mod link;
mod neighbour;
mod path;
mod policy;
mod port;
pub(crate) mod resolution;
mod route;
mod socket;
mod usable;
mod vxlan;
mod wireguard;

pub(crate) use address::LinkAddress;
pub(crate) use attribute::Attributes;
pub(crate) use conntrack::Flow;
pub(crate) use diag::Connected;
pub(crate) use direct::DirectRoute;
pub(crate) use family::Subnet;
pub(crate) use link::{Link, LinkChange, Veth};
pub(crate) use neighbour::{Forwarding, Neighbour, Place, Proxy};
pub(crate) use path::Path;
pub(crate) use policy::{Detour, MAIN, MarkRule};
pub(crate) use port::PortSettings;
pub(crate) use route::Route;
pub(crate) use socket::{Request, Socket, errno, messages};
pub(crate) use usable::until_usable;
pub(crate) use vxlan::{Vxlan, VxlanSettings};
pub(crate) use wireguard::{PublicKey, SecretKey, WireGuard, WireGuardPeer};

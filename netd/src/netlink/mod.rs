//! Netlink: a small blocking socket with strict acknowledgement checking, and what we say to rtnetlink over it.
//! nftables' own words are in `crate::nft`.

mod address;
mod conntrack;
mod link;
mod route;
mod socket;

pub(crate) use address::LinkAddress;
pub(crate) use conntrack::Flow;
pub(crate) use link::{Link, LinkChange, Veth};
pub(crate) use route::Route;
pub(crate) use socket::{Request, Socket, errno};

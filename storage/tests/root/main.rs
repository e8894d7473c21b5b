//! The store on a real file system, as root: device nodes, owners, trusted attributes and detached overlay mounts.

mod archives;
mod carry;
mod common;
mod crash;
mod escapes;
mod images;
mod layers;
mod snapshots;
mod transfer;
mod volumes;

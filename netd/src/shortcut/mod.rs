//! A shorter way for packets that go directly between nodes: around the fabric's routing, its filters and its bridges.
//!
//! What goes directly (see [`crate::direct`]) passes two more pairs of links on each node than the host's own packets, is
//! routed twice and bridged once. Programs on the bridges and on the uplink lead it past that, from one end of a pair of links
//! straight to the other (`bpf_redirect_peer`), by the same rules by which the filters let it pass: who is reached directly
//! on which network. What they do not know goes the longer way, and so does everything on a kernel that has no such hook
//! (before Linux 6.6).
//!
//! Programs are attached as long as this process lives; without one packets go the longer way.
//!
//! - [`tables`]: the maps, and what their bytes mean.
//! - [`programs`]: the instructions.

mod programs;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::bpf::asm::Adrift;
use sys::bpf::ingress::{self, Attachment};
use sys::bpf::program::{Program, Refused};
use tokio::runtime::Handle;

use tables::Tables;

pub(crate) use tables::Place;

/// Containers of other nodes: bridge and address, and whether they are reached directly now; else they may send.
pub(crate) type Far = BTreeMap<(u32, IpAddr), bool>;

/// Why packets take the longer way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShortcutError {
    #[error("{operation} eBPF maps of direct ways")]
    Map {
        operation: &'static str,
        source: io::Error,
    },
    #[error("assemble eBPF programs of direct ways")]
    Assemble(#[from] Adrift),
    #[error("load eBPF programs of direct ways")]
    Load(#[from] Refused),
    #[error("the kernel has no hook for packets that come in by a link (Linux 6.6)")]
    Hook(#[source] io::Error),
    #[error("enter the fabric")]
    Fabric(#[source] io::Error),
    #[error("attach eBPF program to link {link} of the fabric")]
    Attach { link: u32, source: io::Error },
}

type Result<T, E = ShortcutError> = std::result::Result<T, E>;

/// The programs, and what the kernel holds in their maps.
#[derive(Debug)]
pub(crate) struct Shortcut {
    tables: Tables,
    far: Far,
    uplink: u32,
    near: BTreeMap<IpAddr, Place>,
    links: Arc<Links>,
    runtime: Handle,
}

#[derive(Debug)]
struct Links {
    fabric: OwnedFd,
    out: Program,
    into: Program,
    wanted: Mutex<BTreeMap<u32, Way>>,
    attached: Mutex<BTreeMap<u32, Attachment>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Into,
}

impl Shortcut {
    /// Nothing is led by it yet. `fabric`: its network namespace.
    pub(crate) fn open(fabric: OwnedFd, runtime: Handle) -> Result<Self> {
        let tables = Tables::create().map_err(map_error("create"))?;
        let out = ingress::load("shoal_out", &programs::out(&tables)?)?;
        let into = ingress::load("shoal_into", &programs::into(&tables)?)?;
        ingress::probe(&out).map_err(ShortcutError::Hook)?;
        Ok(Self {
            tables,
            far: Far::new(),
            uplink: 0,
            near: BTreeMap::new(),
            links: Arc::new(Links {
                fabric,
                out,
                into,
                wanted: Mutex::default(),
                attached: Mutex::default(),
            }),
            runtime,
        })
    }

    /// These are the containers of other nodes; those that are reached directly are so by this link.
    pub(crate) fn set_far(&mut self, far: Far, uplink: u32) -> Result<()> {
        let moved = std::mem::replace(&mut self.uplink, uplink) != uplink;
        for ((bridge, address), found) in &far {
            if moved || self.far.get(&(*bridge, *address)) != Some(found) {
                let link = if *found { uplink } else { 0 };
                let key = tables::far(*bridge, *address);
                let set = self.tables.far.set(&key, &link.to_ne_bytes());
                set.map_err(map_error("add to"))?;
            }
        }
        for (bridge, address) in self.far.keys().filter(|key| !far.contains_key(key)) {
            let removed = self.tables.far.remove(&tables::far(*bridge, *address));
            removed.map_err(map_error("remove from"))?;
        }
        self.far = far;
        self.hook();
        Ok(())
    }

    /// A container of this node is there.
    pub(crate) fn set_near(&mut self, address: IpAddr, place: Place) -> Result<()> {
        if self.near.get(&address) == Some(&place) {
            return Ok(());
        }
        let set = self
            .tables
            .near
            .set(&crate::sockets::address(address), &place.bytes());
        set.map_err(map_error("add to"))?;
        self.near.insert(address, place);
        Ok(())
    }

    /// No container of this node has that address any more.
    pub(crate) fn remove_near(&mut self, address: IpAddr) -> Result<()> {
        if self.near.remove(&address).is_none() {
            return Ok(());
        }
        let removed = self.tables.near.remove(&crate::sockets::address(address));
        removed.map(drop).map_err(map_error("remove from"))
    }

    /// Attaching waits for the kernel, some milliseconds for each link: packets that come meanwhile take the longer way.
    fn hook(&self) {
        let bridges = self.far.iter().filter(|(_, found)| **found);
        let mut wanted: BTreeMap<u32, Way> = bridges.map(|((bridge, _), _)| (*bridge, Way::Out)).collect();
        if !self.far.is_empty() {
            wanted.insert(self.uplink, Way::Into);
        }
        let links = self.links.clone();
        *lock(&links.wanted) = wanted;
        if !links.is_done() {
            self.runtime.spawn_blocking(move || {
                if let Err(error) = links.follow() {
                    tell(&error);
                }
            });
        }
    }
}

impl Links {
    /// Whether all is attached that is wanted, and nothing else. What could not be attached is tried again at the next occasion.
    fn is_done(&self) -> bool {
        let Ok(attached) = self.attached.try_lock() else {
            return false; // somebody is at it, perhaps with what was wanted before
        };
        attached.keys().eq(lock(&self.wanted).keys())
    }

    /// Brings what is attached in line with what is wanted by now.
    fn follow(&self) -> Result<()> {
        let mut attached = lock(&self.attached);
        let wanted = lock(&self.wanted).clone();
        attached.retain(|link, _| wanted.contains_key(link));
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(link, _)| !attached.contains_key(link))
            .collect();
        let new = sys::netns::run_in(&self.fabric, || {
            let attach = |(link, way): &(u32, Way)| {
                let program = match way {
                    Way::Out => &self.out,
                    Way::Into => &self.into,
                };
                let link = *link;
                let made = ingress::attach(program, link);
                made.map(|made| (link, made))
                    .map_err(|source| ShortcutError::Attach { link, source })
            };
            missing.iter().map(attach).collect::<Result<Vec<_>>>()
        });
        attached.extend(new.map_err(ShortcutError::Fabric)??);
        Ok(())
    }
}

/// It costs speed alone.
pub(crate) fn tell(error: &ShortcutError) {
    tracing::info!(
        "direct packets take the longer way through this node: {}",
        crate::error::chain(error)
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn map_error(operation: &'static str) -> impl Fn(io::Error) -> ShortcutError {
    move |source| ShortcutError::Map { operation, source }
}

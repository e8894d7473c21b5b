//! Virtual IPs by socket hooks: programs on the cgroup above all containers give a socket a task's address where it wanted
//! a virtual one, once per connection. No packet is translated and no connection tracked.
//!
//! - [`tables`]: the maps, and what their bytes mean.
//! - [`programs`]: the instructions.
//! - [`plan`]: what changes when a service changes.
//! - [`pinned`]: sockets that hold on to a lost backend.
//!
//! Programs and maps are held by the cgroup, not by this process: they work on while there is none, and the next one finds
//! them there, brings the maps in line, and exchanges programs only if its own differ.

mod pinned;
mod plan;
mod programs;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::bpf::map::Map;
use sys::bpf::program::{Hook, Program, Refused};

pub(crate) use pinned::{Pin, Pinned};
use plan::{Change, Vip};
use programs::PROGRAMS;
pub(crate) use tables::address;
use tables::{Tables, Target};

/// Why sockets cannot be balanced.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("no cgroup of the unified hierarchy to attach to")]
    NoCgroup,
    #[error("{operation} cgroup {path}")]
    Cgroup {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{operation} eBPF map {map}")]
    Map {
        operation: &'static str,
        map: &'static str,
        source: io::Error,
    },
    #[error("load eBPF program {program}")]
    Load {
        program: &'static str,
        source: Box<Refused>,
    },
    #[error("{operation} eBPF program {program}")]
    Attach {
        operation: &'static str,
        program: &'static str,
        source: io::Error,
    },
    #[error("assemble eBPF program {program}")]
    Assemble {
        program: &'static str,
        source: sys::bpf::asm::Adrift,
    },
    #[error("identify network namespace of {sandbox}")]
    Namespace { sandbox: String, source: io::Error },
}

type Result<T, E = SocketError> = std::result::Result<T, E>;

/// A virtual address with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualIp {
    pub(crate) address: IpAddr,
    /// Network id.
    pub(crate) network: String,
    pub(crate) backends: BTreeSet<IpAddr>,
}

/// The programs and maps of one node, and what the kernel holds in them.
#[derive(Debug)]
pub(crate) struct SocketBalancer {
    cgroup: OwnedFd,
    path: PathBuf,
    tables: Arc<Tables>,
    vips: BTreeMap<IpAddr, Vip>,
    members: BTreeMap<String, Member>,
    last_set: u32,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    /// The kernel's number of its network namespace.
    cookie: u64,
    networks: BTreeSet<u64>,
}

impl SocketBalancer {
    /// Find what an earlier process left on the cgroup, which is made if there is none, or make everything anew; nothing is
    /// attached yet, and the maps are as they were.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cgroup = open_cgroup(path)?;
        let mut left = BTreeMap::new();
        for (hook, name) in PROGRAMS {
            for program in own(&cgroup, hook, name)? {
                for id in program.maps {
                    let map = Map::by_id(id).map_err(|e| map_error("find", "of an earlier process", e))?;
                    left.extend(map.map(|map| (id, map)));
                }
            }
        }
        let tables = Tables::open(left.into_values().collect());
        let tables = tables.map_err(|e| map_error("create", "for virtual IPs", e))?;
        let mut balancer = Self {
            cgroup,
            path: path.to_owned(),
            tables: Arc::new(tables),
            vips: BTreeMap::new(),
            members: BTreeMap::new(),
            last_set: 0,
        };
        balancer.read()?;
        Ok(balancer)
    }

    /// Bring the maps in line with what is wanted, whatever is there. `members`: sandbox, namespace, networks.
    pub(crate) fn synchronize(
        &mut self,
        wanted: Vec<VirtualIp>,
        members: Vec<(String, u64, BTreeSet<String>)>,
    ) -> Result<()> {
        let keep: BTreeSet<_> = wanted.iter().map(|vip| vip.address).collect();
        for vip in wanted {
            self.set(vip)?;
        }
        let gone: Vec<_> = self
            .vips
            .keys()
            .copied()
            .filter(|ip| !keep.contains(ip))
            .collect();
        for vip in gone {
            self.remove(vip)?;
        }
        for (sandbox, cookie, networks) in members {
            self.admit(&sandbox, cookie, &networks)?;
        }
        self.sweep()
    }

    /// Attach the programs, or put them in the place of those that differ.
    pub(crate) fn attach(&self) -> Result<()> {
        PROGRAMS
            .iter()
            .try_for_each(|(hook, name)| self.attach_one(*hook, name))
    }

    /// Take our programs from the cgroup, if it is there; the maps go with the last of them.
    pub(crate) fn abandon(path: &Path) -> Result<()> {
        let cgroup = match File::open(path) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(cgroup_error("open", path, source)),
        };
        for (hook, name) in PROGRAMS {
            for program in own(&cgroup, hook, name)? {
                let detached = program.detach(&cgroup, hook);
                detached.map_err(|e| attach_error("detach", name, e))?;
            }
        }
        Ok(())
    }

    /// Let a virtual address lead to these backends. Answers what sockets may be connected to that should be led anew:
    /// backends that it has lost, and itself, if it had none.
    pub(crate) fn set(&mut self, wanted: VirtualIp) -> Result<Vec<(IpAddr, Pin)>> {
        let network = tables::network(&wanted.network);
        let old = self.vips.get(&wanted.address);
        if old.is_some_and(|old| old.network == network && old.backends == wanted.backends) {
            return Ok(Vec::new());
        }
        let pin = Pin {
            vip: wanted.address,
            gone: false,
        };
        let empty = old.is_none_or(|old| old.backends.is_empty()) && !wanted.backends.is_empty();
        let new = Vip {
            network,
            set: self.last_set.wrapping_add(1).max(1),
            backends: wanted.backends,
        };
        let change = Change::between(wanted.address, old, Some(&new));
        self.last_set = new.set;
        self.apply(wanted.address, &change)?;
        self.vips.insert(wanted.address, new);
        let itself = empty.then_some(wanted.address);
        Ok(change
            .lost
            .into_iter()
            .chain(itself)
            .map(|ip| (ip, pin))
            .collect())
    }

    /// Let a virtual address be an address like any other. Answers as [`SocketBalancer::set`].
    pub(crate) fn remove(&mut self, vip: IpAddr) -> Result<Vec<(IpAddr, Pin)>> {
        let Some(old) = self.vips.get(&vip) else {
            return Ok(Vec::new());
        };
        let change = Change::between(vip, Some(old), None);
        self.apply(vip, &change)?;
        self.vips.remove(&vip);
        let pin = Pin { vip, gone: true };
        Ok(change.lost.into_iter().map(|ip| (ip, pin)).collect())
    }

    /// What lets go the sockets that are connected to these addresses.
    pub(crate) fn pinned(&self, pins: Vec<(IpAddr, Pin)>) -> Pinned {
        Pinned {
            tables: self.tables.clone(),
            cgroup: self.path.clone(),
            pins: pins.into_iter().collect(),
        }
    }

    /// Let the sandbox use the virtual addresses of these networks and no others.
    pub(crate) fn admit(&mut self, sandbox: &str, cookie: u64, networks: &BTreeSet<String>) -> Result<()> {
        let networks: BTreeSet<_> = networks.iter().map(|id| tables::network(id)).collect();
        let new = Member { cookie, networks };
        let old = self.members.get(sandbox);
        if old == Some(&new) {
            return Ok(());
        }
        let before = old.map(Member::keys).unwrap_or_default();
        let after = new.keys();
        for key in after.difference(&before) {
            let set = self.tables.members.set(key, &1u32.to_ne_bytes());
            set.map_err(|e| map_error("add to", "members", e))?;
        }
        for key in before.difference(&after) {
            let removed = self.tables.members.remove(key);
            removed.map_err(|e| map_error("remove from", "members", e))?;
        }
        self.members.insert(sandbox.to_owned(), new);
        Ok(())
    }

    /// The sandbox is gone.
    pub(crate) fn dismiss(&mut self, sandbox: &str) -> Result<()> {
        let Some(cookie) = self.cookie(sandbox) else {
            return Ok(());
        };
        self.admit(sandbox, cookie, &BTreeSet::new())?;
        self.members.remove(sandbox);
        Ok(())
    }

    /// The namespace number of a sandbox that was admitted.
    pub(crate) fn cookie(&self, sandbox: &str) -> Option<u64> {
        self.members.get(sandbox).map(|member| member.cookie)
    }

    /// What the kernel holds, as far as it is whole.
    fn read(&mut self) -> Result<()> {
        let failed = |e| map_error("read", "vips", e);
        let mut sets: BTreeMap<u32, BTreeMap<u32, IpAddr>> = BTreeMap::new();
        for (key, value) in self.tables.slots.entries().map_err(failed)? {
            if let (Some((set, index)), Some(ip)) = (tables::parse_slot(&key), tables::parse_address(&value))
            {
                sets.entry(set).or_default().insert(index, ip);
                self.last_set = self.last_set.max(set);
            }
        }
        for (key, value) in self.tables.vips.entries().map_err(failed)? {
            let (Some(ip), Some(target)) = (tables::parse_address(&key), Target::parse(&value)) else {
                continue;
            };
            self.last_set = self.last_set.max(target.set);
            let vip = Vip {
                network: target.network,
                set: target.set,
                backends: sets
                    .remove(&target.set)
                    .unwrap_or_default()
                    .into_values()
                    .collect(),
            };
            if vip.target() == target {
                self.vips.insert(ip, vip);
            } // else it is not whole, and written anew or swept away
        }
        Ok(())
    }

    /// Remove entries that nothing points at: what a process left that ended between two steps, and sandboxes that ended
    /// while there was none.
    fn sweep(&self) -> Result<()> {
        let known = |key: &[u8]| tables::parse_address(key).is_some_and(|ip| self.vips.contains_key(&ip));
        retain(&self.tables.vips, "vips", known)?;
        let sets: BTreeMap<_, _> = self.vips.values().map(|vip| (vip.set, vip)).collect();
        let counts = |key: &[u8]| {
            tables::parse_slot(key).is_some_and(|(set, index)| {
                sets.get(&set)
                    .is_some_and(|vip| (index as usize) < vip.backends.len())
            })
        };
        retain(&self.tables.slots, "slots", counts)?;
        let pairs = self.vips.iter().flat_map(|(ip, vip)| {
            vip.backends
                .iter()
                .map(|backend| tables::pair(*ip, *backend).to_vec())
        });
        let pairs: BTreeSet<_> = pairs.collect();
        retain(&self.tables.backends, "backends", |key| pairs.contains(key))?;
        for pair in pairs {
            let set = self.tables.backends.set(&pair, &1u32.to_ne_bytes());
            set.map_err(|e| map_error("add to", "backends", e))?;
        }
        let members: BTreeSet<_> = self.members.values().flat_map(Member::keys).collect();
        retain(&self.tables.members, "members", |key| {
            <[u8; 16]>::try_from(key).is_ok_and(|key| members.contains(&key))
        })
    }

    fn apply(&self, vip: IpAddr, change: &Change) -> Result<()> {
        let Tables {
            vips,
            slots,
            backends,
            ..
        } = &*self.tables;
        let key = tables::address(vip);
        let ones = 1u32.to_ne_bytes().repeat(change.new_pairs.len() / 32);
        let added = slots.set_all(&change.new_slots, &change.new_addresses);
        if let Err(source) = added.and_then(|()| backends.set_all(&change.new_pairs, &ones)) {
            let _ = slots.remove_all(&change.new_slots); // nothing points at them
            return Err(map_error("add to", "slots", source));
        }
        let pointed = match change.target {
            Some(target) => vips.set(&key, &target.bytes()),
            None => vips.remove(&key).map(drop),
        };
        pointed.map_err(|e| map_error("change", "vips", e))?;
        let removed = backends.remove_all(&change.old_pairs);
        removed
            .and_then(|()| slots.remove_all(&change.old_slots))
            .map_err(|e| map_error("remove from", "slots", e))
    }

    fn attach_one(&self, hook: Hook, name: &'static str) -> Result<()> {
        let code = programs::program(hook, &self.tables).map_err(|source| SocketError::Assemble {
            program: name,
            source,
        })?;
        let new = Program::load(hook, name, &code).map_err(|source| SocketError::Load {
            program: name,
            source: Box::new(source),
        })?;
        let mut old = own(&self.cgroup, hook, name)?.into_iter();
        let done = match old.next() {
            Some(old) if old.tag == new.tag && old.maps == new.maps => Ok(()),
            Some(old) => new.replace(&self.cgroup, hook, &old),
            None => new.attach(&self.cgroup, hook),
        };
        done.map_err(|e| attach_error("attach", name, e))?;
        for surplus in old {
            let detached = surplus.detach(&self.cgroup, hook);
            detached.map_err(|e| attach_error("detach", name, e))?;
        }
        Ok(())
    }
}

impl Member {
    fn keys(&self) -> BTreeSet<[u8; 16]> {
        let key = |network: &u64| tables::member(self.cookie, *network);
        self.networks.iter().map(key).collect()
    }
}

/// Our programs on the cgroup itself.
fn own(cgroup: &OwnedFd, hook: Hook, name: &'static str) -> Result<Vec<Program>> {
    let attached = Program::attached(cgroup, hook).map_err(|e| attach_error("find", name, e))?;
    Ok(attached
        .into_iter()
        .filter(|program| program.name == name)
        .collect())
}

fn open_cgroup(path: &Path) -> Result<OwnedFd> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(cgroup_error("create", path, error));
        }
        _ => {}
    }
    let file = File::open(path).map_err(|e| cgroup_error("open", path, e))?;
    Ok(file.into())
}

fn retain(map: &Map, name: &'static str, keep: impl Fn(&[u8]) -> bool) -> Result<()> {
    let entries = map.entries().map_err(|e| map_error("read", name, e))?;
    let stray = entries.into_iter().map(|(key, _)| key).filter(|key| !keep(key));
    let stray: Vec<u8> = stray.flatten().collect();
    map.remove_all(&stray)
        .map_err(|e| map_error("remove from", name, e))
}

fn map_error(operation: &'static str, map: &'static str, source: io::Error) -> SocketError {
    SocketError::Map {
        operation,
        map,
        source,
    }
}

fn attach_error(operation: &'static str, program: &'static str, source: io::Error) -> SocketError {
    SocketError::Attach {
        operation,
        program,
        source,
    }
}

fn cgroup_error(operation: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Cgroup {
        operation,
        path: path.to_owned(),
        source,
    }
}

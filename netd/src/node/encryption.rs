//! The node's WireGuard device. It is made in the host's namespace, so that its UDP socket is there, and lives in the
//! fabric. Its key is made once and stays with the node; what is exchanged twice a day is the key that all share.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::RngCore;

use super::Node;
use super::overlay::State;
use crate::error::{Error, Result};
use crate::netlink::{Link, LinkAddress, LinkChange, PublicKey, SecretKey, Socket, WireGuard, errno};
use crate::{names, netns, tunnels};

const KEY_FILE: &str = "wireguard.key";

/// The device, once it is there.
#[derive(Debug)]
pub(super) struct Tunnels {
    /// Generic netlink in the fabric.
    socket: Socket,
    pub(super) public_key: PublicKey,
    private_key: SecretKey,
    /// What all nodes share, once the managers have said it.
    preshared: Option<SecretKey>,
}

impl Node {
    /// See [`crate::Netd::encryption_key`].
    pub(crate) fn encryption_key(&mut self) -> Result<String> {
        if self.overlay.tunnels.is_none() {
            let made = self.make_tunnels();
            self.overlay.tunnels = Some(made?);
            // Encrypted networks had to wait for them.
            self.sync_overlay()?;
        }
        let tunnels = self.overlay.tunnels.as_ref();
        Ok(tunnels.map_or_else(String::new, |tunnels| tunnels::write_key(&tunnels.public_key)))
    }

    /// See [`crate::Netd::set_network_key`].
    pub(crate) fn set_network_key(&mut self, key: [u8; 32]) -> Result<()> {
        let Some(tunnels) = &mut self.overlay.tunnels else {
            return Ok(());
        };
        let key = SecretKey(key);
        if tunnels.preshared == Some(key) {
            return Ok(());
        }
        tunnels.preshared = Some(key);
        self.sync_tunnels(true)
    }

    /// Bring the tunnels in line with the underlay; `all`, also those that look as they should.
    pub(super) fn sync_tunnels(&mut self, all: bool) -> Result<()> {
        let State {
            underlay: Some(underlay),
            tunnels: Some(tunnels),
            ..
        } = &mut self.overlay
        else {
            return Ok(());
        };
        let mut work = || -> io::Result<()> {
            let present = WireGuard::get(&mut tunnels.socket, names::TUNNELS)?;
            if present.port != tunnels::port(underlay) || present.public_key != tunnels.public_key {
                let port = tunnels::port(underlay);
                WireGuard::set_identity(&mut tunnels.socket, names::TUNNELS, tunnels.private_key, port)?;
            }
            let wanted = tunnels::wanted(underlay);
            let (mut put, gone) = tunnels::difference(&wanted, &present.peers);
            if all {
                put = wanted.into_values().collect();
            }
            WireGuard::change_peers(
                &mut tunnels.socket,
                names::TUNNELS,
                &put,
                tunnels.preshared,
                &gone,
            )
        };
        work().map_err(|e| failed("set up", e))
    }

    fn make_tunnels(&mut self) -> Result<Tunnels> {
        let private_key = private_key(&self.config.state_dir.join(KEY_FILE))?;
        let links = self.fabric.links()?;
        if !links.iter().any(|link| link.name == names::TUNNELS) {
            let create = Link::create_wireguard(names::TUNNELS, &self.fabric.netns);
            self.host.route.request(create).map_err(no_encryption)?;
        }
        let mut socket = netns::run(&self.fabric.path, &self.fabric.netns, || {
            // The tunnels' addresses are IPv6, whatever the networks have.
            netns::sysctl(&format!("ipv6/conf/{}/disable_ipv6", names::TUNNELS), "0")?;
            Socket::generic()
        })?;
        let mut work = || -> io::Result<PublicKey> {
            WireGuard::set_identity(&mut socket, names::TUNNELS, private_key, 0)?;
            Ok(WireGuard::get(&mut socket, names::TUNNELS)?.public_key)
        };
        let public_key = work().map_err(|e| failed("key", e))?;
        self.address_tunnels(&public_key)
            .map_err(|e| failed("address", e))?;
        Ok(Tunnels {
            socket,
            public_key,
            private_key,
            preshared: None,
        })
    }

    /// The address comes with the route to all others: its prefix.
    fn address_tunnels(&mut self, key: &PublicKey) -> io::Result<()> {
        let socket = &mut self.fabric.route;
        let link = Link::find(socket, names::TUNNELS)?.ok_or(io::ErrorKind::NotFound)?;
        let change = LinkChange {
            up: true,
            ..LinkChange::default()
        };
        let prefix = tunnels::prefix().prefix_len();
        socket.batch(vec![
            Link::change(names::TUNNELS, &change),
            LinkAddress::add6(link.index, tunnels::address(key), prefix),
        ])
    }
}

/// The key of this node: made at the first time, mode 0600.
fn private_key(path: &Path) -> Result<SecretKey> {
    let failed = |operation| {
        move |source| Error::State {
            path: path.to_owned(),
            operation,
            source,
        }
    };
    match fs::read(path) {
        Ok(bytes) => {
            if let Ok(key) = bytes.try_into() {
                return Ok(SecretKey(key));
            }
            tracing::warn!(path = %path.display(), "the key of the tunnels is damaged; making another");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read")(error)),
    }
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(failed("write"))?;
    Ok(SecretKey(key))
}

fn no_encryption(source: io::Error) -> Error {
    match errno(&source) {
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENODEV) => Error::NoEncryption,
        _ => failed("create", source),
    }
}

fn failed(operation: &'static str, source: io::Error) -> Error {
    Error::Kernel {
        operation,
        object: "the tunnels between nodes".into(),
        source,
    }
}

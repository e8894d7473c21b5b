//! A bridge in a namespace of its own, with hosts plugged into it: `node1` has 10.99.0.1, `node2` has 10.99.0.2 and so on.

use anyhow::Result;

use crate::Host;

/// The bridge.
#[derive(Debug)]
pub struct Switch(Host);

impl Switch {
    /// A bridge that nothing is plugged into.
    pub fn new() -> Result<Self> {
        let host = Host::new()?;
        host.ip("link add switch type bridge")?;
        host.ip("link set switch up")?;
        Ok(Self(host))
    }

    /// A new host, its cable in the switch.
    pub fn plug_in(&self, number: u8) -> Result<Host> {
        let host = Host::new()?.named(&format!("node{number}"));
        let place = host.namespace();
        self.0.ip(&format!(
            "link add port{number} type veth peer name eth0 netns {}",
            place.display()
        ))?;
        self.0.ip(&format!("link set port{number} master switch up"))?;
        host.ip(&format!("address add 10.99.0.{number}/24 dev eth0"))?;
        host.ip("link set eth0 up")?;
        Ok(host)
    }

    /// Cuts a host off, or connects it again. Neither side is told: packets are lost.
    pub fn set_cable(&self, number: u8, connected: bool) -> Result<()> {
        // The link stays up for both ends; it only leads nowhere.
        let place = if connected { "master switch" } else { "nomaster" };
        self.0.ip(&format!("link set port{number} {place}"))
    }

    /// The namespace that the bridge is in.
    pub fn host(&self) -> &Host {
        &self.0
    }
}

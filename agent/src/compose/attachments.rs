//! `networks` of a service: where it is, under which names, and at which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::deploy::Deploy;
use super::error::ComposeError;
use super::reader::At;

type Read<T> = Result<T, ComposeError>;

/// A service on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Key of the network in the file.
    pub(crate) network: String,
    /// Names by which the service is found there, beside its own.
    pub(crate) aliases: Vec<String>,
    /// The address that its one task shall have there.
    pub(crate) ipv4_address: Option<Ipv4Addr>,
    /// The same of IPv6, on a network that has it.
    pub(crate) ipv6_address: Option<Ipv6Addr>,
}

impl Attachment {
    /// The addresses that are asked for.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.ipv6_address.map(IpAddr::from);
        self.ipv4_address.map(IpAddr::from).into_iter().chain(v6)
    }
}

/// A list of keys, or what is said of each.
pub(crate) fn attachments(at: &At<'_>) -> Read<Vec<Attachment>> {
    if at.is_list() {
        let plain = |network| Attachment {
            network,
            ..Attachment::default()
        };
        return Ok(at.scalars()?.into_iter().map(plain).collect());
    }
    at.map()?
        .into_iter()
        .map(|(key, at)| attachment(key, &at))
        .collect()
}

fn attachment(network: &str, at: &At<'_>) -> Read<Attachment> {
    let mut object = at.object()?;
    let read = Attachment {
        network: network.to_owned(),
        aliases: object.or_default("aliases", At::scalars)?,
        ipv4_address: object.read("ipv4_address", |at| address(at, "IPv4"))?,
        ipv6_address: object.read("ipv6_address", |at| address(at, "IPv6"))?,
    };
    object.ignore(&[
        "driver_opts",
        "gw_priority",
        "interface_name",
        "link_local_ips",
        "mac_address",
        "priority",
    ]);
    object.finish()?;
    Ok(read)
}

fn address<T: FromStr>(at: &At<'_>, version: &str) -> Read<T> {
    let text = at.text()?;
    let parsed = text.parse();
    parsed.map_err(|_| at.wrong(format!("{text:?} is not an {version} address")))
}

/// An address belongs to one task.
pub(crate) fn check(networks: &[Attachment], deploy: &Deploy, at: &At<'_>) -> Read<()> {
    let fixed = networks.iter().find_map(|on| Some((on, on.addresses().next()?)));
    match (fixed, deploy.mode.replicas()) {
        (None, _) | (_, Some(0 | 1)) => Ok(()),
        (Some((on, address)), _) => Err(at.wrong(format!(
            "the service has several tasks and one address ({address} on {}): an address belongs to one task",
            on.network
        ))),
    }
}

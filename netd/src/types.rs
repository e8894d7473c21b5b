//! What callers hand to `netd` and get back. Plain data. Every network has IPv4; some have IPv6 beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Where one node's networking lives.
#[derive(Debug, Clone, Default)]
pub struct NetdConfig {
    /// Desired state that survives a reboot (networks, services): `<root>/netd`.
    pub state_dir: PathBuf,
    /// State that dies with the kernel: namespaces (`netns/`) and sandboxes (`netd/`) below `<run-dir>`.
    pub run_dir: PathBuf,
    /// Ownership tag: written to every link's alias, and the names of the host's veth and nftables table come from it.
    /// Two agents in one network namespace must differ.
    pub instance: String,
    /// DNS servers for external names; `None` follows the host's `/etc/resolv.conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// Directory above all containers' own in the unified cgroup hierarchy; made if it is not there. `None`: there is no
    /// such hierarchy.
    pub cgroup: Option<PathBuf>,
    /// How virtual IPs are to be balanced.
    pub balancer: BalancerChoice,
    /// Who has kept the sandboxes' resolver sockets since the last start.
    pub kept: KeptSockets,
}

/// Gives a sandbox's resolver socket ([`crate::Netd::attach_to_keep`]) back to who opens anew, if somebody has kept it. Questions
/// that came meanwhile wait in it.
#[derive(Clone)]
pub struct KeptSockets(Arc<GiveBack>);

type GiveBack = dyn Fn(&str) -> Option<OwnedFd> + Send + Sync;

impl KeptSockets {
    /// Asked with the sandbox's identifier, once at the start.
    pub fn new(of: impl Fn(&str) -> Option<OwnedFd> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    pub(crate) fn of(&self, sandbox: &str) -> Option<OwnedFd> {
        (self.0)(sandbox)
    }
}

/// Nobody has kept any.
impl Default for KeptSockets {
    fn default() -> Self {
        Self::new(|_| None)
    }
}

impl fmt::Debug for KeptSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptSockets").finish_non_exhaustive()
    }
}

/// How virtual IPs are to be balanced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BalancerChoice {
    /// By socket hooks where the kernel has them, else by packet filters.
    #[default]
    Auto,
    /// By socket hooks, or not at all.
    Ebpf,
    /// By packet filters.
    Nftables,
}

/// How virtual IPs are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerKind {
    /// eBPF programs on the containers' cgroup give a socket a task's address when it connects.
    Ebpf,
    /// nftables in each container's namespace translate packets.
    Nftables,
}

/// How virtual IPs are balanced on this node, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    pub kind: BalancerKind,
    /// Why not by socket hooks, if that was not the operator's choice.
    pub reason: Option<String>,
}

/// A network as wanted. `ensure_network` makes it so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub id: String,
    pub name: String,
    /// `None`: a free one is picked.
    pub subnet: Option<Ipv4Net>,
    /// `None`: the first address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet from which addresses are picked; `None`: all of it.
    #[serde(default)]
    pub range: Option<Ipv4Net>,
    /// No way out: neither uplink nor external DNS.
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Bytes; `None`: that of the host's default route; of an overlay network what the underlay leaves.
    pub mtu: Option<u32>,
    /// The network has IPv6 beside IPv4.
    #[serde(default)]
    pub ipv6: bool,
    /// `None`: a free one is picked, if the network has IPv6.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
    /// `None`: the first address of `subnet6`.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// The part of `subnet6` from which addresses are picked; `None`: all of it.
    #[serde(default)]
    pub range6: Option<Ipv6Net>,
    /// `Some`: the network spans nodes.
    #[serde(default)]
    pub overlay: Option<Overlay>,
}

/// How a network spans nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// VXLAN network identifier (RFC 7348), 24 bits, unique in the cluster.
    pub vni: u32,
    /// Nothing leaves a node in clear text.
    #[serde(default)]
    pub encrypted: bool,
    #[serde(default)]
    pub mode: OverlayMode,
}

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayMode {
    /// Directly to nodes for which a probe says that it works, encapsulated to the others.
    #[default]
    Auto,
    /// Always in VXLAN.
    Vxlan,
}

/// This node's place among the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// This node's address of the data path.
    pub address: IpAddr,
    /// UDP port of VXLAN, the same on all nodes.
    pub port: u16,
    /// All other nodes.
    pub peers: Vec<UnderlayPeer>,
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayPeer {
    pub node: String,
    /// Its address of the data path.
    pub address: IpAddr,
    /// Bytes of its link; 0: not known.
    #[serde(default)]
    pub mtu: u32,
    /// Whether its host forwards IPv4: without it nothing reaches its containers unencapsulated.
    #[serde(default)]
    pub forwards: bool,
    /// See [`UnderlayFacts::next_hop6`]: without it nothing reaches its containers' IPv6 addresses unencapsulated.
    #[serde(default)]
    pub next_hop6: Option<Ipv6Addr>,
    /// Its WireGuard key, base64, if it can encrypt.
    #[serde(default)]
    pub public_key: Option<String>,
}

/// What the host's links say of one of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayFacts {
    /// Bytes of the link that carries it.
    pub mtu: u32,
    /// Whether the host forwards IPv4 between its links.
    pub forwards: bool,
    /// The host's link-local address on that link, as the next hop of IPv6 packets; `None` if the host has none there, or
    /// forwards no IPv6.
    pub next_hop6: Option<Ipv6Addr>,
}

/// A task or container of another node, on networks that this node has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Task id.
    pub id: String,
    /// Where it runs.
    pub node: String,
    pub attachments: Vec<MemberAttachment>,
}

/// A member on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAttachment {
    /// Network id.
    pub network: String,
    pub addresses: Vec<IpAddr>,
    /// `None`: derived from the IPv4 address, see [`Mac::from_ipv4`].
    #[serde(default)]
    pub mac: Option<Mac>,
    /// DNS names on that network, of a container that is no service's task.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    /// Of a network that has IPv6 too.
    #[serde(default)]
    pub ipv6: Option<Ipv6State>,
    /// Name of the bridge inside the fabric namespace.
    pub bridge: String,
    pub mtu: u32,
}

/// The IPv6 side of a network as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6State {
    pub subnet: Ipv6Net,
    pub gateway: Ipv6Addr,
}

/// A hardware address, written `02:42:0a:00:00:05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// One interface wanted for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRequest {
    /// Network id.
    pub network: String,
    /// `None`: a free address is picked.
    pub ipv4: Option<Ipv4Addr>,
    /// `None`: a free address is picked, if the network has IPv6.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// `None`: derived from the address.
    pub mac: Option<Mac>,
    /// DNS names on that network: container name, short id, task name, aliases. The first is the answer to PTR.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A container's port made reachable on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// `None`: every address of the host. 0.0.0.0 and `::`: every one of that IP version.
    pub host_ip: Option<IpAddr>,
    /// `None` or 0: a free port from 32768 on.
    pub host_port: Option<u16>,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// A sandbox (the network namespace of one container) as wanted. No endpoints: loopback only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Container id.
    pub sandbox: String,
    pub hostname: String,
    /// In order: eth0, eth1 …; the first whose network is not internal carries the default route.
    pub endpoints: Vec<EndpointRequest>,
    pub publish: Vec<Publish>,
    /// Its processes are not below [`NetdConfig::cgroup`].
    #[serde(default)]
    pub outside: bool,
}

/// One interface as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Network id.
    pub network: String,
    /// Name inside the sandbox: eth0 …
    pub interface: String,
    pub mac: Mac,
    pub ipv4: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// On a network that has IPv6 too.
    #[serde(default)]
    pub ipv6: Option<Ipv6Endpoint>,
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// The addresses that others know, of both IP versions.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.ipv6.map(|v6| v6.address.into());
        [self.ipv4.into()].into_iter().chain(v6)
    }
}

/// The IPv6 side of an interface as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Endpoint {
    pub address: Ipv6Addr,
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
}

/// A sandbox as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Bind-mounted namespace file.
    pub netns: PathBuf,
    pub endpoints: Vec<Endpoint>,
    /// With real host ports.
    pub published: Vec<Publish>,
    /// For the container's resolv.conf. Meaningless without endpoints.
    pub nameserver: IpAddr,
    /// `search` of the container's resolv.conf.
    pub search: Vec<String>,
    /// `options` of the container's resolv.conf.
    pub options: Vec<String>,
}

/// Who is on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointInfo {
    pub sandbox: String,
    /// First DNS name, or the sandbox id.
    pub name: String,
    pub ipv4: Ipv4Addr,
    pub prefix_len: u8,
    pub ipv6: Option<Ipv6Endpoint>,
    pub mac: Mac,
}

/// The full state of one service; each call to `set_service` replaces the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEndpoint {
    pub id: String,
    pub name: String,
    pub networks: Vec<ServiceNetwork>,
    pub ports: Vec<IngressPort>,
    /// Only those that are ready for traffic.
    pub backends: Vec<Backend>,
}

/// A service on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNetwork {
    /// Network id.
    pub network: String,
    /// `None`: the name resolves to the tasks (`endpoint_mode: dnsrr`).
    pub vip: Option<Ipv4Addr>,
    /// The same for IPv6, on a network that has it.
    #[serde(default)]
    pub vip6: Option<Ipv6Addr>,
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// A service's port published on every address of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IngressPort {
    pub published: u16,
    pub target: u16,
    pub protocol: Protocol,
}

/// One ready task of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Task id.
    pub task: String,
    /// `web.1.<task id>`.
    pub name: String,
    /// Network id and the task's address on it.
    pub addresses: Vec<(String, Ipv4Addr)>,
    /// IPv6 addresses, likewise.
    #[serde(default)]
    pub addresses6: Vec<(String, Ipv6Addr)>,
    /// Container id, if the task runs on this node.
    pub sandbox: Option<String>,
    /// Where it runs, if not on this node.
    #[serde(default)]
    pub node: Option<String>,
}

impl std::str::FromStr for BalancerChoice {
    type Err = InvalidBalancer;

    fn from_str(text: &str) -> Result<Self, InvalidBalancer> {
        match text {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Ebpf),
            "nftables" => Ok(Self::Nftables),
            other => Err(InvalidBalancer(other.to_owned())),
        }
    }
}

/// Not the name of a balancer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown balancer {0:?}: expected auto, ebpf or nftables")]
pub struct InvalidBalancer(pub String);

impl std::fmt::Display for BalancerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
        })
    }
}

impl Backend {
    /// Network ids and the task's addresses there, of both IP versions.
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let v4 = self.addresses.iter().map(|(n, a)| (n.as_str(), IpAddr::V4(*a)));
        v4.chain(self.addresses6.iter().map(|(n, a)| (n.as_str(), IpAddr::V6(*a))))
    }
}

impl Protocol {
    /// IANA number, as in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Mac {
    /// Locally administered address derived from the IPv4 address, as Docker does: the same address always has the same
    /// MAC, so a neighbour's ARP cache cannot go stale when an address moves to another container.
    pub fn from_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The link-local address that the kernel makes from it (RFC 4291, appendix A).
    pub(crate) fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        octets.into()
    }

    /// The hardware address of which a link-local address was made.
    pub(crate) fn of_link_local(address: Ipv6Addr) -> Option<Self> {
        let [.., a, b, c, _, _, d, e, f] = address.octets();
        let mac = Self([a ^ 2, b, c, d, e, f]);
        (mac.link_local() == address).then_some(mac)
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A hardware address was not six hexadecimal octets, or is a group address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address {0:?}: expected six octets such as 02:42:0a:00:00:05, unicast")]
pub struct InvalidMac(pub String);

impl std::str::FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let bad = || InvalidMac(text.to_owned());
        let octets: Vec<u8> = text
            .split([':', '-'])
            .map(|part| {
                if part.len() == 2 {
                    u8::from_str_radix(part, 16).ok()
                } else {
                    None
                }
            })
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        let octets: [u8; 6] = octets.try_into().map_err(|_| bad())?;
        if octets[0] & 1 == 1 || octets == [0; 6] {
            Err(bad())
        } else {
            Ok(Self(octets))
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_follows_from_the_mac() {
        let mac = Mac([0x02, 0x42, 0xac, 0x12, 0x00, 0x05]);
        assert_eq!(mac.link_local().to_string(), "fe80::42:acff:fe12:5");
        assert_eq!(Mac::of_link_local(mac.link_local()), Some(mac));
        for other in ["fe80::1", "fd00::42:acff:fe12:5", "::"] {
            assert_eq!(Mac::of_link_local(other.parse().unwrap()), None);
        }
    }

    #[test]
    fn a_mac_reads_as_it_is_written() {
        let mac = Mac::from_ipv4(Ipv4Addr::new(172, 18, 0, 5));
        assert_eq!(mac.to_string(), "02:42:ac:12:00:05");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "02:42",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:42:ac:12:00:0g",
            "2:42:ac:12:0:5",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}

//! What can go wrong, each variant naming the failed operation and its object.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::sockets::SocketError;
use crate::types::Protocol;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// For the edge: which class of answer an error deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist (404).
    NotFound,
    /// The request can never be right (400).
    Invalid,
    /// In the way of something that exists or is in use (409; Docker says 403 for some).
    Conflict,
    /// Nothing free is left (503).
    Exhausted,
    /// The kernel or the disk refused (500).
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network {0} not found")]
    NetworkNotFound(String),
    #[error("network {network}: invalid subnet {subnet}: {reason}")]
    InvalidSubnet {
        network: String,
        subnet: IpNet,
        reason: &'static str,
    },
    #[error("network {network}: gateway {gateway} is not a host address of {subnet}")]
    InvalidGateway {
        network: String,
        gateway: IpAddr,
        subnet: IpNet,
    },
    #[error("network {network}: range {range} is not a part of subnet {subnet}")]
    RangeOutside {
        network: String,
        range: IpNet,
        subnet: IpNet,
    },
    #[error("network {network}: subnet {subnet} overlaps with {with}; choose another --subnet")]
    SubnetOverlap {
        network: String,
        subnet: IpNet,
        with: String,
    },
    #[error("network {network}: no free subnet left in the address pools; give one with --subnet")]
    NoFreeSubnet { network: String },
    #[error("network {0} has no IPv6 addresses")]
    NotIpv6(String),
    #[error("network {network} already exists with other settings ({what}); remove it first")]
    NetworkDiffers { network: String, what: &'static str },
    #[error(
        "network {network}: packets of {mtu} bytes do not fit the links between the nodes, which leave {fits}"
    )]
    MtuTooLarge { network: String, mtu: u32, fits: u32 },
    #[error(
        "network {network}: VXLAN identifier {vni} at port {port} is taken in the host's namespace by something that is \
         not ours; give the cluster another --data-path-port"
    )]
    VniTaken { network: String, vni: u32, port: u16 },
    #[error("network {network} has active endpoints: {}", endpoints.join(", "))]
    NetworkInUse { network: String, endpoints: Vec<String> },

    #[error("this kernel cannot encrypt networks: it has no WireGuard (CONFIG_WIREGUARD, module wireguard)")]
    NoEncryption,

    #[error("network {network}: no free address left in {subnet}")]
    NoFreeAddress { network: String, subnet: IpNet },
    #[error("network {network}: address {address} is not a host address of {subnet}")]
    AddressOutside {
        network: String,
        address: IpAddr,
        subnet: IpNet,
    },
    #[error("network {network}: address {address} is already in use by {holder}")]
    AddressInUse {
        network: String,
        address: IpAddr,
        holder: String,
    },

    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    #[error("sandbox {0} already exists")]
    SandboxExists(String),
    #[error("invalid id {0:?}: only letters, digits, '_', '-' and '.' are allowed")]
    InvalidId(String),
    #[error("sandbox {sandbox} is already connected to network {network}")]
    AlreadyConnected { sandbox: String, network: String },
    #[error("sandbox {sandbox} is not connected to network {network}")]
    NotConnected { sandbox: String, network: String },

    #[error("bind for {address}:{port}/{protocol} failed: port is already allocated (held by {holder})")]
    PortInUse {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        holder: String,
    },
    #[error("bind for {address}:{port}/{protocol} failed")]
    PortBind {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        source: io::Error,
    },
    #[error("no free host port left for {0}")]
    NoFreePort(Protocol),
    #[error(
        "cannot publish on {0}: the container is on no network with IPv6 and a way out, or the host has no IPv6"
    )]
    PublishIpv6(IpAddr),
    #[error("cannot publish ports of {0}: it is on no network with a way out")]
    PublishNowhere(String),

    #[error("the namespace file {path} is in use by something else")]
    ForeignNamespace { path: PathBuf },
    #[error("network namespace {path}: {operation} failed")]
    Namespace {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
    #[error("{operation} {object}")]
    Kernel {
        operation: &'static str,
        object: String,
        source: io::Error,
    },
    #[error("network state {path}: {operation} failed")]
    State {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
    #[error("balance virtual IPs")]
    Balance(#[source] SocketError),
    #[error("virtual IPs cannot be balanced by eBPF on this machine")]
    NoSocketBalancer(#[source] SocketError),
    #[error("networking task was cancelled")]
    Cancelled,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NetworkNotFound(_) | Self::SandboxNotFound(_) | Self::NotConnected { .. } => {
                ErrorKind::NotFound
            }
            Self::InvalidSubnet { .. }
            | Self::InvalidGateway { .. }
            | Self::RangeOutside { .. }
            | Self::AddressOutside { .. }
            | Self::InvalidId(_)
            | Self::MtuTooLarge { .. }
            | Self::NotIpv6(_)
            | Self::PublishIpv6(_)
            | Self::PublishNowhere(_) => ErrorKind::Invalid,
            Self::SubnetOverlap { .. }
            | Self::NetworkDiffers { .. }
            | Self::NetworkInUse { .. }
            | Self::VniTaken { .. }
            | Self::AddressInUse { .. }
            | Self::SandboxExists(_)
            | Self::AlreadyConnected { .. }
            | Self::PortInUse { .. } => ErrorKind::Conflict,
            Self::NoFreeSubnet { .. } | Self::NoFreeAddress { .. } | Self::NoFreePort(_) => {
                ErrorKind::Exhausted
            }
            Self::NoEncryption => ErrorKind::Invalid,
            Self::PortBind { .. }
            | Self::ForeignNamespace { .. }
            | Self::Namespace { .. }
            | Self::Kernel { .. }
            | Self::State { .. }
            | Self::Balance(_)
            | Self::NoSocketBalancer(_)
            | Self::Cancelled => ErrorKind::Internal,
        }
    }
}

/// The error with its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

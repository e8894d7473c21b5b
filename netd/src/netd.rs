//! The handle that the daemon holds: async methods over the node's state.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::types::{
    AttachRequest, Endpoint, EndpointInfo, EndpointRequest, NetdConfig, NetworkConfig, NetworkState,
    Protocol, Sandbox, ServiceEndpoint,
};

/// One node's networking.
#[derive(Debug)]
pub struct Netd {
    config: NetdConfig,
}

impl Netd {
    /// Create the fabric or adopt the one that is there, and bring the kernel in line with the state on disk. Running
    /// containers' connectivity is not touched. The calling thread's network namespace becomes "the host".
    pub async fn open(config: NetdConfig) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { config }))
    }

    /// Make the network exist as given. Idempotent.
    pub async fn ensure_network(&self, config: &NetworkConfig) -> Result<NetworkState> {
        self.not_yet("create network", &config.id)
    }

    /// The networks that exist.
    pub fn networks(&self) -> Vec<(NetworkConfig, NetworkState)> {
        Vec::new()
    }

    /// Remove a network; `Ok` if there is none. Refused while endpoints exist.
    pub async fn remove_network(&self, id: &str) -> Result<()> {
        self.not_yet("remove network", id)
    }

    /// Make a container's network namespace with all its interfaces and published ports. On error nothing is left.
    pub async fn attach(&self, request: AttachRequest) -> Result<Sandbox> {
        self.not_yet("attach", &request.sandbox)
    }

    /// Remove a container's namespace, interfaces, addresses and ports. Idempotent; goes on after errors and returns the first.
    pub async fn detach(&self, sandbox: &str) -> Result<()> {
        self.not_yet("detach", sandbox)
    }

    /// Add an interface to a live sandbox.
    pub async fn connect(&self, sandbox: &str, _request: EndpointRequest) -> Result<Endpoint> {
        self.not_yet("connect", sandbox)
    }

    /// Take an interface from a live sandbox.
    pub async fn disconnect(&self, sandbox: &str, _network: &str) -> Result<()> {
        self.not_yet("disconnect", sandbox)
    }

    /// The sandbox as it is, if there is one.
    pub fn sandbox(&self, _id: &str) -> Option<Sandbox> {
        None
    }

    /// Who is on the network.
    pub fn endpoints(&self, _network: &str) -> Vec<EndpointInfo> {
        Vec::new()
    }

    /// Drop every sandbox not named: the engine says after its recovery which containers still live.
    pub async fn retain(&self, _sandboxes: &[String]) -> Result<()> {
        Ok(())
    }

    /// Replace the state of one service: its DNS names, virtual IPs and published ports. Idempotent.
    pub async fn set_service(&self, service: ServiceEndpoint) -> Result<()> {
        self.not_yet("set service", &service.id)
    }

    /// Forget a service. Idempotent.
    pub async fn remove_service(&self, _id: &str) -> Result<()> {
        Ok(())
    }

    /// Who holds the port on some address of the host, if anyone: a sandbox, a service or a foreign program.
    pub fn publish_conflict(&self, _port: u16, _protocol: Protocol) -> Option<String> {
        None
    }

    /// Address at which containers reach the host itself (`host-gateway` of extra_hosts).
    pub fn host_gateway(&self) -> Ipv4Addr {
        Ipv4Addr::UNSPECIFIED
    }

    /// What the operator should know: conditions of the host that limit networking.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Stop serving DNS and release the port reservations. With `remove`, and if no sandbox is left, also remove the
    /// fabric, the host's veth and the host's table.
    pub async fn shutdown(&self, _remove: bool) -> Result<()> {
        Ok(())
    }

    fn not_yet<T>(&self, operation: &'static str, object: &str) -> Result<T> {
        let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "not built yet");
        Err(Error::Kernel {
            operation,
            object: format!("{object} ({})", self.config.instance),
            source,
        })
    }
}

//! What single objects get, each within one transaction.

use std::collections::BTreeSet;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::object::{Endpoint, EndpointVip, Ipam, NetworkAttachment, PORT_OPTION, TaskStatus, VXLAN_OPTION};
use proto::spec::{EndpointMode, EndpointSpec, NetworkDriver, PortConfig, PublishMode};
use proto::{Cluster, Network, NetworkId, Node, Service, ServiceId, Task, TaskId, TaskState, Timestamp};

use super::fixed::{self, FixedError, Wanted};
use super::ledger::Ledger;
use super::pool::Holder;
use super::subnets::{self, Plan, SubnetError};
use super::subnets6::{self, Plan6};
use super::uses_ingress;
use crate::state::{Reader, StoreError, WriteTx};

/// Ports that are chosen for users who name none.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// IANA's number for VXLAN, and Docker's default.
const VXLAN_PORT: u32 = 4789;
/// Smaller numbers are left to the users of VLANs.
const FIRST_VXLAN: u32 = 4097;

/// Whether an object has all that it needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has, or needs nothing any more.
    Done,
    /// Something is exhausted or not there yet.
    Stuck,
}

/// Why an object waits; for the task's status.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error("network {0} not found")]
    NoNetwork(String),
    #[error("network {0} has no subnet yet")]
    NoSubnet(String),
    #[error("network {0} has no subnet: {1}")]
    NetworkFailed(String, String),
    #[error("no free address in network {0} ({1}); remove tasks or services, or use a larger subnet")]
    NoAddress(String, Ipv4Net),
    #[error(transparent)]
    Fixed(#[from] FixedError),
    #[error("there is no ingress network for the published ports")]
    NoIngress,
    #[error("no free port between 30000 and 32767 to publish {0}/{1}")]
    NoPort(u16, proto::spec::PortProtocol),
}

/// What the tasks say that wait for an address of this network.
pub(crate) fn no_address(network: &Network) -> Option<String> {
    let plan = subnets::plan_of(network)?;
    Some(Lack::NoAddress(network.spec.name.clone(), plan.subnet).to_string())
}

/// Gives a network its subnet.
pub(super) fn network(
    tx: &mut WriteTx<'_>,
    ledger: &mut Ledger,
    id: &NetworkId,
) -> Result<Outcome, StoreError> {
    let Some(network) = tx.get::<Network>(id) else {
        return Ok(Outcome::Done);
    };
    if subnets::plan_of(&network).is_some() {
        return Ok(Outcome::Done);
    }
    match choose_plan(tx, &network) {
        Ok((plan, plan6)) => {
            let vxlan = free_vxlan(tx).to_string();
            let port = data_path_port(tx).to_string();
            tx.modify(id, |network: &mut Network| {
                let driver = network.spec.driver_configuration.clone().unwrap_or_default();
                network.driver_state = NetworkDriver {
                    name: driver.name,
                    options: driver.options,
                };
                network
                    .driver_state
                    .options
                    .extend([(VXLAN_OPTION.to_owned(), vxlan), (PORT_OPTION.to_owned(), port)]);
                let driver = NetworkDriver {
                    name: "default".to_owned(),
                    ..NetworkDriver::default()
                };
                network.ipam = Ipam {
                    driver,
                    configs: iter::once(plan.to_config())
                        .chain(plan6.map(Plan6::to_config))
                        .collect(),
                };
                network.err.clear();
                // Services and tasks of the same batch need it before the event comes back.
                ledger.add_network(network);
            })?;
            Ok(Outcome::Done)
        }
        Err(error) => {
            let error = error.to_string();
            if network.err != error {
                tx.modify(id, |network: &mut Network| network.err = error)?;
            }
            Ok(Outcome::Stuck)
        }
    }
}

fn choose_plan(tx: &impl Reader, network: &Network) -> Result<(Plan, Option<Plan6>), SubnetError> {
    let said = subnets::said_of_spec(&network.spec)?;
    let clusters = tx.all::<Cluster>();
    let cluster = clusters.first().map(AsRef::as_ref);
    let (taken, taken6) = taken(tx);
    let plan = match said.plan {
        Some(plan) => plan,
        None => subnets::choose(cluster, &taken).map(Plan::whole)?,
    };
    let plan6 = match said.plan6 {
        None if network.spec.ipv6_enabled => Some(subnets6::choose(cluster, &taken6).map(Plan6::whole)?),
        said => said,
    };
    Ok((plan, plan6))
}

/// The subnets that no new network may have.
fn taken(tx: &impl Reader) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let networks = tx.all::<Network>();
    let mut taken: Vec<_> = networks.iter().flat_map(|network| subnets::of(network)).collect();
    taken.extend(subnets::of_nodes(&tx.all::<Node>()).map(|(subnet, _)| subnet));
    // A removed network lives on in the tasks that have not stopped yet.
    let alive = tx
        .all::<Task>()
        .into_iter()
        .filter(|task| !task.status.state.is_terminal());
    taken.extend(alive.flat_map(|task| {
        let networks = task
            .networks_attachments
            .iter()
            .flat_map(|on| subnets::of(&on.network));
        networks.collect::<BTreeSet<_>>()
    }));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for subnet in taken {
        match subnet {
            IpNet::V4(subnet) => v4.push(subnet),
            IpNet::V6(subnet) => v6.push(subnet),
        }
    }
    (v4, v6)
}

fn free_vxlan(tx: &impl Reader) -> u32 {
    let used: BTreeSet<u32> = tx
        .all::<Network>()
        .iter()
        .filter_map(|network| network.vni())
        .collect();
    (FIRST_VXLAN..)
        .find(|number| !used.contains(number))
        .unwrap_or(FIRST_VXLAN)
}

/// The UDP port of VXLAN, chosen when the cluster began.
fn data_path_port(tx: &impl Reader) -> u32 {
    let chosen = tx.all::<Cluster>().first().map(|cluster| cluster.data_path_port);
    chosen.filter(|port| *port != 0).unwrap_or(VXLAN_PORT)
}

/// Gives a service its virtual addresses and port numbers; keeps those that it has.
pub(super) fn service(
    tx: &mut WriteTx<'_>,
    ledger: &mut Ledger,
    id: &ServiceId,
) -> Result<Outcome, StoreError> {
    let Some(service) = tx.get::<Service>(id) else {
        return Ok(Outcome::Done);
    };
    let mut taken = Vec::new();
    match endpoint(tx, ledger, &service, &mut taken) {
        Ok(endpoint) => {
            if endpoint != service.endpoint {
                tx.modify(id, |service: &mut Service| service.endpoint = endpoint)?;
            }
            Ok(Outcome::Done)
        }
        // The reason is told by the tasks, which wait for it.
        Err(_) => {
            give_back(ledger, &taken, &Holder::Service(id.clone()));
            Ok(Outcome::Stuck)
        }
    }
}

fn endpoint(
    tx: &impl Reader,
    ledger: &mut Ledger,
    service: &Service,
    taken: &mut Vec<(NetworkId, IpAddr)>,
) -> Result<Endpoint, Lack> {
    let spec = service.spec.endpoint_spec.clone().unwrap_or_default();
    let ports = ports(tx, service, &spec)?;
    let mut virtual_ips = Vec::new();
    if spec.mode == EndpointMode::Vip {
        let ingress = uses_ingress(&service.spec);
        for network in networks(
            tx,
            service.spec.task_template.networks.iter().map(|on| &on.target),
            ingress,
        )? {
            let present = service.endpoint.virtual_ips.iter();
            let mut present = present.filter(|vip| vip.network_id == network.id).peekable();
            if present.peek().is_some() {
                virtual_ips.extend(present.cloned());
                continue;
            }
            let holder = Holder::Service(service.id.clone());
            let addresses = with_ipv6(&network, take(ledger, &network, holder, taken)?, None);
            virtual_ips.extend(addresses.into_iter().map(|addr| EndpointVip {
                network_id: network.id.clone(),
                addr,
            }));
        }
    }
    Ok(Endpoint {
        spec,
        ports,
        virtual_ips,
    })
}

/// The ports with numbers; what was chosen before stays.
fn ports(tx: &impl Reader, service: &Service, spec: &EndpointSpec) -> Result<Vec<PortConfig>, Lack> {
    let mut ports = spec.ports.clone();
    let mut used = used_ports(tx, &service.id);
    used.extend(ports.iter().map(|port| (port.protocol, port.published_port)));
    let open = |port: &&mut PortConfig| port.published_port == 0 && port.publish_mode == PublishMode::Ingress;
    let mut before = service.endpoint.ports.clone();
    for port in ports.iter_mut().filter(open) {
        let same = |old: &PortConfig| {
            (old.target_port, old.protocol, old.publish_mode)
                == (port.target_port, port.protocol, port.publish_mode)
                && DYNAMIC_PORTS.contains(&old.published_port)
                && !used.contains(&(old.protocol, old.published_port))
        };
        if let Some(at) = before.iter().position(same) {
            port.published_port = before.swap_remove(at).published_port;
            used.insert((port.protocol, port.published_port));
        }
    }
    for port in ports.iter_mut().filter(open) {
        let free = DYNAMIC_PORTS
            .clone()
            .find(|&number| !used.contains(&(port.protocol, number)));
        port.published_port = free.ok_or(Lack::NoPort(port.target_port, port.protocol))?;
        used.insert((port.protocol, port.published_port));
    }
    Ok(ports)
}

/// Ports that other services have or ask for.
fn used_ports(tx: &impl Reader, but: &ServiceId) -> BTreeSet<(proto::spec::PortProtocol, u16)> {
    let others = tx
        .all::<Service>()
        .into_iter()
        .filter(|service| service.id != *but);
    let ports = others.flat_map(|service| {
        let asked = service
            .spec
            .endpoint_spec
            .iter()
            .flat_map(|endpoint| endpoint.ports.clone());
        asked.chain(service.endpoint.ports.clone()).collect::<Vec<_>>()
    });
    ports.map(|port| (port.protocol, port.published_port)).collect()
}

/// Gives a task its addresses; then it can be scheduled.
pub(super) fn task(tx: &mut WriteTx<'_>, ledger: &mut Ledger, id: &TaskId) -> Result<Outcome, StoreError> {
    let Some(task) = tx.get::<Task>(id) else {
        return Ok(Outcome::Done);
    };
    if task.status.state != TaskState::New || task.desired_state > TaskState::Complete {
        return Ok(Outcome::Done);
    }
    let mut taken = Vec::new();
    match attachments(tx, ledger, &task, &mut taken) {
        Ok(attachments) => {
            let status = match task.attachment() {
                Some(_) => status(TaskState::Assigned, "placed on the network", String::new()),
                None => status(TaskState::Pending, "pending task scheduling", String::new()),
            };
            tx.modify(id, |task: &mut Task| {
                (task.networks_attachments, task.status) = (attachments, status)
            })?;
            Ok(Outcome::Done)
        }
        Err(lack) => {
            give_back(ledger, &taken, &Holder::Task(id.clone()));
            let err = lack.to_string();
            if task.status.err != err {
                let status = status(TaskState::New, "waiting for network resources", err);
                tx.modify(id, |task: &mut Task| task.status = status)?;
            }
            Ok(Outcome::Stuck)
        }
    }
}

fn attachments(
    tx: &impl Reader,
    ledger: &mut Ledger,
    task: &Task,
    taken: &mut Vec<(NetworkId, IpAddr)>,
) -> Result<Vec<NetworkAttachment>, Lack> {
    let ingress = match tx.get::<Service>(&task.service_id) {
        Some(service) => {
            wait_for_service(tx, ledger, &service)?;
            uses_ingress(&service.spec)
        }
        None => false,
    };
    let configs = &task.spec.networks;
    let mut attachments = Vec::new();
    for network in networks(tx, configs.iter().map(|on| &on.target), ingress)? {
        let config = configs.iter().find(|on| on.target == network.id.as_str());
        let address6 = fixed::wanted6(config);
        if let Some(address) = address6 {
            subnet(ledger, &network)?;
            fixed::take6(tx, ledger, &network, task, address)?;
            taken.push((network.id.clone(), address.into()));
        }
        let address = match fixed::wanted(task, config) {
            Some(wanted) => take_fixed(tx, ledger, (&network, task), (wanted, address6.is_some()), taken)?,
            None => take(ledger, &network, Holder::Task(task.id.clone()), taken)?,
        };
        let aliases = config.map(|on| on.aliases.clone()).unwrap_or_default();
        attachments.push(NetworkAttachment {
            addresses: with_ipv6(&network, address, address6),
            network,
            aliases,
        });
    }
    Ok(attachments)
}

/// A task does not start before its service can be reached; what the service lacks, the task lacks.
fn wait_for_service(tx: &impl Reader, ledger: &mut Ledger, service: &Service) -> Result<(), Lack> {
    let spec = service.spec.endpoint_spec.clone().unwrap_or_default();
    let networks = service.spec.task_template.networks.len() + usize::from(uses_ingress(&service.spec));
    let wanted = if spec.mode == EndpointMode::Vip {
        networks
    } else {
        0
    };
    let reached: BTreeSet<_> = service
        .endpoint
        .virtual_ips
        .iter()
        .map(|vip| &vip.network_id)
        .collect();
    if service.endpoint.spec == spec && reached.len() == wanted {
        return Ok(());
    }
    let mut probe = Vec::new();
    let lack = endpoint(tx, ledger, service, &mut probe).map(|_| ());
    give_back(ledger, &probe, &Holder::Service(service.id.clone()));
    lack
}

/// The networks by identifier, and the one of the published ports if it is needed.
fn networks<'a>(
    tx: &impl Reader,
    ids: impl Iterator<Item = &'a String>,
    ingress: bool,
) -> Result<Vec<Network>, Lack> {
    let mut networks = Vec::new();
    for id in ids {
        let network = tx.get::<Network>(id).ok_or_else(|| Lack::NoNetwork(id.clone()))?;
        networks.push(Network::clone(&network));
    }
    if ingress {
        let all = tx.all::<Network>();
        let network = all
            .iter()
            .find(|network| network.spec.ingress)
            .ok_or(Lack::NoIngress)?;
        networks.push(Network::clone(network));
    }
    Ok(networks)
}

/// An address with its prefix length, noted in `taken`.
fn take(
    ledger: &mut Ledger,
    network: &Network,
    holder: Holder,
    taken: &mut Vec<(NetworkId, IpAddr)>,
) -> Result<(Ipv4Addr, u8), Lack> {
    let subnet = subnet(ledger, network)?;
    let address = ledger.take(&network.id, holder);
    let address = address.ok_or_else(|| Lack::NoAddress(network.spec.name.clone(), subnet))?;
    taken.push((network.id.clone(), address.into()));
    Ok((address, subnet.prefix_len()))
}

/// The address and, on a network that has IPv6, the one that was asked for or that goes with it.
fn with_ipv6(network: &Network, address: (Ipv4Addr, u8), asked: Option<Ipv6Addr>) -> Vec<String> {
    let beside = || {
        let (plan, plan6) = (subnets::plan_of(network)?, subnets::plan6_of(network)?);
        let beside = asked.unwrap_or_else(|| plan6.beside(&plan, address.0));
        Some(format!("{beside}/{}", plan6.subnet.prefix_len()))
    };
    let beside = beside();
    let own = format!("{}/{}", address.0, address.1);
    iter::once(own).chain(beside).collect()
}

/// The address that is asked for, with its prefix length, noted in `taken`.
fn take_fixed(
    tx: &impl Reader,
    ledger: &mut Ledger,
    (network, task): (&Network, &Task),
    (wanted, has_ipv6): (Wanted, bool),
    taken: &mut Vec<(NetworkId, IpAddr)>,
) -> Result<(Ipv4Addr, u8), Lack> {
    let subnet = subnet(ledger, network)?;
    match fixed::take(tx, ledger, network, task, wanted, has_ipv6) {
        Ok(address) => {
            taken.push((network.id.clone(), address.into()));
            Ok((address, subnet.prefix_len()))
        }
        // It was only what it would like best.
        Err(_) if !wanted.is_firm() => take(ledger, network, Holder::Task(task.id.clone()), taken),
        Err(error) => Err(error.into()),
    }
}

fn subnet(ledger: &mut Ledger, network: &Network) -> Result<Ipv4Net, Lack> {
    let name = || network.spec.name.clone();
    match ledger.pool(&network.id) {
        Some(pool) => Ok(pool.plan().subnet),
        None if network.err.is_empty() => Err(Lack::NoSubnet(name())),
        None => Err(Lack::NetworkFailed(name(), network.err.clone())),
    }
}

fn give_back(ledger: &mut Ledger, taken: &[(NetworkId, IpAddr)], holder: &Holder) {
    for (network, address) in taken {
        ledger.release(network, *address, holder);
    }
}

fn status(state: TaskState, message: &str, err: String) -> TaskStatus {
    TaskStatus {
        timestamp: Timestamp::now(),
        state,
        message: message.to_owned(),
        err,
        ..TaskStatus::default()
    }
}

//! Gives networks their subnets, services their virtual addresses and published ports, tasks their addresses.

pub(crate) mod subnets;

use proto::ServiceSpec;
use proto::spec::PublishMode;

/// Whether the service has ports that every node publishes.
pub(crate) fn uses_ingress(spec: &ServiceSpec) -> bool {
    let ports = spec.endpoint_spec.iter().flat_map(|endpoint| &endpoint.ports);
    ports
        .into_iter()
        .any(|port| port.publish_mode == PublishMode::Ingress)
}

//! From a stack's files to the specs that the API takes, under the stack's name.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::spec::{
    ConfigReference, ConfigSpec, EndpointSpec, FileTarget, IpamOptions, Labels, LogDriver, Mount, MountType,
    NetworkAttachmentConfig, NetworkDriver, NetworkSpec, SecretReference, SecretSpec, ServiceSpec, TaskSpec,
    VolumeDriver, VolumeOptions,
};

use super::attachments::Attachment;
use super::resource::{Content, Network, Volume};
use super::service::{Reference, Service};
use super::{Stack, StackPlan};

/// The label by which all objects of a stack are found.
pub(crate) const NAMESPACE: &str = "com.docker.stack.namespace";
/// The label that keeps the image as the file names it.
const IMAGE: &str = "com.docker.stack.image";
/// The label by which the scheduler knows what a service waits for.
const DEPENDS_ON: &str = "shoal.depends_on";

/// What there is to do for a stack of this name.
pub(crate) fn plan(stack: &Stack, name: &str) -> StackPlan {
    let scope = Scope { stack, name };
    let (external_networks, networks) = scope.networks();
    let secrets = contents(&stack.secrets, |key, content| SecretSpec {
        name: scope.full(key, content.name.as_deref(), content.external),
        labels: scope.labelled(&content.labels),
        data: STANDARD.encode(&content.data).into(),
        driver: None,
        templating: template(content),
    });
    let configs = contents(&stack.configs, |key, content| ConfigSpec {
        name: scope.full(key, content.name.as_deref(), content.external),
        labels: scope.labelled(&content.labels),
        data: STANDARD.encode(&content.data),
        templating: template(content),
    });
    StackPlan {
        networks,
        external_networks,
        secrets,
        external_secrets: scope.external(&stack.secrets),
        configs,
        external_configs: scope.external(&stack.configs),
        services: ordered(stack)
            .into_iter()
            .map(|service| scope.service(service))
            .collect(),
    }
}

struct Scope<'s> {
    stack: &'s Stack,
    name: &'s str,
}

impl Scope<'_> {
    /// `<stack>_<key>`, unless the file gives the full name.
    fn full(&self, key: &str, name: Option<&str>, external: bool) -> String {
        match name {
            Some(name) => name.to_owned(),
            None if external => key.to_owned(),
            None => format!("{}_{key}", self.name),
        }
    }

    fn labelled(&self, labels: &Labels) -> Labels {
        let mut labels = labels.clone();
        labels.insert(NAMESPACE.to_owned(), self.name.to_owned());
        labels
    }

    fn external(&self, contents: &BTreeMap<String, Content>) -> Vec<String> {
        let external = contents.iter().filter(|(_, content)| content.external);
        external
            .map(|(key, content)| self.full(key, content.name.as_deref(), true))
            .collect()
    }

    /// Those that must be there already, and those to make: all that the services use, `default` too.
    fn networks(&self) -> (Vec<String>, Vec<NetworkSpec>) {
        let mut used: BTreeMap<&str, Network> = BTreeMap::new();
        for service in &self.stack.services {
            if service.networks.is_empty() {
                used.insert("default", self.network_of("default"));
            }
            used.extend(
                service
                    .networks
                    .iter()
                    .map(|on| (on.network.as_str(), self.network_of(&on.network))),
            );
        }
        let (external, own): (Vec<_>, Vec<_>) = used.into_iter().partition(|(_, network)| network.external);
        let external = external
            .into_iter()
            .map(|(key, network)| self.full(key, network.name.as_deref(), true));
        (
            external.collect(),
            own.into_iter()
                .map(|(key, network)| self.network(key, &network))
                .collect(),
        )
    }

    fn network_of(&self, key: &str) -> Network {
        self.stack.networks.get(key).cloned().unwrap_or_default()
    }

    fn network(&self, key: &str, network: &Network) -> NetworkSpec {
        NetworkSpec {
            name: self.full(key, network.name.as_deref(), false),
            labels: self.labelled(&network.labels),
            driver_configuration: Some(NetworkDriver {
                name: network.driver.clone().unwrap_or_else(|| "overlay".to_owned()),
                options: network.driver_opts.clone(),
            }),
            internal: network.internal,
            ipv6_enabled: network.ipv6,
            attachable: network.attachable,
            ipam_options: (!network.pools.is_empty()).then(|| IpamOptions {
                driver: None,
                configs: network.pools.clone(),
            }),
            scope: "swarm".to_owned(),
            ..NetworkSpec::default()
        }
    }

    fn service(&self, service: &Service) -> ServiceSpec {
        let mut container = service.container.clone();
        container.labels = self.labelled(&container.labels);
        container.mounts = container.mounts.iter().map(|mount| self.mount(mount)).collect();
        container.secrets = service.secrets.iter().map(|used| self.secret(used)).collect();
        container.configs = service.configs.iter().map(|used| self.config(used)).collect();
        let mut labels = self.labelled(&service.deploy.labels);
        labels.insert(IMAGE.to_owned(), container.image.clone());
        if !service.depends_on.is_empty() {
            labels.insert(DEPENDS_ON.to_owned(), self.depends_on(service));
        }
        ServiceSpec {
            name: self.full(&service.key, None, false),
            labels,
            task_template: TaskSpec {
                container_spec: Some(container),
                resources: Some(service.deploy.resources.clone()),
                restart_policy: service.deploy.restart_policy.clone(),
                placement: service.deploy.placement.clone(),
                networks: self.attachments(service),
                log_driver: service.log_driver.clone(),
                ..TaskSpec::default()
            },
            mode: service.deploy.mode.clone(),
            update_config: service.deploy.update.clone(),
            rollback_config: service.deploy.rollback.clone(),
            networks: Vec::new(),
            endpoint_spec: Some(EndpointSpec {
                mode: service.deploy.endpoint_mode,
                ports: service.ports.clone(),
            }),
        }
    }

    /// The service is found by its key on each of its networks, beside its full name.
    fn attachments(&self, service: &Service) -> Vec<NetworkAttachmentConfig> {
        let default = [Attachment {
            network: "default".to_owned(),
            ..Attachment::default()
        }];
        let networks: &[_] = if service.networks.is_empty() {
            &default
        } else {
            &service.networks
        };
        let attachment = |on: &Attachment| {
            let network = self.network_of(&on.network);
            let mut aliases = on.aliases.clone();
            aliases.push(service.key.clone());
            NetworkAttachmentConfig {
                target: self.full(&on.network, network.name.as_deref(), network.external),
                aliases,
                driver_opts: Labels::new(),
                addresses: on.addresses().map(|address| address.to_string()).collect(),
            }
        };
        networks.iter().map(attachment).collect()
    }

    fn depends_on(&self, service: &Service) -> String {
        let named = service
            .depends_on
            .iter()
            .map(|(key, condition)| (self.full(key, None, false), condition.as_str()));
        let named: BTreeMap<String, &str> = named.collect();
        serde_json::json!(named).to_string()
    }

    fn mount(&self, mount: &Mount) -> Mount {
        let mut mount = mount.clone();
        if mount.kind != MountType::Volume || mount.source.is_empty() {
            return mount;
        }
        let standard = Volume::default();
        let volume = self.stack.volumes.get(&mount.source).unwrap_or(&standard);
        mount.source = self.full(&mount.source, volume.name.as_deref(), volume.external);
        if !volume.external {
            let options = mount.volume_options.get_or_insert_with(VolumeOptions::default);
            options.labels.extend(self.labelled(&volume.labels));
            if volume.driver.is_some() || !volume.driver_opts.is_empty() {
                options.driver_config = Some(VolumeDriver {
                    name: volume.driver.clone().unwrap_or_default(),
                    options: volume.driver_opts.clone(),
                });
            }
        }
        mount
    }

    fn secret(&self, used: &Reference) -> SecretReference {
        let content = self.stack.secrets.get(&used.source);
        SecretReference {
            file: Some(target(used, &used.source)),
            secret_name: self.reference_name(used, content),
            ..SecretReference::default()
        }
    }

    fn config(&self, used: &Reference) -> ConfigReference {
        let content = self.stack.configs.get(&used.source);
        ConfigReference {
            file: Some(target(used, &used.source)),
            config_name: self.reference_name(used, content),
            ..ConfigReference::default()
        }
    }

    fn reference_name(&self, used: &Reference, content: Option<&Content>) -> String {
        let name = content.and_then(|content| content.name.as_deref());
        self.full(
            &used.source,
            name,
            content.is_some_and(|content| content.external),
        )
    }
}

fn target(used: &Reference, default: &str) -> FileTarget {
    let or_root = |id: &Option<String>| id.clone().unwrap_or_else(|| "0".to_owned());
    FileTarget {
        name: used.target.clone().unwrap_or_else(|| default.to_owned()),
        uid: or_root(&used.uid),
        gid: or_root(&used.gid),
        mode: used.mode.unwrap_or(0o444),
    }
}

fn contents<T>(contents: &BTreeMap<String, Content>, spec: impl Fn(&str, &Content) -> T) -> Vec<T> {
    contents
        .iter()
        .filter(|(_, content)| !content.external)
        .map(|(key, content)| spec(key, content))
        .collect()
}

fn template(content: &Content) -> Option<LogDriver> {
    content.template_driver.clone().map(|name| LogDriver {
        name,
        options: Labels::new(),
    })
}

/// Services in the order of the file, but those that others wait for before them; and before others those that ask for an
/// address, lest another be given it.
fn ordered(stack: &Stack) -> Vec<&Service> {
    let mut order: Vec<&Service> = Vec::new();
    let mut rest: Vec<&Service> = stack.services.iter().collect();
    rest.sort_by_key(|service| service.networks.iter().all(|on| on.addresses().next().is_none()));
    while !rest.is_empty() {
        let known = |key: &String| order.iter().any(|service| service.key == *key);
        // There are no circles, so that one is always free; were there one, the file's order would do.
        let free = rest
            .iter()
            .position(|service| service.depends_on.keys().all(known))
            .unwrap_or(0);
        order.push(rest.remove(free));
    }
    order
}

//! Flags for what a container has many of: `service create` fills the lists, `service update` adds to them and removes.

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::TaskSpec;
use proto::spec::{ContainerSpec, DiscreteResource, GenericResource, Ulimit};

/// Of `service create`.
#[derive(Debug, Default, Args)]
pub(super) struct Lists {
    /// Set custom DNS servers
    #[arg(long)]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long)]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    dns_search: Vec<String>,
    /// User defined resources
    #[arg(long)]
    generic_resource: Vec<String>,
    /// Set one or more supplementary user groups for the container
    #[arg(long)]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long)]
    host: Vec<String>,
    /// Sysctl options
    #[arg(long)]
    sysctl: Vec<String>,
    /// Ulimit options
    #[arg(long)]
    ulimit: Vec<String>,
}

/// Of `service update`.
#[derive(Debug, Default, Args)]
pub(super) struct Changes {
    /// Add or update a custom DNS server
    #[arg(long)]
    dns_add: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long)]
    dns_rm: Vec<String>,
    /// Add or update a DNS option
    #[arg(long)]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long)]
    dns_option_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long)]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long)]
    dns_search_rm: Vec<String>,
    /// Add a Generic resource
    #[arg(long)]
    generic_resource_add: Vec<String>,
    /// Remove a Generic resource
    #[arg(long)]
    generic_resource_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long)]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long)]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping ("host:ip")
    #[arg(long)]
    host_add: Vec<String>,
    /// Remove a custom host-to-IP mapping ("host:ip")
    #[arg(long)]
    host_rm: Vec<String>,
    /// Add or update a Sysctl option
    #[arg(long)]
    sysctl_add: Vec<String>,
    /// Remove a Sysctl option
    #[arg(long)]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long)]
    ulimit_add: Vec<String>,
    /// Remove a ulimit option
    #[arg(long)]
    ulimit_rm: Vec<String>,
}

impl Lists {
    /// Writes the flags into a spec that has none of them yet.
    pub(super) fn apply(self, task: &mut TaskSpec) -> Result<()> {
        let changes = Changes {
            dns_add: self.dns,
            dns_option_add: self.dns_option,
            dns_search_add: self.dns_search,
            generic_resource_add: self.generic_resource,
            group_add: self.group,
            host_add: self.host,
            sysctl_add: self.sysctl,
            ulimit_add: self.ulimit,
            ..Changes::default()
        };
        changes.apply(task)
    }
}

impl Changes {
    /// Changes the spec's lists.
    pub(super) fn apply(&self, task: &mut TaskSpec) -> Result<()> {
        self.generic_resources(task)?;
        let container = task.container_spec.get_or_insert_default();
        let mut dns = container.dns_config.clone().unwrap_or_default();
        change(&mut dns.nameservers, &self.dns_add, &self.dns_rm);
        change(&mut dns.options, &self.dns_option_add, &self.dns_option_rm);
        change(&mut dns.search, &self.dns_search_add, &self.dns_search_rm);
        container.dns_config = (dns != Default::default()).then_some(dns);
        change(&mut container.groups, &self.group_add, &self.group_rm);
        self.hosts(container)?;
        for word in &self.sysctl_rm {
            container.sysctls.remove(word);
        }
        for word in &self.sysctl_add {
            let (key, value) = word
                .split_once('=')
                .with_context(|| format!("sysctl {word:?} is not key=value"))?;
            container.sysctls.insert(key.to_owned(), value.to_owned());
        }
        self.ulimits(container)
    }

    fn hosts(&self, container: &mut ContainerSpec) -> Result<()> {
        let removed = self.host_rm.iter().map(|word| host(word));
        let removed = removed.collect::<Result<Vec<_>>>()?;
        let added = self.host_add.iter().map(|word| host(word));
        let added = added.collect::<Result<Vec<_>>>()?;
        container
            .hosts
            .retain(|line| !removed.contains(line) && !added.contains(line));
        container.hosts.extend(added);
        Ok(())
    }

    fn ulimits(&self, container: &mut ContainerSpec) -> Result<()> {
        let added = self.ulimit_add.iter().map(|word| ulimit(word));
        let added = added.collect::<Result<Vec<_>>>()?;
        container.ulimits.retain(|old| {
            !self.ulimit_rm.contains(&old.name) && !added.iter().any(|new| new.name == old.name)
        });
        container.ulimits.extend(added);
        Ok(())
    }

    fn generic_resources(&self, task: &mut TaskSpec) -> Result<()> {
        if self.generic_resource_add.is_empty() && self.generic_resource_rm.is_empty() {
            return Ok(());
        }
        let resources = task.resources.get_or_insert_default();
        let reserved = &mut resources.reservations.get_or_insert_default().generic_resources;
        reserved.retain(|old| !self.generic_resource_rm.iter().any(|kind| kind == kind_of(old)));
        for word in &self.generic_resource_add {
            let new = generic_resource(word)?;
            reserved.retain(|old| kind_of(old) != kind_of(&new) || old.named_resource_spec.is_some());
            reserved.push(new);
        }
        Ok(())
    }
}

fn change(list: &mut Vec<String>, add: &[String], remove: &[String]) {
    list.retain(|old| !remove.contains(old) && !add.contains(old));
    list.extend_from_slice(add);
}

/// `name:ip` or `name=ip` as the spec's line `ip name`.
fn host(word: &str) -> Result<String> {
    let (name, address) = word
        .split_once('=')
        .or_else(|| word.split_once(':'))
        .with_context(|| format!("bad format for add-host: {word:?} is not host:ip"))?;
    let address = address.trim_matches(['[', ']']);
    if address.parse::<std::net::IpAddr>().is_err() {
        bail!("invalid IP address in add-host: {address:?}");
    }
    Ok(format!("{address} {name}"))
}

/// `nofile=1024` or `nofile=1024:2048`.
fn ulimit(word: &str) -> Result<Ulimit> {
    let wrong = || format!("invalid ulimit argument: {word}");
    let (name, limits) = word.split_once('=').with_context(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(Ulimit {
        name: name.to_owned(),
        soft: soft.parse().with_context(wrong)?,
        hard: hard.parse().with_context(wrong)?,
    })
}

/// `ssd=3`. Which of the things that have names a task gets is for the scheduler to say.
fn generic_resource(word: &str) -> Result<GenericResource> {
    let (kind, value) = word
        .split_once('=')
        .with_context(|| format!("invalid generic resource {word:?}: it is not kind=value"))?;
    let Ok(value) = value.parse() else {
        bail!(
            "invalid generic-resource request `{word}`, Named Generic Resources is not supported for service create or \
             update"
        );
    };
    Ok(GenericResource {
        discrete_resource_spec: Some(DiscreteResource {
            kind: kind.to_owned(),
            value,
        }),
        ..GenericResource::default()
    })
}

fn kind_of(resource: &GenericResource) -> &str {
    let named = resource.named_resource_spec.as_ref().map(|named| &named.kind);
    let counted = resource
        .discrete_resource_spec
        .as_ref()
        .map(|counted| &counted.kind);
    named.or(counted).map_or("", String::as_str)
}

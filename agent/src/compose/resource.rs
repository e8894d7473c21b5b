//! The top of a file: services, networks, volumes, secrets and configs.

use std::collections::BTreeMap;

use proto::spec::{IpamConfig, Labels};

use super::Stack;
use super::error::ComposeError;
use super::reader::{At, Object};
use super::service::{Service, service};

type Read<T> = Result<T, ComposeError>;

/// A network of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    /// Its full name, where the file gives one.
    pub(crate) name: Option<String>,
    pub(crate) external: bool,
    pub(crate) driver: Option<String>,
    pub(crate) driver_opts: Labels,
    pub(crate) attachable: bool,
    pub(crate) internal: bool,
    pub(crate) ipv6: bool,
    pub(crate) labels: Labels,
    pub(crate) pools: Vec<IpamConfig>,
}

/// A volume of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volume {
    /// Its full name, where the file gives one.
    pub(crate) name: Option<String>,
    pub(crate) external: bool,
    pub(crate) driver: Option<String>,
    pub(crate) driver_opts: Labels,
    pub(crate) labels: Labels,
}

/// A secret or config of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    /// Its full name, where the file gives one.
    pub(crate) name: Option<String>,
    pub(crate) external: bool,
    pub(crate) data: Vec<u8>,
    pub(crate) labels: Labels,
    pub(crate) template_driver: Option<String>,
}

/// Reads the whole tree and checks what refers to what.
pub(crate) fn stack(at: &At<'_>) -> Read<Stack> {
    if !at.is_map() {
        return Err(at.wrong("a compose file is a mapping with the key services"));
    }
    let mut object = at.object()?;
    // Obsolete: it has meant nothing since the specification took the place of the versions.
    object.take_even_null("version");
    let services_at = object
        .take("services")
        .ok_or_else(|| at.wrong("the key \"services\" is missing"))?;
    let mut services = Vec::new();
    for (key, at) in services_at.map()? {
        check_key(key, &at)?;
        services.extend(service(key, &at)?.map(|service| (service, at)));
    }
    let stack = Stack {
        name: object.read("name", At::text)?,
        networks: object.or_default("networks", |at| entries(at, network))?,
        volumes: object.or_default("volumes", |at| entries(at, volume))?,
        secrets: object.or_default("secrets", |at| entries(at, content))?,
        configs: object.or_default("configs", |at| entries(at, content))?,
        prepare: object.or_default("x-prepare", At::words)?,
        directory: at.context.directory.clone(),
        services: Vec::new(),
    };
    object.ignore(&["models"]);
    object.finish()?;
    drop_optional(&mut services);
    for (service, at) in &services {
        references(&stack, service, at, &services)?;
    }
    circles(&services)?;
    Ok(Stack {
        services: services.into_iter().map(|(service, _)| service).collect(),
        ..stack
    })
}

fn drop_optional(services: &mut [(Service, At<'_>)]) {
    let known: Vec<String> = services.iter().map(|(service, _)| service.key.clone()).collect();
    for (service, at) in services {
        for key in std::mem::take(&mut service.optional) {
            if !known.contains(&key) {
                service.depends_on.remove(&key);
                at.warn(&format!(
                    "depends_on names {key:?}, which is not there and not required"
                ));
            }
        }
    }
}

fn entries<T>(at: &At<'_>, read: impl Fn(&At<'_>) -> Read<T>) -> Read<BTreeMap<String, T>> {
    let one = |(key, at): (&str, At<'_>)| {
        check_key(key, &at)?;
        Ok((key.to_owned(), read(&at)?))
    };
    at.map()?.into_iter().map(one).collect()
}

/// Keys become parts of names: letters, digits, `_`, `.` and `-`, and not two dots.
fn check_key(key: &str, at: &At<'_>) -> Read<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !key.is_empty() && key.bytes().all(plain) && !key.contains("..") && !key.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(at.wrong(format!("{key:?} is not a name: use letters, digits, _ . and -")))
}

/// `external: true`, or `external: {name: x}` as files of old have it.
fn external(object: &mut Object<'_>, name: &mut Option<String>) -> Read<bool> {
    let Some(at) = object.take("external") else {
        return Ok(false);
    };
    let external = if at.is_map() {
        let mut inner = at.object()?;
        *name = inner.read("name", At::text)?.or(name.take());
        inner.finish()?;
        true
    } else {
        at.truth()?
    };
    match object.rest().next() {
        // It is made elsewhere: whatever else is said of it would have no effect.
        Some(key) if external => Err(at.wrong(format!("external and {key} exclude each other"))),
        _ => Ok(external),
    }
}

fn network(at: &At<'_>) -> Read<Network> {
    let mut object = at.object()?;
    let mut name = object.read("name", At::text)?;
    let external = external(&mut object, &mut name)?;
    let network = Network {
        name,
        external,
        driver: object.read("driver", At::text)?,
        driver_opts: object.or_default("driver_opts", At::labels)?,
        attachable: object.or_default("attachable", At::truth)?,
        internal: object.or_default("internal", At::truth)?,
        ipv6: object.or_default("enable_ipv6", At::truth)?,
        labels: object.or_default("labels", At::labels)?,
        pools: object.or_default("ipam", ipam)?,
    };
    object.ignore(&["enable_ipv4"]);
    object.finish()?;
    Ok(network)
}

fn ipam(at: &At<'_>) -> Read<Vec<IpamConfig>> {
    let mut object = at.object()?;
    let pools = object.or_default("config", |at| at.list()?.iter().map(pool).collect())?;
    object.ignore(&["driver", "options"]);
    object.finish()?;
    Ok(pools)
}

fn pool(at: &At<'_>) -> Read<IpamConfig> {
    let mut object = at.object()?;
    let subnet = object.or_default("subnet", At::text)?;
    if !subnet.is_empty() && subnet.parse::<ipnet::IpNet>().is_err() {
        return Err(at.wrong(format!(
            "subnet {subnet:?} is not an address with a prefix, such as 10.5.0.0/24"
        )));
    }
    let pool = IpamConfig {
        subnet,
        ip_range: object.or_default("ip_range", At::text)?,
        gateway: object.or_default("gateway", At::text)?,
    };
    object.ignore(&["aux_addresses"]);
    object.finish()?;
    Ok(pool)
}

fn volume(at: &At<'_>) -> Read<Volume> {
    let mut object = at.object()?;
    let mut name = object.read("name", At::text)?;
    let external = external(&mut object, &mut name)?;
    if let Some(name) = &name {
        check_key(name, at)?;
    }
    let volume = Volume {
        name,
        external,
        driver: object.read("driver", At::text)?,
        driver_opts: object.or_default("driver_opts", At::labels)?,
        labels: object.or_default("labels", At::labels)?,
    };
    object.finish()?;
    Ok(volume)
}

fn content(at: &At<'_>) -> Read<Content> {
    let mut object = at.object()?;
    let mut name = object.read("name", At::text)?;
    let external = external(&mut object, &mut name)?;
    let content = Content {
        name,
        external,
        data: data(&mut object, external)?,
        labels: object.or_default("labels", At::labels)?,
        template_driver: object.read("template_driver", At::text)?,
    };
    if let Some(at) = object.take("driver") {
        return Err(at.wrong("secret drivers are not built: use file, content or environment"));
    }
    object.finish()?;
    Ok(content)
}

/// The content: of a file, of the text itself, or of a variable.
fn data(object: &mut Object<'_>, external: bool) -> Read<Vec<u8>> {
    let file = object.take("file");
    let text = object.take("content");
    let variable = object.take("environment");
    match (file, text, variable) {
        (None, None, None) if external => Ok(Vec::new()),
        (None, None, None) => Err(object
            .at
            .wrong("one of file, content, environment or external is needed")),
        (Some(at), None, None) => {
            let path = at.context.directory.join(at.text()?);
            std::fs::read(&path).map_err(|error| at.wrong(format!("cannot read {}: {error}", path.display())))
        }
        (None, Some(at), None) => Ok(at.scalar()?.into_bytes()),
        (None, None, Some(at)) => {
            let name = at.text()?;
            let value = at.context.variables.get(&name);
            value
                .map(|value| value.clone().into_bytes())
                .ok_or_else(|| at.wrong(format!("the variable {name} is not set")))
        }
        _ => Err(object
            .at
            .wrong("file, content and environment exclude each other")),
    }
}

/// Everything that a service names must be in the file.
fn references(stack: &Stack, service: &Service, at: &At<'_>, services: &[(Service, At<'_>)]) -> Read<()> {
    for network in service.networks.iter().map(|on| &on.network) {
        if network != "default" && !stack.networks.contains_key(network) {
            return Err(at.wrong(format!(
                "the network {network:?} is not among the file's networks"
            )));
        }
    }
    for mount in &service.container.mounts {
        let named = mount.kind == proto::spec::MountType::Volume && !mount.source.is_empty();
        if named && !stack.volumes.contains_key(&mount.source) {
            return Err(at.wrong(format!(
                "the volume {:?} is not among the file's volumes",
                mount.source
            )));
        }
    }
    for (what, used, known) in [
        ("secret", &service.secrets, &stack.secrets),
        ("config", &service.configs, &stack.configs),
    ] {
        if let Some(missing) = used.iter().find(|used| !known.contains_key(&used.source)) {
            return Err(at.wrong(format!(
                "the {what} {:?} is not among the file's {what}s",
                missing.source
            )));
        }
    }
    for other in service.depends_on.keys() {
        let Some((other, _)) = services.iter().find(|(known, _)| known.key == *other) else {
            return Err(at.wrong(format!(
                "depends_on names {other:?}, which is not among the file's services"
            )));
        };
        let checked = service.depends_on.get(&other.key) != Some(&super::Condition::Healthy);
        let healthcheck = other.container.healthcheck.as_ref();
        if !checked && healthcheck.is_some_and(|check| check.test.first().is_some_and(|word| word == "NONE"))
        {
            return Err(at.wrong(format!(
                "depends_on waits for {:?} to be healthy, but its healthcheck is off",
                other.key
            )));
        }
    }
    Ok(())
}

/// Services that wait for each other would wait for ever.
fn circles(services: &[(Service, At<'_>)]) -> Read<()> {
    for (service, at) in services {
        let mut reached: Vec<&str> = Vec::new();
        let mut next: Vec<&str> = service.depends_on.keys().map(String::as_str).collect();
        while let Some(key) = next.pop() {
            if key == service.key {
                return Err(at.wrong("depends_on goes in a circle: the service would wait for itself"));
            }
            if !reached.contains(&key) {
                reached.push(key);
                let other = services.iter().find(|(other, _)| other.key == key);
                next.extend(
                    other
                        .into_iter()
                        .flat_map(|(other, _)| other.depends_on.keys().map(String::as_str)),
                );
            }
        }
    }
    Ok(())
}

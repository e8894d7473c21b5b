//! Short forms: `8080:80/tcp`, `data:/data:ro`, and command lines.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proto::spec::{BindOptions, Mount, MountType, PortConfig, PortProtocol, PublishMode, VolumeOptions};

/// Ports of `[[address:]published:]target[/protocol]`, where both may be ranges of the same length. One on an address of
/// the host is published where the tasks run: there is no address that all nodes have.
pub(crate) fn ports(text: &str) -> Result<Vec<PortConfig>, String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol: PortProtocol = protocol
        .parse()
        .map_err(|error: proto::spec::UnknownWord| error.to_string())?;
    let (published, target) = match numbers.rsplit_once(':') {
        Some((published, target)) => (Some(published), target),
        None => (None, numbers),
    };
    let (address, published) = match published.and_then(|published| published.rsplit_once(':')) {
        Some((address, published)) => (Some(host_address(address)?), Some(published)),
        None => (None, published),
    };
    let targets = range(target)?;
    let published = match published.filter(|published| !published.is_empty()) {
        None => vec![0; targets.len()],
        Some(published) => range(published)?,
    };
    if published.len() != targets.len() {
        return Err(format!("{text:?}: the ranges have different lengths"));
    }
    let port = |(target_port, published_port)| PortConfig {
        protocol,
        target_port,
        published_port,
        publish_mode: address.map_or_else(PublishMode::default, |_| PublishMode::Host),
        host_ip: address,
        ..PortConfig::default()
    };
    Ok(targets.into_iter().zip(published).map(port).collect())
}

/// An address of the host, IPv6 in brackets or not.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse();
    address.map_err(|_| format!("{text:?} is not an address of the host"))
}

/// Port numbers of `80` or `8000-8010`.
pub(crate) fn range(text: &str) -> Result<Vec<u16>, String> {
    let number = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|&number| number > 0);
        number.ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
    };
    match text.split_once('-') {
        None => Ok(vec![number(text)?]),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{text:?} is a range that ends before it begins"));
            }
            Ok((first..=last).collect())
        }
    }
}

/// A mount of `[source:]target[:options]`. A source that begins like a path is a bind, any other a volume.
pub(crate) fn mount(text: &str, directory: &Path) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("{text:?} is not [source:]target[:options]")),
    };
    if !target.starts_with('/') {
        return Err(format!(
            "{text:?}: the path in the container, {target:?}, must begin with /"
        ));
    }
    let mut mount = Mount {
        target: target.to_owned(),
        ..Mount::default()
    };
    if is_path(source) {
        mount.kind = MountType::Bind;
        mount.source = host_path(source, directory)?;
        // As `docker run -v`: a missing source is made as a directory.
        mount.bind_options = Some(BindOptions {
            create_mountpoint: true,
            ..BindOptions::default()
        });
    } else {
        source.clone_into(&mut mount.source);
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        apply(&mut mount, option).map_err(|problem| format!("{text:?}: {problem}"))?;
    }
    Ok(mount)
}

/// A path of the host, relative ones starting in the file's folder.
pub(crate) fn host_path(source: &str, directory: &Path) -> Result<String, String> {
    let path = match source.strip_prefix("~/").or((source == "~").then_some("")) {
        Some(rest) => {
            PathBuf::from(std::env::var_os("HOME").ok_or("~ stands for $HOME, which is not set")?).join(rest)
        }
        None => directory.join(source),
    };
    let path = std::path::absolute(&path).map_err(|error| format!("{source:?}: {error}"))?;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
        .into_os_string()
        .into_string()
        .map_err(|path| format!("{path:?} is not UTF-8"))
}

/// Whether a short form's source means a path of the host.
pub(crate) fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

fn apply(mount: &mut Mount, option: &str) -> Result<(), String> {
    const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    match option {
        "ro" => mount.read_only = true,
        // Labels of SELinux, and ways of macOS: they mean nothing here, in Docker on such a host too.
        "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
        "nocopy" if mount.kind == MountType::Volume => {
            mount
                .volume_options
                .get_or_insert_with(VolumeOptions::default)
                .no_copy = true;
        }
        word if PROPAGATION.contains(&word) && mount.kind == MountType::Bind => {
            word.clone_into(
                &mut mount
                    .bind_options
                    .get_or_insert_with(BindOptions::default)
                    .propagation,
            );
        }
        _ => return Err(format!("the option {option:?} is not known for a {}", mount.kind)),
    }
    Ok(())
}

/// Splits a line as a shell does: blanks separate, quotes and backslashes join. Nothing is expanded.
pub(crate) fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        None => return Err(format!("{line:?} has a quote that does not close")),
                        Some(end) if end == character => break,
                        Some('\\') if character == '"' => word.extend(characters.next()),
                        Some(other) => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_forms() {
        let shown = |text: &str| {
            ports(text).map(|ports| {
                let one = |port: &PortConfig| {
                    format!("{}:{}/{}", port.published_port, port.target_port, port.protocol)
                };
                ports.iter().map(one).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(shown("80").as_deref(), Ok("0:80/tcp"));
        assert_eq!(shown("53:53/udp").as_deref(), Ok("53:53/udp"));
        assert_eq!(shown("8000-8001:80-81").as_deref(), Ok("8000:80/tcp 8001:81/tcp"));
        for text in [
            "",
            "0:80",
            "80:x",
            "70000",
            "1-2:3",
            "5-2",
            "80/icmp",
            "eth0:80:80",
        ] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_of_the_host_means_the_hosts_of_the_tasks() {
        for (text, address) in [("127.0.0.1:8080:80", "127.0.0.1"), ("[::1]:8080:80", "::1")] {
            let port = ports(text).unwrap().remove(0);
            assert_eq!(port.host_ip, Some(address.parse().unwrap()));
            assert_eq!(
                (port.published_port, port.publish_mode),
                (8080, PublishMode::Host)
            );
        }
        assert_eq!(ports("8080:80").unwrap()[0].publish_mode, PublishMode::Ingress);
    }

    #[test]
    fn mount_forms() {
        let directory = Path::new("/stack");
        let bind = mount("./conf/../x:/etc/x:ro,rshared", directory).unwrap();
        assert_eq!(
            (bind.kind, bind.source.as_str(), bind.read_only),
            (MountType::Bind, "/stack/x", true)
        );
        assert_eq!(bind.bind_options.unwrap().propagation, "rshared");
        let volume = mount("data:/data:nocopy", directory).unwrap();
        assert_eq!((volume.kind, volume.source.as_str()), (MountType::Volume, "data"));
        assert_eq!(mount("/only", directory).unwrap().source, "");
        for text in ["data", "a:b", "a:/b:c:d", "a:/b:wo", "a:/b:rshared"] {
            assert!(mount(text, directory).is_err(), "{text}");
        }
    }

    #[test]
    fn words() {
        assert_eq!(
            split_words(r#"sh -c "echo \"a b\"" 'c d'\ e "" "#).unwrap(),
            ["sh", "-c", "echo \"a b\"", "c d e", ""]
        );
        assert!(split_words("echo 'a").is_err());
    }
}

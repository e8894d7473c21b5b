//! Addresses that were given as the name of an interface.

use std::net::{IpAddr, SocketAddr};

use netd::Netd;

use super::AddressError;

/// `<ip|interface>[:port]` with the interface's address in the place of its name. What is an address already, or has no host
/// part, stays as it is.
///
/// # Errors
/// [`AddressError::Interface`]: there is no such interface, or it does not have exactly one IPv4 address.
pub async fn resolve(netd: &Netd, text: &str) -> Result<String, AddressError> {
    let Some((name, port)) = name(text) else {
        return Ok(text.to_owned());
    };
    let wrong = |why: String| AddressError::Interface {
        name: name.to_owned(),
        why,
    };
    let found = netd.interface_addresses(name).await;
    let addresses = found.map_err(|error| wrong(crate::api::error::chain(&error)))?;
    match addresses.as_deref() {
        None => Err(wrong("no such interface".to_owned())),
        Some([]) => Err(wrong("it has no IPv4 address".to_owned())),
        Some([address]) => Ok(match port {
            Some(port) => format!("{address}:{port}"),
            None => address.to_string(),
        }),
        Some([first, second, ..]) => Err(wrong(format!(
            "it has more than one IPv4 address ({first} and {second})"
        ))),
    }
}

/// The interface's name and the port, if the host part is no address.
fn name(text: &str) -> Option<(&str, Option<&str>)> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if text.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    (!host.is_empty() && host.parse::<IpAddr>().is_err()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        for address in [
            "",
            ":2377",
            "10.0.0.1",
            "10.0.0.1:1",
            "fd00::1",
            "[fd00::1]:1",
            "[fd00::1]",
        ] {
            assert_eq!(name(address), None, "{address}");
        }
        assert_eq!(name("eth0"), Some(("eth0", None)));
        assert_eq!(name("eth0:99"), Some(("eth0", Some("99"))));
        assert_eq!(name("eth0.5:99"), Some(("eth0.5", Some("99"))));
        assert_eq!(name("10.0.0.1:x"), None);
    }
}

//! Addresses that were given as the name of an interface.

use std::net::{IpAddr, SocketAddr};

use netd::Netd;

use super::AddressError;

/// `<ip|interface>[:port]` with the interface's address in the place of its name. What is an address already, or has no host
/// part, stays as it is.
///
/// # Errors
/// [`AddressError::Interface`]: there is no such interface, or it is not clear which of its addresses is meant: it is the
/// only one of IPv4, or where there is none the only one of IPv6.
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
    let addresses = addresses.ok_or_else(|| wrong("no such interface".to_owned()))?;
    let address = only(&addresses).map_err(wrong)?;
    Ok(match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    })
}

/// The address that is meant.
fn only(addresses: &[IpAddr]) -> Result<IpAddr, String> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    let (version, candidates) = if v4.is_empty() { ("IPv6", v6) } else { ("IPv4", v4) };
    match candidates[..] {
        [] => Err("it has no address".to_owned()),
        [address] => Ok(address),
        [first, second, ..] => Err(format!(
            "it has more than one {version} address ({first} and {second})"
        )),
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
    fn ipv4_comes_first_and_one_address_is_meant() {
        let only = |texts: &[&str]| {
            let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            only(&addresses).map(|address| address.to_string())
        };
        assert_eq!(
            only(&["fd00::1", "10.0.0.1", "fd00::2"]),
            Ok("10.0.0.1".to_owned())
        );
        assert_eq!(only(&["fd00::1"]), Ok("fd00::1".to_owned()));
        assert!(
            only(&["fd00::1", "fd00::2"])
                .unwrap_err()
                .contains("more than one IPv6")
        );
        assert!(
            only(&["10.0.0.1", "10.0.0.2", "fd00::2"])
                .unwrap_err()
                .contains("more than one IPv4")
        );
        assert!(only(&[]).is_err());
    }

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

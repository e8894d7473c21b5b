//! Encrypted networks: either the kernel can encrypt, and there is a device with a key that stays, or they are refused with
//! the reason. Nothing in between.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use common::world;
use netd::{Error, NetworkConfig, Overlay};

#[test]
fn an_encrypted_network_is_encrypted_or_refused() {
    world(|w| {
        let netd = w.open();
        let overlay = Overlay {
            vni: 4100,
            encrypted: true,
            ..Overlay::default()
        };
        let config = NetworkConfig {
            id: "secret".into(),
            name: "secret".into(),
            overlay: Some(overlay),
            ..NetworkConfig::default()
        };
        let made = w.wait(netd.ensure_network(&config));
        match w.wait(netd.encryption_key()) {
            Err(error) => {
                assert!(matches!(error, Error::NoEncryption), "{error}");
                assert!(error.to_string().contains("WireGuard"), "{error}");
                assert!(matches!(made, Err(Error::NoEncryption)), "{made:?}");
                assert!(
                    w.wait(netd.ensure_network(&config)).is_err(),
                    "also when asked again"
                );
                assert!(netd.networks().iter().all(|(config, _)| config.id != "secret"));
            }
            Ok(key) => {
                made.unwrap();
                assert_eq!(key.len(), 44, "32 bytes in base64");
                w.wait(netd.shutdown(false)).unwrap();
                drop(netd);
                let again = w.open();
                assert_eq!(
                    w.wait(again.encryption_key()).unwrap(),
                    key,
                    "it stays the node's"
                );
            }
        }
    });
}

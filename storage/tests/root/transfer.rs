//! Images between two stores: whole or not at all, whatever the other side sends.

use serde_json::json;
use storage::{DiffId, Digest, Encoding, Image, Offer, Receiving, Reference, Storage};

use crate::common::{Store, Tar, docker_archive, hello};

fn layers() -> Vec<Vec<u8>> {
    let second = Tar::new()
        .file("b", &[b'x'; 300_000])
        .symlink("c", "b")
        .hard_link("d", "b");
    vec![hello(), second.done()]
}

fn origin() -> Store {
    let store = Store::new();
    store
        .load(&docker_archive(&layers(), &["web:1"], json!({})))
        .unwrap();
    store
}

fn offer(storage: &Storage) -> Offer {
    storage.images().offer("web:1").unwrap()
}

fn begin(from: &Storage, to: &Storage) -> Receiving {
    let id = offer(from).id;
    let config = from.images().config_bytes(&id).unwrap();
    to.images().receive(id, config, None).unwrap()
}

fn sent(from: &Storage, layer: &DiffId, encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.layers().send(layer, encoding, &mut bytes).unwrap();
    bytes
}

fn carry(from: &Storage, receiving: &Receiving, layer: DiffId) {
    let encoding = from.layers().encoding(&layer).unwrap();
    let bytes = sent(from, &layer, encoding);
    receiving.layer(layer, encoding, &mut bytes.as_slice()).unwrap();
}

fn travel(from: &Storage, to: &Storage) -> Image {
    let receiving = begin(from, to);
    for layer in receiving.missing().unwrap() {
        carry(from, &receiving, layer);
    }
    receiving.finish().unwrap()
}

fn name() -> Reference {
    "web:1".parse().unwrap()
}

#[test]
fn an_image_arrives_byte_for_byte() {
    let (from, to) = (origin(), Store::new());
    let image = travel(&from.storage, &to.storage);
    assert!(image.fetched && image.refs.is_empty());
    let offered = offer(&from.storage);
    assert_eq!((image.id, offered.fetched), (offered.id, false));
    for (layer, bytes) in offered.layers.iter().zip(layers()) {
        assert_eq!(layer.size, bytes.len() as u64);
        assert_eq!(sent(&to.storage, &layer.diff_id, Encoding::Plain), bytes);
    }
    let pinned = format!("web:1@{}", image.id);
    assert_eq!(to.storage.images().get(&pinned).unwrap().id, image.id);
    let named = offered.named.as_deref();
    assert!(
        to.storage
            .images()
            .name_fetched(&image.id, &name(), named)
            .unwrap()
    );
    assert_eq!(to.storage.images().get("web:1").unwrap().id, image.id);
    assert_eq!(to.storage.images().offer("web:1").unwrap().named, offered.named);
}

#[test]
fn what_pays_is_compressed() {
    let from = origin();
    let all = offer(&from.storage).layers;
    assert_eq!(
        from.storage.layers().encoding(&all[1].diff_id).unwrap(),
        Encoding::Zstd
    );
    assert!(sent(&from.storage, &all[1].diff_id, Encoding::Zstd).len() < 10_000);
    // What is packed already goes as it is.
    let mut noise = vec![0u8; 600_000];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut noise).unwrap();
    let lease = from.lease();
    let layer = from
        .apply(&Tar::new().file("noise", &noise).done(), &lease)
        .unwrap();
    assert_eq!(
        from.storage.layers().encoding(&layer.diff_id).unwrap(),
        Encoding::Plain
    );
}

#[test]
fn nothing_false_is_taken_in() {
    let (from, to) = (origin(), Store::new());
    let id = offer(&from.storage).id;
    let config = from.storage.images().config_bytes(&id).unwrap();
    let images = to.storage.images();
    let mut changed = config.clone();
    changed.push(b' ');
    let refused = images.receive(id, changed, None).unwrap_err();
    assert!(refused.to_string().contains("configuration"), "{refused}");
    let foreign = br#"{"config":{"digest":"sha256:00"}}"#.to_vec();
    assert!(images.receive(id, config, Some(foreign)).is_err());

    let receiving = begin(&from.storage, &to.storage);
    let missing = receiving.missing().unwrap();
    assert_eq!(missing.len(), 2);
    let bytes = sent(&from.storage, &missing[1], Encoding::Plain);
    let packed = sent(&from.storage, &missing[1], Encoding::Zstd);
    let mut flipped = bytes.clone();
    flipped[700] ^= 1;
    let mut longer = bytes.clone();
    longer.extend([0; 512]);
    let bad: [(&str, Encoding, &[u8]); 8] = [
        ("another byte", Encoding::Plain, &flipped),
        ("cut at an entry", Encoding::Plain, &bytes[..bytes.len() - 1024]),
        ("cut in an entry", Encoding::Plain, &bytes[..1000]),
        ("nothing", Encoding::Plain, &[]),
        ("something behind", Encoding::Plain, &longer),
        ("packed, cut", Encoding::Zstd, &packed[..packed.len() - 5]),
        ("not packed", Encoding::Zstd, &bytes),
        ("packed, not said so", Encoding::Plain, &packed),
    ];
    for (what, encoding, sent) in bad {
        let mut sent = sent;
        assert!(
            receiving.layer(missing[1], encoding, &mut sent).is_err(),
            "{what}"
        );
    }
    // Another layer of the same image, and one of none.
    let other = sent(&from.storage, &missing[0], Encoding::Plain);
    assert!(
        receiving
            .layer(missing[1], Encoding::Plain, &mut other.as_slice())
            .is_err()
    );
    let none = DiffId(Digest::of(b"none"));
    assert!(
        receiving
            .layer(none, Encoding::Plain, &mut other.as_slice())
            .is_err()
    );
    // Without its layers there is no image.
    assert!(receiving.finish().is_err());
    to.assert_clean();
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let (from, to) = (origin(), Store::new());
    let receiving = begin(&from.storage, &to.storage);
    let missing = receiving.missing().unwrap();
    carry(&from.storage, &receiving, missing[0]);
    // A collector beside a transfer takes nothing of it.
    to.storage.gc().unwrap();
    drop(receiving);
    assert!(to.storage.images().list().unwrap().is_empty());

    let again = begin(&from.storage, &to.storage);
    assert_eq!(again.missing().unwrap(), missing[1..]);
    // The same layer twice at once is the same layer.
    carry(&from.storage, &again, missing[1]);
    carry(&from.storage, &again, missing[1]);
    drop(again);
    to.storage.gc().unwrap();
    to.assert_clean();
}

#[test]
fn a_name_that_somebody_gave_here_stays() {
    let (from, to) = (origin(), Store::new());
    let other = docker_archive(&[hello()], &["web:1"], json!({}));
    let own = to.load(&other).unwrap()[0].id;
    let image = travel(&from.storage, &to.storage);
    let named = offer(&from.storage).named;
    let images = to.storage.images();
    assert!(!images.name_fetched(&image.id, &name(), named.as_deref()).unwrap());
    assert_eq!(images.get("web:1").unwrap().id, own);
    assert_eq!(images.get(&format!("web:1@{}", image.id)).unwrap().id, image.id);
}

#[test]
fn a_name_that_came_from_elsewhere_follows_its_origin() {
    let (from, to) = (origin(), Store::new());
    let images = to.storage.images();
    let first = travel(&from.storage, &to.storage);
    images
        .name_fetched(&first.id, &name(), Some("2024-01-01T00:00:00Z"))
        .unwrap();
    from.load(&docker_archive(&[hello()], &["web:1"], json!({})))
        .unwrap();
    let second = travel(&from.storage, &to.storage);
    assert_ne!(first.id, second.id);
    let (older, newer) = (Some("2023-01-01T00:00:00Z"), Some("2024-01-02T00:00:00Z"));
    assert!(!images.name_fetched(&second.id, &name(), older).unwrap());
    assert!(images.name_fetched(&second.id, &name(), newer).unwrap());
    assert_eq!(images.get("web:1").unwrap().id, second.id);
    // Naming it here makes it this node's own.
    images.tag("web:1", &name()).unwrap();
    assert!(!images.get("web:1").unwrap().fetched);
    let third = Some("2099-01-01T00:00:00Z");
    assert!(!images.name_fetched(&first.id, &name(), third).unwrap());
}

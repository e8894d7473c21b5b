//! Which specs of a service are kept: the last [`MOST_SPECS`] before the present one, as far as they fit into
//! [`MOST_BYTES`]. Pure changes of a [`Service`]; control and the orchestrator write them.

use proto::object::KeptSpec;
use proto::{Service, ServiceSpec, Timestamp, Version};

/// How many specs are kept beside the present one.
pub(crate) const MOST_SPECS: usize = 10;
/// How large all kept specs of a service are together, in bytes of JSON: they travel with every change of the service.
pub(crate) const MOST_BYTES: usize = 256 * 1024;

/// Gives the service another spec, made now or had before; the present one is kept, also for Docker's way back.
pub(crate) fn change_spec(
    service: &mut Service,
    spec: ServiceSpec,
    version: Option<Version>,
    now: Timestamp,
) {
    let before = KeptSpec {
        number: service.history.number.max(1),
        since: present_since(service),
        spec_version: service.spec_version,
        spec: Box::new(std::mem::replace(&mut service.spec, spec)),
    };
    service.previous_spec = Some(before.spec.clone());
    service.previous_spec_version = before.spec_version;
    service.spec_version = version;
    if *before.spec != service.spec {
        keep(service, before, now);
    }
}

/// The kept spec with the number.
pub(crate) fn kept(service: &Service, number: u64) -> Option<&KeptSpec> {
    service.history.kept.iter().find(|kept| kept.number == number)
}

/// Every spec that is there to go back to, and the present one; the highest number first.
pub(crate) fn all(service: &Service) -> Vec<KeptSpec> {
    let present = KeptSpec {
        number: service.history.number.max(1),
        since: present_since(service),
        spec_version: service.spec_version,
        spec: Box::new(service.spec.clone()),
    };
    let mut all = service.history.kept.clone();
    all.push(present);
    all.sort_by_key(|kept| std::cmp::Reverse(kept.number));
    all
}

fn keep(service: &mut Service, before: KeptSpec, now: Timestamp) {
    let history = &mut service.history;
    history.last = history.last.max(before.number);
    history.kept.push(before);
    let known = history.kept.iter().position(|kept| *kept.spec == service.spec);
    history.number = match known {
        Some(index) => history.kept.remove(index).number,
        None => history.last + 1,
    };
    history.last = history.last.max(history.number);
    history.since = now;
    let surplus = surplus(&history.kept);
    history.kept.drain(..surplus);
}

/// How many of the kept specs, from the first, are too many.
fn surplus(kept: &[KeptSpec]) -> usize {
    let mut bytes = 0;
    let fit = kept.iter().rev().take(MOST_SPECS).take_while(|kept| {
        bytes += serde_json::to_vec(&kept.spec).map_or(MOST_BYTES, |json| json.len());
        bytes <= MOST_BYTES
    });
    kept.len() - fit.count()
}

fn present_since(service: &Service) -> Timestamp {
    match service.history.number {
        0 => service.meta.created_at,
        _ => service.history.since,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::spec::ContainerSpec;

    use super::*;

    fn spec(image: &str) -> ServiceSpec {
        let mut spec = ServiceSpec::default();
        spec.task_template.container_spec = Some(ContainerSpec {
            image: image.into(),
            ..ContainerSpec::default()
        });
        spec
    }

    fn service(images: &[&str]) -> Service {
        let mut service = Service {
            spec: spec(images[0]),
            ..Service::default()
        };
        for image in &images[1..] {
            change_spec(&mut service, spec(image), None, Timestamp::now());
        }
        service
    }

    /// Numbers and images, the highest number first.
    fn listed(service: &Service) -> Vec<(u64, String)> {
        let image = |kept: &KeptSpec| {
            kept.spec
                .task_template
                .container_spec
                .as_ref()
                .unwrap()
                .image
                .clone()
        };
        all(service)
            .iter()
            .map(|kept| (kept.number, image(kept)))
            .collect()
    }

    #[test]
    fn a_spec_keeps_its_number_whoever_goes_back_to_it() {
        let mut service = service(&["a", "b", "c"]);
        let expected = [(3, "c".to_owned()), (2, "b".to_owned()), (1, "a".to_owned())];
        assert_eq!(listed(&service), expected);
        assert_eq!(*service.previous_spec.clone().unwrap(), spec("b"));
        let first = kept(&service, 1).unwrap().clone();
        change_spec(&mut service, *first.spec, first.spec_version, Timestamp::now());
        assert_eq!((service.history.number, listed(&service)), (1, expected.to_vec()));
        assert_eq!(*service.previous_spec.clone().unwrap(), spec("c"));
        change_spec(&mut service, spec("d"), None, Timestamp::now());
        assert_eq!(service.history.number, 4);
    }

    #[test]
    fn the_same_spec_again_is_no_new_version() {
        let service = service(&["a", "a"]);
        assert_eq!(listed(&service), [(1, "a".to_owned())]);
        assert!(
            service.previous_spec.is_some(),
            "Docker's way back is there all the same"
        );
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let images: Vec<String> = (0..30).map(|number| format!("i{number}")).collect();
        let many = service(&images.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(many.history.kept.len(), MOST_SPECS);
        assert_eq!(listed(&many).first().unwrap().0, 30);

        let large: Vec<String> = (0..6)
            .map(|number| format!("{number}").repeat(MOST_BYTES / 3))
            .collect();
        let large = service(&large.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(large.history.kept.len(), 2, "a third would not fit");
    }

    proptest! {
        #[test]
        fn a_number_never_names_two_specs(changes in proptest::collection::vec(0..15u8, 1..60)) {
            let mut service = service(&["first"]);
            let mut names = std::collections::HashMap::new();
            for change in changes {
                change_spec(&mut service, spec(&change.to_string()), None, Timestamp::now());
                let listed = listed(&service);
                prop_assert!(listed.windows(2).all(|pair| pair[0].0 > pair[1].0), "{:?}", listed);
                for (number, image) in listed {
                    prop_assert_eq!(names.entry(number).or_insert_with(|| image.clone()), &image);
                }
            }
        }
    }
}

//! `deploy.placement`: on which nodes. What Docker has no word for goes by keys that other tools overlook, and becomes
//! labels of the service: `x-strategy`, `x-affinity`, `x-anti-affinity`.

use proto::spec::placement_labels::{AFFINITY, ANTI_AFFINITY, STRATEGY};
use proto::spec::{Labels, Placement, PlacementLabels, PlacementPreference, SpreadOver, Strategy};

use super::error::ComposeError;
use super::reader::{At, Object};

/// What `placement` says; the rest is added to the service's labels.
pub(super) fn placement(at: &At<'_>, labels: &mut Labels) -> Result<Placement, ComposeError> {
    let mut object = at.object()?;
    let placement = Placement {
        constraints: object.or_default("constraints", At::scalars)?,
        preferences: object.or_default("preferences", |at| at.list()?.iter().map(preference).collect())?,
        max_replicas: object.or_default("max_replicas_per_node", At::unsigned)?,
        platforms: Vec::new(),
    };
    beyond_docker(&mut object, labels)?;
    object.finish()?;
    PlacementLabels::parse(labels).map_err(|error| at.wrong(error.to_string()))?;
    Ok(placement)
}

/// Names stay as they are written: the scheduler looks for them in the service's own stack first.
fn beyond_docker(object: &mut Object<'_>, labels: &mut Labels) -> Result<(), ComposeError> {
    if let Some(strategy) = object.read("x-strategy", At::word::<Strategy>)? {
        labels.insert(STRATEGY.to_owned(), strategy.to_string());
    }
    for (key, label) in [("x-affinity", AFFINITY), ("x-anti-affinity", ANTI_AFFINITY)] {
        if let Some(names) = object.read(key, At::one_or_more)? {
            labels.insert(label.to_owned(), names.join(","));
        }
    }
    Ok(())
}

fn preference(at: &At<'_>) -> Result<PlacementPreference, ComposeError> {
    let mut object = at.object()?;
    let spread = SpreadOver {
        spread_descriptor: object.required("spread", At::text)?,
    };
    object.finish()?;
    Ok(PlacementPreference { spread: Some(spread) })
}

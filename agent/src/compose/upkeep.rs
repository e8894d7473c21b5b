//! Keys of `deploy` that Docker's spec has no field for: they become labels of the service, see [`proto::upkeep`].

use proto::spec::Labels;
use proto::upkeep::{self, Upkeep};

use super::error::ComposeError;
use super::reader::{At, Object};

/// Takes a key and writes what it says into its label.
pub(super) fn take(
    object: &mut Object<'_>,
    key: &str,
    label: &'static str,
    labels: &mut Labels,
) -> Result<(), ComposeError> {
    let Some(at) = object.take(key) else { return Ok(()) };
    let value = match at.scalar()?.as_str() {
        // YAML's words for the same.
        "true" => "on".to_owned(),
        "false" => "off".to_owned(),
        other => other.to_owned(),
    };
    let one = Labels::from([(label.to_owned(), value)]);
    Upkeep::read(&one)
        .map_err(|bad| at.wrong(format!("this must be {}, but it is {:?}", bad.wanted, bad.value)))?;
    labels.extend(one);
    Ok(())
}

/// Takes the keys that stand in `deploy` itself.
pub(super) fn deploy(object: &mut Object<'_>, labels: &mut Labels) -> Result<(), ComposeError> {
    take(object, "rebalance", upkeep::REBALANCE, labels)?;
    take(object, "fencing", upkeep::FENCING, labels)?;
    object.read("drain", |at| drain(at, labels)).map(drop)
}

fn drain(at: &At<'_>, labels: &mut Labels) -> Result<(), ComposeError> {
    let mut object = at.object()?;
    take(&mut object, "order", upkeep::DRAIN_ORDER, labels)?;
    take(&mut object, "deadline", upkeep::DRAIN_DEADLINE, labels)?;
    object.finish()
}

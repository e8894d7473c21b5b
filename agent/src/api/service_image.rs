//! Which image a service runs is said once, when it is created or updated: its name becomes the name with the ID behind it.
//!
//! `resolveImage=never` leaves the name as it is: each node then runs what it has under it (`--no-resolve-image`).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use proto::{NodeId, ServiceSpec};

use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::App;
use crate::peer::proxy::Forwarded;
use crate::transfer::resolve;

/// The manager at which the user speaks, if it is not this one.
#[derive(Debug)]
pub(super) struct Through(Option<NodeId>);

impl<S: Sync> FromRequestParts<S> for Through {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let forwarded = parts.extensions.get::<Forwarded>();
        Ok(Self(forwarded.map(|forwarded| forwarded.0.clone())))
    }
}

/// Pins the image of the service. Warns, in Docker's way, where no node has it.
pub(super) async fn pin(
    app: &App,
    params: &Params,
    through: &Through,
    spec: &mut ServiceSpec,
) -> ApiResult<Option<Vec<String>>> {
    match params.filled("resolveImage") {
        None | Some("always") => {}
        Some("never") => return Ok(None),
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "resolveImage must be \"always\" or \"never\", not {other:?}"
            )));
        }
    }
    let Some(container) = &mut spec.task_template.container_spec else {
        return Ok(None);
    };
    let Some(reference) = resolve::to_pin(&container.image) else {
        return Ok(None);
    };
    let client = app.cluster.peers().client();
    let found = resolve::resolve(
        &app.storage,
        client.as_ref(),
        through.0.as_ref(),
        &container.image,
    )
    .await;
    match found {
        Some(found) => {
            container.image = resolve::pinned(&reference, &found.id);
            Ok(None)
        }
        None => Ok(Some(vec![format!(
            "image {} is on no node of the swarm. Its tasks will be rejected until it is built or loaded on one, and each \
             node will run what it has under that name then.",
            reference.familiar()
        )])),
    }
}

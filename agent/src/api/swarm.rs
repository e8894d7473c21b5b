//! `/swarm`: making, leaving, inspecting and changing the cluster.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use manager::InitRequest;
use manager::control::Rotate;
use proto::spec::{Availability, ClusterSpec};
use serde::Deserialize;

use super::body;
use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::App;
use crate::cluster::advertise;

/// What the stock CLI sends when no listen address was given.
const DEFAULT_LISTEN: &[&str] = &["", "0.0.0.0:2377", "0.0.0.0", "[::]:2377"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/swarm", get(inspect))
        .route("/swarm/init", post(init))
        .route("/swarm/join", post(join))
        .route("/swarm/leave", post(leave))
        .route("/swarm/update", post(update))
        .route("/swarm/unlockkey", get(unlock_key))
        .route("/swarm/unlock", post(unlock))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InitBody {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    data_path_port: u32,
    default_addr_pool: Vec<String>,
    force_new_cluster: bool,
    subnet_size: u32,
    spec: Option<ClusterSpec>,
    auto_lock_managers: bool,
    availability: Option<Availability>,
}

async fn init(State(app): State<App>, body::Spec(body): body::Spec<InitBody>) -> ApiResult<Json<String>> {
    refuse(&body)?;
    let address =
        advertise(&body.advertise_addr).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let request = InitRequest {
        advertise_addr: address.to_string(),
        listen_addr: body.listen_addr,
        spec: body.spec.unwrap_or_default(),
        default_addr_pool: body.default_addr_pool,
        subnet_size: body.subnet_size,
        data_path_port: body.data_path_port,
        availability: body.availability.unwrap_or_default(),
    };
    let node_id = app.cluster.init(request).await?;
    Ok(Json(node_id.to_string()))
}

fn refuse(body: &InitBody) -> ApiResult<()> {
    let no = |what: &str| Err(ApiError::not_implemented(format!("{what} is not built yet")));
    if body.force_new_cluster {
        return no("--force-new-cluster");
    }
    if body.auto_lock_managers {
        return no("locking managers (--autolock)");
    }
    if !body.data_path_addr.is_empty() {
        return no("a separate data path (--data-path-addr)");
    }
    if !DEFAULT_LISTEN.contains(&body.listen_addr.as_str()) {
        return no("listening for other nodes (--listen-addr)");
    }
    Ok(())
}

async fn join() -> ApiError {
    ApiError::not_implemented(
        "joining another node's swarm is not built yet; use `swarm init` for a swarm of this node",
    )
}

async fn leave(State(app): State<App>, params: Params) -> ApiResult<()> {
    Ok(app.cluster.leave(params.flag("force")).await?)
}

async fn inspect(State(app): State<App>) -> ApiResult<Json<proto::Cluster>> {
    Ok(Json(app.control()?.cluster()?))
}

async fn update(
    State(app): State<App>,
    params: Params,
    body::Spec(spec): body::Spec<ClusterSpec>,
) -> ApiResult<()> {
    let control = app.control()?;
    let rotate = Rotate {
        worker_token: params.flag("rotateWorkerToken"),
        manager_token: params.flag("rotateManagerToken"),
        unlock_key: params.flag("rotateManagerUnlockKey"),
    };
    control.update_cluster(version(&params)?, spec, rotate).await?;
    Ok(())
}

async fn unlock_key(State(app): State<App>) -> ApiResult<()> {
    app.control()?;
    Err(ApiError::not_implemented(
        "locking managers (autolock) is not built yet: there is no unlock key",
    ))
}

async fn unlock(State(app): State<App>) -> ApiResult<()> {
    match app.cluster.manager() {
        Some(_) => Err(ApiError::conflict("swarm is not locked")),
        None => Err(ApiError::unavailable("This node is not part of a swarm")),
    }
}

/// The version that an update was read at; required.
pub(super) fn version(params: &Params) -> ApiResult<u64> {
    let missing = || ApiError::bad_request("invalid version: the parameter \"version\" is required");
    params.number("version")?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::lenient;

    #[test]
    fn what_the_cli_sends_by_default_is_accepted() {
        let body = br#"{"ListenAddr":"0.0.0.0:2377","AdvertiseAddr":"","DataPathAddr":"","DataPathPort":0,
            "DefaultAddrPool":null,"ForceNewCluster":false,"Spec":{"Labels":null,"Orchestration":{},"Raft":{},
            "Dispatcher":{},"CAConfig":{},"TaskDefaults":{},"EncryptionConfig":{"AutoLockManagers":false}},
            "AutoLockManagers":false,"Availability":"active","SubnetSize":0}"#;
        let body: InitBody = lenient::from_slice(body).unwrap();
        refuse(&body).unwrap();
        assert_eq!(body.availability, Some(Availability::Active));
    }

    #[test]
    fn what_is_not_built_is_named() {
        let body = InitBody {
            auto_lock_managers: true,
            ..InitBody::default()
        };
        assert!(refuse(&body).unwrap_err().message.contains("--autolock"));
    }
}

//! `/swarm`: making, leaving, inspecting and changing the cluster.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use manager::control::Rotate;
use manager::{InitRequest, JoinManagers};
use proto::Hidden;
use proto::spec::{Availability, ClusterSpec};
use serde::{Deserialize, Serialize};

use super::body;
use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::App;
use crate::cluster::{
    AddressError, JoinRequest, Named, advertise, manager_address, resolve, resolve_data_path,
};

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
    let netd = &app.netd;
    let data_path = resolve_data_path(netd, &body.data_path_addr)
        .await
        .map_err(invalid)?;
    let advertised = resolve(netd, &body.advertise_addr).await.map_err(invalid)?;
    let listen_addr = resolve(netd, &body.listen_addr).await.map_err(invalid)?;
    let address = advertise(&advertised, &listen_addr).map_err(invalid)?;
    let mut spec = body.spec.unwrap_or_default();
    if body.auto_lock_managers {
        spec.encryption_config.get_or_insert_default().auto_lock_managers = true;
    }
    let request = InitRequest {
        advertise_addr: address.to_string(),
        listen_addr,
        spec,
        default_addr_pool: body.default_addr_pool,
        subnet_size: body.subnet_size,
        data_path_port: body.data_path_port,
        availability: body.availability.unwrap_or_default(),
    };
    let named = Named {
        data_path,
        advertised: (!advertised.is_empty()).then(|| address.ip()),
    };
    let node_id = app.cluster.init(request, named, body.force_new_cluster).await?;
    Ok(Json(node_id.to_string()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct JoinBody {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    remote_addrs: Vec<String>,
    join_token: String,
    availability: Option<Availability>,
}

async fn join(State(app): State<App>, body::Spec(body): body::Spec<JoinBody>) -> ApiResult<()> {
    let advertise_addr = resolve(&app.netd, &body.advertise_addr).await.map_err(invalid)?;
    let listen_addr = resolve(&app.netd, &body.listen_addr).await.map_err(invalid)?;
    let data_path = resolve_data_path(&app.netd, &body.data_path_addr)
        .await
        .map_err(invalid)?;
    let mut request = join_request(JoinBody {
        advertise_addr,
        listen_addr,
        ..body
    })?;
    request.named.data_path = data_path;
    Ok(app.cluster.join(request).await?)
}

/// The user wrote it.
fn invalid(error: AddressError) -> ApiError {
    ApiError::bad_request(error.to_string())
}

fn join_request(body: JoinBody) -> ApiResult<JoinRequest> {
    if body.remote_addrs.is_empty() {
        return Err(ApiError::bad_request(
            "at least one RemoteAddr is required to join",
        ));
    }
    if body.join_token.is_empty() {
        return Err(ApiError::bad_request(
            "a join token is required: `swarm join-token worker` on a manager shows it",
        ));
    }
    let advertised =
        (!body.advertise_addr.is_empty()).then(|| advertise(&body.advertise_addr, &body.listen_addr));
    let remotes: Result<Vec<_>, _> = body
        .remote_addrs
        .iter()
        .map(|text| manager_address(text))
        .collect();
    Ok(JoinRequest {
        remotes: remotes.map_err(invalid)?,
        named: Named {
            data_path: None,
            advertised: advertised
                .transpose()
                .map_err(invalid)?
                .map(|address| address.ip()),
        },
        manager: JoinManagers {
            advertise_addr: body.advertise_addr,
            listen_addr: body.listen_addr,
        },
        token: body.join_token,
        availability: body.availability.unwrap_or_default(),
    })
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

/// The key is empty while managers do not lock, as Docker's is.
async fn unlock_key(State(app): State<App>) -> ApiResult<Json<UnlockKey>> {
    let unlock_key = app.control()?.unlock_key()?.unwrap_or_default();
    Ok(Json(UnlockKey { unlock_key }))
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct UnlockKey {
    unlock_key: Hidden,
}

async fn unlock(State(app): State<App>, body::Spec(body): body::Spec<UnlockKey>) -> ApiResult<()> {
    Ok(app.cluster.unlock(&body.unlock_key).await?)
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
        assert_eq!(body.availability, Some(Availability::Active));
    }

    #[test]
    fn a_join_needs_a_manager_and_a_token() {
        let body = || JoinBody {
            remote_addrs: vec!["10.0.0.1".into()],
            join_token: "SWMTKN-1-a-b".into(),
            advertise_addr: "10.0.0.2".into(),
            ..JoinBody::default()
        };
        let request = join_request(body()).unwrap();
        assert_eq!(request.remotes, ["10.0.0.1:2377".parse().unwrap()]);
        assert_eq!(request.named.advertised, Some("10.0.0.2".parse().unwrap()));
        let refused = |change: fn(&mut JoinBody)| {
            let mut body = body();
            change(&mut body);
            join_request(body).unwrap_err().message
        };
        assert!(refused(|body| body.remote_addrs.clear()).contains("RemoteAddr"));
        assert!(refused(|body| body.remote_addrs = vec!["host".into()]).contains("host"));
        assert!(refused(|body| body.join_token.clear()).contains("token"));
    }
}

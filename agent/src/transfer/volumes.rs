//! What a node does to move a volume: lends it to another, takes it from another, gives it up.
//!
//! Only managers ask for it. A node that shall have a volume gets it from the one that holds it; a loan says which node may.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::Method;
use proto::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage::{Contents, Volume};

use super::flights::Flights;
use super::{slow, wire};
use crate::api::App;
use crate::api::blocking::{body_from, call};
use crate::api::error::{ApiError, ApiResult};
use crate::api::params::Params;
use crate::api::volumes::publish;
use crate::engine::Engine;
use crate::peer::{Caller, Client};

/// Another node may have the volume from now on.
pub const LEND: &str = "/v1/volumes/lend";
/// What the volume is and holds; for the node that it is lent to.
pub const DESCRIBE: &str = "/v1/volumes/describe";
/// The volume as a tar; for the node that it is lent to.
pub const DATA: &str = "/v1/volumes/data";
/// Takes the volume from another node.
pub const TAKE: &str = "/v1/volumes/take";
/// Removes the volume if it still holds what another node has.
pub const GIVE_UP: &str = "/v1/volumes/give-up";

/// What the handlers share.
#[derive(Debug, Default)]
struct Desk {
    /// Which node may have which volume.
    loans: Mutex<HashMap<String, NodeId>>,
    /// Volumes that are being taken.
    taking: Flights<String>,
}

/// A volume, for the node that gets it.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    labels: std::collections::BTreeMap<String, String>,
    options: std::collections::BTreeMap<String, String>,
    created: String,
    contents: Contents,
}

/// Routes of this module.
pub fn routes() -> Router<App> {
    let desk = Arc::new(Desk::default());
    Router::new()
        .route(LEND, post(lend))
        .route(DESCRIBE, get(describe))
        .route(DATA, get(data))
        .route(TAKE, post(take))
        .route(GIVE_UP, post(give_up))
        .layer(Extension(desk))
}

/// Has `to` take the volume from `from`; what it holds then.
pub(super) async fn carry(client: &Client, name: &str, from: &NodeId, to: &NodeId) -> ApiResult<Contents> {
    let lend = path(LEND, &[("name", name), ("node", to.as_str())]);
    slow::ask::<serde_json::Value>(client, from, Method::POST, &lend).await?;
    let take = path(TAKE, &[("name", name), ("node", from.as_str())]);
    slow::ask(client, to, Method::POST, &take).await
}

/// Has `from` remove its volume, which `contents` says another has.
pub(super) async fn release(
    client: &Client,
    name: &str,
    from: &NodeId,
    contents: &Contents,
) -> ApiResult<()> {
    let words = [
        ("name", name),
        ("digest", &contents.digest.to_string()),
        ("entries", &contents.entries.to_string()),
    ];
    let path = path(GIVE_UP, &words);
    let given = slow::ask::<serde_json::Value>(client, from, Method::POST, &path);
    given.await.map(drop)
}

fn path(of: &str, words: &[(&str, &str)]) -> String {
    let mut text = of.to_owned();
    for (index, (key, value)) in words.iter().enumerate() {
        let word = wire::path("", key, value);
        text.push_str(&if index == 0 {
            word
        } else {
            word.replacen('?', "&", 1)
        });
    }
    text
}

async fn lend(
    State(app): State<App>,
    Extension(desk): Extension<Arc<Desk>>,
    params: Params,
) -> ApiResult<Response> {
    let (name, node) = words(&params)?;
    let (storage, wanted) = (app.storage.clone(), name.clone());
    call(move || storage.volumes().get(&wanted)).await?;
    refuse_used(&app.engine, &name)?;
    desk.loans
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name, node);
    Ok(slow::answer(async { Ok(json!({})) }))
}

async fn describe(
    State(app): State<App>,
    Extension(desk): Extension<Arc<Desk>>,
    Extension(caller): Extension<Caller>,
    params: Params,
) -> ApiResult<Response> {
    let name = desk.lent(&params, &caller)?;
    refuse_used(&app.engine, &name)?;
    let storage = app.storage.clone();
    Ok(slow::answer(call(move || {
        let volume = storage.volumes().get(&name)?;
        let contents = storage.volumes().contents(&name)?;
        Ok::<_, ApiError>(Described {
            labels: volume.labels,
            options: volume.options,
            created: volume.created_at,
            contents,
        })
    })))
}

async fn data(
    State(app): State<App>,
    Extension(desk): Extension<Arc<Desk>>,
    Extension(caller): Extension<Caller>,
    params: Params,
) -> ApiResult<Response> {
    let name = desk.lent(&params, &caller)?;
    let storage = app.storage.clone();
    let body = body_from(move |to| storage.volumes().send(&name, to).map_err(io::Error::other));
    Ok(body.into_response())
}

async fn take(
    State(app): State<App>,
    Extension(desk): Extension<Arc<Desk>>,
    params: Params,
) -> ApiResult<Response> {
    let (name, from) = words(&params)?;
    let client = app.cluster.peers().client();
    let client = client.ok_or_else(|| ApiError::unavailable("this node has left the cluster"))?;
    Ok(slow::answer(async move {
        let _alone = desk.taking.board(name.clone()).await;
        taken(&app, &client, &name, &from).await
    }))
}

/// Takes the volume unless it is here already with the same contents, as a move that was interrupted leaves it.
async fn taken(app: &App, client: &Client, name: &str, from: &NodeId) -> ApiResult<Contents> {
    let describe = wire::path(DESCRIBE, "name", name);
    let described: Described = slow::ask(client, from, Method::GET, &describe).await?;
    let (storage, own) = (app.storage.clone(), name.to_owned());
    let here = call(move || match storage.volumes().get(&own) {
        Ok(_) => storage.volumes().contents(&own).map(Some),
        Err(_) => Ok(None),
    });
    match here.await? {
        Some(here) if here.same(&described.contents) => return Ok(described.contents),
        Some(_) => {
            return Err(ApiError::conflict(format!(
                "a volume {name} with other data is on the node already: remove it there first"
            )));
        }
        None => {}
    }
    let bytes = wire::get(client, from, &wire::path(DATA, "name", name)).await?;
    let (mut body, _guard) = wire::reader(bytes.into_body());
    let (storage, volume) = (app.storage.clone(), volume(name, &described));
    let contents = described.contents.clone();
    call(move || storage.volumes().receive(&mut body)?.keep(&volume, &contents)).await?;
    publish(&app.engine, "create", name);
    Ok(described.contents)
}

async fn give_up(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let name = params.filled("name").unwrap_or_default().to_owned();
    let digest = params.filled("digest").unwrap_or_default();
    let expected = Contents {
        digest: digest
            .parse()
            .map_err(|_| ApiError::bad_request("digest is missing"))?,
        entries: params.number("entries")?.unwrap_or_default(),
        sockets: 0,
    };
    refuse_used(&app.engine, &name)?;
    Ok(slow::answer(async move {
        let (storage, engine, gone) = (app.storage.clone(), app.engine.clone(), name.clone());
        call(move || {
            let found = storage.volumes().contents(&gone)?;
            if !found.same(&expected) {
                return Err(ApiError::conflict(format!(
                    "volume {gone} has changed since it was copied: {found} instead of {expected}"
                )));
            }
            refuse_used(&engine, &gone)?;
            Ok(storage.volumes().remove(&gone, false, &|_| Vec::new())?)
        })
        .await?;
        publish(&app.engine, "destroy", &name);
        Ok(json!({}))
    }))
}

impl Desk {
    /// The volume that is asked for, if it is lent to the caller.
    fn lent(&self, params: &Params, caller: &Caller) -> ApiResult<String> {
        let name = params.filled("name").unwrap_or_default();
        let loans = self.loans.lock().unwrap_or_else(PoisonError::into_inner);
        match loans.get(name) == Some(&caller.node) {
            true => Ok(name.to_owned()),
            false => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!("volume {name} is not lent to the node"),
            )),
        }
    }
}

/// A volume that something may write to stays. What an ended task has left uses it no more.
fn refuse_used(engine: &Engine, name: &str) -> ApiResult<()> {
    let tasks = engine.tasks();
    let users = engine.volume_users(name).into_iter().filter(|id| {
        let of_task = tasks.iter().any(|(task, _)| task == id);
        let state = engine.watch(id.as_str());
        !of_task || state.is_ok_and(|state| state.borrow().status.is_active())
    });
    let users: Vec<String> = users.map(|id| id.short().to_owned()).collect();
    match users.as_slice() {
        [] => Ok(()),
        users => Err(ApiError::conflict(format!(
            "volume is in use - [{}]: remove the containers that use {name}",
            users.join(", ")
        ))),
    }
}

fn volume(name: &str, described: &Described) -> Volume {
    Volume {
        name: name.to_owned(),
        driver: "local".into(),
        mountpoint: std::path::PathBuf::new(),
        labels: described.labels.clone(),
        options: described.options.clone(),
        created_at: described.created.clone(),
        scope: "local".into(),
        anonymous: false,
    }
}

fn words(params: &Params) -> ApiResult<(String, NodeId)> {
    let word = |key: &str| {
        let value = params.filled(key).map(str::to_owned);
        value.ok_or_else(|| ApiError::bad_request(format!("{key} is missing")))
    };
    Ok((word("name")?, word("node")?.into()))
}

//! `/secrets` and `/configs`: what tasks read. The content of a secret is never given out.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use manager::HeldBy;
use proto::{Config, ConfigSpec, Secret, SecretSpec};
use serde_json::{Value, json};

use super::body;
use super::error::ApiResult;
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::swarm::version;

const FILTERS: &[&str] = &["id", "label", "name", "names"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/secrets", get(list_secrets))
        .route("/secrets/create", post(create_secret))
        .route("/secrets/{id}", get(inspect_secret).delete(remove_secret))
        .route("/secrets/{id}/update", post(update_secret))
        .route("/configs", get(list_configs))
        .route("/configs/create", post(create_config))
        .route("/configs/{id}", get(inspect_config).delete(remove_config))
        .route("/configs/{id}/update", post(update_config))
}

async fn list_secrets(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Secret>>> {
    let filters = params.filters(FILTERS)?;
    let mut secrets = app.control()?.secrets();
    secrets.retain(|secret| {
        wanted(
            &filters,
            secret.id.as_str(),
            &secret.spec.name,
            &secret.spec.labels,
        )
    });
    Ok(Json(secrets))
}

async fn create_secret(
    State(app): State<App>,
    body::Spec(spec): body::Spec<SecretSpec>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let id = app.control()?.create_secret(spec).await?;
    Ok((StatusCode::CREATED, Json(json!({ "ID": id }))))
}

async fn inspect_secret(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Secret>> {
    Ok(Json(app.control()?.secret(&id)?))
}

async fn update_secret(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    body::Spec(spec): body::Spec<SecretSpec>,
) -> ApiResult<()> {
    Ok(app.control()?.update_secret(&id, version(&params)?, spec).await?)
}

async fn remove_secret(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    app.control()?.remove_secret(&id, held_by(&params)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_configs(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Arc<Config>>>> {
    let filters = params.filters(FILTERS)?;
    let mut configs = app.control()?.configs();
    configs.retain(|config| {
        wanted(
            &filters,
            config.id.as_str(),
            &config.spec.name,
            &config.spec.labels,
        )
    });
    Ok(Json(configs))
}

async fn create_config(
    State(app): State<App>,
    body::Spec(spec): body::Spec<ConfigSpec>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let id = app.control()?.create_config(spec).await?;
    Ok((StatusCode::CREATED, Json(json!({ "ID": id }))))
}

async fn inspect_config(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Arc<Config>>> {
    Ok(Json(app.control()?.config(&id)?))
}

async fn update_config(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    body::Spec(spec): body::Spec<ConfigSpec>,
) -> ApiResult<()> {
    Ok(app.control()?.update_config(&id, version(&params)?, spec).await?)
}

async fn remove_config(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    app.control()?.remove_config(&id, held_by(&params)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `unused=1`, which Docker does not have, spares what somebody may still need.
fn held_by(params: &Params) -> HeldBy {
    if params.flag("unused") {
        HeldBy::Anyone
    } else {
        HeldBy::Specs
    }
}

/// `name` matches beginnings, as SwarmKit does; `names` matches whole names (the CLI asks it to resolve references).
fn wanted(filters: &Filters, id: &str, name: &str, labels: &proto::spec::Labels) -> bool {
    filters.prefix("id", id)
        && filters.prefix("name", name)
        && filters.exact("names", name)
        && filters.labels("label", labels)
}

//! `POST /swarm/rebalance`: services are spread over the nodes again. Docker's API has no such thing.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use manager::control::RebalancePlan;

use super::error::ApiResult;
use super::params::Params;
use super::state::App;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new().route("/swarm/rebalance", post(rebalance))
}

/// Answers with what moves; with `dry_run` it only would.
async fn rebalance(State(app): State<App>, params: Params) -> ApiResult<Json<RebalancePlan>> {
    let control = app.control()?;
    let plan = control.rebalance_plan();
    if !params.flag("dry_run") {
        control.rebalance().await?;
    }
    Ok(Json(plan))
}

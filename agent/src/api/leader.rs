//! What is about the cluster is answered by the manager that leads: a middleware before every route.
//!
//! A manager that follows sends such a request on ([`proxy`]). The leader lets the others confirm that it still leads before
//! it reads: an answer is never older than what was acknowledged before the question.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use manager::{Leader, ManagerError};

use super::error::ApiError;
use super::state::App;
use crate::cluster::{ClusterError, Part};
use crate::peer::proxy;
use crate::peer::scope::is_cluster_scoped;

/// How long a request waits while the managers elect a leader.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers the request here, or has it answered by the leader.
pub(super) async fn route(State(app): State<App>, request: Request, next: Next) -> Response {
    let Part::Manager(manager) = app.cluster.part() else {
        return next.run(request).await;
    };
    let is_certain = is_cluster_scoped(request.method(), request.uri().path());
    let leader = match manager.leader() {
        Leader::Unknown if is_certain => tokio::time::timeout(PATIENCE, manager.await_leader()).await,
        known => Ok(known),
    };
    match leader {
        Ok(Leader::This) if is_certain && request.method() == Method::GET => match manager.confirm().await {
            Ok(()) => next.run(request).await,
            Err(_) => no_leader(),
        },
        Ok(Leader::This) => next.run(request).await,
        Ok(Leader::Other(leader)) => {
            // A manager that has just started knows who leads before it has been told where that is.
            let members = app.cluster.peers().members();
            let _ = tokio::time::timeout(PATIENCE, members.joined(&leader)).await;
            match proxy::to_manager(&app, &leader, request).await {
                Ok(answer) => answer,
                Err(own) => next.run(*own).await,
            }
        }
        Ok(Leader::Unknown) if !is_certain => next.run(request).await,
        Ok(Leader::Unknown) | Err(_) => no_leader(),
    }
}

fn no_leader() -> Response {
    ApiError::from(ClusterError::from(ManagerError::NoLeader)).into_response()
}

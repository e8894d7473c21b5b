//! `/services`: what shall run.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use proto::object::{KeptSpec, SpecHistory};
use proto::spec::{PortProtocol, PublishMode, ServiceMode};
use proto::{Service, ServiceSpec};
use serde_json::{Value, json};

use super::body;
use super::error::{ApiError, ApiResult};
use super::filters::Filters;
use super::params::Params;
use super::service_defaults::fill;
use super::service_image::{self, Through};
use super::state::App;
use super::swarm::version;
use crate::engine::names::invent;
use crate::worker::preview;

const FILTERS: &[&str] = &["id", "label", "mode", "name", "runtime"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/services", get(list))
        .route("/services/create", post(create))
        .route("/services/{id}", get(inspect).delete(remove))
        .route("/services/{id}/history", get(history))
        .route("/services/{id}/update", post(update))
}

async fn create(
    State(app): State<App>,
    params: Params,
    through: Through,
    body::Spec(mut spec): body::Spec<ServiceSpec>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let control = app.control()?;
    say_replicas(&mut spec);
    say_name(&mut spec, |name| control.service(name).is_ok());
    control.check_service(&spec)?;
    refuse_unrunnable(&spec)?;
    refuse_taken_ports(&app, &spec, None)?;
    let warnings = service_image::pin(&app, &params, &through, &mut spec).await?;
    let service = control.create_service(spec).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "ID": service.id, "Warnings": warnings })),
    ))
}

/// A service whose creator gave it no name gets an invented one, as a container does.
fn say_name(spec: &mut ServiceSpec, is_taken: impl Fn(&str) -> bool) {
    if spec.name.is_empty() {
        let name = invent(false);
        spec.name = if is_taken(&name) { invent(true) } else { name };
    }
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Service>>> {
    let filters = params.filters(FILTERS)?;
    let control = app.control()?;
    let services = control.services();
    let wanted = services.iter().filter(|service| wanted(&filters, service));
    let with_status = params.flag("status");
    let answer = wanted.map(|service| {
        let status = with_status.then(|| control.service_status(service));
        Service {
            service_status: status,
            history: SpecHistory::default(),
            ..Service::clone(service)
        }
    });
    Ok(Json(answer.collect()))
}

fn wanted(filters: &Filters, service: &Service) -> bool {
    filters.prefix("id", service.id.as_str())
        && filters.prefix("name", &service.spec.name)
        && filters.labels("label", &service.spec.labels)
        && filters.exact("mode", mode(service))
        && filters.exact("runtime", "container")
}

fn mode(service: &Service) -> &'static str {
    let mode = &service.spec.mode;
    match (mode.is_job(), mode.is_global()) {
        (true, _) if mode.global_job.is_some() => "global-job",
        (true, _) => "replicated-job",
        (false, true) => "global",
        (false, false) => "replicated",
    }
}

async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Json<Arc<Service>>> {
    let mut service = app.control()?.service(&id)?;
    let shown = Arc::make_mut(&mut service);
    shown.history = SpecHistory::default();
    if params.flag("insertDefaults") {
        fill(&mut shown.spec);
    }
    Ok(Json(service))
}

/// Every version that is kept: ours, Docker's API knows only the one before.
async fn history(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Vec<Value>>> {
    let (present, kept) = app.control()?.service_history(&id)?;
    let version = |kept: &KeptSpec| {
        json!({
            "Version": kept.number,
            "Current": kept.number == present,
            "UpdatedAt": kept.since,
            "Spec": kept.spec,
        })
    };
    Ok(Json(kept.iter().map(version).collect()))
}

async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    through: Through,
    body::Spec(mut spec): body::Spec<ServiceSpec>,
) -> ApiResult<Json<Value>> {
    let control = app.control()?;
    say_replicas(&mut spec);
    let mut warnings = None;
    let version = version(&params)?;
    let number: Option<u64> = params.number("rollbackTo")?;
    match (params.filled("rollback"), number) {
        (None, Some(number)) => drop(control.rollback_service_to(&id, version, number).await?),
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "rollback and rollbackTo exclude each other",
            ));
        }
        (Some("previous"), None) => drop(control.rollback_service(&id, version).await?),
        (Some(other), None) => {
            return Err(ApiError::bad_request(format!(
                "unrecognized rollback option {other:?}"
            )));
        }
        (None, None) => {
            let current = control.service(&id)?;
            control.check_service(&spec)?;
            refuse_unrunnable(&spec)?;
            refuse_taken_ports(&app, &spec, Some(&current))?;
            warnings = service_image::pin(&app, &params, &through, &mut spec).await?;
            // Beyond Docker: a spec that is the service's own, once its image is resolved, begins no update.
            if params.flag("ifChanged") && spec == current.spec {
                return Ok(Json(json!({ "Warnings": warnings, "Unchanged": true })));
            }
            control.update_service(&id, version, spec).await?;
        }
    }
    Ok(Json(json!({ "Warnings": warnings })))
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> ApiResult<()> {
    Ok(app.control()?.remove_service(&id).await?)
}

/// Clients that watch a service come up count up to a number: one that was not given is written down as what it means.
fn say_replicas(spec: &mut ServiceSpec) {
    if let Some(replicas) = spec.mode.replicas() {
        spec.mode = ServiceMode::replicated(replicas);
    }
}

/// What every node would refuse is refused here, with the field's name, before there are tasks to reject.
fn refuse_unrunnable(spec: &ServiceSpec) -> ApiResult<()> {
    preview::check(spec).map_err(|error| ApiError::from_chain(StatusCode::BAD_REQUEST, &error))
}

/// A port that something else on this node holds would never answer: better refused now than puzzled over later.
fn refuse_taken_ports(app: &App, spec: &ServiceSpec, current: Option<&Service>) -> ApiResult<()> {
    let ports = spec.endpoint_spec.iter().flat_map(|endpoint| &endpoint.ports);
    for port in ports.filter(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0) {
        let protocol = match port.protocol {
            PortProtocol::Tcp => netd::Protocol::Tcp,
            PortProtocol::Udp => netd::Protocol::Udp,
            PortProtocol::Sctp => {
                return Err(ApiError::bad_request("publishing SCTP ports is not built yet"));
            }
        };
        let mut ours = current.iter().flat_map(|service| &service.endpoint.ports);
        if ours.any(|own| own.published_port == port.published_port && own.protocol == port.protocol) {
            continue;
        }
        if let Some(holder) = app.netd.publish_conflict(port.published_port, protocol) {
            return Err(ApiError::conflict(format!(
                "port {}/{} is already in use by {holder}: stop that, or publish another port",
                port.published_port, port.protocol
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_always_said() {
        let mut spec: ServiceSpec = serde_json::from_str(r#"{"Mode":{"Replicated":{}}}"#).unwrap();
        say_replicas(&mut spec);
        assert_eq!(spec.mode, ServiceMode::replicated(1));
        spec.mode = ServiceMode::global();
        say_replicas(&mut spec);
        assert_eq!(spec.mode, ServiceMode::global());
    }

    #[test]
    fn a_service_without_a_name_gets_one_that_is_free() {
        let mut spec = ServiceSpec::default();
        say_name(&mut spec, |_| false);
        assert!(!spec.name.is_empty() && !spec.name.ends_with(|last: char| last.is_ascii_digit()));
        let mut spec = ServiceSpec::default();
        say_name(&mut spec, |_| true);
        assert!(
            spec.name.ends_with(|last: char| last.is_ascii_digit()),
            "{}",
            spec.name
        );
        spec.name = "web".into();
        say_name(&mut spec, |_| true);
        assert_eq!(spec.name, "web");
    }
}

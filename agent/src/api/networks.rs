//! `/networks`: the node's own (bridge, host, none, and what users made here) and the cluster's, in one list.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use proto::NetworkSpec;
use proto::spec::{IpamConfig, IpamOptions, NetworkDriver};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::body;
use super::error::{ApiError, ApiResult};
use super::filters::Filters;
use super::network_peers::services;
use super::network_view::{Found, Networks, Scope};
use super::params::Params;
use super::state::App;
use super::types::network_settings::EndpointSettings;
use crate::cluster::Part;
use crate::local_network::{self, LocalNetwork};

const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(connect))
        .route("/networks/{id}/disconnect", post(disconnect))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: String,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<Value>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    options: BTreeMap<String, String>,
    config: Vec<Pool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Pool {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    aux_address: BTreeMap<String, String>,
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Value>>> {
    let filters = params.filters(LIST_FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let mut all = Networks::of(&app).all();
    all.retain(|network| {
        wanted(&filters, network)
            && dangling.is_none_or(|wanted| {
                wanted == (!network.builtin && app.engine.network_users(&network.id).is_empty())
            })
    });
    Ok(Json(
        all.iter().map(|network| network.json(&app, false)).collect(),
    ))
}

fn wanted(filters: &Filters, network: &Found) -> bool {
    let kind = if network.builtin { "builtin" } else { "custom" };
    filters.substring("name", &network.name)
        && filters.prefix("id", &network.id)
        && filters.exact("driver", &network.driver)
        && filters.exact("scope", network.scope.as_str())
        && filters.exact("type", kind)
        && filters.labels("label", &network.labels)
}

async fn inspect(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<Json<Value>> {
    let network = Networks::of(&app).find(&id, params.filled("scope"))?;
    let mut shown = network.json(&app, true);
    if params.flag("verbose") && network.scope == Scope::Swarm {
        shown["Services"] = Value::Object(services(&app, &network.id));
    }
    Ok(Json(shown))
}

async fn create(
    State(app): State<App>,
    body::Json(body): body::Json<CreateBody>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    refuse(&body)?;
    let networks = Networks::of(&app);
    if networks.all().iter().any(|network| network.name == body.name) {
        return Err(ApiError::conflict(format!(
            "network with name {} already exists",
            body.name
        )));
    }
    let id = match (body.driver.as_str(), body.scope.as_str()) {
        ("overlay", _) | (_, "swarm") => {
            let spec = swarm_spec(body);
            app.control()?.create_network(spec).await?.id.to_string()
        }
        ("" | "bridge", "" | "local") => create_local(&app, body).await?,
        (driver, _) => {
            return Err(ApiError::bad_request(format!(
                "network driver {driver:?} is not supported: use \"bridge\" or, in a swarm, \"overlay\""
            )));
        }
    };
    Ok((StatusCode::CREATED, Json(json!({ "Id": id, "Warning": "" }))))
}

fn refuse(body: &CreateBody) -> ApiResult<()> {
    let no = |what: &str| Err(ApiError::bad_request(format!("{what} is not supported")));
    if body.name.is_empty() {
        return Err(ApiError::bad_request("network name cannot be empty"));
    }
    if ["bridge", "host", "none", "default"].contains(&body.name.as_str()) {
        let message = format!("operation is not permitted on predefined {} network", body.name);
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    if body.enable_ipv4 == Some(false) {
        return Err(ApiError::bad_request(
            "a network without IPv4 (--ipv4=false) is not supported: IPv6 addresses of containers and services stand beside \
             those of IPv4",
        ));
    }
    let from = body
        .config_from
        .as_ref()
        .and_then(|from| from.get("Network"))
        .and_then(Value::as_str);
    if body.config_only || from.is_some_and(|name| !name.is_empty()) {
        return no("a configuration-only network");
    }
    let Some(ipam) = &body.ipam else { return Ok(()) };
    if !matches!(ipam.driver.as_str(), "" | "default") || !ipam.options.is_empty() {
        return no("an address driver other than \"default\" (--ipam-driver, --ipam-opt)");
    }
    let (v6, v4): (Vec<_>, Vec<_>) = ipam.config.iter().partition(|pool| pool.is_ipv6());
    if v4.len() > 1 || v6.len() > 1 {
        return no("more than one subnet of an IP version");
    }
    if !v6.is_empty() && body.enable_ipv6 != Some(true) {
        return Err(ApiError::bad_request(
            "an IPv6 subnet needs IPv6 enabled for the network (--ipv6)",
        ));
    }
    match ipam.config.iter().any(|pool| !pool.aux_address.is_empty()) {
        true => no("reserving addresses (--aux-address)"),
        false => Ok(()),
    }
}

impl Pool {
    fn is_ipv6(&self) -> bool {
        self.subnet.contains(':')
    }
}

fn swarm_spec(body: CreateBody) -> NetworkSpec {
    let pools = body
        .ipam
        .unwrap_or_default()
        .config
        .into_iter()
        .map(|pool| IpamConfig {
            subnet: pool.subnet,
            ip_range: pool.ip_range,
            gateway: pool.gateway,
        });
    let pools: Vec<_> = pools.collect();
    let driver = if body.driver.is_empty() {
        "overlay".to_owned()
    } else {
        body.driver
    };
    NetworkSpec {
        name: body.name,
        labels: body.labels,
        driver_configuration: Some(NetworkDriver {
            name: driver,
            options: body.options,
        }),
        internal: body.internal,
        attachable: body.attachable,
        ingress: body.ingress,
        ipv6_enabled: body.enable_ipv6 == Some(true),
        ipam_options: (!pools.is_empty()).then_some(IpamOptions {
            driver: None,
            configs: pools,
        }),
        ..NetworkSpec::default()
    }
}

async fn create_local(app: &App, body: CreateBody) -> ApiResult<String> {
    if body.ingress {
        return Err(ApiError::bad_request(
            "an ingress network must have the driver \"overlay\"",
        ));
    }
    let pools = body.ipam.unwrap_or_default().config.into_iter();
    let (v6, v4): (Vec<_>, Vec<_>) = pools.partition(Pool::is_ipv6);
    let pool = v4.into_iter().next().unwrap_or_default();
    let pool6 = v6.into_iter().next().unwrap_or_default();
    let network = LocalNetwork {
        name: body.name,
        subnet: pool.subnet,
        gateway: pool.gateway,
        range: pool.ip_range,
        ipv6: body.enable_ipv6 == Some(true),
        subnet6: pool6.subnet,
        gateway6: pool6.gateway,
        range6: pool6.ip_range,
        internal: body.internal,
        attachable: body.attachable,
        options: body.options,
        labels: body.labels,
    };
    let config = network.config().map_err(ApiError::bad_request)?;
    app.netd.ensure_network(&config).await?;
    publish(app, "create", &config.id, &config.name);
    Ok(config.id)
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let network = Networks::of(&app).find(&id, None)?;
    // That of published ports may be replaced by another, as Docker's.
    if network.builtin && !network.ingress {
        let message = format!("{} is a pre-defined network and cannot be removed", network.name);
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    match network.scope {
        Scope::Swarm => app.control()?.remove_network(&network.id).await?,
        Scope::Local => remove_local(&app, &network).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_local(app: &App, network: &Found) -> ApiResult<()> {
    app.netd.remove_network(&network.id).await.map_err(|error| match error {
        netd::Error::NetworkInUse { endpoints, .. } => ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "error while removing network: network {} has active endpoints ({}): stop or disconnect them first",
                network.name,
                endpoints.join(", ")
            ),
        ),
        other => other.into(),
    })?;
    publish(app, "destroy", &network.id, &network.name);
    Ok(())
}

async fn prune(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(PRUNE_FILTERS)?;
    let until = filters
        .values("until")
        .next()
        .map(super::time::moment)
        .transpose()?;
    let mut pruned = Vec::new();
    for network in Networks::of(&app).all() {
        let old = until.is_none_or(|limit| local_network::moment(&network.created) < limit);
        let unused = network.scope == Scope::Local
            && !network.builtin
            && app.engine.network_users(&network.id).is_empty()
            && app.netd.endpoints(&network.id).is_empty();
        let selected = filters.labels("label", &network.labels) && filters.excluded_labels(&network.labels);
        if old && unused && selected {
            remove_local(&app, &network).await?;
            pruned.push(network.name);
        }
    }
    Ok(Json(json!({ "NetworksDeleted": pruned })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConnectBody {
    container: String,
    endpoint_config: Option<EndpointSettings>,
}

async fn connect(
    State(app): State<App>,
    Path(id): Path<String>,
    body::Json(body): body::Json<ConnectBody>,
) -> ApiResult<()> {
    let network = reference(&app, id)?;
    let endpoint = body.endpoint_config.unwrap_or_default();
    app.engine
        .connect_network(&body.container, &network, endpoint)
        .await?;
    Ok(())
}

/// How the engine finds the network. A worker knows those of the cluster only while something of its own is on them: then it
/// is the managers that are asked.
fn reference(app: &App, id: String) -> ApiResult<String> {
    match Networks::of(app).find(&id, None) {
        Ok(found) => Ok(match found.scope {
            Scope::Swarm => found.name,
            Scope::Local => found.id,
        }),
        Err(error) if error.status == StatusCode::NOT_FOUND => match app.cluster.part() {
            Part::Worker(_) => Ok(id),
            Part::None | Part::Manager(_) | Part::Locked => Err(error),
        },
        Err(error) => Err(error),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DisconnectBody {
    container: String,
    force: bool,
}

async fn disconnect(
    State(app): State<App>,
    Path(id): Path<String>,
    body::Json(body): body::Json<DisconnectBody>,
) -> ApiResult<()> {
    let network = reference(&app, id)?;
    app.engine
        .disconnect_network(&body.container, &network, body.force)
        .await?;
    Ok(())
}

fn publish(app: &App, action: &str, id: &str, name: &str) {
    let attributes = [("name", name), ("type", "bridge")];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    app.engine
        .publish_event("local", "network", action, id, attributes.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::lenient;

    fn body(json: &str) -> CreateBody {
        lenient::from_slice(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_the_cli_sends_is_accepted() {
        let sent = r#"{"Name":"n","Driver":"overlay","Scope":"","EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default",
            "Options":{},"Config":[]},"Internal":false,"Attachable":true,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,
            "Options":{},"Labels":null}"#;
        refuse(&body(sent)).unwrap();
        let spec = swarm_spec(body(sent));
        assert!(spec.attachable && spec.ipam_options.is_none());
        assert_eq!(spec.driver_configuration.unwrap().name, "overlay");
    }

    #[test]
    fn a_network_may_have_both_ip_versions() {
        let sent = r#"{"Name":"n","Driver":"overlay","EnableIPv6":true,
            "IPAM":{"Config":[{"Subnet":"10.0.0.0/24"},{"Subnet":"fd00:1::/64"}]}}"#;
        refuse(&body(sent)).unwrap();
        let spec = swarm_spec(body(sent));
        assert!(spec.ipv6_enabled);
        assert_eq!(spec.ipam_options.unwrap().configs.len(), 2);
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for sent in [
            r#"{"Name":"bridge"}"#,
            r#"{"Name":""}"#,
            r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"fd00:1::/64"}]}}"#,
            r#"{"Name":"n","ConfigOnly":true}"#,
            r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/24"},{"Subnet":"10.1.0.0/24"}]}}"#,
        ] {
            assert!(refuse(&body(sent)).is_err(), "{sent}");
        }
    }
}

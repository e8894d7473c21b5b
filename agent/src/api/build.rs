//! `POST /build`: the classic builder. The context is the request's body; progress is a stream of `{"stream"}` lines.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use builder::{BuildEvent, BuildRequest};
use serde_json::json;
use storage::Reference;

use super::blocking::BodyReader;
use super::error::{ApiError, ApiResult};
use super::images::publish;
use super::params::Params;
use super::progress::{self, Progress};
use super::state::App;

/// Parameters that would change the result and are not built; empty and default values are harmless.
const REFUSED: &[(&str, &str)] = &[
    ("remote", "building from a remote context"),
    ("squash", "--squash"),
    ("outputs", "--output"),
    ("secrets", "--secret"),
    ("extrahosts", "--add-host"),
    ("pull", "--pull (there is no registry to ask)"),
    ("cachefrom", "--cache-from"),
    ("securityopt", "--security-opt"),
];

/// Limits of the containers in which RUN runs. RUN itself is refused, so that none of them has anything to act on; they
/// are refused all the same, lest they be thought to hold.
const OF_RUN: &[(&str, &str)] = &[
    ("memory", "--memory"),
    ("memswap", "--memory-swap"),
    ("cpushares", "--cpu-shares"),
    ("cpuquota", "--cpu-quota"),
    ("cpuperiod", "--cpu-period"),
    ("cpusetcpus", "--cpuset-cpus"),
    ("cpusetmems", "--cpuset-mems"),
    ("cgroupparent", "--cgroup-parent"),
    ("shmsize", "--shm-size"),
    ("ulimits", "--ulimit"),
    ("isolation", "--isolation"),
];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new().route("/build", post(build))
}

async fn build(State(app): State<App>, params: Params, body: Body) -> ApiResult<Response> {
    let mut context = BodyReader::new(body);
    refuse(&params)?;
    let tags = params.all("t").filter(|tag| !tag.is_empty());
    let tags = tags
        .map(|tag| Ok(tag.parse::<Reference>()?.tagged()))
        .collect::<ApiResult<Vec<_>>>()?;
    let build_args: BTreeMap<String, Option<String>> = params.json("buildargs")?.unwrap_or_default();
    let labels: BTreeMap<String, String> = params.json("labels")?.unwrap_or_default();
    let dockerfile = params.filled("dockerfile").unwrap_or("Dockerfile").to_owned();
    let target = params.filled("target").map(str::to_owned);
    let (no_cache, quiet) = (params.flag("nocache"), params.flag("q"));
    Ok(progress::blocking(move |progress| {
        let request = BuildRequest {
            context: &mut context,
            dockerfile,
            tags: tags.clone(),
            build_args,
            labels,
            target,
            no_cache,
        };
        let id =
            builder::build(&app.storage, request, &mut |event| tell(progress, &event, quiet))?.to_string();
        if quiet {
            progress.stream_blocking(format!("{id}\n"));
        }
        for tag in &tags {
            publish(&app.engine, "tag", &id, &tag.familiar());
        }
        Ok(())
    })
    .await)
}

fn refuse(params: &Params) -> ApiResult<()> {
    if params.text("version") == Some("2") {
        return Err(ApiError::not_implemented(
            "BuildKit is not built yet; unset DOCKER_BUILDKIT to use the classic builder",
        ));
    }
    for (key, name) in REFUSED.iter().chain(OF_RUN) {
        match params.filled(key) {
            None | Some("0" | "false" | "[]" | "{}" | "null" | "client-session") => {}
            Some(_) => return Err(ApiError::not_implemented(format!("{name} is not built yet"))),
        }
    }
    match params.filled("networkmode") {
        None | Some("default" | "none" | "bridge") => {}
        Some(_) => return Err(ApiError::not_implemented("--network is not built yet")),
    }
    match params.filled("platform") {
        None => Ok(()),
        Some(platform) if is_ours(platform) => Ok(()),
        Some(platform) => Err(ApiError::bad_request(format!(
            "platform {platform:?}: only linux/{} can be built here",
            arch()
        ))),
    }
}

fn is_ours(platform: &str) -> bool {
    let platform = platform.to_ascii_lowercase();
    platform == "linux" || platform == arch() || platform == format!("linux/{}", arch())
}

fn arch() -> &'static str {
    crate::host::go_architecture()
}

fn tell(progress: &Progress, event: &BuildEvent, quiet: bool) {
    match event {
        BuildEvent::Stream(_) if quiet => {}
        BuildEvent::Stream(text) => drop(progress.stream_blocking(text.clone())),
        BuildEvent::Image(id) => drop(progress.send_blocking(json!({ "aux": { "ID": id.to_string() } }))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let defaults = Params::from(
            &[
                ("remote", ""),
                ("squash", "0"),
                ("version", "1"),
                ("platform", ""),
                ("networkmode", "default"),
                ("memory", "0"),
                ("ulimits", "null"),
                ("cachefrom", "[]"),
            ][..],
        );
        refuse(&defaults).unwrap();
        let squash = refuse(&Params::from(&[("squash", "1")][..])).unwrap_err();
        assert_eq!(squash.message, "--squash is not built yet");
        for (key, value) in [
            ("version", "2"),
            ("pull", "1"),
            ("memory", "1000"),
            ("networkmode", "host"),
        ] {
            assert!(refuse(&Params::from(&[(key, value)][..])).is_err(), "{key}");
        }
        assert!(refuse(&Params::from(&[("platform", "windows/amd64")][..])).is_err());
    }
}

//! `/info` and `/system/df`: the whole node at a glance.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::blocking::call;
use super::error::{ApiError, ApiResult};
use super::image_json;
use super::info_swarm;
use super::state::App;
use super::system::PRODUCT_VERSION;
use super::volumes::volume_json;
use crate::engine::ListOptions;
use crate::host::filesystem;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/info", get(info))
        .route("/system/df", get(disk_usage))
}

async fn info(State(app): State<App>) -> ApiResult<Json<Value>> {
    let storage = app.storage.clone();
    let images = call(move || storage.images().list()).await?.len();
    let mut info = host(&app);
    let parts = [
        counts(&app, images),
        drivers(&app),
        switches(&app),
        info_swarm::block(&app),
    ];
    for part in parts {
        if let (Value::Object(all), Value::Object(part)) = (&mut info, part) {
            all.extend(part);
        }
    }
    Ok(Json(info))
}

fn host(app: &App) -> Value {
    let host = &app.host;
    let balancing = app.netd.balancing();
    json!({
        "ID": app.node_key(),
        "Name": host.hostname,
        "ServerVersion": PRODUCT_VERSION,
        "SystemTime": OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": host.machine,
        "NCPU": host.cpus,
        "MemTotal": host.memory,
        "DockerRootDir": app.root,
        "CgroupVersion": host.cgroup_version,
        "CgroupDriver": "cgroupfs",
        "Balancer": { "Kind": balancing.kind.to_string(), "Reason": balancing.reason },
        "Warnings": app.netd.warnings(),
    })
}

fn counts(app: &App, images: usize) -> Value {
    let engine = app.engine.info();
    json!({
        "Containers": engine.containers,
        "ContainersRunning": engine.running,
        "ContainersPaused": engine.paused,
        "ContainersStopped": engine.stopped,
        "Images": images,
        "NFd": open_files(),
        "NGoroutines": 0,
        "NEventsListener": 0,
    })
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn drivers(app: &App) -> Value {
    json!({
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", filesystem(&app.root)]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null", "overlay"],
            "Authorization": null,
            "Log": ["json-file", "none"],
        },
        "LoggingDriver": "json-file",
        "DefaultRuntime": crate::engine::check::RUNTIME,
        "Runtimes": { crate::engine::check::RUNTIME: { "path": app.engine.config().runtime_bin } },
        "RuntimeCommit": { "ID": PRODUCT_VERSION, "Expected": PRODUCT_VERSION },
        "ContainerdCommit": { "ID": "", "Expected": "" },
        "InitCommit": { "ID": "", "Expected": "" },
        "InitBinary": "",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": null,
            "AllowNondistributableArtifactsHostnames": null,
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {},
            "Mirrors": null,
        },
        "IndexServerAddress": "",
        "GenericResources": Some(app.cluster.generic_resources()).filter(|things| !things.is_empty()),
        "Labels": [],
        "DefaultAddressPools": null,
        "CDISpecDirs": [],
    })
}

/// What the kernel offers and the engine uses; the CLI warns about each that is false.
fn switches(app: &App) -> Value {
    json!({
        "MemoryLimit": true, "SwapLimit": true, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
        "CPUSet": true, "PidsLimit": true, "OomKillDisable": false, "IPv4Forwarding": app.netd.forwards(),
        "BridgeNfIptables": true, "BridgeNfIp6tables": true, "Debug": false, "ExperimentalBuild": false,
        "LiveRestoreEnabled": true, "Isolation": "", "ProductLicense": "", "HttpProxy": "", "HttpsProxy": "",
        "NoProxy": "",
    })
}

async fn disk_usage(State(app): State<App>) -> ApiResult<Json<Value>> {
    let options = ListOptions {
        all: true,
        size: true,
        ..ListOptions::default()
    };
    let containers = app.engine.list(&options).await?;
    let (storage, engine) = (app.storage.clone(), app.engine.clone());
    let (images, volumes) = call(move || {
        let images = storage.images().list()?;
        let sized = |volume: storage::Volume| {
            let size = storage.volumes().usage(&volume.name)?;
            let users = engine.volume_users(&volume.name).len();
            let mut json = volume_json(&volume);
            json["UsageData"] = json!({ "Size": size, "RefCount": users });
            Ok::<_, storage::Error>(json)
        };
        let volumes = storage
            .volumes()
            .list()?
            .into_iter()
            .map(sized)
            .collect::<Result<Vec<_>, _>>()?;
        Ok::<_, ApiError>((images, volumes))
    })
    .await?;
    let used = |id: &str| {
        containers
            .iter()
            .filter(|container| container.image_id == id)
            .count()
    };
    let rows = images.iter().map(|image| {
        let mut row = image_json::summary(image, false);
        row["SharedSize"] = json!(0);
        row["Containers"] = json!(used(&image.id.to_string()));
        row
    });
    let rows: Vec<Value> = rows.collect();
    Ok(Json(json!({
        "LayersSize": images.iter().map(|image| image.size).sum::<u64>(),
        "Images": rows,
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": [],
    })))
}

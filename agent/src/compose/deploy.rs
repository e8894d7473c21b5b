//! `deploy`: how many, where, and how they change.

use proto::spec::{
    DiscreteResource, EndpointMode, GenericResource, Labels, Limits, Placement, Reservations,
    ResourceRequirements, RestartPolicy, ServiceMode, UpdateConfig,
};
use proto::spec::{Empty, JobMode};
use proto::upkeep::{PROGRESS_DEADLINE, RESTART_MAX_DELAY};

use super::error::ComposeError;
use super::placement::placement;
use super::reader::At;
use super::upkeep;

/// What `deploy` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deploy {
    pub(crate) mode: ServiceMode,
    pub(crate) endpoint_mode: EndpointMode,
    pub(crate) labels: Labels,
    pub(crate) placement: Option<Placement>,
    pub(crate) resources: ResourceRequirements,
    pub(crate) restart_policy: Option<RestartPolicy>,
    pub(crate) update: Option<UpdateConfig>,
    pub(crate) rollback: Option<UpdateConfig>,
}

/// Reads `deploy`. `scale` is the service's own word for the number of replicas.
pub(crate) fn deploy(at: Option<&At<'_>>, scale: Option<u64>) -> Result<Deploy, ComposeError> {
    let Some(at) = at else {
        return Ok(Deploy {
            mode: ServiceMode::replicated(scale.unwrap_or(1)),
            ..Deploy::default()
        });
    };
    let mut object = at.object()?;
    let mode = object
        .read("mode", At::text)?
        .unwrap_or_else(|| "replicated".to_owned());
    let replicas = object.read("replicas", At::unsigned)?;
    if replicas.is_some() && scale.is_some() && replicas != scale {
        return Err(at.wrong("replicas and the service's scale say different numbers: leave scale out"));
    }
    let replicas = replicas.or(scale);
    let mut labels = object.or_default("labels", At::labels)?;
    upkeep::deploy(&mut object, &mut labels)?;
    let placement = object.read("placement", |at| placement(at, &mut labels))?;
    let read = Deploy {
        mode: service_mode(at, &mode, replicas)?,
        endpoint_mode: object.or_default("endpoint_mode", At::word)?,
        placement,
        resources: object.or_default("resources", resources)?,
        restart_policy: object.read("restart_policy", |at| restart_policy(at, &mut labels))?,
        update: object.read("update_config", |at| update_config(at, Some(&mut labels)))?,
        rollback: object.read("rollback_config", |at| update_config(at, None))?,
        labels,
    };
    object.finish()?;
    Ok(read)
}

fn service_mode(at: &At<'_>, mode: &str, replicas: Option<u64>) -> Result<ServiceMode, ComposeError> {
    match (mode, replicas) {
        ("replicated", replicas) => Ok(ServiceMode::replicated(replicas.unwrap_or(1))),
        ("global", None) => Ok(ServiceMode::global()),
        ("global-job", None) => Ok(ServiceMode {
            global_job: Some(Empty {}),
            ..ServiceMode::default()
        }),
        ("replicated-job", replicas) => {
            let count = Some(replicas.unwrap_or(1));
            let job = JobMode {
                max_concurrent: count,
                total_completions: count,
            };
            Ok(ServiceMode {
                replicated_job: Some(job),
                ..ServiceMode::default()
            })
        }
        ("global" | "global-job", Some(_)) => {
            Err(at.wrong(format!("replicas and mode {mode} exclude each other")))
        }
        _ => Err(at.wrong(format!(
            "mode {mode:?} is none of replicated, global, replicated-job, global-job"
        ))),
    }
}

fn resources(at: &At<'_>) -> Result<ResourceRequirements, ComposeError> {
    let mut object = at.object()?;
    let requirements = ResourceRequirements {
        limits: object.read("limits", limits)?,
        reservations: object.read("reservations", reservations)?,
    };
    object.finish()?;
    Ok(requirements)
}

fn limits(at: &At<'_>) -> Result<Limits, ComposeError> {
    let mut object = at.object()?;
    let limits = Limits {
        nano_cpus: object.or_default("cpus", At::nano_cpus)?,
        memory_bytes: object.or_default("memory", At::bytes)?,
        // -1 is no limit, as 0.
        pids: object.or_default("pids", At::integer)?.max(0),
    };
    object.finish()?;
    Ok(limits)
}

fn reservations(at: &At<'_>) -> Result<Reservations, ComposeError> {
    let mut object = at.object()?;
    let reservations = Reservations {
        nano_cpus: object.or_default("cpus", At::nano_cpus)?,
        memory_bytes: object.or_default("memory", At::bytes)?,
        generic_resources: object.or_default("generic_resources", |at| {
            at.list()?.iter().map(generic_resource).collect()
        })?,
    };
    object.ignore(&["devices"]);
    object.finish()?;
    Ok(reservations)
}

fn generic_resource(at: &At<'_>) -> Result<GenericResource, ComposeError> {
    let mut object = at.object()?;
    let discrete = object.required("discrete_resource_spec", |at| {
        let mut object = at.object()?;
        let discrete = DiscreteResource {
            kind: object.required("kind", At::text)?,
            value: object.required("value", At::integer)?,
        };
        object.finish()?;
        Ok(discrete)
    })?;
    object.finish()?;
    Ok(GenericResource {
        named_resource_spec: None,
        discrete_resource_spec: Some(discrete),
    })
}

fn restart_policy(at: &At<'_>, labels: &mut Labels) -> Result<RestartPolicy, ComposeError> {
    let mut object = at.object()?;
    upkeep::take(&mut object, "max_delay", RESTART_MAX_DELAY, labels)?;
    let policy = RestartPolicy {
        condition: object.or_default("condition", At::word)?,
        delay: object.read("delay", At::duration)?,
        max_attempts: object.read("max_attempts", At::unsigned)?,
        window: object.read("window", At::duration)?,
    };
    object.finish()?;
    Ok(policy)
}

/// `labels` of updates: the progress deadline of an update is that of its rollback too.
fn update_config(at: &At<'_>, labels: Option<&mut Labels>) -> Result<UpdateConfig, ComposeError> {
    let standard = UpdateConfig::default();
    let mut object = at.object()?;
    if let Some(labels) = labels {
        upkeep::take(&mut object, "progress_deadline", PROGRESS_DEADLINE, labels)?;
    }
    let config = UpdateConfig {
        parallelism: object
            .read("parallelism", At::unsigned)?
            .unwrap_or(standard.parallelism),
        delay: object.or_default("delay", At::duration)?,
        failure_action: object.or_default("failure_action", At::word)?,
        monitor: object.read("monitor", At::duration)?.unwrap_or(standard.monitor),
        max_failure_ratio: object.or_default("max_failure_ratio", At::ratio)?,
        order: object.or_default("order", At::word)?,
    };
    object.finish()?;
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return Err(at.wrong("max_failure_ratio must be from 0 to 1"));
    }
    Ok(config)
}

//! What a service does where its spec says nothing (`insertDefaults=true`): SwarmKit's `api/defaults/service.go`.

use proto::ServiceSpec;
use proto::spec::{DnsConfig, EndpointSpec, Placement, ResourceRequirements, RestartPolicy, UpdateConfig};

/// Nanoseconds per second, the unit of periods in specs.
const SECOND: i64 = 1_000_000_000;

/// Writes the defaults into `spec`.
pub fn fill(spec: &mut ServiceSpec) {
    let task = &mut spec.task_template;
    if let Some(container) = &mut task.container_spec {
        container.stop_grace_period.get_or_insert(10 * SECOND);
        container.dns_config.get_or_insert_with(DnsConfig::default);
        if container.isolation.is_empty() {
            container.isolation = "default".into();
        }
    }
    task.resources.get_or_insert_with(ResourceRequirements::default);
    task.placement.get_or_insert_with(Placement::default);
    let restart = task.restart_policy.get_or_insert_with(RestartPolicy::default);
    restart.delay.get_or_insert(5 * SECOND);
    restart.max_attempts.get_or_insert(0);
    restart.window.get_or_insert(0);
    if task.runtime.is_empty() {
        task.runtime = "container".into();
    }
    if !spec.mode.is_job() {
        spec.update_config.get_or_insert_with(UpdateConfig::default);
        spec.rollback_config.get_or_insert_with(UpdateConfig::default);
    }
    spec.endpoint_spec.get_or_insert_with(EndpointSpec::default);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::ContainerSpec;

    #[test]
    fn what_is_said_stays() {
        let mut spec = ServiceSpec::default();
        spec.task_template.container_spec = Some(ContainerSpec {
            stop_grace_period: Some(SECOND),
            ..ContainerSpec::default()
        });
        fill(&mut spec);
        assert_eq!(
            spec.task_template
                .container_spec
                .as_ref()
                .unwrap()
                .stop_grace_period,
            Some(SECOND)
        );
        assert_eq!(
            spec.task_template.restart_policy.as_ref().unwrap().delay,
            Some(5 * SECOND)
        );
        assert_eq!(spec.update_config.as_ref().unwrap().parallelism, 1);
    }
}

//! Services: create, update, roll back, remove.

use std::sync::Arc;

use proto::object::{JobStatus, KeptSpec, ServiceStatus, UpdateState, UpdateStatus};
use proto::spec::{Privileges, PublishMode};
use proto::{Network, Service, ServiceId, ServiceSpec, Task, TaskState, Timestamp};

use super::{Control, ControlError, Result, fencing, lookup, validate};
use crate::history::{self, change_spec};
use crate::state::{Key, Kind, Reader, WriteTx};

impl Control {
    /// Makes a service. Networks that the spec names are stored by identifier.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`], [`ControlError::NameConflict`], [`ControlError::NotFound`] (a network, secret or
    /// config that the spec names).
    pub async fn create_service(&self, spec: ServiceSpec) -> Result<Arc<Service>> {
        validate::service(&spec)?;
        let id = ServiceId::random();
        self.store
            .update(|tx| {
                let spec = checked(tx, None, spec)?;
                let job_status = spec.mode.is_job().then(|| JobStatus {
                    job_iteration: proto::Version::default(),
                    last_execution: Timestamp::now(),
                });
                let service = Service {
                    id: id.clone(),
                    spec,
                    job_status,
                    spec_version: Some(proto::Version::default()),
                    ..Service::default()
                };
                Ok::<_, ControlError>(tx.create(service)?)
            })
            .await?;
        self.service(id.as_str())
    }

    /// Whether a spec is sound in itself: the rules that [`Self::create_service`] and [`Self::update_service`] begin with.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`].
    pub fn check_service(&self, spec: &ServiceSpec) -> Result<()> {
        validate::service(spec)
    }

    /// The service by identifier, name or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn service(&self, reference: &str) -> Result<Arc<Service>> {
        self.store.view(|tx| lookup::object(&tx, reference))
    }

    /// Every service.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.store.view(|tx| tx.all())
    }

    /// Gives a service a new spec; the old one is kept for a rollback. `version` is the version that the user read.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`] (also for a new name or mode) and those of
    /// [`Self::service`].
    pub async fn update_service(
        &self,
        reference: &str,
        version: u64,
        spec: ServiceSpec,
    ) -> Result<Arc<Service>> {
        validate::service(&spec)?;
        self.change_service(reference, version, |tx, service| {
            refuse_changes(&service.spec, &spec)?;
            let spec = checked(tx, Some(&service.id), spec)?;
            // The version before this update: it names the spec, it is not the version of the object.
            let version = Some(service.meta.version);
            change_spec(service, spec, version, Timestamp::now());
            service.update_status = None;
            Ok(())
        })
        .await
    }

    /// Gives a service the spec that it had before the last update.
    ///
    /// # Errors
    /// [`ControlError::FailedPrecondition`] if there is none, and those of [`Self::update_service`].
    pub async fn rollback_service(&self, reference: &str, version: u64) -> Result<Arc<Service>> {
        self.change_service(reference, version, |tx, service| {
            let Some(previous) = service.previous_spec.take() else {
                let message = format!("service {} does not have a previous spec", service.spec.name);
                return Err(ControlError::FailedPrecondition(message));
            };
            let version = service.previous_spec_version;
            go_back(
                tx,
                service,
                *previous,
                version,
                "manually requested rollback".to_owned(),
            )
        })
        .await
    }

    /// Gives a service the spec with this number in its history.
    ///
    /// # Errors
    /// [`ControlError::FailedPrecondition`] if it is not kept or is the present one, and those of
    /// [`Self::update_service`]: what the spec needs may be gone.
    pub async fn rollback_service_to(
        &self,
        reference: &str,
        version: u64,
        number: u64,
    ) -> Result<Arc<Service>> {
        self.change_service(reference, version, |tx, service| {
            let kept = history::kept(service, number).cloned();
            let kept = kept.ok_or_else(|| not_kept(service, number))?;
            let message = format!("manually requested rollback to version {number}");
            go_back(tx, service, *kept.spec, kept.spec_version, message)
        })
        .await
    }

    /// Every spec of the service that is kept, with the present one; the highest number first. Also the present number.
    ///
    /// # Errors
    /// Those of [`Self::service`].
    pub fn service_history(&self, reference: &str) -> Result<(u64, Vec<KeptSpec>)> {
        let service = self.service(reference)?;
        Ok((service.history.number.max(1), history::all(&service)))
    }

    /// Removes a service; the orchestrator then stops its tasks.
    ///
    /// # Errors
    /// Those of [`Self::service`].
    pub async fn remove_service(&self, reference: &str) -> Result<()> {
        self.store
            .update(|tx| {
                let service = lookup::object::<Service>(tx, reference)?;
                Ok::<_, ControlError>(tx.remove::<Service>(service.id.as_str())?)
            })
            .await
    }

    /// How many tasks of the service run and how many shall run.
    pub fn service_status(&self, service: &Service) -> ServiceStatus {
        self.store.view(|tx| {
            let tasks = tx.by_key::<Task>(Key::Service(service.id.as_str().to_owned()));
            let count =
                |wanted: &dyn Fn(&Task) -> bool| tasks.iter().filter(|task| wanted(task)).count() as u64;
            let wanted_running = |task: &Task| task.desired_state == TaskState::Running;
            ServiceStatus {
                running_tasks: count(&|task| wanted_running(task) && task.status.state == TaskState::Running),
                // A global service wants what the orchestrator found nodes for.
                desired_tasks: service
                    .spec
                    .mode
                    .replicas()
                    .unwrap_or_else(|| count(&wanted_running)),
                completed_tasks: count(&|task| task.status.state == TaskState::Complete),
            }
        })
    }

    async fn change_service(
        &self,
        reference: &str,
        version: u64,
        change: impl FnOnce(&WriteTx<'_>, &mut Service) -> Result<()>,
    ) -> Result<Arc<Service>> {
        let id = self
            .store
            .update(|tx| {
                let mut service = lookup::owned::<Service>(tx, reference)?;
                if service.meta.version.index != version {
                    return Err(ControlError::OutOfSequence);
                }
                change(tx, &mut service)?;
                // A job runs again with each spec that it is given, also with one that it has had.
                if let Some(job) = &mut service.job_status {
                    job.job_iteration.index += 1;
                    job.last_execution = Timestamp::now();
                }
                let id = service.id.clone();
                tx.update(service)?;
                Ok(id)
            })
            .await?;
        self.service(id.as_str())
    }
}

/// Gives the service a spec that it has had.
fn go_back(
    tx: &impl Reader,
    service: &mut Service,
    spec: ServiceSpec,
    version: Option<proto::Version>,
    message: String,
) -> Result<()> {
    let spec = checked(tx, Some(&service.id), spec)?;
    change_spec(service, spec, version, Timestamp::now());
    // As in SwarmKit a job is not updated in steps: nobody would ever tell of the end.
    let in_steps = !service.spec.mode.is_job();
    service.update_status = in_steps.then(|| UpdateStatus {
        state: UpdateState::RollbackStarted,
        started_at: Some(Timestamp::now()),
        completed_at: None,
        message,
    });
    Ok(())
}

fn not_kept(service: &Service, number: u64) -> ControlError {
    let name = &service.spec.name;
    if number == service.history.number.max(1) {
        let message = format!("service {name} has version {number} already");
        return ControlError::FailedPrecondition(message);
    }
    let kept: Vec<String> = service
        .history
        .kept
        .iter()
        .map(|kept| kept.number.to_string())
        .collect();
    let kept = match kept.is_empty() {
        true => "none is kept".to_owned(),
        false => format!("kept are {}", kept.join(", ")),
    };
    ControlError::FailedPrecondition(format!(
        "service {name} has no version {number} to go back to: {kept}"
    ))
}

/// What an update may not change.
fn refuse_changes(old: &ServiceSpec, new: &ServiceSpec) -> Result<()> {
    if old.name != new.name {
        return Err(ControlError::invalid("renaming services is not supported"));
    }
    if !old.mode.same_kind(&new.mode) {
        return Err(ControlError::invalid("service mode change is not allowed"));
    }
    Ok(())
}

/// The spec with its networks named by identifier, after the checks against the other objects.
fn checked(tx: &impl Reader, id: Option<&ServiceId>, mut spec: ServiceSpec) -> Result<ServiceSpec> {
    fencing::check_service(tx, &spec)?;
    // API versions before 1.25 put the networks beside the task template.
    let old_place = std::mem::take(&mut spec.networks);
    if spec.task_template.networks.is_empty() {
        spec.task_template.networks = old_place;
    }
    // As Docker fills in what is not said; whoever shows or counts the runs then finds numbers.
    if let Some(job) = &mut spec.mode.replicated_job {
        let concurrent = *job.max_concurrent.get_or_insert(1);
        job.total_completions.get_or_insert(concurrent);
    }
    // Docker's own command line writes empty privileges where a stack file says nothing: no reason to replace a task.
    if let Some(container) = &mut spec.task_template.container_spec
        && container
            .privileges
            .as_ref()
            .is_some_and(|privileges| *privileges == Privileges::default())
    {
        container.privileges = None;
    }
    for attachment in &mut spec.task_template.networks {
        if ["host", "bridge", "none"].contains(&attachment.target.as_str()) {
            return Err(ControlError::invalid(format!(
                "a service cannot be on the network {} of its nodes: that is not built yet; name a network of the swarm",
                attachment.target
            )));
        }
        let network = lookup::object::<Network>(tx, &attachment.target)?;
        if network.spec.ingress {
            let message = "Service cannot be explicitly attached to the ingress network";
            return Err(ControlError::invalid(format!(
                "{message} {:?}",
                network.spec.name
            )));
        }
        attachment.target = network.id.as_str().to_owned();
    }
    let mut targets: Vec<_> = spec
        .task_template
        .networks
        .iter()
        .map(|network| &network.target)
        .collect();
    targets.sort_unstable();
    if targets.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(ControlError::invalid("a network is listed twice"));
    }
    refuse_taken_ports(tx, id, &spec)?;
    refuse_missing_material(tx, &spec)?;
    Ok(spec)
}

/// A port of the ingress belongs to one service; a port of the nodes may not be one of the ingress.
fn refuse_taken_ports(tx: &impl Reader, id: Option<&ServiceId>, spec: &ServiceSpec) -> Result<()> {
    let ours = published(spec);
    if ours.is_empty() {
        return Ok(());
    }
    for other in tx.all::<Service>().iter().filter(|other| Some(&other.id) != id) {
        // The numbers that the allocator chose count as well.
        let chosen = other
            .endpoint
            .ports
            .iter()
            .map(|port| (port.published_port, port.protocol, port.publish_mode));
        for (port, protocol, mode) in published(&other.spec).into_iter().chain(chosen) {
            let clash = ours.iter().any(|&(our_port, our_protocol, our_mode)| {
                let one_is_ingress = mode == PublishMode::Ingress || our_mode == PublishMode::Ingress;
                port != 0 && (our_port, our_protocol) == (port, protocol) && one_is_ingress
            });
            if clash {
                let message = format!(
                    "port '{port}' is already in use by service '{}' ({})",
                    other.spec.name, other.id
                );
                return Err(ControlError::invalid(message));
            }
        }
    }
    Ok(())
}

/// The ports that a spec asks for by number.
fn published(spec: &ServiceSpec) -> Vec<(u16, proto::spec::PortProtocol, PublishMode)> {
    let ports = spec.endpoint_spec.iter().flat_map(|endpoint| &endpoint.ports);
    let ports = ports.map(|port| (port.published_port, port.protocol, port.publish_mode));
    ports.filter(|&(port, _, _)| port != 0).collect()
}

/// Secrets and configs must be there when a service names them.
fn refuse_missing_material(tx: &impl Reader, spec: &ServiceSpec) -> Result<()> {
    let Some(container) = &spec.task_template.container_spec else {
        return Ok(());
    };
    for secret in &container.secrets {
        if tx.get::<proto::Secret>(secret.secret_id.as_str()).is_none() {
            return Err(ControlError::not_found(Kind::Secret, secret.secret_name.clone()));
        }
    }
    for config in &container.configs {
        if tx.get::<proto::Config>(config.config_id.as_str()).is_none() {
            return Err(ControlError::not_found(Kind::Config, config.config_name.clone()));
        }
    }
    Ok(())
}

//! Making a container: check, merge with the image, make its volumes and writable layer, write its record.
//!
//! Everything before the record is undone on failure; after a crash the next start removes what has no record.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use storage::{CreateVolume, Image, Kind, Reference, RootFd, Storage, Volume};
use time::OffsetDateTime;

use super::container::Container;
use super::error::{EngineError, Result};
use super::id::ContainerId;
use super::mounts::{self, MountPlan, MountSource, PlanSource, ResolvedMount};
use super::network::{self, NetworkMode};
use super::record::{ContainerRecord, FileRecord, Paths};
use super::request::{CreateContainer, Created, InjectedFile};
use super::state::ContainerState;
use super::{Engine, blocking, check, merge, names};
use crate::api::types::config::{ContainerConfig, Empty, HealthConfig};
use crate::api::types::host_config::{HostConfig, PortMap};

/// Tries at inventing a free name before a number is added.
const INVENTIONS: usize = 6;

impl Engine {
    /// Makes a container; nothing runs yet.
    ///
    /// # Errors
    /// A request that is refused, a name in use, an image that is not there, or a failure of storage.
    pub async fn create(self: &Arc<Self>, request: CreateContainer) -> Result<Created> {
        let id = ContainerId::random();
        let name = self.reserve_name(request.name.as_deref(), &id)?;
        let paths = self.paths(&id);
        let making = Making {
            storage: self.config.storage.clone(),
            paths: paths.clone(),
            host_name: self.host_name.clone(),
            volumes: Vec::new(),
        };
        let (chosen, of) = (name.clone(), id.clone());
        match blocking(move || making.run(of, chosen, request)).await {
            Ok(record) => {
                self.announce(&record, "create", &[]);
                let warnings = check::warnings(&record.host_config);
                self.registry.insert(Arc::new(Container::new(record, paths)));
                Ok(Created { id, warnings })
            }
            Err(error) => {
                self.registry.release(&name, &id);
                Err(error)
            }
        }
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<String> {
        if let Some(wanted) = wanted.filter(|name| !name.is_empty()) {
            let name = names::validate(wanted)?;
            self.registry.reserve(name, id)?;
            return Ok(name.to_owned());
        }
        let mut attempt = 0;
        loop {
            let name = names::invent(attempt >= INVENTIONS);
            if self.registry.reserve(&name, id).is_ok() {
                return Ok(name);
            }
            attempt += 1;
        }
    }
}

/// Whether a request could become a container anywhere, whatever its image: what is refused by its fields alone. The cluster
/// asks before it takes in a service whose every task would be rejected.
///
/// # Errors
/// The first field that is wrong or not built, by name.
pub(crate) fn preview(request: CreateContainer) -> Result<()> {
    let CreateContainer {
        name,
        config,
        host_config,
        networking,
        ..
    } = request;
    name.as_deref().map_or(Ok(""), names::validate)?;
    let host_config = check::with_defaults(host_config);
    check::check(&config, &host_config)?;
    network::wanted(&config, &host_config, networking)?;
    network::check_ports(&config, &host_config)?;
    mounts::plan(&config, &host_config).map(drop)
}

/// A container in the making, with what must go if it fails.
struct Making {
    storage: Storage,
    paths: Paths,
    host_name: String,
    /// Anonymous volumes made for it.
    volumes: Vec<String>,
}

impl Making {
    fn run(mut self, id: ContainerId, name: String, request: CreateContainer) -> Result<ContainerRecord> {
        let made = self.make(id, name, request);
        if made.is_err() {
            self.undo();
        }
        made
    }

    fn make(&mut self, id: ContainerId, name: String, request: CreateContainer) -> Result<ContainerRecord> {
        let CreateContainer {
            config,
            host_config,
            networking,
            task,
            files,
            ..
        } = request;
        let image = find_image(&self.storage, &config.image)?;
        let mut config = merge::merge(config, &image_defaults(&image))?;
        let host_config = check::with_defaults(host_config);
        check::check(&config, &host_config)?;
        self.name_host(&id, &mut config, &host_config);
        let networks = network::wanted(&config, &host_config, networking)?;
        network::check_ports(&config, &host_config)?;
        let plans = mounts::plan(&config, &host_config)?;
        self.make_directory()?;
        let snapshots = self.storage.snapshots();
        snapshots
            .prepare(id.as_str(), &image.id)
            .map_err(EngineError::storage("prepare the root file system"))?;
        let mounts = self.resolve(&id, &plans)?;
        let files = self.write_files(&files)?;
        let mut words = merge::command(&config).cloned();
        let record = ContainerRecord {
            path: words.next().unwrap_or_default(),
            args: words.collect(),
            id,
            name,
            created: OffsetDateTime::now_utc(),
            image_id: image.id.to_string(),
            config,
            host_config,
            mounts,
            networks,
            attached: BTreeMap::new(),
            last_addresses: BTreeMap::new(),
            ports: PortMap::new(),
            task,
            files,
            state: ContainerState::default(),
        };
        record.save(&self.paths.dir)?;
        Ok(record)
    }

    fn name_host(&self, id: &ContainerId, config: &mut ContainerConfig, host: &HostConfig) {
        if config.hostname.is_empty() {
            let of_host = host.uts_mode == "host" || NetworkMode::of(config, host) == NetworkMode::Host;
            config.hostname = if of_host {
                self.host_name.clone()
            } else {
                id.short().to_owned()
            };
        }
    }

    fn make_directory(&self) -> Result<()> {
        let dir = &self.paths.dir;
        DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .map_err(EngineError::file("create", dir))
    }

    /// Makes or finds what each mount needs.
    fn resolve(&mut self, id: &ContainerId, plans: &[MountPlan]) -> Result<Vec<ResolvedMount>> {
        let mut view = None;
        let mut resolved = Vec::with_capacity(plans.len());
        for plan in plans {
            let source = match &plan.source {
                PlanSource::Bind {
                    path,
                    create,
                    propagation,
                    recursive,
                } => {
                    bind_source(path, *create)?;
                    MountSource::Bind {
                        path: path.clone(),
                        propagation: propagation.clone(),
                        recursive: *recursive,
                    }
                }
                PlanSource::Volume {
                    name,
                    driver,
                    options,
                    labels,
                    copy,
                } => {
                    let volume = self.volume(name.as_deref(), driver, options, labels)?;
                    if *copy {
                        self.copy_up(&mut view, id, &volume, &plan.destination)?;
                    }
                    MountSource::Volume {
                        path: volume.mountpoint.to_string_lossy().into_owned(),
                        name: volume.name,
                        driver: volume.driver,
                        anonymous: name.is_none(),
                    }
                }
                PlanSource::Tmpfs { options } => MountSource::Tmpfs {
                    options: options.clone(),
                },
            };
            resolved.push(ResolvedMount {
                destination: plan.destination.clone(),
                read_only: plan.read_only,
                source,
                mode: plan.mode.clone(),
            });
        }
        Ok(resolved)
    }

    fn volume(
        &mut self,
        name: Option<&str>,
        driver: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume> {
        let request = CreateVolume {
            name: name.map(str::to_owned),
            driver: driver.to_owned(),
            options: options.clone(),
            labels: labels.clone(),
        };
        let shown = name.unwrap_or("(anonymous)");
        let made = self.storage.volumes().create(request);
        let volume = made.map_err(|error| match error.kind() {
            Kind::Invalid | Kind::Conflict => EngineError::Invalid(error.to_string()),
            _ => EngineError::storage(format!("create volume {shown}"))(error),
        })?;
        if name.is_none() {
            self.volumes.push(volume.name.clone());
        }
        Ok(volume)
    }

    /// Fills an empty volume with what the image has at the place where it is mounted.
    fn copy_up(
        &self,
        view: &mut Option<RootFd>,
        id: &ContainerId,
        volume: &Volume,
        destination: &str,
    ) -> Result<()> {
        let action = || format!("copy {destination} of the image into volume {}", volume.name);
        let view = match view {
            Some(view) => view,
            None => {
                let opened = self.storage.snapshots().view(id.as_str());
                view.insert(opened.map_err(EngineError::storage(action()))?)
            }
        };
        let copied = self.storage.volumes().copy_up(&volume.name, view, destination);
        copied.map(drop).map_err(EngineError::storage(action()))
    }

    /// Writes secrets and configs where only this container finds them.
    fn write_files(&self, files: &[InjectedFile]) -> Result<Vec<FileRecord>> {
        let dir = &self.paths.files;
        if !files.is_empty() {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            created.map_err(EngineError::file("create", dir))?;
        }
        files
            .iter()
            .enumerate()
            .map(|(index, file)| write_file(&dir.join(index.to_string()), file))
            .collect()
    }

    fn undo(&self) {
        let id = self.paths.id().as_str();
        let steps = [
            self.storage
                .snapshots()
                .remove(id)
                .map_err(EngineError::storage("remove the root file system")),
            remove_tree(&self.paths.files),
            remove_tree(&self.paths.dir),
        ];
        let volumes = self.volumes.iter().map(|name| {
            let removed = self.storage.volumes().remove(name, true, &|_| Vec::new());
            removed.map_err(EngineError::storage(format!("remove volume {name}")))
        });
        for error in steps.into_iter().chain(volumes).filter_map(Result::err) {
            tracing::warn!(
                container.id = id,
                "while undoing a creation: {}",
                crate::api::error::chain(&error)
            );
        }
    }
}

/// The image of a create request.
fn find_image(storage: &Storage, name: &str) -> Result<Image> {
    if name.is_empty() {
        return Err(EngineError::Invalid("no image specified".into()));
    }
    storage.images().get(name).map_err(|error| match error.kind() {
        Kind::NotFound => EngineError::NoSuchImage(familiar(name)),
        _ => EngineError::storage(format!("look up image {name}"))(error),
    })
}

/// `bb:latest` for `docker.io/library/bb`; what cannot be read is shown as it is.
fn familiar(name: &str) -> String {
    name.parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.tagged().familiar())
}

/// The image's configuration in the words of a container's.
fn image_defaults(image: &Image) -> ContainerConfig {
    let config = &image.config.config;
    let set =
        |keys: &std::collections::BTreeSet<String>| keys.iter().map(|key| (key.clone(), Empty {})).collect();
    ContainerConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(|check| HealthConfig {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        shell: config.shell.clone(),
        ..Default::default()
    }
}

fn bind_source(path: &str, create: bool) -> Result<()> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            fs::create_dir_all(path).map_err(EngineError::file("create the bind source", path))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(EngineError::Invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {path}"
        ))),
        Err(error) => Err(EngineError::file("look at the bind source", path)(error)),
    }
}

fn write_file(path: &Path, file: &InjectedFile) -> Result<FileRecord> {
    let target = mounts::clean_path(&file.target)
        .filter(|target| target != "/")
        .ok_or_else(|| {
            EngineError::Invalid(format!("invalid target {:?} of a secret or config", file.target))
        })?;
    let created = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    created
        .and_then(|mut new| new.write_all(&file.content))
        .and_then(|()| chown(path, Some(file.uid), Some(file.gid)))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(file.mode & 0o7777)))
        .map_err(EngineError::file("write", path))?;
    Ok(FileRecord { target })
}

/// Removes a directory with all in it; absence is success.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

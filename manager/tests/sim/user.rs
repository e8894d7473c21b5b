//! What users ask for, what they were told, and what must therefore be there at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manager::state::{Reader, Store};
use proto::spec::{
    Availability, ContainerSpec, Placement, RestartPolicy, ServiceMode, TaskSpec, UpdateConfig, UpdateOrder,
};
use proto::upkeep::FENCING;
use proto::{Node, Service, ServiceSpec};
use tokio::time::{sleep, timeout};

use crate::managers::{Seat, Seats};
use crate::world::World;

const ZONES: [&str; 3] = ["a", "b", "c"];
/// How long a user waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a name may stand for: what was acknowledged last, or anything that was asked for since without an answer.
type Candidates = Vec<Option<ServiceSpec>>;

/// The users, all in one.
#[derive(Clone)]
pub(crate) struct User {
    world: World,
    seats: Seats,
    told: Arc<Mutex<BTreeMap<String, Candidates>>>,
}

/// The zone of a node.
pub(crate) fn zone(node: usize) -> &'static str {
    ZONES[node % ZONES.len()]
}

impl User {
    pub(crate) fn new(world: &World, seats: &Seats) -> Self {
        Self {
            world: world.clone(),
            seats: seats.clone(),
            told: Arc::default(),
        }
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<String, Candidates>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one thing after the other.
    pub(crate) async fn live(self) {
        loop {
            self.world.pause(20..1500).await;
            let seats = self.seats.all();
            let Some(seat) = self.world.pick(&seats) else {
                continue;
            };
            let name = format!("web{}", self.world.draw(0..5));
            match self.world.draw(0..20) {
                0 => self.remove(seat, &name).await,
                1..=3 => self.change_node(seat).await,
                _ => self.put(seat, &name).await,
            }
        }
    }

    /// Creates or updates a service.
    async fn put(&self, seat: &Seat, name: &str) {
        let current = seat
            .control
            .service(name)
            .ok()
            .filter(|service| !service.pending_delete);
        let spec = match &current {
            Some(service) => self.changed(service),
            None => self.invented(name),
        };
        self.put_spec(seat, name, current.as_deref(), spec).await;
    }

    async fn put_spec(&self, seat: &Seat, name: &str, current: Option<&Service>, spec: ServiceSpec) -> bool {
        self.ask(name, Some(spec.clone()));
        let asked = spec.clone();
        let done = async {
            match current {
                Some(service) => seat
                    .control
                    .update_service(name, service.meta.version.index, spec)
                    .await
                    .map(drop),
                None => seat.control.create_service(spec).await.map(drop),
            }
        };
        let answer = timeout(PATIENCE, done).await;
        self.note(
            seat,
            name,
            Some(asked),
            answer
                .map(|done| done.map_err(|error| error.to_string()))
                .unwrap_or_else(|_| Err("no answer".into())),
        )
    }

    async fn remove(&self, seat: &Seat, name: &str) {
        if seat.control.service(name).is_ok() {
            self.ask(name, None);
            let answer = timeout(PATIENCE, seat.control.remove_service(name)).await;
            self.note(
                seat,
                name,
                None,
                answer
                    .map(|done| done.map_err(|error| error.to_string()))
                    .unwrap_or_else(|_| Err("no answer".into())),
            );
        }
    }

    /// Remembers what is asked for: it may come true although nobody hears the answer.
    fn ask(&self, name: &str, asked: Option<ServiceSpec>) {
        let mut told = self.told();
        told.entry(name.to_owned())
            .or_insert_with(|| vec![None])
            .push(asked);
    }

    /// Remembers what was answered. True if it was acknowledged.
    fn note(&self, seat: &Seat, name: &str, asked: Option<ServiceSpec>, answer: Result<(), String>) -> bool {
        let short = asked.as_ref().map(|spec| {
            let image = spec
                .task_template
                .container_spec
                .as_ref()
                .map(|container| container.image.clone());
            (spec.mode.replicas(), image)
        });
        self.world.note(format_args!(
            "user at {}: {name} {short:?}: {answer:?}",
            seat.place
        ));
        if answer.is_ok() {
            self.told().insert(name.to_owned(), vec![asked]);
        }
        answer.is_ok()
    }

    async fn change_node(&self, seat: &Seat) {
        let nodes = seat.control.nodes();
        let Some(node) = self.world.pick(&nodes) else {
            return;
        };
        let mut spec = node.spec.clone();
        match self.world.draw(0..4) {
            0 => spec.availability = Availability::Drain,
            1 => spec.availability = Availability::Pause,
            2 => drop(
                spec.labels
                    .insert("zone".into(), zone(self.world.draw(0..3) as usize).into()),
            ),
            _ => spec.availability = Availability::Active,
        }
        self.world.note(format_args!(
            "user: {} {:?} {:?}",
            node.id, spec.availability, spec.labels
        ));
        let _ = timeout(
            PATIENCE,
            seat.control
                .update_node(node.id.as_str(), node.meta.version.index, spec),
        )
        .await;
    }

    fn invented(&self, name: &str) -> ServiceSpec {
        let global = self.world.chance(0.2);
        let mut spec = ServiceSpec {
            name: name.into(),
            mode: match global {
                true => ServiceMode::global(),
                false => ServiceMode::replicated(self.world.draw(1..6)),
            },
            task_template: TaskSpec {
                container_spec: Some(ContainerSpec {
                    image: self.image(),
                    ..ContainerSpec::default()
                }),
                restart_policy: Some(RestartPolicy {
                    delay: Some(self.world.draw(1..2000) as i64 * 1_000_000),
                    ..RestartPolicy::default()
                }),
                ..TaskSpec::default()
            },
            ..ServiceSpec::default()
        };
        spec.update_config = Some(UpdateConfig {
            parallelism: self.world.draw(0..3),
            delay: self.world.draw(0..1000) as i64 * 1_000_000,
            monitor: self.world.draw(1..3000) as i64 * 1_000_000,
            order: match self.world.chance(0.3) {
                true => UpdateOrder::StartFirst,
                false => UpdateOrder::StopFirst,
            },
            ..UpdateConfig::default()
        });
        if self.world.chance(0.3) {
            set_fencing(&mut spec, true);
        }
        self.place(&mut spec);
        spec
    }

    fn changed(&self, service: &Service) -> ServiceSpec {
        let mut spec = service.spec.clone();
        if self.world.chance(0.1) {
            let fenced = spec.labels.contains_key(FENCING);
            set_fencing(&mut spec, !fenced);
        }
        match self.world.draw(0..4) {
            0 if spec.mode.replicas().is_some() => spec.mode = ServiceMode::replicated(self.world.draw(0..7)),
            1 => self.place(&mut spec),
            _ => set_image(&mut spec, &self.image()),
        }
        spec
    }

    fn place(&self, spec: &mut ServiceSpec) {
        let constraints = match self.world.draw(0..3) {
            0 => vec![format!(
                "node.labels.zone=={}",
                zone(self.world.draw(0..3) as usize)
            )],
            _ => Vec::new(),
        };
        spec.task_template.placement = Some(Placement {
            constraints,
            ..Placement::default()
        });
    }

    fn image(&self) -> String {
        let kind = ["app", "app", "app", "crash", "bad"][self.world.draw(0..5) as usize];
        format!("{kind}:{}", self.world.draw(0..100))
    }

    /// Brings everything into an order in which it can come to rest: nodes as they were, images that run.
    pub(crate) async fn settle(&self, image: &str) {
        loop {
            let seats = self.seats.all();
            if let [seat] = seats.as_slice()
                && self.settle_at(seat, image).await
            {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn settle_at(&self, seat: &Seat, image: &str) -> bool {
        for (number, node) in seat.control.nodes().iter().enumerate() {
            let mut spec = node.spec.clone();
            spec.availability = Availability::Active;
            spec.labels.insert("zone".into(), zone(number).into());
            let update = seat
                .control
                .update_node(node.id.as_str(), node.meta.version.index, spec);
            if !matches!(timeout(PATIENCE, update).await, Ok(Ok(()))) {
                return false;
            }
        }
        for service in seat
            .control
            .services()
            .iter()
            .filter(|service| !service.pending_delete)
        {
            let mut spec = service.spec.clone();
            set_image(&mut spec, image);
            spec.update_config = None;
            if !self.put_spec(seat, &service.spec.name, Some(service), spec).await {
                return false;
            }
        }
        true
    }

    /// No acknowledged write is lost.
    pub(crate) fn no_acknowledged_write_is_lost(&self, store: &Store, place: &str) {
        let services = store.view(|tx| tx.all::<Service>());
        for (name, candidates) in self.told().iter() {
            let there = services
                .iter()
                .find(|service| service.spec.name == *name && !service.pending_delete);
            let there = there.map(|service| service.spec.clone());
            if !candidates.contains(&there) {
                let what = format_args!("{name} at {place} is {there:?}, acknowledged was {candidates:?}");
                self.world.violated("no acknowledged write lost", what);
            }
        }
    }
}

/// A service with a lease cannot start first.
fn set_fencing(spec: &mut ServiceSpec, fenced: bool) {
    match fenced {
        true => drop(spec.labels.insert(FENCING.into(), "6s".into())),
        false => drop(spec.labels.remove(FENCING)),
    }
    if let Some(config) = spec.update_config.as_mut().filter(|_| fenced) {
        config.order = UpdateOrder::StopFirst;
    }
}

fn set_image(spec: &mut ServiceSpec, image: &str) {
    if let Some(container) = &mut spec.task_template.container_spec {
        image.clone_into(&mut container.image);
    }
}

/// The nodes of a run.
pub(crate) fn node(number: usize) -> Node {
    let mut node = Node {
        id: format!("n{number}").into(),
        ..Node::default()
    };
    node.spec.labels.insert("zone".into(), zone(number).into());
    node.spec.availability = Availability::Active;
    node.description.hostname = format!("host{number}");
    node.description.resources.nano_cpus = 4_000_000_000;
    node.description.resources.memory_bytes = 8 << 30;
    node
}

//! Finds the versions that an endpoint should have, and loads those that are not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::deployer::{DeployError, Deployer, LocatedBundle};
use super::super::spec::EndpointSpec;
use super::super::{Deployment, Routing};
use super::folders::Folders;
use super::wanted::{Target, Wanted, is_set_as, shape};
use crate::registry::ModelReference;

/// When what could not be deployed is tried again: after the first, and twice as long after each, up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// How often other versions may be wanted once those are loaded that were before; then these are taken.
const TURNS_MAX: usize = 4;

/// What is known of an endpoint from one look to the next.
#[derive(Default)]
pub(super) struct Memory {
    refused: Option<Refused>,
}

/// What could not be deployed. It is tried again when something else is asked for, and after a while: a store may have failed.
struct Refused {
    wanted: Wanted,
    spec: EndpointSpec,
    waits: Duration,
    until: Instant,
}

/// A look at whether an endpoint is what it should be.
pub(super) struct Look {
    pub(super) deployer: Deployer,
    /// Of those that load or take a folder into the store at once.
    pub(super) places: Arc<Semaphore>,
    pub(super) folders: Arc<Folders>,
    pub(super) spec: EndpointSpec,
    /// What it is.
    pub(super) present: Option<Arc<Routing>>,
    pub(super) memory: Memory,
    /// Whether it has found what to load; tells those who wait for it.
    pub(super) is_loading: Arc<AtomicBool>,
}

/// What a look has come to.
pub(super) struct Looked {
    pub(super) spec: EndpointSpec,
    pub(super) memory: Memory,
    pub(super) found: Found,
}

/// What a look has found.
pub(super) enum Found {
    /// The endpoint is as it should be.
    AsWanted,
    /// What could not be deployed is not to be tried again yet.
    TooEarly,
    /// It should be something else.
    Change(Change),
}

/// What an endpoint should become.
pub(super) struct Change {
    pub(super) wanted: Wanted,
    /// What was there before and what was loaded for it.
    pub(super) loaded: Vec<Arc<Deployment>>,
    /// What could not be found or loaded.
    pub(super) failed: Vec<DeployError>,
}

impl Memory {
    /// Forgets what could not be deployed.
    pub(super) fn forget_failure(&mut self) {
        self.refused = None;
    }

    /// Takes note of what could not be deployed, and when that is to be tried again.
    pub(super) fn note_failure(&mut self, wanted: Wanted, spec: &EndpointSpec) {
        let before = self.refused.take().filter(|refused| refused.is_of(&wanted, spec));
        let waits = waits_after(before.map(|refused| refused.waits));
        self.refused = Some(Refused { wanted, spec: spec.clone(), waits, until: Instant::now() + waits });
    }
}

/// How long to wait before what has failed is tried again, and was before after `waits`.
pub(super) fn waits_after(waits: Option<Duration>) -> Duration {
    waits.map_or(RETRY.0, |waits| (waits * 2).min(RETRY.1))
}

impl Refused {
    fn is_of(&self, wanted: &Wanted, spec: &EndpointSpec) -> bool {
        (&self.wanted, &self.spec) == (wanted, spec)
    }
}

impl Look {
    pub(super) async fn run(self) -> Looked {
        let found = self.find().await;
        let Self { spec, memory, .. } = self;
        Looked { spec, memory, found }
    }

    async fn find(&self) -> Found {
        let (mut wanted, mut failed) = self.locate_all().await;
        if self.present.as_ref().is_some_and(|present| self.is_as_wanted(present, &wanted)) {
            return Found::AsWanted;
        }
        let before = self.memory.refused.as_ref().filter(|refused| refused.is_of(&wanted, &self.spec));
        if before.is_some_and(|refused| Instant::now() < refused.until) {
            return Found::TooEarly;
        }
        let present = self.present.iter().flat_map(|present| present.loaded());
        let mut loaded: Vec<Arc<Deployment>> = present.map(Arc::clone).collect();
        for turn in 1..=TURNS_MAX {
            let before = loaded.len();
            self.load_all(&wanted, &mut loaded, &mut failed).await;
            if loaded.len() == before || turn == TURNS_MAX {
                break;
            }
            // Loading may have taken a while: who was put back meanwhile shall not be replaced for a moment.
            let (wanted_now, failed_now) = self.locate_all().await;
            if !failed_now.is_empty() || wanted_now == wanted {
                break;
            }
            (wanted, failed) = (wanted_now, failed_now);
        }
        Found::Change(Change { wanted, loaded, failed })
    }

    fn is_as_wanted(&self, present: &Routing, wanted: &Wanted) -> bool {
        Some(shape(present.routes(), present.shadows())) == wanted.shape() && is_set_as(present, &self.spec)
    }

    /// The versions that are wanted now, and why there are not all of them.
    async fn locate_all(&self) -> (Wanted, Vec<DeployError>) {
        let (mut wanted, mut failed) = (Wanted { routes: Vec::new(), shadows: Vec::new() }, Vec::new());
        let Self { spec, deployer, folders, places, .. } = self;
        let routes = spec.routes.iter().map(|route| (&route.model, route.weight, true));
        let shadows = spec.shadows.iter().map(|shadow| (&shadow.model, shadow.percent, false));
        for (model, weight, answers) in routes.chain(shadows) {
            let located = folders.locate(deployer, places, model).await;
            let located = located.map_err(|error| failed.push(error)).ok();
            let targets = if answers { &mut wanted.routes } else { &mut wanted.shadows };
            targets.push(Target { model: model.clone(), located, weight });
        }
        (wanted, failed)
    }

    /// Loads what of `wanted` is not among `loaded`.
    async fn load_all(
        &self,
        wanted: &Wanted,
        loaded: &mut Vec<Arc<Deployment>>,
        failed: &mut Vec<DeployError>,
    ) {
        for target in wanted.routes.iter().chain(&wanted.shadows) {
            let Some(located) = &target.located else { continue };
            if target.find(loaded).is_some() {
                continue;
            }
            let mut deployed = self.load(located).await;
            // Nothing names what was taken from a folder: it may have been freed since.
            let is_freed = deployed.as_ref().is_err_and(DeployError::is_of_missing_blob);
            if is_freed && self.is_taken_in_again(&target.model, located).await {
                deployed = self.load(located).await;
            }
            match deployed {
                Ok(deployment) => loaded.push(Arc::new(deployment)),
                Err(error) => failed.push(error),
            }
        }
    }

    async fn load(&self, located: &LocatedBundle) -> Result<Deployment, DeployError> {
        self.is_loading.store(true, Ordering::Relaxed);
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| DeployError::Stopped)?;
        self.deployer.deploy(&self.spec.name, located.clone(), place).await
    }

    /// Takes a folder into the store again, if it is one; whether it still holds that bundle.
    async fn is_taken_in_again(&self, model: &ModelReference, located: &LocatedBundle) -> bool {
        if !matches!(model, ModelReference::Folder(_)) {
            return false;
        }
        self.folders.forget(model);
        let again = self.folders.locate(&self.deployer, &self.places, model).await;
        again.is_ok_and(|again| again == *located)
    }
}

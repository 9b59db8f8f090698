//! One training run from a dataset version to a bundle, and what is told of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use super::prepared::{Prepared, TrainSpec};
use super::report::Evaluation;
use super::trainer::{Checkpoints, Surroundings, TrainSession, Trainer};
use super::{RoundReport, TrainError};
use crate::domain::Digest;
use crate::store::Store;

/// How far a run is.
#[derive(Debug, Clone)]
pub enum TrainEvent {
    /// A phase has begun, with the number of steps that it will take.
    Phase {
        /// What is being done.
        name: &'static str,
        /// Rows or rounds.
        steps: u64,
    },
    /// So many steps of the phase are done.
    Progress(u64),
    /// A round of the trainer is done.
    Round(RoundReport),
}

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct TrainReport {
    /// The bundle.
    pub bundle: Digest,
    /// Rows trained on.
    pub train_rows: usize,
    /// Rows tested on.
    pub test_rows: usize,
    /// What the trainer was told, with what followed from the labels.
    pub parameters: BTreeMap<String, String>,
    /// What the test split says.
    pub evaluation: Evaluation,
    /// Time in the trainer alone.
    pub train_seconds: f64,
    /// Time of the whole run.
    pub total_seconds: f64,
}

/// Runs a training to its end, from nothing or from a checkpoint or model file. `progress` may break to stop it.
pub fn run(
    store: &Store,
    spec: &TrainSpec,
    trainer: &dyn Trainer,
    checkpoints: Option<Checkpoints<'_>>,
    start_from: Option<Vec<u8>>,
    surroundings: Surroundings<'_>,
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<TrainReport, TrainError> {
    let started = Instant::now();
    let prepared = Prepared::read(store, spec, progress)?;
    phase(progress, "training", u64::from(trainer.rounds()))?;
    let mut on_round = |round| progress(TrainEvent::Round(round));
    let checkpoints = checkpoints.map(|Checkpoints { every, keep }| Checkpoints { every, keep: &mut *keep });
    let mut session =
        TrainSession { checkpoints, start_from, surroundings, ..TrainSession::new(&mut on_round) };
    let report = prepared.train(trainer, &mut session)?;
    Ok(TrainReport { total_seconds: started.elapsed().as_secs_f64(), ..report })
}

/// Tells of a phase that begins.
pub(super) fn phase(
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    name: &'static str,
    steps: u64,
) -> Result<(), TrainError> {
    match progress(TrainEvent::Phase { name, steps }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    }
}

/// Tells of steps of a phase that are done.
pub(super) fn advance(
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    steps: usize,
) -> Result<(), TrainError> {
    match progress(TrainEvent::Progress(steps as u64)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    }
}

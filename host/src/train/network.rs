//! Trains networks with candle.
//!
//! The order of steps: parameters are checked by name, the architecture and the labels by what there is to learn; then
//! epoch after epoch, each in batches of rows in an order that follows from the seed and the epoch. After each epoch the
//! test rows are scored by the evaluator that serves. With the same parameters and rows the model is the same bytes for
//! any number of threads, also if training went on from a checkpoint.

mod checkpoint;
mod loss;
mod operations;
mod optimizer;
mod parameters;
mod random;
mod variables;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::checkpoint::{Best, Checkpoint, Progress};
use self::loss::Sums;
use self::optimizer::Descent;
use self::random::{Purpose, Random};
use self::variables::{Differentiated, Dropout, Variables};
use super::trainer::{TrainData, TrainSession, Trained, Trainer, check_classes};
use super::{Matrix, RoundMetric, RoundReport, RowSet, Task, TrainError, evaluation};
use crate::model::network::{Network, NetworkModel, Output, gpu};
use crate::model::{self, Model as _, ModelError};

pub use parameters::{NetworkKind, NetworkParameters, Optimizer, Schedule};

/// Rows that are scored at a time by one thread.
const SCORED_ROWS: usize = 256;

/// Trains with candle.
#[derive(Debug)]
pub struct NetworkTrainer {
    /// What it is told.
    pub parameters: NetworkParameters,
}

impl Trainer for NetworkTrainer {
    fn parameters(&self) -> BTreeMap<String, String> {
        self.parameters.to_map()
    }

    fn rounds(&self) -> u32 {
        self.parameters.epochs
    }

    fn train(&self, data: &TrainData<'_>, session: &mut TrainSession<'_>) -> Result<Trained, TrainError> {
        let TrainData { train, test, .. } = *data;
        let (expected, found) = (train.feature_count(), test.feature_count());
        if found != expected {
            return Err(TrainError::FeatureCount { expected, found });
        }
        let task = self.parameters.task.unwrap_or_else(|| Task::for_labels(train.labels()));
        let mut training = Training::new(&self.parameters, task, train, test, session.start_from.take())?;
        training.run(session)?;
        let mut parameters = self.parameters.clone();
        parameters.task = Some(task);
        if parameters.kind() == NetworkKind::Cnn {
            parameters.image = Some(parameters.image(train.feature_count())?);
        }
        Ok(Trained {
            model: training.finish()?.to_bytes().map_err(|reason| TrainError::Network { reason })?,
            framework: "network",
            framework_version: crate::model::network::ARCHITECTURE_VERSION.to_string(),
            file_name: "model.safetensors",
            task: Some(task),
            parameters: parameters.to_map(),
            // The epochs' test rows were scored by the host's evaluator itself.
            test_scores: None,
        })
    }
}

/// What the last layer has to say for a task, and in how many numbers.
fn output(task: Task, train: &Matrix<'_>, test: &Matrix<'_>) -> Result<(Output, usize), TrainError> {
    match task {
        Task::Binary => {
            check_classes(train, Some(test), 2)?;
            Ok((Output::Binary, 1))
        }
        Task::Classes => {
            let labels = train.labels().iter().chain(test.labels());
            // Float to integer saturates.
            let classes = (labels.copied().fold(1.0, f32::max) as usize).saturating_add(1);
            check_classes(train, Some(test), classes)?;
            Ok((Output::Classes, classes))
        }
        Task::Regression => {
            let rows = train.rows() as f64;
            let labels = || train.labels().iter().copied().map(f64::from);
            let mean = labels().sum::<f64>() / rows;
            let deviation = (labels().map(|label| (label - mean).powi(2)).sum::<f64>() / rows).sqrt();
            // Labels that are all the same have no scale.
            let scale = if deviation > 0.0 { deviation as f32 } else { 1.0 };
            Ok((Output::Regression { scale, offset: mean as f32 }, 1))
        }
    }
}

/// A training under way.
struct Training<'a> {
    parameters: &'a NetworkParameters,
    train: Matrix<'a>,
    test: Matrix<'a>,
    threads: ThreadPool,
    device: Device,
    variables: Variables,
    descent: Descent,
    progress: Progress,
    /// Weights of the best epoch, if those are to be kept.
    best: Option<Vec<[Vec<f32>; 2]>>,
}

impl<'a> Training<'a> {
    fn new(
        parameters: &'a NetworkParameters,
        task: Task,
        train: Matrix<'a>,
        test: Matrix<'a>,
        start_from: Option<Vec<u8>>,
    ) -> Result<Self, TrainError> {
        let (output, units) = output(task, &train, &test)?;
        let architecture = parameters.architecture(train.feature_count(), output, units)?;
        let found = match start_from {
            Some(bytes) => {
                let mut found = start(&bytes, parameters.optimizer)?;
                let own = crate::model::network::Architecture {
                    // The weights belong to the scale they were trained on.
                    output: match (output, found.network.architecture.output) {
                        (Output::Regression { .. }, found @ Output::Regression { .. }) => found,
                        _ => output,
                    },
                    missing: found.network.architecture.missing,
                    ..architecture
                };
                if found.network.architecture != own {
                    return Err(TrainError::StartFrom {
                        reason: format!(
                            "its network is {}: expected {}",
                            found.network.architecture.summary(),
                            own.summary()
                        ),
                    });
                }
                found.network.architecture.missing = parameters.missing;
                found
            }
            None => Checkpoint {
                progress: Progress::new(parameters.optimizer),
                network: Variables::initial(architecture, parameters.seed)?,
                moments: Vec::new(),
                best: None,
            },
        };
        let device = match parameters.device {
            model::Device::Cpu => Device::Cpu,
            model::Device::Cuda => {
                gpu().map_err(|error| TrainError::Network { reason: error.to_string() })?
            }
        };
        let variables = Variables::new(&found.network, &device)?;
        let NetworkParameters { optimizer, momentum, weight_decay, .. } = *parameters;
        let mut descent = Descent::new(optimizer, momentum, weight_decay, &variables.all)?;
        found.set_moments(&descent.moments)?;
        descent.steps = found.progress.steps;
        let threads = ThreadPoolBuilder::new().num_threads(parameters.threads).build();
        let threads = threads.map_err(|error| TrainError::Network { reason: error.to_string() })?;
        let (progress, best) = (found.progress, found.best);
        Ok(Self { parameters, train, test, threads, device, variables, descent, progress, best })
    }

    fn run(&mut self, session: &mut TrainSession<'_>) -> Result<(), TrainError> {
        let of = self.parameters.epochs;
        while self.progress.epoch < of && !self.is_over() {
            self.progress.epoch += 1;
            let sums = self.epoch()?;
            let network = self.variables.network()?;
            let metrics = self.metrics(&sums, &network)?;
            self.remember_best(&metrics, network);
            let round = self.progress.epoch;
            let told = (session.progress)(RoundReport { round, of, metrics });
            if let Some(checkpoints) = &mut session.checkpoints
                && round.is_multiple_of(checkpoints.every.max(1))
            {
                let bytes = self.checkpoint()?.to_bytes().map_err(|reason| TrainError::Network { reason })?;
                (checkpoints.keep)(round, bytes)?;
            }
            if told.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the loss on the test rows has not become smaller for long enough.
    fn is_over(&self) -> bool {
        let patience = self.parameters.early_stopping_rounds.zip(self.progress.best);
        patience.is_some_and(|(rounds, best)| self.progress.epoch.saturating_sub(best.epoch) >= rounds)
    }

    /// Learns from every row once.
    fn epoch(&mut self) -> Result<Sums, TrainError> {
        let epoch = self.progress.epoch;
        let order = Random::new(self.parameters.seed, Purpose::Order, epoch.into()).order(self.train.rows());
        let (threads, train, device) = (&self.threads, self.train, &self.device);
        let (variables, descent, parameters) = (&self.variables, &mut self.descent, self.parameters);
        // The only threads that candle and the operations use are those of the pool.
        let sums = threads.install(move || -> candle_core::Result<Sums> {
            let mut sums = Sums::default();
            let steps_per_epoch = order.len().div_ceil(parameters.batch_size) as u64;
            for rows in order.chunks(parameters.batch_size) {
                let step = descent.steps;
                let dropout = Some(Dropout { seed: parameters.seed, step, share: parameters.dropout });
                let (features, labels) = batch(train, rows, parameters.missing);
                let features = Tensor::from_vec(features, (rows.len(), train.feature_count()), device)?;
                let dropout = dropout.filter(|dropout| dropout.share > 0.0);
                let Differentiated { loss, logits, gradients } =
                    variables.differentiate(features, &labels, dropout)?;
                descent.step(&variables.all, &gradients, parameters.rate(step, steps_per_epoch))?;
                let output = variables.architecture.output;
                sums.rows += rows.len();
                sums.loss += f64::from(loss.to_scalar::<f32>()?) * rows.len() as f64;
                sums.right += loss::right(output, &logits.flatten_all()?.to_vec1::<f32>()?, &labels);
            }
            Ok(sums)
        })?;
        self.progress.steps = self.descent.steps;
        Ok(sums)
    }

    /// Loss and accuracy, or error, of both sets of rows: of the training rows as they were learned from.
    fn metrics(&self, sums: &Sums, network: &Network) -> Result<Vec<RoundMetric>, TrainError> {
        let model = NetworkModel::new(network).map_err(|reason| TrainError::Network { reason })?;
        let scores: Result<Vec<Vec<f32>>, ModelError> = self.threads.install(|| {
            let rows = self.test.features().par_chunks(SCORED_ROWS * self.test.feature_count());
            rows.map(|rows| model.score(rows)).collect()
        });
        let scores = scores?.concat();
        let metric = |set, name: &str, value| RoundMetric { set, name: name.to_owned(), value };
        let mean_loss = sums.loss / sums.rows as f64;
        let metrics = match network.architecture.output {
            Output::Regression { scale, .. } => {
                let found = evaluation::regression(&scores, self.test.labels())?;
                let rmse = mean_loss.sqrt() * f64::from(scale);
                vec![metric(RowSet::Train, "rmse", rmse), metric(RowSet::Test, "rmse", found.rmse)]
            }
            Output::Binary | Output::Classes => {
                let found = evaluation::classification(&scores, model.score_count(), self.test.labels())?;
                vec![
                    metric(RowSet::Train, "loss", mean_loss),
                    metric(RowSet::Train, "accuracy", sums.right as f64 / sums.rows as f64),
                    metric(RowSet::Test, "loss", found.log_loss),
                    metric(RowSet::Test, "accuracy", found.accuracy),
                ]
            }
        };
        match metrics.iter().all(|metric| metric.value.is_finite()) {
            true => Ok(metrics),
            false => Err(TrainError::Diverged { epoch: self.progress.epoch }),
        }
    }

    fn remember_best(&mut self, metrics: &[RoundMetric], network: Network) {
        if self.parameters.early_stopping_rounds.is_none() {
            return;
        }
        let loss = metrics.iter().find(|metric| metric.set == RowSet::Test).map(|metric| metric.value);
        let Some(loss) = loss else { return };
        if self.progress.best.is_none_or(|best| loss < best.loss) {
            self.progress.best = Some(Best { epoch: self.progress.epoch, loss });
            self.best = Some(network.weights);
        }
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let moments = checkpoint::moments_of(&self.descent.moments, self.parameters.optimizer.moments())?;
        let (network, best) = (self.variables.network()?, self.best.clone());
        Ok(Checkpoint { progress: self.progress, network, moments, best })
    }

    /// The network as it is, or as it was after the best epoch.
    fn finish(self) -> Result<Network, TrainError> {
        let network = self.variables.network()?;
        let weights = self.best.filter(|_| self.parameters.early_stopping_rounds.is_some());
        Ok(Network { weights: weights.unwrap_or(network.weights), architecture: network.architecture })
    }
}

/// Reads a checkpoint, or takes a model's weights for a beginning.
fn start(bytes: &[u8], optimizer: Optimizer) -> Result<Checkpoint, TrainError> {
    let found = match Checkpoint::is_one(bytes) {
        true => Checkpoint::from_bytes(bytes, optimizer),
        false => Network::from_bytes(bytes).map(|network| Checkpoint {
            progress: Progress::new(optimizer),
            network,
            moments: Vec::new(),
            best: None,
        }),
    };
    found.map_err(|reason| TrainError::StartFrom { reason })
}

/// Rows of a batch: features, and labels.
fn batch(matrix: Matrix<'_>, rows: &[usize], missing: f32) -> (Vec<f32>, Vec<f32>) {
    let count = matrix.feature_count();
    let row = |&row: &usize| matrix.features().get(row * count..(row + 1) * count).unwrap_or_default();
    let mut features = Vec::with_capacity(rows.len() * count);
    for row in rows.iter().map(row) {
        features.extend(row.iter().map(|feature| if feature.is_nan() { missing } else { *feature }));
    }
    (features, rows.iter().filter_map(|&row| matrix.labels().get(row).copied()).collect())
}

#[cfg(test)]
mod tests;

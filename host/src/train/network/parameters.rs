//! The parameters of networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Device;
use crate::model::network::{ARCHITECTURE_VERSION, Activation, Architecture, Image, Layer, Output};
use crate::train::parameter::{parsed, refuse, unknown};
use crate::train::{Task, TrainError};

/// More epochs than any model needs; keeps a typing error from running for a day.
const EPOCHS_MAX: u32 = 100_000;

/// Rows of a batch.
const BATCH_MAX: usize = 1 << 16;

/// Units or channels of a layer.
const UNITS_MAX: usize = 1 << 16;

/// Layers of a list.
const LIST_MAX: usize = 32;

/// Threads.
const THREADS_MAX: usize = 1024;

/// The kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// Convolutions over an image, then dense layers.
    Cnn,
    /// Dense layers.
    Mlp,
}

impl NetworkKind {
    /// `cnn` or `mlp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cnn => "cnn",
            Self::Mlp => "mlp",
        }
    }
}

/// How steps down the gradient are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam; `weight_decay` is added to the gradient.
    Adam,
    /// Adam whose weights decay by themselves.
    Adamw,
    /// Stochastic gradient descent.
    Sgd,
}

impl Optimizer {
    const ALL: [(Self, &'static str); 3] = [(Self::Adam, "adam"), (Self::Adamw, "adamw"), (Self::Sgd, "sgd")];

    /// How much is remembered for each weight.
    pub(super) fn moments(self) -> usize {
        match self {
            Self::Adam | Self::Adamw => 2,
            Self::Sgd => 1,
        }
    }
}

/// How the learning rate goes from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// A tenth after each `step_epochs`.
    Step,
    /// Down to zero along half a cosine.
    Cosine,
}

impl Schedule {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Constant, "constant"), (Self::Step, "step"), (Self::Cosine, "cosine")];
}

const TASKS: [(Task, &str); 3] =
    [(Task::Binary, "binary"), (Task::Classes, "classes"), (Task::Regression, "regression")];

const DEVICES: [(Device, &str); 2] = [(Device::Cpu, "cpu"), (Device::Cuda, "cuda")];

/// How to train. [`NetworkParameters::set`] takes every parameter by name.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkParameters {
    kind: NetworkKind,
    /// What to predict; where none, what the labels suggest.
    pub task: Option<Task>,
    /// Times that every row is learned from.
    pub epochs: u32,
    /// Rows of a step.
    pub batch_size: usize,
    /// Length of a step.
    pub learning_rate: f64,
    /// How steps are taken.
    pub optimizer: Optimizer,
    /// Share of its velocity that [`Optimizer::Sgd`] keeps.
    pub momentum: f64,
    /// How strongly weights are drawn to zero.
    pub weight_decay: f64,
    /// How the learning rate goes.
    pub schedule: Schedule,
    /// Epochs between two steps of [`Schedule::Step`].
    pub step_epochs: u32,
    /// Epochs, or parts of one, in which the learning rate rises from zero.
    pub warmup: f64,
    /// Share of the numbers between dense layers that are dropped while training.
    pub dropout: f64,
    /// Start of the pseudo-random numbers.
    pub seed: u32,
    /// Threads to use; 0 for all cores. The model does not depend on it.
    pub threads: usize,
    /// Where it is trained. On a GPU the same training may give a slightly different model.
    pub device: Device,
    /// Function of the hidden layers.
    pub activation: Activation,
    /// What stands for a feature that is missing.
    pub missing: f32,
    /// Epochs without a smaller loss on the test rows after which training ends; the best epoch's weights are kept.
    pub early_stopping_rounds: Option<u32>,
    /// Units of the hidden dense layers.
    pub dense: Vec<usize>,
    /// Shape of the image that a row is; where none, the square of as many pixels as features.
    pub image: Option<Image>,
    /// Channels of the convolutions.
    pub channels: Vec<usize>,
    /// Rows and columns of their kernels.
    pub kernel: usize,
    /// Rows and columns of what is pooled after each.
    pub pool: usize,
}

const SHARED: [&str; 18] = [
    "activation",
    "batch_size",
    "device",
    "dropout",
    "early_stopping_rounds",
    "epochs",
    "learning_rate",
    "missing",
    "momentum",
    "optimizer",
    "schedule",
    "seed",
    "step_epochs",
    "task",
    "threads",
    "warmup",
    "weight_decay",
    "lr",
];

const CNN: [&str; 5] = ["channels", "dense", "image", "kernel", "pool"];

const MLP: [&str; 1] = ["hidden"];

impl NetworkParameters {
    /// The defaults of a kind. Those of a `cnn` are a network like LeNet-5 (LeCun et al., 1998).
    pub fn new(kind: NetworkKind) -> Self {
        Self {
            kind,
            task: None,
            epochs: 10,
            batch_size: 64,
            learning_rate: 0.001,
            optimizer: Optimizer::Adam,
            momentum: 0.9,
            weight_decay: 0.0,
            schedule: Schedule::Cosine,
            step_epochs: 10,
            warmup: 0.0,
            dropout: 0.0,
            seed: 0,
            threads: 0,
            device: Device::Cpu,
            activation: Activation::Relu,
            missing: 0.0,
            early_stopping_rounds: None,
            dense: match kind {
                NetworkKind::Cnn => vec![128],
                NetworkKind::Mlp => vec![128, 64],
            },
            image: None,
            channels: vec![16, 32],
            kernel: 5,
            pool: 2,
        }
    }

    /// The kind that is trained.
    pub fn kind(&self) -> NetworkKind {
        self.kind
    }

    /// Sets a parameter from text.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TrainError> {
        let own: &[&str] = match self.kind {
            NetworkKind::Cnn => &CNN,
            NetworkKind::Mlp => &MLP,
        };
        let names = || SHARED.into_iter().chain(own.iter().copied());
        if !names().any(|known| known == name) {
            return Err(unknown(name, names()));
        }
        match name {
            "task" => self.task = Some(one_of(name, value, &TASKS)?),
            "optimizer" => self.optimizer = one_of(name, value, &Optimizer::ALL)?,
            "schedule" => self.schedule = one_of(name, value, &Schedule::ALL)?,
            "device" => self.device = one_of(name, value, &DEVICES)?,
            "activation" => self.activation = one_of(name, value, &Activation::HIDDEN)?,
            "epochs" => self.epochs = whole(name, value, 1, EPOCHS_MAX)?,
            "step_epochs" => self.step_epochs = whole(name, value, 1, EPOCHS_MAX)?,
            "batch_size" => self.batch_size = whole(name, value, 1, BATCH_MAX)?,
            "threads" => self.threads = whole(name, value, 0, THREADS_MAX)?,
            "seed" => self.seed = whole(name, value, 0, u32::MAX)?,
            "kernel" => self.kernel = whole(name, value, 1, 64)?,
            "pool" => self.pool = whole(name, value, 1, 64)?,
            "early_stopping_rounds" => {
                self.early_stopping_rounds = Some(whole(name, value, 1, EPOCHS_MAX)?);
            }
            "learning_rate" | "lr" => self.learning_rate = number(name, value, f64::MIN_POSITIVE, 1e3)?,
            "momentum" => self.momentum = number(name, value, 0.0, 1.0)?,
            "weight_decay" => self.weight_decay = number(name, value, 0.0, 1e3)?,
            "warmup" => self.warmup = number(name, value, 0.0, f64::from(EPOCHS_MAX))?,
            "dropout" => self.dropout = number(name, value, 0.0, 0.99)?,
            // Beyond, squares of features overflow.
            "missing" => self.missing = number(name, value, -1e18, 1e18)? as f32,
            "image" => self.image = Some(image(name, value)?),
            "channels" => self.channels = list(name, value)?,
            // A network without hidden layers is a linear one.
            _ if value.trim().is_empty() => self.dense = Vec::new(),
            _ => self.dense = list(name, value)?,
        }
        Ok(())
    }

    /// Name and value of every parameter that counts, for the record.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let mut map = vec![
            ("epochs", self.epochs.to_string()),
            ("batch_size", self.batch_size.to_string()),
            ("learning_rate", self.learning_rate.to_string()),
            ("optimizer", name_of(self.optimizer, &Optimizer::ALL)),
            ("weight_decay", self.weight_decay.to_string()),
            ("schedule", name_of(self.schedule, &Schedule::ALL)),
            ("warmup", self.warmup.to_string()),
            ("dropout", self.dropout.to_string()),
            ("seed", self.seed.to_string()),
            ("threads", self.threads.to_string()),
            ("activation", name_of(self.activation, &Activation::HIDDEN)),
            ("missing", self.missing.to_string()),
        ];
        map.extend(self.task.map(|task| ("task", name_of(task, &TASKS))));
        map.extend(self.early_stopping_rounds.map(|rounds| ("early_stopping_rounds", rounds.to_string())));
        if self.device != Device::default() {
            map.push(("device", name_of(self.device, &DEVICES)));
        }
        if self.optimizer == Optimizer::Sgd {
            map.push(("momentum", self.momentum.to_string()));
        }
        if self.schedule == Schedule::Step {
            map.push(("step_epochs", self.step_epochs.to_string()));
        }
        let dense = join(&self.dense);
        match self.kind {
            NetworkKind::Mlp => map.push(("hidden", dense)),
            NetworkKind::Cnn => {
                map.extend(self.image.map(|image| ("image", image.to_string())));
                map.extend([
                    ("channels", join(&self.channels)),
                    ("kernel", self.kernel.to_string()),
                    ("pool", self.pool.to_string()),
                    ("dense", dense),
                ]);
            }
        }
        map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The shape of a row of so many features.
    pub(super) fn image(&self, features: usize) -> Result<Image, TrainError> {
        let image = match (self.kind, self.image) {
            (NetworkKind::Mlp, _) => Image::flat(features),
            (NetworkKind::Cnn, Some(image)) => image,
            (NetworkKind::Cnn, None) => {
                let side = features.isqrt();
                Image { height: side, width: side, channels: 1 }
            }
        };
        match (image.elements() == Some(features), self.image) {
            (true, _) => Ok(image),
            (false, Some(image)) => {
                let expected = format!("an image of {features} features");
                Err(refuse("image", &image.to_string(), expected))
            }
            (false, None) => Err(TrainError::Network {
                reason: format!(
                    "{features} features are no square image: set `image` to its height, width and channels, such as \
                     `28x28x1`"
                ),
            }),
        }
    }

    /// The network that learns `output` of this many numbers from rows of so many features.
    pub(super) fn architecture(
        &self,
        features: usize,
        output: Output,
        units: usize,
    ) -> Result<Architecture, TrainError> {
        let activation = self.activation;
        let input = self.image(features)?;
        let mut layers = Vec::new();
        if self.kind == NetworkKind::Cnn {
            let (kernel, pool) = (self.kernel, self.pool);
            let layer = |&channels: &usize| Layer::Convolution { kernel, channels, pool, activation };
            layers.extend(self.channels.iter().map(layer));
        }
        layers.extend(self.dense.iter().map(|&units| Layer::Dense { units, activation }));
        layers.push(Layer::Dense { units, activation: Activation::None });
        let version = ARCHITECTURE_VERSION;
        let architecture = Architecture { version, input, missing: self.missing, layers, output };
        architecture.check().map_err(|reason| TrainError::Network { reason })?;
        Ok(architecture)
    }

    /// The learning rate at a step, of so many an epoch.
    pub(super) fn rate(&self, step: u64, steps_per_epoch: u64) -> f64 {
        let epochs = step as f64 / steps_per_epoch as f64;
        if epochs < self.warmup {
            return self.learning_rate * (step + 1) as f64 / (self.warmup * steps_per_epoch as f64).max(1.0);
        }
        let factor = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Step => 0.1_f64.powf((epochs / f64::from(self.step_epochs)).floor()),
            Schedule::Cosine => {
                let rest = (f64::from(self.epochs) - self.warmup).max(1.0 / steps_per_epoch as f64);
                let done = ((epochs - self.warmup) / rest).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        };
        self.learning_rate * factor
    }
}

fn one_of<T: Copy>(name: &str, value: &str, all: &[(T, &str)]) -> Result<T, TrainError> {
    let found = all.iter().find(|(_, known)| *known == value.trim()).map(|(found, _)| *found);
    let names = || all.iter().map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| refuse(name, value, format!("one of {}", names())))
}

fn name_of<T: PartialEq>(value: T, all: &[(T, &str)]) -> String {
    all.iter().find(|(known, _)| *known == value).map(|(_, name)| (*name).to_owned()).unwrap_or_default()
}

fn whole<T>(name: &str, value: &str, least: T, most: T) -> Result<T, TrainError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let expected = format!("a whole number from {least} to {most}");
    let found = parsed(name, value, &expected)?;
    match (least..=most).contains(&found) {
        true => Ok(found),
        false => Err(refuse(name, value, expected)),
    }
}

fn number(name: &str, value: &str, least: f64, most: f64) -> Result<f64, TrainError> {
    let expected = match least == f64::MIN_POSITIVE {
        true => format!("a number above 0, at most {most}"),
        false => format!("a number from {least} to {most}"),
    };
    let found = parsed(name, value, &expected)?;
    match (least..=most).contains(&found) {
        true => Ok(found),
        false => Err(refuse(name, value, expected)),
    }
}

fn list(name: &str, value: &str) -> Result<Vec<usize>, TrainError> {
    let refused = || {
        let expected = format!(
            "1 to {LIST_MAX} whole numbers from 1 to {UNITS_MAX} with commas between, such as `128,64`"
        );
        refuse(name, value, expected)
    };
    let items = value.split(',').map(|item| item.trim().parse().ok());
    let items: Vec<usize> = items.collect::<Option<_>>().ok_or_else(refused)?;
    let fits = items.len() <= LIST_MAX && items.iter().all(|item| (1..=UNITS_MAX).contains(item));
    if fits { Ok(items) } else { Err(refused()) }
}

fn image(name: &str, value: &str) -> Result<Image, TrainError> {
    let sides: Option<Vec<usize>> = value.trim().split('x').map(|side| side.parse().ok()).collect();
    let image = match sides.as_deref() {
        Some([height, width]) => Some(Image { height: *height, width: *width, channels: 1 }),
        Some([height, width, channels]) => {
            Some(Image { height: *height, width: *width, channels: *channels })
        }
        _ => None,
    };
    let image = image.filter(|image| matches!(image.elements(), Some(1..)));
    image.ok_or_else(|| {
        refuse(name, value, "height, width and channels, such as `28x28` or `28x28x3`".to_owned())
    })
}

fn join(items: &[usize]) -> String {
    items.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: NetworkKind, name: &str, value: &str) -> String {
        NetworkParameters::new(kind).set(name, value).unwrap_err().to_string()
    }

    #[test]
    fn says_what_it_would_take() {
        let cnn = |name, value| refusal(NetworkKind::Cnn, name, value);
        assert_eq!(cnn("epoch", "3"), "unknown parameter `epoch`: did you mean `epochs`?");
        assert_eq!(cnn("hidden", "3"), "unknown parameter `hidden`");
        assert_eq!(refusal(NetworkKind::Mlp, "kernel", "3"), "unknown parameter `kernel`");
        assert_eq!(
            cnn("optimizer", "rmsprop"),
            "parameter `optimizer` is `rmsprop`: expected one of `adam`, `adamw`, `sgd`"
        );
        assert_eq!(
            cnn("learning_rate", "0"),
            "parameter `learning_rate` is `0`: expected a number above 0, at most 1000"
        );
        for (name, value) in [
            ("epochs", "0"),
            ("batch_size", "1e3"),
            ("dropout", "1"),
            ("warmup", "nan"),
            ("missing", "inf"),
            ("channels", ""),
            ("channels", "16,0"),
            ("dense", "1,,2"),
            ("image", "28"),
            ("image", "28x0"),
            ("image", "99999x99999"),
        ] {
            assert!(
                cnn(name, value).starts_with(&format!("parameter `{name}` is `{value}`: expected ")),
                "{name}"
            );
        }
    }

    #[test]
    fn what_the_record_says_can_be_set_again() {
        for kind in [NetworkKind::Cnn, NetworkKind::Mlp] {
            let mut parameters = NetworkParameters::new(kind);
            for (name, value) in [("optimizer", "sgd"), ("schedule", "step"), ("early_stopping_rounds", "3")]
            {
                parameters.set(name, value).unwrap();
            }
            if kind == NetworkKind::Cnn {
                parameters.set("image", "8x6x3").unwrap();
            }
            let mut again = NetworkParameters::new(kind);
            for (name, value) in parameters.to_map() {
                again.set(&name, &value).unwrap();
            }
            assert_eq!(again, parameters);
        }
    }

    #[test]
    fn a_row_is_the_image_that_was_said_or_a_square() {
        let mut parameters = NetworkParameters::new(NetworkKind::Cnn);
        assert_eq!(parameters.image(784).unwrap().to_string(), "28x28x1");
        assert!(parameters.image(783).unwrap_err().to_string().contains("783 features are no square"));
        parameters.set("image", "16x16x3").unwrap();
        assert_eq!(parameters.image(768).unwrap().to_string(), "16x16x3");
        assert!(parameters.image(784).unwrap_err().to_string().contains("an image of 784 features"));
        let small = parameters.architecture(768, Output::Binary, 1).map(|found| found.summary());
        assert_eq!(
            small.unwrap(),
            "16x16x3, convolution 5x5 16, dense 128, dense 1"
                .replace("16, dense", "16, convolution 5x5 32, dense")
        );
        parameters.set("channels", "8,8,8").unwrap();
        let error = parameters.architecture(768, Output::Binary, 1).unwrap_err().to_string();
        assert!(error.contains("nothing is left"), "{error}");
    }

    #[test]
    fn the_learning_rate_follows_its_schedule() {
        let mut parameters = NetworkParameters::new(NetworkKind::Mlp);
        let set =
            |parameters: &mut NetworkParameters, schedule| parameters.set("schedule", schedule).unwrap();
        parameters.set("learning_rate", "1").unwrap();
        let rates = |parameters: &NetworkParameters, steps: &[u64]| {
            steps.iter().map(|&step| (parameters.rate(step, 10) * 1e3).round() / 1e3).collect::<Vec<_>>()
        };
        assert_eq!(rates(&parameters, &[0, 50, 100]), [1.0, 0.5, 0.0]);
        set(&mut parameters, "constant");
        assert_eq!(rates(&parameters, &[0, 50, 99]), [1.0; 3]);
        set(&mut parameters, "step");
        parameters.set("step_epochs", "3").unwrap();
        assert_eq!(rates(&parameters, &[0, 29, 30, 60]), [1.0, 1.0, 0.1, 0.01]);
        parameters.set("warmup", "1").unwrap();
        assert_eq!(rates(&parameters, &[0, 4, 9, 10]), [0.1, 0.5, 1.0, 1.0]);
    }
}

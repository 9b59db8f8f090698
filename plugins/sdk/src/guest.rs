//! The component's side of the contract: generated bindings and the adapters between them and the traits.
//!
//! Only the export macros look in here. Nothing but moves happens on the way: data of tensors crosses without a copy.

mod bindings;

use std::cell::RefCell;

pub use bindings::{describes, detects, transforms};
use describes::exports::mlops::plugin::description;
use describes::mlops::plugin::{log as log_import, metrics as metrics_import};
use detects::exports::mlops::plugin::detector;
use transforms::exports::mlops::plugin::transformer;
use transforms::mlops::plugin::types;

use crate::log::Level;
use crate::metrics::Kind;
use crate::{Batch, DataType, Detector, Error, Instances, Limits, Score, Tensor, Transformer, Verdict, call};

/// Exports a component of a [`Transformer`]; see `export_transformer!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_transformer_component {
    ($transformer:ty) => {
        struct Component;

        impl $crate::guest::describes::exports::mlops::plugin::description::Guest for Component {
            fn describe() -> $crate::guest::Manifest {
                $crate::guest::describe_transformer::<$transformer>($crate::__package!())
            }
        }

        impl $crate::guest::transforms::exports::mlops::plugin::transformer::Guest for Component {
            type Transformer = $crate::guest::TransformerResource<$transformer>;
        }

        $crate::guest::describes::export_describes!(Component with_types_in $crate::guest::describes);
        $crate::guest::transforms::export_transforms!(Component with_types_in $crate::guest::transforms);
    };
}

/// Exports a component of a [`Detector`]; see `export_detector!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_detector_component {
    ($detector:ty) => {
        struct Component;

        impl $crate::guest::describes::exports::mlops::plugin::description::Guest for Component {
            fn describe() -> $crate::guest::Manifest {
                $crate::guest::describe_detector::<$detector>($crate::__package!())
            }
        }

        impl $crate::guest::detects::exports::mlops::plugin::detector::Guest for Component {
            type Detector = $crate::guest::DetectorResource<$detector>;
        }

        $crate::guest::describes::export_describes!(Component with_types_in $crate::guest::describes);
        $crate::guest::detects::export_detects!(Component with_types_in $crate::guest::detects);
    };
}

/// The [`Package`] of the crate that is compiled.
#[doc(hidden)]
#[macro_export]
macro_rules! __package {
    () => {
        $crate::guest::Package {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
        }
    };
}

pub use __export_detector_component as export_detector_component;
pub use __export_transformer_component as export_transformer_component;
pub use description::Manifest;

/// What cargo knows of the plugin's crate.
pub struct Package {
    /// `name` of its `Cargo.toml`.
    pub name: &'static str,
    /// `version` of its `Cargo.toml`.
    pub version: &'static str,
    /// `description` of its `Cargo.toml`, empty where there is none.
    pub description: &'static str,
}

/// The manifest of a transformer.
pub fn describe_transformer<T: Transformer>(package: Package) -> Manifest {
    set_panic_hook();
    Manifest {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        kind: description::Kind::Transformer,
        summary: package.description.to_owned(),
        config_schema: T::CONFIG_SCHEMA.to_owned(),
        needs_fit: T::NEEDS_FIT,
        rows_independent: T::ROWS_INDEPENDENT,
        instances: T::INSTANCES.into(),
        limits: T::LIMITS.into(),
    }
}

/// The manifest of a detector.
pub fn describe_detector<D: Detector>(package: Package) -> Manifest {
    set_panic_hook();
    Manifest {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        kind: description::Kind::Detector,
        summary: package.description.to_owned(),
        config_schema: D::CONFIG_SCHEMA.to_owned(),
        needs_fit: true,
        rows_independent: false,
        instances: D::INSTANCES.into(),
        limits: D::LIMITS.into(),
    }
}

/// A [`Transformer`] as the resource of the contract.
///
/// The cell is never borrowed twice: a component cannot be entered while a call runs.
pub struct TransformerResource<T>(RefCell<T>);

impl<T: Transformer> transformer::GuestTransformer for TransformerResource<T> {
    fn open(config: String, state: Option<Vec<u8>>) -> Result<transformer::Transformer, types::Error> {
        set_panic_hook();
        let transformer = T::open(call::read_config(&config)?, call::read_state(state.as_deref())?)?;
        Ok(transformer::Transformer::new(Self(RefCell::new(transformer))))
    }

    fn fit(&self, batch: Vec<types::Tensor>) -> Result<(), types::Error> {
        Ok(self.0.borrow_mut().fit(lift(batch)?)?)
    }

    fn state(&self) -> Result<Vec<u8>, types::Error> {
        Ok(call::write_state(&self.0.borrow().state()?)?)
    }

    fn transform(&self, batch: Vec<types::Tensor>) -> Result<Vec<types::Tensor>, types::Error> {
        Ok(lower(call::transform(&*self.0.borrow(), lift(batch)?)?))
    }
}

/// A [`Detector`] as the resource of the contract.
pub struct DetectorResource<D>(RefCell<D>);

impl<D: Detector> detector::GuestDetector for DetectorResource<D> {
    fn open(config: String, state: Option<Vec<u8>>) -> Result<detector::Detector, types::Error> {
        set_panic_hook();
        let detector = D::open(call::read_config(&config)?, call::read_state(state.as_deref())?)?;
        Ok(detector::Detector::new(Self(RefCell::new(detector))))
    }

    fn fit(&self, batch: Vec<types::Tensor>) -> Result<(), types::Error> {
        Ok(self.0.borrow_mut().fit(lift(batch)?)?)
    }

    fn state(&self) -> Result<Vec<u8>, types::Error> {
        Ok(call::write_state(&self.0.borrow().state()?)?)
    }

    fn score(&self, window: Vec<types::Tensor>) -> Result<Vec<detector::Score>, types::Error> {
        Ok(self.0.borrow().score(lift(window)?)?.into_iter().map(Into::into).collect())
    }
}

/// Calls the host's `log`.
pub(crate) fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    let level = match level {
        Level::Trace => log_import::Level::Trace,
        Level::Debug => log_import::Level::Debug,
        Level::Info => log_import::Level::Info,
        Level::Warn => log_import::Level::Warn,
        Level::Error => log_import::Level::Error,
    };
    log_import::log(level, message, fields);
}

/// Calls the function of the host's `metrics` that `kind` names.
pub(crate) fn metric(kind: Kind, name: &str, value: f64, labels: &[(&str, &str)]) {
    let labels: Vec<_> = labels.iter().map(|&(name, value)| metrics_import::Label { name, value }).collect();
    match kind {
        Kind::Counter => metrics_import::counter_add(name, value, &labels),
        Kind::Gauge => metrics_import::gauge_set(name, value, &labels),
        Kind::Histogram => metrics_import::histogram_record(name, value, &labels),
    }
}

/// Logs the message of a panic before the guest traps; the trap itself says nothing.
fn set_panic_hook() {
    static SET: std::sync::Once = std::sync::Once::new();
    SET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("panicked");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            log(Level::Error, message, &[("panicked_at", &place)]);
        }));
    });
}

fn lift(batch: Vec<types::Tensor>) -> Result<Batch, Error> {
    // The host has checked all this; here it is the caller's fault, not the plugin's.
    let callers_fault = |error| match error {
        Error::Other(message) => Error::invalid_input(message),
        error => error,
    };
    let tensors: Result<Vec<_>, _> = batch.into_iter().map(lift_tensor).collect();
    tensors.and_then(Batch::new).map_err(callers_fault)
}

fn lift_tensor(tensor: types::Tensor) -> Result<Tensor, Error> {
    let types::Tensor { name, dtype, shape, data } = tensor;
    match shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>() {
        Ok(shape) => Tensor::new(name, dtype.into(), shape, data),
        Err(_) => Err(Error::other(format!("column `{name}` of shape {shape:?} is too large to address"))),
    }
}

fn lower(batch: Batch) -> Vec<types::Tensor> {
    let lower = |tensor: Tensor| {
        let (name, dtype, shape, data) = tensor.into_parts();
        let shape = shape.into_iter().map(|size| size as u64).collect();
        types::Tensor { name, dtype: dtype.into(), shape, data }
    };
    batch.into_columns().into_iter().map(lower).collect()
}

macro_rules! data_types {
    ($($name:ident),*) => {
        impl From<types::Dtype> for DataType {
            fn from(dtype: types::Dtype) -> Self {
                match dtype {
                    $(types::Dtype::$name => Self::$name,)*
                }
            }
        }

        impl From<DataType> for types::Dtype {
            fn from(dtype: DataType) -> Self {
                match dtype {
                    $(DataType::$name => Self::$name,)*
                }
            }
        }
    };
}

data_types!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Fp32, Fp64, Bytes);

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidInput { message, row, column } => {
                Self::InvalidInput(types::InvalidInput { message, row, column })
            }
            Error::InvalidConfig(message) => Self::InvalidConfig(message),
            Error::InvalidState(message) => Self::InvalidState(message),
            Error::NotFitted => Self::NotFitted,
            Error::Other(message) => Self::Other(message),
        }
    }
}

impl From<Score> for detector::Score {
    fn from(score: Score) -> Self {
        let Score { feature, statistic, value, threshold, verdict } = score;
        let verdict = match verdict {
            Verdict::Stable => detector::Verdict::Stable,
            Verdict::Warning => detector::Verdict::Warning,
            Verdict::Drifted => detector::Verdict::Drifted,
        };
        Self { feature, statistic, value, threshold, verdict }
    }
}

impl From<Instances> for description::InstancePolicy {
    fn from(instances: Instances) -> Self {
        match instances {
            Instances::Fresh => Self::Fresh,
            Instances::Pooled => Self::Pooled,
        }
    }
}

impl From<Limits> for description::Limits {
    fn from(limits: Limits) -> Self {
        Self { memory_max_bytes: limits.memory_bytes_max, call_max_ms: limits.call_ms_max }
    }
}

//! Write plugins for `host`: transformers and drift detectors, compiled to WebAssembly components.
//!
//! A plugin is a type that implements [`Transformer`] or [`Detector`] and one line that exports it. Batches come in
//! and go out as plain values, config and state are `serde` types, and everything runs natively in `cargo test`.
//!
//! ```
//! use mlops_plugin::{Batch, Error, NoConfig, Transformer};
//!
//! struct Celsius;
//!
//! impl Transformer for Celsius {
//!     type Config = NoConfig;
//!     type State = ();
//!
//!     fn open(_config: NoConfig, _state: Option<()>) -> Result<Self, Error> {
//!         Ok(Self)
//!     }
//!
//!     fn transform(&self, batch: Batch) -> Result<Batch, Error> {
//!         let fahrenheit = batch.column("fahrenheit")?;
//!         Batch::new([fahrenheit.map_f32("celsius", |degrees| (degrees - 32.0) / 1.8)?])
//!     }
//! }
//!
//! mlops_plugin::export_transformer!(Celsius);
//!
//! let batch = Batch::new([mlops_plugin::Tensor::from_values("fahrenheit", [2], [32_i32, 212])?])?;
//! assert_eq!(*Celsius.transform(batch)?.column("celsius")?.as_f32()?, [0.0, 100.0]);
//! # Ok::<_, Error>(())
//! ```
//!
//! The crate is a `cdylib` (and an `rlib`, for tests beside it), and `host plugin build DIR` compiles it. Name, version
//! and summary of the manifest are the crate's own; the constants of the traits say the rest.
//!
//! What a plugin learns is its state, for example the largest value that it saw:
//!
//! ```
//! use mlops_plugin::{Batch, Error, NoConfig, Transformer};
//!
//! struct MaxScaler(Option<f32>);
//!
//! impl Transformer for MaxScaler {
//!     type Config = NoConfig;
//!     type State = f32;
//!     const NEEDS_FIT: bool = true;
//!     const ROWS_INDEPENDENT: bool = true;
//!
//!     fn open(_config: NoConfig, state: Option<f32>) -> Result<Self, Error> {
//!         Ok(Self(state))
//!     }
//!
//!     fn fit(&mut self, batch: Batch) -> Result<(), Error> {
//!         let values = batch.column("x")?.to_f32()?;
//!         self.0 = values.iter().copied().chain(self.0).reduce(f32::max);
//!         Ok(())
//!     }
//!
//!     fn state(&self) -> Result<f32, Error> {
//!         self.0.ok_or(Error::NotFitted)
//!     }
//!
//!     fn transform(&self, batch: Batch) -> Result<Batch, Error> {
//!         let max = self.state()?;
//!         Batch::new([batch.column("x")?.map_f32("x", |value| value / max)?])
//!     }
//! }
//!
//! mlops_plugin::export_transformer!(MaxScaler);
//! ```
//!
//! # What the SDK does around a call
//!
//! Before: tensors are checked against their shapes, the config must be a JSON object, and a hook is set that logs the
//! message of a panic as an error before the guest traps. After: a transformer must keep the number of rows. A fault
//! of either kind is told as the [`Error`] that says whose it is.
//!
//! In a component it also sets the global allocator, so a plugin cannot set one of its own.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

#[cfg(target_arch = "wasm32")]
mod allocator;
mod batch;
mod call;
mod data_type;
mod detector;
mod element;
mod error;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
mod limits;
pub mod log;
pub mod metrics;
mod tensor;
pub mod testing;
mod transformer;

pub use batch::Batch;
pub use call::NoConfig;
pub use data_type::DataType;
pub use detector::{Detector, Score, Verdict};
pub use element::Element;
pub use error::Error;
pub use limits::{Instances, Limits};
pub use tensor::Tensor;
pub use transformer::Transformer;

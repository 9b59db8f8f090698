//! Loads, checks, limits and calls WASM components; the only place that knows wasmtime.
//!
//! A component goes through four gates before it computes anything: its bytes are parsed and its interfaces compared
//! with the contract ([`Interfaces`]), it is compiled by another process ([`compile()`]), its imports are linked against `log` and `metrics` and nothing
//! else, and its manifest is read and checked ([`Plugin::load`]). After that a [`Transformer`] or a [`Detector`] is a
//! plugin with config and state. Every call runs under [`Limits`]; whatever a guest does ends that call with a
//! [`PluginError`] and nothing else.
//!
//! Calls are async so that a guest that runs long yields its thread at every epoch tick instead of holding up the
//! server's other requests. Code without a runtime drives them with [`block_on`].

mod bindings;
mod build;
mod call;
mod code;
mod code_cache;
mod compile;
mod detector;
mod error;
mod idle;
mod imports;
mod interfaces;
mod limits;
mod load;
mod manifest;
mod metrics;
mod runtime;
mod session;
mod transformer;
mod v0_1;

pub use build::{BuildError, BuildReport, Toolchain, ToolchainError, build};
pub use compile::{CODE_TOO_LARGE, NOT_A_COMPONENT, compile};
pub use detector::{Detector, Score, Verdict};
pub use error::{ErrorClass, Fault, LoadError, PluginError};
pub use interfaces::{COMPONENT_MAX_BYTES, CONTRACT_VERSION, Interfaces};
pub use limits::{Limits, LimitsCeiling};
pub use load::Plugin;
pub use manifest::{InstancePolicy, Kind, Manifest, ManifestLimits};
pub use metrics::{MetricKind, MetricPoint};
pub use runtime::{PluginRuntime, RuntimeConfig, RuntimeError};
pub use session::STATE_MAX_BYTES;
pub use transformer::{Transformed, Transformer, TransformerFit};

/// Runs a plugin call to its end on this thread.
///
/// A guest only ever pauses at an epoch tick and is ready again at once, so polling without waiting is right: there
/// is nothing to wait for.
pub fn block_on<F: Future>(call: F) -> F::Output {
    let mut call = std::pin::pin!(call);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = call.as_mut().poll(&mut context) {
            return output;
        }
    }
}

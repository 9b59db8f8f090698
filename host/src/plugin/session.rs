use std::ops::Range;

use wasmtime::component::ResourceAny;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use super::bindings::detector::{DriftDetector, exports::mlops::plugin::detector::Score as GuestScore};
use super::bindings::transformer::Preprocessor;
use super::call::CallState;
use super::load::ExportsPre;
use super::v0_1::{self, BatchView, for_detector, for_transformer};
use super::{Fault, Limits, Manifest, MetricPoint, Plugin, PluginRuntime};
use crate::domain::Batch;

/// Longest message of a guest that is passed on.
const MESSAGE_MAX_CHARS: usize = 1_000;

/// Largest state that the contract allows.
pub const STATE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// One live instance with its configured resource: a store of its own, so it shares nothing with any other.
pub(super) struct Session {
    store: Store<CallState>,
    exports: Exports,
    resource: ResourceAny,
    limits: Limits,
    broken: bool,
}

enum Exports {
    Transformer(Preprocessor),
    Detector(DriftDetector),
}

/// A store with a fresh instance in it.
struct Fresh {
    store: Store<CallState>,
    exports: Exports,
}

/// Makes an instance; where the pool has no place for it, in that of one that waits for a call.
async fn instantiate(
    runtime: &PluginRuntime,
    exports: &ExportsPre,
    name: &str,
    limits: &Limits,
) -> Result<Fresh, Fault> {
    loop {
        match instantiate_in_free_place(runtime, exports, name, limits).await {
            Err(Fault::Overloaded) if runtime.inner.idle.release() => {}
            done => return done,
        }
    }
}

async fn instantiate_in_free_place(
    runtime: &PluginRuntime,
    exports: &ExportsPre,
    name: &str,
    limits: &Limits,
) -> Result<Fresh, Fault> {
    let mut store = Store::new(&runtime.inner.engine, CallState::new(name, limits));
    store.limiter(|state| state);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| store.data_mut().on_epoch_tick());
    store.set_hostcall_fuel(usize::try_from(limits.output_max_bytes).unwrap_or(usize::MAX));
    let instance = match exports {
        ExportsPre::Transformer(exports) => {
            exports.instantiate_async(&mut store).await.map(Exports::Transformer)
        }
        ExportsPre::Detector(exports) => exports.instantiate_async(&mut store).await.map(Exports::Detector),
    };
    match instance {
        Ok(exports) => Ok(Fresh { store, exports }),
        Err(error) => Err(fault_of(&error, store.data(), limits)),
    }
}

impl Session {
    /// Instantiates a component only to read its manifest.
    pub(super) async fn describe(
        runtime: &PluginRuntime,
        exports: &ExportsPre,
        limits: &Limits,
    ) -> Result<Manifest, Fault> {
        let Fresh { mut store, exports } = instantiate(runtime, exports, "unnamed", limits).await?;
        let described = match &exports {
            Exports::Transformer(exports) => exports
                .mlops_plugin_description()
                .call_describe(&mut store)
                .await
                .map(for_transformer::manifest),
            Exports::Detector(exports) => {
                exports.mlops_plugin_description().call_describe(&mut store).await.map(for_detector::manifest)
            }
        };
        described.map_err(|error| fault_of(&error, store.data(), limits))
    }

    /// Instantiates a plugin and opens its resource with config and state.
    pub(super) async fn open(plugin: &Plugin, config: &str, state: Option<&[u8]>) -> Result<Self, Fault> {
        let inner = &plugin.inner;
        let Fresh { mut store, exports } =
            instantiate(&inner.runtime, &inner.exports, &inner.manifest.name, &inner.limits).await?;
        let opened = match &exports {
            Exports::Transformer(exports) => {
                let guest = exports.mlops_plugin_transformer().transformer();
                let opened = guest.call_open(&mut store, config, state).await;
                opened.map(|result| result.map_err(for_transformer::fault))
            }
            Exports::Detector(exports) => {
                let guest = exports.mlops_plugin_detector().detector();
                let opened = guest.call_open(&mut store, config, state).await;
                opened.map(|result| result.map_err(for_detector::fault))
            }
        };
        let resource = match opened {
            Ok(result) => result.map_err(shortened)?,
            Err(error) => return Err(fault_of(&error, store.data(), &inner.limits)),
        };
        Ok(Self { store, exports, resource, limits: inner.limits.clone(), broken: false })
    }

    /// Whether the instance can take another call: not after a trap or any other fault of the plugin's.
    pub(super) fn is_reusable(&self) -> bool {
        !self.broken
    }

    /// Refuses an answer that is larger than a call may give.
    pub(super) fn check_output(&mut self, bytes: usize) -> Result<(), Fault> {
        let output_max_bytes = self.limits.output_max_bytes;
        if bytes as u64 <= output_max_bytes {
            return Ok(());
        }
        self.broken = true;
        Err(Fault::OutputLimit { output_max_bytes })
    }

    /// Points reported during the last call.
    pub(super) fn take_metric_points(&mut self) -> Vec<MetricPoint> {
        std::mem::take(&mut self.store.data_mut().metric_points)
    }

    /// Memory that the instance has.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.store.data().memory_bytes
    }

    /// Starts the clock and the budgets of a call. One call of the host's may be several of the guest's.
    pub(super) fn begin_call(&mut self) {
        self.store.data_mut().begin_call();
        self.store.set_epoch_deadline(1);
    }

    /// Ends what [`Session::begin_call`] has begun.
    pub(super) fn end_call(&self) {
        self.store.data().end_call();
    }

    /// Learns from the rows of `batch`.
    pub(super) async fn fit(&mut self, batch: &Batch) -> Result<(), Fault> {
        self.begin_call();
        let view = BatchView::whole(batch);
        let (store, resource) = (&mut self.store, self.resource);
        let outcome = match &self.exports {
            Exports::Transformer(exports) => {
                let guest = exports.mlops_plugin_transformer().transformer();
                let outcome = guest.call_fit(store, resource, &for_transformer::params(&view)).await;
                outcome.map(|result| result.map_err(for_transformer::fault))
            }
            Exports::Detector(exports) => {
                let guest = exports.mlops_plugin_detector().detector();
                let outcome = guest.call_fit(store, resource, &for_detector::params(&view)).await;
                outcome.map(|result| result.map_err(for_detector::fault))
            }
        };
        self.end_call();
        self.finish(outcome)
    }

    /// What was learned.
    pub(super) async fn state(&mut self) -> Result<Vec<u8>, Fault> {
        self.begin_call();
        let (store, resource) = (&mut self.store, self.resource);
        let outcome = match &self.exports {
            Exports::Transformer(exports) => {
                let outcome =
                    exports.mlops_plugin_transformer().transformer().call_state(store, resource).await;
                outcome.map(|result| result.map_err(for_transformer::fault))
            }
            Exports::Detector(exports) => {
                let outcome = exports.mlops_plugin_detector().detector().call_state(store, resource).await;
                outcome.map(|result| result.map_err(for_detector::fault))
            }
        };
        self.end_call();
        let state = self.finish(outcome)?;
        if state.len() > STATE_MAX_BYTES {
            let found = state.len();
            return Err(Fault::Contract(format!(
                "its state has {found} bytes: the limit is {STATE_MAX_BYTES}"
            )));
        }
        Ok(state)
    }

    /// Maps rows `rows` of `batch`, or all of it, in a call that was begun.
    pub(super) async fn transform(
        &mut self,
        batch: &Batch,
        rows: Option<Range<usize>>,
    ) -> Result<Batch, Fault> {
        let expected = rows.as_ref().map_or(batch.rows(), Range::len);
        let view = match rows {
            Some(rows) => BatchView::rows(batch, rows),
            None => Some(BatchView::whole(batch)),
        };
        let (Exports::Transformer(exports), Some(view)) = (&self.exports, view) else {
            return Err(Fault::Host("a detector was asked to transform, or rows were missing".to_owned()));
        };
        let guest = exports.mlops_plugin_transformer().transformer();
        let params = for_transformer::params(&view);
        let outcome = guest.call_transform(&mut self.store, self.resource, &params).await;
        let outcome =
            outcome.map(|result| result.map_err(|error| within(for_transformer::fault(error), expected)));
        let tensors = self.finish(outcome)?;
        let answer = v0_1::answer(tensors, expected);
        self.broken |= answer.is_err();
        answer
    }

    /// Scores a window.
    pub(super) async fn score(&mut self, window: &Batch) -> Result<Vec<GuestScore>, Fault> {
        self.begin_call();
        let view = BatchView::whole(window);
        let Exports::Detector(exports) = &self.exports else {
            return Err(Fault::Host("a transformer was asked to score".to_owned()));
        };
        let guest = exports.mlops_plugin_detector().detector();
        let outcome = guest.call_score(&mut self.store, self.resource, &for_detector::params(&view)).await;
        self.end_call();
        self.finish(outcome.map(|result| result.map_err(for_detector::fault)))
    }

    fn finish<T>(&mut self, outcome: wasmtime::Result<Result<T, Fault>>) -> Result<T, Fault> {
        match outcome {
            Ok(result) => result.map_err(shortened),
            Err(error) => {
                self.broken = true;
                Err(fault_of(&error, self.store.data(), &self.limits))
            }
        }
    }
}

/// What a guest says goes into errors, responses and terminals, so its length and its characters are ours to bound.
pub(super) fn shortened(fault: Fault) -> Fault {
    let cut = |text: String| clean(&text, MESSAGE_MAX_CHARS);
    match fault {
        Fault::InvalidInput { message, row, column } => {
            Fault::InvalidInput { message: cut(message), row, column: column.map(|name| clean(&name, 256)) }
        }
        Fault::InvalidConfig(message) => Fault::InvalidConfig(cut(message)),
        Fault::InvalidState(message) => Fault::InvalidState(cut(message)),
        Fault::Other(message) => Fault::Other(cut(message)),
        Fault::Contract(message) => Fault::Contract(cut(message)),
        other => other,
    }
}

pub(super) fn clean(text: &str, chars_max: usize) -> String {
    let mut cleaned: String = text.chars().filter(|c| !c.is_control()).take(chars_max + 1).collect();
    if let Some((end, _)) = cleaned.char_indices().nth(chars_max) {
        cleaned.truncate(end);
        cleaned.push('…');
    }
    cleaned
}

/// A place that a guest names may be beyond the batch; then it is no place.
fn within(fault: Fault, rows: usize) -> Fault {
    match fault {
        Fault::InvalidInput { message, row, column } => {
            Fault::InvalidInput { message, row: row.filter(|&row| row < rows as u64), column }
        }
        other => other,
    }
}

/// Why the engine ended a call.
fn fault_of(error: &wasmtime::Error, state: &CallState, limits: &Limits) -> Fault {
    if state.timed_out {
        return Fault::TimeLimit { call_max_ms: limits.call_max_ms };
    }
    // A guest that is refused memory usually traps: the refusal is the cause worth telling.
    if state.memory_refused {
        return Fault::MemoryLimit { memory_max_bytes: limits.memory_max_bytes };
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Fault::Overloaded;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Fault::StackOverflow,
        Some(trap) => Fault::Trap(match &state.last_error {
            Some(line) => clean(line, MESSAGE_MAX_CHARS),
            None => trap.to_string(),
        }),
        // The engine's type for this error is private; a test holds its text in place.
        None if format!("{error:#}").contains("fuel allocated for hostcalls") => {
            Fault::OutputLimit { output_max_bytes: limits.output_max_bytes }
        }
        None => Fault::Contract(format!("{error:#}")),
    }
}

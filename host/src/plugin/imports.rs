//! What plugins may call: `log` and `metrics`.
//!
//! Strings and lists stay in the guest's memory until they are looked at, which they are only as far as a call may say
//! something: they cost a guest nothing, and the copies would cost the host much.

use std::time::Instant;

use wasmtime::component::{ComponentType, Lift, Linker, WasmList, WasmStr};
use wasmtime::{Result, StoreContextMut};

use super::bindings::transformer::mlops::plugin::log::Level;
use super::call::CallState;
use super::metrics::{LABELS_MAX, TEXT_MAX_BYTES};
use super::session::clean;
use super::{MetricKind, MetricPoint};

/// Longest piece of a plugin's log line that is repeated in an error.
const QUOTED_LOG_MAX_CHARS: usize = 300;

/// What a line and each field of it cost besides their letters, or endless empty ones would be free.
const LINE_BYTES: usize = 16;

type Fields = WasmList<(WasmStr, WasmStr)>;

#[derive(ComponentType, Lift)]
#[component(record)]
struct Label {
    name: WasmStr,
    value: WasmStr,
}

type Metric = (WasmStr, f64, WasmList<Label>);

/// Offers `log` and `metrics` to all plugins.
pub(super) fn add_to_linker(linker: &mut Linker<CallState>) -> Result<()> {
    linker.instance("mlops:plugin/log@0.1.0")?.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, CallState>, (level, message, fields): (Level, WasmStr, Fields)| {
            let began = store.data_mut().begin_line();
            let done = log(&mut store, level, &message, &fields);
            store.data_mut().end_line(began);
            done
        },
    )?;
    let mut metrics = linker.instance("mlops:plugin/metrics@0.1.0")?;
    for (name, kind) in [
        ("counter-add", MetricKind::Counter),
        ("gauge-set", MetricKind::Gauge),
        ("histogram-record", MetricKind::Histogram),
    ] {
        metrics.func_wrap(
            name,
            move |mut store: StoreContextMut<'_, CallState>, (name, value, labels): Metric| {
                let began = Instant::now();
                let done = record(&mut store, kind, &name, value, &labels);
                store.data_mut().end_point(began);
                done
            },
        )?;
    }
    Ok(())
}

fn log(
    store: &mut StoreContextMut<'_, CallState>,
    level: Level,
    message: &WasmStr,
    fields: &Fields,
) -> Result<()> {
    let left = store.data().log_bytes_left;
    let text = message.to_str(&*store)?;
    let quoted = (level == Level::Error).then(|| text.chars().take(QUOTED_LOG_MAX_CHARS).collect());
    let mut bytes = text.len() + LINE_BYTES + fields.len().saturating_mul(LINE_BYTES);
    // Control characters could forge lines or drive a terminal.
    let whole = |text: &str| clean(text, text.len());
    let message = if bytes <= left { whole(&text) } else { String::new() };
    let mut told = String::new();
    for index in 0..fields.len() {
        // What is left out is not looked at.
        if bytes > left {
            break;
        }
        let Some(field) = fields.get(&mut *store, index) else { break };
        let (name, value) = field?;
        let (name, value) = (name.to_str(&*store)?, value.to_str(&*store)?);
        bytes += name.len() + value.len();
        if bytes <= left {
            let space = if index > 0 { " " } else { "" };
            told.push_str(&format!("{space}{}={}", whole(&name), whole(&value)));
        }
    }
    let state = store.data_mut();
    if quoted.is_some() {
        state.last_error = quoted;
    }
    match left.checked_sub(bytes) {
        Some(left) => {
            state.log_bytes_left = left;
            state.write_log(level, &message, &told);
        }
        None => state.log_lines_dropped += 1,
    }
    Ok(())
}

fn record(
    store: &mut StoreContextMut<'_, CallState>,
    kind: MetricKind,
    name: &WasmStr,
    value: f64,
    labels: &WasmList<Label>,
) -> Result<()> {
    if !store.data().has_room_for_a_point() || labels.len() > LABELS_MAX {
        return Ok(());
    }
    let Some(name) = short(store, name)? else { return Ok(()) };
    let mut point = MetricPoint { name, kind, value, labels: Vec::with_capacity(labels.len()) };
    for index in 0..labels.len() {
        let Some(label) = labels.get(&mut *store, index) else { break };
        let Label { name, value } = label?;
        let (Some(name), Some(value)) = (short(store, &name)?, short(store, &value)?) else {
            return Ok(());
        };
        point.labels.push((name, value));
    }
    if point.is_valid() {
        store.data_mut().metric_points.push(point);
    }
    Ok(())
}

/// A string, unless it is longer than any of a metric may be.
fn short(store: &StoreContextMut<'_, CallState>, text: &WasmStr) -> Result<Option<String>> {
    let text = text.to_str(store)?;
    Ok((text.len() <= TEXT_MAX_BYTES).then(|| text.into_owned()))
}

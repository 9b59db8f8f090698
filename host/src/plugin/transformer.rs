use std::sync::Arc;

use super::idle::Idle;
use super::session::Session;
use super::{Fault, Kind, MetricPoint, Plugin, PluginError};
use crate::domain::Batch;

/// Input that one guest call gets when rows may be split: it and its answer stay in the core's cache, and the guest's
/// memory stays small enough to be reused without new page faults. Larger and smaller pieces were slower in
/// `benches/transformer.rs`.
const PIECE_BYTES: usize = 64 * 1024;

/// A plugin with config and state, ready to map batches. Calls may run in parallel.
pub struct Transformer {
    plugin: Plugin,
    config: String,
    state: Option<Vec<u8>>,
    /// Idle instances; always empty where every call gets a fresh one.
    idle: Arc<Idle>,
}

/// What a call of a transformer gave.
#[derive(Debug)]
pub struct Transformed {
    /// The answer.
    pub batch: Batch,
    /// What the plugin reported.
    pub points: Vec<MetricPoint>,
    /// Memory of the instance that was called.
    pub memory_bytes: u64,
}

/// A transformer that is learning.
pub struct TransformerFit {
    plugin: Plugin,
    session: Session,
}

impl Transformer {
    /// Opens `plugin` once, so that a config or state it refuses is found before any batch comes.
    pub async fn open(plugin: &Plugin, config: &str, state: Option<Vec<u8>>) -> Result<Self, PluginError> {
        plugin.expect_kind(Kind::Transformer)?;
        let session =
            Session::open(plugin, config, state.as_deref()).await.map_err(|fault| plugin.error(fault))?;
        let idle = Arc::default();
        plugin.inner.runtime.inner.idle.add(&idle);
        let transformer = Self { plugin: plugin.clone(), config: config.to_owned(), state, idle };
        transformer.keep(Box::new(session));
        Ok(transformer)
    }

    /// The plugin.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The config it was opened with.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The state it was opened with.
    pub fn state(&self) -> Option<&[u8]> {
        self.state.as_deref()
    }

    /// The error of answers that are not those that were promised of it.
    pub fn breach(&self, what: String) -> PluginError {
        self.plugin.error(Fault::Contract(what))
    }

    /// Maps a batch to a batch with as many rows.
    pub async fn transform(&self, batch: &Batch) -> Result<Transformed, PluginError> {
        let answer = self.call(batch).await;
        answer.map_err(|fault| self.plugin.error(fault))
    }

    async fn call(&self, batch: &Batch) -> Result<Transformed, Fault> {
        let mut session = match self.idle.take() {
            Some(session) => session,
            None => Box::new(Session::open(&self.plugin, &self.config, self.state.as_deref()).await?),
        };
        session.begin_call();
        let answer = match self.piece_rows(batch) {
            Some(rows) => transform_in_pieces(&mut session, batch, rows).await,
            None => session.transform(batch, None).await,
        };
        session.end_call();
        let (points, memory_bytes) = (session.take_metric_points(), session.memory_bytes());
        self.keep(session);
        Ok(Transformed { batch: answer?, points, memory_bytes })
    }

    /// Rows of a piece, where the batch should be split.
    fn piece_rows(&self, batch: &Batch) -> Option<usize> {
        let fixed_size = batch.tensors().iter().all(|tensor| tensor.dtype().size().is_some());
        if !self.plugin.manifest().rows_independent || !fixed_size || batch.byte_len() <= PIECE_BYTES {
            return None;
        }
        let row_bytes = batch.byte_len().div_ceil(batch.rows().max(1));
        Some((PIECE_BYTES / row_bytes.max(1)).max(1)).filter(|&rows| rows < batch.rows())
    }

    fn keep(&self, session: Box<Session>) {
        if self.plugin.keeps_instances() && session.is_reusable() {
            self.idle.keep(session);
        }
    }
}

async fn transform_in_pieces(
    session: &mut Session,
    batch: &Batch,
    piece_rows: usize,
) -> Result<Batch, Fault> {
    let mut answer = Batch::default();
    let mut start = 0;
    while start < batch.rows() {
        let end = (start + piece_rows).min(batch.rows());
        let piece =
            session.transform(batch, Some(start..end)).await.map_err(|fault| in_whole(fault, start))?;
        // The engine bounds what one call gives; this bounds the sum. A first piece tells how wide rows are.
        let width = piece.byte_len() / piece.rows().max(1);
        let whole = if start == 0 {
            width.saturating_mul(batch.rows())
        } else {
            answer.byte_len() + piece.byte_len()
        };
        session.check_output(whole)?;
        if start == 0 {
            answer = piece;
            answer.reserve_rows(batch.rows());
        } else {
            answer.append(&piece).map_err(|error| Fault::Contract(error.to_string()))?;
        }
        start = end;
    }
    Ok(answer)
}

/// A fault in a piece that starts at row `start`, told in rows of the whole batch.
fn in_whole(fault: Fault, start: usize) -> Fault {
    match fault {
        Fault::InvalidInput { message, row, column } => {
            Fault::InvalidInput { message, row: row.map(|row| row.saturating_add(start as u64)), column }
        }
        other => other,
    }
}

impl TransformerFit {
    /// Opens `plugin` without state.
    pub async fn open(plugin: &Plugin, config: &str) -> Result<Self, PluginError> {
        plugin.expect_kind(Kind::Transformer)?;
        let session = Session::open(plugin, config, None).await.map_err(|fault| plugin.error(fault))?;
        Ok(Self { plugin: plugin.clone(), session })
    }

    /// Learns from a batch of training data.
    pub async fn fit(&mut self, batch: &Batch) -> Result<(), PluginError> {
        self.session.fit(batch).await.map_err(|fault| self.plugin.error(fault))
    }

    /// Returns what was learned.
    pub async fn finish(mut self) -> Result<Vec<u8>, PluginError> {
        self.session.state().await.map_err(|fault| self.plugin.error(fault))
    }
}

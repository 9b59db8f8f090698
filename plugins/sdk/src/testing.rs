//! Runs a plugin natively as a host would: config and state cross as text and bytes, logs and metrics are recorded.
//!
//! ```
//! use mlops_plugin::{Batch, Error, NoConfig, Transformer, testing};
//! # struct Identity;
//! # impl Transformer for Identity {
//! #     type Config = NoConfig;
//! #     type State = ();
//! #     fn open(_: NoConfig, _: Option<()>) -> Result<Self, Error> { Ok(Self) }
//! #     fn transform(&self, batch: Batch) -> Result<Batch, Error> { Ok(batch) }
//! # }
//!
//! let transformer = testing::open_transformer::<Identity>("{}", None)?;
//! assert_eq!(testing::transform(&transformer, Batch::default())?, Batch::default());
//!
//! let error = testing::open_transformer::<Identity>(r#"{"speed": 3}"#, None).err();
//! assert!(matches!(error, Some(Error::InvalidConfig(_))));
//! # Ok::<_, Error>(())
//! ```

use std::cell::RefCell;

use crate::log::Level;
use crate::metrics::Kind;
use crate::{Batch, Detector, Error, Transformer, call};

/// A log line that a plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The message.
    pub message: String,
    /// Named fields.
    pub fields: Vec<(String, String)>,
}

/// A metric point that a plugin wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Kind of the metric.
    pub kind: Kind,
    /// Name of the metric.
    pub name: String,
    /// Amount, value or observation.
    pub value: f64,
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
}

/// Opens a transformer with a config as JSON, and a state as [`fit_transformer`] returns it.
pub fn open_transformer<T: Transformer>(config: &str, state: Option<&[u8]>) -> Result<T, Error> {
    T::open(call::read_config(config)?, call::read_state(state)?)
}

/// Fits a transformer on batches and returns its state.
pub fn fit_transformer<T: Transformer>(
    config: &str,
    batches: impl IntoIterator<Item = Batch>,
) -> Result<Vec<u8>, Error> {
    let mut transformer = open_transformer::<T>(config, None)?;
    for batch in batches {
        transformer.fit(batch)?;
    }
    call::write_state(&transformer.state()?)
}

/// Calls [`Transformer::transform`] with the checks around it.
pub fn transform<T: Transformer>(transformer: &T, batch: Batch) -> Result<Batch, Error> {
    call::transform(transformer, batch)
}

/// Opens a detector with a config as JSON, and a state as [`fit_detector`] returns it.
pub fn open_detector<D: Detector>(config: &str, state: Option<&[u8]>) -> Result<D, Error> {
    D::open(call::read_config(config)?, call::read_state(state)?)
}

/// Fits a detector on batches of the reference and returns its state.
pub fn fit_detector<D: Detector>(
    config: &str,
    batches: impl IntoIterator<Item = Batch>,
) -> Result<Vec<u8>, Error> {
    let mut detector = open_detector::<D>(config, None)?;
    for batch in batches {
        detector.fit(batch)?;
    }
    call::write_state(&detector.state()?)
}

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static POINTS: RefCell<Vec<Point>> = const { RefCell::new(Vec::new()) };
}

/// Takes the lines that plugins wrote on this thread since the last call.
pub fn take_lines() -> Vec<Line> {
    LINES.take()
}

/// Takes the points that plugins wrote on this thread since the last call.
pub fn take_points() -> Vec<Point> {
    POINTS.take()
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn record_line(level: Level, message: &str, fields: &[(&str, &str)]) {
    let line = Line { level, message: message.to_owned(), fields: owned(fields) };
    LINES.with_borrow_mut(|lines| lines.push(line));
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn record_point(kind: Kind, name: &str, value: f64, labels: &[(&str, &str)]) {
    let point = Point { kind, name: name.to_owned(), value, labels: owned(labels) };
    POINTS.with_borrow_mut(|points| points.push(point));
}

#[cfg(not(target_arch = "wasm32"))]
fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoConfig, Tensor, log, metrics};

    /// Forgets a row, which no transformer may.
    struct Careless;

    impl Transformer for Careless {
        type Config = NoConfig;
        type State = ();

        fn open(_config: NoConfig, _state: Option<()>) -> Result<Self, Error> {
            Ok(Self)
        }

        fn transform(&self, batch: Batch) -> Result<Batch, Error> {
            log::warn("careless");
            log::write(Level::Debug, "lost", &[("rows", "1")]);
            metrics::counter_add("rows_lost", 1.0, &[("kind", "first")]);
            Batch::new([Tensor::from_values("x", [batch.rows() - 1], vec![0_u8; batch.rows() - 1])?])
        }
    }

    #[test]
    fn refuses_an_answer_with_other_rows() {
        let batch = Batch::new([Tensor::from_values("x", [2], [1_u8, 2]).unwrap()]).unwrap();
        let error = transform(&Careless, batch).unwrap_err();
        assert_eq!(error, Error::other("transformed 2 rows to 1: expected as many"));
        let lines = take_lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].fields, [("rows".to_owned(), "1".to_owned())]);
        assert_eq!(take_points()[0].name, "rows_lost");
        assert_eq!(take_lines(), []);
    }

    #[test]
    fn state_of_a_transformer_that_learns_nothing_is_refused() {
        assert_eq!(fit_transformer::<Careless>("{}", []), Err(Error::NotFitted));
    }
}

//! What starts pipelines besides people: times, new versions of datasets, alerts of drift.
//!
//! A pipeline is *enabled*: its file and parameters are kept as they are then, and what its triggers have seen. The
//! [`Scheduler`] looks once a second what has happened since, and decides (`due`, which is pure). A start is one
//! transaction: that the triggers have seen what they start for, the run, and the record that this process is at it.
//! So nothing starts a pipeline twice, whatever is killed and however many servers look, and nothing is lost either.
//!
//! While a pipeline runs it is not started again. What happens meanwhile stays due, and leads to one run after it.

mod due;
mod enabled;
mod schedule;
mod scheduler;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::due::{MISSED_MAX, led_by};
pub use self::enabled::{TriggerError, TriggerRecord, Triggers};
pub use self::schedule::Schedule;
pub use self::scheduler::{RUNS_MAX, Scheduler};
use crate::domain::Name;

/// Most triggers of a pipeline.
pub const TRIGGERS_MAX: usize = 20;

/// What starts a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// A time, in cron's syntax with five fields.
    Schedule(Schedule),
    /// A new version of a dataset.
    Dataset(Name),
    /// An alert that the data of an endpoint drifted.
    Drift(Name),
}

impl Trigger {
    /// What kind it is: the key that it has in a file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Schedule(_) => "schedule",
            Self::Dataset(_) => "dataset",
            Self::Drift(_) => "drift",
        }
    }

    /// The time, or the name of the dataset or the endpoint.
    pub fn subject(&self) -> &str {
        match self {
            Self::Schedule(schedule) => schedule.as_str(),
            Self::Dataset(name) | Self::Drift(name) => name.as_str(),
        }
    }

    /// The trigger of a kind and a subject; none if this program knows no such trigger.
    fn of(kind: &str, subject: &str) -> Option<Self> {
        Some(match kind {
            "schedule" => Self::Schedule(subject.parse().ok()?),
            "dataset" => Self::Dataset(subject.parse().ok()?),
            "drift" => Self::Drift(subject.parse().ok()?),
            _ => return None,
        })
    }
}

/// `schedule 0 3 * * *`, `dataset mnist` or `drift mnist`.
impl fmt::Display for Trigger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind(), self.subject())
    }
}

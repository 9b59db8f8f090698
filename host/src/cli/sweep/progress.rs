use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use super::super::output::{Output, number_text};
use crate::domain::Direction;
use crate::train::RunLog;
use crate::train::sweep::{TrialEnd, TrialReport};

/// Shows each trial that ends, and logs the best so far with the sweep's run.
pub(super) struct Progress<'a> {
    output: &'a Output,
    log: &'a RunLog,
    metric: &'a str,
    direction: Direction,
    pub(super) bar: ProgressBar,
    /// Trials that have ended, and the best value among them.
    so_far: Mutex<(u32, Option<f64>)>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(
        output: &'a Output,
        log: &'a RunLog,
        metric: &'a str,
        direction: Direction,
        trials: u64,
    ) -> Self {
        Self {
            output,
            log,
            metric,
            direction,
            bar: output.progress(trials, "trials"),
            so_far: Mutex::default(),
        }
    }

    /// Takes what was known when the sweep was resumed.
    pub(super) fn knows(&self, reports: &[TrialReport]) {
        for report in reports {
            self.count(report);
        }
        if !reports.is_empty() {
            self.output.note(&format!("going on after {} trials", reports.len()));
        }
    }

    pub(super) fn ended(&self, report: &TrialReport) {
        let value = report.metrics.get(self.metric).copied();
        let tried = report.params.iter().map(|(name, value)| format!("{name}={value}"));
        let tried = tried.collect::<Vec<_>>().join(" ");
        let told = match (&report.error, value) {
            (Some(error), _) => format!("failed: {error}"),
            (None, value) => {
                let value = value.map_or_else(|| "-".to_owned(), number_text);
                match report.ended {
                    TrialEnd::Finished | TrialEnd::Failed => format!("{} {value}", self.metric),
                    TrialEnd::Stopped => format!("{} {value}, stopped early", self.metric),
                    TrialEnd::Time => format!("{} {value}, out of time", self.metric),
                }
            }
        };
        self.bar.suspend(|| self.output.note(&format!("trial {}: {told} ({tried})", report.trial)));
        let (count, best) = self.count(report);
        if let Some(best) = best {
            self.log.metric(format!("best_{}", self.metric), best, count);
        }
    }

    fn count(&self, report: &TrialReport) -> (u32, Option<f64>) {
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let value = report.bundle.and(report.metrics.get(self.metric).copied());
        so_far.0 += 1;
        if let Some(value) = value
            && so_far.1.is_none_or(|best| self.direction.is_better_by(value, best, 0.0))
        {
            so_far.1 = Some(value);
        }
        self.bar.set_position(u64::from(so_far.0));
        if let Some(best) = so_far.1 {
            self.bar.set_message(format!("best {} {}", self.metric, number_text(best)));
        }
        *so_far
    }
}

use std::collections::BTreeMap;
use std::time::Duration;

use console::style;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::super::output::{Output, duration_text, printable};
use crate::pipeline::{Plan, StepChange, StepEvent, StepRecord, StepStatus};

/// Tells of steps as they go on: a line each when they end, and at a terminal a moving one while they run.
pub(super) struct Progress<'a> {
    output: &'a Output,
    ids: Vec<String>,
    width: usize,
    lines: MultiProgress,
    whole: ProgressBar,
    running: BTreeMap<usize, ProgressBar>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(plan: &Plan, output: &'a Output) -> Self {
        let ids: Vec<String> = plan.steps.iter().map(|step| step.id.clone()).collect();
        let width = ids.iter().map(|id| console::measure_text_width(id)).max().unwrap_or_default();
        let lines = output.progress_lines();
        let whole = lines.add(output.progress(ids.len() as u64, "steps"));
        Self { output, ids, width, lines, whole, running: BTreeMap::new() }
    }

    pub(super) fn on(&mut self, event: StepEvent) {
        let id = self.ids.get(event.step).cloned().unwrap_or_default();
        match event.change {
            StepChange::Started { attempt } => {
                let bar = self.running.entry(event.step).or_insert_with(|| {
                    let bar = ProgressBar::new_spinner();
                    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {msg}") {
                        bar.set_style(style);
                    }
                    let bar = self.lines.insert_before(&self.whole, bar);
                    bar.enable_steady_tick(Duration::from_millis(100));
                    bar.set_prefix(
                        console::pad_str(&id, self.width, console::Alignment::Left, None).into_owned(),
                    );
                    bar
                });
                if attempt > 1 {
                    bar.set_message(format!("attempt {attempt}"));
                }
            }
            StepChange::Progress(text) => {
                if let Some(bar) = self.running.get(&event.step) {
                    bar.set_message(text);
                }
            }
            StepChange::Retrying { reason, after } => {
                let pause = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
                self.say(&format!("{id}: {reason}; again in {}", duration_text(pause)));
            }
            StepChange::Ended(record) => {
                if let Some(bar) = self.running.remove(&event.step) {
                    bar.finish_and_clear();
                }
                self.whole.inc(1);
                self.say(&self.line(&record));
            }
        }
    }

    pub(super) fn finish(&self) {
        self.whole.finish_and_clear();
    }

    fn line(&self, record: &StepRecord) -> String {
        let id = console::pad_str(&record.step, self.width, console::Alignment::Left, None);
        let time = record.ended_at.map(|ended| duration_text(ended - record.started_at)).unwrap_or_default();
        let reason = match record.reason.as_str() {
            "" => String::new(),
            reason => format!("  {}", printable(reason)),
        };
        format!("{} {id}  {}{reason}", mark(record.status), style(time).for_stderr().dim())
    }

    fn say(&self, text: &str) {
        self.lines.suspend(|| self.output.raw_note(text));
    }
}

/// A status in one sign and one word.
pub(super) fn mark(status: StepStatus) -> String {
    let word = format!("{:9}", status.as_str());
    match status {
        StepStatus::Finished => style(format!("✓ {word}")).for_stderr().green().to_string(),
        StepStatus::Cached => style(format!("= {word}")).for_stderr().cyan().to_string(),
        StepStatus::Skipped => style(format!("- {word}")).for_stderr().dim().to_string(),
        StepStatus::Running | StepStatus::Waiting => format!("▸ {word}"),
        StepStatus::Failed | StepStatus::Blocked | StepStatus::Cancelled => {
            style(format!("✗ {word}")).for_stderr().red().to_string()
        }
    }
}

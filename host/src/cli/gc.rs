use std::sync::Arc;
use std::time::{Duration, SystemTime};

use indicatif::ProgressBar;

use super::output::{Output, bytes_text, duration_text, thousands};
use super::state::{StateArguments, wait};
use crate::project::{GcProgress, GcReport, GcSpec};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What a version of a dataset or model, a run, its artifacts or a monitoring window names is never removed.
Only the database that the blobs were put for can free them; windows of other machines are not looked at.

Example:
  host data delete mnist@1
  host gc --dry-run
  host gc")]
pub(super) struct GcArguments {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Keep blobs that were put within this time, such as `30m`, `24h` or `7d`. It must be longer than any upload or training
    /// under way takes; in a bucket by twelve hours.
    #[arg(long, value_name = "AGE", default_value = "1d", value_parser = parse_age)]
    older_than: Duration,
    /// Keep runs, experiments and logged models that were deleted within this time; until then they can be restored.
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = parse_age)]
    deleted_older_than: Duration,
    /// Keep windows of endpoints to which something was written within this time.
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = parse_age)]
    windows_older_than: Duration,
    /// Take over the blobs of another database, which is gone: what only that one named is freed.
    #[arg(long)]
    adopt: bool,
}

pub(super) fn run(arguments: GcArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let GcArguments { dry_run, older_than, deleted_older_than, windows_older_than, adopt } = arguments;
    wait(async {
        let project = state.open_project().await?;
        let spec = GcSpec {
            now: SystemTime::now(),
            unused_for: older_than,
            deleted_for: deleted_older_than,
            windows_unused_for: windows_older_than,
            dry_run,
            adopt,
        };
        let least = project.unused_for_min();
        if older_than < least && !dry_run {
            let least = age_text(least);
            output.warn(&format!(
                "with less than {least} this is safe only while nothing else writes to the bucket"
            ));
        }
        let bar = output.progress(0, "reading");
        let report = project.collect_garbage(spec, watcher(&bar)).await;
        bar.finish_and_clear();
        tell(&report?, &spec, output)
    })
}

fn watcher(bar: &ProgressBar) -> Arc<dyn Fn(GcProgress) + Send + Sync> {
    let bar = bar.clone();
    Arc::new(move |progress| match progress {
        GcProgress::Marking => bar.set_prefix("reading"),
        GcProgress::Removing(blobs) => {
            bar.set_prefix("freeing");
            bar.set_length(blobs);
        }
        GcProgress::Removed => bar.inc(1),
    })
}

fn tell(report: &GcReport, spec: &GcSpec, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(report);
    }
    let (freed, removed) = if report.dry_run { ("would free", "would remove") } else { ("freed", "removed") };
    let blobs = |count, bytes| format!("{}, {}", counted(count, "blob"), bytes_text(bytes));
    output.line(&format!("{freed} {}", blobs(report.blobs, report.bytes)))?;
    let expired = report.expired;
    let kinds = [
        (expired.experiments, "experiment"),
        (expired.runs, "run"),
        (expired.logged_models, "logged model"),
        (report.uploads, "broken upload"),
        (report.windows, "unused window"),
    ];
    for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
        output.line(&format!("{removed} {}", counted(count as u64, what)))?;
    }
    if report.young_blobs > 0 {
        let age = age_text(spec.unused_for);
        output.note(&format!(
            "{} stay: they were put within {age}, see --older-than",
            blobs(report.young_blobs, report.young_bytes)
        ));
    }
    if report.needed > 0 {
        let count = counted(report.needed as u64, "deleted run");
        output.note(&format!("{count} or logged models stay: versions of models have their files there"));
    }
    Ok(())
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(count), if count == 1 { "" } else { "s" })
}

fn age_text(age: Duration) -> String {
    let hours = age.as_secs() / 3_600;
    if hours > 0 && hours < 24 && age.as_secs().is_multiple_of(3_600) {
        return format!("{hours} h");
    }
    duration_text(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

/// A number with a unit: seconds, minutes, hours or days.
fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a number with `s`, `m`, `h` or `d`, such as `24h`, found `{text}`");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        for (text, seconds) in [("0s", 0), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "d", "-1d", "1.5h", "1 d", "1w", "99999999999d", "ü"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }
}

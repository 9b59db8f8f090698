use std::collections::BTreeMap;

use super::super::search::{Assignment, Scheduler, Space};
use super::{
    ENDED_TAG, LIVE_METRIC_TAG, PARAMETERS_TAG, Sweep, SweepState, TRIAL_TAG, TrialEnd, TrialReport,
};
use crate::domain::Direction;
use crate::track::{
    BUNDLE_TAG, PARENT_TAG, Run, RunChange, RunSearch, RunStatus, TrackError, Tracker, now_ms,
};

/// How far the sweep of a run was when it ended, told by the runs below it. Those that were left running are ended as
/// killed, and their trials are to be done again.
///
/// Results come in the order in which they came then, so that the search and the scheduler know what they knew.
pub async fn resume(sweep: &Sweep<'_>, parent: &Run, scheduler: Scheduler) -> Result<SweepState, TrackError> {
    let mut state = SweepState::new(scheduler);
    let mut begun: BTreeMap<u64, Assignment> = BTreeMap::new();
    let mut children = children(&sweep.tracker, parent).await?;
    children.sort_by_key(|run| (run.info.end_time.unwrap_or(i64::MAX), run.info.start_time));
    for run in children {
        let Some((trial, params)) = trial_of(&run, sweep.search.space()) else { continue };
        state.next = state.next.max(trial + 1);
        match run.info.status {
            RunStatus::Running | RunStatus::Scheduled => {
                let (status, end_time) = (Some(RunStatus::Killed), Some(now_ms()));
                let change = RunChange { status, end_time, run_name: None };
                sweep.tracker.update_run(run.info.run_id.clone(), change).await?;
                begun.insert(trial, params);
            }
            RunStatus::Killed => {
                begun.insert(trial, params);
            }
            RunStatus::Finished | RunStatus::Failed => {
                replay(&sweep.tracker, &run, trial, &mut state.scheduler).await?;
                state.note(sweep, report_of(&run, trial, params));
            }
        }
    }
    begun.retain(|trial, _| state.reports.iter().all(|report| report.trial != *trial));
    state.again = begun.into_iter().collect();
    Ok(state)
}

async fn children(tracker: &Tracker, parent: &Run) -> Result<Vec<Run>, TrackError> {
    let mut search = RunSearch {
        experiment_ids: vec![parent.info.experiment_id.clone()],
        filter: format!("tags.`{PARENT_TAG}` = '{}'", parent.info.run_id),
        ..RunSearch::default()
    };
    let mut runs = Vec::new();
    loop {
        let page = tracker.search_runs(search.clone()).await?;
        runs.extend(page.found);
        match page.next_page_token {
            Some(next) => search.page_token = next,
            None => return Ok(runs),
        }
    }
}

fn tag_of<'r>(run: &'r Run, key: &str) -> Option<&'r str> {
    run.data.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
}

/// The number and the parameters of a trial, in the order of the space; none for a run that is no trial.
fn trial_of(run: &Run, space: &Space) -> Option<(u64, Assignment)> {
    let trial = tag_of(run, TRIAL_TAG)?.parse().ok()?;
    let map: BTreeMap<String, String> = serde_json::from_str(tag_of(run, PARAMETERS_TAG)?).ok()?;
    let names = space.dimensions().iter().map(|dimension| &dimension.name);
    let pairs = names.map(|name| Some((name.clone(), map.get(name)?.clone())));
    Some((trial, pairs.collect::<Option<_>>()?))
}

fn report_of(run: &Run, trial: u64, params: Assignment) -> TrialReport {
    let ends = [TrialEnd::Finished, TrialEnd::Stopped, TrialEnd::Time, TrialEnd::Failed];
    let ended = ends.into_iter().find(|end| Some(end.as_str()) == tag_of(run, ENDED_TAG));
    let metrics = run.data.metrics.iter().filter_map(|metric| {
        let name = metric.key.strip_prefix("test_")?;
        Some((name.to_owned(), metric.value))
    });
    TrialReport {
        trial,
        run_id: run.info.run_id.clone(),
        ended: ended.unwrap_or(TrialEnd::Failed),
        params,
        metrics: metrics.collect(),
        bundle: tag_of(run, BUNDLE_TAG).and_then(|text| text.parse().ok()),
        error: tag_of(run, "host.error").map(str::to_owned),
    }
}

/// Tells the scheduler what a trial had reached at each round.
async fn replay(
    tracker: &Tracker,
    run: &Run,
    trial: u64,
    scheduler: &mut Scheduler,
) -> Result<(), TrackError> {
    let Some(key) = tag_of(run, LIVE_METRIC_TAG) else { return Ok(()) };
    let direction = Direction::of_metric(key.trim_start_matches("test-"));
    let mut token = None;
    loop {
        let page = tracker.metric_history(&run.info.run_id, key, None, token.as_deref()).await?;
        for point in page.metrics {
            if let Ok(round) = u32::try_from(point.step) {
                scheduler.goes_on(trial, round, direction.cost(point.value));
            }
        }
        match page.next_page_token {
            Some(next) => token = Some(next),
            None => return Ok(()),
        }
    }
}

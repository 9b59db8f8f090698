use std::time::Duration;

use super::Trigger;

/// How old a scheduled time may be that passed while no server was there. Older ones are left out; of several the newest
/// counts.
pub const MISSED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A trigger, what it has seen and what has happened since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    /// Its place in the file.
    pub(super) place: i64,
    pub(super) trigger: Trigger,
    /// Up to where it has looked: a time in milliseconds since 1970, or the key of a version or an alert.
    pub(super) seen: i64,
    /// The key of the newest version or alert, where that is newer.
    pub(super) newest: Option<i64>,
    /// The newest version or alert since, other than those that the pipeline has led to itself.
    pub(super) event: Option<Event>,
}

/// A new version of a dataset, or an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its key.
    pub(super) key: i64,
    /// Why a pipeline starts, in words.
    pub(super) cause: String,
    /// The names of the pipelines that led to it, with spaces between.
    pub(super) pipelines: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    Wait,
    /// Nothing, and what has happened need not be looked at again.
    Pass(Vec<Look>),
    /// Start the pipeline.
    Start(Start),
}

/// Up to where a trigger has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) place: i64,
    pub(super) seen: i64,
}

/// One start, for all that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// The triggers that are due, each with why.
    pub(super) fired: Vec<(Look, String)>,
    /// The names of the pipelines that lead to the run, its own among them.
    pub(super) pipelines: String,
}

impl Start {
    /// Why, in words.
    pub(super) fn cause(&self) -> String {
        self.fired.iter().map(|(_, cause)| cause.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether to start a pipeline that is not running.
pub(super) fn decide(pipeline: &str, watched: &[Watched], now_ms: i64) -> Decision {
    let (mut fired, mut passed, mut pipelines) = (Vec::new(), Vec::new(), Vec::new());
    for one in watched {
        let place = one.place;
        match (&one.trigger, one.newest, &one.event) {
            (Trigger::Schedule(schedule), ..) => {
                let missed_max = i64::try_from(MISSED_MAX.as_millis()).unwrap_or(i64::MAX);
                let time = schedule.newest(now_ms);
                let is_due = |time: &i64| *time > one.seen && now_ms - time <= missed_max;
                let look = |seen| (Look { place, seen }, one.trigger.to_string());
                fired.extend(time.filter(is_due).map(look));
            }
            (_, Some(newest), Some(event)) => {
                // It was looked for later, and may be newer.
                let seen = newest.max(event.key);
                fired.push((Look { place, seen }, event.cause.clone()));
                pipelines.push(event.pipelines.as_str());
            }
            (_, Some(seen), None) => passed.push(Look { place, seen }),
            (_, None, _) => {}
        }
    }
    match (fired.is_empty(), passed.is_empty()) {
        (false, _) => Decision::Start(Start { fired, pipelines: led_by(&pipelines, pipeline) }),
        (true, false) => Decision::Pass(passed),
        (true, true) => Decision::Wait,
    }
}

/// The names of pipelines that lead to one, each once, its own among them.
///
/// What a run makes keeps these names, and starts none of them. Each start by what another made therefore adds a name, and
/// pipelines that start each other in a circle come to an end.
pub fn led_by(before: &[&str], own: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in before.iter().flat_map(|names| names.split_whitespace()).chain([own]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const DAY: i64 = 24 * 60 * MINUTE;
    /// Midnight of a day.
    const MIDNIGHT: i64 = 20_000 * DAY;

    fn schedule(text: &str, seen: i64) -> Watched {
        let trigger = Trigger::Schedule(text.parse().unwrap());
        Watched { place: 0, trigger, seen, newest: None, event: None }
    }

    fn dataset(newest: Option<i64>, event: Option<&str>) -> Watched {
        let event = event.map(|pipelines| Event {
            key: 8,
            cause: "dataset d@sha256:1".to_owned(),
            pipelines: pipelines.to_owned(),
        });
        Watched { place: 1, trigger: Trigger::Dataset("d".parse().unwrap()), seen: 3, newest, event }
    }

    /// The times for which a schedule starts a pipeline that is looked at at `moments`.
    fn starts(text: &str, enabled_at: i64, moments: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut watched = schedule(text, enabled_at);
        let mut starts = Vec::new();
        for now_ms in moments {
            match decide("p", std::slice::from_ref(&watched), now_ms) {
                Decision::Start(start) => {
                    watched.seen = start.fired[0].0.seen;
                    starts.push(watched.seen);
                }
                other => assert_eq!(other, Decision::Wait),
            }
        }
        starts
    }

    #[test]
    fn each_scheduled_time_starts_once() {
        let noon = MIDNIGHT + DAY / 2;
        let every_second = (0..3_600).map(|second| MIDNIGHT + DAY / 2 - 10 * MINUTE + 1_000 * second + 17);
        assert_eq!(
            starts("*/20 * * * *", MIDNIGHT, every_second),
            // The first was missed.
            [noon - 20 * MINUTE, noon, noon + 20 * MINUTE, noon + 40 * MINUTE]
        );
    }

    #[test]
    fn a_time_before_it_was_enabled_does_not_count() {
        assert!(starts("0 0 * * *", MIDNIGHT, [MIDNIGHT, MIDNIGHT + 1]).is_empty());
        assert_eq!(starts("0 0 * * *", MIDNIGHT - 1, [MIDNIGHT - 1, MIDNIGHT]), [MIDNIGHT]);
    }

    #[test]
    fn of_missed_times_the_newest_counts_unless_it_is_too_old() {
        let later = MIDNIGHT + 3 * DAY + 5 * MINUTE;
        assert_eq!(starts("0 0 * * *", MIDNIGHT, [later, later + 1_000]), [MIDNIGHT + 3 * DAY]);
        let week = MISSED_MAX.as_millis() as i64;
        // The first day of a month of 31, and no other since.
        let first = MIDNIGHT + (1..40).map(|day| day * DAY).find(|day| starts_month(MIDNIGHT + day)).unwrap();
        assert_eq!(starts("0 0 1 * *", first - 1, [first + week]), [first]);
        assert!(starts("0 0 1 * *", first - 1, [first + week + 1, first + week + DAY]).is_empty());
    }

    fn starts_month(ms: i64) -> bool {
        "0 0 1 * *".parse::<super::super::Schedule>().unwrap().newest(ms) == Some(ms)
    }

    #[test]
    fn a_clock_that_goes_back_starts_nothing_again() {
        let moments = [MIDNIGHT + MINUTE, MIDNIGHT - MINUTE, MIDNIGHT, MIDNIGHT + MINUTE, MIDNIGHT + DAY];
        assert_eq!(starts("0 0 * * *", MIDNIGHT - DAY + 1, moments), [MIDNIGHT, MIDNIGHT + DAY]);
    }

    #[test]
    fn what_others_made_starts_and_what_it_made_itself_is_passed_over() {
        assert_eq!(decide("p", &[dataset(None, None)], 0), Decision::Wait);
        assert_eq!(
            decide("p", &[dataset(Some(7), None)], 0),
            Decision::Pass(vec![Look { place: 1, seen: 7 }])
        );
        let Decision::Start(start) = decide("p", &[dataset(Some(9), Some("a b"))], 0) else { panic!() };
        assert_eq!(start.fired[0].0, Look { place: 1, seen: 9 });
        assert_eq!((start.cause().as_str(), start.pipelines.as_str()), ("dataset d@sha256:1", "a b p"));
        // One that came between two looks is not looked at again.
        let Decision::Start(start) = decide("p", &[dataset(Some(7), Some(""))], 0) else { panic!() };
        assert_eq!(start.fired[0].0.seen, 8);
    }

    #[test]
    fn all_that_is_due_is_one_start() {
        let watched = [schedule("0 0 * * *", MIDNIGHT - 1), dataset(Some(9), Some("a"))];
        let Decision::Start(start) = decide("p", &watched, MIDNIGHT) else { panic!() };
        assert_eq!(start.fired.len(), 2);
        assert_eq!(start.cause(), "schedule 0 0 * * *, dataset d@sha256:1");
        assert_eq!(start.pipelines, "a p");
        let watched = [schedule("0 0 * * *", MIDNIGHT), dataset(Some(9), None)];
        assert_eq!(decide("p", &watched, MIDNIGHT), Decision::Pass(vec![Look { place: 1, seen: 9 }]));
    }

    #[test]
    fn names_stand_once_in_what_led_to_a_run() {
        assert_eq!(led_by(&[], "p"), "p");
        assert_eq!(led_by(&["a b", "", "b c", "p"], "p"), "a b c p");
    }
}

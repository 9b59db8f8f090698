use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::pipeline::problem::quoted;

/// Longest text of a schedule.
const TEXT_MAX_BYTES: usize = 200;

/// A day from which on a schedule must come at all; any will do, because the calendar repeats itself.
const SOME_DAY_MS: i64 = 946_684_800_000;

/// Times in cron's syntax: minute, hour, day of month, month and day of week, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    /// Boxed, because it is large.
    cron: Box<Cron>,
}

impl Schedule {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The newest of its times at or before `now_ms`; times are milliseconds since 1970.
    pub fn newest(&self, now_ms: i64) -> Option<i64> {
        let now = time(now_ms)?;
        Some(self.cron.find_previous_occurrence(&now, true).ok()?.timestamp_millis())
    }

    /// The first of its times after `now_ms`.
    pub fn next(&self, now_ms: i64) -> Option<i64> {
        let now = time(now_ms)?;
        Some(self.cron.find_next_occurrence(&now, false).ok()?.timestamp_millis())
    }
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

impl FromStr for Schedule {
    type Err = String;

    /// The error is one sentence.
    fn from_str(text: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = (text.len() <= TEXT_MAX_BYTES).then(|| parser.parse(text).ok()).flatten();
        let cron = cron.ok_or_else(|| {
            let text = quoted(text);
            format!(
                "{text} is not a schedule: expected cron's five fields, minute to day of week, such as `0 3 * * *`"
            )
        })?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let schedule = Self { text, cron: Box::new(cron) };
        match schedule.next(SOME_DAY_MS) {
            Some(_) => Ok(schedule),
            None => Err(format!("{} is a schedule that never comes", quoted(schedule.as_str()))),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    fn ms(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn times_are_those_of_cron_in_utc() {
        let now = ms("2026-11-25T12:34:56.789Z");
        for (text, newest, next) in [
            ("0 3 * * *", "2026-11-25T03:00:00Z", "2026-11-26T03:00:00Z"),
            ("*/5 * * * *", "2026-11-25T12:30:00Z", "2026-11-25T12:35:00Z"),
            ("34 12 25 11 *", "2026-11-25T12:34:00Z", "2027-11-25T12:34:00Z"),
            // Either day counts where both fields name some.
            ("0 0 1 * MON", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("0 12 * * 1-5", "2026-11-25T12:00:00Z", "2026-11-26T12:00:00Z"),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-11-25T12:00:00Z", "2026-11-25T13:00:00Z"),
        ] {
            let schedule = schedule(text);
            assert_eq!(schedule.newest(now), Some(ms(newest)), "{text}");
            assert_eq!(schedule.next(now), Some(ms(next)), "{text}");
        }
    }

    #[test]
    fn a_time_comes_with_its_very_millisecond() {
        let at = ms("2026-11-25T03:00:00Z");
        let schedule = schedule("0 3 * * *");
        assert_eq!(schedule.newest(at), Some(at));
        assert_eq!(schedule.newest(at - 1), Some(ms("2026-11-24T03:00:00Z")));
        assert_eq!(schedule.next(at - 1), Some(at));
        assert_eq!(schedule.next(at), Some(ms("2026-11-26T03:00:00Z")));
    }

    #[test]
    fn what_is_no_schedule_or_never_comes_is_told() {
        let told = |text: &str| text.parse::<Schedule>().unwrap_err();
        for text in ["", "* * * *", "* * * * * *", "61 * * * *", "0 0 * * 8", "@reboot", "x"] {
            assert!(told(text).contains("is not a schedule: expected cron's five fields"), "{text}");
        }
        assert!(told(&format!("{}0 * * * *", "0,".repeat(200))).contains("is not a schedule"));
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            assert_eq!(told(text), format!("`{text}` is a schedule that never comes"));
        }
        assert_eq!(schedule(" 0  3 * *\t* ").as_str(), "0 3 * * *");
    }

    #[test]
    fn times_beyond_the_calendar_have_no_schedule() {
        let schedule = schedule("* * * * *");
        for now in [i64::MIN, i64::MAX] {
            assert_eq!((schedule.newest(now), schedule.next(now)), (None, None));
        }
    }
}

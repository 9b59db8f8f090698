use std::collections::{BTreeMap, HashMap};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::rows::{number_or_null, pieces, placeholders, value_rows};
use super::runs::no_run;
use super::{Metric, TrackError, Tracker};
use crate::store::Dialect;

/// Points of a page where the caller asks for no number.
const PAGE_POINTS: usize = 25_000;

/// Points of a page at most.
const PAGE_POINTS_MAX: usize = 100_000;

/// Points of a history that are counted off for an even sample; a million would take a second.
const COUNTED_OFF_MAX: i64 = 50_000;

/// A part of a metric's history.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPage {
    /// Points by step, then timestamp.
    pub metrics: Vec<Metric>,
    /// Where the next page starts; none at the end.
    pub next_page_token: Option<String>,
}

/// The newest point of a series.
#[derive(Debug, Clone, Copy)]
struct Newest {
    id: i64,
    step: i64,
    timestamp: i64,
    value: f64,
}

impl Newest {
    /// Whether `metric` comes after it: by step, then timestamp, then value.
    fn is_before(&self, metric: &Metric) -> bool {
        (self.step, self.timestamp)
            .cmp(&(metric.step, metric.timestamp))
            .then_with(|| order_of(self.value).total_cmp(&order_of(metric.value)))
            .is_lt()
    }
}

/// NaN sorts before all numbers, whatever its sign.
fn order_of(value: f64) -> f64 {
    if value.is_nan() { -f64::NAN.abs() } else { value }
}

/// A point, and the key of its run.
pub(super) type PointOf<'a> = (i64, &'a Metric);

/// What a run's metric is found by.
type SeriesKey = (i64, String);

/// Writes points, of one run or of many, and keeps the newest of each series at hand.
pub(super) async fn write_metrics(
    connection: &mut AnyConnection,
    dialect: Dialect,
    points: &[PointOf<'_>],
) -> Result<(), TrackError> {
    if points.is_empty() {
        return Ok(());
    }
    let mut candidates: BTreeMap<(i64, &str), &Metric> = BTreeMap::new();
    for &(run, metric) in points {
        candidates
            .entry((run, metric.key.as_str()))
            .and_modify(|newest| {
                let known =
                    Newest { id: 0, step: newest.step, timestamp: newest.timestamp, value: newest.value };
                if known.is_before(metric) {
                    *newest = metric;
                }
            })
            .or_insert(metric);
    }
    let keys: Vec<(i64, &str)> = candidates.keys().copied().collect();
    let mut series = read_series(connection, dialect, &keys).await?;
    let newest_of = |series: &HashMap<SeriesKey, Newest>, run: i64, key: &str| {
        series.get(&(run, key.to_owned())).copied()
    };
    let newer: Vec<PointOf<'_>> = candidates
        .into_iter()
        .filter(|((run, key), metric)| {
            newest_of(&series, *run, key).is_none_or(|newest| newest.is_before(metric))
        })
        .map(|((run, _), metric)| (run, metric))
        .collect();
    write_newest(connection, dialect, &newer, &mut series).await?;
    let rows: Vec<(i64, &Metric)> = points
        .iter()
        .filter_map(|&(run, metric)| Some((newest_of(&series, run, &metric.key)?.id, metric)))
        .collect();
    write_points(connection, dialect, &rows).await
}

async fn read_series(
    connection: &mut AnyConnection,
    dialect: Dialect,
    keys: &[(i64, &str)],
) -> Result<HashMap<SeriesKey, Newest>, TrackError> {
    let mut series = HashMap::with_capacity(keys.len());
    for piece in pieces(keys) {
        let sql = format!(
            "SELECT id, run, key, step, timestamp, value FROM series WHERE (run, key) IN (VALUES {})",
            value_rows(dialect, piece.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (run, key) in piece {
            query = query.bind(*run).bind(*key);
        }
        for row in query.fetch_all(&mut *connection).await? {
            let newest = Newest {
                id: row.try_get(0)?,
                step: row.try_get(3)?,
                timestamp: row.try_get(4)?,
                value: row.try_get::<Option<f64>, _>(5)?.unwrap_or(f64::NAN),
            };
            series.insert((row.try_get(1)?, row.try_get(2)?), newest);
        }
    }
    Ok(series)
}

async fn write_newest(
    connection: &mut AnyConnection,
    dialect: Dialect,
    newer: &[PointOf<'_>],
    series: &mut HashMap<SeriesKey, Newest>,
) -> Result<(), TrackError> {
    for piece in pieces(newer) {
        let sql = format!(
            "INSERT INTO series (run, key, step, timestamp, value) VALUES {} ON CONFLICT (run, key) DO UPDATE \
             SET step = excluded.step, timestamp = excluded.timestamp, value = excluded.value RETURNING id, run, key",
            newest_rows(dialect, piece.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (run, metric) in piece {
            query = query
                .bind(*run)
                .bind(metric.key.as_str())
                .bind(metric.step)
                .bind(metric.timestamp)
                .bind(metric.value);
        }
        for row in query.fetch_all(&mut *connection).await? {
            let newest = Newest { id: row.try_get(0)?, step: 0, timestamp: 0, value: 0.0 };
            series.insert((row.try_get(1)?, row.try_get(2)?), newest);
        }
    }
    Ok(())
}

/// Rows of run, key, step, timestamp and value; see [`value_rows`].
fn newest_rows(dialect: Dialect, count: usize) -> String {
    let row = |index: usize| match dialect {
        Dialect::Sqlite => format!("(?,?,?,?,{})", number_or_null("?")),
        Dialect::Postgres => {
            format!("({},{})", placeholders(index * 5 + 1, 4), number_or_null(&format!("${}", index * 5 + 5)))
        }
    };
    (0..count).map(row).collect::<Vec<_>>().join(",")
}

async fn write_points(
    connection: &mut AnyConnection,
    dialect: Dialect,
    points: &[(i64, &Metric)],
) -> Result<(), TrackError> {
    for piece in pieces(points) {
        let sql = format!(
            "INSERT INTO points (series, step, timestamp, bits) VALUES {} ON CONFLICT DO NOTHING",
            value_rows(dialect, piece.len(), 4)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (series, metric) in piece {
            query = query
                .bind(*series)
                .bind(metric.step)
                .bind(metric.timestamp)
                .bind(metric.value.to_bits().cast_signed());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

impl Tracker {
    /// A page of a metric's history; an unknown metric has none.
    pub async fn metric_history(
        &self,
        run_id: &str,
        key: &str,
        max_results: Option<usize>,
        page_token: Option<&str>,
    ) -> Result<MetricPage, TrackError> {
        let limit = max_results.unwrap_or(PAGE_POINTS).clamp(1, PAGE_POINTS_MAX);
        let Some(series) = self.series_of(run_id, key).await? else {
            return Ok(MetricPage { metrics: Vec::new(), next_page_token: None });
        };
        let (step, timestamp, bits) = match page_token.filter(|token| !token.is_empty()) {
            None => (i64::MIN, i64::MIN, i64::MIN),
            Some(token) => parse_token(token)?,
        };
        let sql = "SELECT step, timestamp, bits FROM points WHERE series = $1 AND (step, timestamp, bits) > ($2, $3, $4) \
                   ORDER BY step, timestamp, bits LIMIT $5";
        let rows = sqlx::query(sql)
            .bind(series)
            .bind(step)
            .bind(timestamp)
            .bind(bits)
            .bind(limit as i64 + 1)
            .fetch_all(self.database.readers())
            .await?;
        let is_last = rows.len() <= limit;
        let mut metrics = Vec::with_capacity(rows.len());
        for row in rows.iter().take(limit) {
            metrics.push(point(key, row)?);
        }
        let next = metrics
            .last()
            .filter(|_| !is_last)
            .map(|last| format!("{}:{}:{}", last.step, last.timestamp, last.value.to_bits().cast_signed()));
        Ok(MetricPage { metrics, next_page_token: next })
    }

    /// At most `max_results` points that are spread evenly from `start` to `end`, the first and the last always among
    /// them: evenly by number, or in a long history by step, unless its steps are too uneven for that.
    pub async fn metric_sample(
        &self,
        run_id: &str,
        key: &str,
        steps: Option<(i64, i64)>,
        max_results: usize,
    ) -> Result<Vec<Metric>, TrackError> {
        let Some(series) = self.series_of(run_id, key).await? else { return Ok(Vec::new()) };
        let (start, end) = steps.unwrap_or((i64::MIN, i64::MAX));
        let limit = max_results.clamp(1, PAGE_POINTS_MAX) as i64;
        let sql = "SELECT COUNT(*) FROM points WHERE series = $1 AND step BETWEEN $2 AND $3";
        let row = sqlx::query(sql).bind(series).bind(start).bind(end);
        let count: i64 = row.fetch_one(self.database.readers()).await?.try_get(0)?;
        if count > COUNTED_OFF_MAX {
            let sample = self.sample_by_step(series, (start, end), limit).await?;
            if sample.len() as i64 >= limit / 2 {
                return sample.iter().map(|row| point(key, row)).collect();
            }
        }
        // Point i of n is taken where i·(limit−1) passes a multiple of n−1: the first, the last, and evenly between.
        let sql = "SELECT step, timestamp, bits FROM (SELECT step, timestamp, bits, \
                   ROW_NUMBER() OVER (ORDER BY step, timestamp, bits) - 1 AS place \
                   FROM points WHERE series = $1 AND step BETWEEN $2 AND $3) AS numbered \
                   WHERE place = $4 \
                   OR ($5 > 0 AND (place = 0 OR (place * $5) / $6 > ((place - 1) * $5) / $6)) \
                   ORDER BY step, timestamp, bits LIMIT $7";
        let rows = sqlx::query(sql)
            .bind(series)
            .bind(start)
            .bind(end)
            .bind(count - 1)
            .bind(limit - 1)
            .bind((count - 1).max(1))
            .bind(limit)
            .fetch_all(self.database.readers())
            .await?;
        rows.iter().map(|row| point(key, row)).collect()
    }

    /// The first point from each of `limit` steps on that are equally far apart, and the last point. Each is found by the
    /// index, where counting would read all of them.
    async fn sample_by_step(
        &self,
        series: i64,
        (start, end): (i64, i64),
        limit: i64,
    ) -> Result<Vec<AnyRow>, TrackError> {
        let seek = |from: i64, order: &str| {
            let sql = format!(
                "SELECT step, timestamp, bits FROM points WHERE series = $1 AND step BETWEEN $2 AND $3 \
                 ORDER BY step {order}, timestamp {order}, bits {order} LIMIT 1"
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(series)
                .bind(from)
                .bind(end)
                .fetch_optional(self.database.readers())
        };
        let (Some(first), Some(last)) = (seek(start, "ASC").await?, seek(start, "DESC").await?) else {
            return Ok(Vec::new());
        };
        if limit == 1 {
            return Ok(vec![last]);
        }
        let (low, high): (i64, i64) = (first.try_get(0)?, last.try_get(0)?);
        let apart = (i128::from(high) - i128::from(low)) / i128::from(limit - 1);
        let mut sample = vec![first];
        let mut newest = low;
        for place in 1..limit - 1 {
            let from = i64::try_from(i128::from(low) + i128::from(place) * apart).unwrap_or(high);
            // A gap that has swallowed this step gave its end already.
            if from <= newest {
                continue;
            }
            let Some(row) = seek(from, "ASC").await? else { break };
            newest = row.try_get(0)?;
            if newest >= high {
                break;
            }
            sample.push(row);
        }
        sample.push(last);
        Ok(sample)
    }

    async fn series_of(&self, run_id: &str, key: &str) -> Result<Option<i64>, TrackError> {
        let sql = "SELECT r.id, s.id FROM runs r LEFT JOIN series s ON s.run = r.id AND s.key = $2 WHERE r.run_id = $1";
        let row = sqlx::query(sql).bind(run_id).bind(key).fetch_optional(self.database.readers()).await?;
        let row = row.ok_or_else(|| no_run(run_id))?;
        Ok(row.try_get(1)?)
    }
}

fn point(key: &str, row: &AnyRow) -> Result<Metric, TrackError> {
    let value = f64::from_bits(row.try_get::<i64, _>(2)?.cast_unsigned());
    Ok(Metric::new(key, value, row.try_get(1)?, row.try_get(0)?))
}

fn parse_token(token: &str) -> Result<(i64, i64, i64), TrackError> {
    let mut parts = token.splitn(3, ':').map(str::parse::<i64>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(step)), Some(Ok(timestamp)), Some(Ok(bits))) => Ok((step, timestamp, bits)),
        _ => Err(TrackError::invalid("Invalid page token: it was not given by this server")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_by_step_then_time_then_value() {
        let metric = |step, timestamp, value| Metric::new("a", value, timestamp, step);
        let newest = Newest { id: 1, step: 2, timestamp: 5, value: 0.5 };
        assert!(newest.is_before(&metric(3, 0, 0.0)));
        assert!(newest.is_before(&metric(2, 6, 0.0)));
        assert!(newest.is_before(&metric(2, 5, 0.6)));
        assert!(!newest.is_before(&metric(2, 5, 0.5)));
        assert!(!newest.is_before(&metric(1, 9, 9.0)));
        assert!(!newest.is_before(&metric(2, 5, f64::NAN)));
        assert!(!newest.is_before(&metric(2, 5, -f64::NAN)));
        assert!(Newest { value: f64::NAN, ..newest }.is_before(&metric(2, 5, f64::NEG_INFINITY)));
    }

    #[test]
    fn tokens_are_checked() {
        assert_eq!(parse_token("1:-2:3").unwrap(), (1, -2, 3));
        for token in ["", "1", "1:2", "a:b:c", "1:2:3:4", "1:2:99999999999999999999"] {
            assert!(parse_token(token).is_err(), "{token}");
        }
    }
}

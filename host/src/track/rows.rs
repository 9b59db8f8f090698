//! Turns rows of the database into what they mean.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Experiment, Lifecycle, Metric, Pair, RunInfo, TrackError};
use crate::store::Dialect;

/// The columns of [`experiment`].
pub(super) const EXPERIMENT_COLUMNS: &str =
    "e.id, e.name, e.artifact_location, e.created_at, e.updated_at, e.deleted_at";

/// The columns of [`run`].
pub(super) const RUN_COLUMNS: &str = "r.id, r.run_id, r.experiment, r.name, r.user_id, r.status, r.started_at, \
                                      r.ended_at, r.artifact_uri, r.deleted_at";

/// An experiment without its tags, and its key.
pub(super) fn experiment(row: &AnyRow) -> Result<(i64, Experiment), TrackError> {
    let id: i64 = row.try_get(0)?;
    let experiment = Experiment {
        experiment_id: id.to_string(),
        name: row.try_get(1)?,
        artifact_location: row.try_get(2)?,
        creation_time: row.try_get(3)?,
        last_update_time: row.try_get(4)?,
        lifecycle_stage: Lifecycle::of(row.try_get(5)?),
        tags: Vec::new(),
    };
    Ok((id, experiment))
}

/// A run, and its key.
pub(super) fn run(row: &AnyRow) -> Result<(i64, RunInfo), TrackError> {
    let run_id: String = row.try_get(1)?;
    let status: String = row.try_get(5)?;
    let info = RunInfo {
        run_uuid: run_id.clone(),
        run_id,
        experiment_id: row.try_get::<i64, _>(2)?.to_string(),
        run_name: row.try_get(3)?,
        user_id: row.try_get(4)?,
        status: status.parse()?,
        start_time: row.try_get(6)?,
        end_time: row.try_get(7)?,
        artifact_uri: row.try_get(8)?,
        lifecycle_stage: Lifecycle::of(row.try_get(9)?),
    };
    Ok((row.try_get(0)?, info))
}

/// Columns `owner`, `key`, `value`.
pub(crate) fn pair(row: &AnyRow) -> Result<(i64, Pair), TrackError> {
    Ok((row.try_get(0)?, Pair { key: row.try_get(1)?, value: row.try_get(2)? }))
}

/// Columns `run`, `key`, `step`, `timestamp`, `value`, where no value is NaN.
pub(super) fn newest(row: &AnyRow) -> Result<(i64, Metric), TrackError> {
    let value: Option<f64> = row.try_get(4)?;
    let key: String = row.try_get(1)?;
    let metric = Metric::new(key, value.unwrap_or(f64::NAN), row.try_get(3)?, row.try_get(2)?);
    Ok((row.try_get(0)?, metric))
}

/// `$first, $first+1, …`, `count` of them.
pub(crate) fn placeholders(first: usize, count: usize) -> String {
    let mut text = String::with_capacity(count * 5);
    for index in first..first + count {
        if index > first {
            text.push(',');
        }
        text.push('$');
        text.push_str(&index.to_string());
    }
    text
}

/// `($1,$2),($3,$4),…`: `rows` rows of `columns` placeholders.
///
/// SQLite takes them without numbers: a number makes a name of a placeholder, and finding one among a thousand names
/// is slow.
pub(super) fn value_rows(dialect: Dialect, rows: usize, columns: usize) -> String {
    let row = |row: usize| match dialect {
        Dialect::Sqlite => format!("({})", vec!["?"; columns].join(",")),
        Dialect::Postgres => format!("({})", placeholders(row * columns + 1, columns)),
    };
    (0..rows).map(row).collect::<Vec<_>>().join(",")
}

/// An expression for a float at a placeholder that is null where the float is no number.
///
/// The float is bound as it is: the driver gives a missing one the wrong type (sqlx 0.9.0, `AnyArguments::convert_into`).
/// SQLite makes null of a NaN by itself.
pub(super) fn number_or_null(place: &str) -> String {
    format!("NULLIF({place}, 'NaN')")
}

/// Cuts `items` into pieces of a few sizes, so that few different statements are prepared for any number of rows.
pub(crate) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = [1_000, 200, 50, 10].into_iter().find(|&size| size <= items.len()).unwrap_or(items.len());
        let (piece, rest) = items.split_at_checked(size).filter(|_| size > 0)?;
        items = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_placeholders() {
        assert_eq!(placeholders(3, 2), "$3,$4");
        assert_eq!(value_rows(Dialect::Postgres, 2, 3), "($1,$2,$3),($4,$5,$6)");
        assert_eq!(value_rows(Dialect::Sqlite, 2, 3), "(?,?,?),(?,?,?)");
    }

    #[test]
    fn pieces_hold_everything_in_order() {
        assert_eq!(pieces::<u32>(&[]).count(), 0);
        let items: Vec<u32> = (0..1_475).collect();
        let cut: Vec<&[u32]> = pieces(&items).collect();
        assert_eq!(cut.concat(), items);
        assert_eq!(cut.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [1_000, 200, 200, 50, 10, 10, 5]);
    }
}

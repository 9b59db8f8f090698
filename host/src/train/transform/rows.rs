use super::{TransformError, TransformEvent, TransformSpec, filters, unknown_column};
use crate::data::{self, BATCH_ROWS, Filter, ResolvedDataset, SplitRule};
use crate::domain::Batch;
use crate::store::Store;
use crate::train::matrix::Split;

/// The rows of a version that are kept, with the columns that are; can be read again and again.
pub(super) struct Rows<'a> {
    store: &'a Store,
    dataset: &'a ResolvedDataset,
    filters: Vec<Filter>,
    rows_max: u64,
    split: Option<SplitRule>,
    /// Columns that are left out.
    dropped: Vec<String>,
}

impl<'a> Rows<'a> {
    pub(super) fn open(
        store: &'a Store,
        spec: &'a TransformSpec,
        label: Option<&str>,
    ) -> Result<Self, TransformError> {
        let schema = &spec.dataset.manifest.schema;
        let stray = spec.select.iter().find(|name| !schema.iter().any(|column| column.name == **name));
        if let Some(name) = stray {
            return Err(unknown_column(spec, name));
        }
        if schema.is_empty() {
            let (name, number) = (spec.dataset.name.clone(), spec.dataset.version.number);
            let files = spec.dataset.manifest.files.len();
            return Err(data::DataError::NoRows { name, number, files }.into());
        }
        let is_kept = |name: &String| {
            spec.select.is_empty() || spec.select.contains(name) || label == Some(name.as_str())
        };
        let names = schema.iter().map(|column| column.name.clone());
        Ok(Self {
            store,
            dataset: &spec.dataset,
            filters: filters(spec)?,
            rows_max: spec.rows.unwrap_or(u64::MAX),
            split: spec.split,
            dropped: names.filter(|name| !is_kept(name)).collect(),
        })
    }

    /// Rows that are read at most.
    pub(super) fn available(&self, wanted: Option<Split>) -> u64 {
        self.stored(wanted).map(|(_, rows)| rows).sum()
    }

    /// The splits to read for one of the new version's, or for all: where rows are split anew, the first rows come first.
    fn stored(&self, wanted: Option<Split>) -> impl Iterator<Item = (Split, u64)> {
        let wanted = wanted.filter(|_| self.split.is_none());
        [Split::Train, Split::Test].into_iter().filter_map(move |split| {
            let stored = self.dataset.manifest.splits.iter().find(|stored| stored.name == split.as_str())?;
            wanted.is_none_or(|wanted| wanted == split).then_some((split, stored.rows))
        })
    }

    /// Gives the rows of a split, or of all of them, batch after batch; no batch is empty.
    pub(super) fn read(
        &self,
        wanted: Option<Split>,
        progress: &(dyn Fn(TransformEvent) + Sync),
        each: &mut dyn FnMut(Split, Batch) -> Result<(), TransformError>,
    ) -> Result<(), TransformError> {
        let (mut left, mut place) = (self.rows_max, 0_u64);
        for (stored, _) in self.stored(wanted) {
            if self.split.is_none() {
                left = self.rows_max;
            }
            let manifest = &self.dataset.manifest;
            for batch in data::open_split(self.store, manifest, stored.as_str(), BATCH_ROWS)? {
                if left == 0 {
                    break;
                }
                let mut batch = batch?;
                let rows = batch.rows() as u64;
                let mut kept = vec![true; batch.rows()];
                self.filters.iter().for_each(|filter| filter.apply(&batch, &mut kept));
                left -= limit(&mut kept, left);
                for name in &self.dropped {
                    batch.take_column(name);
                }
                self.divide(stored, place, batch, &kept, wanted, each)?;
                place += rows;
                progress(TransformEvent::Rows(rows));
            }
        }
        Ok(())
    }

    /// Gives the kept rows of a batch to the splits that they belong to.
    fn divide(
        &self,
        stored: Split,
        first_place: u64,
        batch: Batch,
        kept: &[bool],
        wanted: Option<Split>,
        each: &mut dyn FnMut(Split, Batch) -> Result<(), TransformError>,
    ) -> Result<(), TransformError> {
        let Some(rule) = self.split else {
            return match kept.iter().all(|kept| *kept) {
                true => each(stored, batch),
                false if kept.contains(&true) => each(stored, batch.keep_rows(kept)),
                false => Ok(()),
            };
        };
        for split in [Split::Train, Split::Test] {
            if wanted.is_some_and(|wanted| wanted != split) {
                continue;
            }
            let belongs =
                |(place, kept): (u64, &bool)| *kept && rule.is_test(place) == (split == Split::Test);
            let kept: Vec<bool> = (first_place..).zip(kept).map(belongs).collect();
            if kept.contains(&true) {
                each(split, batch.keep_rows(&kept))?;
            }
        }
        Ok(())
    }
}

/// Leaves the first `most` of those that are kept; gives how many are.
fn limit(kept: &mut [bool], most: u64) -> u64 {
    let mut count = 0;
    for kept in kept.iter_mut().filter(|kept| **kept) {
        *kept = count < most;
        count += u64::from(*kept);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_kept_rows_stay() {
        for (most, expected) in [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)] {
            let mut kept = [true, false, true, true];
            assert_eq!(limit(&mut kept, most), expected);
            assert_eq!(kept.iter().filter(|kept| **kept).count() as u64, expected);
            assert_eq!(kept[0], most > 0);
        }
    }
}

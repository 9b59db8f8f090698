//! What the columns of a dataset look like: counts, moments, distinct values. Streams; holds a bounded amount a column.

mod running;
mod sample;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use serde::{Deserialize, Serialize};

use self::running::Running;
pub use self::sample::{Histogram, Quantiles};
use self::sample::{Sample, describe};
use super::inferred::INTEGER_MAX;
use crate::domain::{Batch, DataType, Tensor};

/// Distinct values counted exactly; each costs some 10 bytes a column.
const DISTINCT_MAX: usize = 10_000;

/// Numbers that are looked at at a time: they stay in a core's fastest cache.
const BLOCK: usize = 2_048;

/// Places for numbers that were seen of late.
const RECENT: usize = 1_024;

/// Distinct integers up to which each is counted on its own, which shows how balanced labels are.
const VALUES_MAX: usize = 100;

/// What one column looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnStatistics {
    /// Column name.
    pub name: String,
    /// Elements, the missing ones included; for a column of images that is rows × pixels.
    pub count: u64,
    /// Elements that are missing: NaN, or for BYTES empty.
    pub missing: u64,
    /// How many different values the others have.
    pub distinct: Distinct,
    /// Moments of the finite numbers; none for BYTES and where there are no numbers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moments: Option<Moments>,
    /// Smallest and largest value of INT64 and UINT64, where the moments might not hold them exactly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub integers: Option<IntegerRange>,
    /// Shortest and longest byte string that is not missing; only for BYTES.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length: Option<LengthRange>,
    /// How often each value occurs, in ascending order; only for integers and booleans with few of them, one a row.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub values: Option<Vec<ValueCount>>,
    /// Quantiles of the finite numbers; of types of more than one byte only where there is one a row.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quantiles: Option<Quantiles>,
    /// How the finite numbers are distributed, where they have quantiles.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub histogram: Option<Histogram>,
    /// Whether quantiles and histogram were taken from a part of the rows, because there are many.
    #[serde(skip_serializing_if = "is_false", default)]
    pub sampled: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Number of distinct values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distinct {
    /// As many as this.
    Exactly(u64),
    /// Counting was given up here.
    MoreThan(u64),
}

/// Moments of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population (divided by n).
    pub std: f64,
}

/// Smallest and largest of integers, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerRange {
    /// Smallest.
    pub min: i128,
    /// Largest.
    pub max: i128,
}

/// Lengths of byte strings, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthRange {
    /// Of the shortest.
    pub min: u64,
    /// Of the longest.
    pub max: u64,
}

/// How often a value occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueCount {
    /// The value.
    pub value: i64,
    /// How often.
    pub count: u64,
}

/// Gathers statistics from batch after batch with the same columns.
#[derive(Default)]
pub struct StatisticsBuilder {
    columns: Vec<Column>,
    first_row: u64,
}

struct Column {
    name: String,
    dtype: DataType,
    one_a_row: bool,
    count: u64,
    missing: u64,
    /// How often each byte occurs, for types of one byte, from which all else follows.
    bytes: Option<Box<[u64; 256]>>,
    running: Running,
    distinct: HashSet<u64, BuildHasherDefault<DefaultHasher>>,
    /// Some numbers that are among the distinct ones for sure, so that those that occur again and again cost little. No
    /// number is NaN.
    recent: Box<[u64; RECENT]>,
    values: Option<BTreeMap<i64, u64>>,
    sample: Sample,
    integers: Option<IntegerRange>,
    length: Option<LengthRange>,
}

impl StatisticsBuilder {
    /// Statistics of a part of the rows that starts at this one.
    pub fn from_row(first_row: u64) -> Self {
        Self { columns: Vec::new(), first_row }
    }

    /// Adds the rows of `batch`.
    pub fn observe(&mut self, batch: &Batch) {
        if self.columns.is_empty() {
            let first_row = self.first_row;
            self.columns = batch.tensors().iter().map(|tensor| Column::new(tensor, first_row)).collect();
        }
        for (column, tensor) in self.columns.iter_mut().zip(batch.tensors()) {
            column.observe(tensor);
        }
    }

    /// Adds the rows that follow, which were looked at apart and have the same columns.
    pub fn merge(&mut self, other: Self) {
        if self.columns.is_empty() {
            self.columns = other.columns;
            return;
        }
        for (column, other) in self.columns.iter_mut().zip(other.columns) {
            column.merge(other);
        }
    }

    /// The statistics of every column.
    pub fn finish(self) -> Vec<ColumnStatistics> {
        self.columns.into_iter().map(Column::finish).collect()
    }
}

impl Column {
    fn new(tensor: &Tensor, first_row: u64) -> Self {
        let dtype = tensor.dtype();
        let one_a_row = tensor.row_elements() == 1;
        let integer = matches!(
            dtype,
            DataType::Uint16 | DataType::Uint32 | DataType::Int16 | DataType::Int32 | DataType::Int64
        );
        Self {
            name: tensor.name().to_owned(),
            dtype,
            one_a_row,
            count: 0,
            missing: 0,
            bytes: (dtype.size() == Some(1)).then(|| Box::new([0; 256])),
            running: Running::default(),
            distinct: HashSet::default(),
            recent: Box::new([f64::NAN.to_bits(); RECENT]),
            values: (one_a_row && integer).then(BTreeMap::new),
            sample: Sample::from_place(first_row),
            integers: None,
            length: None,
        }
    }

    fn observe(&mut self, tensor: &Tensor) {
        self.count += tensor.shape().iter().product::<usize>() as u64;
        if let Some(bytes) = &mut self.bytes {
            for &byte in tensor.data() {
                if let Some(count) = bytes.get_mut(usize::from(byte)) {
                    *count += 1;
                }
            }
        } else if self.dtype == DataType::Bytes {
            for value in tensor.byte_strings() {
                self.observe_string(value);
            }
        } else {
            tensor.number_blocks(BLOCK).for_each(|values| self.observe_numbers(&values));
            if matches!(self.dtype, DataType::Int64 | DataType::Uint64) {
                self.observe_integers(tensor.data());
            }
        }
    }

    fn observe_numbers(&mut self, values: &[f64]) {
        self.missing += values.iter().filter(|value| value.is_nan()).count() as u64;
        self.running.merge(&Running::of(values));
        if self.one_a_row {
            values.iter().filter(|value| value.is_finite()).for_each(|&value| self.sample.observe(value));
        }
        let is_counted_otherwise = matches!(self.dtype, DataType::Int64 | DataType::Uint64);
        if is_counted_otherwise || (self.distinct.len() > DISTINCT_MAX && self.values.is_none()) {
            return;
        }
        for &value in values.iter().filter(|value| !value.is_nan()) {
            // Adding zero makes -0 and 0 the same.
            let key = (value + 0.0).to_bits();
            let slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
            let recent = self.recent.get_mut(slot);
            let is_known = recent.is_some_and(|recent| std::mem::replace(recent, key) == key);
            if !is_known || self.values.is_some() {
                self.observe_distinct(key, value as i64);
            }
        }
    }

    /// Adds the rows that follow.
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.missing += other.missing;
        if let (Some(bytes), Some(more)) = (&mut self.bytes, other.bytes) {
            bytes.iter_mut().zip(more.iter()).for_each(|(count, more)| *count += more);
        }
        self.running.merge(&other.running);
        let room = (DISTINCT_MAX + 1).saturating_sub(self.distinct.len());
        let new: Vec<u64> = other.distinct.difference(&self.distinct).take(room).copied().collect();
        self.distinct.extend(new);
        self.values = self.values.take().zip(other.values).map(|(mut values, more)| {
            more.into_iter().for_each(|(value, count)| *values.entry(value).or_default() += count);
            values
        });
        self.values.take_if(|values| values.len() > VALUES_MAX);
        self.sample.merge(other.sample);
        let ranges = self.integers.into_iter().chain(other.integers);
        self.integers = ranges.reduce(|a, b| IntegerRange { min: a.min.min(b.min), max: a.max.max(b.max) });
        let lengths = self.length.into_iter().chain(other.length);
        self.length = lengths.reduce(|a, b| LengthRange { min: a.min.min(b.min), max: a.max.max(b.max) });
    }

    fn observe_string(&mut self, value: &[u8]) {
        if value.is_empty() {
            self.missing += 1;
            return;
        }
        let length = value.len() as u64;
        let LengthRange { min, max } = self.length.unwrap_or(LengthRange { min: length, max: length });
        self.length = Some(LengthRange { min: min.min(length), max: max.max(length) });
        if self.distinct.len() <= DISTINCT_MAX {
            // By hash: among ten thousand values two share one of 64 bits once in 10^11 datasets.
            self.distinct.insert(BuildHasherDefault::<DefaultHasher>::default().hash_one(value));
        }
    }

    /// Integers of eight bytes, of which FP64 would take neighbours for the same.
    fn observe_integers(&mut self, data: &[u8]) {
        for bytes in data.as_chunks::<8>().0 {
            let bits = u64::from_le_bytes(*bytes);
            let value = match self.dtype {
                DataType::Uint64 => i128::from(bits),
                _ => i128::from(bits.cast_signed()),
            };
            let IntegerRange { min, max } = self.integers.unwrap_or(IntegerRange { min: value, max: value });
            self.integers = Some(IntegerRange { min: min.min(value), max: max.max(value) });
            self.observe_distinct(bits, bits.cast_signed());
        }
    }

    /// One value: what tells it from others, and the integer that it is, if it is one.
    fn observe_distinct(&mut self, key: u64, integer: i64) {
        if self.distinct.len() > DISTINCT_MAX && self.values.is_none() {
            return;
        }
        self.distinct.insert(key);
        if let Some(values) = &mut self.values {
            *values.entry(integer).or_default() += 1;
            if values.len() > VALUES_MAX {
                self.values = None;
            }
        }
    }

    fn finish(mut self) -> ColumnStatistics {
        let mut distinct = self.distinct.len();
        let mut described = self.sample.finish();
        if let Some(bytes) = self.bytes.take() {
            let signed = self.dtype == DataType::Int8;
            let value = |byte: usize| if signed { i64::from(byte as u8 as i8) } else { byte as i64 };
            let mut counts: Vec<_> = bytes.iter().enumerate().filter(|(_, count)| **count > 0).collect();
            counts.sort_by_key(|(byte, _)| value(*byte));
            for &(byte, &count) in &counts {
                self.running.merge(&Running::repeated(value(byte) as f64, count as f64));
            }
            distinct = counts.len();
            if self.one_a_row && distinct <= VALUES_MAX {
                self.values = Some(counts.iter().map(|(byte, count)| (value(*byte), **count)).collect());
            }
            let counts: Vec<_> = counts.iter().map(|(byte, count)| (value(*byte) as f64, **count)).collect();
            described = describe(&counts).map(|(quantiles, histogram)| (quantiles, histogram, false));
        }
        let value_count = |(value, count)| ValueCount { value, count };
        let sampled = described.as_ref().is_some_and(|(.., sampled)| *sampled);
        let (quantiles, histogram) =
            described.map(|(quantiles, histogram, _)| (quantiles, histogram)).unzip();
        ColumnStatistics {
            name: self.name,
            count: self.count,
            missing: self.missing,
            distinct: match distinct {
                0..=DISTINCT_MAX => Distinct::Exactly(distinct as u64),
                _ => Distinct::MoreThan(DISTINCT_MAX as u64),
            },
            moments: self.running.moments(),
            integers: self.integers.filter(|range| {
                [range.min, range.max].iter().any(|value| value.unsigned_abs() > u128::from(INTEGER_MAX))
            }),
            length: self.length,
            values: self.values.map(|counts| counts.into_iter().map(value_count).collect()),
            quantiles,
            histogram,
            sampled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(batches: &[Vec<Tensor>]) -> Vec<ColumnStatistics> {
        let mut builder = StatisticsBuilder::default();
        for tensors in batches {
            builder.observe(&Batch::new(tensors.clone()).unwrap());
        }
        builder.finish()
    }

    fn floats(values: &[f64]) -> Tensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new("x", DataType::Fp64, vec![values.len()], data).unwrap()
    }

    #[test]
    fn moments_do_not_depend_on_batches_and_survive_large_means() {
        let values: Vec<f64> = (0..1_000).map(|value| 1e9 + f64::from(value % 10)).collect();
        for size in [1, 7, 1_000] {
            let batches: Vec<_> = values.chunks(size).map(|chunk| vec![floats(chunk)]).collect();
            let found = statistics(&batches).remove(0);
            let moments = found.moments.unwrap();
            assert!((moments.mean - 1e9 - 4.5).abs() < 1e-6, "{moments:?}");
            assert!((moments.std - 8.25_f64.sqrt()).abs() < 1e-6, "{moments:?}");
            assert_eq!((moments.min, moments.max), (1e9, 1e9 + 9.0));
            assert_eq!((found.count, found.distinct), (1_000, Distinct::Exactly(10)));
            assert!(found.values.is_none(), "only integers have one");
        }
    }

    #[test]
    fn missing_and_infinite_values_stay_out_of_the_moments() {
        let found = statistics(&[vec![floats(&[1.0, f64::NAN, 3.0, f64::INFINITY])]]).remove(0);
        assert_eq!((found.count, found.missing), (4, 1));
        assert_eq!(found.moments.unwrap(), Moments { min: 1.0, max: 3.0, mean: 2.0, std: 1.0 });
        let none = statistics(&[vec![floats(&[f64::NAN])]]).remove(0);
        assert_eq!((none.moments, none.distinct), (None, Distinct::Exactly(0)));
        let extreme = statistics(&[vec![floats(&[f64::MAX, f64::MIN])]]).remove(0);
        let text = serde_json::to_string(&extreme).unwrap();
        assert_eq!(serde_json::from_str::<ColumnStatistics>(&text).unwrap(), extreme);
    }

    #[test]
    fn labels_are_counted_one_by_one() {
        let labels = Tensor::new("label", DataType::Uint8, vec![5], vec![9, 0, 9, 3, 9]).unwrap();
        let found = statistics(&[vec![labels]]).remove(0);
        let expected = [(0, 1), (3, 1), (9, 3)].map(|(value, count)| ValueCount { value, count });
        assert_eq!(found.values.unwrap(), expected);
        assert_eq!(found.moments.unwrap().mean, 6.0);
        let wide: Vec<u8> = (0..1_000_i64).flat_map(i64::to_le_bytes).collect();
        let wide =
            statistics(&[vec![Tensor::new("id", DataType::Int64, vec![1_000], wide).unwrap()]]).remove(0);
        assert!(wide.values.is_none());
        assert_eq!(wide.distinct, Distinct::Exactly(1_000));
        let signed = Tensor::new("s", DataType::Int8, vec![2], vec![255, 1]).unwrap();
        let signed = statistics(&[vec![signed]]).remove(0);
        assert_eq!(signed.values.unwrap()[0], ValueCount { value: -1, count: 1 });
    }

    #[test]
    fn images_have_no_histogram_and_strings_have_lengths() {
        let image = Tensor::new("pixels", DataType::Uint8, vec![1, 2, 2], vec![0, 0, 255, 255]).unwrap();
        let names = Tensor::from_strings("s", [&b"abc"[..]]).unwrap();
        let found = statistics(&[vec![image, names]]);
        assert_eq!(found[0].count, 4);
        assert_eq!(found[0].moments.unwrap().std, 127.5);
        assert!(found[0].values.is_none());
        assert_eq!(found[1].length, Some(LengthRange { min: 3, max: 3 }));
    }

    #[test]
    fn moments_of_the_largest_floats_are_finite() {
        let batches = [1.7e308, -1.7e308].map(|value| vec![floats(&[value; 1_024])]);
        for batches in [&batches[..], &[vec![floats(&[1.7e308, -1.7e308])]]] {
            let moments = statistics(batches).remove(0).moments.unwrap();
            assert_eq!((moments.min, moments.max), (-1.7e308, 1.7e308));
            assert!(moments.mean.abs() < 1e292 && (moments.std / 1.7e308 - 1.0).abs() < 1e-12, "{moments:?}");
        }
        let moments = statistics(&[vec![floats(&[3.0])], vec![floats(&[1e300])]]).remove(0).moments.unwrap();
        assert!((moments.mean / 5e299 - 1.0).abs() < 1e-12, "{moments:?}");
        let moments = statistics(&[vec![floats(&[f64::MAX; 3])]]).remove(0).moments.unwrap();
        assert_eq!((moments.mean, moments.max), (f64::MAX, f64::MAX));
    }

    #[test]
    fn large_integers_are_counted_exactly() {
        let integers = |values: &[i64]| {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            statistics(&[vec![Tensor::new("id", DataType::Int64, vec![values.len()], data).unwrap()]])
        };
        let start = 1_i64 << 53;
        let found = integers(&[start + 1, start, -start - 1, start]).remove(0);
        assert_eq!(found.distinct, Distinct::Exactly(3));
        let expected = [(-start - 1, 1), (start, 2), (start + 1, 1)];
        assert_eq!(
            found.values.as_deref().unwrap(),
            expected.map(|(value, count)| ValueCount { value, count })
        );
        let range = IntegerRange { min: i128::from(-start - 1), max: i128::from(start + 1) };
        assert_eq!(found.integers, Some(range));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<ColumnStatistics>(&text).unwrap(), found);
        assert_eq!(integers(&[start, 1]).remove(0).integers, None, "the moments hold them");
        let data: Vec<u8> = [u64::MAX, u64::MAX - 1].into_iter().flat_map(u64::to_le_bytes).collect();
        let found =
            statistics(&[vec![Tensor::new("id", DataType::Uint64, vec![2], data).unwrap()]]).remove(0);
        let largest = i128::from(u64::MAX);
        assert_eq!(found.integers, Some(IntegerRange { min: largest - 1, max: largest }));
        assert_eq!(found.distinct, Distinct::Exactly(2));
        let value = serde_json::to_value(&found).unwrap();
        assert_eq!(serde_json::from_value::<ColumnStatistics>(value).unwrap(), found);
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let rows = 30_000_usize;
        let numbers: Vec<f32> = (0..rows * 2).map(|index| (index % 700) as f32 - 0.5).collect();
        let narrow: Vec<u8> = (0..rows).flat_map(|row| ((row % 90) as u16).to_le_bytes()).collect();
        let wide: Vec<u8> = (0..rows as i64).flat_map(i64::to_le_bytes).collect();
        let texts: Vec<String> = (0..rows).map(|row| "x".repeat(row % 7)).collect();
        let whole = Batch::new(vec![
            Tensor::from_f32("x", vec![rows, 2], &numbers).unwrap(),
            Tensor::new("narrow", DataType::Uint16, vec![rows], narrow).unwrap(),
            Tensor::new("wide", DataType::Int64, vec![rows], wide).unwrap(),
            Tensor::new("byte", DataType::Uint8, vec![rows], (0..rows).map(|row| row as u8).collect())
                .unwrap(),
            Tensor::from_strings("s", texts.iter().map(|text| text.as_bytes())).unwrap(),
        ])
        .unwrap();
        let mut merged = StatisticsBuilder::default();
        for start in (0..rows).step_by(4_000) {
            let mut part = StatisticsBuilder::from_row(start as u64);
            part.observe(&whole.slice_rows(start..(start + 4_000).min(rows)).unwrap());
            merged.merge(part);
        }
        let mut expected = StatisticsBuilder::default();
        expected.observe(&whole);
        for (merged, expected) in merged.finish().into_iter().zip(expected.finish()) {
            let both = merged.moments.zip(expected.moments);
            if let Some((merged, expected)) = both {
                assert!((merged.mean - expected.mean).abs() < 1e-9, "{merged:?}, {expected:?}");
                assert!((merged.std - expected.std).abs() < 1e-9, "{merged:?}, {expected:?}");
            }
            assert_eq!(ColumnStatistics { moments: expected.moments, ..merged }, expected);
        }
    }

    #[test]
    fn counting_distinct_values_ends() {
        let values: Vec<f64> = (0..20_000).map(f64::from).collect();
        assert_eq!(statistics(&[vec![floats(&values)]]).remove(0).distinct, Distinct::MoreThan(10_000));
    }
}

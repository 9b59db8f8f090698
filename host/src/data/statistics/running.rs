use super::Moments;

/// Count, mean and squared deviations so far, merged as in Chan, Golub, LeVeque: "Updating Formulae and a Pairwise
/// Algorithm for Computing Sample Variances" (1979). Summing squares instead would lose everything for large means.
#[derive(Clone, Copy)]
pub(super) struct Running {
    count: f64,
    /// What `mean` and `squares` count in: 1, or [`LARGE`] once there were values whose squares would be infinite.
    unit: f64,
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
}

/// Beyond this, sums of squares might be infinite.
const SMALL_MAX: f64 = 1e140;

/// 2^600: the largest floats are some 10^127 of it, and dividing by it is exact.
const LARGE: f64 = f64::from_bits((1023 + 600) << 52);

impl Default for Running {
    fn default() -> Self {
        Self { count: 0.0, unit: 1.0, mean: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Running {
    /// Those of some values; what is not finite is left out.
    pub(super) fn of(values: &[f64]) -> Self {
        let count = sum(values, |_| 1.0);
        if count == 0.0 {
            return Self::default();
        }
        let smaller = |a: f64, b: f64| if b.is_finite() && b < a { b } else { a };
        let larger = |a: f64, b: f64| if b.is_finite() && b > a { b } else { a };
        let min = fold(values, f64::INFINITY, smaller);
        let max = fold(values, f64::NEG_INFINITY, larger);
        let unit = if max.max(-min) > SMALL_MAX { LARGE } else { 1.0 };
        let mean = sum(values, |value| value / unit) / count;
        let squares = sum(values, |value| (value / unit - mean) * (value / unit - mean));
        Self { count, unit, mean, squares, min, max }
    }

    /// Those of one value, so many times.
    pub(super) fn repeated(value: f64, count: f64) -> Self {
        Self { count, unit: 1.0, mean: value, squares: 0.0, min: value, max: value }
    }

    /// Adds others.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0.0 {
            return;
        }
        let unit = self.unit.max(other.unit);
        let other = other.count_in(unit);
        *self = self.count_in(unit);
        let count = self.count + other.count;
        let step = other.mean - self.mean;
        self.squares += other.squares + step * step * self.count * other.count / count;
        self.mean += step * other.count / count;
        self.count = count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The same in a unit that is not smaller.
    fn count_in(&self, unit: f64) -> Self {
        let by = unit / self.unit;
        // Its square would be infinite.
        Self { unit, mean: self.mean / by, squares: self.squares / by / by, ..*self }
    }

    /// None where there was no number.
    pub(super) fn moments(&self) -> Option<Moments> {
        if self.count == 0.0 {
            return None;
        }
        // Rounding must not lead out of the range, nor to infinities, which JSON cannot hold.
        let mean = (self.mean * self.unit).clamp(self.min, self.max);
        let std = ((self.squares / self.count).sqrt() * self.unit).min(f64::MAX);
        Some(Moments { min: self.min, max: self.max, mean, std })
    }
}

/// Independent folds that are under way at once, so that the processor can do several in one instruction.
const LANES: usize = 8;

fn fold(values: &[f64], start: f64, step: impl Fn(f64, f64) -> f64) -> f64 {
    let mut folded = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks.iter().map(<[f64; LANES]>::as_slice).chain([rest]) {
        for (folded, &value) in folded.iter_mut().zip(chunk) {
            *folded = step(*folded, value);
        }
    }
    folded.into_iter().fold(start, step)
}

/// The sum over finite values of what `term` makes of them.
fn sum(values: &[f64], term: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks.iter().map(<[f64; LANES]>::as_slice).chain([rest]) {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += if value.is_finite() { term(value) } else { 0.0 };
        }
    }
    sums.iter().sum()
}

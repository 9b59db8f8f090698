//! Matrix products for small matrices that lie in cache, as networks multiply them.
//!
//! Every element of a product is one chain of fused multiply-adds in the order of the rows of the right matrix. So its
//! bits depend neither on how many rows are multiplied together, nor on the width of the processor's registers.

#![expect(clippy::indexing_slicing, reason = "numeric kernels; shapes are checked when a network is made")]

use pulp::{Arch, Simd, WithSimd};

/// Columns that are multiplied together: what the widest registers hold.
pub(crate) const LANES: usize = 16;

/// A row of a panel.
pub(crate) type Lanes = [f32; LANES];

/// A matrix in panels of [`LANES`] columns, each row-major; the last is filled with zeros.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Panels {
    rows: usize,
    columns: usize,
    lanes: Vec<Lanes>,
}

impl Panels {
    /// A matrix of zeros.
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, lanes: vec![[0.0; LANES]; rows * columns.div_ceil(LANES)] }
    }

    /// Takes a row-major matrix.
    pub(crate) fn pack(values: &[f32], rows: usize, columns: usize) -> Self {
        let mut packed = Self::zeros(rows, columns);
        if rows == 0 || columns == 0 {
            return packed;
        }
        for (panel, lanes) in packed.lanes.chunks_exact_mut(rows).enumerate() {
            let first = panel * LANES;
            let width = LANES.min(columns - first);
            for (lanes, row) in lanes.iter_mut().zip(values.chunks_exact(columns)) {
                lanes[..width].copy_from_slice(&row[first..first + width]);
            }
        }
        packed
    }

    /// Takes the transpose of a row-major matrix of `rows` columns.
    pub(crate) fn pack_transposed(values: &[f32], rows: usize, columns: usize) -> Self {
        let mut packed = Self::zeros(rows, columns);
        for (column, values) in values.chunks_exact(rows.max(1)).enumerate() {
            let panel = &mut packed.lanes[column / LANES * rows..][..rows];
            for (lanes, value) in panel.iter_mut().zip(values) {
                lanes[column % LANES] = *value;
            }
        }
        packed
    }

    /// The matrix as it is without panels: row-major.
    pub(crate) fn unpack(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        if values.is_empty() {
            return values;
        }
        for (panel, lanes) in self.lanes.chunks_exact(self.rows).enumerate() {
            let first = panel * LANES;
            let width = LANES.min(self.columns - first);
            for (lanes, row) in lanes.iter().zip(values.chunks_exact_mut(self.columns)) {
                row[first..first + width].copy_from_slice(&lanes[..width]);
            }
        }
        values
    }

    /// The rows of all panels, one panel after another.
    pub(crate) fn lanes(&self) -> &[Lanes] {
        &self.lanes
    }

    /// The rows of all panels, to write to.
    pub(crate) fn lanes_mut(&mut self) -> &mut [Lanes] {
        &mut self.lanes
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

/// A matrix whose elements lie somewhere in `data`: that of row `i` and column `k` at `bases[i] + offsets[k]`.
///
/// So the patches of an image under a kernel that slides over it are a matrix without being copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// Where the elements are.
    pub data: &'a [f32],
    /// Where rows begin.
    pub bases: &'a [usize],
    /// Where columns lie in a row.
    pub offsets: &'a [usize],
}

/// Writes `view · right + bias` to the row-major `out`; `bias` has one row of lanes for each panel of `right`.
pub(crate) fn multiply(view: View<'_>, right: &Panels, bias: &[Lanes], out: &mut [f32]) {
    Arch::new().dispatch(Multiply { view, right, bias, out });
}

/// Adds `viewᵀ · right` to `out`; both are the rows of whole panels, one panel after another.
pub(crate) fn multiply_transposed(view: View<'_>, right: &[Lanes], out: &mut [Lanes]) {
    Arch::new().dispatch(MultiplyTransposed { view, right, out });
}

/// Where the numbers are of which each output is the largest: those of `channels` channels at `corner + offset`, for each
/// of `offsets`, counted in positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pooling<'a> {
    pub product: &'a [f32],
    pub channels: usize,
    pub corners: &'a [usize],
    pub offsets: &'a [usize],
}

/// Takes the largest numbers, of which NaN is one; `taken`, if it is not empty, is told which of the offsets each came from,
/// the first of equals and the last NaN.
pub(crate) fn pool(pooling: Pooling<'_>, output: &mut [f32], taken: &mut [u32]) {
    Arch::new().dispatch(Pool { pooling, output, taken });
}

struct Pool<'a> {
    pooling: Pooling<'a>,
    output: &'a mut [f32],
    taken: &'a mut [u32],
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Pooling { product, channels, corners, offsets } = self.pooling;
        let mut taken = self.taken.chunks_exact_mut(channels);
        for (corner, output) in corners.iter().zip(self.output.chunks_exact_mut(channels)) {
            let values = |offset: usize| &product[(corner + offset) * channels..][..channels];
            output.copy_from_slice(values(offsets[0]));
            let Some(taken) = taken.next() else {
                for &offset in &offsets[1..] {
                    for (output, &value) in output.iter_mut().zip(values(offset)) {
                        // Not `f32::max`, which drops NaN.
                        *output = if value > *output || value.is_nan() { value } else { *output };
                    }
                }
                continue;
            };
            taken.fill(0);
            for (within, &offset) in (1..).zip(&offsets[1..]) {
                for ((output, taken), &value) in output.iter_mut().zip(&mut *taken).zip(values(offset)) {
                    let larger = value > *output || value.is_nan();
                    *output = if larger { value } else { *output };
                    *taken = if larger { within } else { *taken };
                }
            }
        }
    }
}

struct Multiply<'a> {
    view: View<'a>,
    right: &'a Panels,
    bias: &'a [Lanes],
    out: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many rows as leave registers for the operands.
        match S::F32_LANES {
            16 => self.run::<S, 1>(simd, 8),
            8 => self.run::<S, 2>(simd, 6),
            4 => self.run::<S, 4>(simd, 5),
            _ => self.run::<S, 16>(simd, 1),
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(&mut self, simd: S, rows_max: usize) {
        let rows = self.view.bases.len();
        for panel in 0..self.bias.len() {
            for (first, count) in tiles(rows, rows_max) {
                match count {
                    1 => self.tile::<S, N, 1>(simd, panel, first),
                    2 => self.tile::<S, N, 2>(simd, panel, first),
                    3 => self.tile::<S, N, 3>(simd, panel, first),
                    4 => self.tile::<S, N, 4>(simd, panel, first),
                    5 => self.tile::<S, N, 5>(simd, panel, first),
                    6 => self.tile::<S, N, 6>(simd, panel, first),
                    7 => self.tile::<S, N, 7>(simd, panel, first),
                    _ => self.tile::<S, N, 8>(simd, panel, first),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, panel: usize, first: usize) {
        let View { data, bases, offsets } = self.view;
        let rows = self.right.rows;
        let lanes = &self.right.lanes[panel * rows..][..rows];
        let bases: [usize; R] = std::array::from_fn(|row| bases[first + row]);
        let start: [S::f32s; N] = bytemuck::cast(self.bias[panel]);
        let mut sums = [start; R];
        for (&offset, lanes) in offsets.iter().zip(lanes) {
            let right: [S::f32s; N] = bytemuck::cast(*lanes);
            for (sums, base) in sums.iter_mut().zip(bases) {
                let left = simd.splat_f32s(data[base + offset]);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_f32s(left, right, *sum);
                }
            }
        }
        let columns = self.right.columns;
        let column = panel * LANES;
        let width = LANES.min(columns - column);
        for (row, sums) in sums.into_iter().enumerate() {
            let sums: Lanes = bytemuck::cast(sums);
            let at = (first + row) * columns + column;
            self.out[at..at + width].copy_from_slice(&sums[..width]);
        }
    }
}

struct MultiplyTransposed<'a> {
    view: View<'a>,
    right: &'a [Lanes],
    out: &'a mut [Lanes],
}

impl WithSimd for MultiplyTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1>(simd, 8),
            8 => self.run::<S, 2>(simd, 6),
            4 => self.run::<S, 4>(simd, 5),
            _ => self.run::<S, 16>(simd, 1),
        }
    }
}

impl MultiplyTransposed<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(&mut self, simd: S, rows_max: usize) {
        let rows = self.view.offsets.len();
        for panel in 0..self.out.len() / rows.max(1) {
            for (first, count) in tiles(rows, rows_max) {
                match count {
                    1 => self.tile::<S, N, 1>(simd, panel, first),
                    2 => self.tile::<S, N, 2>(simd, panel, first),
                    3 => self.tile::<S, N, 3>(simd, panel, first),
                    4 => self.tile::<S, N, 4>(simd, panel, first),
                    5 => self.tile::<S, N, 5>(simd, panel, first),
                    6 => self.tile::<S, N, 6>(simd, panel, first),
                    7 => self.tile::<S, N, 7>(simd, panel, first),
                    _ => self.tile::<S, N, 8>(simd, panel, first),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, panel: usize, first: usize) {
        let View { data, bases, offsets } = self.view;
        let lanes = &self.right[panel * bases.len()..][..bases.len()];
        let out = &mut self.out[panel * offsets.len() + first..][..R];
        let offsets: [usize; R] = std::array::from_fn(|row| offsets[first + row]);
        let mut sums: [[S::f32s; N]; R] = std::array::from_fn(|row| bytemuck::cast(out[row]));
        for (&base, lanes) in bases.iter().zip(lanes) {
            let right: [S::f32s; N] = bytemuck::cast(*lanes);
            for (sums, offset) in sums.iter_mut().zip(offsets) {
                let left = simd.splat_f32s(data[base + offset]);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_f32s(left, right, *sum);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = bytemuck::cast(sums);
        }
    }
}

/// Splits rows into the fewest tiles of at most `rows_max`, of about the same size: first row and number of rows.
#[inline(always)]
fn tiles(rows: usize, rows_max: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(rows_max);
    let mut first = 0;
    (0..count).map(move |tile| {
        let size = (rows - first).div_ceil(count - tile);
        first += size;
        (first - size, size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, from -1 to 1.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    fn lanes_of(values: &[f32]) -> Vec<Lanes> {
        Panels::pack(values, 1, values.len()).lanes
    }

    #[test]
    fn products_are_chains_of_fused_additions_for_every_shape() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 10), (8, 25, 16), (17, 9, 33), (50, 7, 64)] {
            let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
            let bias = numbers(columns, 3);
            let (bases, offsets): (Vec<_>, Vec<_>) =
                ((0..rows).map(|row| row * inner).collect(), (0..inner).collect());
            let view = View { data: &left, bases: &bases, offsets: &offsets };
            let mut out = vec![0.0; rows * columns];
            multiply(view, &Panels::pack(&right, inner, columns), &lanes_of(&bias), &mut out);
            let expected = |row: usize, column: usize| {
                let step =
                    |sum: f32, k: usize| left[row * inner + k].mul_add(right[k * columns + column], sum);
                (0..inner).fold(bias[column], step)
            };
            for (at, found) in out.iter().enumerate() {
                assert_eq!(*found, expected(at / columns, at % columns), "{rows} {inner} {columns} {at}");
            }
            // The transpose of the left matrix, by the product.
            let mut gradient = Panels::zeros(inner, columns);
            multiply_transposed(view, Panels::pack(&out, rows, columns).lanes(), gradient.lanes_mut());
            for (at, found) in gradient.unpack().iter().enumerate() {
                let (k, column) = (at / columns, at % columns);
                let step =
                    |sum: f32, row: usize| left[row * inner + k].mul_add(out[row * columns + column], sum);
                assert_eq!(*found, (0..rows).fold(0.0, step), "{rows} {inner} {columns} {at}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_the_largest_wherever_it_stands() {
        // Channels that fill registers, and some more; the second position pools numbers.
        let (channels, corners, offsets) = (19, [0, 4], [0, 1, 2, 3]);
        for place in offsets {
            let mut product = numbers(8 * channels, 1);
            product[place * channels..][..channels].fill(f32::NAN);
            let pooling = Pooling { product: &product, channels, corners: &corners, offsets: &offsets };
            for mut taken in [Vec::new(), vec![9; 2 * channels]] {
                let mut output = vec![0.0; 2 * channels];
                pool(pooling, &mut output, &mut taken);
                let (none, largest) = output.split_at(channels);
                assert!(none.iter().all(|value| value.is_nan()), "{place}: {none:?}");
                assert!(
                    taken.iter().take(channels).all(|taken| *taken == place as u32),
                    "{place}: {taken:?}"
                );
                for (channel, found) in largest.iter().enumerate() {
                    let values = (4..8).map(|position| product[position * channels + channel]);
                    assert_eq!(*found, values.fold(f32::MIN, f32::max), "{channel}");
                }
            }
        }
    }

    #[test]
    fn panels_give_back_what_they_took() {
        for (rows, columns) in [(0, 0), (1, 1), (3, 16), (5, 35)] {
            let values = numbers(rows * columns, 4);
            assert_eq!(Panels::pack(&values, rows, columns).unpack(), values);
            let transposed = Panels::pack_transposed(&values, columns, rows).unpack();
            for (at, value) in values.iter().enumerate() {
                assert_eq!(transposed[at % columns * rows + at / columns], *value);
            }
        }
    }
}

use crate::domain::ColumnSpec;

/// A column as one file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferredColumn {
    /// The column.
    pub spec: ColumnSpec,
    /// Whether it has integers that FP64 cannot tell from their neighbours; if so, it must not become FP64.
    pub wide: bool,
}

/// Whether FP64 might not hold an integer.
pub(super) fn is_wide(integer: i64) -> bool {
    integer.unsigned_abs() > INTEGER_MAX
}

/// Up to here every integer is one in FP64.
pub(super) const INTEGER_MAX: u64 = 1 << f64::MANTISSA_DIGITS;

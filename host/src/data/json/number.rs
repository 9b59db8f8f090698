use super::scan::Decimal;
use crate::domain::half_from_f64;

/// A type of numbers that a tensor can have.
pub(super) trait Number: Sized {
    /// Bytes it takes.
    const SIZE: usize;
    /// What messages call it.
    const WANTED: &'static str;
    /// The element that a missing one becomes; none if it cannot be missing.
    const MISSING: Option<Self>;
    /// Infinity and minus infinity; none if there are none.
    const INFINITIES: Option<(Self, Self)>;

    /// The same as [`Self::from_text`] of the number, if it is exact without looking.
    fn from_small_natural(value: u64) -> Option<Self>;
    /// The same as [`Self::from_text`] of the number, if there is a short way.
    fn from_decimal(decimal: Decimal) -> Option<Self>;
    /// The number that `text`, a number of JSON, is; none if it is out of range.
    fn from_text(text: &str) -> Option<Self>;
    /// Puts it where the tensor has it.
    fn write(self, slot: &mut [u8]);
}

/// Integers from which on a float leaves some out.
const EXACT_F64: f64 = 9_007_199_254_740_992.0;
const EXACT_F32: u64 = 16_777_216;
const EXACT_F16: u64 = 2_048;

/// Powers of ten, which are exact up to the 22nd.
const POWERS_OF_TEN: [f64; 19] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// The binary64 nearest to a decimal: both sides of the division are exact, so that it rounds once (Clinger 1990).
#[inline]
fn f64_from_decimal(decimal: Decimal) -> Option<f64> {
    let power = POWERS_OF_TEN.get(decimal.decimals)?;
    if decimal.mantissa > EXACT_F64 as u64 {
        return None;
    }
    let size = decimal.mantissa as f64 / power;
    Some(if decimal.is_negative { -size } else { size })
}

/// The binary32 nearest to a decimal. Rounding its binary64 once more gives that, unless it is just half way between two:
/// the decimal may then be on either side.
#[inline]
fn f32_from_decimal(decimal: Decimal) -> Option<f32> {
    // The bits that a binary64 has more; the others are zero where it is half way.
    const MORE: u64 = (1 << 29) - 1;
    const HALF_WAY: u64 = 1 << 28;
    // With at most 18 digits it is 0 or a number that a binary32 has without losing precision at either end.
    f64_from_decimal(decimal).filter(|value| value.to_bits() & MORE != HALF_WAY).map(|value| value as f32)
}

/// The integer that `text`, a number of JSON, is by its digits; none if it is not whole, or takes more than 64 bits.
fn whole_number(text: &str) -> Option<i128> {
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    // One that does not fit is beyond whatever digits there are.
    let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
    let (is_negative, number) = number.strip_prefix('-').map_or((false, number), |size| (true, size));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Digits before the point, where the exponent moves it to.
    let places = exponent.saturating_add(whole.len() as i64);
    let mut size = 0_u64;
    for (place, digit) in (0..).zip(whole.bytes().chain(fraction.bytes())) {
        if place < places {
            size = size.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        } else if digit != b'0' {
            return None;
        }
    }
    // Zeros that are not written.
    let mut missing = places.saturating_sub((whole.len() + fraction.len()) as i64);
    while size > 0 && missing > 0 {
        size = size.checked_mul(10)?;
        missing -= 1;
    }
    let size = i128::from(size);
    Some(if is_negative { -size } else { size })
}

macro_rules! integers {
    ($($integer:ty: $wanted:literal),*) => {$(
        impl Number for $integer {
            const SIZE: usize = size_of::<Self>();
            const WANTED: &'static str = $wanted;
            const MISSING: Option<Self> = None;
            const INFINITIES: Option<(Self, Self)> = None;

            #[inline]
            fn from_small_natural(value: u64) -> Option<Self> {
                Self::try_from(value).ok()
            }

            #[inline]
            fn from_decimal(decimal: Decimal) -> Option<Self> {
                let size = i64::try_from(decimal.mantissa).ok().filter(|_| decimal.decimals == 0)?;
                Self::try_from(if decimal.is_negative { -size } else { size }).ok()
            }

            /// Also takes `5.0`, `5e0`, `1e16` and `-0`, which are integers that some programs write so.
            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok().or_else(|| Self::try_from(whole_number(text)?).ok())
            }

            #[inline]
            fn write(self, slot: &mut [u8]) {
                slot.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

integers!(
    u8: "UINT8 (0 to 255)",
    u16: "UINT16 (0 to 65535)",
    u32: "UINT32 (0 to 4294967295)",
    u64: "UINT64",
    i8: "INT8 (-128 to 127)",
    i16: "INT16 (-32768 to 32767)",
    i32: "INT32 (-2147483648 to 2147483647)",
    i64: "INT64"
);

macro_rules! floats {
    ($($float:ty: $wanted:literal, $exact:expr, $from_decimal:expr),*) => {$(
        impl Number for $float {
            const SIZE: usize = size_of::<Self>();
            const WANTED: &'static str = $wanted;
            const MISSING: Option<Self> = Some(Self::NAN);
            const INFINITIES: Option<(Self, Self)> = Some((Self::INFINITY, Self::NEG_INFINITY));

            #[inline]
            fn from_small_natural(value: u64) -> Option<Self> {
                (value <= $exact).then_some(value as Self)
            }

            #[inline]
            fn from_decimal(decimal: Decimal) -> Option<Self> {
                $from_decimal(decimal)
            }

            /// Rounds the decimal once, to the nearest float of this very type.
            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok().filter(|value: &Self| value.is_finite())
            }

            #[inline]
            fn write(self, slot: &mut [u8]) {
                slot.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

floats!(f32: "FP32", EXACT_F32, f32_from_decimal, f64: "FP64", EXACT_F64 as u64, f64_from_decimal);

/// A binary16 as its bits.
pub(super) struct Half(u16);

impl Number for Half {
    const SIZE: usize = size_of::<u16>();
    const WANTED: &'static str = "FP16 (-65504 to 65504)";
    const MISSING: Option<Self> = Some(Self(0x7e00));
    const INFINITIES: Option<(Self, Self)> = Some((Self(0x7c00), Self(0xfc00)));

    #[inline]
    fn from_small_natural(value: u64) -> Option<Self> {
        (value <= EXACT_F16).then_some(Self(half_from_f64(value as f64)))
    }

    fn from_decimal(decimal: Decimal) -> Option<Self> {
        f64_from_decimal(decimal).and_then(Self::from_f64)
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().and_then(Self::from_f64)
    }

    #[inline]
    fn write(self, slot: &mut [u8]) {
        slot.copy_from_slice(&self.0.to_le_bytes());
    }
}

impl Half {
    /// Rounds what was rounded to a binary64 already.
    fn from_f64(value: f64) -> Option<Self> {
        let bits = half_from_f64(value);
        (bits & 0x7c00 != 0x7c00).then_some(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::json::scan::Scanner;

    fn check<N: Number>(text: &str, bits: impl Fn(N) -> u64) {
        let Some(decimal) = Scanner::new(format!("{text},").as_bytes()).decimal() else { return };
        if let Some(short) = N::from_decimal(decimal) {
            assert_eq!(Some(bits(short)), N::from_text(text).map(&bits), "{text}");
        }
    }

    fn check_all(text: &str) {
        check::<f32>(text, |value| value.to_bits().into());
        check::<f64>(text, f64::to_bits);
        check::<Half>(text, |value| value.0.into());
        check::<i8>(text, |value| value as u64);
        check::<i64>(text, |value| value as u64);
        check::<u64>(text, |value| value);
    }

    #[test]
    fn the_short_way_to_a_number_ends_where_the_long_one_does() {
        let texts = "0 -0 0.0 -0.0 1 -128 128 0.5 0.1 -0.3 0.99607843 65519.99 65520 3.4028235 999999999999999999 \
                     0.00000000000000001 9007199254740991.5 9007199254740992 9007199254740993 0.000000059604644775";
        texts.split_whitespace().for_each(check_all);
        // Half way between two binary32, a little more, and a little less.
        let texts = "16777217 16777217.0 16777217.000001 16777216.999999 8388608.5 8388608.50001 8388608.49999 1048576.0625 \
                     1048576.062501 1048576.062499 -8388609.5";
        texts.split_whitespace().for_each(check_all);
    }

    #[test]
    fn whole_numbers_are_taken_however_they_are_written_and_no_others() {
        for (text, expected) in [
            ("5.0", 5),
            ("5e0", 5),
            ("50E-1", 5),
            ("0.5e1", 5),
            ("0.05e+2", 5),
            ("-0", 0),
            ("-0.0e9", 0),
            ("0e99999999999999999999", 0),
            ("0.000e-99999999999999999999", 0),
            ("1e16", 10_000_000_000_000_000),
            ("9007199254740992.0", 9_007_199_254_740_992),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("-9223372036854775808.000", i64::MIN),
            ("9223372036854775.807e3", i64::MAX),
            ("922337203685477580700e-2", i64::MAX),
        ] {
            assert_eq!(i64::from_text(text), Some(expected), "{text}");
        }
        assert_eq!(u64::from_text("18446744073709551615.0"), Some(u64::MAX));
        assert_eq!(u8::from_text("-0.0"), Some(0));
        assert_eq!(u8::from_text("2.55e2"), Some(255));
        let long = format!("0.{}25e1000002", "0".repeat(1_000_000));
        assert_eq!(i64::from_text(&long), Some(25));
        let texts = "9007199254740990.7 4503599627370497.99999 0.99999999999999999999 1e-400 -1e-400 1.5 15e-1 1e-1 \
                     1e-99999999999999999999 9223372036854775808 9223372036854775808.0 -9223372036854775809e0 1e19 1e400 \
                     1e99999999999999999999 18446744073709551615.0 340282366920938463463374607431768211457";
        for text in texts.split_whitespace() {
            assert_eq!(i64::from_text(text), None, "{text}");
        }
        assert_eq!(
            (u64::from_text("-1.0"), u8::from_text("25.6e1"), i8::from_text("128.0")),
            (None, None, None)
        );
    }

    proptest::proptest! {
        #[test]
        fn any_whole_number_is_read_with_its_point_wherever_it_is(value: i64, digits in 0_usize..25, zeros in 0_usize..5) {
            let (sign, size) = (if value < 0 { "-" } else { "" }, value.unsigned_abs().to_string());
            let size = format!("{}{size}", "0".repeat((digits + 1).saturating_sub(size.len())));
            let (whole, fraction) = size.split_at(size.len() - digits);
            let zeros = "0".repeat(zeros + usize::from(digits == 0));
            let text = format!("{sign}{whole}.{fraction}{zeros}e{digits}");
            proptest::prop_assert_eq!(i64::from_text(&text), Some(value), "{}", text);
            if value % 10 != 0 {
                let text = format!("{sign}{whole}.{fraction}{zeros}e{}", digits as i64 - 1);
                proptest::prop_assert_eq!(i64::from_text(&text), None, "{}", text);
            }
        }

        #[test]
        fn any_decimal_is_read_as_rust_reads_it(text in "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,9})?") {
            check_all(&text);
        }

        #[test]
        fn any_float_is_read_as_it_was_written(value in proptest::num::f32::NORMAL | proptest::num::f32::ZERO) {
            check_all(&value.to_string());
            check_all(&format!("{value:.8}"));
        }
    }
}

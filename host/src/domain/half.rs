/// Where a binary16 stops: halfway from its largest number, 65504, to what would be the next. From here on it is infinite.
const OVERFLOW: f64 = 65_520.0;

/// The smallest normal binary16.
const SMALLEST_NORMAL: f64 = 6.103_515_625e-5;

/// Units of the smallest binary16 in one.
const SUBNORMAL_UNITS: f64 = 16_777_216.0;

/// The value of an IEEE 754 binary16: a sign, five bits of exponent and ten of fraction.
pub fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff) / 1_024.0;
    let size = match (bits >> 10) & 0x1f {
        0 => fraction * SMALLEST_NORMAL,
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        exponent => (1.0 + fraction) * 2.0_f64.powi(i32::from(exponent) - 15),
    };
    sign * size
}

/// The binary16 nearest to `value`, of two equally near ones the even; infinite beyond 65504.
pub fn half_from_f64(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = value.abs();
    let bits = if size.is_nan() {
        0x7e00
    } else if size >= OVERFLOW {
        0x7c00
    } else if size < SMALLEST_NORMAL {
        // 1024 units are the smallest normal number, whose bits are 1024 too.
        (size * SUBNORMAL_UNITS).round_ties_even() as u16
    } else {
        // Powers of two change no digit, so that only the last step rounds. A fraction that rounds up to 2048 adds one to
        // the exponent, which is what it means.
        let exponent = ((size.to_bits() >> 52) & 0x7ff) as i32 - 1_023;
        let fraction = size * 2.0_f64.powi(10 - exponent);
        ((exponent + 14) as u16) * 1_024 + fraction.round_ties_even() as u16
    };
    sign | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_comes_back() {
        for bits in 0..=u16::MAX {
            let value = half_to_f64(bits);
            let back = half_from_f64(value);
            assert!(back == bits || value.is_nan() && half_to_f64(back).is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn the_nearest_is_taken_and_of_two_the_even() {
        // numpy.float64(value).astype("<f2").view("<u2")
        let values = [
            (1.0, 0x3c00),
            (0.1, 0x2e66),
            (2_049.0, 0x6800),
            (2_051.0, 0x6802),
            (65_504.0, 0x7bff),
            (65_519.99, 0x7bff),
            (65_520.0, 0x7c00),
            (-1e300, 0xfc00),
            (2.0_f64.powi(-24), 1),
            (2.0_f64.powi(-25), 0),
            (2.0_f64.powi(-25) * 1.000_001, 1),
            (6.097e-5, 0x03ff),
            (6.102e-5, 0x0400),
            (-0.0, 0x8000),
            (1e-320, 0),
        ];
        for (value, bits) in values {
            assert_eq!(half_from_f64(value), bits, "{value}");
        }
        assert!(half_to_f64(half_from_f64(f64::NAN)).is_nan());
    }
}

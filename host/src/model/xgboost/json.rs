//! What XGBoost writes into JSON that is not JSON.

use std::borrow::Cow;

/// Infinities and NaN as XGBoost writes them, each with the whole number that stands for it: no float of XGBoost's is
/// written as a whole number.
const SPECIAL: [(&[u8], &[u8]); 3] = [
    (b"NaN", b"18446744073709551614"),
    (b"Infinity", b"18446744073709551615"),
    (b"-Infinity", b"-9223372036854775808"),
];

/// The float that a whole number stands for, if it does.
pub(super) fn special(number: i128) -> Option<f32> {
    const NAN: i128 = u64::MAX as i128 - 1;
    const INFINITY: i128 = u64::MAX as i128;
    const NEGATIVE_INFINITY: i128 = i64::MIN as i128;
    match number {
        NAN => Some(f32::NAN),
        INFINITY => Some(f32::INFINITY),
        NEGATIVE_INFINITY => Some(f32::NEG_INFINITY),
        _ => None,
    }
}

/// The text with numbers in the place of infinities and NaN, outside of strings; the text itself where it has none.
pub(super) fn with_numbers(text: &[u8]) -> Cow<'_, [u8]> {
    let mut written = Vec::new();
    let (mut rest, mut plain) = (text, 0);
    let mut in_string = false;
    while let Some(&byte) = rest.get(plain) {
        let token = match byte {
            b'\\' if in_string => {
                plain += 2;
                continue;
            }
            b'"' => {
                in_string = !in_string;
                None
            }
            b'N' | b'I' | b'-' if !in_string => {
                let here = rest.get(plain..).unwrap_or_default();
                SPECIAL.iter().find(|(token, _)| here.starts_with(token))
            }
            _ => None,
        };
        let Some((token, number)) = token else {
            plain += 1;
            continue;
        };
        let (before, after) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
        written.extend_from_slice(before);
        written.extend_from_slice(number);
        (rest, plain) = (after.get(token.len()..).unwrap_or_default(), 0);
    }
    if written.is_empty() {
        return Cow::Borrowed(text);
    }
    written.extend_from_slice(rest);
    Cow::Owned(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_outside_of_strings_is_replaced() {
        let written = |text: &str| String::from_utf8(with_numbers(text.as_bytes()).into_owned()).unwrap();
        for same in ["", "{", "[1,-2]", r#"{"NaN":"-Infinity\"NaN\\"}"#, "\"\\", "[Inf,Na]", "\"NaN"] {
            assert_eq!(written(same), same);
            assert!(matches!(with_numbers(same.as_bytes()), Cow::Borrowed(_)));
        }
        assert_eq!(
            written(r#"{"a\\":[NaN,-Infinity,1E0,Infinity],"b":"NaN"}"#),
            r#"{"a\\":[18446744073709551614,-9223372036854775808,1E0,18446744073709551615],"b":"NaN"}"#
        );
    }
}

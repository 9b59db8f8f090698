use std::time::Duration;

/// Longest time that a file may name: longer ones are typing errors, and sums with them could overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A time such as `500ms`, `5s`, `30m` or `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let text = super::problem::quoted(text);
        format!("{text} is not a duration: expected a number with `ms`, `s`, `m`, `h` or `d`, such as `30m`")
    };
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let end = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let ms = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| ms).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(*ms).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
        rest = after;
    }
    let found = Duration::from_millis(total);
    if text.is_empty() {
        Err(wrong())
    } else if found > DURATION_MAX {
        Err(format!("{} is too long: expected at most `365d`", super::problem::quoted(text)))
    } else {
        Ok(found)
    }
}

/// A size in bytes such as `512MiB` or `2GB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    let bytes = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
    let total = number.parse::<u64>().ok().zip(bytes).and_then(|(number, bytes)| number.checked_mul(bytes));
    total.filter(|total| *total > 0).ok_or_else(|| {
        let text = super::problem::quoted(text);
        format!("{text} is not a size: expected a number above zero with a unit, such as `512MiB` or `2GB`")
    })
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in
            [("500ms", 500), ("5s", 5_000), ("1h30m", 5_400_000), ("0s", 0), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in
            ["", "5", "s", "5 s", "-5s", "1.5h", "5y", "5s5", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("366d").unwrap_err(), "`366d` is too long: expected at most `365d`");
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("1B", 1), ("2GiB", 2 << 30), ("2GB", 2_000_000_000), ("5kB", 5_000)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "5", "GiB", "0GiB", "5gib", "1.5GiB", "-1B", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}

//! The wire format of Protocol Buffers (<https://protobuf.dev/programming-guides/encoding/>), only to read.

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// An integer.
    Varint(u64),
    /// A text, bytes, another message or packed numbers.
    Bytes(&'a [u8]),
    /// A number of four or eight bytes, which nothing here reads.
    Fixed,
}

impl<'a> Value<'a> {
    /// The bytes of a field that must have some.
    pub(super) fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a number where a message or text is expected".to_owned()),
        }
    }

    /// The text of a field that must have one.
    pub(super) fn text(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a name is not UTF-8".to_owned())
    }

    /// The integer of a field that must have one.
    pub(super) fn integer(self) -> Result<i64, String> {
        match self {
            // Negative numbers stand there as their two's complement.
            Self::Varint(number) => Ok(number.cast_signed()),
            _ => Err("a message or text where an integer is expected".to_owned()),
        }
    }

    /// The integers of a field that repeats: one, or all of them packed.
    pub(super) fn integers(self) -> Result<Vec<i64>, String> {
        let Self::Bytes(bytes) = self else { return Ok(vec![self.integer()?]) };
        let (mut packed, mut numbers) = (Fields::of(bytes), Vec::new());
        while !packed.rest.is_empty() {
            numbers.push(packed.varint()?.cast_signed());
        }
        Ok(numbers)
    }
}

/// The fields of a message, in the order of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or_else(truncated)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("an integer of more than ten bytes".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = taken.ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups, which no file of this format has.
            other => return Err(format!("a field of wire type {other}")),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn truncated() -> String {
    "it ends within a field".to_owned()
}

/// A field of bytes, as it is written.
pub(super) fn write_bytes(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(bytes.len() + 12);
    write_varint(&mut written, usize::from(number) << 3 | 2);
    write_varint(&mut written, bytes.len());
    written.extend_from_slice(bytes);
    written
}

fn write_varint(written: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        written.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    written.push(number as u8);
}

/// An integer below 128 in a field below 16, as it is written.
pub(super) fn write_integer(number: u8, value: u8) -> [u8; 2] {
    [number << 3, value & 0x7f]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>, String> {
        Fields::of(bytes).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let long = vec![7; 300];
        let bytes = [&write_integer(1, 9)[..], &write_bytes(7, &long), &write_bytes(200, b"")].concat();
        let expected = [(1, Value::Varint(9)), (7, Value::Bytes(&long)), (200, Value::Bytes(b""))];
        assert_eq!(read(&bytes).unwrap(), expected);
        let numbers = [&[0x0d, 1, 2, 3, 4][..], &[0x11, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert_eq!(read(&numbers).unwrap(), [(1, Value::Fixed), (2, Value::Fixed)]);
        let negative = [&[0x08][..], &[0xff; 9], &[1]].concat();
        assert_eq!(read(&negative).unwrap()[0].1.integer(), Ok(-1));
        assert_eq!(Value::Varint(7).integers(), Ok(vec![7]));
        assert_eq!(Value::Bytes(&[7, 0xac, 0x02, 0]).integers(), Ok(vec![7, 300, 0]));
        assert!(Value::Bytes(&[7, 0x80]).integers().is_err() && Value::Fixed.integers().is_err());
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_an_error() {
        for bytes in [&[0x08][..], &[0x0a, 5, 1], &[0x0d, 1], &[0x0b], &[0x80], &[0x08, 0x80]] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        let endless = [&[0x08][..], &[0xff; 11]].concat();
        assert!(read(&endless).unwrap_err().contains("ten bytes"));
        let longest = [&[0x0a][..], &[0xff; 9], &[1]].concat();
        assert!(read(&longest).is_err());
    }
}

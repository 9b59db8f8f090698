//! Reads the subset of UBJSON (draft 12, <https://ubjson.org>) that XGBoost writes, as a serde data format.
//!
//! The same `#[derive(Deserialize)]` structs thus read a model saved as JSON and as UBJSON. Numbers are big-endian.
//! Read are objects, arrays (also with a count, or with a type and a count), strings, whole numbers of every size,
//! 32- and 64-bit floats, booleans and null; refused are high-precision numbers, typed objects and typed arrays of
//! anything but numbers. Nesting is limited, and a count is believed only where the input still has that many bytes,
//! so that a few malicious bytes cannot make the reader allocate or recurse without bound.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// Levels of nesting that are followed. XGBoost's files have 7.
const DEPTH_MAX: usize = 32;

/// Bytes that are not the UBJSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, before byte {offset}")]
pub struct UbjsonError {
    reason: String,
    offset: usize,
}

impl de::Error for UbjsonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        // The offset is filled in by `from_slice`, which alone knows how far the reader came.
        Self { reason: message.to_string(), offset: 0 }
    }
}

/// Reads one value; all of `bytes` must belong to it.
pub fn from_slice<'de, T: de::Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, UbjsonError> {
    let mut reader = Reader { rest: bytes, depth: 0 };
    let result = T::deserialize(&mut reader).and_then(|value| match reader.rest.len() {
        0 => Ok(value),
        left => Err(de::Error::custom(format_args!("{left} bytes follow the end of the value"))),
    });
    result.map_err(|error| UbjsonError { offset: bytes.len() - reader.rest.len(), ..error })
}

struct Reader<'de> {
    rest: &'de [u8],
    depth: usize,
}

/// How an array or object announced its contents.
#[derive(Debug, Clone, Copy)]
struct Contents {
    /// Marker of every element, where the array is strongly typed.
    marker: Option<u8>,
    /// Elements still to come; none if a closing bracket ends them.
    remaining: Option<usize>,
}

impl<'de> Reader<'de> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], UbjsonError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else { return Err(truncated()) };
        self.rest = rest;
        Ok(*bytes)
    }

    fn slice(&mut self, length: usize) -> Result<&'de [u8], UbjsonError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else { return Err(truncated()) };
        self.rest = rest;
        Ok(bytes)
    }

    /// The next marker; no-op markers are skipped.
    fn marker(&mut self) -> Result<u8, UbjsonError> {
        loop {
            let [marker] = self.bytes()?;
            if marker != b'N' {
                return Ok(marker);
            }
        }
    }

    fn skip_if(&mut self, marker: u8) -> bool {
        let found = self.rest.split_first().filter(|(first, _)| **first == marker);
        if let Some((_, rest)) = found {
            self.rest = rest;
        }
        found.is_some()
    }

    fn integer(&mut self, marker: u8) -> Result<i64, UbjsonError> {
        Ok(match marker {
            b'i' => i64::from(i8::from_be_bytes(self.bytes()?)),
            b'U' => i64::from(u8::from_be_bytes(self.bytes()?)),
            b'I' => i64::from(i16::from_be_bytes(self.bytes()?)),
            b'l' => i64::from(i32::from_be_bytes(self.bytes()?)),
            b'L' => i64::from_be_bytes(self.bytes()?),
            other => return Err(unexpected("a whole number", other)),
        })
    }

    /// A length that the rest of the input can back, each element taking at least `element_bytes`.
    fn length(&mut self, element_bytes: usize) -> Result<usize, UbjsonError> {
        let marker = self.marker()?;
        let length = self.integer(marker)?;
        usize::try_from(length)
            .ok()
            .filter(|length| length.checked_mul(element_bytes).is_some_and(|bytes| bytes <= self.rest.len()))
            .ok_or_else(|| {
                let left = self.rest.len();
                de::Error::custom(format_args!("length {length} where only {left} bytes are left"))
            })
    }

    fn text(&mut self) -> Result<&'de str, UbjsonError> {
        let length = self.length(1)?;
        std::str::from_utf8(self.slice(length)?).map_err(|_| de::Error::custom("text is not UTF-8"))
    }

    /// Reads what stands between an opening bracket and the first element.
    fn array_contents(&mut self) -> Result<Contents, UbjsonError> {
        if self.skip_if(b'$') {
            let [marker] = self.bytes()?;
            let Some(size) = number_size(marker) else {
                return Err(unexpected("the type of a number", marker));
            };
            if !self.skip_if(b'#') {
                return Err(de::Error::custom("typed array without a count"));
            }
            return Ok(Contents { marker: Some(marker), remaining: Some(self.length(size)?) });
        }
        let remaining = if self.skip_if(b'#') { Some(self.length(1)?) } else { None };
        Ok(Contents { marker: None, remaining })
    }

    fn object_contents(&mut self) -> Result<Contents, UbjsonError> {
        if self.skip_if(b'$') {
            return Err(de::Error::custom("typed objects are not read"));
        }
        // A key takes at least its length, and its value at least a marker.
        let remaining = if self.skip_if(b'#') { Some(self.length(3)?) } else { None };
        Ok(Contents { marker: None, remaining })
    }

    /// Counts one element or key; false at the end, whose bracket is then read.
    fn advance(&mut self, contents: &mut Contents, closing: u8) -> bool {
        match &mut contents.remaining {
            Some(0) => false,
            Some(remaining) => {
                *remaining -= 1;
                true
            }
            None if self.skip_if(closing) => {
                contents.remaining = Some(0);
                false
            }
            None => true,
        }
    }

    fn enter<T>(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<T, UbjsonError>,
    ) -> Result<T, UbjsonError> {
        if self.depth == DEPTH_MAX {
            return Err(de::Error::custom(format_args!("nested more than {DEPTH_MAX} levels deep")));
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        result
    }

    fn value<V: Visitor<'de>>(&mut self, marker: u8, visitor: V) -> Result<V::Value, UbjsonError> {
        match marker {
            b'Z' => visitor.visit_unit(),
            b'T' => visitor.visit_bool(true),
            b'F' => visitor.visit_bool(false),
            b'd' => visitor.visit_f32(f32::from_be_bytes(self.bytes()?)),
            b'D' => visitor.visit_f64(f64::from_be_bytes(self.bytes()?)),
            b'S' => visitor.visit_borrowed_str(self.text()?),
            b'[' => self.enter(|reader| {
                let mut contents = reader.array_contents()?;
                let value = visitor.visit_seq(Elements { reader: &mut *reader, contents: &mut contents })?;
                // A visitor that wants so many elements and no more has not seen the end.
                match reader.advance(&mut contents, b']') {
                    false => Ok(value),
                    true => Err(de::Error::custom("array longer than expected")),
                }
            }),
            b'{' => self.enter(|reader| {
                let contents = reader.object_contents()?;
                visitor.visit_map(Entries { reader, contents })
            }),
            other => visitor.visit_i64(self.integer(other).map_err(|error| match number_size(other) {
                Some(_) => error,
                None => unexpected("a value", other),
            })?),
        }
    }

    /// Passes over one value without building it; a typed array in one step.
    fn skip(&mut self, marker: u8) -> Result<(), UbjsonError> {
        match marker {
            b'[' => self.enter(|reader| {
                let mut contents = reader.array_contents()?;
                if let Some((count, size)) = contents.remaining.zip(contents.marker.and_then(number_size)) {
                    return reader.slice(count * size).map(drop);
                }
                while reader.advance(&mut contents, b']') {
                    let marker = reader.marker()?;
                    reader.skip(marker)?;
                }
                Ok(())
            }),
            b'{' => self.enter(|reader| {
                let mut contents = reader.object_contents()?;
                while reader.advance(&mut contents, b'}') {
                    reader.text()?;
                    let marker = reader.marker()?;
                    reader.skip(marker)?;
                }
                Ok(())
            }),
            other => self.value(other, de::IgnoredAny).map(drop),
        }
    }
}

/// Bytes of a number with this marker; none for markers of anything else.
fn number_size(marker: u8) -> Option<usize> {
    match marker {
        b'i' | b'U' => Some(1),
        b'I' => Some(2),
        b'l' | b'd' => Some(4),
        b'L' | b'D' => Some(8),
        _ => None,
    }
}

fn truncated() -> UbjsonError {
    de::Error::custom("the input ends in the middle of a value")
}

fn unexpected(expected: &str, marker: u8) -> UbjsonError {
    de::Error::custom(format_args!("expected {expected}, found the marker `{}`", marker.escape_ascii()))
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = UbjsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UbjsonError> {
        let marker = self.marker()?;
        self.value(marker, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UbjsonError> {
        let marker = self.marker()?;
        self.skip(marker)?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UbjsonError> {
        if self.skip_if(b'Z') { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UbjsonError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct enum identifier
    }
}

struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    contents: &'a mut Contents,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = UbjsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, UbjsonError> {
        if !self.reader.advance(self.contents, b']') {
            return Ok(None);
        }
        match self.contents.marker {
            Some(marker) => seed.deserialize(Typed { reader: self.reader, marker }),
            None => seed.deserialize(&mut *self.reader),
        }
        .map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.contents.remaining
    }
}

/// One element of a typed array, whose marker stood before the first.
struct Typed<'a, 'de> {
    reader: &'a mut Reader<'de>,
    marker: u8,
}

impl<'de> Deserializer<'de> for Typed<'_, 'de> {
    type Error = UbjsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UbjsonError> {
        self.reader.value(self.marker, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Entries<'a, 'de> {
    reader: &'a mut Reader<'de>,
    contents: Contents,
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = UbjsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, UbjsonError> {
        if !self.reader.advance(&mut self.contents, b'}') {
            return Ok(None);
        }
        let key = self.reader.text()?;
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, UbjsonError> {
        seed.deserialize(&mut *self.reader)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        #[serde(default)]
        numbers: Vec<f32>,
        #[serde(default)]
        name: String,
        #[serde(default)]
        whole: Option<i32>,
    }

    #[test]
    fn reads_objects_and_typed_arrays_and_skips_the_unknown() {
        let mut bytes = b"{U\x07numbers[$d#U\x02".to_vec();
        bytes.extend_from_slice(&1.5_f32.to_be_bytes());
        bytes.extend_from_slice(&(-0.0_f32).to_be_bytes());
        bytes.extend_from_slice(b"i\x05other{U\x01a[[$L#U\x01\0\0\0\0\0\0\0\x01TSU\x01xZ]}");
        bytes.extend_from_slice(b"L\0\0\0\0\0\0\0\x04nameSU\x01nNU\x05wholeI\xff\xfe}");
        let sample: Sample = from_slice(&bytes).unwrap();
        assert_eq!(
            sample.numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>(),
            [0x3fc0_0000, 0x8000_0000]
        );
        assert_eq!((sample.name.as_str(), sample.whole), ("n", Some(-2)));
    }

    #[test]
    fn reads_counted_and_open_arrays() {
        assert_eq!(from_slice::<Vec<i64>>(b"[#U\x03i\x01U\xffl\xff\xff\xff\xff").unwrap(), [1, 255, -1]);
        assert_eq!(from_slice::<Vec<i64>>(b"[NNi\x01]").unwrap(), [1]);
        assert_eq!(from_slice::<Vec<u8>>(b"[$U#i\x02\x01\x02").unwrap(), [1, 2]);
        assert_eq!(from_slice::<(bool, f64)>(b"[TD\x3f\xf0\0\0\0\0\0\0]").unwrap(), (true, 1.0));
        assert!(from_slice::<(bool, bool)>(b"[TFT]").is_err());
        assert!(from_slice::<(bool, bool)>(b"[#U\x03TFT").is_err());
    }

    #[test]
    fn lengths_that_the_input_cannot_back_are_refused() {
        for bytes in [
            &b"[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff"[..],
            b"[$d#i\x02\0\0\0\0",
            b"[#L\0\0\0\x7f\xff\xff\xff\xffi\x01",
            b"[$T#L\0\0\0\x7f\xff\xff\xff\xff",
            b"[#i\xff",
        ] {
            assert!(from_slice::<Vec<f32>>(bytes).is_err(), "{}", bytes.escape_ascii());
            assert!(from_slice::<de::IgnoredAny>(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        assert_eq!(
            from_slice::<String>(b"SU\xffabc").unwrap_err().to_string(),
            "length 255 where only 3 bytes are left, before byte 3"
        );
    }

    #[test]
    fn nesting_is_limited_and_trailing_bytes_are_refused() {
        let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(
            from_slice::<de::IgnoredAny>(&nested).unwrap_err().to_string().starts_with("nested more than 32")
        );
        assert_eq!(
            from_slice::<i64>(b"i\x01i\x01").unwrap_err().to_string(),
            "2 bytes follow the end of the value, before byte 2"
        );
        assert!(from_slice::<de::IgnoredAny>(b"?").is_err());
        assert!(from_slice::<i64>(b"").is_err());
    }
}

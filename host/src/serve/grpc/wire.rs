use super::GrpcError;

/// The fields of a message as protobuf writes them, one after the other, without copying.
///
/// Requests for inference are read this way and not into generated types: there, a field of two bytes that says nothing
/// takes hundreds in memory, so that a caller could make little fill much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A whole number, or a bool.
    Varint(u64),
    /// Four bytes, as of a float.
    Fixed32([u8; 4]),
    /// Eight bytes, as of a double.
    Fixed64([u8; 8]),
    /// A string, bytes, a message, or a list of numbers.
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, GrpcError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = take_varint(&mut self.rest)?;
        let value = match key & 7 {
            0 => Value::Varint(take_varint(&mut self.rest)?),
            1 => Value::Fixed64(take_chunk(&mut self.rest)?),
            2 => {
                let length = usize::try_from(take_varint(&mut self.rest)?).ok();
                let split = length.and_then(|length| self.rest.split_at_checked(length));
                let (bytes, rest) = split.ok_or(GrpcError::Malformed)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(take_chunk(&mut self.rest)?),
            _ => return Err(GrpcError::Malformed),
        };
        Ok(Some((key >> 3, value)))
    }
}

impl<'a> Value<'a> {
    /// The bytes of a value that has some.
    pub(super) fn bytes(self) -> Result<&'a [u8], GrpcError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(GrpcError::Malformed),
        }
    }

    /// The text of a string.
    pub(super) fn text(self) -> Result<&'a str, GrpcError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| GrpcError::Malformed)
    }
}

/// Takes a whole number off the front: seven bits a byte, the lowest first.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Result<u64, GrpcError> {
    let mut value = 0;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(GrpcError::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            // Of the tenth byte there is room for one bit.
            return if index == 9 && byte > 1 { Err(GrpcError::Malformed) } else { Ok(value) };
        }
    }
    Err(GrpcError::Malformed)
}

/// Takes so many bytes off the front.
pub(super) fn take_chunk<const SIZE: usize>(bytes: &mut &[u8]) -> Result<[u8; SIZE], GrpcError> {
    let (chunk, rest) = bytes.split_first_chunk().ok_or(GrpcError::Malformed)?;
    *bytes = rest;
    Ok(*chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost::encoding::encode_varint;

    use super::super::messages::{InferParameter, infer_parameter::ParameterChoice};
    use super::*;

    fn only(parameter: ParameterChoice) -> (u64, Vec<u8>) {
        let bytes = InferParameter { parameter_choice: Some(parameter) }.encode_to_vec();
        let mut fields = Fields::new(&bytes);
        let (number, value) = fields.next().unwrap().unwrap();
        assert_eq!(fields.next(), Ok(None));
        let bytes = match value {
            Value::Varint(value) => value.to_le_bytes().to_vec(),
            Value::Fixed32(bytes) => bytes.to_vec(),
            Value::Fixed64(bytes) => bytes.to_vec(),
            Value::Bytes(bytes) => bytes.to_vec(),
        };
        (number, bytes)
    }

    #[test]
    fn fields_are_read_as_they_were_written() {
        assert_eq!(only(ParameterChoice::BoolParam(true)), (1, 1_u64.to_le_bytes().to_vec()));
        assert_eq!(only(ParameterChoice::Int64Param(-1)), (2, vec![0xff; 8]));
        assert_eq!(only(ParameterChoice::StringParam("ab".to_owned())), (3, b"ab".to_vec()));
        assert_eq!(only(ParameterChoice::DoubleParam(0.5)), (4, 0.5_f64.to_le_bytes().to_vec()));
    }

    #[test]
    fn what_ends_too_soon_or_never_is_malformed() {
        for bytes in [
            &b"\x80"[..],
            b"\x08",
            b"\x08\x80",
            b"\x0a\x02a",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0d\0\0\0",
            b"\x09\0\0\0\0\0\0\0",
            b"\x0b",
            b"\x0f",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        ] {
            assert_eq!(Fields::new(bytes).next(), Err(GrpcError::Malformed), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64) {
            let mut bytes = Vec::new();
            encode_varint(value, &mut bytes);
            prop_assert_eq!(take_varint(&mut bytes.as_slice()), Ok(value));
        }

        #[test]
        fn nothing_that_is_sent_is_read_beyond_its_end(bytes: Vec<u8>) {
            let mut fields = Fields::new(&bytes);
            while let Ok(Some((_, value))) = fields.next() {
                let _ = value.text();
            }
        }
    }
}

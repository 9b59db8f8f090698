//! As much of protobuf's encoding as a request and its answer need.

/// A length-delimited field's wire type.
const BYTES: u64 = 2;

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Bytes(u64, &'a [u8]),
    /// Any other.
    Other,
}

/// Puts a field of bytes, text, a message or packed numbers at the end of `message`.
pub(super) fn put(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(message, field << 3 | BYTES);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// The fields of a message; none if it is malformed.
pub(super) fn fields(mut message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (key, rest) = varint(message)?;
        let (skipped, rest) = match key & 7 {
            0 => (&[][..], varint(rest)?.1),
            1 => rest.split_at_checked(8)?,
            BYTES => {
                let (length, rest) = varint(rest)?;
                rest.split_at_checked(usize::try_from(length).ok()?)?
            }
            5 => rest.split_at_checked(4)?,
            _ => return None,
        };
        fields.push(if key & 7 == BYTES { Field::Bytes(key >> 3, skipped) } else { Field::Other });
        message = rest;
    }
    Some(fields)
}

/// What the fields of bytes with a number hold.
pub(super) fn bytes<'a>(fields: &[Field<'a>], number: u64) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter_map(move |field| match field {
        Field::Bytes(found, bytes) if *found == number => Some(*bytes),
        _ => None,
    })
}

/// A number in seven bits a byte, and what follows it.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    message.extend(number.to_le_bytes().first());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        let mut message = b"\x08\x96\x01".to_vec();
        put(&mut message, 7, &[1; 784]);
        put(&mut message, 2, b"");
        let read = fields(&message).unwrap();
        assert_eq!(read, [Field::Other, Field::Bytes(7, &[1; 784]), Field::Bytes(2, b"")]);
        assert_eq!(bytes(&read, 7).map(<[u8]>::len).collect::<Vec<_>>(), [784]);
        assert_eq!(varint(b"\x96\x01!"), Some((150, &b"!"[..])));
    }

    #[test]
    fn malformed_messages_are_none() {
        for message in [&b"\x0a\x05mnis"[..], b"\x80", b"\x0c", b"\x09\x01"] {
            assert_eq!(fields(message), None, "{message:?}");
        }
    }
}

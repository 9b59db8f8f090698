use std::borrow::Cow;

use bytemuck::Pod;

use crate::DataType;

/// A Rust number that is the element type of a tensor.
///
/// Implemented for every fixed-size [`DataType`] that has a Rust type of its own: `u8` to `u64`, `i8` to `i64`,
/// `f32` and `f64`. BOOL and FP16 are read through the widening conversions of [`Tensor`](crate::Tensor).
pub trait Element: Pod + sealed::Sealed {
    /// The element type.
    const DTYPE: DataType;

    #[doc(hidden)]
    fn encode(values: impl Iterator<Item = Self>) -> Vec<u8>;

    #[doc(hidden)]
    fn decode(data: &[u8]) -> Cow<'_, [Self]>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => {$(
        impl sealed::Sealed for $rust {}

        impl Element for $rust {
            const DTYPE: DataType = DataType::$dtype;

            // Collecting arrays of bytes lets the compiler size the buffer once, vectorise the stores, and hand the
            // buffer over as bytes; a `Vec` of numbers could not become a `Vec` of bytes without a copy.
            #[inline]
            fn encode(values: impl Iterator<Item = Self>) -> Vec<u8> {
                values.map(<$rust>::to_le_bytes).collect::<Vec<_>>().into_flattened()
            }

            #[inline]
            fn decode(data: &[u8]) -> Cow<'_, [Self]> {
                match bytemuck::try_cast_slice(data) {
                    Ok(values) => Cow::Borrowed(values),
                    Err(_) => Cow::Owned(
                        data.as_chunks().0.iter().map(|bytes| <$rust>::from_le_bytes(*bytes)).collect(),
                    ),
                }
            }
        }
    )*};
}

elements! {
    u8 => Uint8,
    u16 => Uint16,
    u32 => Uint32,
    u64 => Uint64,
    i8 => Int8,
    i16 => Int16,
    i32 => Int32,
    i64 => Int64,
    f32 => Fp32,
    f64 => Fp64,
}

const _: () = assert!(cfg!(target_endian = "little"), "tensor bytes are little-endian");

use std::marker::PhantomData;
use std::slice::ChunksExactMut;

use super::number::{Half, Number};
use super::scan::{Scanner, Wrong};
use crate::data::error::excerpt;
use crate::domain::{ColumnSpec, DataType};

/// Takes one row of the column `spec` and appends its elements to `data`. The row may be nested as the shape is, or flat.
pub(super) fn take_row(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    data: &mut Vec<u8>,
) -> Result<(), Wrong> {
    match spec.dtype {
        DataType::Uint8 => take_numbers::<u8>(scanner, spec, data),
        DataType::Uint16 => take_numbers::<u16>(scanner, spec, data),
        DataType::Uint32 => take_numbers::<u32>(scanner, spec, data),
        DataType::Uint64 => take_numbers::<u64>(scanner, spec, data),
        DataType::Int8 => take_numbers::<i8>(scanner, spec, data),
        DataType::Int16 => take_numbers::<i16>(scanner, spec, data),
        DataType::Int32 => take_numbers::<i32>(scanner, spec, data),
        DataType::Int64 => take_numbers::<i64>(scanner, spec, data),
        DataType::Fp16 => take_numbers::<Half>(scanner, spec, data),
        DataType::Fp32 => take_numbers::<f32>(scanner, spec, data),
        DataType::Fp64 => take_numbers::<f64>(scanner, spec, data),
        DataType::Bool => {
            let slots = reserve(scanner, spec, data, 1);
            take_level(scanner, &spec.shape, &mut Bools { slots })
        }
        DataType::Bytes => take_level(scanner, &spec.shape, &mut Strings { data }),
    }
}

fn take_numbers<N: Number>(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    data: &mut Vec<u8>,
) -> Result<(), Wrong> {
    let slots = reserve(scanner, spec, data, N::SIZE);
    let mut numbers = Numbers { slots, nullable: spec.nullable, element: PhantomData::<N> };
    take_level(scanner, &spec.shape, &mut numbers)
}

/// Where elements go. Elements beyond the room there is are counted by the caller, and dropped.
trait Sink {
    /// What messages call an element.
    const WANTED: &'static str;

    fn take_one(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Wrong>;

    /// Takes elements that need no care, each with the comma after it; gives how many.
    fn take_plain(&mut self, _scanner: &mut Scanner<'_>) -> usize {
        0
    }
}

struct Numbers<'a, N> {
    slots: ChunksExactMut<'a, u8>,
    nullable: bool,
    element: PhantomData<N>,
}

impl<N: Number> Sink for Numbers<'_, N> {
    const WANTED: &'static str = N::WANTED;

    fn take_one(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Wrong> {
        let place = scanner.clone();
        let value = match scanner.decimal().and_then(N::from_decimal) {
            Some(value) => value,
            None => {
                *scanner = place;
                self.take_any(scanner)?
            }
        };
        if let Some(slot) = self.slots.next() {
            value.write(slot);
        }
        Ok(())
    }

    fn take_plain(&mut self, scanner: &mut Scanner<'_>) -> usize {
        scanner.take_plain_naturals(|value| {
            // A value that is left for `take_one` must find its slot still there.
            let Some(value) = N::from_small_natural(value) else { return false };
            let Some(slot) = self.slots.next() else { return false };
            value.write(slot);
            true
        })
    }
}

impl<N: Number> Numbers<'_, N> {
    /// Takes a number however it is written, or `null` where that may be.
    fn take_any(&self, scanner: &mut Scanner<'_>) -> Result<N, Wrong> {
        match (scanner.number()?, N::MISSING) {
            (Some(text), _) => N::from_text(text)
                .ok_or_else(|| format!("expected {}, found {}", N::WANTED, excerpt(text.as_bytes()))),
            (None, Some(missing)) if self.nullable && scanner.word("null") => Ok(missing),
            (None, _) => Err(scanner.unexpected(N::WANTED)),
        }
    }
}

struct Bools<'a> {
    slots: ChunksExactMut<'a, u8>,
}

impl Sink for Bools<'_> {
    const WANTED: &'static str = "true or false";

    fn take_one(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Wrong> {
        let value = scanner.word("true");
        if !value && !scanner.word("false") {
            return Err(scanner.unexpected(Self::WANTED));
        }
        if let Some(slot) = self.slots.next() {
            slot.fill(u8::from(value));
        }
        Ok(())
    }
}

struct Strings<'a> {
    data: &'a mut Vec<u8>,
}

impl Sink for Strings<'_> {
    const WANTED: &'static str = "a string";

    fn take_one(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Wrong> {
        let Some(text) = scanner.string()? else {
            return Err(scanner.unexpected(Self::WANTED));
        };
        let length = u32::try_from(text.len())
            .map_err(|_| format!("expected a string of less than 4 GiB, found {} bytes", text.len()))?;
        self.data.extend_from_slice(&length.to_le_bytes());
        self.data.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Makes room for one row. Where the text is too short to hold it there is no room: the elements are only counted then.
fn reserve<'a>(
    scanner: &Scanner<'_>,
    spec: &ColumnSpec,
    data: &'a mut Vec<u8>,
    size: usize,
) -> ChunksExactMut<'a, u8> {
    let start = data.len();
    let elements = element_count(&spec.shape).filter(|&elements| elements <= scanner.remaining());
    data.resize(start + elements.unwrap_or(0) * size, 0);
    data.get_mut(start..).unwrap_or_default().chunks_exact_mut(size)
}

fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
}

/// Takes the elements of `shape`: a list of as many lists as its first size, or a flat list, or just the one element.
fn take_level<S: Sink>(scanner: &mut Scanner<'_>, shape: &[usize], sink: &mut S) -> Result<(), Wrong> {
    let expected =
        element_count(shape).ok_or_else(|| format!("its shape {shape:?} is too large to address"))?;
    if !scanner.take(b'[') {
        if expected == 1 {
            return sink.take_one(scanner);
        }
        return Err(scanner.unexpected(&format!("a list of {}", values_text(shape, expected))));
    }
    if scanner.peek() != Some(b'[') {
        let found = take_flat(scanner, sink, expected)?;
        return if found == expected {
            Ok(())
        } else {
            Err(format!("expected {}, found {found}", values_text(shape, expected)))
        };
    }
    let Some((&lists, inner)) = shape.split_first() else {
        return Err(scanner.unexpected(S::WANTED));
    };
    let mut found = 0;
    loop {
        if found == lists {
            return Err(format!("expected {lists} lists, found more"));
        }
        take_level(scanner, inner, sink).map_err(|wrong| format!("list {found}: {wrong}"))?;
        found += 1;
        if !scanner.more(b']')? {
            break;
        }
    }
    if found == lists { Ok(()) } else { Err(format!("expected {lists} lists, found {found}")) }
}

/// Takes the rest of a flat list whose bracket was taken; gives the number of elements.
fn take_flat<S: Sink>(scanner: &mut Scanner<'_>, sink: &mut S, expected: usize) -> Result<usize, Wrong> {
    if scanner.take(b']') {
        return Ok(0);
    }
    let mut count = 0;
    loop {
        count += sink.take_plain(scanner);
        sink.take_one(scanner)
            .map_err(|wrong| if expected == 1 { wrong } else { format!("element {count}: {wrong}") })?;
        count += 1;
        if !scanner.more(b']')? {
            return Ok(count);
        }
    }
}

fn values_text(shape: &[usize], count: usize) -> String {
    let noun = if count == 1 { "value" } else { "values" };
    match shape {
        [] | [_] => format!("{count} {noun}"),
        sizes => {
            let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            format!("{count} {noun} ({})", sizes.join(" × "))
        }
    }
}

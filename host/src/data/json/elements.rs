use std::marker::PhantomData;
use std::slice::ChunksExactMut;

use super::number::{Half, Number};
use super::scan::{INFINITY, NAN, NEGATIVE_INFINITY, Scanner, Wrong};
use crate::data::error::excerpt;
use crate::domain::{ColumnSpec, DataType};

/// What is wrong, and in which row where that is known.
pub(crate) type WrongInRow = (Option<usize>, Wrong);

/// Takes one row of the column `spec` and appends its elements to `data`. The row may be nested as the shape is, or flat.
pub(super) fn take_row(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    data: &mut Vec<u8>,
) -> Result<(), Wrong> {
    take_column(scanner, spec, None, data).map_err(|(_, wrong)| wrong)
}

/// Takes all `rows` rows of the column `spec` and appends their elements to `data`. They are one list, which is flat, or
/// has an item for each row; a row may be nested as the shape is, or flat.
pub(crate) fn take_rows(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    rows: usize,
    data: &mut Vec<u8>,
) -> Result<(), WrongInRow> {
    take_column(scanner, spec, Some(rows), data)
}

/// Takes a list of so many rows; one row by itself if there is no number.
fn take_column(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    rows: Option<usize>,
    data: &mut Vec<u8>,
) -> Result<(), WrongInRow> {
    match spec.dtype {
        DataType::Uint8 => take_numbers::<u8>(scanner, spec, rows, data),
        DataType::Uint16 => take_numbers::<u16>(scanner, spec, rows, data),
        DataType::Uint32 => take_numbers::<u32>(scanner, spec, rows, data),
        DataType::Uint64 => take_numbers::<u64>(scanner, spec, rows, data),
        DataType::Int8 => take_numbers::<i8>(scanner, spec, rows, data),
        DataType::Int16 => take_numbers::<i16>(scanner, spec, rows, data),
        DataType::Int32 => take_numbers::<i32>(scanner, spec, rows, data),
        DataType::Int64 => take_numbers::<i64>(scanner, spec, rows, data),
        DataType::Fp16 => take_numbers::<Half>(scanner, spec, rows, data),
        DataType::Fp32 => take_numbers::<f32>(scanner, spec, rows, data),
        DataType::Fp64 => take_numbers::<f64>(scanner, spec, rows, data),
        DataType::Bool => {
            let slots = reserve(scanner, spec, rows, data, 1);
            take_into(scanner, &spec.shape, rows, &mut Bools { slots })
        }
        DataType::Bytes => take_into(scanner, &spec.shape, rows, &mut Strings { data }),
    }
}

fn take_numbers<N: Number>(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    rows: Option<usize>,
    data: &mut Vec<u8>,
) -> Result<(), WrongInRow> {
    let slots = reserve(scanner, spec, rows, data, N::SIZE);
    let mut numbers = Numbers { slots, nullable: spec.nullable, element: PhantomData::<N> };
    take_into(scanner, &spec.shape, rows, &mut numbers)
}

fn take_into<S: Sink>(
    scanner: &mut Scanner<'_>,
    shape: &[usize],
    rows: Option<usize>,
    sink: &mut S,
) -> Result<(), WrongInRow> {
    match rows {
        None => take_level(scanner, shape, sink).map_err(|wrong| (None, wrong)),
        Some(rows) => take_list_of_rows(scanner, shape, rows, sink),
    }
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
    /// Takes a number however it is written, or a word where that may be.
    fn take_any(&self, scanner: &mut Scanner<'_>) -> Result<N, Wrong> {
        match scanner.number()? {
            Some(text) => N::from_text(text)
                .ok_or_else(|| format!("expected {}, found {}", N::WANTED, excerpt(text.as_bytes()))),
            None => self.take_word(scanner),
        }
    }

    /// Takes a missing element or an infinity. What is taken is what is taken as bytes too: NaN only where elements may be
    /// missing.
    fn take_word(&self, scanner: &mut Scanner<'_>) -> Result<N, Wrong> {
        if let Some(missing) = N::MISSING {
            if self.nullable && (scanner.word("null") || scanner.word(NAN)) {
                return Ok(missing);
            }
            if scanner.word(NAN) {
                return Err(format!("expected {}, found `{NAN}`", N::WANTED));
            }
        }
        match N::INFINITIES {
            Some((infinity, _)) if scanner.word(INFINITY) => Ok(infinity),
            Some((_, infinity)) if scanner.word(NEGATIVE_INFINITY) => Ok(infinity),
            _ => Err(scanner.unexpected(N::WANTED)),
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

/// Makes room for the rows. Where the text is too short to hold them there is none: the elements are only counted then.
fn reserve<'a>(
    scanner: &Scanner<'_>,
    spec: &ColumnSpec,
    rows: Option<usize>,
    data: &'a mut Vec<u8>,
    size: usize,
) -> ChunksExactMut<'a, u8> {
    let start = data.len();
    let elements = element_count(&spec.shape).and_then(|elements| elements.checked_mul(rows.unwrap_or(1)));
    let elements = elements.filter(|&elements| elements <= scanner.remaining());
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

/// Takes a list of rows; a flat list holds the elements of them all.
fn take_list_of_rows<S: Sink>(
    scanner: &mut Scanner<'_>,
    shape: &[usize],
    rows: usize,
    sink: &mut S,
) -> Result<(), WrongInRow> {
    let whole: Vec<usize> = [rows].into_iter().chain(shape.iter().copied()).collect();
    let row_elements = element_count(shape);
    let Some((expected, row_elements)) = element_count(&whole).zip(row_elements) else {
        return Err((None, format!("its shape {whole:?} is too large to address")));
    };
    if !scanner.take(b'[') {
        return Err((None, scanner.unexpected(&format!("a list of {}", values_text(&whole, expected)))));
    }
    if scanner.peek() != Some(b'[') {
        return match take_elements(scanner, sink) {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err((None, format!("expected {}, found {found}", values_text(&whole, expected)))),
            Err((Some(element), wrong)) if element < expected && row_elements > 0 => {
                Err((Some(element / row_elements), in_element(element % row_elements, row_elements, wrong)))
            }
            Err((_, wrong)) => Err((None, wrong)),
        };
    }
    let mut found = 0;
    loop {
        if found == rows {
            return Err((None, format!("expected {rows} lists, found more")));
        }
        take_level(scanner, shape, sink).map_err(|wrong| (Some(found), wrong))?;
        found += 1;
        if !scanner.more(b']').map_err(|wrong| (None, wrong))? {
            break;
        }
    }
    if found == rows { Ok(()) } else { Err((None, format!("expected {rows} lists, found {found}"))) }
}

/// Takes the rest of a flat list whose bracket was taken; gives the number of elements.
fn take_flat<S: Sink>(scanner: &mut Scanner<'_>, sink: &mut S, expected: usize) -> Result<usize, Wrong> {
    take_elements(scanner, sink).map_err(|(element, wrong)| match element {
        Some(element) => in_element(element, expected, wrong),
        None => wrong,
    })
}

/// Takes the rest of a flat list whose bracket was taken; gives the number of elements, or which of them is wrong.
fn take_elements<S: Sink>(scanner: &mut Scanner<'_>, sink: &mut S) -> Result<usize, (Option<usize>, Wrong)> {
    if scanner.take(b']') {
        return Ok(0);
    }
    let mut count = 0;
    loop {
        count += sink.take_plain(scanner);
        sink.take_one(scanner).map_err(|wrong| (Some(count), wrong))?;
        count += 1;
        if !scanner.more(b']').map_err(|wrong| (None, wrong))? {
            return Ok(count);
        }
    }
}

/// What is wrong with one of `expected` elements.
fn in_element(element: usize, expected: usize, wrong: Wrong) -> Wrong {
    if expected == 1 { wrong } else { format!("element {element}: {wrong}") }
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

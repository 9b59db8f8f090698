use std::borrow::Cow;
use std::time::Duration;

use super::error::shown;
use super::input::{BASE64, check_head, find_column, from_base64, tensor, tensor_of_bytes};
use super::output::OUTPUTS_MAX;
use super::{InferenceError, OutputForm, OutputSelection, RequestedOutput};
use crate::data::json::{Scanner, take_rows};
use crate::domain::{Batch, BatchError, ColumnSpec, DataType, SchemaError, Tensor};

/// The head of a request, and of its answer, that says how many bytes of JSON come before the binary data.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// Bytes that the name of a request may have. The answer repeats it.
const ID_MAX_BYTES: usize = 1_024;

/// Dimensions that a shape may have.
const DIMENSIONS_MAX: usize = Tensor::DIMENSIONS_MAX;

/// A request, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceRequest {
    /// What the answer repeats.
    pub id: Option<String>,
    /// The columns, in the order of the signature.
    pub inputs: Batch,
    /// What is asked for.
    pub outputs: OutputSelection,
    /// How long the client waits for the answer; none where it does not say.
    pub timeout: Option<Duration>,
}

/// Reads the value of [`HEADER_LENGTH`].
pub fn parse_header_length(text: &str) -> Result<usize, InferenceError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = text.parse().ok().filter(|_| is_number);
    length.ok_or_else(|| InferenceError::HeaderLengthText { found: shown(text) })
}

/// Reads the body of a request: `header_length` bytes of JSON and then the binary data of its inputs, or only JSON where
/// there is no such length. Where it is 0 there is no JSON, and the body is [one row of the only input](raw_request). The inputs must be the columns `specs`, each once, with at most `rows_max` rows.
///
/// Fields and parameters that mean nothing here are skipped. `null` is as good as no field.
pub fn decode_request(
    body: &[u8],
    header_length: Option<usize>,
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<InferenceRequest, InferenceError> {
    if header_length == Some(0) {
        return raw_request(body, specs);
    }
    let length = header_length.unwrap_or(body.len());
    let Some((header, binary)) = body.split_at_checked(length) else {
        return Err(InferenceError::HeaderLength { found: length, body: body.len() });
    };
    let mut scanner = Scanner::new(header);
    let mut inputs = InputReader { specs, rows_max, binary, tensors: vec![None; specs.len()] };
    let mut id = None;
    let mut form = OutputForm::Json;
    let mut timeout = None;
    let mut requested = Vec::new();
    let mut fields = Fields::default();
    take_object(&mut scanner, &mut |scanner, field| {
        match field {
            "id" => {
                fields.once("id")?;
                id = optional(scanner, take_id)?;
            }
            "parameters" => {
                fields.once("parameters")?;
                take_parameters(scanner, &mut |scanner, parameter| {
                    match parameter {
                        "binary_data_output" => form = take_form(scanner, parameter)?.unwrap_or(form),
                        "timeout" => {
                            let us =
                                optional(scanner, take_size).map_err(|wrong| wrong.inside("`timeout`"))?;
                            timeout = us.filter(|us| *us > 0).map(|us| Duration::from_micros(us as u64));
                        }
                        _ => skip(scanner)?,
                    }
                    Ok(())
                })?;
            }
            "inputs" => {
                fields.once("inputs")?;
                take_list(scanner, "inputs", &mut |scanner, index| inputs.take(scanner, index))?;
            }
            "outputs" => {
                fields.once("outputs")?;
                optional(scanner, |scanner| {
                    take_list(scanner, "outputs", &mut |scanner, index| {
                        requested.push(take_output(scanner, index)?);
                        Ok(())
                    })
                })?;
            }
            _ => skip(scanner)?,
        }
        Ok(())
    })?;
    scanner.end().map_err(InferenceError::json)?;
    fields.must_have("inputs")?;
    let (inputs, outputs) = (inputs.finish()?, OutputSelection::new(requested, form)?);
    Ok(InferenceRequest { id, inputs, outputs, timeout })
}

/// A body that is nothing but one row of the only input, as Triton takes it: the elements of numbers, or one byte string without
/// its length. Its answer is bytes too.
fn raw_request(body: &[u8], specs: &[ColumnSpec]) -> Result<InferenceRequest, InferenceError> {
    let [spec] = specs else { return Err(InferenceError::RawInputs { found: specs.len() }) };
    let tensor = if spec.dtype == DataType::Bytes && spec.row_elements() == 1 {
        let string = Tensor::from_strings(spec.name.clone(), [body])?;
        super::input::tensor(spec, 1, string.into_data())?
    } else {
        tensor_of_bytes(spec, 1, body.to_vec())?
    };
    let outputs = OutputSelection::new(Vec::new(), OutputForm::Binary)?;
    Ok(InferenceRequest { id: None, inputs: Batch::new(vec![tensor])?, outputs, timeout: None })
}

/// Reads inputs one after the other.
struct InputReader<'a> {
    specs: &'a [ColumnSpec],
    rows_max: usize,
    /// The bytes behind the JSON that no input has taken yet.
    binary: &'a [u8],
    /// The columns that are there, as `specs` orders them.
    tensors: Vec<Option<Tensor>>,
}

/// An input, as far as it was read.
#[derive(Default)]
struct Input<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Cow<'a, str>>,
    shape: Option<Vec<usize>>,
    /// Which column it is and how many rows it has, once the three above are checked.
    head: Option<(usize, usize)>,
    /// How many bytes of the binary data are its elements.
    binary_size: Option<usize>,
    elements: Option<Elements<'a>>,
    /// Whether its strings are bytes as base64.
    is_base64: bool,
}

/// The elements of an input that are in the JSON.
enum Elements<'a> {
    /// As the tensor holds them.
    Decoded(Vec<u8>),
    /// Where they begin: they came before it was clear what they are.
    At(Scanner<'a>),
}

impl InputReader<'_> {
    fn take(&mut self, scanner: &mut Scanner<'_>, index: usize) -> Result<(), InferenceError> {
        let mut input = Input::default();
        let taken = self.take_fields(scanner, &mut input, index);
        let taken = taken.and_then(|(column, rows)| {
            let Some((spec, place)) = self.specs.get(column).zip(self.tensors.get_mut(column)) else {
                return Ok(());
            };
            if place.is_some() {
                return Err(BatchError::DuplicateColumn { name: spec.name.clone() }.into());
            }
            let tensor = input.take_tensor(spec, rows, &mut self.binary)?;
            *place = Some(if input.is_base64 { from_base64(spec, tensor)? } else { tensor });
            Ok(())
        });
        taken.map_err(|error| match &input.name {
            Some(name) => error.in_column(&shown(name)),
            None => error.inside(&format!("input {index}")),
        })
    }

    /// Reads all fields; gives which column the input is, and how many rows it has.
    fn take_fields<'a>(
        &self,
        scanner: &mut Scanner<'a>,
        input: &mut Input<'a>,
        index: usize,
    ) -> Result<(usize, usize), InferenceError> {
        let mut fields = Fields::default();
        take_object(scanner, &mut |scanner, field| {
            match field {
                "name" => {
                    fields.once("name")?;
                    input.name = Some(take_string(scanner, "name")?);
                }
                "datatype" => {
                    fields.once("datatype")?;
                    input.datatype = Some(take_string(scanner, "datatype")?);
                }
                "shape" => {
                    fields.once("shape")?;
                    input.shape = Some(take_shape(scanner)?);
                }
                "parameters" => {
                    fields.once("parameters")?;
                    take_parameters(scanner, &mut |scanner, parameter| {
                        match parameter {
                            "binary_data_size" => {
                                input.binary_size = optional(scanner, take_size)
                                    .map_err(|wrong| wrong.inside("`binary_data_size`"))?;
                            }
                            // Whatever else it is means nothing here.
                            "content_type" => {
                                let mut place = scanner.clone();
                                skip(scanner)?;
                                input.is_base64 =
                                    place.string().is_ok_and(|text| text.as_deref() == Some(BASE64));
                            }
                            "shared_memory_region" => return Err(shared_memory()),
                            _ => skip(scanner)?,
                        }
                        Ok(())
                    })?;
                }
                "data" => {
                    fields.once("data")?;
                    self.take_data(scanner, input, index)?;
                }
                _ => skip(scanner)?,
            }
            Ok(())
        })?;
        for field in ["name", "datatype", "shape"] {
            fields.must_have(field)?;
        }
        self.check(input, index).and_then(|head| head.ok_or(InferenceError::NoRows))
    }

    /// Which column the input is and how many rows it has; none as long as it has not said everything.
    fn check(&self, input: &mut Input<'_>, index: usize) -> Result<Option<(usize, usize)>, InferenceError> {
        if let (None, Some(name), Some(datatype), Some(shape)) =
            (input.head, &input.name, &input.datatype, &input.shape)
        {
            // Most programs send the inputs in the order in which the signature has them.
            let column = find_column(self.specs, name, index)?;
            let spec = self.specs.get(column);
            let rows = spec.map(|spec| check_head(spec, datatype, shape, self.rows_max)).transpose()?;
            input.head = rows.map(|rows| (column, rows));
        }
        Ok(input.head)
    }

    /// Reads the elements if it is clear what they are; otherwise remembers where they are, and goes on.
    fn take_data<'a>(
        &self,
        scanner: &mut Scanner<'a>,
        input: &mut Input<'a>,
        index: usize,
    ) -> Result<(), InferenceError> {
        if scanner.word("null") {
            return Ok(());
        }
        let head = self.check(input, index)?.and_then(|(column, rows)| Some((self.specs.get(column)?, rows)));
        input.elements = Some(match head {
            Some((spec, rows)) => Elements::Decoded(take_elements(scanner, spec, rows)?),
            None => {
                let place = scanner.clone();
                skip(scanner)?;
                Elements::At(place)
            }
        });
        Ok(())
    }

    /// The batch, if every column is there and all of the body was taken.
    fn finish(self) -> Result<Batch, InferenceError> {
        let columns = self
            .tensors
            .into_iter()
            .zip(self.specs)
            .map(|(tensor, spec)| tensor.ok_or_else(|| SchemaError::Missing { name: spec.name.clone() }));
        let batch = Batch::new(columns.collect::<Result<_, _>>()?)?;
        match (self.binary.len(), batch.rows()) {
            (0, 0) => Err(InferenceError::NoRows),
            (0, _) => Ok(batch),
            (found, _) => Err(InferenceError::LongBody { found }),
        }
    }
}

impl Input<'_> {
    /// The tensor, whose bytes are taken from `binary` if they are there.
    fn take_tensor(
        &mut self,
        spec: &ColumnSpec,
        rows: usize,
        binary: &mut &[u8],
    ) -> Result<Tensor, InferenceError> {
        let both = match (self.binary_size, self.elements.take()) {
            (None, Some(Elements::Decoded(data))) => return tensor(spec, rows, data),
            (None, Some(Elements::At(mut place))) => {
                return tensor(spec, rows, take_elements(&mut place, spec, rows)?);
            }
            (Some(size), None) => {
                let Some((own, rest)) = binary.split_at_checked(size) else {
                    let (name, found) = (spec.name.clone(), binary.len());
                    return Err(InferenceError::ShortBody { name, expected: size, found });
                };
                *binary = rest;
                return tensor_of_bytes(spec, rows, own.to_vec());
            }
            (Some(_), Some(_)) => true,
            (None, None) => false,
        };
        Err(InferenceError::Elements { name: spec.name.clone(), both })
    }
}

fn take_id(scanner: &mut Scanner<'_>) -> Result<String, InferenceError> {
    let id = take_string(scanner, "id")?;
    if id.len() > ID_MAX_BYTES {
        return Err(wrong_field("id", &format!("expected at most {ID_MAX_BYTES} bytes, found {}", id.len())));
    }
    Ok(id.into_owned())
}

fn take_elements(
    scanner: &mut Scanner<'_>,
    spec: &ColumnSpec,
    rows: usize,
) -> Result<Vec<u8>, InferenceError> {
    let mut data = Vec::new();
    take_rows(scanner, spec, rows, &mut data)
        .map_err(|(row, wrong)| InferenceError::element(wrong, row, &spec.name))?;
    Ok(data)
}

fn take_shape(scanner: &mut Scanner<'_>) -> Result<Vec<usize>, InferenceError> {
    let mut shape = Vec::new();
    take_list(scanner, "shape", &mut |scanner, index| {
        if index == DIMENSIONS_MAX {
            let message = format!("expected at most {DIMENSIONS_MAX} dimensions, found more");
            return Err(InferenceError::json(message));
        }
        let size = take_size(scanner).map_err(|wrong| wrong.inside(&format!("dimension {index}")))?;
        shape.push(size);
        Ok(())
    })?;
    Ok(shape)
}

fn take_output(scanner: &mut Scanner<'_>, index: usize) -> Result<RequestedOutput, InferenceError> {
    if index == OUTPUTS_MAX {
        return Err(InferenceError::TooManyOutputs { limit: OUTPUTS_MAX });
    }
    let mut output = RequestedOutput { name: String::new(), form: None, classes: 0 };
    let mut fields = Fields::default();
    let taken = take_object(scanner, &mut |scanner, field| {
        match field {
            "name" => {
                fields.once("name")?;
                output.name = take_string(scanner, "name")?.into_owned();
            }
            "parameters" => {
                fields.once("parameters")?;
                take_parameters(scanner, &mut |scanner, parameter| {
                    match parameter {
                        "binary_data" => output.form = take_form(scanner, parameter)?,
                        "classification" => {
                            let classes = optional(scanner, take_size);
                            let classes = classes.map_err(|wrong| wrong.inside("`classification`"))?;
                            output.classes = classes.unwrap_or_default();
                        }
                        "shared_memory_region" => return Err(shared_memory()),
                        _ => skip(scanner)?,
                    }
                    Ok(())
                })?;
            }
            _ => skip(scanner)?,
        }
        Ok(())
    });
    let taken = taken.and_then(|()| fields.must_have("name"));
    taken.map(|()| output).map_err(|error| error.inside(&format!("output {index}")))
}

/// Fields that were there, of the few that mean something.
#[derive(Default)]
struct Fields {
    seen: [Option<&'static str>; 5],
}

impl Fields {
    /// Remembers `field`, which may be there once: of two values nobody knows which is meant.
    fn once(&mut self, field: &'static str) -> Result<(), InferenceError> {
        if self.has(field) {
            return Err(InferenceError::json(format!("`{field}` appears twice")));
        }
        if let Some(place) = self.seen.iter_mut().find(|place| place.is_none()) {
            *place = Some(field);
        }
        Ok(())
    }

    fn must_have(&self, field: &'static str) -> Result<(), InferenceError> {
        if self.has(field) { Ok(()) } else { Err(InferenceError::json(format!("`{field}` is missing"))) }
    }

    fn has(&self, field: &'static str) -> bool {
        self.seen.contains(&Some(field))
    }
}

/// Takes an object whose fields' values are taken by `take`.
fn take_object<'a>(
    scanner: &mut Scanner<'a>,
    take: &mut dyn FnMut(&mut Scanner<'a>, &str) -> Result<(), InferenceError>,
) -> Result<(), InferenceError> {
    if !scanner.take(b'{') {
        return Err(InferenceError::json(scanner.unexpected("an object")));
    }
    let mut more = !scanner.take(b'}');
    while more {
        let name = scanner.key().map_err(InferenceError::json)?;
        take(scanner, &name)?;
        more = scanner.more(b'}').map_err(InferenceError::json)?;
    }
    Ok(())
}

/// Takes a list whose items are taken by `take`, which gets their index.
fn take_list<'a>(
    scanner: &mut Scanner<'a>,
    field: &str,
    take: &mut dyn FnMut(&mut Scanner<'a>, usize) -> Result<(), InferenceError>,
) -> Result<(), InferenceError> {
    if !scanner.take(b'[') {
        return Err(wrong_field(field, &scanner.unexpected("a list")));
    }
    let mut more = !scanner.take(b']');
    let mut index = 0;
    while more {
        take(scanner, index)?;
        index += 1;
        more = scanner.more(b']').map_err(|wrong| wrong_field(field, &wrong))?;
    }
    Ok(())
}

/// Takes an object of parameters, or `null`.
fn take_parameters<'a>(
    scanner: &mut Scanner<'a>,
    take: &mut dyn FnMut(&mut Scanner<'a>, &str) -> Result<(), InferenceError>,
) -> Result<(), InferenceError> {
    let taken = optional(scanner, |scanner| take_object(scanner, take));
    taken.map(|_| ()).map_err(|error| error.inside("`parameters`"))
}

/// What `take` takes, or nothing where `null` stands.
fn optional<'a, T>(
    scanner: &mut Scanner<'a>,
    take: impl FnOnce(&mut Scanner<'a>) -> Result<T, InferenceError>,
) -> Result<Option<T>, InferenceError> {
    if scanner.word("null") { Ok(None) } else { take(scanner).map(Some) }
}

fn take_string<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Cow<'a, str>, InferenceError> {
    let text = scanner.string().map_err(|wrong| wrong_field(field, &wrong))?;
    text.ok_or_else(|| wrong_field(field, &scanner.unexpected("a string")))
}

/// Takes a number that can count something in memory.
fn take_size(scanner: &mut Scanner<'_>) -> Result<usize, InferenceError> {
    let mut place = scanner.clone();
    let text = scanner.number().map_err(InferenceError::json)?;
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let expected = format!("a whole number from 0 to {}", usize::MAX);
        InferenceError::json(place.unexpected(&expected))
    })
}

/// Takes whether bytes are asked for, or `null`.
fn take_form(scanner: &mut Scanner<'_>, parameter: &str) -> Result<Option<OutputForm>, InferenceError> {
    if scanner.word("true") {
        Ok(Some(OutputForm::Binary))
    } else if scanner.word("false") {
        Ok(Some(OutputForm::Json))
    } else if scanner.word("null") {
        Ok(None)
    } else {
        Err(wrong_field(parameter, &scanner.unexpected("true or false")))
    }
}

fn skip(scanner: &mut Scanner<'_>) -> Result<(), InferenceError> {
    scanner.skip().map_err(InferenceError::json)
}

fn wrong_field(field: &str, wrong: &str) -> InferenceError {
    InferenceError::json(format!("`{field}`: {wrong}"))
}

/// Memory that a caller shares is another's, and only on this machine.
fn shared_memory() -> InferenceError {
    InferenceError::json("`shared_memory_region` is not supported: expected the elements themselves")
}

#[cfg(test)]
mod tests;

use std::time::Duration;

use prost::Message as _;

use super::super::ApiError;
use super::super::inference::{
    BASE64, InferenceError, InferenceRequest, OutputForm, OutputSelection, RequestedOutput, check_head,
    find_column, from_base64, tensor_of_bytes,
};
use super::GrpcError;
use super::contents::elements_of;
use super::error::shown;
use super::messages::{InferParameter, infer_parameter::ParameterChoice};
use super::wire::{Fields, Value, take_varint};
use crate::domain::{Batch, BatchError, ColumnSpec, SchemaError, Tensor};

/// Bytes that the name of a request may have. The answer repeats it.
const ID_MAX_BYTES: usize = 1_024;

/// Dimensions that a shape may have.
const DIMENSIONS_MAX: usize = Tensor::DIMENSIONS_MAX;

/// Outputs that are read; more are refused by [`OutputSelection`].
const OUTPUTS_READ_MAX: usize = 257;

/// Fields that a request may have: for each input one, and one for its contents. They are walked over before it is known
/// on which thread the request is computed.
const FIELDS_MAX: usize = 65_536;

/// What a request says of whom it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InferHead<'a> {
    /// The model.
    pub(super) model_name: &'a str,
    /// A version of it; empty for whichever answers.
    pub(super) model_version: &'a str,
    /// What the request calls itself; empty for nothing.
    pub(super) id: &'a str,
}

impl<'a> InferHead<'a> {
    /// Reads it out of a message `ModelInferRequest`.
    pub(super) fn read(message: &'a [u8]) -> Result<Self, GrpcError> {
        let mut head = Self::default();
        let mut fields = Fields::new(message);
        let mut count = 0;
        while let Some((number, value)) = fields.next()? {
            count += 1;
            match number {
                _ if count > FIELDS_MAX => return Err(GrpcError::TooManyFields { limit: FIELDS_MAX }),
                1 => head.model_name = value.text()?,
                2 => head.model_version = value.text()?,
                3 => head.id = value.text()?,
                _ => {}
            }
        }
        match head.id.len() {
            found if found > ID_MAX_BYTES => Err(GrpcError::IdLength { limit: ID_MAX_BYTES, found }),
            _ => Ok(head),
        }
    }
}

/// Reads a message `ModelInferRequest`. The inputs must be the columns `specs`, each once, with at most `rows_max` rows; the
/// elements of all are raw, or of none.
///
/// Fields and parameters that mean nothing here are skipped.
pub(super) fn decode_infer_request(
    message: &[u8],
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<InferenceRequest, ApiError> {
    // Of more inputs than there are columns, one of the first is unknown or there twice.
    let inputs_max = specs.len().saturating_add(1);
    let (mut inputs, mut raw) = (Vec::new(), Vec::new());
    let (mut input_count, mut raw_count) = (0, 0);
    let (mut requested, mut timeout) = (Vec::new(), None);
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            4 => timeout = timeout_of(parameter(value.bytes()?, "timeout")?)?.or(timeout),
            5 => {
                input_count += 1;
                if inputs.len() < inputs_max {
                    inputs.push(value.bytes()?);
                }
            }
            6 if requested.len() < OUTPUTS_READ_MAX => requested.push(read_output(value.bytes()?)?),
            7 => {
                raw_count += 1;
                if raw.len() < inputs_max {
                    raw.push(value.bytes()?);
                }
            }
            _ => {}
        }
    }
    if raw_count != 0 && raw_count != input_count {
        return Err(GrpcError::RawCount { expected: input_count, found: raw_count }.into());
    }
    let mut tensors: Vec<Option<Tensor>> = vec![None; specs.len()];
    for (index, input) in inputs.iter().enumerate() {
        let input = Input::read(input)?;
        let column = find_column(specs, input.name, index)?;
        let Some((spec, place)) = specs.get(column).zip(tensors.get_mut(column)) else { continue };
        if place.is_some() {
            return Err(InferenceError::from(BatchError::DuplicateColumn { name: spec.name.clone() }).into());
        }
        let raw = if raw_count == 0 { None } else { Some(raw.get(index).copied()) };
        *place = Some(input.tensor(spec, rows_max, raw)?);
    }
    let columns = tensors
        .into_iter()
        .zip(specs)
        .map(|(tensor, spec)| tensor.ok_or_else(|| SchemaError::Missing { name: spec.name.clone() }));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(InferenceError::from)?;
    let inputs = Batch::new(columns).map_err(InferenceError::from)?;
    if inputs.rows() == 0 {
        return Err(InferenceError::NoRows.into());
    }
    let id = InferHead::read(message)?.id;
    Ok(InferenceRequest {
        id: (!id.is_empty()).then(|| id.to_owned()),
        inputs,
        outputs: OutputSelection::new(requested, OutputForm::Binary)?,
        timeout,
    })
}

/// A message `InferInputTensor`.
#[derive(Debug, Default)]
struct Input<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<i64>,
    contents: Option<&'a [u8]>,
    /// Whether its strings are bytes as base64.
    is_base64: bool,
}

impl<'a> Input<'a> {
    fn read(message: &'a [u8]) -> Result<Self, GrpcError> {
        let mut input = Self::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, value) => input.name = value.text()?,
                (2, value) => input.datatype = value.text()?,
                (3, Value::Varint(size)) => input.push_size(size)?,
                (3, value) => {
                    let mut list = value.bytes()?;
                    while !list.is_empty() {
                        input.push_size(take_varint(&mut list)?)?;
                    }
                }
                (4, value) => {
                    if let Some(ParameterChoice::StringParam(text)) =
                        parameter(value.bytes()?, "content_type")?.flatten()
                    {
                        input.is_base64 = text == BASE64;
                    }
                }
                // No library writes it twice, though protobuf would have a way to read it.
                (5, value) if input.contents.is_none() => input.contents = Some(value.bytes()?),
                (5, _) => return Err(GrpcError::Malformed),
                _ => {}
            }
        }
        Ok(input)
    }

    fn push_size(&mut self, size: u64) -> Result<(), GrpcError> {
        if self.shape.len() == DIMENSIONS_MAX {
            return Err(GrpcError::TooManyDimensions { name: shown(self.name), limit: DIMENSIONS_MAX });
        }
        // A negative number has all of its 64 bits on the wire.
        self.shape.push(size as i64);
        Ok(())
    }

    /// The tensor, whose elements are in `raw` where those of any input are.
    fn tensor(
        &self,
        spec: &ColumnSpec,
        rows_max: usize,
        raw: Option<Option<&[u8]>>,
    ) -> Result<Tensor, ApiError> {
        let name = || spec.name.clone();
        let size = |(dimension, &found): (usize, &i64)| {
            usize::try_from(found).map_err(|_| GrpcError::Dimension { name: name(), dimension, found })
        };
        let shape = self.shape.iter().enumerate().map(size).collect::<Result<Vec<_>, _>>()?;
        let rows = check_head(spec, self.datatype, &shape, rows_max)?;
        let contents = self.contents.filter(|contents| !contents.is_empty());
        let data = match (raw, contents) {
            (Some(Some(raw)), None) => raw.to_vec(),
            (None, Some(contents)) => elements_of(spec, rows, contents)?,
            (raw, contents) => {
                let both = raw.is_some() && contents.is_some();
                return Err(GrpcError::Elements { name: name(), both }.into());
            }
        };
        let tensor = tensor_of_bytes(spec, rows, data)?;
        Ok(if self.is_base64 { from_base64(spec, tensor)? } else { tensor })
    }
}

/// Reads a message `InferRequestedOutputTensor`.
fn read_output(message: &[u8]) -> Result<RequestedOutput, GrpcError> {
    let mut output = RequestedOutput { name: String::new(), form: None, classes: 0 };
    let mut classes = None;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => output.name = value.text()?.to_owned(),
            2 => classes = parameter(value.bytes()?, "classification")?.or(classes),
            _ => {}
        }
    }
    let wrong = || GrpcError::Classes { name: shown(&output.name) };
    output.classes = match classes {
        None | Some(None) => 0,
        Some(Some(ParameterChoice::Int64Param(classes))) => classes.try_into().map_err(|_| wrong())?,
        Some(Some(ParameterChoice::Uint64Param(classes))) => classes.try_into().map_err(|_| wrong())?,
        Some(Some(_)) => return Err(wrong()),
    };
    Ok(output)
}

/// The time that the parameter `timeout` gives, in microseconds; 0 is none.
fn timeout_of(parameter: Option<Option<ParameterChoice>>) -> Result<Option<Duration>, GrpcError> {
    let us = match parameter.flatten() {
        None => return Ok(None),
        Some(ParameterChoice::Int64Param(us)) => us.try_into().map_err(|_| GrpcError::TimeoutParameter)?,
        Some(ParameterChoice::Uint64Param(us)) => us,
        Some(_) => return Err(GrpcError::TimeoutParameter),
    };
    Ok((us > 0).then(|| Duration::from_micros(us)))
}

/// Reads an entry of a map of parameters; its value if it is the one that is wanted.
fn parameter(entry: &[u8], wanted: &str) -> Result<Option<Option<ParameterChoice>>, GrpcError> {
    let (mut key, mut message) = ("", &[][..]);
    let mut fields = Fields::new(entry);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => key = value.text()?,
            2 => message = value.bytes()?,
            _ => {}
        }
    }
    if key == "shared_memory_region" {
        return Err(GrpcError::SharedMemory);
    }
    if key != wanted {
        return Ok(None);
    }
    let parameter = InferParameter::decode(message).map_err(|_| GrpcError::Malformed)?;
    Ok(Some(parameter.parameter_choice))
}

#[cfg(test)]
mod tests;

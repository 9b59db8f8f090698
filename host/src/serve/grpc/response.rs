use std::collections::HashMap;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::super::ApiError;
use super::super::inference::OutputSelection;
use super::message::{FRAME_HEAD_BYTES, frame_head};
use super::messages::infer_parameter::ParameterChoice;
use super::messages::model_infer_response::InferOutputTensor;
use super::messages::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use crate::domain::{Batch, Tensor};

/// The number of `ModelInferResponse.raw_output_contents`.
const RAW_CONTENTS: u32 = 6;

/// The number of `ModelStreamInferResponse.infer_response`.
const INFER_RESPONSE: u32 = 2;

/// What an answer says besides its outputs.
#[derive(Debug, Clone, Default)]
pub(super) struct InferResponseHead {
    /// The model that answered.
    pub(super) model_name: String,
    /// Its version.
    pub(super) model_version: String,
    /// What the request called itself; empty where it did not.
    pub(super) id: String,
    /// Names and values that the caller may want to know. The metadata of a call tells them too, which some clients hide.
    pub(super) parameters: Vec<(String, String)>,
}

/// In what an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    /// As it is, for `ModelInfer`.
    Call,
    /// In a `ModelStreamInferResponse`.
    Stream,
}

/// Writes an answer, framed: what `selection` asks for out of `outputs`, all of it raw. The bytes of an output are copied
/// once, straight to their place.
pub(super) fn encode_infer_response(
    head: InferResponseHead,
    outputs: &Batch,
    selection: &OutputSelection,
    envelope: Envelope,
) -> Result<Vec<u8>, ApiError> {
    let selected = selection.select(outputs)?;
    let string = |value| InferParameter { parameter_choice: Some(ParameterChoice::StringParam(value)) };
    let mut parameters: HashMap<_, _> =
        head.parameters.into_iter().map(|(name, value)| (name, string(value))).collect();
    if envelope == Envelope::Stream {
        parameters.extend([is_final()]);
    }
    let head = ModelInferResponse {
        model_name: head.model_name,
        model_version: head.model_version,
        id: head.id,
        parameters,
        outputs: selected.iter().map(|(tensor, _)| described(tensor)).collect(),
        raw_output_contents: Vec::new(),
    };
    let field_len = |number, len: usize| {
        key_len(number).saturating_add(encoded_len_varint(len as u64)).saturating_add(len)
    };
    let raw = selected.iter().map(|(tensor, _)| field_len(RAW_CONTENTS, tensor.data().len()));
    let response_len = raw.fold(head.encoded_len(), usize::saturating_add);
    let message_len = match envelope {
        Envelope::Call => response_len,
        Envelope::Stream => field_len(INFER_RESPONSE, response_len),
    };
    let mut message = Vec::with_capacity(message_len.saturating_add(FRAME_HEAD_BYTES));
    message.extend_from_slice(&frame_head(message_len)?);
    if envelope == Envelope::Stream {
        encode_key(INFER_RESPONSE, WireType::LengthDelimited, &mut message);
        encode_varint(response_len as u64, &mut message);
    }
    head.encode_raw(&mut message);
    for (tensor, _) in &selected {
        encode_key(RAW_CONTENTS, WireType::LengthDelimited, &mut message);
        encode_varint(tensor.data().len() as u64, &mut message);
        message.extend_from_slice(tensor.data());
    }
    Ok(message)
}

/// What is sent in place of the answer to one request of a stream, which goes on.
pub(super) fn stream_error(error: &ApiError, id: &str) -> ModelStreamInferResponse {
    let response = ModelInferResponse {
        id: id.to_owned(),
        parameters: [is_final()].into(),
        ..ModelInferResponse::default()
    };
    ModelStreamInferResponse { error_message: error.message().to_owned(), infer_response: Some(response) }
}

/// The parameter by which clients of Triton know that no more comes of a request: here each has one answer.
fn is_final() -> (String, InferParameter) {
    let parameter_choice = Some(ParameterChoice::BoolParam(true));
    ("triton_final_response".to_owned(), InferParameter { parameter_choice })
}

fn described(tensor: &Tensor) -> InferOutputTensor {
    InferOutputTensor {
        name: tensor.name().to_owned(),
        datatype: tensor.dtype().as_str().to_owned(),
        // No tensor in memory has more elements.
        shape: tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
        parameters: HashMap::new(),
        contents: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::inference::{OutputForm, RequestedOutput};
    use super::*;
    use crate::domain::DataType;

    fn outputs() -> Batch {
        let numbers = Tensor::from_f32("p", vec![2, 2], &[0.25, 0.75, f32::NAN, 1.0]).unwrap();
        let strings = Tensor::from_strings("s", [&b"a"[..], b"\xff"]).unwrap();
        let empty = Tensor::new("e", DataType::Int64, vec![2, 0], Vec::new()).unwrap();
        Batch::new(vec![numbers, strings, empty]).unwrap()
    }

    fn head() -> InferResponseHead {
        InferResponseHead {
            model_name: "m".to_owned(),
            model_version: "3".to_owned(),
            id: "mine".to_owned(),
            parameters: vec![("x-prediction-id".to_owned(), "7".to_owned())],
        }
    }

    fn encoded(requested: Vec<RequestedOutput>, envelope: Envelope) -> Vec<u8> {
        let selection = OutputSelection::new(requested, OutputForm::Binary).unwrap();
        let framed = encode_infer_response(head(), &outputs(), &selection, envelope).unwrap();
        let (frame_head, message) = framed.split_at(FRAME_HEAD_BYTES);
        assert_eq!(frame_head[0], 0);
        assert_eq!(u32::from_be_bytes(frame_head[1..].try_into().unwrap()) as usize, message.len());
        assert!(framed.len() <= selection.raw_len_max(&outputs()));
        assert_eq!(framed.len(), framed.capacity(), "room was made for all of it, and for no more");
        message.to_vec()
    }

    #[test]
    fn an_answer_is_the_message_that_protobuf_reads() {
        let answer = ModelInferResponse::decode(encoded(Vec::new(), Envelope::Call).as_slice()).unwrap();
        assert_eq!((answer.model_name.as_str(), answer.model_version.as_str()), ("m", "3"));
        assert_eq!(answer.id, "mine");
        let parameter = answer.parameters["x-prediction-id"].parameter_choice.clone();
        assert_eq!(parameter, Some(ParameterChoice::StringParam("7".to_owned())));
        let heads: Vec<_> = answer
            .outputs
            .iter()
            .map(|output| (output.name.as_str(), output.datatype.as_str(), output.shape.clone()))
            .collect();
        assert_eq!(heads, [("p", "FP32", vec![2, 2]), ("s", "BYTES", vec![2]), ("e", "INT64", vec![2, 0])]);
        let outputs = outputs();
        let data: Vec<&[u8]> = outputs.tensors().iter().map(Tensor::data).collect();
        assert_eq!(answer.raw_output_contents, data);
    }

    #[test]
    fn outputs_are_chosen_and_classified() {
        let asked = |name: &str, classes| RequestedOutput { name: name.to_owned(), form: None, classes };
        let message = encoded(vec![asked("s", 0), asked("p", 1)], Envelope::Call);
        let answer = ModelInferResponse::decode(message.as_slice()).unwrap();
        assert_eq!(answer.outputs[1].datatype, "BYTES");
        assert_eq!(answer.outputs[1].shape, [2, 1]);
        let strings = [b"\x0a\0\0\0".as_slice(), b"0.750000:1", b"\x0a\0\0\0", b"1.000000:1"];
        assert_eq!(answer.raw_output_contents[1], strings.concat());
    }

    #[test]
    fn the_answer_of_a_stream_is_in_an_envelope() {
        let inner = encoded(Vec::new(), Envelope::Call);
        let message = encoded(Vec::new(), Envelope::Stream);
        let answer = ModelStreamInferResponse::decode(message.as_slice()).unwrap();
        assert_eq!(answer.error_message, "");
        let mut expected = ModelInferResponse::decode(inner.as_slice()).unwrap();
        expected.parameters.extend([is_final()]);
        assert_eq!(answer.infer_response.as_ref(), Some(&expected));
    }
}

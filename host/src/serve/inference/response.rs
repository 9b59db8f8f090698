use std::io::Write as _;

use super::{InferenceError, OutputForm, OutputSelection};
use crate::data::json::{write_elements, write_string};
use crate::domain::{Batch, DataType, Tensor};

/// Bytes that the JSON around an output's elements has room for.
const OUTPUT_HEAD_BYTES: usize = 128;

/// What an answer says besides its outputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseHead<'a> {
    /// The model that answered.
    pub model_name: &'a str,
    /// Its version; none where it has none.
    pub model_version: Option<&'a str>,
    /// What the request called itself.
    pub id: Option<&'a str>,
    /// Names and values that the caller may want to know.
    pub parameters: &'a [(&'a str, &'a str)],
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncodedResponse {
    /// The JSON, and after it the bytes of the outputs that are binary.
    pub body: Vec<u8>,
    /// Bytes of the JSON; none if there is nothing else. A client finds the binary data by the head that says it.
    pub header_length: Option<usize>,
}

impl EncodedResponse {
    /// The media type of the body.
    pub fn content_type(&self) -> &'static str {
        if self.header_length.is_some() { "application/octet-stream" } else { "application/json" }
    }
}

/// Writes an answer: what `selection` asks for out of `outputs`, each as it is asked for.
///
/// NaN and infinities, which JSON cannot hold, become `null` there; as bytes everything is exact.
pub fn encode_response(
    head: ResponseHead<'_>,
    outputs: &Batch,
    selection: &OutputSelection,
) -> Result<EncodedResponse, InferenceError> {
    let selected = selection.select(outputs)?;
    let bytes = |tensor: &Tensor, form: &OutputForm| match form {
        OutputForm::Json => tensor.data().len().saturating_mul(3),
        OutputForm::Binary => tensor.data().len(),
    };
    let room = selected.iter().map(|(tensor, form)| bytes(tensor, form).saturating_add(OUTPUT_HEAD_BYTES));
    let mut body = Vec::with_capacity(room.fold(OUTPUT_HEAD_BYTES, usize::saturating_add));
    write_head(&mut body, head);
    body.extend_from_slice(br#""outputs":["#);
    for (index, (tensor, form)) in selected.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_output(&mut body, tensor, *form)?;
    }
    body.extend_from_slice(b"]}");
    let length = body.len();
    let is_binary = |form: &OutputForm| *form == OutputForm::Binary;
    for (tensor, _) in selected.iter().filter(|(_, form)| is_binary(form)) {
        body.extend_from_slice(tensor.data());
    }
    let header_length = selected.iter().any(|(_, form)| is_binary(form)).then_some(length);
    Ok(EncodedResponse { body, header_length })
}

/// Writes the beginning of the object, up to the comma before its outputs.
fn write_head(text: &mut Vec<u8>, head: ResponseHead<'_>) {
    let fields =
        [("model_name", Some(head.model_name)), ("model_version", head.model_version), ("id", head.id)];
    text.push(b'{');
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        write_string(text, name);
        text.push(b':');
        write_string(text, value);
        text.push(b',');
    }
    if head.parameters.is_empty() {
        return;
    }
    text.extend_from_slice(br#""parameters":{"#);
    for (index, (name, value)) in head.parameters.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write_string(text, name);
        text.push(b':');
        write_string(text, value);
    }
    text.extend_from_slice(b"},");
}

fn write_output(text: &mut Vec<u8>, tensor: &Tensor, form: OutputForm) -> Result<(), InferenceError> {
    text.extend_from_slice(br#"{"name":"#);
    write_string(text, tensor.name());
    text.extend_from_slice(br#","datatype":""#);
    text.extend_from_slice(tensor.dtype().as_str().as_bytes());
    text.extend_from_slice(br#"","shape":["#);
    for (index, size) in tensor.shape().iter().enumerate() {
        // Writing to a vector cannot fail.
        let _ = write!(text, "{}{size}", if index > 0 { "," } else { "" });
    }
    match form {
        OutputForm::Binary => {
            let _ = write!(text, r#"],"parameters":{{"binary_data_size":{}}}}}"#, tensor.data().len());
        }
        OutputForm::Json => {
            text.extend_from_slice(br#"],"data":["#);
            write_elements(text, tensor).map_err(|error| match tensor.dtype() {
                DataType::Bytes => InferenceError::NoText { name: tensor.name().to_owned() },
                _ => error.into(),
            })?;
            text.extend_from_slice(b"]}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::serve::inference::RequestedOutput;

    fn outputs() -> Batch {
        Batch::new(vec![
            Tensor::from_f32("p", vec![2, 2], &[0.1, f32::NAN, 1.0, f32::INFINITY]).unwrap(),
            Tensor::from_strings("s", [&b"a\""[..], "ä".as_bytes()]).unwrap(),
            Tensor::new("ok", DataType::Bool, vec![2], vec![1, 0]).unwrap(),
        ])
        .unwrap()
    }

    fn select(requested: &[(&str, Option<OutputForm>)], form: OutputForm) -> OutputSelection {
        let requested = requested.iter().map(|(name, form)| RequestedOutput {
            name: (*name).to_owned(),
            form: *form,
            classes: 0,
        });
        OutputSelection::new(requested.collect(), form).unwrap()
    }

    #[test]
    fn json_says_everything() {
        let head = ResponseHead {
            model_name: "mnist",
            model_version: Some("3"),
            id: Some("a\"b"),
            parameters: &[("bundle", "sha256:00"), ("route", "champion")],
        };
        let answer = encode_response(head, &outputs(), &select(&[], OutputForm::Json)).unwrap();
        assert_eq!((answer.header_length, answer.content_type()), (None, "application/json"));
        let expected = json!({
            "model_name": "mnist",
            "model_version": "3",
            "id": "a\"b",
            "parameters": {"bundle": "sha256:00", "route": "champion"},
            "outputs": [
                {"name": "p", "datatype": "FP32", "shape": [2, 2], "data": [0.1, null, 1.0, null]},
                {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a\"", "ä"]},
                {"name": "ok", "datatype": "BOOL", "shape": [2], "data": [true, false]},
            ],
        });
        assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap(), expected);
    }

    #[test]
    fn no_answer_is_longer_than_told() {
        let head = ResponseHead { model_name: "m", ..ResponseHead::default() };
        let told_and_written = |outputs: &Batch, selection: &OutputSelection| {
            let written = encode_response(head, outputs, selection).unwrap().body.len();
            let told = selection.len_max(outputs);
            assert!(written <= told, "{written} {told}");
            (told, written)
        };
        for form in [OutputForm::Json, OutputForm::Binary] {
            told_and_written(&outputs(), &select(&[], form));
            told_and_written(&outputs(), &select(&[("s", None), ("p", Some(OutputForm::Binary))], form));
        }
        let numbers = |dtype, data: Vec<u8>, rows| {
            let tensor = Tensor::new("\u{1}".repeat(256), dtype, vec![rows, 1_000, 1, 1], data).unwrap();
            Batch::new(vec![tensor]).unwrap()
        };
        let smallest = numbers(DataType::Fp64, f64::MIN.to_le_bytes().repeat(2_000), 2);
        told_and_written(&smallest, &select(&[], OutputForm::Json));
        let classes = |outputs: &Batch| {
            let name = outputs.tensors()[0].name().to_owned();
            let requested = RequestedOutput { name, form: None, classes: 1_000 };
            told_and_written(outputs, &OutputSelection::new(vec![requested], OutputForm::Json).unwrap())
        };
        classes(&smallest);
        classes(&numbers(DataType::Fp32, f32::MIN.to_le_bytes().repeat(2_000), 2));
        classes(&numbers(DataType::Int64, i64::MIN.to_le_bytes().repeat(2_000), 2));
        let (told, written) =
            told_and_written(&numbers(DataType::Bool, vec![0; 1_000], 1), &select(&[], OutputForm::Json));
        assert!(told < 2 * written, "lists of one element are written flat here: {told} {written}");
    }

    #[test]
    fn bytes_follow_in_the_order_of_the_outputs() {
        let head = ResponseHead { model_name: "m", ..ResponseHead::default() };
        let selection =
            select(&[("s", None), ("ok", Some(OutputForm::Json)), ("p", None)], OutputForm::Binary);
        let outputs = outputs();
        let answer = encode_response(head, &outputs, &selection).unwrap();
        assert_eq!(answer.content_type(), "application/octet-stream");
        let (text, bytes) = answer.body.split_at(answer.header_length.unwrap());
        let expected = json!({
            "model_name": "m",
            "outputs": [
                {"name": "s", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 12}},
                {"name": "ok", "datatype": "BOOL", "shape": [2], "data": [true, false]},
                {"name": "p", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
            ],
        });
        assert_eq!(serde_json::from_slice::<Value>(text).unwrap(), expected);
        let columns = [outputs.column("s").unwrap().data(), outputs.column("p").unwrap().data()];
        assert_eq!(bytes, columns.concat());
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_as_json_only() {
        let outputs = Batch::new(vec![Tensor::from_strings("s", [&b"\xff"[..]]).unwrap()]).unwrap();
        let encode = |form| encode_response(ResponseHead::default(), &outputs, &select(&[], form));
        assert_eq!(
            encode(OutputForm::Json).unwrap_err().to_string(),
            "output `s` holds bytes that are no UTF-8, which JSON needs: ask for it with `binary_data`"
        );
        assert!(encode(OutputForm::Binary).is_ok());
    }

    #[test]
    fn an_answer_of_no_bytes_is_binary_all_the_same() {
        let empty = Tensor::new("x", DataType::Fp32, vec![1, 0], Vec::new()).unwrap();
        let outputs = Batch::new(vec![empty]).unwrap();
        let answer =
            encode_response(ResponseHead::default(), &outputs, &select(&[], OutputForm::Binary)).unwrap();
        assert_eq!(answer.header_length, Some(answer.body.len()));
    }
}

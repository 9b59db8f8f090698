//! The forms in which an image is asked for, and what is read of the answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::protobuf;
use crate::bench::generator::{Answer, Requests, Wire};
use crate::bench::load::Script;
use crate::error::{Context as _, Result};
use crate::mnist;

/// The method that predicts.
const GRPC_METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// The header that tells where JSON ends and bytes begin.
const JSON_BYTES: &str = "inference-header-content-length";

/// The name of the model everywhere.
const MODEL: &str = "mnist";

/// A protocol and its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `POST /serve/mnist` with an object.
    Json,
    /// The Open Inference Protocol over REST, with numbers as JSON.
    V2Json,
    /// The same with tensors as bytes behind the JSON, both ways.
    V2Binary,
    /// The same over gRPC, with tensors as bytes.
    Grpc,
}

/// What was answered to an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prediction {
    pub(super) label: i64,
    pub(super) probability: f64,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::V2Json => "v2 JSON",
            Self::V2Binary => "v2 binary",
            Self::Grpc => "gRPC",
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Json => "/serve/mnist",
            Self::V2Json | Self::V2Binary => "/v2/models/mnist/infer",
            Self::Grpc => GRPC_METHOD,
        }
    }

    /// Requests for images, given by their pixels, as the generator sends them to `path`.
    pub(super) fn requests(self, address: SocketAddr, path: &str, images: &[Vec<u8>]) -> Requests {
        let message = |pixels: &Vec<u8>| {
            let (body, json_bytes) = self.body(pixels);
            match self {
                Self::Grpc => body,
                _ => [post(address, path, body.len(), json_bytes).into_bytes(), body].concat(),
            }
        };
        let wire = if self == Self::Grpc { Wire::Grpc(path.to_owned()) } else { Wire::Http1 };
        Requests { wire, messages: images.iter().map(message).collect() }
    }

    /// Writes bodies for wrk into `folder`; nothing for gRPC, which it does not speak.
    pub(super) fn write_bodies(self, folder: &Path, images: &[Vec<u8>]) -> Result<Option<(Script, PathBuf)>> {
        let bodies: Vec<(Vec<u8>, Option<usize>)> = images.iter().map(|pixels| self.body(pixels)).collect();
        let (name, between) = match self {
            Self::Json => ("bodies.jsonl", &b"\n"[..]),
            Self::V2Json => ("v2-bodies.jsonl", &b"\n"[..]),
            Self::V2Binary => ("v2-bodies.bin", &b""[..]),
            Self::Grpc => return Ok(None),
        };
        let script = match bodies.first() {
            Some((body, Some(json_bytes))) => {
                Script::Tensors { body_bytes: body.len(), json_bytes: *json_bytes }
            }
            _ => Script::Rotate,
        };
        let file = folder.join(name);
        let bodies: Vec<Vec<u8>> = bodies.into_iter().map(|(body, _)| body).collect();
        std::fs::write(&file, bodies.join(between)).context("write the requests")?;
        Ok(Some((script, file)))
    }

    /// The body of a request, and how many of its bytes are JSON where others follow.
    fn body(self, pixels: &[u8]) -> (Vec<u8>, Option<usize>) {
        let input = |rest: &str| {
            format!(r#""inputs":[{{"name":"pixels","shape":[1,28,28],"datatype":"UINT8",{rest}}}]"#)
        };
        match self {
            Self::Json => (mnist::request_body(pixels.iter().copied()), None),
            Self::V2Json => {
                let numbers: Vec<String> = pixels.iter().map(u8::to_string).collect();
                let data = format!(r#""data":[{}]"#, numbers.join(","));
                (format!("{{{}}}", input(&data)).into_bytes(), None)
            }
            Self::V2Binary => {
                let size = format!(r#""parameters":{{"binary_data_size":{}}}"#, pixels.len());
                let json = format!(r#"{{"parameters":{{"binary_data_output":true}},{}}}"#, input(&size));
                let json_bytes = json.len();
                ([json.into_bytes(), pixels.to_vec()].concat(), Some(json_bytes))
            }
            Self::Grpc => (grpc_request(pixels), None),
        }
    }

    /// Reads an answer; none if it has not what it should have.
    pub(super) fn read(self, answer: &Answer) -> Option<Prediction> {
        match self {
            Self::Json => {
                let answer: Value = serde_json::from_slice(&answer.body).ok()?;
                let probability = answer.get("probability")?.as_f64()?;
                Some(Prediction { label: answer.get("label")?.as_i64()?, probability })
            }
            Self::V2Json => {
                let answer: Value = serde_json::from_slice(&answer.body).ok()?;
                let first = |name: &str| output(&answer, name)?.get("data")?.get(0).cloned();
                let probability = first("probability")?.as_f64()?;
                Some(Prediction { label: first("label")?.as_i64()?, probability })
            }
            Self::V2Binary => {
                let json_bytes = answer.header(JSON_BYTES)?.parse().ok()?;
                let (json, bytes) = answer.body.split_at_checked(json_bytes)?;
                let json: Value = serde_json::from_slice(json).ok()?;
                let names = json.get("outputs")?.as_array()?.iter();
                let sizes = names.map(|output| {
                    let size = output.pointer("/parameters/binary_data_size")?.as_u64()?;
                    Some((output.get("name")?.as_str()?.to_owned(), usize::try_from(size).ok()?))
                });
                tensors(&sizes.collect::<Option<Vec<_>>>()?, bytes)
            }
            Self::Grpc => grpc_answer(&answer.body),
        }
    }
}

/// The head of a request, up to and with the empty line.
fn post(address: SocketAddr, path: &str, length: usize, json_bytes: Option<usize>) -> String {
    let (kind, json_bytes) = match json_bytes {
        Some(bytes) => ("octet-stream", format!("{JSON_BYTES}: {bytes}\r\n")),
        None => ("json", String::new()),
    };
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/{kind}\r\n{json_bytes}\
         content-length: {length}\r\n\r\n"
    )
}

fn output<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    let outputs = answer.get("outputs")?.as_array()?;
    outputs.iter().find(|output| output.get("name").and_then(Value::as_str) == Some(name))
}

/// Reads `label` as INT64 and `probability` as FP32 from tensors with these names and sizes, one behind the other.
fn tensors(sizes: &[(String, usize)], mut bytes: &[u8]) -> Option<Prediction> {
    let (mut label, mut probability) = (None, None);
    for (name, size) in sizes {
        let (tensor, rest) = bytes.split_at_checked(*size)?;
        match name.as_str() {
            "label" => label = Some(i64::from_le_bytes(tensor.try_into().ok()?)),
            "probability" => probability = Some(f32::from_le_bytes(tensor.try_into().ok()?)),
            _ => {}
        }
        bytes = rest;
    }
    Some(Prediction { label: label?, probability: probability?.into() })
}

/// A `ModelInferRequest` for an image.
fn grpc_request(pixels: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    protobuf::put(&mut input, 1, b"pixels");
    protobuf::put(&mut input, 2, b"UINT8");
    protobuf::put(&mut input, 3, &[1, 28, 28]);
    let mut request = Vec::new();
    protobuf::put(&mut request, 1, MODEL.as_bytes());
    protobuf::put(&mut request, 5, &input);
    protobuf::put(&mut request, 7, pixels);
    request
}

/// Reads a `ModelInferResponse`, whose tensors stand as bytes after all outputs or, as MLServer has it, as numbers in them.
fn grpc_answer(message: &[u8]) -> Option<Prediction> {
    let fields = protobuf::fields(message)?;
    let raw: Vec<&[u8]> = protobuf::bytes(&fields, 6).collect();
    let mut sizes = Vec::new();
    let (mut label, mut probability) = (None, None);
    for (index, output) in protobuf::bytes(&fields, 5).enumerate() {
        let output = protobuf::fields(output)?;
        let name = protobuf::bytes(&output, 1).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let contents = protobuf::bytes(&output, 5).next().and_then(protobuf::fields).unwrap_or_default();
        match name.as_str() {
            "label" => label = protobuf::bytes(&contents, 3).next().and_then(protobuf::varint).or(label),
            "probability" => probability = protobuf::bytes(&contents, 6).next().or(probability),
            _ => {}
        }
        sizes.push((name, raw.get(index).map_or(0, |tensor| tensor.len())));
    }
    if !raw.is_empty() {
        return tensors(&sizes, &raw.concat());
    }
    let probability = f32::from_le_bytes(probability?.try_into().ok()?).into();
    Some(Prediction { label: label?.0.cast_signed(), probability })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: Form, head: &str, body: &[u8]) -> Option<Prediction> {
        form.read(&Answer::new(head, body))
    }

    const EXPECTED: Option<Prediction> = Some(Prediction { label: 7, probability: 0.5 });

    #[test]
    fn answers_of_every_form_say_the_same() {
        assert_eq!(read(Form::Json, "", br#"{"label":7,"probability":0.5}"#), EXPECTED);
        let v2 = br#"{"outputs":[{"name":"probability","data":[0.5]},{"name":"label","data":[7]}]}"#;
        assert_eq!(read(Form::V2Json, "", v2), EXPECTED);
        let json = br#"{"outputs":[{"name":"label","parameters":{"binary_data_size":8}},{"name":"probability","parameters":{"binary_data_size":4}}]}"#;
        let body = [&json[..], &7_i64.to_le_bytes(), &0.5_f32.to_le_bytes()].concat();
        let head = format!("HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {}", json.len());
        assert_eq!(read(Form::V2Binary, &head, &body), EXPECTED);
        assert_eq!(read(Form::V2Binary, "HTTP/1.1 200 OK", &body), None);
    }

    #[test]
    fn grpc_has_tensors_as_bytes_or_as_numbers() {
        let output = |name: &str, contents: Option<(u64, &[u8])>| {
            let mut output = Vec::new();
            protobuf::put(&mut output, 1, name.as_bytes());
            if let Some((field, numbers)) = contents {
                let mut contents = Vec::new();
                protobuf::put(&mut contents, field, numbers);
                protobuf::put(&mut output, 5, &contents);
            }
            output
        };
        let mut raw = Vec::new();
        protobuf::put(&mut raw, 5, &output("label", None));
        protobuf::put(&mut raw, 5, &output("probability", None));
        protobuf::put(&mut raw, 6, &7_i64.to_le_bytes());
        protobuf::put(&mut raw, 6, &0.5_f32.to_le_bytes());
        assert_eq!(read(Form::Grpc, "", &raw), EXPECTED);
        let mut numbers = Vec::new();
        protobuf::put(&mut numbers, 5, &output("label", Some((3, &[7]))));
        protobuf::put(&mut numbers, 5, &output("probability", Some((6, &0.5_f32.to_le_bytes()))));
        assert_eq!(read(Form::Grpc, "", &numbers), EXPECTED);
        assert_eq!(read(Form::Grpc, "", b"\xff"), None);
    }

    #[test]
    fn requests_are_whole() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let images = [vec![0, 255]];
        let text = |form: Form| {
            let requests = form.requests(address, form.path(), &images);
            String::from_utf8_lossy(requests.messages.first().unwrap()).into_owned()
        };
        let json = "POST /serve/mnist HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-type: application/json\r\n\
                    content-length: 18\r\n\r\n{\"pixels\":[0,255]}";
        assert_eq!(text(Form::Json), json);
        assert!(text(Form::V2Json).ends_with(r#""datatype":"UINT8","data":[0,255]}]}"#));
        let (body, json_bytes) = Form::V2Binary.body(&[0, 255]);
        assert_eq!(body.len(), json_bytes.unwrap() + 2);
        assert!(text(Form::V2Binary).contains(&format!("{JSON_BYTES}: {}\r\n", json_bytes.unwrap())));
        assert_eq!(Form::Grpc.body(&[9]).0[..7], *b"\x0a\x05mnist");
    }
}

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::InferenceError;
use crate::domain::{ColumnSpec, DataType};

/// The protocol's extensions that are spoken here, by the names that clients look for.
pub const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"];

/// What `GET /v2` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerMetadata<'a> {
    /// The program.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What it speaks beyond the protocol.
    pub extensions: &'a [&'a str],
}

/// What `GET /v2/models/{name}` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelMetadata {
    /// The model.
    pub name: String,
    /// The versions that can be asked for.
    pub versions: Vec<String>,
    /// The library that made it and the format of its file.
    pub platform: String,
    /// What it takes.
    pub inputs: Vec<TensorMetadata>,
    /// What it answers.
    pub outputs: Vec<TensorMetadata>,
}

/// A column, as the protocol tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its type.
    pub datatype: &'static str,
    /// Its dimensions, the first being −1: any number of rows.
    pub shape: Vec<i64>,
}

impl TensorMetadata {
    /// Tells of the columns `specs`.
    pub fn of(specs: &[ColumnSpec]) -> Vec<Self> {
        let one = |spec: &ColumnSpec| Self {
            name: spec.name.clone(),
            datatype: spec.dtype.as_str(),
            shape: [-1].into_iter().chain(dimensions(&spec.shape)).collect(),
        };
        specs.iter().map(one).collect()
    }
}

/// What `GET /v2/models/{name}/config` answers: of Triton's model configuration, what there is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    /// The model.
    pub name: String,
    /// As in [`ModelMetadata::platform`].
    pub platform: String,
    /// Who computes.
    pub backend: String,
    /// Rows that a request may have. More than 0, so shapes here have no dimension for them.
    pub max_batch_size: usize,
    /// What it takes.
    pub input: Vec<TensorConfig>,
    /// What it answers.
    pub output: Vec<TensorConfig>,
}

/// A column, as the model configuration tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorConfig {
    /// Its name.
    pub name: String,
    /// Its type, by the names that this document has for types.
    pub data_type: &'static str,
    /// Dimensions of one row.
    pub dims: Vec<i64>,
}

impl TensorConfig {
    /// Tells of the columns `specs`.
    pub fn of(specs: &[ColumnSpec]) -> Vec<Self> {
        let one = |spec: &ColumnSpec| Self {
            name: spec.name.clone(),
            data_type: type_name(spec.dtype),
            dims: dimensions(&spec.shape).collect(),
        };
        specs.iter().map(one).collect()
    }
}

/// An item of what `POST /v2/repository/index` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelIndexEntry {
    /// The model.
    pub name: String,
    /// A version of it.
    pub version: String,
    /// Whether it answers requests.
    pub state: ModelState,
    /// Why it is in that state, where there is more to say.
    pub reason: String,
}

impl ModelIndexEntry {
    /// A version that does not answer, and why.
    pub fn unavailable(name: String, version: String, reason: &str) -> Self {
        Self { name, version, state: ModelState::Unavailable, reason: reason.to_owned() }
    }
}

/// Whether a version of a model answers requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModelState {
    /// It does.
    Ready,
    /// It could, once it is loaded.
    Unavailable,
}

/// Reads the body of `POST /v2/repository/index`: whether only models that are ready are asked for. There may be none.
pub fn decode_index_request(body: &[u8]) -> Result<bool, InferenceError> {
    #[derive(Default, Deserialize)]
    struct Request {
        #[serde(default)]
        ready: Option<bool>,
    }
    Ok(decode_or_default::<Request>(body)?.ready.unwrap_or_default())
}

/// Reads the body of `POST /v2/repository/models/{name}/load` or `unload`. There may be none.
///
/// Refuses another configuration or other files for the model: it is what the registry has. Models here have no dependents,
/// so that they are to be unloaded too changes nothing.
pub fn decode_load_request(body: &[u8]) -> Result<(), InferenceError> {
    #[derive(Default, Deserialize)]
    struct Request {
        #[serde(default)]
        parameters: Option<serde_json::Map<String, Value>>,
    }
    let parameters = decode_or_default::<Request>(body)?.parameters.unwrap_or_default();
    match parameters.keys().find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => Err(InferenceError::Unsupported {
            what: format!("parameter `{}`", super::error::shown(name)),
            expected: "a model of the registry, as it is there",
        }),
    }
}

fn decode_or_default<'a, T: Default + Deserialize<'a>>(body: &'a [u8]) -> Result<T, InferenceError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    // serde would take a list for the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(InferenceError::json("not the JSON expected: expected an object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| InferenceError::json(format!("not the JSON expected: {error}")))
}

/// The name of a type in the model configuration.
fn type_name(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Bool => "TYPE_BOOL",
        DataType::Uint8 => "TYPE_UINT8",
        DataType::Uint16 => "TYPE_UINT16",
        DataType::Uint32 => "TYPE_UINT32",
        DataType::Uint64 => "TYPE_UINT64",
        DataType::Int8 => "TYPE_INT8",
        DataType::Int16 => "TYPE_INT16",
        DataType::Int32 => "TYPE_INT32",
        DataType::Int64 => "TYPE_INT64",
        DataType::Fp16 => "TYPE_FP16",
        DataType::Fp32 => "TYPE_FP32",
        DataType::Fp64 => "TYPE_FP64",
        DataType::Bytes => "TYPE_STRING",
    }
}

/// Sizes as the protocol has them; no tensor in memory has more elements.
fn dimensions(shape: &[usize]) -> impl Iterator<Item = i64> {
    shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn specs() -> Vec<ColumnSpec> {
        let column = |name: &str, dtype, shape: &[usize]| ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        };
        vec![column("pixels", DataType::Uint8, &[28, 28]), column("text", DataType::Bytes, &[])]
    }

    #[test]
    fn documents_are_the_protocols() {
        let server = ServerMetadata { name: "host", version: "0.1.0", extensions: &EXTENSIONS };
        let expected = json!({"name": "host", "version": "0.1.0", "extensions": EXTENSIONS});
        assert_eq!(serde_json::to_value(server).unwrap(), expected);

        let model = ModelMetadata {
            name: "mnist".to_owned(),
            versions: vec!["1".to_owned(), "2".to_owned()],
            platform: "xgboost".to_owned(),
            inputs: TensorMetadata::of(&specs()),
            outputs: Vec::new(),
        };
        let expected = json!({
            "name": "mnist",
            "versions": ["1", "2"],
            "platform": "xgboost",
            "inputs": [
                {"name": "pixels", "datatype": "UINT8", "shape": [-1, 28, 28]},
                {"name": "text", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [],
        });
        assert_eq!(serde_json::to_value(model).unwrap(), expected);

        let config = ModelConfig {
            name: "mnist".to_owned(),
            platform: "xgboost".to_owned(),
            backend: "host".to_owned(),
            max_batch_size: 1_000,
            input: TensorConfig::of(&specs()),
            output: Vec::new(),
        };
        let expected = json!({
            "name": "mnist",
            "platform": "xgboost",
            "backend": "host",
            "max_batch_size": 1_000,
            "input": [
                {"name": "pixels", "data_type": "TYPE_UINT8", "dims": [28, 28]},
                {"name": "text", "data_type": "TYPE_STRING", "dims": []},
            ],
            "output": [],
        });
        assert_eq!(serde_json::to_value(config).unwrap(), expected);

        let entry = ModelIndexEntry {
            name: "mnist".to_owned(),
            version: "2".to_owned(),
            state: ModelState::Ready,
            reason: String::new(),
        };
        let expected = json!({"name": "mnist", "version": "2", "state": "READY", "reason": ""});
        assert_eq!(serde_json::to_value(entry).unwrap(), expected);
        let entry = ModelIndexEntry::unavailable("mnist".to_owned(), "2".to_owned(), "unloaded");
        let expected = json!({"name": "mnist", "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"});
        assert_eq!(serde_json::to_value(entry).unwrap(), expected);
    }

    #[test]
    fn every_type_has_a_name_in_the_configuration() {
        for dtype in DataType::ALL {
            let expected = if dtype == DataType::Bytes { "STRING" } else { dtype.as_str() };
            assert_eq!(type_name(dtype), format!("TYPE_{expected}"));
        }
    }

    #[test]
    fn requests_to_the_repository_may_be_empty() {
        for (body, ready) in [("", false), ("\n", false), ("{}", false), (r#"{"ready":true}"#, true)] {
            assert_eq!(decode_index_request(body.as_bytes()), Ok(ready), "{body}");
        }
        assert!(decode_index_request(b"{").is_err());
        assert!(decode_index_request(br#"{"ready":1}"#).is_err());
        for body in ["[]", "[true]", "null", "1", " \n[]"] {
            let error = decode_index_request(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "not the JSON expected: expected an object", "{body}");
            assert!(decode_load_request(body.as_bytes()).is_err(), "{body}");
        }
        assert!(decode_index_request("[".repeat(1_000_000).as_bytes()).is_err());

        for body in ["", "{}", r#"{"parameters":{"unload_dependents":false}}"#, r#"{"parameters":null}"#] {
            assert_eq!(decode_load_request(body.as_bytes()), Ok(()), "{body}");
        }
        let error = decode_load_request(br#"{"parameters":{"config":"{}"}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "parameter `config` is not supported: expected a model of the registry, as it is there"
        );
        assert!(decode_load_request(br#"{"parameters":{"file:1/model.ubj":"AA=="}}"#).is_err());
    }
}

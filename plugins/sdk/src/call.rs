//! What happens around a plugin's own code in every call, the same in a guest and in tests.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Batch, Error, Transformer};

/// The config of a plugin that has nothing to configure: a JSON object without fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl NoConfig {
    /// JSON Schema of a config without fields.
    pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false}"#;
}

/// Reads a config.
pub(crate) fn read_config<C: DeserializeOwned>(text: &str) -> Result<C, Error> {
    // Derived `Deserialize` also takes a list of the fields' values, which the contract rules out.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Error::InvalidConfig("expected a JSON object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| Error::InvalidConfig(error.to_string()))
}

/// Reads a state that [`write_state`] wrote.
pub(crate) fn read_state<S: DeserializeOwned>(bytes: Option<&[u8]>) -> Result<Option<S>, Error> {
    let read = |bytes| serde_json::from_slice(bytes).map_err(|error| Error::InvalidState(error.to_string()));
    bytes.map(read).transpose()
}

/// Writes a state.
pub(crate) fn write_state<S: Serialize>(state: &S) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(state).map_err(|error| Error::Other(format!("cannot write the state: {error}")))
}

/// Calls `transform` and checks that it keeps its promise.
pub(crate) fn transform<T: Transformer>(transformer: &T, batch: Batch) -> Result<Batch, Error> {
    let rows = batch.rows();
    let answer = transformer.transform(batch)?;
    if answer.rows() == rows {
        Ok(answer)
    } else {
        Err(Error::Other(format!("transformed {rows} rows to {}: expected as many", answer.rows())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(rename = "bins")]
        _bins: u32,
    }

    #[test]
    fn config_is_an_object_of_known_fields() {
        assert!(read_config::<NoConfig>(" {}").is_ok());
        assert!(read_config::<Config>(r#"{"bins":1}"#).is_ok());
        for (text, expected) in [
            ("", "expected a JSON object"),
            ("[1]", "expected a JSON object"),
            ("{}", "missing field `bins`"),
            (r#"{"bins":1,"bin":2}"#, "unknown field `bin`, expected `bins`"),
            (r#"{"bins":-1}"#, "invalid value: integer `-1`, expected u32"),
        ] {
            let error = read_config::<Config>(text).unwrap_err();
            let Error::InvalidConfig(message) = error else { panic!("{error:?}") };
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn state_survives_bit_for_bit() {
        let state = vec![0.1_f64 + 0.2, f64::MIN_POSITIVE, -0.0, f64::MAX, 1.0 / 3.0];
        let bytes = write_state(&state).unwrap();
        let read = read_state::<Vec<f64>>(Some(&bytes)).unwrap().unwrap();
        assert!(state.iter().zip(&read).all(|(one, other)| one.to_bits() == other.to_bits()));
        assert!(matches!(read_state::<Vec<f64>>(Some(b"[1,")), Err(Error::InvalidState(_))));
        assert_eq!(read_state::<Vec<f64>>(None).unwrap(), None);
    }
}

//! What `POST /serve/{endpoint}` takes: rows as JSON, as CSV, or the bytes of one element.

use axum::http::{HeaderMap, StatusCode, header};

use super::body::BodyReader;
use super::deployment::{Given, Writing};
use super::{Answer, ApiError, Call, Decoded, Deployment, ErrorCode, RequestBody};
use crate::data::{self, RowForm, UnknownColumns};
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// How the rows of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// An object or a list of objects.
    Json,
    /// A line of names and a line for each row.
    Csv,
    /// The only element of the only column: an image, for example, that a transformer decodes.
    Bytes,
}

impl BodyFormat {
    /// What the body says that it is. JSON is also what says nothing, or what programs send that think of no type, as curl
    /// does.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Json) };
        let text = value.to_str().unwrap_or("?").to_ascii_lowercase();
        match text.split(';').next().unwrap_or_default().trim() {
            "text/csv" => Ok(Self::Csv),
            "application/octet-stream" => Ok(Self::Bytes),
            media if ["image/", "audio/", "video/"].iter().any(|kind| media.starts_with(kind)) => {
                Ok(Self::Bytes)
            }
            media if media.starts_with("multipart/") => {
                let message = "forms are not taken: send JSON, CSV or the bytes themselves as the body";
                Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message))
            }
            _ => Ok(Self::Json),
        }
    }

    /// Has a deployment answer a body: an object for an object or for bytes, a list for a list or for CSV.
    pub(super) async fn answer(
        self,
        deployment: &Deployment,
        body: RequestBody,
        call: Call,
        bodies: &BodyReader,
    ) -> Result<Answer<Vec<u8>>, ApiError> {
        let decode = move |body: &[u8], specs: &[ColumnSpec], rows_max| {
            let (inputs, note) = match self {
                Self::Json => data::decode_rows(body, specs, rows_max)?,
                Self::Csv => {
                    let unknown = UnknownColumns::Refused;
                    (data::decode_scoring_csv(body, specs, rows_max, unknown)?, RowForm::List)
                }
                Self::Bytes => (one_element(body, specs)?, RowForm::Object),
            };
            Ok(Decoded { inputs, note, timeout: None })
        };
        let encode = |given: &Given, form| {
            data::encode_rows(&given.outputs, form).map_err(|error| not_in_json(&error))
        };
        let writing = Writing { len_max: |outputs, _| data::rows_len_max(outputs), encode };
        deployment.answer_as(body, call, bodies, decode, writing).await
    }
}

/// The error of an answer that JSON cannot hold: bytes that are no text.
pub(super) fn not_in_json(error: &dyn std::fmt::Display) -> ApiError {
    let message = format!(
        "the answer cannot be JSON: {error}; ask `/v2/models/ENDPOINT/infer` for `binary_data`, or by gRPC"
    );
    ApiError::new(StatusCode::NOT_ACCEPTABLE, ErrorCode::Unsupported, message)
}

/// The column that a body of bytes is an element of; none where there are others, or it holds something else.
pub(super) fn column_of_bytes(specs: &[ColumnSpec]) -> Option<&ColumnSpec> {
    match specs {
        [only] if only.dtype == DataType::Bytes && only.row_elements() == 1 => Some(only),
        _ => None,
    }
}

/// A row whose only column holds the body.
fn one_element(body: &[u8], specs: &[ColumnSpec]) -> Result<Batch, ApiError> {
    let Some(column) = column_of_bytes(specs) else {
        let columns: Vec<_> =
            specs.iter().take(10).map(|spec| format!("`{}` ({})", spec.name, spec.dtype)).collect();
        let message = format!(
            "bytes need a model that takes one column of type BYTES, and this one takes {}: send JSON",
            columns.join(", ")
        );
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message));
    };
    let shape = [1].into_iter().chain(column.shape.iter().copied()).collect();
    let told = |error: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, error.to_string())
    };
    let strings = Tensor::from_strings(column.name.clone(), [body]).map_err(|error| told(&error))?;
    let tensor = Tensor::new(column.name.clone(), DataType::Bytes, shape, strings.into_data());
    Batch::new(vec![tensor.map_err(|error| told(&error))?]).map_err(|error| told(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: DataType, shape: &[usize]) -> ColumnSpec {
        ColumnSpec {
            name: "image".to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        }
    }

    #[test]
    fn what_a_body_is_stands_in_its_head() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]);
            BodyFormat::of(&headers)
        };
        assert_eq!(BodyFormat::of(&HeaderMap::new()).unwrap(), BodyFormat::Json);
        assert_eq!(of("application/x-www-form-urlencoded").unwrap(), BodyFormat::Json);
        assert_eq!(of("application/json; charset=utf-8").unwrap(), BodyFormat::Json);
        assert_eq!(of("Text/CSV").unwrap(), BodyFormat::Csv);
        assert_eq!(of("image/png").unwrap(), BodyFormat::Bytes);
        assert_eq!(of("multipart/form-data; boundary=x").unwrap_err().status().as_u16(), 415);
    }

    #[test]
    fn bytes_are_the_only_element_of_the_only_column() {
        for shape in [&[][..], &[1]] {
            let batch = one_element(b"\x89PNG", &[spec(DataType::Bytes, shape)]).unwrap();
            assert_eq!(batch.rows(), 1);
            assert_eq!(batch.tensors()[0].byte_strings().collect::<Vec<_>>(), [b"\x89PNG"]);
        }
        let picture = Tensor::from_strings("picture", [&b"\x89PNG\xff"[..]]).unwrap();
        let error = data::encode_rows(&Batch::new(vec![picture]).unwrap(), RowForm::Object).unwrap_err();
        let told = not_in_json(&error);
        assert_eq!(told.status().as_u16(), 406);
        assert_eq!(
            told.message(),
            "the answer cannot be JSON: row 0, column `picture`: expected UTF-8, which JSON needs, found other bytes; ask \
             `/v2/models/ENDPOINT/infer` for `binary_data`, or by gRPC"
        );
        for specs in [vec![spec(DataType::Uint8, &[])], vec![spec(DataType::Bytes, &[2])], Vec::new()] {
            let refused = one_element(b"x", &specs).unwrap_err();
            assert_eq!(refused.status().as_u16(), 415, "{}", refused.message());
        }
    }
}

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::graph::OfRows;
use super::inference::{CompressionError, InferenceError};
use super::observe::SeenError;
use super::queue::too_late;
use crate::data::JsonError;
use crate::domain::{Batch, Name};
use crate::model::ModelError;
use crate::plugin::{ErrorClass, Fault, PluginError};
use crate::registry::{FeatureError, PredictionError};

/// Longest sentence of an error that is no mistake in a request.
const MESSAGE_MAX_CHARS: usize = 4_096;

/// What kind of error a response tells of; stable, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The body is not JSON, or not what the signature says.
    InvalidInput,
    /// The body is over the limit.
    BodyTooLarge,
    /// The answer to so many rows would be over the limit.
    AnswerTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// Another server's page, or a name that is not this server's.
    Forbidden,
    /// No such endpoint or route.
    NotFound,
    /// Nothing is loaded yet.
    NotReady,
    /// The request asks for what this server does not do.
    Unsupported,
    /// Another method is needed.
    MethodNotAllowed,
    /// A plugin crashed, hit a limit or broke the contract.
    PluginFault,
    /// Too much at once; try again.
    Overloaded,
    /// Too many requests of the endpoint wait already; try again later.
    QueueFull,
    /// It was not computed in time.
    DeadlineExceeded,
    /// Its client went away before the answer was there.
    Cancelled,
    /// Our fault.
    Internal,
}

impl ErrorCode {
    /// The code as documents and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::BodyTooLarge => "body_too_large",
            Self::AnswerTooLarge => "answer_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::NotReady => "not_ready",
            Self::Unsupported => "unsupported",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PluginFault => "plugin_fault",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue_full",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The status of a request whose client has gone, as nginx logs it. It is sent to nobody.
pub(super) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// An error as every route answers it: `{"error": {"code", "message", "row", "column"}}`.
#[derive(Debug, Clone, Serialize)]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    code: ErrorCode,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
}

impl ApiError {
    /// An error without a place in the input.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: told(message.into()), row: None, column: None }
    }

    /// What is told of a request whose client has gone, and sent to nobody.
    pub(super) fn cancelled() -> Self {
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        Self::new(status, ErrorCode::Cancelled, "the client went away before the answer was there")
    }

    /// What it is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The status of its response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Logs what somebody should look into: a failure of the host's or of a plugin's. Mistakes of callers and overload are counted, and
    /// would be as many lines as there are requests.
    pub(super) fn log(&self, endpoint: Option<&Name>) {
        let endpoint = endpoint.map(Name::as_str);
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(endpoint, code = ?self.code, "{}", self.message);
        } else {
            tracing::debug!(endpoint, code = ?self.code, "{}", self.message);
        }
    }

    /// The row that is at fault, from 0.
    #[cfg(test)]
    pub fn row(&self) -> Option<u64> {
        self.row
    }

    /// A mistake of the caller's, and where it is in the input.
    pub(super) fn invalid_input(message: String, row: Option<u64>, column: Option<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: ErrorCode::InvalidInput, message, row, column }
    }

    /// The response that tells it.
    pub fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Envelope {
            error: ApiError,
        }
        let envelope = Envelope { error: self };
        let body = serde_json::to_vec(&envelope).unwrap_or_default();
        marked(error_response(envelope.error.status, body), envelope.error)
    }

    /// The same as the Open Inference Protocol tells errors: `{"error": "…"}`.
    pub fn into_inference_response(self) -> Response<Body> {
        let body = serde_json::json!({ "error": &self.message }).to_string();
        let mut response = error_response(self.status, body);
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            let encodings = HeaderValue::from_static("gzip, deflate, zstd");
            response.headers_mut().insert(header::ACCEPT_ENCODING, encodings);
        }
        marked(response, self)
    }
}

/// A sentence as it is told, in one line of bounded length: names of columns, and what is in files, may hold anything.
fn told(message: String) -> String {
    if message.len() <= MESSAGE_MAX_CHARS && !message.contains(char::is_control) {
        return message;
    }
    let mut letters = message.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut told: String = letters.by_ref().take(MESSAGE_MAX_CHARS).collect();
    if letters.next().is_some() {
        told.push('…');
    }
    told
}

impl OfRows for ApiError {
    fn of_rows(mut self, rows: &[usize]) -> Self {
        let place = self.row.and_then(|row| Some((row, *rows.get(usize::try_from(row).ok()?)?)));
        if let Some((row, of_whole)) = place {
            // The sentence names it first of all.
            self.message = self.message.replacen(&format!("row {row}"), &format!("row {of_whole}"), 1);
            self.row = Some(of_whole as u64);
        }
        self
    }

    fn of_known(self, sent: &Batch, known: &Batch) -> Self {
        let is_made = |column: &String| sent.column(column) != known.column(column);
        if self.code != ErrorCode::InvalidInput || !self.column.as_ref().is_some_and(is_made) {
            return self;
        }
        let message =
            format!("an endpoint was given by those before it what it does not take: {}", self.message);
        let error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message);
        // Of a switch around it, the sentence is still to name the row of the whole.
        Self { row: self.row, ..error }
    }
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        Self::invalid_input(
            error.to_string(),
            error.row().map(|row| row as u64),
            error.column().map(str::to_owned),
        )
    }
}

impl From<InferenceError> for ApiError {
    fn from(error: InferenceError) -> Self {
        let message = error.to_string();
        match error {
            InferenceError::Output(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message)
            }
            InferenceError::Unsupported { .. } => {
                Self::new(StatusCode::NOT_IMPLEMENTED, ErrorCode::Unsupported, message)
            }
            error => Self::invalid_input(
                message,
                error.row().map(|row| row as u64),
                error.column().map(str::to_owned),
            ),
        }
    }
}

impl From<CompressionError> for ApiError {
    fn from(error: CompressionError) -> Self {
        let message = error.to_string();
        match error {
            CompressionError::Encoding { .. } => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message)
            }
            CompressionError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BodyTooLarge, message)
            }
            _ => Self::invalid_input(message, None, None),
        }
    }
}

impl From<PredictionError> for ApiError {
    fn from(error: PredictionError) -> Self {
        match error {
            PredictionError::Input(error) => Self::invalid_input(error.to_string(), None, None),
            PredictionError::Plugin(error) => error.into(),
            PredictionError::Postprocess(error) if matches!(error.fault, Fault::InvalidInput { .. }) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::PluginFault, error.to_string())
            }
            PredictionError::Postprocess(error) | PredictionError::Columns(error) => (*error).into(),
            PredictionError::Features(FeatureError::NotWhole { row, ref column, .. }) => {
                Self::invalid_input(error.to_string(), Some(row as u64), Some(column.clone()))
            }
            PredictionError::Features(error) | PredictionError::Transformed(error) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::Internal,
                format!("the transformers made something else than in training: {error}"),
            ),
            PredictionError::Model(ModelError::Late) => too_late(),
            PredictionError::Model(error @ (ModelError::OnnxRun { .. } | ModelError::Device { .. })) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
            }
            PredictionError::Model(error) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::Internal,
                format!("the model cannot take what the transformers made: {error}"),
            ),
        }
    }
}

impl From<PluginError> for ApiError {
    fn from(error: PluginError) -> Self {
        let message = error.to_string();
        match (error.fault.class(), error.fault) {
            (_, Fault::InvalidInput { row, column, .. }) => Self::invalid_input(message, row, column),
            (ErrorClass::Plugin, _) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::PluginFault, message)
            }
            (ErrorClass::Overload, _) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, message)
            }
            (ErrorClass::User | ErrorClass::Host, _) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message)
            }
        }
    }
}

/// Leaves in a response which error it tells, for those who watch.
fn marked(mut response: Response<Body>, error: ApiError) -> Response<Body> {
    response.extensions_mut().insert(SeenError { code: error.code, message: error.message.into() });
    response
}

/// A response with a JSON body that tells an error, and when to try again.
pub(super) fn error_response(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = json_response(status, body);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(super) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DataType;

    #[test]
    fn an_error_is_told_in_one_line_of_bounded_length() {
        let told = |message: &str| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message).message
        };
        assert_eq!(told("column `x\r\nforged\u{1b}[31m`"), "column `x  forged [31m`");
        assert_eq!(told("column `größe` is missing"), "column `größe` is missing");
        assert_eq!(told(&"é".repeat(MESSAGE_MAX_CHARS)), "é".repeat(MESSAGE_MAX_CHARS));
        assert_eq!(told(&"é".repeat(5_000_000)), format!("{}…", "é".repeat(MESSAGE_MAX_CHARS)));
    }

    #[test]
    fn a_number_that_transformers_made_is_no_mistake_of_whoever_asked() {
        let not_whole = || FeatureError::NotWhole {
            row: 1,
            column: "x".to_owned(),
            place: String::new(),
            dtype: DataType::Int32,
            found: "0.5".to_owned(),
        };
        let told = "row 1, column `x`: expected a whole number that INT32 holds, found 0.5";
        let sent = ApiError::from(PredictionError::Features(not_whole()));
        assert_eq!((sent.status.as_u16(), sent.code, sent.row), (400, ErrorCode::InvalidInput, Some(1)));
        assert_eq!((sent.message.as_str(), sent.column.as_deref()), (told, Some("x")));
        let made = ApiError::from(PredictionError::Transformed(not_whole()));
        assert_eq!((made.status.as_u16(), made.code, made.row), (500, ErrorCode::Internal, None));
        assert_eq!(made.message, format!("the transformers made something else than in training: {told}"));
    }
}

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, Full};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::super::{ApiError, ErrorCode};

/// What a body of gRPC is.
pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// How messages may be packed.
const ACCEPTED_ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What cannot stand in `grpc-message`. What is no ASCII cannot either.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// How a call ended, by the numbers of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    /// What gRPC calls an error. Clients may send again what is unavailable.
    pub(super) fn of(error: ErrorCode) -> Self {
        match error {
            ErrorCode::InvalidInput => Self::InvalidArgument,
            ErrorCode::BodyTooLarge | ErrorCode::AnswerTooLarge | ErrorCode::QueueFull => {
                Self::ResourceExhausted
            }
            ErrorCode::BodyTimeout | ErrorCode::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorCode::Cancelled => Self::Cancelled,
            ErrorCode::Forbidden => Self::PermissionDenied,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::NotReady | ErrorCode::Overloaded => Self::Unavailable,
            ErrorCode::Unsupported | ErrorCode::MethodNotAllowed => Self::Unimplemented,
            ErrorCode::PluginFault | ErrorCode::Internal => Self::Internal,
        }
    }
}

/// The response to a call that got an error, of which nothing else is sent.
pub(super) fn refused(error: &ApiError) -> Response<Body> {
    let mut response = response(Body::empty());
    response.headers_mut().extend(trailers(Err(error)));
    response
}

/// The response with one message, framed.
pub(super) fn answered(message: impl Into<Bytes>) -> Response<Body> {
    response(Body::new(Full::new(message.into()).with_trailers(async { Some(Ok(trailers(Ok(())))) })))
}

/// A response whose body has messages, and trailers at its end.
pub(super) fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response.headers_mut().insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
    response
}

/// What the end of a call says of it.
pub(super) fn trailers(ended: Result<(), &ApiError>) -> HeaderMap {
    let (code, message) = match ended {
        Ok(()) => (Code::Ok, None),
        Err(error) => (Code::of(error.code()), Some(error.message())),
    };
    let mut trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from(code as u16))]);
    let message = message.map(|message| utf8_percent_encode(message, ESCAPED).to_string());
    if let Some(message) = message.and_then(|message| HeaderValue::try_from(message).ok()) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_code_and_a_message_that_any_header_can_hold() {
        let error = ApiError::invalid_input("100 % of\n28 × 28".to_owned(), None, None);
        let headers = refused(&error).headers().clone();
        assert_eq!(headers["grpc-status"], "3");
        assert_eq!(headers["grpc-message"], "100 %25 of%0A28 %C3%97 28");
        assert_eq!(headers["content-type"], "application/grpc");
    }

    #[tokio::test]
    async fn an_answer_ends_with_its_status() {
        let body = answered(b"framed".to_vec()).into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "framed");
    }
}

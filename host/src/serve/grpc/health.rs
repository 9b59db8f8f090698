use axum::http::StatusCode;
use prost::{Enumeration, Message};

use super::super::shared::Shared;
use super::super::{ApiError, ErrorCode};
use super::GrpcError;
use super::error::{shown, unimplemented};
use super::message::framed;

/// Bytes of the name of a service, and the field around it; there is none as long.
const MESSAGE_MAX_BYTES: usize = 1_024;

/// Of `grpc.health.v1`, as <https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto> has it.
#[derive(Clone, PartialEq, Eq, Message)]
struct HealthCheckRequest {
    /// Empty: the whole server.
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
}

/// Answers a method of the health service, framed. The server is serving when a model is loaded.
pub(super) fn answer(shared: &Shared, method: &str, message: &[u8]) -> Result<Vec<u8>, ApiError> {
    if method != "Check" {
        // A stream that may last for ever would hold a place for requests; clients then take it that all is well.
        return Err(unimplemented(format!("there is no method `{}`: expected `Check`", shown(method))));
    }
    let short = Some(message).filter(|message| message.len() <= MESSAGE_MAX_BYTES);
    let request = short.and_then(|message| HealthCheckRequest::decode(message).ok());
    let service = request.ok_or(GrpcError::Malformed)?.service;
    if !["", super::SERVICE].contains(&service.as_str()) {
        let message = format!("there is no service `{}`: expected `{}`", shown(&service), super::SERVICE);
        return Err(ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message));
    }
    let status = match shared.endpoints.not_ready() {
        Some(_) => ServingStatus::NotServing,
        None => ServingStatus::Serving,
    };
    framed(&HealthCheckResponse { status: status.into() })
}

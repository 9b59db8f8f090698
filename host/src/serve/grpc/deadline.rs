use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::super::{ApiError, ErrorCode};
use super::GrpcError;
use super::error::shown;

/// Until when a caller waits for its answer; none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// What the head `grpc-timeout` says, which counts from now.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, GrpcError> {
        let Some(value) = headers.get("grpc-timeout") else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or("�");
        let timeout = parse(text).ok_or_else(|| GrpcError::Timeout { found: shown(text) })?;
        // What is further away than the clock goes is never.
        Ok(Self(Instant::now().checked_add(timeout)))
    }

    /// When that is; none where the caller does not say.
    pub(super) fn at(self) -> Option<Instant> {
        self.0
    }

    /// Whether there is still somebody who waits.
    pub(super) fn check(self) -> Result<(), ApiError> {
        match self.0 {
            Some(at) if Instant::now() >= at => Err(exceeded()),
            _ => Ok(()),
        }
    }

    /// Does something until the caller waits no more.
    pub(super) async fn within<T>(
        self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        match self.0 {
            Some(at) => tokio::time::timeout_at(at, work).await.unwrap_or_else(|_| Err(exceeded())),
            None => work.await,
        }
    }
}

fn exceeded() -> ApiError {
    let message = "the answer was not there before the caller's deadline";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::DeadlineExceeded, message)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("+1S", None),
            ("-1S", None),
            ("1", None),
            ("1s", None),
            ("1é", None),
            ("999999999S", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert!(Deadline::of(&HeaderMap::new()).unwrap().check().is_ok());
    }

    #[tokio::test]
    async fn nothing_is_done_for_who_waits_no_more() {
        let headers = [("grpc-timeout".parse().unwrap(), "0n".parse().unwrap())].into_iter().collect();
        let deadline = Deadline::of(&headers).unwrap();
        assert_eq!(deadline.check().unwrap_err().code(), ErrorCode::DeadlineExceeded);
        let late = deadline.within(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(late.message(), "the answer was not there before the caller's deadline");
    }
}

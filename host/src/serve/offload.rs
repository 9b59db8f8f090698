//! What is computed on the thread that asks and what is not, and work that is done elsewhere.

use axum::http::StatusCode;
use tokio::task::JoinError;

use super::{ApiError, ErrorCode};
use crate::task::{shared_threads, spawn_blocking};

/// Rows up to which a batch may be computed on the thread that asks.
pub(super) const INLINE_ROWS_MAX: usize = 64;

/// Bytes of the elements of such a batch.
pub(super) const INLINE_BYTES_MAX: usize = 100 * 1024;

/// Scores up to which an answer is made on that thread.
pub(super) const INLINE_SCORES_MAX: usize = 16 * 1024;

/// Bytes of an answer as it is written, judged before, up to which that is done on that thread: some more than what so many scores
/// take as JSON. Writing takes about two nanoseconds a byte.
pub(super) const INLINE_ANSWER_MAX_BYTES: usize = 300 * 1024;

/// Time, in nanoseconds, up to which a batch is computed on that thread, judging by the rows before it: others wait so long.
pub(super) const INLINE_NANOS_MAX: u64 = 1_000_000;

/// Does `work` where it holds up nobody.
pub(super) async fn on_blocking_pool<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|error| joined(&error))
}

/// Does `work` where it holds up no connection.
pub(super) async fn on_shared_threads<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let threads = shared_threads().ok_or_else(stopping)?;
    threads.spawn(work).await.map_err(|error| joined(&error))
}

/// The error of work that came to no end: it panicked, which is a bug, or the server stops.
pub(super) fn joined(error: &JoinError) -> ApiError {
    if error.is_cancelled() { stopping() } else { internal(error) }
}

/// What is answered where something of the host's went wrong.
pub(super) fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
}

/// What is answered to those who wait when the server stops, or who answered them is unloaded.
pub(super) fn stopping() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, "the server is stopping")
}

#[cfg(test)]
mod tests {
    use super::super::DeployError;
    use super::*;

    #[tokio::test]
    async fn a_bug_is_told_from_the_end_of_the_server() {
        let panicked = || tokio::spawn(async { panic!("as no work should") });
        let given_up = || {
            let work = tokio::spawn(std::future::pending::<()>());
            work.abort();
            work
        };
        assert_eq!(joined(&panicked().await.unwrap_err()).code(), ErrorCode::Internal);
        assert_eq!(joined(&given_up().await.unwrap_err()).code(), ErrorCode::Overloaded);
        let error = DeployError::from(panicked().await.unwrap_err());
        assert!(matches!(error, DeployError::Panicked(_)), "{error}");
        let error = DeployError::from(given_up().await.unwrap_err());
        assert!(matches!(error, DeployError::Stopped), "{error}");
    }
}

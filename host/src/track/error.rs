use crate::store::{DatabaseError, StoreError};

/// What kind of error it is, as MLflow names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The caller's mistake.
    InvalidParameterValue,
    /// There is no such experiment, run, metric or artifact.
    ResourceDoesNotExist,
    /// There is one already.
    ResourceAlreadyExists,
    /// The thing is in a state in which this cannot be done.
    InvalidState,
    /// Whoever asks may not.
    PermissionDenied,
    /// There is no such route.
    EndpointNotFound,
    /// This server does not do that.
    NotImplemented,
    /// The database or the store cannot be reached; try again.
    TemporarilyUnavailable,
    /// Our fault.
    InternalError,
}

/// A request that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TrackError {
    code: ErrorCode,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TrackError {
    /// An error of `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    /// The caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameterValue, message)
    }

    /// Something that is not there.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ResourceDoesNotExist, message)
    }

    /// Our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InternalError, message)
    }

    /// What kind it is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

impl From<DatabaseError> for TrackError {
    fn from(error: DatabaseError) -> Self {
        let code = match &error {
            DatabaseError::Unavailable(_) | DatabaseError::Closed | DatabaseError::Storage(_) => {
                ErrorCode::TemporarilyUnavailable
            }
            DatabaseError::Conflict(_) => ErrorCode::ResourceAlreadyExists,
            DatabaseError::Failed(_) | DatabaseError::Damaged(_) | DatabaseError::SchemaVersion { .. } => {
                ErrorCode::InternalError
            }
        };
        Self { code, message: error.to_string(), source: Some(Box::new(error)) }
    }
}

impl From<sqlx::Error> for TrackError {
    fn from(error: sqlx::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl From<StoreError> for TrackError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Missing { .. } => ErrorCode::ResourceDoesNotExist,
            StoreError::Input(_) => ErrorCode::InvalidParameterValue,
            StoreError::Remote { .. } | StoreError::Closed => ErrorCode::TemporarilyUnavailable,
            StoreError::Io { source, .. } if is_full(source) => ErrorCode::TemporarilyUnavailable,
            _ => ErrorCode::InternalError,
        };
        let message = match &error {
            // The caller's to mend, so the caller must know it.
            StoreError::Input(why) => format!("{error}: {why}"),
            _ => error.to_string(),
        };
        Self { code, message, source: Some(Box::new(error)) }
    }
}

/// Whether room on the disk is what is missing, which somebody will make.
fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

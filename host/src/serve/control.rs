use tokio::sync::{mpsc, oneshot};

use super::{ApiError, ErrorCode};
use crate::domain::Name;

use axum::http::StatusCode;

/// Changes that may wait; more are refused.
const WAITING_MAX: usize = 64;

/// Asks whoever keeps the endpoints what they should be to change that.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<ControlRequest>,
}

/// A change that is asked for.
#[derive(Debug)]
pub struct ControlRequest {
    /// The endpoint, which is called as its model.
    pub name: Name,
    /// What should become of it.
    pub change: ControlChange,
    /// Takes what became of it, or why not, in words.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// What should become of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlChange {
    /// It answers, with the newest version of the model of its name where nothing else is said of it.
    Load,
    /// It is gone.
    Unload,
}

impl Control {
    /// A way to ask, and where what is asked arrives.
    pub fn new() -> (Self, mpsc::Receiver<ControlRequest>) {
        let (requests, arriving) = mpsc::channel(WAITING_MAX);
        (Self { requests }, arriving)
    }

    /// Asks, and waits for what becomes of it.
    pub async fn ask(&self, name: Name, change: ControlChange) -> Result<(), ApiError> {
        let (reply, replied) = oneshot::channel();
        let refused = |message: &str| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, message.to_owned())
        };
        let request = ControlRequest { name, change, reply };
        self.requests
            .try_send(request)
            .map_err(|_| refused("too many changes are asked for at once: try again"))?;
        let replied = replied.await.map_err(|_| refused("the server is stopping"))?;
        replied.map_err(|message| ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message))
    }
}

//! Endpoints: a name, the predictor behind it, and the window of what it answered.
//!
//! A request's way: body → JSON decoded by the signature's types → [`Predictor`] → JSON. Small requests are computed on
//! the thread that reads the socket, which is cheapest; large ones move to the blocking pool so that they hold up
//! nobody. Knows HTTP's routes and errors, but neither sockets nor signals.
//!
//! [`Predictor`]: crate::registry::Predictor

mod answer;
mod endpoint;
mod routes;
mod window;

pub use answer::{ApiError, ErrorCode};
pub use endpoint::{Endpoint, EndpointConfig};
pub use routes::{ServeLimits, router};
pub use window::{WindowCapture, WindowError};

//! Endpoints: a name, the predictor behind it, and the window of what it answered.
//!
//! A request's way: body → JSON decoded by the signature's types → [`Predictor`] → JSON. Small requests go all of it on
//! the thread that reads the socket, which is cheapest; large ones go all of it on the blocking pool, so that they hold
//! up nobody for more than about a millisecond. Knows HTTP's routes and errors, but neither sockets nor signals.
//!
//! [`Predictor`]: crate::registry::Predictor

mod answer;
mod body;
mod endpoint;
mod routes;
mod window;

pub use answer::{ApiError, ErrorCode, forbid};
pub use body::{RequestBody, ServeLimits};
pub use endpoint::{Endpoint, EndpointConfig};
pub use routes::router;
pub use window::{WindowCapture, WindowError};

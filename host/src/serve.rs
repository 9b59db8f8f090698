//! Endpoints: names, the versions of models behind each, and the windows of what they answered.
//!
//! What endpoints should be stands in [`EndpointSpec`]s; [`Reconciler`] loads what is missing and swaps it in as one. An
//! [`Endpoint`] chooses one of its [`Deployment`]s for each request.
//!
//! A request's way: body → JSON decoded by the signature's types → [`Predictor`] → JSON. Small requests go all of it on
//! the thread that reads the socket, which is cheapest; large ones go all of it on the blocking pool, so that they hold
//! up nobody for more than about a millisecond. Knows HTTP's routes and errors, but neither sockets nor signals.
//!
//! [`Predictor`]: crate::registry::Predictor

mod answer;
mod batcher;
mod body;
mod cache;
mod capture;
mod control;
mod deployer;
mod deployment;
mod documents;
mod endpoint;
mod endpoints;
mod engine;
mod example;
mod exchange;
mod graph;
mod grpc;
pub mod inference;
mod metrics;
mod observe;
mod offload;
mod openapi;
mod protocol;
mod queue;
mod reconcile;
mod recorder;
mod replay;
mod routes;
mod rows;
mod scoring;
mod shadow;
mod shared;
mod spec;
mod window;
mod work;

pub use answer::{ApiError, ErrorCode};
pub use batcher::BatchPolicy;
pub use body::{RequestBody, ServeLimits};
pub use cache::AnswerCache;
pub use capture::{Capture, CaptureError, with_causes};
pub use control::{Control, ControlChange, ControlRequest};
pub use deployer::{DeployError, Deployer, LocatedBundle};
pub use deployment::{Answer, Call, Decoded, Deployment, DeploymentConfig};
pub use endpoint::{Endpoint, Route, Routing};
pub use endpoints::Endpoints;
pub use graph::{GraphError, Node, Part};
pub use grpc::answered_call;
pub use metrics::{DeploymentMetrics, ServeMetrics, ShadowOutcome, StageTimes};
pub use observe::{AccessLog, AccessLogError, Observer, TraceError, Traces};
pub use queue::{Queue, QueueLimits};
pub use reconcile::{EndpointChange, EndpointOutcome, Reconciler};
pub use recorder::{PredictionIds, Recorder};
pub use replay::{Replay, ReplayError, replay};
pub use routes::Routes;
pub use shadow::{Shadow, ShadowError};
pub use shared::ServeState;
pub use spec::{
    ENDPOINT_FILE_MAX_BYTES, EndpointFileError, EndpointPolicy, EndpointSpec, KEPT_DEFAULT, PolicyFields,
    RouteSpec, ShadowSpec,
};
pub use window::{WindowCapture, WindowError, WindowMemory};
pub use work::Work;

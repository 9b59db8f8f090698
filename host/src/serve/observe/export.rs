//! Sends spans to a collector by OTLP over HTTP, as the variables say that OpenTelemetry has for that.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::http::{Request, Response};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// Time in which what is left is sent at the end.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Time that a collector has to answer: one that never does must not end all that comes after.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The longest answer of a collector that is read.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Spans on their way to a collector.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The variables ask for what is not there.
    #[error("`{variable}` is `{found}`: expected {expected}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        expected: &'static str,
    },
    /// The sender cannot be made.
    #[error("spans cannot be sent: {0}")]
    Export(String),
}

impl Traces {
    /// Sends to `OTEL_EXPORTER_OTLP_ENDPOINT`, or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`; none where neither is set, or
    /// `OTEL_SDK_DISABLED` or `OTEL_TRACES_EXPORTER=none` is. The sampler, the batches, the headers, the service's name and
    /// attributes follow their variables too. Needs to be called on a thread of Tokio's.
    pub fn from_environment() -> Result<Option<Self>, TraceError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || endpoints.iter().all(|name| variable(name).is_none());
        if is_off {
            return Ok(None);
        }
        match variable("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(found) => {
                let (variable, expected) = ("OTEL_TRACES_EXPORTER", "`otlp` or `none`");
                return Err(TraceError::Variable { variable, found: found.to_owned(), expected });
            }
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(found) = variable(name).filter(|value| value != "http/protobuf") {
                return Err(TraceError::Variable { variable: name, found, expected: "`http/protobuf`" });
            }
        }
        let failed = |error: &dyn std::fmt::Display| TraceError::Export(error.to_string());
        // Which fails only where it has been done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().timeout(ANSWER_MAX).build().map_err(|error| failed(&error))?;
        let threads = tokio::runtime::Handle::current();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client { client, threads })
            .build()
            .map_err(|error| failed(&error))?;
        let mut resource = Resource::builder();
        if variable("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("host");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("host");
        Ok(Some(Self { provider, tracer }))
    }

    pub(super) fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    /// Sends what is left.
    pub(super) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH_MAX) {
            tracing::warn!(%error, "not all spans were sent");
        }
    }
}

/// Sends from the exporter's own thread by the program's client and threads.
#[derive(Debug, Clone)]
struct Client {
    client: reqwest::Client,
    threads: tokio::runtime::Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self.threads.spawn(async move { send(&client, request).await });
        sending.await?
    }
}

async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = request.into_parts();
    let request = client.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
    let mut answer = request.send().await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER_MAX_BYTES {
            return Err("the collector's answer is too long".into());
        }
    }
    Ok(response.body(bytes.into())?)
}

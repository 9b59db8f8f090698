//! Sends spans to a collector by OTLP over HTTP, as the variables say that OpenTelemetry has for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::http::{Request, Response, Uri};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use percent_encoding::percent_decode_str;
use prometheus::IntCounter;

use super::super::capture::with_causes;
use super::span_queue::CountedSpans;

/// Time in which what is left is sent at the end.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Time that a collector has to answer: one that never does must not end all that comes after.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The longest answer of a collector that is read.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Where the collector is, how it is spoken to and how spans are packed: of traces alone, and of all that a program sends.
const ENDPOINT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const COMPRESSION: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];

/// Which requests have spans.
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";

/// What it may say.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The share of requests that have spans, for those samplers that ask for one.
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

/// How many spans may wait to be sent, and how many if it says nothing.
const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const QUEUE_DEFAULT: usize = 2_048;

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
    /// attributes follow their variables too. What they ask for and is not there is an error, except for a sampler, its share or packing, in whose
    /// place is the usual one. Spans that do not reach the collector are counted by `dropped`. Needs to be called on a thread of
    /// Tokio's.
    pub fn from_environment(dropped: IntCounter) -> Result<Option<Self>, TraceError> {
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || said_of_traces(ENDPOINT).is_none();
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
        check(PROTOCOL, "`http/protobuf`", |found| found == "http/protobuf")?;
        check(ENDPOINT, "a URL of HTTP, such as `http://127.0.0.1:4318`", is_url)?;
        warn_of_ignored();
        let failed = |error: &dyn std::fmt::Display| TraceError::Export(error.to_string());
        // Which fails only where it has been done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().timeout(ANSWER_MAX).build().map_err(|error| failed(&error))?;
        let threads = tokio::runtime::Handle::current();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client { client, threads, is_broken: AtomicBool::new(false) })
            .build()
            .map_err(|error| failed(&error))?;
        let places = variable(QUEUE).and_then(|found| found.parse().ok()).unwrap_or(QUEUE_DEFAULT);
        let spans = CountedSpans::new(exporter, places, dropped);
        let mut builder = SdkTracerProvider::builder().with_span_processor(spans).with_resource(resource());
        if let Some(sampler) = sampler_in_place_of_wrong() {
            builder = builder.with_sampler(sampler);
        }
        let provider = builder.build();
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

/// What a variable says; one that is empty says nothing.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable that holds for traces, and what it says: theirs goes before that of all that a program sends.
fn said_of_traces(names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// Refuses what `names` say if it is not what can be done.
fn check(
    names: [&'static str; 2],
    expected: &'static str,
    is_right: fn(&str) -> bool,
) -> Result<(), TraceError> {
    match said_of_traces(names) {
        Some((variable, found)) if !is_right(&found) => {
            // A URL may have a password in it.
            let found = found.rsplit_once('@').map_or(found.clone(), |(_, rest)| format!("…@{rest}"));
            Err(TraceError::Variable { variable, found, expected })
        }
        _ => Ok(()),
    }
}

/// Whether it names a scheme, without which the rest may be taken for one.
fn is_url(found: &str) -> bool {
    found.parse::<Uri>().is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")))
}

/// Tells of variables whose values the exporter ignores without a word.
fn warn_of_ignored() {
    if let Some(found) = variable(SAMPLER).filter(|found| !SAMPLERS.contains(&found.as_str())) {
        tracing::warn!(
            "`{SAMPLER}` is `{found}`: expected one of {}; spans are kept whose callers' are, and those without caller",
            SAMPLERS.join(", ")
        );
    }
    if let Some((name, found)) = said_of_traces(COMPRESSION)
        && !found.eq_ignore_ascii_case("none")
    {
        tracing::warn!("`{name}` is `{found}`: expected `none`; spans are sent as they are");
    }
}

/// The sampler in place of one whose share of requests is none, which is told: that of all of them, as if none was said. The
/// exporter itself takes some of these without a word.
fn sampler_in_place_of_wrong() -> Option<Sampler> {
    let all = Sampler::TraceIdRatioBased(1.0);
    let sampler = match variable(SAMPLER)?.as_str() {
        "traceidratio" => all,
        "parentbased_traceidratio" => Sampler::ParentBased(Box::new(all)),
        _ => return None,
    };
    let found = variable(SAMPLER_ARGUMENT).filter(|found| !is_share(found))?;
    tracing::warn!("`{SAMPLER_ARGUMENT}` is `{found}`: expected a number from 0 to 1; it is taken as 1");
    Some(sampler)
}

fn is_share(found: &str) -> bool {
    found.parse().is_ok_and(|share: f64| (0.0..=1.0).contains(&share))
}

/// What spans come from: a service with the name that `OTEL_SERVICE_NAME` says, else `service.name` among
/// `OTEL_RESOURCE_ATTRIBUTES`, else `host`.
fn resource() -> Resource {
    let attributes =
        variable("OTEL_RESOURCE_ATTRIBUTES").map(|text| attributes_in(&text)).unwrap_or_default();
    let of_attributes = || {
        let name = attributes.iter().rfind(|attribute| attribute.key.as_str() == "service.name");
        name.map(|name| name.value.to_string())
    };
    let name = variable("OTEL_SERVICE_NAME").or_else(of_attributes).unwrap_or_else(|| "host".to_owned());
    // Said again, since the builder takes those of the environment as they are written.
    Resource::builder().with_attributes(attributes).with_service_name(name).build()
}

/// Attributes as `key=value,…`, of which the values are percent-encoded, as those of W3C Baggage.
fn attributes_in(text: &str) -> Vec<KeyValue> {
    let attribute = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
        Some(KeyValue::new(key.trim().to_owned(), value))
    };
    text.split(',').filter_map(attribute).collect()
}

/// Sends from the exporter's own thread by the program's client and threads.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    threads: tokio::runtime::Handle,
    /// Whether what was sent last did not reach the collector.
    is_broken: AtomicBool,
}

impl Client {
    /// Tells once that spans do not reach the collector, until they do again: the exporter itself says nothing of it.
    fn report(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let trouble = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers with status {}", answer.status())),
            Err(error) => Some(with_causes(error.as_ref())),
        };
        let was_broken = self.is_broken.swap(trouble.is_some(), Ordering::Relaxed);
        if let Some(trouble) = trouble.filter(|_| !was_broken) {
            tracing::warn!("spans do not reach the collector and are lost: {trouble}");
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self.threads.spawn(async move { send(&client, request).await });
        let sent = sending.await.unwrap_or_else(|error| Err(error.into()));
        self.report(&sent);
        sent
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

#[cfg(test)]
mod tests {
    use super::super::access_log::tests::Kept;
    use super::*;

    #[test]
    fn values_of_attributes_are_decoded() {
        let found = attributes_in("team=a%2Cb, city = Z%C3%BCrich%20West ,odd=%zz,nothing");
        let expected = [("team", "a,b"), ("city", "Zürich West"), ("odd", "%zz")];
        assert_eq!(found, expected.map(|(key, value)| KeyValue::new(key, value)));
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        assert!(["0", "0.1", "1", "1.0", "1e-3"].into_iter().all(is_share));
        assert!(!["10%", "abc", "7", "-1", "NaN", "inf"].into_iter().any(is_share));
    }

    #[tokio::test]
    async fn a_collector_out_of_reach_is_told_once_and_again_after_it_was_there() {
        let (kept, subscriber) = Kept::subscriber();
        let threads = tokio::runtime::Handle::current();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client { client: reqwest::Client::new(), threads, is_broken: AtomicBool::new(false) };
        let answer = |status: u16| Ok(Response::builder().status(status).body(Bytes::new()).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            client.report(&answer(200));
            client.report(&Err("no route".into()));
            client.report(&Err("no route".into()));
            client.report(&answer(401));
            client.report(&answer(200));
            client.report(&answer(401));
        });
        let told = kept.text();
        let sentence = "spans do not reach the collector and are lost: ";
        let found: Vec<&str> = told.lines().filter_map(|line| Some(line.split_once(sentence)?.1)).collect();
        assert_eq!(found, ["no route", "it answers with status 401 Unauthorized"], "{told}");
    }
}

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::Span;

use super::{Client, Deployment, Part, Seen, SeenCall, StageTimes, Told, Traces};
use crate::domain::Name;

/// The methods of gRPC that spans are named by, with their services. What else clients ask for could be anything.
const METHODS: [(&str, &[&str]); 2] = [
    (
        "inference.GRPCInferenceService",
        &[
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelInfer",
            "ModelStreamInfer",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
        ],
    ),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
];

/// The span of the caller, as the header `traceparent` names it (W3C Trace Context).
pub(super) fn parent_of(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

/// The place of what is below a span.
pub(super) fn below(span: &Span) -> Context {
    Context::new().with_remote_span_context(span.span_context().clone())
}

impl Traces {
    /// The span of a request or stream, which may not be over yet: what is below it names it.
    pub(super) fn begin(&self, told: &Told<'_>, parent: &Context) -> Span {
        let name = match method_of(told.path) {
            Some((service, method)) => format!("{service}/{method}"),
            None => format!("{} {}", told.method, told.route.unwrap_or("unknown")),
        };
        let span = self.tracer().span_builder(name);
        let span = span.with_kind(SpanKind::Server).with_start_time(told.started_at);
        self.tracer().build_with_context(span, parent)
    }

    /// Ends the span of the request or stream, and makes one below it for each stage that took time.
    pub(super) fn tell(&self, told: &Told<'_>, mut span: Span) {
        span.set_attributes(attributes_of(told));
        if told.status >= 500 || told.call.is_some_and(is_fault) {
            span.set_status(Status::error(told.error.map_or("", |error| error.code.as_str())));
        }
        let end = told.started_at + Duration::from_micros(told.micros);
        if let Some(error) = told.error {
            let attributes = vec![
                KeyValue::new("exception.type", error.code.as_str()),
                KeyValue::new("exception.message", error.line()),
            ];
            span.add_event_with_timestamp("exception", end, attributes);
        }
        let context = below(&span);
        if let Some(Seen { asked: Some(asked), answered: Some(answer), .. }) = told.seen
            && span.span_context().is_sampled()
        {
            self.tell_stages(&asked.deployment, &answer.times, &answer.parts, end, &context);
        }
        span.end_with_timestamp(end);
    }

    /// The stages end with the request, one after the other. Below that of the model are those who answered for an endpoint that is
    /// made of others.
    fn tell_stages(
        &self,
        deployment: &Deployment,
        times: &StageTimes,
        parts: &[Part],
        end: SystemTime,
        context: &Context,
    ) {
        let tracer = self.tracer();
        let stages = times.stages();
        let sum: Duration = stages.iter().map(|(_, time)| *time).sum();
        let mut at = end.checked_sub(sum).unwrap_or(end);
        let (before, after) = deployment.transformers();
        for (stage, time) in stages.into_iter().filter(|(_, time)| !time.is_zero()) {
            let plugins = match stage {
                "preprocess" => before,
                "postprocess" => after,
                _ => &[],
            };
            let mut attributes = Vec::new();
            if !plugins.is_empty() {
                let digests = plugins.iter().map(|one| one.plugin().digest().to_string());
                attributes.push(KeyValue::new("host.plugin.digests", digests.collect::<Vec<_>>().join(",")));
            }
            if stage == "model" && !deployment.is_graph() {
                attributes.push(KeyValue::new("host.bundle.digest", deployment.bundle().to_string()));
            }
            let span = tracer.span_builder(stage).with_start_time(at).with_attributes(attributes);
            let mut span = tracer.build_with_context(span, context);
            if stage == "model" {
                let below = below(&span);
                parts.iter().for_each(|part| self.tell_part(part, at, &below));
            }
            at += time;
            span.end_with_timestamp(at);
        }
    }

    /// A span for one of the endpoints that answered for another, which was asked at `asked`, and those of its stages.
    fn tell_part(&self, part: &Part, asked: SystemTime, context: &Context) {
        let tracer = self.tracer();
        let start = asked + part.after;
        let Part { endpoint, deployment, .. } = part;
        let (version, bundle) = (deployment.version_label(), deployment.bundle().to_string());
        let attributes = who(endpoint, Some(version), Some(bundle));
        let name = format!("endpoint {}", part.endpoint);
        let span = tracer.span_builder(name).with_start_time(start).with_attributes(attributes);
        let mut span = tracer.build_with_context(span, context);
        let end = start + part.took;
        self.tell_stages(&part.deployment, &part.times, &[], end, &below(&span));
        span.end_with_timestamp(end);
    }
}

/// What the span of a request says of it.
fn attributes_of(told: &Told<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", told.method.to_owned()),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", told.path.chars().take(500).collect::<String>()),
        KeyValue::new("http.response.status_code", i64::from(told.status)),
    ];
    let address = told.client.map(|Client(address)| address.ip().to_canonical().to_string());
    attributes.extend(address.map(|address| KeyValue::new("client.address", address)));
    attributes.extend(told.route.map(|route| KeyValue::new("http.route", route.to_owned())));
    attributes.extend(told.error.map(|error| KeyValue::new("error.type", error.code.as_str())));
    let method = method_of(told.path);
    if told.call.is_some() || method.is_some() {
        attributes.push(KeyValue::new("rpc.system", "grpc"));
    }
    if let Some((service, method)) = method {
        attributes.extend([KeyValue::new("rpc.service", service), KeyValue::new("rpc.method", method)]);
    }
    let status = told.call.and_then(|call| call.status);
    attributes.extend(status.map(|status| KeyValue::new("rpc.grpc.status_code", i64::from(status))));
    let requests = told.requests.map(|requests| i64::try_from(requests).unwrap_or(i64::MAX));
    attributes.extend(requests.map(|requests| KeyValue::new("host.requests", requests)));
    if let Some(asked) = told.seen.and_then(|seen| seen.asked.as_ref()) {
        let (version, bundle) = (told.seen.and_then(Seen::version), told.seen.and_then(Seen::bundle));
        attributes.extend(who(&asked.endpoint, version, bundle));
    }
    if let Some(answer) = told.seen.and_then(|seen| seen.answered.as_ref()) {
        attributes.push(KeyValue::new("host.prediction.id", answer.prediction.clone()));
        attributes.push(KeyValue::new("host.rows", i64::try_from(answer.rows).unwrap_or(i64::MAX)));
        attributes.extend(answer.is_cached.map(|is_cached| KeyValue::new("host.cached", is_cached)));
    }
    attributes
}

/// The service and the method of gRPC that a path asks for; none of what is no method of ours.
fn method_of(path: &str) -> Option<(&'static str, &'static str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (service, methods) = METHODS.iter().find(|(known, _)| *known == service)?;
    methods.iter().find(|known| **known == method).map(|method| (*service, *method))
}

/// Who was asked, and who answered.
fn who(endpoint: &Name, version: Option<String>, bundle: Option<String>) -> Vec<KeyValue> {
    let version = version.map(|version| KeyValue::new("host.model.version", version));
    let bundle = bundle.map(|bundle| KeyValue::new("host.bundle.digest", bundle));
    [KeyValue::new("host.endpoint", endpoint.to_string())].into_iter().chain(bundle).chain(version).collect()
}

/// Whether a call's status is the server's fault, by OpenTelemetry's conventions for servers of gRPC.
fn is_fault(call: SeenCall) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
    matches!(call.status, Some(2 | 4 | 12 | 13 | 14 | 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_methods_of_the_protocol_name_their_spans_and_nothing_else_does() {
        let protocol = include_str!("../grpc/inference.proto");
        let methods = protocol.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        let methods: Vec<_> = methods.collect();
        assert_eq!(methods, METHODS[0].1);
        for method in methods {
            let named = method_of(&format!("/inference.GRPCInferenceService/{method}"));
            assert_eq!(named, Some(("inference.GRPCInferenceService", method)));
        }
        assert_eq!(method_of("/grpc.health.v1.Health/Check"), Some(("grpc.health.v1.Health", "Check")));
        for other in ["", "/", "/serve/ModelInfer", "/inference.GRPCInferenceService/Modelinfer"] {
            assert_eq!(method_of(other), None, "{other}");
        }
    }
}

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::{Seen, SeenAnswer, Told, Traces};

/// The span of the caller, as the header `traceparent` names it (W3C Trace Context).
pub(super) fn parent_of(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

impl Traces {
    /// A span for the request, and below it one for each stage that took time.
    pub(super) fn tell(&self, told: &Told<'_>, parent: Context) {
        let tracer = self.tracer();
        let name = format!("{} {}", told.method, told.route.unwrap_or("unknown"));
        let mut attributes = vec![
            KeyValue::new("http.request.method", told.method.to_owned()),
            KeyValue::new("url.path", told.path.chars().take(500).collect::<String>()),
            KeyValue::new("http.response.status_code", i64::from(told.status)),
        ];
        attributes.extend(told.route.map(|route| KeyValue::new("http.route", route.to_owned())));
        attributes.extend(told.error.map(|code| KeyValue::new("error.type", code.as_str())));
        if let Some(seen) = told.seen {
            attributes.push(KeyValue::new("host.endpoint", seen.endpoint.to_string()));
            attributes.push(KeyValue::new("host.model.version", seen.deployment.version_label()));
            attributes.push(KeyValue::new("host.bundle.digest", seen.deployment.bundle().to_string()));
            if let Some(answer) = &seen.answered {
                attributes.push(KeyValue::new("host.prediction.id", answer.prediction.clone()));
                attributes.push(KeyValue::new("host.rows", i64::try_from(answer.rows).unwrap_or(i64::MAX)));
                attributes.extend(answer.is_cached.map(|is_cached| KeyValue::new("host.cached", is_cached)));
            }
        }
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(told.started_at)
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(span, &parent);
        if told.status >= 500 {
            span.set_status(Status::error(told.error.map_or("", super::ErrorCode::as_str)));
        }
        let end = told.started_at + Duration::from_micros(told.micros);
        let context = parent.with_remote_span_context(span.span_context().clone());
        if let Some(seen) = told.seen
            && let Some(answer) = &seen.answered
            && span.span_context().is_sampled()
        {
            self.tell_stages(seen, answer, end, &context);
        }
        span.end_with_timestamp(end);
    }

    /// The stages end with the request, one after the other.
    fn tell_stages(&self, seen: &Seen, answer: &SeenAnswer, end: SystemTime, context: &Context) {
        let tracer = self.tracer();
        let stages = answer.times.stages();
        let sum: Duration = stages.iter().map(|(_, time)| *time).sum();
        let mut at = end.checked_sub(sum).unwrap_or(end);
        let (before, after) = seen.deployment.transformers();
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
            if stage == "model" {
                attributes.push(KeyValue::new("host.bundle.digest", seen.deployment.bundle().to_string()));
            }
            let span = tracer.span_builder(stage).with_start_time(at).with_attributes(attributes);
            at += time;
            tracer.build_with_context(span, context).end_with_timestamp(at);
        }
    }
}

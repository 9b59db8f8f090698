use std::sync::Arc;

use axum::http::HeaderMap;
use opentelemetry::Context;
use opentelemetry_sdk::trace::Span;

use super::traces::{below, parent_of};
use super::{Begun, Client, Observer, Seen, SeenCall, SeenError, Told};

/// A stream of requests over one call: each is told when it is answered, as a call of its own would be, and the stream when it
/// is over.
pub(in crate::serve) struct ObservedStream {
    observer: Arc<Observer>,
    /// Its own span, below that of the caller.
    span: Option<Span>,
    /// The caller's.
    parent: Context,
    client: Option<Client>,
    path: &'static str,
    route: &'static str,
    begun: Begun,
    /// Those that were told.
    requests: u64,
    request_bytes: u64,
    response_bytes: u64,
    /// How it ended, and with which error; none before, and where it is cut off.
    ended: Option<(SeenCall, Option<SeenError>)>,
}

impl ObservedStream {
    /// A stream that begins, of a call with these headers.
    pub(in crate::serve) fn begin(
        observer: &Arc<Observer>,
        path: &'static str,
        route: &'static str,
        headers: &HeaderMap,
        client: Option<Client>,
    ) -> Self {
        let mut stream = Self {
            observer: Arc::clone(observer),
            span: None,
            parent: parent_of(headers),
            client,
            path,
            route,
            begun: Begun::now(),
            requests: 0,
            request_bytes: 0,
            response_bytes: 0,
            ended: None,
        };
        let traces = observer.traces.as_ref();
        stream.span = traces.map(|traces| traces.begin(&stream.told(stream.begun), &stream.parent));
        stream
    }

    /// Tells a request that is answered, or never will be.
    pub(in crate::serve) fn tell(&mut self, begun: Begun, seen: &Seen, response_bytes: Option<u64>) {
        let request_bytes = seen.call.and_then(|call| call.request_bytes);
        self.requests += 1;
        self.response_bytes += response_bytes.unwrap_or_default();
        let told = Told {
            request_bytes,
            response_bytes,
            seen: Some(seen),
            error: seen.error.as_ref(),
            call: seen.call,
            ..self.told(begun)
        };
        let below = self.span.as_ref().map(below);
        self.observer.tell(&told, below.as_ref().unwrap_or(&self.parent));
    }

    /// Says how many bytes have come, whatever they were.
    pub(in crate::serve) fn note_request_bytes(&mut self, bytes: u64) {
        self.request_bytes = bytes;
    }

    /// Says how it ended.
    pub(in crate::serve) fn end(&mut self, call: SeenCall, error: Option<SeenError>) {
        self.ended = Some((call, error));
    }

    /// What is told of all that belongs to it.
    fn told(&self, begun: Begun) -> Told<'_> {
        Told {
            client: self.client,
            method: "POST",
            path: self.path,
            route: Some(self.route),
            // Of HTTP, whose head was sent when it began.
            status: 200,
            started_at: begun.at,
            micros: begun.micros(),
            request_bytes: None,
            response_bytes: None,
            requests: None,
            seen: None,
            error: None,
            call: None,
        }
    }
}

impl Drop for ObservedStream {
    /// Tells the stream, which is over: at its end, or where its client or the server has cut it off.
    fn drop(&mut self) {
        let ((call, error), span) = (self.ended.take().unwrap_or_default(), self.span.take());
        let told = Told {
            request_bytes: Some(self.request_bytes),
            response_bytes: Some(self.response_bytes),
            requests: Some(self.requests),
            error: error.as_ref(),
            call: Some(call),
            ..self.told(self.begun)
        };
        self.observer.tell_with(&told, span, &self.parent);
    }
}

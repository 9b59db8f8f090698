//! A request by HTTP and its answer, whatever the form of both: what the routes of all protocols do alike.

use axum::body::Body;
use axum::http::{HeaderMap, Response};

use super::body::{Share, encoding_of};
use super::queue::until;
use super::shared::{Asked, Shared, deadline_of};
use super::{Answer, ApiError, Call, RequestBody};

/// The form in which a protocol tells errors.
pub(super) type ErrorForm = fn(ApiError) -> Response<Body>;

/// Who is asked, and what. Who answers is chosen when all of the request is there: one that arrives slowly holds no old
/// version.
pub(super) async fn arrived(
    shared: &Shared,
    name: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Asked, RequestBody, Call), ApiError> {
    let endpoint = shared.endpoint(name)?;
    // Who asks for what is not there need not send it.
    shared.ask(endpoint.clone(), version, None)?;
    let (encoding, deadline) = (encoding_of(headers)?, deadline_of(headers)?);
    let body = shared.bodies.read(body).await?;
    let body = until(deadline, shared.bodies.unpack(body, encoding)).await??;
    let asked = shared.ask(endpoint, version, Some(headers))?;
    let call = asked.call(deadline);
    Ok((asked, body, call))
}

/// The response to a request that got an error before anybody was asked.
pub(super) fn refused(shared: &Shared, error: ApiError, form: ErrorForm) -> Response<Body> {
    shared.count_refused(&error);
    failed(shared, None, error, form)
}

/// The response with what was answered, which `write` makes of its body in the room taken for it, or with the error.
pub(super) async fn answered<T: Default>(
    shared: &Shared,
    asked: &Asked,
    answer: impl Future<Output = Result<Answer<T>, ApiError>>,
    write: impl AsyncFnOnce(T, Share) -> Result<Response<Body>, ApiError>,
    form: ErrorForm,
) -> Response<Body> {
    let answered = async {
        let mut answer = answer.await?;
        let response = write(std::mem::take(&mut answer.body), std::mem::take(&mut answer.room)).await;
        Ok((shared.with_room(asked, response)?, answer))
    };
    match answered.await {
        Ok((mut response, answer)) => {
            shared.finish(asked, answer, &mut response);
            response
        }
        Err(error) => failed(shared, Some(asked), error, form),
    }
}

fn failed(shared: &Shared, asked: Option<&Asked>, error: ApiError, form: ErrorForm) -> Response<Body> {
    let mut response = form(error.clone());
    shared.fail(asked, &error, &mut response);
    response
}

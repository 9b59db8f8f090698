//! What HTTP/1.1 asks of the head of a request, beside what hyper looks at.

use axum::http::HeaderMap;
use axum::http::header::TRANSFER_ENCODING;

use super::Refusal;

/// Refuses a request that another server in between may read in another way: it could hide a second one in its body.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    // hyper undoes `chunked` if it comes last, and hands on what was done before it.
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_whole_or_in_chunks_and_in_no_other_way() {
        let is_taken = |encodings: &[&str]| {
            let encodings = encodings.iter().map(|value| (TRANSFER_ENCODING, value.parse().unwrap()));
            check(&encodings.collect()).is_ok()
        };
        for taken in [&[][..], &["chunked"], &["Chunked"]] {
            assert!(is_taken(taken), "{taken:?}");
        }
        for refused in [
            &["gzip, chunked"][..],
            &["foo, chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["identity"],
            &["chunked;q=1"],
            &[""],
        ] {
            assert!(!is_taken(refused), "{refused:?}");
        }
    }
}

//! What HTTP/1.1 asks of the head of a request, beside what hyper looks at.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Version};

use super::Refusal;
use super::guard::shown;

/// Refuses a request that another server in between may read in another way: it could be meant for somebody else, or hide a second
/// one in its body.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => {}
        (None, _) if version < Version::HTTP_11 => {}
        (None, _) => return Err(Refusal::Host { found: "none".to_owned() }),
        (Some(host), None) => return Err(Refusal::Host { found: format!("`{}`", shown(host)) }),
        (Some(_), Some(_)) => return Err(Refusal::Host { found: "several".to_owned() }),
    }
    // hyper undoes `chunked` if it comes last, and hands on what was done before it.
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferEncoding),
    }
}

/// Whether it is a host with or without a port, as RFC 9110 (section 7.2) has them. One without a name is none of this server's,
/// and no mistake.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else { return false };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    // As nearly everybody writes it.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (host.bytes().all(is_plain)
            || !host.contains('@') && host.parse::<Authority>().is_ok_and(|found| found.host() == host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_whole_or_in_chunks_and_in_no_other_way() {
        let is_taken = |encodings: &[&str]| {
            let encodings = encodings.iter().map(|value| (TRANSFER_ENCODING, value.parse().unwrap()));
            let host = [(HOST, HeaderValue::from_static("x"))];
            check(Version::HTTP_11, &host.into_iter().chain(encodings).collect()).is_ok()
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

    #[test]
    fn a_request_names_one_host() {
        let found = |version, hosts: &[&[u8]]| {
            let hosts = hosts.iter().map(|host| (HOST, HeaderValue::from_bytes(host).unwrap()));
            check(version, &hosts.collect()).map_err(|why| why.to_string())
        };
        for host in [
            "localhost",
            "localhost:80",
            "a_b.example:",
            "127.0.0.1:65536",
            "[::1]",
            "[::1]:80",
            "",
            ":80",
            "a,b",
            "Host.Example.",
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11] {
                assert_eq!(found(version, &[host.as_bytes()]), Ok(()), "{host}");
            }
        }
        for host in [
            "a b",
            "localhost, x",
            "x@localhost",
            "localhost:a",
            "localhost:80:80",
            "localhost:+80",
            "http://localhost",
            "localhost/",
            "localhost?x",
            "[::1",
            "[::1]x",
            "::1",
            "a\u{e4}",
            "a\\b",
        ] {
            let told = format!("expected one `Host`, a name with or without a port, found `{host}`");
            for version in [Version::HTTP_10, Version::HTTP_11] {
                assert_eq!(found(version, &[host.as_bytes()]), Err(told.clone()), "{host}");
            }
        }
        assert!(found(Version::HTTP_11, &[b"a\xff"]).is_err());
        let told =
            |found: &str| Err(format!("expected one `Host`, a name with or without a port, found {found}"));
        assert_eq!(found(Version::HTTP_11, &[]), told("none"));
        assert_eq!(found(Version::HTTP_10, &[]), Ok(()));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(found(version, &[b"localhost", b"localhost"]), told("several"));
        }
    }
}

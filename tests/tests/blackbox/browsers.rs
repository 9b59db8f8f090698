//! Requests that a page in somebody's browser makes it send: a server on the same machine must not do what they say.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use host_tests::{Host, Server, pixels_json, test_images};
use serde_json::{Value, json};

use crate::tracking::{api, post};

/// Sends JSON with these headers; gives status and body.
fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // Not closed on this side, or the server would take that for a client that went away.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (status.parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn names(server: &Server) -> Vec<String> {
    let found = post(server, "experiments/search", &json!({ "max_results": 100 }));
    let found = found["experiments"].as_array().unwrap().iter();
    found.map(|experiment| experiment["name"].as_str().unwrap().to_owned()).collect()
}

fn create(server: &Server, name: &str, headers: &[(&str, &str)]) -> (u16, String) {
    send(server, "POST", &api("experiments/create"), headers, &json!({ "name": name }).to_string())
}

#[test]
fn pages_of_other_servers_change_nothing() {
    let host = Host::new();
    let server = host.server([]);
    let own = server.address().to_owned();
    for origin in ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:3000", "file://"] {
        let (status, body) = create(&server, "evil", &[("host", &own), ("origin", origin)]);
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error_code"]), (403, &json!("PERMISSION_DENIED")), "{origin}: {body}");
        for (method, path) in [
            ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/x".to_owned()),
            ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/0".to_owned()),
            ("PATCH", api("registered-models/update")),
            ("POST", "/ajax-api/2.0/mlflow/experiments/delete".to_owned()),
            ("POST", "/nothing".to_owned()),
        ] {
            let (status, body) = send(&server, method, &path, &[("host", &own), ("origin", origin)], "{}");
            assert_eq!(status, 403, "{method} {path}: {body}");
        }
    }
    assert_eq!(names(&server), ["Default"]);
    // Its own pages may, and whoever is no browser.
    for (name, headers) in [
        ("own", vec![("host", own.as_str()), ("origin", &format!("http://{own}"))]),
        ("plain", vec![("host", own.as_str())]),
        ("typed", vec![("host", own.as_str()), ("content-type", "text/plain")]),
    ] {
        assert_eq!(create(&server, name, &headers).0, 200, "{name}");
    }
    let (status, _) =
        send(&server, "GET", "/health", &[("host", &own), ("origin", "http://evil.example")], "");
    assert_eq!(status, 200);
}

#[test]
fn a_server_on_loopback_answers_to_its_own_names_only() {
    let host = Host::new();
    let server = host.server([]);
    for name in ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "192.168.0.1"] {
        for method in ["GET", "POST"] {
            let (status, body) = send(&server, method, &api("experiments/search"), &[("host", name)], "");
            assert_eq!(status, 403, "{name}: {body}");
            assert!(body.contains("PERMISSION_DENIED") && body.contains("--allowed-hosts"), "{body}");
        }
    }
    for headers in [&[][..], &[("host", "localhost"), ("host", "localhost")], &[("host", "x@localhost")]] {
        let (status, body) = send(&server, "POST", &api("experiments/search"), headers, "{}");
        assert_eq!(status, 400, "{headers:?}: {body}");
        assert!(body.contains("INVALID_PARAMETER_VALUE") && body.contains("`Host`"), "{body}");
    }
    for name in ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:5000"] {
        assert_eq!(send(&server, "GET", "/health", &[("host", name)], "").0, 200, "{name}");
    }
}

#[test]
fn a_proxy_gives_the_server_another_name() {
    let host = Host::new();
    let allowed = host.server(["--allowed-hosts", "ml.example,Other.example:8443"]);
    let by_variable =
        host.server_with_environment(&[("HOST_ALLOWED_HOSTS", "ml.example, other.example:8443")]);
    for server in [&allowed, &by_variable] {
        for (name, status) in [
            ("ml.example", 200),
            ("ml.example:5000", 200),
            ("other.example:8443", 200),
            ("localhost", 200),
            ("other.example", 403),
            ("evil.example", 403),
        ] {
            assert_eq!(send(server, "GET", "/health", &[("host", name)], "").0, status, "{name}");
        }
    }
    let headers = [("host", "ml.example"), ("origin", "https://ml.example")];
    assert_eq!(create(&allowed, "proxied", &headers).0, 200);
    let headers = [("host", "localhost"), ("origin", "https://other.example:8443")];
    assert_eq!(create(&allowed, "passed on under another name", &headers).0, 200);
    let every = host.server(["--allowed-hosts", "*"]);
    assert_eq!(create(&every, "every", &[("host", "evil.example")]).0, 200);
    assert_eq!(create(&every, "no", &[("host", "localhost"), ("origin", "http://evil.example")]).0, 403);
    let refused = host.run(["server", "--port", "0", "--allowed-hosts", "http://ml.example"]);
    insta::assert_snapshot!(refused.failure(&host), @r"
    exit 2
    error: `--allowed-hosts`: `http://ml.example` is no name of a host: expected `name`, `name:port` or `*`
    ");
}

#[test]
fn a_server_for_other_machines_takes_any_name_unless_some_are_given() {
    let host = Host::new();
    let open = host.server(["--bind", "0.0.0.0"]);
    let named = host.server(["--bind", "0.0.0.0", "--allowed-hosts", "ml.example"]);
    for (name, status) in [("ml.example", 200), ("localhost", 200), ("other.example", 403)] {
        assert_eq!(send(&open, "GET", "/health", &[("host", name)], "").0, 200, "{name}");
        assert_eq!(send(&named, "GET", "/health", &[("host", name)], "").0, status, "{name}");
    }
    let (status, _) = create(&open, "x", &[("host", "any.example"), ("origin", "http://evil.example")]);
    assert_eq!(status, 403);
}

#[test]
fn predictions_are_not_made_for_pages_of_other_servers() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let body = pixels_json(&test_images()[0]);
    let predict = |headers: &[(&str, &str)]| send(&server, "POST", "/serve/mnist", headers, &body);
    for headers in
        [&[("host", "localhost"), ("origin", "http://evil.example")][..], &[("host", "evil.example")]]
    {
        let (status, body) = predict(headers);
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["code"]), (403, &json!("forbidden")), "{body}");
    }
    assert_eq!(predict(&[("host", "localhost")]).0, 200);
}

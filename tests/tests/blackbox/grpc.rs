//! The Open Inference Protocol over gRPC: its official client, and HTTP/2 as no client should speak it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use host_tests::{Host, Http2, Server, pixels_json, python, ran, repository, test_images};
use serde_json::{Value, json};

use super::endpoints::{two_versions, wait_for, write};
use super::observed::call;
use super::serving::slow_model;

pub(super) const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
pub(super) const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

#[test]
fn the_official_client_of_grpc_works_unmodified() {
    let arguments = ["--model", "mnist", "--model-control", "--body-max-bytes", "1000000"];
    let server = Host::trained().serve(arguments);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.json");
    std::fs::write(&file, json!({ "rows": &test_images()[..9] }).to_string()).unwrap();
    let script = repository().join("tests/python/grpc_client.py");
    let output = Command::new(python()).arg(script).arg(server.address()).arg(file).output().unwrap();
    assert!(ran(output).expect_success().contains("all as documented"));
}

#[test]
fn metadata_and_parameters_tell_who_gave_an_answer_and_whether_it_was_kept() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  one: { model: digits@1, cache_mib: 4 }
  two: { model: digits@2 }
  e: { ensemble: [two, two, one] }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let script = "import sys, grpc\n\
        from tritonclient.grpc import service_pb2, service_pb2_grpc\n\
        stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))\n\
        for message in sys.argv[2:]:\n    \
            request = service_pb2.ModelInferRequest.FromString(bytes.fromhex(message))\n    \
            response, call = stub.ModelInfer.with_call(request)\n    \
            metadata = dict(call.initial_metadata())\n    \
            [streamed] = list(stub.ModelStreamInfer(iter([request])))\n    \
            streamed = streamed.infer_response.parameters\n    \
            names = ['x-model-version', 'x-bundle-digest', 'x-cache']\n    \
            told = [metadata.get(name) for name in names]\n    \
            assert told == [response.parameters[name].string_param or None for name in names], (response, metadata)\n    \
            assert told[:2] == [streamed[name].string_param for name in names[:2]], (streamed, metadata)\n    \
            print(told[0], len(told[1].split(', ')), told[2])";
    let message = |endpoint: &str| -> String {
        call(endpoint, 3)[5..].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let mut asking = Command::new(python());
    asking.args(["-c", script, server.address(), &message("one"), &message("one"), &message("e")]);
    let expected = "digits@1 1 miss\ndigits@1 1 hit\ndigits@1, digits@2 2 None\n";
    assert_eq!(ran(asking.output().unwrap()).expect_success(), expected);
}

#[test]
fn rest_is_answered_over_http_2_as_over_http_1() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let body = pixels_json(&test_images()[0]);
    let many = format!("[{}]", vec![body.clone(); 500].join(","));
    let mut client = Http2::connect(&server);
    for (index, (path, sent)) in
        [("/serve/mnist", &body), ("/serve/mnist", &many), ("/serve/none", &body)].into_iter().enumerate()
    {
        let stream = 2 * index as u32 + 1;
        client.post(stream, "localhost", path, &[], sent.as_bytes());
        let answer = client.body(stream).unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), server.post(path, sent).body, "{path}");
    }
}

#[test]
fn a_request_of_http_2_is_refused_where_one_of_http_1_would_be() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let mut client = Http2::connect(&server);
    let body = pixels_json(&test_images()[0]);
    let mut refused = |stream, named: &str, path: &str, headers: &[(&str, &str)]| {
        client.post(stream, named, path, headers, body.as_bytes());
        let answer: Value = serde_json::from_slice(&client.body(stream).unwrap()).unwrap();
        assert_eq!(answer["error"]["code"], "forbidden", "{answer}");
    };
    refused(1, "evil.example", "/serve/mnist", &[]);
    refused(3, "evil.example", "/serve/mnist", &[("host", "localhost")]);
    refused(5, "localhost", "/serve/mnist", &[("host", "evil.example")]);
    refused(7, "localhost", "/serve/mnist", &[("origin", "http://evil.example")]);
    // A call gets its answer in its head alone, as gRPC tells errors; the official client reads it.
    for (stream, named, origin) in
        [(9, "evil.example", None), (11, "localhost", Some(("origin", "http://evil.example")))]
    {
        let headers: Vec<_> = GRPC.iter().copied().chain(origin).collect();
        client.post(stream, named, INFER, &headers, body.as_bytes());
        assert_eq!(client.body(stream).unwrap(), b"");
    }
}

#[test]
fn calls_that_are_none_are_told_by_http() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let (over_1, _) = server.post_with_headers(INFER, "", &[("content-type", "application/grpc")]);
    assert_eq!(over_1.status, 505, "{}", over_1.body);
    assert!(over_1.body.contains("gRPC needs HTTP/2"), "{}", over_1.body);
    let mut client = Http2::connect(&server);
    client.post(1, "localhost", INFER, &[("content-type", "application/json")], b"{}");
    let told = String::from_utf8(client.body(1).unwrap()).unwrap();
    assert!(told.contains("expected `application/grpc`"), "{told}");
}

#[test]
fn a_call_whose_deadline_is_over_is_not_computed() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let elements = vec![0; 784];
    let pixels = [field(1, b"pixels"), field(2, b"UINT8"), field(3, &[1, 28, 28])].concat();
    let call = framed(&[field(1, b"mnist"), field(5, &pixels), field(7, &elements)].concat());
    let mut client = Http2::connect(&server);
    for (stream, timeout, count) in [(1, "0n", 0), (3, "1H", 1)] {
        client.post(stream, "localhost", INFER, &[GRPC, &[("grpc-timeout", timeout)]].concat(), &call);
        // An error has no data.
        assert_eq!(client.body(stream).unwrap().is_empty(), timeout != "1H", "{timeout}");
        let statistics = server.get("/v2/models/mnist/stats").json();
        let success = &statistics["model_stats"][0]["inference_stats"]["success"];
        assert_eq!(success["count"], count, "{timeout}");
    }
}

/// The server goes on to answer, on another connection.
fn is_well(server: &Server) {
    let answer = server.post("/serve/mnist", &pixels_json(&test_images()[0]));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut client = Http2::connect(server);
    client.post(1, "localhost", "/serve/mnist", &[], pixels_json(&test_images()[0]).as_bytes());
    assert_eq!(String::from_utf8(client.body(1).unwrap()).unwrap(), answer.body);
}

#[test]
fn half_a_preface_and_garbage_after_one_end_the_connection() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let garbage: Vec<u8> =
        (0..100_000_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for length in [1, 4, 14, 20, 23, 24] {
        for rest in [&b""[..], b"\r\n\r\n", &garbage] {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            // The server may have closed the connection before all of it was sent.
            let _ = stream.write_all(&[&Http2::PREFACE[..length], rest].concat());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    is_well(&server);
}

#[test]
fn floods_of_frames_harm_nobody() {
    let server = Host::trained().serve(["--model", "mnist"]);
    // What is not read here fills no more than the server's side of the connection.
    let flood = |send: &mut dyn FnMut(&mut Http2, u32) -> bool| {
        let mut client = Http2::connect(&server);
        let sent = (0..50_000).take_while(|index| send(&mut client, 2 * index + 1)).count();
        drop(client);
        is_well(&server);
        sent
    };
    let before = server.peak_memory();
    let head = b"\x82\x86\x84\x01\x09localhost";
    let taken_back = flood(&mut |client, stream| {
        client.send(Http2::HEADERS, Http2::END_HEADERS, stream, head)
            && client.send(Http2::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    });
    flood(&mut |client, stream| client.send(Http2::HEADERS, Http2::END_HEADERS, stream, head));
    let wrong = flood(&mut |client, stream| {
        // More room than there can be is an error of the stream's.
        client.send(Http2::HEADERS, Http2::END_HEADERS, stream, head)
            && client.send(Http2::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())
    });
    let continued = flood(&mut |client, stream| {
        let kind = if stream == 1 { Http2::HEADERS } else { Http2::CONTINUATION };
        client.send(kind, 0, 1, &[b'\0'; 1_000])
    });
    assert!(wrong < 50_000 && continued < 50_000, "{taken_back} {wrong} {continued}");
    assert!(server.peak_memory() < before + (64 << 20), "{} {before}", server.peak_memory());
}

#[test]
fn requests_of_a_stream_are_computed_beside_each_other_and_answered_in_their_order() {
    let server = slow_model().serve(["--model", "slow"]);
    let mut client = Http2::connect(&server);
    // A second of work, and a question that is answered at once.
    let messages = [slow_call(&server, 6_000), framed(&field(1, b"nobody"))].concat();
    client.post(1, "localhost", STREAM, GRPC, &messages);
    let refused = "host_refused_requests_total{code=\"not_found\"} 1\n";
    wait_for("the second to be answered beside the first", || {
        let metrics = server.get("/metrics").body;
        metrics.contains(refused) && metrics.contains("host_computing{endpoint=\"slow\"} 1\n")
    });
    let answers = client.body(1).unwrap();
    let error = answers.windows(6).position(|bytes| bytes == b"nobody").expect("its error is an answer");
    assert!(error > 50_000, "the first answer comes first");
}

#[test]
fn small_requests_that_wait_behind_a_slow_one_are_all_answered() {
    const SMALL: usize = 6_000;
    let server = slow_model().serve(["--model", "slow"]);
    let mut client = Http2::connect(&server);
    // A second of work, and questions that are answered at once, each in a frame of its own.
    client.post(1, "localhost", STREAM, GRPC, b"");
    assert!(client.send(Http2::WINDOW_UPDATE, 0, 1, &0x0100_0000_u32.to_be_bytes()), "room for all answers");
    for piece in slow_call(&server, 4_000).chunks(16_384) {
        assert!(client.send_data(0, 1, piece));
    }
    let small = framed(&field(1, b"nobody"));
    for _ in 0..SMALL {
        assert!(client.send_data(0, 1, &small), "the connection has ended");
    }
    assert!(client.send(Http2::DATA, Http2::END_STREAM, 1, b""));
    client.post(3, "localhost", LIVE, GRPC, &framed(b""));
    assert!(!client.body(3).unwrap().is_empty(), "another call is answered meanwhile");
    let answers = client.body(1).expect("the stream was ended");
    let (mut rest, mut count) = (&answers[..], 0);
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let [_, length @ ..] = *head;
        (rest, count) = (&behind[u32::from_be_bytes(length) as usize..], count + 1);
    }
    assert_eq!(count, SMALL + 1);
}

#[test]
fn streams_that_ask_nothing_leave_room_for_calls() {
    let server = Host::trained().serve(["--model", "mnist"]);
    // More than there may be: 128 on each connection. A request without a body is one that goes on.
    let idle: Vec<Http2> = (0..18)
        .map(|_| {
            let mut client = Http2::connect(&server);
            (0..128).for_each(|index| client.post(2 * index + 1, "localhost", STREAM, GRPC, b""));
            client.settle();
            client
        })
        .collect();
    let mut client = Http2::connect(&server);
    client.post(1, "localhost", STREAM, GRPC, b"");
    // An error has no data.
    assert_eq!(client.body(1).unwrap(), b"", "one more is refused at once");
    client.post(3, "localhost", LIVE, GRPC, &framed(b""));
    assert!(!client.body(3).unwrap().is_empty(), "a call is answered");
    let told = "host_refused_requests_total{code=\"overloaded\"} 257\n";
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains(told), "{metrics}");
    drop(idle);
    let is_free = (5..2_000).step_by(2).any(|stream| {
        std::thread::sleep(Duration::from_millis(50));
        // A request of no model, which has an answer too.
        client.post(stream, "localhost", STREAM, GRPC, &framed(b""));
        !client.body(stream).unwrap().is_empty()
    });
    assert!(is_free, "streams that have ended still have their places");
}

/// A field of protobuf that has bytes.
pub(super) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    [&field, bytes].concat()
}

/// A call of the model `slow` with so many rows, framed.
fn slow_call(server: &Server, rows: u16) -> Vec<u8> {
    let inputs = server.get("/v2/models/slow").json()["inputs"].clone();
    let mut message = field(1, b"slow");
    let mut raw = Vec::new();
    for input in inputs.as_array().unwrap() {
        let datatype = input["datatype"].as_str().unwrap();
        let shape = [0x80 | (rows & 0x7f) as u8, 0x80 | (rows >> 7 & 0x7f) as u8, (rows >> 14) as u8];
        let fields = [field(1, input["name"].as_str().unwrap().as_bytes()), field(2, datatype.as_bytes())];
        message.extend(field(5, &[fields.concat(), field(3, &shape)].concat()));
        let element = match datatype {
            "FP32" => 50_f32.to_le_bytes().to_vec(),
            "FP64" => 50_f64.to_le_bytes().to_vec(),
            other => panic!("{other}"),
        };
        raw.extend(field(7, &element.repeat(usize::from(rows))));
    }
    message.extend(raw);
    framed(&message)
}

/// A message as gRPC sends it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[test]
fn calls_under_way_at_the_end_are_all_answered() {
    let host = slow_model();
    let server = host.serve(["--model", "slow"]);
    let call = slow_call(&server, 1_500);
    let mut clients: Vec<Http2> = (0..2).map(|_| Http2::connect(&server)).collect();
    let mut early = Vec::new();
    for client in &mut clients {
        for stream in [1, 3, 5] {
            client.post(stream, "localhost", INFER, GRPC, &call);
        }
        early.push(client.settle());
    }
    server.terminate();
    server.wait_until_it_refuses();
    for (client, early) in clients.iter_mut().zip(early) {
        let mut answered = std::collections::BTreeSet::new();
        let mut frames = early.into_iter();
        while let Some(frame) = frames.next().or_else(|| client.receive()) {
            // An error has no data.
            if frame.kind == Http2::DATA && !frame.payload.is_empty() {
                answered.insert(frame.stream);
            }
        }
        assert_eq!(answered.into_iter().collect::<Vec<_>>(), [1, 3, 5]);
    }
    assert_eq!(server.wait().code, 0);
}

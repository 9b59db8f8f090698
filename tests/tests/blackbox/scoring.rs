//! What other programs ask of `host serve`: MLflow's scoring protocol, OpenAPI, and bodies that are packed or no JSON.

use std::io::{Read as _, Write as _};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use host_tests::{
    Host, Server, guest, misbehaviour, pixels_json, plugin, python, ran, repository, test_images,
};
use serde_json::{Value, json};

use super::endpoints::{ROW, two_versions, write};
use super::imported::{blob, exported, model_file};

#[test]
fn invocations_are_answered_as_mlflow_s_scoring_server_does() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits"]);
    let scores = |row: &Value| server.post("/serve/digits", &row.to_string()).json()["scores"][0].clone();
    let expected =
        json!({ "predictions": [scores(&json!({ "a": 3, "b": 2 })), scores(&json!({ "a": 5, "b": 0 }))] });
    for body in [
        json!({ "dataframe_split": { "columns": ["b", "a"], "data": [[2, 3], [0, 5]] } }),
        json!({ "dataframe_records": [{ "a": 3, "b": 2 }, { "a": 5, "b": 0 }] }),
        json!({ "inputs": { "a": [3, 5], "b": [2, 0] } }),
        json!({ "instances": [{ "a": 3, "b": 2 }, { "a": 5, "b": 0 }] }),
    ] {
        for path in ["/invocations", "/endpoints/digits/invocations"] {
            let (answer, headers) =
                server.post_with_headers(path, &body.to_string(), &[("content-type", "application/json")]);
            assert_eq!((answer.status, answer.json()), (200, expected.clone()), "{body}");
            assert!(headers.contains_key("x-prediction-id"));
        }
    }
    let csv = [("content-type", "text/csv; charset=utf-8")];
    let (answer, _) = server.post_with_headers("/invocations", "a,b\n3,2\n5,0\n", &csv);
    assert_eq!((answer.status, answer.json()), (200, expected));
    assert_eq!(server.get("/ping").status, 200);
    assert_eq!(server.get("/version").body, env!("CARGO_PKG_VERSION"));
    let refused = |body: &str, headers: &[(&str, &str)]| {
        let (answer, _) = server.post_with_headers("/invocations", body, headers);
        let told = answer.json();
        (
            answer.status,
            told["error_code"].as_str().unwrap().to_owned(),
            told["message"].as_str().unwrap().to_owned(),
        )
    };
    let (status, code, message) = refused(r#"{"dataframe_records": [{"a": 3}]}"#, &[]);
    assert_eq!(
        (status, code.as_str(), message.as_str()),
        (400, "BAD_REQUEST", "row 0, column `b`: is missing")
    );
    assert_eq!(refused("{}", &[]).0, 400);
    assert_eq!(refused("a,b\n1,x\n", &csv).0, 400);
    assert_eq!(refused("x", &[("content-type", "application/parquet")]).0, 415);
    let missing = server.post("/endpoints/nobody/invocations", "{}");
    assert_eq!((missing.status, &missing.json()["error_code"]), (404, &json!("RESOURCE_DOES_NOT_EXIST")));
}

#[test]
fn invocations_ignore_columns_that_nobody_asked_for_and_serve_refuses_them() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits"]);
    let expected = json!({ "predictions": [server.post("/serve/digits", ROW).json()["scores"][0]] });
    let json = [("content-type", "application/json")];
    let csv = [("content-type", "text/csv")];
    for (body, kind) in [
        (r#"{"dataframe_records": [{"id": {"of": [7]}, "a": 3, "b": 2}]}"#, &json),
        (r#"{"dataframe_split": {"columns": ["b", "id", "a"], "data": [[2, "x", 3]]}}"#, &json),
        (r#"{"inputs": {"a": [3], "id": ["x"], "b": [2]}}"#, &json),
        (r#"{"instances": [{"a": 3, "b": 2, "id": null}]}"#, &json),
        // As pandas writes it, with the index.
        (",a,b,id\n0,3,2,x\n", &csv),
    ] {
        for path in ["/invocations", "/endpoints/digits/invocations"] {
            let (answer, _) = server.post_with_headers(path, body, kind);
            assert_eq!((answer.status, answer.json()), (200, expected.clone()), "{path}: {body}");
        }
    }
    let missing = server.post("/invocations", r#"{"inputs": {"a": [3], "bb": [2]}}"#);
    assert_eq!((missing.status, &missing.json()["message"]), (400, &json!("column `b`: is missing")));
    for (body, kind) in [(r#"{"a": 3, "b": 2, "id": 7}"#, &json), ("a,b,id\n3,2,7\n", &csv)] {
        let (refused, _) = server.post_with_headers("/serve/digits", body, kind);
        let error = &refused.json()["error"];
        assert_eq!((refused.status, &error["column"]), (400, &json!("id")), "{body}: {}", refused.body);
    }
}

#[test]
fn several_endpoints_are_asked_by_name() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "one=digits@1", "--model", "two=digits@2"]);
    let answer = server.post("/invocations", r#"{"dataframe_records": [{"a": 3, "b": 2}]}"#);
    assert_eq!(answer.status, 400);
    let message =
        "there are several endpoints: ask `/endpoints/ENDPOINT/invocations` with one of `one`, `two`";
    assert_eq!(answer.json()["message"], message);
}

/// The document of OpenAPI, which is valid and has so many examples.
fn checked_document(host: &Host, server: &Server, examples: usize) -> Value {
    let document = server.get("/openapi.json");
    let file = host.state_dir().join("openapi.json");
    std::fs::write(&file, &document.body).unwrap();
    let script = repository().join("tests/python/openapi_check.py");
    let checked = ran(Command::new(python()).arg(script).arg(&file).output().unwrap());
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    assert_eq!(checked.stdout.trim(), format!("{examples} examples"));
    document.json()
}

#[test]
fn examples_work_of_models_without_a_sample_and_of_endpoints_made_of_others() {
    let registry = two_versions();
    let softmax = model_file("softprob.json");
    registry.run(&["model", "import", &softmax, "--name", "flowers"]).expect_success();
    let shown = registry.run(&["model", "show", "flowers", "--json"]).json();
    assert!(shown["manifest"].get("sample").is_none(), "{shown}");
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  flowers: { model: flowers }
  one: { model: digits@1 }
  two: { model: digits@2 }
  chain: { sequence: [flowers, { ensemble: [one, two] }] }
  pick: { switch: { column: a, cases: { '1.5': one, 2: two } } }
  strict: { switch: { column: kind, cases: { x: flowers, y: flowers } } }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    // Requests of all, and answers of those that have a model; the same of their only version.
    let document = checked_document(&registry.host, &server, 2 * (6 + 3));
    let request = |endpoint: &str| {
        let post = &document["paths"][format!("/serve/{endpoint}")]["post"];
        post["requestBody"]["content"]["application/json"]["example"].clone()
    };
    for endpoint in ["flowers", "one", "two", "chain", "pick", "strict"] {
        let answer = server.post(&format!("/serve/{endpoint}"), &request(endpoint).to_string());
        assert_eq!(answer.status, 200, "{endpoint}: {}", answer.body);
        let post = &document["paths"][format!("/serve/{endpoint}")]["post"];
        let told = &post["responses"]["200"]["content"]["application/json"]["example"];
        assert!(told.is_null() || *told == answer.json(), "{endpoint}: {told}");
    }
    assert_eq!(request("flowers"), json!({ "features": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0] }));
    assert_eq!(request("pick")["a"], 2);
    assert_eq!(request("strict")["kind"], "x");
}

#[test]
fn the_document_of_openapi_is_valid_and_its_example_works() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "one=digits@1", "--model", "two=digits@2"]);
    let document = checked_document(&registry.host, &server, 8);
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/serve/one", "/serve/one/1", "/serve/two", "/serve/two/2"]);
    let answer = &document["paths"]["/serve/one"]["post"]["responses"]["200"]["content"]["application/json"];
    let number = &answer["schema"]["oneOf"][0]["properties"]["scores"]["items"]["type"];
    assert_eq!(*number, json!(["number", "null"]), "NaN is null: {answer}");
    for (name, other) in [("one", "two"), ("two", "one"), ("one/1", "two/2")] {
        let post = &document["paths"][format!("/serve/{name}")]["post"];
        let example = &post["requestBody"]["content"]["application/json"]["example"];
        let answer = server.post(&format!("/serve/{name}"), &example.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json(), post["responses"]["200"]["content"]["application/json"]["example"]);
        assert_ne!(server.post(&format!("/serve/{other}"), &example.to_string()).json(), answer.json());
    }
}

#[test]
fn an_endpoint_with_other_transformers_has_an_example_if_they_take_it() {
    let registry = two_versions();
    let file = guest("picky");
    let server = registry.host.serve(["--model", "digits@1", "--plugin", &file]);
    let post = checked_document(&registry.host, &server, 4)["paths"]["/serve/digits"]["post"].clone();
    let example = post["requestBody"]["content"]["application/json"]["example"].clone();
    let answer = server.post("/serve/digits", &example.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json(), post["responses"]["200"]["content"]["application/json"]["example"]);
    // It was for the document alone, and is no request.
    let counted = server.get("/metrics").body;
    let requests = "host_requests_total{endpoint=\"digits\",version=\"digits@1\"} 1\n";
    assert!(counted.contains(requests), "{counted}");
    let (file, config) = (guest("misbehaving"), format!("misbehaving={}", misbehaviour("panic")));
    let server = registry.host.serve(["--model", "digits@1", "--plugin", &file, "--config", &config]);
    checked_document(&registry.host, &server, 0);
    // The document says what the answers have, and not what the bundle's own would have.
    let label = plugin("argmax-label");
    let server = registry.host.serve(["--model", "digits@1", "--postprocess", &label]);
    let document = checked_document(&registry.host, &server, 4);
    let post = &document["paths"]["/serve/digits"]["post"];
    let answer = post["responses"]["200"]["content"]["application/json"]["example"].as_object().unwrap();
    assert_eq!(answer.keys().collect::<Vec<_>>(), ["label", "probability"]);
}

#[test]
fn transformers_that_take_other_columns_are_refused_before_anybody_asks() {
    let registry = two_versions();
    let (image, label) = (plugin("png-pixels"), plugin("argmax-label"));
    let refused = |arguments: [&str; 2]| {
        let ran =
            registry.host.run(["serve", "--model", "digits@1", "--port", "0"].into_iter().chain(arguments));
        assert_eq!(ran.code, 2, "{}", ran.stdout);
        ran.stderr
    };
    let told =
        "error: with these transformers the bundle cannot answer the row that was recorded with it: plugin ";
    let stderr = refused(["--plugin", &image]);
    assert!(stderr.contains(told) && stderr.contains("expected a column `image`, found `a`"), "{stderr}");
    let stderr = refused(["--plugin", &label]);
    assert!(stderr.contains(told) && stderr.contains("expected a column `scores`, found `a`"), "{stderr}");
}

#[test]
fn bodies_may_be_packed_and_csv() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits", "--body-max-bytes", "100000"]);
    let expected = server.post("/serve/digits", ROW);
    let pack = |program: &str, body: &[u8]| {
        use std::process::Stdio;
        let script =
            format!("import sys,zlib,gzip\nb=sys.stdin.buffer.read()\nsys.stdout.buffer.write({program}(b))");
        let mut packing = Command::new(python());
        packing.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut packing = packing.spawn().unwrap();
        packing.stdin.take().unwrap().write_all(body).unwrap();
        packing.wait_with_output().unwrap().stdout
    };
    let sent = |encoding: &str, body: &[u8]| {
        server.post_with_headers("/serve/digits", body, &[("content-encoding", encoding)]).0
    };
    assert_eq!(sent("gzip", &pack("gzip.compress", ROW.as_bytes())), expected);
    assert_eq!(sent("deflate", &pack("zlib.compress", ROW.as_bytes())), expected);
    // A frame of one raw block (RFC 8878), since Python has no zstd of its own.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, ROW.len() as u8];
    frame.extend_from_slice(&((ROW.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(ROW.as_bytes());
    assert_eq!(sent("zstd", &frame), expected);
    assert_eq!(sent("zstd", &frame[..frame.len() - 1]).status, 400);
    assert_eq!(sent("br", b"x").status, 415);
    let bomb = pack("gzip.compress", &vec![b' '; 1_000_000]);
    assert_eq!(sent("gzip", &bomb).status, 413);
    let (csv, _) = server.post_with_headers("/serve/digits", "a,b\n3,2\n", &[("content-type", "text/csv")]);
    assert_eq!(csv.json(), json!([expected.json()]));
    let (image, _) = server.post_with_headers("/serve/digits", "\u{89}PNG", &[("content-type", "image/png")]);
    let message = "bytes need a model that takes one column of type BYTES, and this one takes `a` (INT64), `b` (INT64): send JSON";
    assert_eq!((image.status, &image.json()["error"]["message"]), (415, &json!(message)));
    let many: Vec<Value> = (0..500).map(|a| json!({ "a": a, "b": 1 })).collect();
    let many = json!(many).to_string();
    let head = format!(
        "POST /serve/digits HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept-encoding: zstd\r\n\
         content-length: {}\r\n\r\n{many}",
        many.len()
    );
    let mut connection = std::net::TcpStream::connect(server.address()).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("content-encoding: zstd"), "{answer:.300}");
}

/// A gray image of PNG (its specification, section 5), packed by Python.
fn png(pixels: &[u8], side: u32) -> Vec<u8> {
    use std::process::Stdio;
    let script = "import struct, sys, zlib
side = int(sys.argv[1])
pixels = sys.stdin.buffer.read()
chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
rows = b''.join(b'\\0' + pixels[row * side:(row + 1) * side] for row in range(side))
head = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
file = b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
sys.stdout.buffer.write(file)";
    let mut packing = Command::new(python());
    packing.args(["-c", script, &side.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut packing = packing.spawn().unwrap();
    packing.stdin.take().unwrap().write_all(pixels).unwrap();
    packing.wait_with_output().unwrap().stdout
}

#[test]
fn an_image_may_be_sent_as_the_file_that_it_is() {
    let host = Host::new();
    let (folder, manifest) = exported(&host);
    let model = blob(&folder, &manifest["model"]["blob"]);
    let state = format!("mnist-pixels={}", blob(&folder, &manifest["preprocess"][0]["state"]));
    let mut signature = manifest["signature"].clone();
    signature["inputs"] = json!([{ "name": "image", "dtype": "BYTES", "shape": [] }]);
    let file = host.state_dir().join("signature.json");
    std::fs::write(&file, signature.to_string()).unwrap();
    let (png_pixels, pixels, label) = (plugin("png-pixels"), plugin("mnist-pixels"), plugin("argmax-label"));
    let signature = file.to_str().unwrap();
    let import = [
        "model",
        "import",
        &model,
        "--name",
        "images",
        "--signature",
        signature,
        "--state",
        &state,
        "--preprocess",
        &png_pixels,
        "--preprocess",
        &pixels,
        "--postprocess",
        &label,
    ];
    host.run(import).expect_success();
    let server = host.serve(["--model", "images"]);
    let document = checked_document(&host, &server, 0);
    let content = &document["paths"]["/serve/images"]["post"]["requestBody"]["content"];
    let kinds: Vec<_> = content.as_object().unwrap().keys().collect();
    assert_eq!(kinds, ["application/octet-stream", "image/*"], "an image is no JSON");
    let by_pixels = Host::trained().serve(["--model", "mnist"]);
    let kind = [("content-type", "image/png")];
    for image in test_images().iter().take(5) {
        let expected = by_pixels.post("/serve/mnist", &pixels_json(image));
        let (answer, _) = server.post_with_headers("/serve/images", &png(image, 28), &kind);
        assert_eq!((answer.status, answer.json()), (200, expected.json()));
    }
    let image = &test_images()[0];
    let label = by_pixels.post("/serve/mnist", &pixels_json(image)).json()["label"].clone();
    let tensor = |data: &str, content_type: &str| {
        let parameters = json!({ "content_type": content_type });
        let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters, "data": [data] });
        server.post("/v2/models/images/infer", &json!({ "inputs": [input] }).to_string())
    };
    let answer = tensor(&BASE64_STANDARD.encode(png(image, 28)), "base64");
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"][0]), (200, &label), "{}", answer.body);
    let wrong = tensor("?", "base64");
    let message = "row 0, column `image`: expected base64, found `?` at byte 0";
    assert_eq!((wrong.status, wrong.json()["error"].as_str()), (400, Some(message)));
    assert_eq!(
        tensor(&BASE64_STANDARD.encode(png(image, 28)), "str").status,
        400,
        "it is the text that it says"
    );
    let file = png(image, 28);
    let head = format!(
        "POST /v2/models/images/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         inference-header-content-length: 0\r\ncontent-length: {}\r\n\r\n",
        file.len()
    );
    let mut connection = std::net::TcpStream::connect(server.address()).unwrap();
    connection.write_all(&[head.as_bytes(), &file].concat()).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    // The label as eight bytes, and then its probability as four.
    let label = label.as_i64().unwrap().to_le_bytes();
    assert_eq!(answer[answer.len() - 12..answer.len() - 4], label, "{}", answer.escape_ascii());
    let (refused, _) = server.post_with_headers("/invocations", &png(image, 28), &kind);
    assert_eq!(refused.status, 415, "{}", refused.body);
    assert!(refused.body.contains("`/serve/ENDPOINT` takes images"), "{}", refused.body);
    let (wrong, _) = server.post_with_headers("/serve/images", &png(&[0; 16], 4), &kind);
    let message = wrong.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        wrong.status == 400 && message.contains("expected an image of 28 × 28 pixels, found 4 × 4"),
        "{message}"
    );
    let (none, _) = server.post_with_headers("/serve/images", "no image", &kind);
    assert_eq!(none.status, 400, "{}", none.body);
}

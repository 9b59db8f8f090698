//! Endpoints of `host serve`: many in one process, shared by versions, and swapped while they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_tests::{Host, Server, pixels_json, plugin, sha256, test_images};
use serde_json::{Value, json};

use super::registry::Registry;

pub(super) const ROW: &str = r#"{"a": 3, "b": 2}"#;

const PATIENCE: Duration = Duration::from_secs(60);

/// A project with two versions of the model `digits`, which answer differently.
pub(super) fn two_versions() -> Registry {
    let registry = Registry::new(None);
    registry.train("1");
    registry.train("9");
    registry
}

/// Status, version and body of an answer.
pub(super) fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let (answer, headers) = server.post_with_headers(path, ROW, headers);
    (answer.status, headers.get("x-model-version").cloned().unwrap_or_default(), answer.body)
}

pub(super) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn write(host: &Host, text: &str) -> String {
    let path = host.state_dir().join("endpoints.yaml");
    // Whole or not at all, as editors do it.
    let staged = host.state_dir().join("endpoints.new");
    std::fs::write(&staged, text).unwrap();
    std::fs::rename(staged, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_moved_alias_swaps_all_of_a_version_under_load() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let server = registry.host.serve(["--model", "digits@champion"]);
    let is_over = AtomicBool::new(false);
    let answers: Vec<(u16, String, String)> = std::thread::scope(|scope| {
        let load = |_| {
            scope.spawn(|| {
                let mut answers = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    answers.push(ask(&server, "/serve/digits", &[]));
                }
                answers
            })
        };
        let loads: Vec<_> = (0..4).map(load).collect();
        for version in [2, 1, 2, 1, 2] {
            let version = format!("digits@{version}");
            registry.run(&["model", "alias", &version, "champion"]).expect_success();
            wait_for("the alias is not followed", || ask(&server, "/serve/digits", &[]).1 == version);
        }
        is_over.store(true, Ordering::Relaxed);
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect()
    });
    let mut bodies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (status, version, body) in &answers {
        assert_eq!(*status, 200, "{body}");
        bodies.entry(version).or_default().insert(body);
    }
    let versions: Vec<_> = bodies.keys().copied().collect();
    assert_eq!(versions, ["digits@1", "digits@2"], "of {} answers", answers.len());
    assert!(bodies.values().all(|bodies| bodies.len() == 1), "each version has one answer: {bodies:?}");
    assert_ne!(bodies["digits@1"], bodies["digits@2"]);
}

#[test]
fn a_new_version_is_served_and_the_one_before_stays_for_those_who_ask_for_it() {
    let registry = Registry::new(None);
    registry.train("1");
    let server = registry.host.serve(["--model", "digits"]);
    let first = ask(&server, "/serve/digits", &[]);
    assert_eq!(first.1, "digits@1");
    registry.train("9");
    wait_for("the new version is not served", || ask(&server, "/serve/digits", &[]).1 == "digits@2");
    assert_eq!(ask(&server, "/serve/digits/1", &[]), first);
    let told = server.get("/serve").json()["endpoints"][0]["versions"].clone();
    let versions: Vec<_> =
        told.as_array().unwrap().iter().map(|one| (&one["version"], &one["weight"])).collect();
    assert_eq!(versions, [(&json!(2), &json!(1)), (&json!(1), &json!(0))]);
    registry.train("5");
    wait_for("the new version is not served", || ask(&server, "/serve/digits", &[]).1 == "digits@3");
    // One is kept by default.
    let gone = server.post("/serve/digits/1", ROW);
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json()["error"]["message"], "endpoint `digits` has no version `1`: loaded is 3, 2");
    assert_eq!(server.post("/serve/digits/x", ROW).status, 404);
    assert_eq!(server.get("/serve/digits/2").status, 405);
}

#[test]
fn what_is_no_version_of_a_model_s_is_version_1_by_every_route() {
    let registry = two_versions();
    let bundle = registry.run(&["model", "show", "digits@2", "--json"]).json()["bundle"].clone();
    let text = format!("version: 1\nendpoints: {{ one: {{ model: {bundle} }}, e: {{ sequence: [one] }} }}\n");
    let file = write(&registry.host, &text);
    let server = registry.host.serve(["--endpoints", &file]);
    let expected = ask(&server, "/serve/one", &[]).2;
    for name in ["one", "e"] {
        let (status, _, body) = ask(&server, &format!("/serve/{name}/1"), &[]);
        assert_eq!((status, &body), (200, &expected), "{name}");
        assert_eq!(server.get(&format!("/v2/models/{name}/versions/1")).status, 200);
        assert_eq!(server.get(&format!("/v2/models/{name}")).json()["versions"], json!(["1"]));
        for other in ["2", "+1", "01"] {
            let message = format!("endpoint `{name}` has no version `{other}`: loaded is 1");
            let refused = server.post(&format!("/serve/{name}/{other}"), ROW);
            assert_eq!((refused.status, &refused.json()["error"]["message"]), (404, &json!(message)));
            let refused = server.get(&format!("/v2/models/{name}/versions/{other}"));
            assert_eq!((refused.status, &refused.json()["error"]), (404, &json!(message)));
        }
    }
}

#[test]
fn of_bundles_without_a_number_the_index_has_one() {
    let registry = two_versions();
    let bundle = |version: &str| registry.run(&["model", "show", version, "--json"]).json()["bundle"].clone();
    let text = format!(
        "version: 1\nendpoints: {{ one: {{ traffic: [{{ model: {}, weight: 1 }}, {{ model: {}, weight: 1 }}] }} }}\n",
        bundle("digits@1"),
        bundle("digits@2")
    );
    let server = registry.host.serve(["--endpoints", &write(&registry.host, &text)]);
    let index = server.post("/v2/repository/index", "").json();
    assert_eq!(index, json!([{ "name": "one", "version": "1", "state": "READY", "reason": "" }]));
}

#[test]
fn versions_share_requests_by_weight_and_keys_stay() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  shared:
    traffic:
      - { model: digits@1, weight: 75 }
      - { model: digits@2, weight: 25 }
    sticky: x-user
  alone: { model: digits@2 }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(ask(&server, "/serve/shared", &[]).1).or_default() += 1;
    }
    assert!((60..140).contains(&counts["digits@2"]), "{counts:?}");
    let mut seen = BTreeSet::new();
    for user in ["anna", "ben", "clara", "dora", "emil", "frida", "gustav", "hanna", "ida", "jan"] {
        let versions: BTreeSet<_> =
            (0..10).map(|_| ask(&server, "/serve/shared", &[("x-user", user)]).1).collect();
        assert_eq!(versions.len(), 1, "{user}");
        seen.extend(versions);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(ask(&server, "/serve/shared/2", &[]).2, ask(&server, "/serve/alone", &[]).2);
}

/// A bundle that says it had answered otherwise than it does.
fn with_another_sample(registry: &Registry) -> PathBuf {
    let folder = registry.host.state_dir().join("tampered");
    registry.run(&["model", "export", "digits@1", folder.to_str().unwrap()]).expect_success();
    let manifest_path = folder.join("bundle.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&manifest_path).unwrap()).unwrap();
    let digest = manifest["sample"]["digest"].as_str().unwrap().replace("sha256:", "");
    let blob = |digest: &str| folder.join("blobs/sha256").join(digest);
    let mut sample: Value = serde_json::from_slice(&std::fs::read(blob(&digest)).unwrap()).unwrap();
    sample["outputs"][2] = json!({ "scores": 7 });
    let bytes = sample.to_string().into_bytes();
    let digest = sha256(&bytes);
    manifest["sample"] = json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() });
    std::fs::write(blob(&digest), bytes).unwrap();
    std::fs::write(manifest_path, manifest.to_string()).unwrap();
    folder
}

#[test]
fn beside_a_folder_models_are_found_by_their_names() {
    let registry = two_versions();
    let folder = registry.host.state_dir().join("exported");
    let folder = folder.to_str().unwrap();
    registry.run(&["model", "export", "digits@1", folder]).expect_success();
    let server = registry.host.serve(["--model", folder, "--shadow", "digits@2"]);
    let shadows = server.get("/serve").json()["endpoints"][0]["shadows"].clone();
    assert_eq!((&shadows[0]["model"], &shadows[0]["version"]), (&json!("digits"), &json!(2)), "{shadows}");
    drop(server);
    let server = registry.host.serve(["--model", folder, "--model-control"]);
    let loaded = server.post("/v2/repository/models/digits/load", "");
    assert_eq!(loaded.status, 200, "{}", loaded.body);
    assert_eq!(ask(&server, "/serve/digits", &[]).1, "digits@2");
}

#[test]
fn a_shadow_that_takes_other_columns_harms_nobody_and_is_told_until_it_fits() {
    let registry = two_versions();
    let host = &registry.host;
    let model = |name: &str, columns: &str, row: &dyn Fn(usize) -> String| {
        let file = host.state_dir().join(format!("{name}.csv"));
        let rows: String = (0..60).map(|n| format!("{},{}\n", row(n), usize::from(n % 7 > 3))).collect();
        std::fs::write(&file, format!("{columns},label\n{rows}")).unwrap();
        registry.run(&["data", "add", name, file.to_str().unwrap()]).expect_success();
        registry.run(&["train", "--data", name, "--name", name, "--rounds", "1"]).expect_success();
    };
    model("wide", "a,b,c", &|n| format!("{},{},{}", n % 7, n % 5, n % 3));
    model("narrow", "a", &|n| (n % 7).to_string());
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let text = |shadow: &str| {
        format!(
            "version: 1\nendpoints: {{ one: {{ model: digits@champion, shadow: [{{ model: {shadow} }}] }} }}\n"
        )
    };
    let server = host.serve(["--endpoints", &write(host, &text("wide@1"))]);
    let listed = || server.get("/serve").json();
    let failed = |version: &str| {
        let why = format!(
            "shadow `wide@1` does not take what `{version}` does, and is given no requests: column `c` is missing"
        );
        json!([{ "name": "one", "reason": why }])
    };
    assert_eq!(listed()["failed"], failed("digits@1"));
    assert_eq!((&listed()["endpoints"][0]["shadows"], ask(&server, "/serve/one", &[]).0), (&json!([]), 200));
    // What it is compared with may be loaded later.
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/one", &[]).1 == "digits@2");
    wait_for("the shadow is not told beside another version", || listed()["failed"] == failed("digits@2"));
    write(host, &text("narrow@1"));
    wait_for("the shadow that fits is not told to be well", || listed()["failed"] == json!([]));
    assert_eq!(ask(&server, "/serve/one", &[]).0, 200);
    let answers = || listed()["endpoints"][0]["shadows"][0]["answers"].clone();
    let compared = || ["same", "agrees", "different"].iter().any(|outcome| answers()[outcome] == 1);
    wait_for("a shadow that takes fewer columns is not compared", compared);
    let told = server.stop().stderr;
    assert_eq!(told.matches("shadow `wide@1` does not take what `digits@1` does").count(), 1, "{told}");
}

#[test]
fn a_version_that_does_not_answer_its_sample_gets_no_requests() {
    let registry = two_versions();
    let host = &registry.host;
    let tampered = with_another_sample(&registry);
    let reason = "of its recorded sample with";
    let alone = host.run(["serve", "--model", tampered.to_str().unwrap(), "--port", "0"]);
    assert_eq!(alone.code, 2);
    assert!(alone.stderr.contains(reason), "{}", alone.stderr);
    let checked = host.run(["model", "check", tampered.to_str().unwrap()]);
    assert!(checked.code == 2 && checked.stderr.contains("it answers row 2"), "{}", checked.stderr);

    let file = write(host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    let server = host.serve(["--endpoints", &file]);
    let before = ask(&server, "/serve/one", &[]);
    // The folder starts from where the file is.
    write(host, "version: 1\nendpoints: { one: { model: ./tampered }, two: { model: digits@2 } }\n");
    wait_for("another endpoint is not served", || server.post("/serve/two", ROW).status == 200);
    assert_eq!(ask(&server, "/serve/one", &[]), before);
    let told = server.stop().stderr;
    assert_eq!(told.matches(reason).count(), 1, "{told}");
}

#[test]
fn what_cannot_be_served_is_told_before_anything_is() {
    let registry = two_versions();
    let host = &registry.host;
    let refused = |arguments: &[&str]| {
        let ran = host.run(["serve", "--port", "0"].iter().chain(arguments).copied());
        assert_eq!(ran.code, 2, "{arguments:?}");
        ran.stderr
    };
    let twice = refused(&["--model", "digits@1", "--model", "digits@2"]);
    assert!(
        twice.contains("two endpoints are called `digits`: name them with `--model ENDPOINT=MODEL`"),
        "{twice}"
    );
    assert!(refused(&["--model", "d=nothing"]).contains("there is no model `nothing`"));
    assert!(refused(&["--model", "D=digits"]).contains("`D` is not a name"));
    assert!(refused(&["--model", "d=./nothing"]).contains("there is no bundle in `./nothing`"));
    let all = refused(&["--model", "a=nothing", "--model", "b=./nothing", "--model", "c=digits@9"]);
    assert!(all.contains("error: endpoint `a`: there is no model `nothing`"), "{all}");
    assert!(all.contains("warning: endpoint `b`: there is no bundle in `./nothing`"), "{all}");
    assert!(all.contains("warning: endpoint `c`: model `digits` has no version 9"), "{all}");
    assert!(refused(&["--endpoints", "/nowhere"]).contains("failed to read `/nowhere`"));
    assert!(refused(&[]).contains("--model"));
    let file = write(host, "version: 1\nendpoints: {}\n");
    assert!(refused(&["--endpoints", &file]).contains("there is no endpoint to serve"));
    let file = write(host, "version: 1\nendpoints: { e: { model: digits@9 }, f: { model: nothing } }\n");
    assert!(refused(&["--endpoints", &file]).contains("has no version 9"));
    let server = host.serve(["--model", "first=digits@1", "--model", "second=digits@2"]);
    let versions = ["first", "second"].map(|name| ask(&server, &format!("/serve/{name}"), &[]).1);
    assert_eq!(versions, ["digits@1", "digits@2"]);
}

#[test]
fn a_prediction_is_computed_again_bit_for_bit() {
    let registry = two_versions();
    let host = &registry.host;
    let server = host.serve(["--model", "digits@1", "--model", "other=digits@2"]);
    let id = |path: &str, body: &str| {
        let (answer, headers) = server.post_with_headers(path, body, &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        headers["x-prediction-id"].clone()
    };
    let first = id("/serve/digits", ROW);
    let tensors = r#"{"inputs":[{"name":"a","datatype":"INT64","shape":[2],"data":[1,2]},{"name":"b","datatype":"INT64","shape":[2],"data":[3,4]}]}"#;
    let second = id("/v2/models/other/infer", tensors);
    assert_ne!(first, second);
    let (refused, headers) = server.post_with_headers("/serve/digits", "{}", &[]);
    assert!(refused.status == 400 && !headers.contains_key("x-prediction-id"), "{}", refused.body);
    server.stop().expect_success();
    for (id, endpoint, version, rows) in
        [(&first, "digits", "digits@1", 1), (&second, "other", "digits@2", 2)]
    {
        let told = host.run(["replay", id, "--json"]).json();
        assert_eq!(told["identical"], true, "{told}");
        assert_eq!((&told["endpoint"], &told["version"]), (&json!(endpoint), &json!(version)));
        assert_eq!(told["inputs"].as_array().unwrap().len(), rows);
        assert_eq!(told["outputs"], told["outputs_now"]);
    }
    // What answered stays, as long as there is a record of it.
    registry.run(&["model", "delete", "digits@1"]).expect_success();
    host.run(["gc", "--older-than", "0s"]).expect_success();
    assert!(host.run(["replay", &first]).expect_success().contains("identical, bit for bit"));
    let nobodys = "0".repeat(32);
    let not_there = format!("prediction `{nobodys}` is not recorded here");
    for (id, told) in
        [(nobodys.as_str(), not_there.as_str()), ("0123", "`0123` is no prediction's id: expected 32")]
    {
        let unknown = host.run(["replay", id]);
        assert!(unknown.code == 2 && unknown.stderr.contains(told), "{}", unknown.stderr);
    }
}

#[test]
fn another_answer_is_told_apart_from_a_record_that_is_damaged() {
    let registry = two_versions();
    let host = &registry.host;
    let server = host.serve(["--model", "digits@1"]);
    let (answer, headers) = server.post_with_headers("/serve/digits", ROW, &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    server.stop().expect_success();
    let id = &headers["x-prediction-id"];
    let file = host.state_dir().join("predictions").join("00000001.predictions");
    let whole = std::fs::read(&file).unwrap();
    let replay_of = |segment: &[u8]| {
        std::fs::write(&file, segment).unwrap();
        host.run(["replay", id])
    };
    // A bit of the answer.
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 0x80;
    let damaged = replay_of(&changed);
    let reason = format!("is damaged: the record of prediction `{id}` is not what was written");
    let told = format!("segment 1 of the recorded predictions, `{}`, {reason}", file.display());
    assert!(damaged.code == 2 && damaged.stderr.contains(&told), "{} {}", damaged.code, damaged.stderr);
    // As it was recorded when there were no checksums: without the first field of the header.
    let before = |segment: &[u8]| {
        let length = u32::from_le_bytes(segment[..4].try_into().unwrap()) - 19;
        [&length.to_le_bytes(), &segment[4..5], &segment[24..]].concat()
    };
    assert_eq!(replay_of(&before(&whole)).code, 0);
    let other = replay_of(&before(&changed));
    assert!(other.code == 4 && other.stdout.contains("another answer"), "{} {}", other.code, other.stderr);
    let other = host.run(["replay", id, "--json"]);
    let told: Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!((other.code, &told["identical"]), (4, &json!(false)));
}

#[test]
fn nothing_is_recorded_where_that_is_not_wanted() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits", "--record-mib", "0"]);
    let (_, headers) = server.post_with_headers("/serve/digits", ROW, &[]);
    server.stop().expect_success();
    let unknown = registry.host.run(["replay", &headers["x-prediction-id"]]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(!registry.host.state_dir().join("predictions").exists());
}

#[test]
fn loads_that_fail_while_others_answer_harm_nobody() {
    let registry = two_versions();
    let host = &registry.host;
    with_another_sample(&registry);
    let file = write(host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    let server = host.serve(["--endpoints", &file]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut answers = BTreeSet::new();
            while !is_over.load(Ordering::Relaxed) {
                answers.insert(ask(&server, "/serve/one", &[]));
            }
            answers
        });
        for round in 0..4 {
            // None of these can be loaded: another sample, a version and a model that are not there.
            let bad = ["tampered", "digits@9", "nothing"][round % 3];
            let text = format!(
                "version: 1\nendpoints: {{ one: {{ model: {bad} }}, n{round}: {{ model: digits@2 }} }}\n"
            );
            write(host, &text);
            wait_for("the file is not followed", || {
                server.post(&format!("/serve/n{round}"), ROW).status == 200
            });
        }
        is_over.store(true, Ordering::Relaxed);
        let answers = load.join().unwrap();
        assert!(answers.len() == 1 && answers.first().is_some_and(|answer| answer.0 == 200), "{answers:?}");
    });
}

#[test]
fn of_versions_that_share_requests_one_that_fails_harms_no_other() {
    let registry = two_versions();
    let host = &registry.host;
    with_another_sample(&registry);
    let alias = |version: &str, alias: &str| {
        registry.run(&["model", "alias", version, alias]).expect_success();
    };
    alias("digits@1", "champion");
    alias("digits@1", "challenger");
    alias("digits@1", "candidate");
    let text = |canary: &str| {
        format!(
            "version: 1\nendpoints:\n  one:\n    traffic:\n      - {{ model: digits@champion, weight: 50 }}\n      \
             - {{ model: {canary}, weight: 50 }}\n    shadow: [{{ model: digits@candidate }}]\n"
        )
    };
    let file = write(host, &text("digits@challenger"));
    let server = host.serve(["--endpoints", &file]);
    let wait_for_both = |what: &str, versions: [&str; 2]| {
        let expected = BTreeSet::from(versions.map(|version| (200, version.to_owned())));
        wait_for(what, || {
            let answers = (0..40).map(|_| ask(&server, "/serve/one", &[]));
            answers.map(|(status, version, _)| (status, version)).collect::<BTreeSet<_>>() == expected
        });
    };
    // What nobody can find any more answers on, beside those that move.
    registry.run(&["model", "alias", "digits", "challenger", "--delete"]).expect_success();
    registry.run(&["model", "alias", "digits", "candidate", "--delete"]).expect_success();
    alias("digits@2", "champion");
    wait_for_both("an alias is not followed beside one that is gone", ["digits@1", "digits@2"]);
    let shadows = server.get("/serve").json()["endpoints"][0]["shadows"].clone();
    assert_eq!(shadows[0]["version"], 1, "a shadow that nobody can find any more goes on too: {shadows}");
    alias("digits@2", "challenger");
    wait_for_both("what is there again is not served", ["digits@2", "digits@2"]);
    // For what cannot be loaded and never could the one goes on that it was to replace.
    write(host, &text("./tampered"));
    alias("digits@1", "champion");
    wait_for_both("an alias is not followed beside one that cannot be loaded", ["digits@1", "digits@2"]);
    // Where there was none the others answer for it.
    let told = server.stop().stderr;
    assert_eq!(told.matches("of its recorded sample with").count(), 1, "{told}");
    let server = host.serve(["--endpoints", &file]);
    assert_eq!(ask(&server, "/serve/one", &[]).1, "digits@1");
}

#[test]
fn a_version_that_is_not_there_gives_its_requests_to_no_other() {
    let registry = two_versions();
    let text = |champion: &str| {
        format!(
            "version: 1\nendpoints:\n  one:\n    traffic:\n      - {{ model: {champion}, weight: 99 }}\n      \
             - {{ model: digits@2, weight: 1 }}\n"
        )
    };
    let file = write(&registry.host, &text("digits@1"));
    let server = registry.host.serve(["--endpoints", &file]);
    write(&registry.host, &text("digits@22"));
    let weights = |server: &Server| {
        let routes = server.get("/serve").json()["endpoints"][0]["routes"].clone();
        let routes = routes.as_array().unwrap().iter();
        routes
            .map(|route| [&route["asked_for"], &route["version"], &route["weight"]].map(Value::clone))
            .collect::<Vec<_>>()
    };
    let expected = [[json!("digits@22"), json!(1), json!(99)], [json!("digits@2"), json!(2), json!(1)]];
    wait_for("the version that it was to replace does not go on", || weights(&server) == expected);
    assert!(server.stop().stderr.contains("endpoint `one`: model `digits` has no version 22"));
}

#[test]
fn what_could_not_be_loaded_is_tried_again() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let shown = registry.run(&["model", "show", "digits@2", "--json"]).json();
    let digest = shown["manifest"]["model"]["blob"]["digest"].as_str().unwrap().replace("sha256:", "");
    let blob = file_named(registry.host.state_dir(), &digest).unwrap();
    let elsewhere = blob.with_extension("elsewhere");
    let server = registry.host.serve(["--model", "one=digits@champion"]);
    std::fs::rename(&blob, &elsewhere).unwrap();
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    wait_for("it was not tried to load what is not there", || {
        let failed = server.get("/serve").json()["failed"].clone();
        failed.as_array().is_some_and(|failed| !failed.is_empty())
    });
    assert_eq!(ask(&server, "/serve/one", &[]).1, "digits@1");
    std::fs::rename(&elsewhere, &blob).unwrap();
    wait_for("a version that was not there is not tried again", || {
        ask(&server, "/serve/one", &[]).1 == "digits@2"
    });
}

/// A file in a folder, or in one below it.
fn file_named(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| match entry.file_type().ok()?.is_dir() {
        true => file_named(&entry.path(), name),
        false => (entry.file_name().to_str() == Some(name)).then(|| entry.path()),
    })
}

#[test]
fn who_answers_most_speaks_for_an_endpoint() {
    let registry = two_versions();
    let text = "version: 1\nendpoints:\n  one:\n    traffic:\n      - { model: digits@1, weight: 0 }\n      \
                - { model: digits@2, weight: 100 }\n";
    let file = write(&registry.host, text);
    let server = registry.host.serve(["--endpoints", &file]);
    let shown = registry.run(&["model", "show", "digits@2", "--json"]).json();
    assert_eq!(server.get("/serve").json()["endpoints"][0]["bundle"], shown["bundle"]);
}

#[test]
fn a_model_that_is_made_anew_has_no_version_twice() {
    let registry = two_versions();
    let host = &registry.host;
    let file = write(host, "version: 1\nendpoints: { one: { model: digits, keep: 2 } }\n");
    registry.run(&["model", "delete", "digits@2"]).expect_success();
    let server = host.serve(["--endpoints", &file]);
    let before = ask(&server, "/serve/one", &[]).2;
    registry.run(&["model", "delete", "digits"]).expect_success();
    registry.train("9");
    wait_for("the model that was made anew is not served", || ask(&server, "/serve/one", &[]).2 != before);
    let metrics = server.get("/metrics").body;
    let series: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("host_requests_total{endpoint=\"one\"")).collect();
    assert_eq!(series.len(), 1, "{series:?}");
}

#[test]
fn what_the_bundle_s_own_component_answered_is_computed_again() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--plugin", &plugin("mnist-pixels")]);
    let (answer, headers) = server.post_with_headers("/serve/mnist", &pixels_json(&test_images()[0]), &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    // It is recorded within a second.
    wait_for("it cannot be computed again", || host.run(["replay", &headers["x-prediction-id"]]).code == 0);
}

#[test]
fn there_may_be_more_transformers_than_instances() {
    let host = Host::trained();
    // Two transformers each, and 512 instances.
    let names: Vec<String> = (0..300).map(|number| format!("e{number}")).collect();
    let endpoints: String = names.iter().map(|name| format!("  {name}: {{ model: mnist }}\n")).collect();
    let folder = Host::new();
    let file = write(&folder, &format!("version: 1\nendpoints:\n{endpoints}"));
    let server = host.serve(["--endpoints", &file]);
    let image = pixels_json(&test_images()[0]);
    for name in names.iter().step_by(37).chain(&names[..2]).chain(names.last()) {
        let answer = server.post(&format!("/serve/{name}"), &image);
        assert_eq!((answer.status, &answer.json()["label"]), (200, &json!(7)), "{name}: {}", answer.body);
    }
    // All have one model and the code of two plugins, of which each has half a megabyte.
    let peak = server.peak_memory();
    assert!(peak < 250 * 1024 * 1024, "{peak}");
    let told = server.stop().stderr;
    assert!(!told.contains("warning"), "{told}");
}

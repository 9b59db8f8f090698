//! What MLflow's server takes and answers, beyond what its own client's tests reach.

use std::time::Instant;

use host_tests::{Host, Postgres, Server};
use serde_json::{Value, json};

use crate::tracking::{api, assert_refused, post, start_run};

/// Runs a check on both databases.
fn on_both_databases(check: fn(&Server)) {
    let host = Host::new();
    check(&host.server([]));
    let (host, postgres) = (Host::new(), Postgres::start());
    check(&host.server(["--database", &postgres.url()]));
}

fn refused(server: &Server, path: &str, body: &Value) {
    assert_refused(&server.post(&api(path), &body.to_string()), 400, "INVALID_PARAMETER_VALUE");
}

fn run(server: &Server, run_id: &str) -> Value {
    server.get(&api(&format!("runs/get?run_id={run_id}"))).json()["run"].clone()
}

fn tag(run: &Value, key: &str) -> Option<String> {
    let tags = run["data"]["tags"].as_array().unwrap().iter();
    tags.filter(|tag| tag["key"] == key).map(|tag| tag["value"].as_str().unwrap().to_owned()).next()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn folders_of_any_size_are_listed_whole_and_fast() {
    let host = Host::new();
    let server = host.server([]);
    // Through the table itself: as many uploads would take minutes.
    let python = "import sqlite3, sys\n\
        at = sqlite3.connect(sys.argv[1])\n\
        rows = [(f'0/many/{i:06}.txt',) for i in range(30000)]\n\
        rows += [(f'0/deep/{i:05}/{j:05}',) for i in range(300) for j in range(100)]\n\
        rows += [(f'0/mixed/{i:03}/a',) for i in range(500)] + [(f'0/mixed/{i:03}.txt',) for i in range(500)]\n\
        rows += [(f'0/mixed/zz/{i:05}',) for i in range(20000)] + [('0/mixed/zzz',)]\n\
        at.executemany('INSERT INTO artifacts VALUES (?, \\'sha256:00\\', 1, 0)', rows)\n\
        at.commit()";
    let database = host.state_dir().join("host.db");
    let written =
        std::process::Command::new(host_tests::python()).args(["-c", python]).arg(database).status();
    assert!(written.unwrap().success());
    let list = |folder: &str| {
        let answer = server.get(&format!("/api/2.0/mlflow-artifacts/artifacts?path={folder}")).json();
        let files = answer["files"].as_array().unwrap().iter();
        files
            .map(|file| (file["path"].as_str().unwrap().to_owned(), file["is_dir"] == true))
            .collect::<Vec<_>>()
    };
    let started = Instant::now();
    let many = list("0/many");
    assert_eq!(many.len(), 30_000);
    assert_eq!((many[0].0.as_str(), many[29_999].0.as_str()), ("000000.txt", "029999.txt"));
    let deep = list("0/deep");
    assert_eq!(deep.len(), 300);
    assert!(deep.iter().all(|(_, is_folder)| *is_folder));
    let mixed = list("0/mixed");
    assert_eq!(mixed.len(), 1_002);
    assert_eq!(mixed.iter().filter(|(_, is_folder)| *is_folder).count(), 501);
    assert!(mixed.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    assert_eq!(list("0").len(), 3);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn files_may_have_a_percent_sign_or_a_semicolon_in_their_names() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let names = ["50%.txt", "a;b.txt", "x%20y.txt", "100%25", "5%accuracy.png"];
    for name in names {
        let path = format!("/api/2.0/mlflow-artifacts/artifacts/0/{run_id}/artifacts/{}", encoded(name));
        let answer = server.put(&path, name.as_bytes());
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(server.get(&path).body, name);
        let within =
            server.get(&api(&format!("artifacts/list?run_id={run_id}&path={}", encoded(name)))).json();
        assert_eq!(within["files"], json!([]), "nothing lies in a file");
    }
    let listed = server.get(&api(&format!("artifacts/list?run_id={run_id}"))).json();
    let mut listed: Vec<_> = listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    let mut names = names.map(str::to_owned);
    names.sort();
    assert_eq!(listed, names);
    // What others would read differently is no location, and no source of a model.
    for place in ["mlflow-artifacts:/a;b", "mlflow-artifacts:/50%"] {
        refused(&server, "experiments/create", &json!({ "name": "x", "artifact_location": place }));
    }
    post(&server, "registered-models/create", &json!({ "name": "m" }));
    for source in
        [format!("runs:/{run_id}/a;b"), format!("runs:/{run_id}/50%"), "mlflow-artifacts:/a%2fb".to_owned()]
    {
        refused(&server, "model-versions/create", &json!({ "name": "m", "source": source }));
    }
}

#[test]
fn a_run_starts_with_any_tags_and_they_are_kept_whole() {
    on_both_databases(|server| {
        let keys = ["", "my(key)", "it's", "a;b", "../x", &"k".repeat(260)];
        let mut tags: Vec<Value> = keys.iter().map(|key| json!({ "key": key, "value": "v" })).collect();
        tags.push(json!({ "key": "long", "value": "d".repeat(9_000) }));
        tags.push(json!({ "key": "long", "value": "e".repeat(9_000) }));
        let created = post(server, "runs/create", &json!({ "experiment_id": "0", "tags": tags }));
        let run_id = created["run"]["info"]["run_id"].as_str().unwrap();
        let kept = run(server, run_id);
        for key in keys {
            assert_eq!(tag(&kept, key).as_deref(), Some("v"), "{key:?}");
        }
        assert_eq!(tag(&kept, "long"), Some("e".repeat(9_000)), "the last of a key");
        for bad in [
            json!({ "key": "k".repeat(501) }),
            json!({ "key": "a\0b" }),
            json!({ "key": "a", "value": "\0" }),
        ] {
            refused(server, "runs/create", &json!({ "experiment_id": "0", "tags": [bad] }));
        }
        // What is set later is checked and cut, as MLflow does.
        refused(server, "runs/set-tag", &json!({ "run_id": run_id, "key": "my(key)", "value": "w" }));
        post(
            server,
            "runs/set-tag",
            &json!({ "run_id": run_id, "key": "later", "value": "v".repeat(9_000) }),
        );
        assert_eq!(tag(&run(server, run_id), "later").unwrap().len(), 8_000);
    });
}

#[test]
fn a_run_always_has_a_name_of_any_length() {
    let host = Host::new();
    let server = host.server([]);
    let named = |body: Value| post(&server, "runs/create", &body)["run"].clone();
    let run_id = |run: &Value| run["info"]["run_id"].as_str().unwrap().to_owned();
    let long = "n".repeat(300);
    let first = named(json!({ "experiment_id": "0", "run_name": long }));
    assert_eq!(
        (&first["info"]["run_name"], tag(&first, "mlflow.runName")),
        (&json!(long), Some(long.clone()))
    );
    for empty in [
        json!({ "experiment_id": "0", "run_name": "", "tags": [{ "key": "mlflow.runName", "value": "" }] }),
        json!({ "experiment_id": "0", "tags": [{ "key": "mlflow.runName", "value": "" }] }),
    ] {
        let run = named(empty);
        let name = run["info"]["run_name"].as_str().unwrap();
        assert!(!name.is_empty() && tag(&run, "mlflow.runName").as_deref() == Some(name), "{run}");
    }
    let id = run_id(&first);
    // Both ways to rename it have one rule: a name is cut where its tag is, and nothing is no name.
    let by_tag = |value: &str| {
        post(&server, "runs/set-tag", &json!({ "run_id": id, "key": "mlflow.runName", "value": value }))
    };
    let by_update = |name: &str| post(&server, "runs/update", &json!({ "run_id": id, "run_name": name }));
    for rename in [&by_tag as &dyn Fn(&str) -> Value, &by_update] {
        for (given, length) in [("m".repeat(300), 300), (String::new(), 300), ("o".repeat(9_000), 8_000)] {
            rename(&given);
            let run = run(&server, &id);
            let name = run["info"]["run_name"].as_str().unwrap();
            assert_eq!((name.len(), tag(&run, "mlflow.runName").as_deref()), (length, Some(name)));
        }
    }
}

#[test]
fn parameters_of_a_logged_model_are_set_once() {
    on_both_databases(|server| {
        let pair = |key: &str, value: &str| json!({ "key": key, "value": value });
        let model = json!({ "experiment_id": "0", "name": "m", "params": [pair("a", "1"), pair("a[0]", &"p".repeat(7_000))],
            "tags": [pair("t(0)", &"t".repeat(9_000))] });
        let created = post(server, "logged-models", &model)["model"].clone();
        let id = created["info"]["model_id"].as_str().unwrap();
        assert_eq!(created["data"]["params"], json!([pair("a", "1"), pair("a[0]", &"p".repeat(7_000))]));
        assert_eq!(created["info"]["tags"], json!([pair("t(0)", &"t".repeat(9_000))]));
        let params = format!("logged-models/{id}/params");
        post(server, &params, &json!({ "params": [pair("a", "1"), pair("b", "2")] }));
        refused(server, &params, &json!({ "params": [pair("c", "3"), pair("a", "2")] }));
        refused(
            server,
            "logged-models",
            &json!({ "experiment_id": "0", "params": [pair("a", "1"), pair("a", "2")] }),
        );
        let kept = server.get(&api(&format!("logged-models/{id}"))).json()["model"]["data"]["params"].clone();
        let kept: Vec<_> = kept.as_array().unwrap().iter().map(|param| param["key"].clone()).collect();
        assert_eq!(kept, ["a", "a[0]", "b"], "nothing of the request that was refused");
    });
}

#[test]
fn a_logged_model_that_is_deleted_can_still_be_looked_at() {
    let host = Host::new();
    let server = host.server([]);
    let created = post(&server, "logged-models", &json!({ "experiment_id": "0", "name": "m" }));
    let id = created["model"]["info"]["model_id"].as_str().unwrap();
    let url = format!("http://{}{}", server.address(), api(&format!("logged-models/{id}")));
    for _ in 0..2 {
        assert_eq!(host_tests::agent().delete(&url).call().unwrap().status(), 200);
    }
    assert_refused(&server.get(&api(&format!("logged-models/{id}"))), 404, "RESOURCE_DOES_NOT_EXIST");
    assert_eq!(
        server.get(&api(&format!("logged-models/{id}?allow_deleted=true"))).json()["model"]["info"]["name"],
        "m"
    );
    let url = format!("http://{}{}", server.address(), api("logged-models/m-0"));
    assert_eq!(host_tests::agent().delete(&url).call().unwrap().status(), 404);
}

#[test]
fn logged_models_are_found_and_sorted_by_metrics_on_a_dataset() {
    on_both_databases(|server| {
        let run_id = start_run(server);
        // Accuracy on `train` and on `test`, each with a newer value of an older digest.
        for (name, train, test) in [("a", 0.9, 0.1), ("b", 0.5, 0.5), ("c", 0.1, 0.9)] {
            let created = post(server, "logged-models", &json!({ "experiment_id": "0", "name": name }));
            let id = created["model"]["info"]["model_id"].as_str().unwrap();
            for (dataset, digest, value, timestamp) in
                [("train", "1", train, 1), ("test", "1", test, 2), ("test", "2", 1.0 - test, 3)]
            {
                post(
                    server,
                    "runs/log-metric",
                    &json!({ "run_id": run_id, "key": "accuracy", "value": value,
                    "timestamp": timestamp, "model_id": id, "dataset_name": dataset, "dataset_digest": digest }),
                );
            }
            if name == "b" {
                let finalize = format!("http://{}{}", server.address(), api(&format!("logged-models/{id}")));
                assert_eq!(
                    host_tests::agent().patch(finalize).send(r#"{"status": 2}"#).unwrap().status(),
                    200
                );
            }
        }
        post(server, "logged-models", &json!({ "experiment_id": "0", "name": "unmeasured" }));
        let search = |more: Value| {
            let mut body = json!({ "experiment_ids": ["0"] });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let found = post(server, "logged-models/search", &body)["models"].clone();
            let names = found.as_array().unwrap().iter();
            names.map(|model| model["info"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let train = json!([{ "dataset_name": "train" }]);
        let above = "metrics.accuracy > 0.8";
        assert_eq!(search(json!({ "filter": above })), ["c", "a"]);
        assert_eq!(search(json!({ "filter": above, "datasets": train })), ["a"]);
        let first_test = json!([{ "dataset_name": "test", "dataset_digest": "1" }]);
        assert_eq!(search(json!({ "filter": above, "datasets": first_test })), ["c"]);
        assert_eq!(search(json!({ "datasets": train })), ["c", "b", "a"], "with a metric on it");
        assert_eq!(search(json!({ "datasets": [{ "dataset_name": "other" }] })), [""; 0]);
        let by = |dataset: &str, digest: &str, ascending: bool| {
            json!({ "order_by": [{ "field_name": "metrics.accuracy", "ascending": ascending, "dataset_name": dataset,
                "dataset_digest": digest }] })
        };
        assert_eq!(search(by("train", "", true)), ["c", "b", "a", "unmeasured"]);
        assert_eq!(search(by("test", "1", true)), ["a", "b", "c", "unmeasured"]);
        assert_eq!(search(by("test", "", true)), ["c", "b", "a", "unmeasured"], "the newest value");
        assert_eq!(search(json!({ "filter": "status = 'READY'" })), ["b"]);
        assert_eq!(search(json!({ "filter": "attributes.status != 'READY' AND name IN ('a', 'b')" })), ["a"]);
        for bad in [
            json!({ "datasets": [{}] }),
            json!({ "order_by": [{ "field_name": "metrics.accuracy", "dataset_digest": "1" }] }),
            json!({ "filter": "status = 'DONE'" }),
            json!({ "filter": "status LIKE 'READY'" }),
            json!({ "order_by": [{ "field_name": "metrics.`a\0`" }] }),
        ] {
            let mut body = json!({ "experiment_ids": ["0"] });
            body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
            refused(server, "logged-models/search", &body);
        }
    });
}

#[test]
fn large_searches_are_answered_or_refused() {
    on_both_databases(|server| {
        let tags: Vec<Value> = (0..50).map(|key| json!({ "key": format!("t{key}"), "value": "v" })).collect();
        let created = post(server, "runs/create", &json!({ "experiment_id": "0", "tags": tags }));
        let run_id = created["run"]["info"]["run_id"].as_str().unwrap();
        let search = |filter: String, order_by: Vec<String>| {
            let body = json!({ "experiment_ids": ["0"], "filter": filter, "order_by": order_by });
            server.post(&api("runs/search"), &body.to_string())
        };
        let count = |answer: host_tests::Answer| {
            assert_eq!(answer.status, 200, "{}", answer.body);
            answer.json()["runs"].as_array().unwrap().len()
        };
        let clauses = |key: fn(usize) -> String| {
            (0..50).map(|at| format!("tags.{} LIKE 'v%'", key(at))).collect::<Vec<_>>().join(" AND ")
        };
        let metrics = |count: usize| (0..count).map(|key| format!("metrics.m{key}")).collect::<Vec<_>>();
        assert_eq!(count(search(clauses(|_| "t1".to_owned()), metrics(20))), 1);
        assert_eq!(count(search(clauses(|at| format!("t{at}")), metrics(20))), 1);
        assert_eq!(
            count(search("tags.t1 = 'v' AND tags.t1 LIKE '%v'".to_owned(), vec!["tags.t1".to_owned()])),
            1
        );
        // More keys than are joined, compared as the first ones are.
        let nine = clauses(|at| format!("t{}", at % 9));
        let points = json!([{ "key": "m", "value": "NaN", "timestamp": 1 }, { "key": "m2", "value": 2, "timestamp": 1 }]);
        post(server, "runs/log-batch", &json!({ "run_id": run_id, "metrics": points }));
        let nine = nine.split(" AND ").take(9).collect::<Vec<_>>().join(" AND ");
        for (filter, found) in [
            ("metrics.m != 1", 1),
            ("metrics.m > 1", 0),
            ("metrics.m2 = 2", 1),
            ("metrics.m2 != 2", 0),
            ("metrics.none != 2", 0),
            ("params.none != 'x'", 0),
            ("tags.t40 != 'v'", 0),
            ("tags.t40 ILIKE 'V'", 1),
        ] {
            let filter = format!("{nine} AND {filter}");
            assert_eq!(count(search(filter.clone(), metrics(3))), found, "{filter}");
        }
        // A pattern as long as SQLite takes it, and a longer one.
        assert_eq!(count(search(format!("tags.t1 LIKE '{}'", "v".repeat(50_000)), vec![])), 0);
        assert_refused(
            &search(format!("tags.t1 LIKE '{}'", "v".repeat(50_001)), vec![]),
            400,
            "INVALID_PARAMETER_VALUE",
        );
        // As many values as a filter has room for.
        let started = Instant::now();
        let mut ids = vec![format!("'{run_id}'")];
        ids.resize(20_000, "''".to_owned());
        assert_eq!(count(search(format!("run_id IN ({})", ids.join(",")), vec![])), 1);
        assert_eq!(count(search(format!("run_id NOT IN ('{run_id}',)"), vec![])), 0);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
        assert_refused(
            &search(format!("tags.t1 = '{}'", "v".repeat(65_537)), vec![]),
            400,
            "INVALID_PARAMETER_VALUE",
        );
        assert_refused(
            &search(String::new(), vec!["metrics.`a\0`".to_owned()]),
            400,
            "INVALID_PARAMETER_VALUE",
        );
    });
}

#[test]
fn keys_in_single_quotes_are_names() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    post(
        &server,
        "runs/log-metric",
        &json!({ "run_id": run_id, "key": "val loss", "value": 1, "timestamp": 1 }),
    );
    for (filter, count) in
        [("metrics.'val loss' > 0", 1), ("metrics.'val loss' > 2", 0), ("metrics.'other' > 0", 0)]
    {
        let body =
            json!({ "experiment_ids": ["0"], "filter": filter, "order_by": ["metrics.'val loss' DESC"] });
        assert_eq!(post(&server, "runs/search", &body)["runs"].as_array().unwrap().len(), count, "{filter}");
    }
}

#[test]
fn null_is_what_is_not_there_and_words_have_numbers() {
    let host = Host::new();
    let server = host.server([]);
    let created =
        post(&server, "experiments/create", &json!({ "name": "e", "artifact_location": null, "tags": null }));
    let experiment = created["experiment_id"].as_str().unwrap();
    let run = json!({ "experiment_id": experiment, "run_name": null, "user_id": null, "start_time": null, "tags": null });
    let run_id = post(&server, "runs/create", &run)["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    post(&server, "runs/set-tag", &json!({ "run_id": run_id, "run_uuid": null, "key": "a", "value": null }));
    post(&server, "runs/log-parameter", &json!({ "run_id": run_id, "key": "p", "value": null }));
    post(
        &server,
        "runs/log-metric",
        &json!({ "run_id": run_id, "key": "m", "value": 1, "timestamp": 1, "step": null,
        "model_id": null, "dataset_name": null }),
    );
    post(
        &server,
        "runs/log-batch",
        &json!({ "run_id": run_id, "metrics": null, "params": null,
        "tags": [{ "key": "b", "value": null }] }),
    );
    post(
        &server,
        "runs/log-inputs",
        &json!({ "run_id": run_id, "datasets": [{ "tags": null, "dataset":
        { "name": "d", "digest": "x", "source_type": null, "source": null, "schema": null } }], "models": null }),
    );
    let nothing = json!({ "experiment_ids": [experiment], "filter": null, "run_view_type": null, "order_by": null,
        "page_token": null, "max_results": null });
    assert_eq!(post(&server, "runs/search", &nothing)["runs"][0]["info"]["run_id"], run_id);
    let nothing =
        json!({ "filter": null, "view_type": null, "order_by": null, "page_token": null, "max_results": 5 });
    assert_eq!(post(&server, "experiments/search", &nothing)["experiments"].as_array().unwrap().len(), 2);
    post(
        &server,
        "logged-models",
        &json!({ "experiment_id": experiment, "name": null, "model_type": null,
        "source_run_id": null, "params": null, "tags": null }),
    );
    post(
        &server,
        "logged-models/search",
        &json!({ "experiment_ids": [experiment], "filter": null, "datasets": null,
        "order_by": [{ "field_name": "name", "ascending": null, "dataset_name": null }], "page_token": null }),
    );
    post(&server, "registered-models/create", &json!({ "name": "m", "description": null, "tags": null }));
    post(
        &server,
        "model-versions/create",
        &json!({ "name": "m", "source": format!("runs:/{run_id}/model"),
        "run_id": null, "run_link": null, "description": null, "tags": null, "model_id": null }),
    );
    for (path, body) in [
        ("experiments/create", json!({ "name": null })),
        ("runs/log-metric", json!({ "run_id": run_id, "key": "m", "value": null, "timestamp": 1 })),
        ("runs/log-metric", json!({ "run_id": run_id, "key": null, "value": 1, "timestamp": 1 })),
        ("runs/log-batch", json!({ "run_id": null })),
    ] {
        refused(&server, path, &body);
    }
    for (status, word) in [(json!(3), "FINISHED"), (json!("5"), "KILLED"), (json!("RUNNING"), "RUNNING")] {
        let told = post(&server, "runs/update", &json!({ "run_id": run_id, "status": status }));
        assert_eq!(told["run_info"]["status"], word);
    }
    refused(&server, "runs/update", &json!({ "run_id": run_id, "status": 9 }));
    post(&server, "runs/delete", &json!({ "run_id": run_id }));
    for (view, count) in [(1, 0), (2, 1), (3, 1)] {
        let body = json!({ "experiment_ids": [experiment], "run_view_type": view });
        assert_eq!(post(&server, "runs/search", &body)["runs"].as_array().unwrap().len(), count, "{view}");
    }
    post(&server, "experiments/delete", &json!({ "experiment_id": experiment }));
    for (view, count) in [(1, 1), (2, 1), (3, 2)] {
        let found = post(&server, "experiments/search", &json!({ "view_type": view, "max_results": 5 }));
        assert_eq!(found["experiments"].as_array().unwrap().len(), count, "{view}");
        let found = server.get(&api(&format!("experiments/search?max_results=5&view_type={view}"))).json();
        assert_eq!(found["experiments"].as_array().unwrap().len(), count, "{view}");
    }
}

#[test]
fn what_mlflow_refuses_is_refused() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let created = post(&server, "experiments/create", &json!({ "name": "kept" }));
    let experiment = &created["experiment_id"];
    for body in
        [json!({ "experiment_id": experiment }), json!({ "experiment_id": experiment, "new_name": "" })]
    {
        refused(&server, "experiments/update", &body);
    }
    let metric = json!({ "run_id": run_id, "key": "m", "value": 1, "timestamp": 1, "dataset_name": "d" });
    refused(&server, "runs/log-metric", &metric);
    for path in [
        "experiments/get-by-name?experiment_name=".to_owned(),
        format!("metrics/get-history?run_id={run_id}&metric_key="),
        format!("metrics/get-history?run_id={run_id}&metric_key=m&max_results=0"),
        format!("metrics/get-history?run_id={run_id}&metric_key=m&max_results=-1"),
    ] {
        assert_refused(&server.get(&api(&path)), 400, "INVALID_PARAMETER_VALUE");
    }
    let unknown = format!("metrics/get-history?run_id={}&metric_key=m", "0".repeat(32));
    assert_refused(&server.get(&api(&unknown)), 404, "RESOURCE_DOES_NOT_EXIST");
    post(
        &server,
        "registered-models/create",
        &json!({ "name": "described", "description": "d".repeat(6_000) }),
    );
}

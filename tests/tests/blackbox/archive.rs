//! `host export` and `host import`: what is carried elsewhere is what it was.

use std::process::Stdio;

use host_tests::{Postgres, Ran, Server, ran, sha256};
use serde_json::{Value, json};

use crate::place::{Place, artifact, post, put_artifact, start_run};

/// What a project holds, as far as it must be the same everywhere.
#[derive(Debug, PartialEq)]
struct Seen {
    run: Value,
    history: Value,
    of_client: Value,
    file: (u16, String),
    model_file: (u16, String),
    loose: [(u16, String); 2],
    logged: Value,
    version: Value,
    predicted: String,
    datasets: Value,
}

/// Ids of what [`fill`] made.
struct Made {
    trained: String,
    of_client: String,
    logged: String,
}

fn get(server: &Server, path: &str) -> Value {
    let answer = server.get(&format!("/api/2.0/mlflow/{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// Fills a place: datasets with a child, a training, and a run of a client with a logged model that is registered.
fn fill(place: &Place) -> Made {
    place.add_table();
    let more = place.write("more/notes.txt", "notes").replace("/notes.txt", "");
    place.run(&["data", "add", "table", &more, "--parent", "table@1"]).expect_success();
    place.run(&["data", "tag", "table@1", "stable"]).expect_success();
    place.run(&["data", "publish", "table@1"]).expect_success();
    let train =
        ["train", "--data", "table@1", "--name", "digits", "--rounds", "3", "--experiment", "offline"];
    let trained = place.json(&train);
    place.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    place.run(&["model", "tag", "digits", "team=vision"]).expect_success();
    let server = place.server();
    // So that experiments have other numbers here than elsewhere.
    let experiment = post(&server, "experiments/create", &json!({ "name": "of clients" }));
    let experiment = experiment["experiment_id"].as_str().unwrap();
    let (run, path) = start_run(&server, experiment);
    let points: Vec<_> = [json!(0.5), json!("NaN"), json!("-Infinity"), json!(0.1 + 0.2)]
        .into_iter()
        .cycle()
        .take(990)
        .enumerate()
        .map(|(step, value)| json!({ "key": "odd", "value": value, "timestamp": step, "step": step }))
        .collect();
    for _ in 0..2 {
        post(&server, "runs/log-batch", &json!({ "run_id": run, "metrics": points }));
    }
    let more: Vec<_> = (0..900)
        .map(|step| json!({ "key": "odd", "value": step, "timestamp": 7, "step": step + 5_000 }))
        .collect();
    post(
        &server,
        "runs/log-batch",
        &json!({ "run_id": run, "metrics": more,
        "params": [{ "key": "lr", "value": "0.1" }], "tags": [{ "key": "note", "value": "ü\n" }] }),
    );
    put_artifact(&server, &format!("{path}/folder/file.txt"), b"an artifact");
    put_artifact(&server, &format!("{experiment}/of/no/run.txt"), b"loose");
    put_artifact(&server, "elsewhere/file.txt", b"elsewhere");
    let model = json!({ "experiment_id": experiment, "name": "logged", "source_run_id": run });
    let model = post(&server, "logged-models", &model)["model"]["info"].clone();
    let logged = model["model_id"].as_str().unwrap().to_owned();
    let place_of_model = model["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
    put_artifact(&server, &format!("{place_of_model}/MLmodel"), b"flavors: {}");
    post(&server, "registered-models/create", &json!({ "name": "of clients" }));
    let version = json!({ "name": "of clients", "source": format!("models:/{logged}"), "run_id": run });
    post(&server, "model-versions/create", &version);
    Made { trained: trained["run_id"].as_str().unwrap().to_owned(), of_client: run, logged }
}

/// Takes out what another database calls differently: numbers of experiments, and paths that have them.
fn without_numbers(value: &Value, experiment: &str) -> Value {
    let text = value.to_string();
    let text = text.replace(&format!("mlflow-artifacts:/{experiment}/"), "mlflow-artifacts:/N/");
    let text = text.replace(&format!("\"experiment_id\":\"{experiment}\""), "\"experiment_id\":\"N\"");
    serde_json::from_str(&text).unwrap()
}

fn see(place: &Place, made: &Made) -> Seen {
    let server = place.server();
    let run = place.json(&["run", "show", &made.trained]);
    let experiment_of = |run: &Value| run["info"]["experiment_id"].as_str().unwrap().to_owned();
    let of_client = get(&server, &format!("runs/get?run_id={}", made.of_client))["run"].clone();
    let number = experiment_of(&of_client);
    let root = format!("{number}/{}/artifacts", made.of_client);
    let file = artifact(&server, &format!("{root}/folder/file.txt"));
    let loose = [format!("{number}/of/no/run.txt"), "elsewhere/file.txt".to_owned()];
    let loose = loose.map(|path| artifact(&server, &path));
    let uri = get(&server, "model-versions/get-download-uri?name=of%20clients&version=1");
    let uri = uri["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
    let model_file = artifact(&server, &format!("{uri}/MLmodel"));
    let history = get(&server, &format!("metrics/get-history?run_id={}&metric_key=odd", made.of_client));
    let logged = get(&server, &format!("logged-models/{}", made.logged));
    let version = get(&server, "model-versions/get?name=digits&version=1");
    place.run(&["data", "verify", "table@1"]).expect_success();
    place.run(&["data", "verify", "table@2"]).expect_success();
    let predict = ["predict", "--model", "digits@champion", "--data", "table@stable", "--split", "train"];
    Seen {
        run: without_numbers(&run, run["info"]["experiment_id"].as_str().unwrap_or_default()),
        history,
        of_client: without_numbers(&of_client, &number),
        file,
        model_file,
        loose,
        logged: without_numbers(&logged, &number),
        version,
        predicted: place.run(&predict).expect_success(),
        datasets: place.json(&["data", "list"]),
    }
}

/// Exports everything; gives the file.
fn export(place: &Place) -> String {
    std::fs::create_dir_all(place.folder()).unwrap();
    let file = place.folder().join("archive.tar").to_str().unwrap().to_owned();
    place.run(&["export", &file, "--force"]).expect_success();
    file
}

fn added(report: &Value) -> Vec<u64> {
    let kinds = ["runs", "logged_models", "dataset_versions", "model_versions"];
    kinds.iter().map(|kind| report[kind]["added"].as_u64().unwrap()).collect()
}

#[test]
fn what_was_recorded_offline_comes_to_the_team_and_back() {
    let (postgres, offline) = (Postgres::start(), Place::local());
    let team = Place::shared(&postgres, "archive");
    let made = fill(&offline);
    let before = see(&offline, &made);
    assert_eq!(before.file, (200, "an artifact".to_owned()));
    assert_eq!(before.model_file, (200, "flavors: {}".to_owned()));
    assert_eq!(before.loose, [(200, "loose".to_owned()), (200, "elsewhere".to_owned())]);
    // The team has experiments already, so that numbers differ.
    let server = team.server();
    for name in ["first", "second", "of clients"] {
        post(&server, "experiments/create", &json!({ "name": name }));
    }
    let file = export(&offline);
    let imported = team.json(&["import", &file]);
    assert_eq!(added(&imported), [2, 1, 2, 2], "{imported}");
    assert_eq!(imported["experiments"], json!({ "added": 1, "present": 2 }));
    assert_eq!(imported["notes"], json!([]));
    assert_eq!(see(&team, &made), before);
    // Again, nothing is new.
    let again = team.json(&["import", &file]);
    assert_eq!(added(&again), [0, 0, 0, 0], "{again}");
    assert_eq!(again["runs"]["present"], 2);
    assert_eq!(see(&team, &made), before);
    // Nothing is freed of what came.
    assert_eq!(team.json(&["gc", "--older-than", "0s"])["blobs"], 0);
    // And back.
    let home = Place::local();
    let report = home.json(&["import", &export(&team)]);
    assert_eq!(added(&report), [2, 1, 2, 2], "{report}");
    assert_eq!(see(&home, &made), before);
    let served = home.host.serve(["--model", "digits@champion"]);
    let answer = served.post("/serve/digits", r#"{"a": 1, "b": 2}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_part_brings_what_it_needs_and_no_more() {
    let place = Place::local();
    let made = fill(&place);
    let file = place.folder().join("part.tar").to_str().unwrap().to_owned();
    let export = |arguments: &[&str]| place.json(&[&["export", &file, "--force"], arguments].concat());
    let counts = |report: &Value| {
        let kinds = ["runs", "logged_models", "dataset_versions", "model_versions"];
        kinds.map(|kind| report[kind].as_u64().unwrap())
    };
    assert_eq!(counts(&export(&["--data", "table@2"])), [0, 0, 1, 0]);
    let other = Place::local();
    other.json(&["import", &file]);
    other.run(&["data", "verify", "table@2"]).expect_success();
    assert_eq!(counts(&export(&["--data", "table"])), [0, 0, 2, 0]);
    assert_eq!(counts(&export(&["--model", "digits"])), [1, 0, 0, 1]);
    assert_eq!(counts(&export(&["--model", "of clients"])), [1, 1, 0, 1]);
    assert_eq!(counts(&export(&["--experiment", "offline"])), [1, 0, 0, 0]);
    assert_eq!(counts(&export(&["--run", &made.of_client])), [1, 1, 0, 0]);
    assert_eq!(counts(&export(&["--model", "digits", "--data", "table@stable"])), [1, 0, 1, 1]);
    let other = Place::local();
    other.json(&["import", &file]);
    let predict = ["predict", "--model", "digits", "--data", "table@1", "--split", "train"];
    assert_eq!(other.run(&predict).expect_success(), place.run(&predict).expect_success());
    for wrong in [
        ["--data", "none"],
        ["--model", "none"],
        ["--experiment", "none"],
        ["--run", "none"],
        ["--data", "table@9"],
    ] {
        let (code, said) = place.refused(&[&["export", &file, "--force"][..], &wrong].concat());
        assert!(code == 2 && said.contains(wrong[1].trim_start_matches("table@")), "{said}");
    }
}

#[test]
fn what_is_there_is_left_and_numbers_that_are_taken_are_not_given_again() {
    let postgres = Postgres::start();
    is_merged_into(&Place::local());
    is_merged_into(&Place::shared(&postgres, "merged"));
}

fn is_merged_into(other: &Place) {
    let one = Place::local();
    for (place, rounds, note) in [(&one, "1", "one"), (other, "2", "other")] {
        place.add_table();
        place.run(&["data", "add", "d", &place.write("n.txt", note)]).expect_success();
        place.run(&["data", "tag", "d@1", "stable"]).expect_success();
        place.run(&["train", "--data", "table", "--name", "digits", "--rounds", rounds]).expect_success();
        place.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    }
    let file = export(&one);
    let report = other.json(&["import", &file]);
    assert_eq!(added(&report), [1, 0, 1, 1], "{report}");
    let expected = [
        "dataset version d@1 is d@2 here",
        "d@stable is another version here, and stays it",
        "model version digits@1 is digits@2 here",
        "digits@champion is another version here, and stays it",
    ];
    assert_eq!(report["notes"], json!(expected));
    assert_eq!(other.json(&["data", "show", "d@stable"])["version"], 1);
    assert_eq!(other.json(&["model", "show", "digits@champion"])["version"], 1);
    let bundle = |place: &Place, model: &str| place.json(&["model", "show", model])["bundle"].clone();
    assert_eq!(bundle(other, "digits@2"), bundle(&one, "digits@1"));
    let said = other.run(&["import", &file]);
    assert!(said.stdout.contains("imported 0 runs; 1 were there already"), "{}", said.stdout);
    // A backup brings back what was deleted.
    one.run(&["data", "delete", "d@1"]).expect_success();
    one.run(&["model", "delete", "digits"]).expect_success();
    let report = one.json(&["import", &file]);
    assert_eq!(added(&report), [0, 0, 1, 1], "{report}");
    assert_eq!(one.json(&["data", "show", "d@stable"])["version"], 1);
    assert_eq!(one.json(&["model", "show", "digits@champion"])["version"], 1);
}

#[test]
fn a_file_that_is_there_is_kept_and_a_pipe_is_enough() {
    let place = Place::local();
    let file = place.write("there.tar", "precious");
    let (code, said) = place.refused(&["export", &file]);
    assert!(code == 2 && said.contains("is there already"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    place.run(&["data", "add", "d", &place.write("a.txt", "a")]).expect_success();
    let exported = place.command().args(["export", "-"]).output().unwrap();
    assert!(exported.status.success());
    let other = Place::local();
    std::fs::create_dir_all(other.folder()).unwrap();
    import_bytes(&other, &exported.stdout).expect_success();
    other.run(&["data", "verify", "d"]).expect_success();
    let nowhere = place.folder().join("none/x.tar");
    let (code, said) = place.refused(&["export", nowhere.to_str().unwrap()]);
    assert!(code == 2 && said.contains("x.tar"), "{said}");
    let (code, _) = place.refused(&["import", nowhere.to_str().unwrap()]);
    assert_eq!(code, 2);
}

fn import_bytes(place: &Place, bytes: &[u8]) -> Ran {
    let mut import = place.command();
    let import =
        import.args(["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = import.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that has seen enough does not read on.
    let _ = std::io::Write::write_all(&mut stdin, bytes);
    drop(stdin);
    ran(child.wait_with_output().unwrap())
}

/// A file of a tar archive.
fn tar_file(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend(content);
    header.resize(header.len().div_ceil(512) * 512, 0);
    header
}

/// An archive as `host export` would write it of this metadata and these blobs.
fn archive(lines: &[Value], blobs: &[&[u8]]) -> Vec<u8> {
    let metadata: String = lines.iter().map(|line| format!("{line}\n")).collect();
    archive_of(metadata.as_bytes(), blobs)
}

fn archive_of(metadata: &[u8], blobs: &[&[u8]]) -> Vec<u8> {
    let bytes: usize = blobs.iter().map(|blob| blob.len()).sum();
    let header = json!({ "format": 1, "created_at": 1, "host": "0", "blobs": blobs.len(), "bytes": bytes,
        "metadata": format!("sha256:{}", sha256(metadata)) });
    let mut files = tar_file("archive.json", b'0', header.to_string().as_bytes());
    files.extend(tar_file("metadata.jsonl", b'0', metadata));
    for blob in blobs {
        files.extend(tar_file(&format!("blobs/sha256/{}", sha256(blob)), b'0', blob));
    }
    files.extend([0; 1024]);
    files
}

fn experiment() -> Value {
    json!({ "experiment": { "id": "7", "name": "x", "artifact_location": "mlflow-artifacts:/7", "created_at": 1,
        "updated_at": 1, "deleted_at": null, "tags": [] } })
}

fn run(id: &str) -> Value {
    json!({ "run": { "run_id": id, "experiment": "x", "name": "r", "user_id": "", "status": "FINISHED",
        "started_at": 1, "ended_at": 2, "deleted_at": null, "artifacts": "7/r/artifacts", "params": [], "tags": [],
        "datasets": [], "model_inputs": [], "model_outputs": [] } })
}

fn files(root: &str, path: &str, content: &[u8]) -> Value {
    let digest = format!("sha256:{}", sha256(content));
    json!({ "artifacts": { "root": root, "files": [{ "path": path, "digest": digest, "size": content.len() }] } })
}

fn version(location: &str, number: i64) -> Value {
    json!({ "model_version": { "model": "m", "number": number, "description": "", "source": location,
        "location": location, "run_id": "", "run_link": "", "model_id": "", "bundle": null, "status": "READY",
        "status_message": "", "stage": "None", "user_id": "", "created_at": 1, "updated_at": 1, "tags": [],
        "aliases": [] } })
}

#[test]
fn a_hostile_archive_is_refused_in_one_sentence_and_leaves_nothing() {
    const ID: &str = "0123456789abcdef0123456789abcdef";
    let place = Place::local();
    let good = archive(&[experiment(), run(ID), files("7/r/artifacts", "a", b"abc")], &[b"abc"]);
    let model =
        json!({ "model": { "name": "m", "description": "", "created_at": 1, "updated_at": 1, "tags": [] } });
    let entry = |name: &str, kind: u8| [tar_file(name, kind, b""), good.clone()].concat();
    let before_end = |more: &[u8]| [&good[..good.len() - 1024], more, &[0; 1024][..]].concat();
    let mut damaged = good.clone();
    let blob = good.len() - 1024 - 512;
    damaged[blob] ^= 1;
    let mut lying = files("7/r/artifacts", "a", b"abc");
    lying["artifacts"]["files"][0]["size"] = 4.into();
    let dataset = |digest: &str| {
        json!({ "dataset": { "name": "d", "digest": format!("sha256:{digest}"), "number": 1,
        "created_at": 1, "published_at": null, "tags": [] } })
    };
    let manifest = |path: &str| {
        let file = json!({ "path": path, "digest": format!("sha256:{}", sha256(b"abc")), "size": 3, "format": "plain" });
        json!({ "format": 2, "name": "d", "files": [file], "schema": [], "splits": [] }).to_string()
    };
    let with_manifest = |path: &str, blobs: &[&[u8]]| {
        let manifest = manifest(path);
        let line = dataset(&sha256(manifest.as_bytes()));
        archive(&[line], &[&[manifest.as_bytes()], blobs].concat())
    };
    let escaping = with_manifest("../../etc/passwd", &[b"abc"]);
    let lacking = with_manifest("a", &[]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "cut off"),
        ("noise", vec![b'x'; 5_000], "expected a tar file"),
        ("cut", good[..good.len() - 1_600].to_vec(), "cut off"),
        ("cut at a file", good[..good.len() - 1024].to_vec(), "cut off"),
        ("cut at its end", good[..good.len() - 1].to_vec(), "cut off"),
        ("more after the end", [good.as_slice(), b"more"].concat(), "nothing after its end"),
        ("changed blob", damaged, "is damaged: its bytes have digest"),
        ("link", entry("archive.json", b'2'), "found a link"),
        ("hard link", entry("archive.json", b'1'), "found a link"),
        ("device", entry("archive.json", b'3'), "found a device"),
        ("pipe", entry("archive.json", b'6'), "found a device"),
        ("folder", entry("x", b'5'), "found a folder"),
        ("long name", entry("././@LongLink", b'L'), "found an extension"),
        ("another first", entry("x", b'0'), "expected `archive.json`"),
        ("absolute", before_end(&tar_file("/etc/passwd", b'0', b"x")), "found `/etc/passwd`"),
        ("parent", before_end(&tar_file("blobs/sha256/../../x", b'0', b"x")), "found `blobs/sha256/../../x`"),
        (
            "twice",
            before_end(&tar_file(&format!("blobs/sha256/{}", sha256(b"abc")), b'0', b"abc")),
            "in it twice",
        ),
        (
            "one more blob",
            before_end(&tar_file(&format!("blobs/sha256/{}", sha256(b"x")), b'0', b"x")),
            "expected 1 blobs",
        ),
        ("newer", tar_file("archive.json", b'0', br#"{"format":2,"x":1}"#), "expected format 1, found 2"),
        ("no JSON", tar_file("archive.json", b'0', b"{"), "`archive.json`"),
        ("huge header", tar_file("archive.json", b'0', &vec![b' '; 100_000]), "has 100000 bytes"),
        ("no line", archive_of(b"{\n", &[]), "a line of `metadata.jsonl` cannot be read"),
        ("deep", archive_of(&vec![b'['; 1 << 20], &[]), "cannot be read"),
        ("unknown kind", archive(&[json!({ "user": {} })], &[]), "unknown variant `user`"),
        (
            "missing blob",
            archive(&[experiment(), run(ID), files("7/r/artifacts", "a", b"abc")], &[]),
            "is not in it",
        ),
        ("missing file of a dataset", lacking, "is not in it"),
        ("a dataset's path", escaping, "expected a relative path"),
        ("no manifest", archive(&[dataset(&sha256(b"abc"))], &[b"abc"]), "is not a dataset manifest"),
        ("run twice", archive(&[experiment(), run(ID), run(ID)], &[]), "is in it twice"),
        ("no experiment", archive(&[run(ID)], &[]), "experiment `x` is named before it is told"),
        ("id", archive(&[experiment(), run("../x")], &[]), "is no id of a run"),
        (
            "path",
            archive(&[experiment(), run(ID), files("7/r/artifacts", "../a", b"a")], &[b"a"]),
            "Invalid artifact path",
        ),
        ("root", archive(&[experiment(), files("8", "a", b"a")], &[b"a"]), "named before it is told"),
        (
            "size",
            archive(&[experiment(), run(ID), lying], &[b"abc"]),
            "an artifact has 4 bytes, and its blob",
        ),
        (
            "number",
            archive(&[model.clone(), version("mlflow-artifacts:/a", i64::MAX)], &[]),
            "is no number of a version",
        ),
        (
            "local location",
            archive(&[model.clone(), version("file:///etc", 1)], &[]),
            "Invalid model version source",
        ),
        ("no model", archive(&[version("mlflow-artifacts:/a", 1)], &[]), "not found"),
    ];
    for (name, bytes, expected) in cases {
        let refused = import_bytes(&place, &bytes);
        assert_eq!(refused.code, 2, "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{name}: {}", refused.stderr);
        assert!(
            refused.stderr.trim().lines().count() == 1 && refused.stderr.len() < 600,
            "{name}: {}",
            refused.stderr
        );
        assert_eq!(place.json(&["run", "list"]), json!([]), "{name}");
        assert_eq!(place.json(&["model", "list"]), json!([]), "{name}");
        assert_eq!(place.json(&["data", "list"]), json!([]), "{name}");
    }
    import_bytes(&place, &good).expect_success();
    assert_eq!(place.json(&["run", "list"]).as_array().unwrap().len(), 1);
    // What was refused late left blobs without names, and nothing else.
    assert_eq!(place.json(&["gc", "--older-than", "0s"])["named_blobs"], 1);
    let temporary = std::fs::read_dir(place.host.state_dir().join("temporary")).unwrap().count();
    assert_eq!(temporary, 0);
}

#[test]
fn a_killed_import_leaves_all_or_nothing() {
    let (from, to) = (Place::local(), Place::local());
    for number in 0..300 {
        from.write(&format!("tree/{number}"), &format!("{number}").repeat(5_000));
    }
    from.run(&["data", "add", "d", from.folder().join("tree").to_str().unwrap()]).expect_success();
    from.add_table();
    from.run(&["train", "--data", "table", "--name", "digits", "--rounds", "2"]).expect_success();
    let file = export(&from);
    for wait_ms in [5, 15, 30, 60, 120] {
        let mut child = to.command().args(["import", &file]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let counts = (
            to.json(&["data", "list"]).as_array().unwrap().len(),
            to.json(&["run", "list"]).as_array().unwrap().len(),
            to.json(&["model", "list"]).as_array().unwrap().len(),
        );
        assert!(counts == (0, 0, 0) || counts == (2, 1, 1), "{counts:?}");
    }
    to.run(&["import", &file]).expect_success();
    to.run(&["data", "verify", "d"]).expect_success();
    assert_eq!(to.json(&["model", "list"])[0]["name"], "digits");
}

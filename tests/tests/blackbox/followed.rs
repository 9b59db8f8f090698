//! Files and folders that `host serve` follows while they change.

use std::time::{Duration, Instant};

use host_tests::{Host, Server, plugin};
use serde_json::{Value, json};

use super::endpoints::{ROW, ask, two_versions, wait_for, write};

#[test]
fn an_edited_file_is_taken_up_and_a_bad_one_changes_nothing() {
    let registry = two_versions();
    let host = &registry.host;
    let file = write(host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    let server = host.serve(["--endpoints", &file]);
    let one = || ask(&server, "/serve/one", &[]).1;
    assert_eq!(one(), "digits@1");
    write(host, "version: 1\nendpoints: { one: { model: digits@2 }, two: { model: digits@1 } }\n");
    wait_for("the file is not followed", || one() == "digits@2");
    wait_for("a new endpoint is not served", || server.post("/serve/two", ROW).status == 200);
    write(host, "version: 1\nendpoints: { one: { model: digits@1 ");
    write(host, "version: 1\nendpoints: { one: { modell: digits@1 } }\n");
    write(host, "version: 1\nendpoints: { one: { model: digits@9 }, two: { model: digits@2 } }\n");
    wait_for("others are not served", || ask(&server, "/serve/two", &[]).1 == "digits@2");
    assert_eq!(one(), "digits@2", "there is no version 9");
    write(host, "version: 1\nendpoints: { two: { model: digits@2 } }\n");
    wait_for("an endpoint is not removed", || server.post("/serve/one", ROW).status == 404);
    assert_eq!(server.post("/serve/two", ROW).status, 200);
    let told = server.stop().stderr;
    assert!(told.contains("endpoint `one`: model `digits` has no version 9"), "{told}");
    assert!(told.contains("endpoint `one`: removed"), "{told}");
}

#[test]
fn a_file_that_is_not_followed_is_told_over_the_network_until_it_is() {
    let registry = two_versions();
    let host = &registry.host;
    let text = "version: 1\nendpoints: { one: { model: digits@1 } }\n";
    let file = write(host, text);
    let server = host.serve(["--endpoints", &file]);
    let reason = || server.get("/serve").json()["file_failed"].clone();
    let gauge = |value: u8| format!("host_endpoint_file_failed {value}\n");
    assert_eq!(reason(), Value::Null);
    assert!(server.get("/metrics").body.contains(&gauge(0)));
    write(host, "version: 3\nendpoints: { one: { model: digits@2 } }\n");
    wait_for("a wrong file is not told", || reason() != Value::Null);
    let told = reason();
    assert!(told.as_str().unwrap().contains("endpoints.yaml`: `version` is 3: expected 1"), "{told}");
    assert!(server.get("/metrics").body.contains(&gauge(1)));
    assert_eq!(ask(&server, "/serve/one", &[]).1, "digits@1");
    write(host, text);
    wait_for("a file that is well again is told", || reason() == Value::Null);
    assert!(server.get("/metrics").body.contains(&gauge(0)));
    std::fs::remove_file(&file).unwrap();
    wait_for("a file that is gone is not told", || reason() != Value::Null);
    write(host, "version: 1\nendpoints: { one: { model: digits@2 } }\n");
    wait_for("a file that is there again is not followed", || {
        ask(&server, "/serve/one", &[]).1 == "digits@2"
    });
    assert_eq!(reason(), Value::Null);
    let told = server.stop().stderr;
    assert_eq!(told.matches("the endpoint file is followed again").count(), 2, "{told}");
}

#[test]
fn half_a_file_takes_no_endpoint_away_and_no_request_keeps_it_from_being_read() {
    let registry = two_versions();
    let whole = "version: 1\nendpoints:\n  one: { model: digits@1 }\n  two: { model: digits@2 }\n";
    let file = write(&registry.host, whole);
    let server = registry.host.serve(["--endpoints", &file, "--model-control", "--refresh", "3"]);
    // No two looks find the same half of it, as long as this thread is not held up for the seconds between them.
    let half = &whole[..whole.find("  two").unwrap()];
    let until = Instant::now() + Duration::from_secs(10);
    for number in 0.. {
        write(&registry.host, &format!("{half}# {number}\n"));
        assert_eq!(ask(&server, "/serve/two", &[]).0, 200);
        if Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    write(&registry.host, &format!("{half}  new: {{ model: digits@2 }}\n"));
    wait_for("the file is not read while clients ask for something", || {
        assert_eq!(server.post("/v2/repository/models/digits/load", "").status, 200);
        ask(&server, "/serve/new", &[]).0 == 200 && ask(&server, "/serve/two", &[]).0 == 404
    });
    let told = server.stop().stderr;
    assert_eq!(told.matches("endpoint `two`: removed").count(), 1, "{told}");
}

#[test]
fn a_file_that_is_replaced_by_what_never_ends_holds_up_nobody() {
    let registry = two_versions();
    let file = write(&registry.host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    let server = registry.host.serve(["--endpoints", &file]);
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(made.success());
    wait_for("what is no file is not told", || server.get("/serve").json()["file_failed"] != Value::Null);
    assert_eq!(ask(&server, "/serve/one", &[]).0, 200);
    let ran = server.stop();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        ran.stderr.matches("is no file any more: the endpoints stay as they are").count(),
        1,
        "{}",
        ran.stderr
    );
}

#[test]
fn a_hangup_makes_it_look_and_go_on_in_a_new_log() {
    let registry = two_versions();
    let host = &registry.host;
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let text = "version: 1\nendpoints: { one: { model: digits@champion }, two: { model: digits@1 } }\n";
    let file = write(host, text);
    let log = host.state_dir().join("access.jsonl");
    let options = ["--refresh", "0", "--access-log", log.to_str().unwrap()];
    let server = host.serve(["--endpoints", &file].into_iter().chain(options));
    assert_eq!(ask(&server, "/serve/one", &[]).1, "digits@1");
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    std::fs::rename(&log, host.state_dir().join("access.jsonl.1")).unwrap();
    server.send_signal("HUP");
    wait_for("the registry is not looked at", || ask(&server, "/serve/one", &[]).1 == "digits@2");
    wait_for("there is no new log", || log.exists());
    // Who asks for it has written the file as it should be, also where it lacks endpoints.
    write(host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    server.send_signal("HUP");
    wait_for("the file is not looked at", || server.post("/serve/two", ROW).status == 404);
    assert_eq!(server.stop().code, 0);
    // Where nothing is to be looked at it goes on.
    let server = Host::trained().serve(["--model", "mnist", "--plugin", &plugin("mnist-pixels")]);
    server.send_signal("HUP");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.stop().code, 0);
}

#[test]
fn a_folder_that_vanishes_is_served_on_and_told_once() {
    let registry = two_versions();
    let host = &registry.host;
    let folder = host.state_dir().join("exported");
    registry.run(&["model", "export", "digits@1", folder.to_str().unwrap()]).expect_success();
    let file = write(host, "version: 1\nendpoints: { one: { model: ./exported } }\n");
    let server = host.serve(["--endpoints", &file]);
    let before = ask(&server, "/serve/one", &[]);
    assert_eq!(before.0, 200);
    std::fs::remove_dir_all(&folder).unwrap();
    // A change that is taken up shows that the server has looked since.
    write(host, "version: 1\nendpoints: { one: { model: ./exported }, two: { model: digits@2 } }\n");
    wait_for("another endpoint is not served", || server.post("/serve/two", ROW).status == 200);
    assert_eq!(ask(&server, "/serve/one", &[]), before);
    let told = server.stop().stderr;
    assert_eq!(told.matches("endpoint `one`").count(), 1, "{told}");
}

#[test]
fn a_folder_that_is_not_there_harms_no_other_endpoint() {
    let registry = two_versions();
    let host = &registry.host;
    std::fs::create_dir_all(host.state_dir().join("odd/bundle.json")).unwrap();
    let text = "version: 1\nendpoints: { one: { model: digits@1 }, three: { model: ./odd }, two: { model: ./late } }\n";
    let file = write(host, text);
    let server = host.serve(["--endpoints", &file]);
    assert_eq!(ask(&server, "/serve/one", &[]).1, "digits@1");
    write(host, "version: 1\nendpoints: { one: { model: digits@2 }, two: { model: ./late } }\n");
    wait_for("the file is not followed", || ask(&server, "/serve/one", &[]).1 == "digits@2");
    let late = host.state_dir().join("late");
    // That it is not there is told to who asks.
    let reason = format!("there is no bundle in `{}`: expected a folder with `bundle.json`", late.display());
    let index = server.post("/v2/repository/index", "").json();
    let unavailable = json!({ "name": "two", "version": "", "state": "UNAVAILABLE", "reason": reason });
    assert_eq!(index.as_array().unwrap().last(), Some(&unavailable), "{index}");
    assert_eq!(server.get("/serve").json()["failed"], json!([{ "name": "two", "reason": reason }]));
    let refused = server.post("/serve/two", ROW);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("not_ready")));
    for path in ["/v2/models/two", "/v2/models/two/ready"] {
        assert_eq!(server.get(path).status, 503, "{path}");
    }
    assert_eq!(server.get("/v2/models/nobody/ready").status, 404);
    let failed = "host_endpoint_failed{endpoint=\"two\"} 1";
    assert!(server.get("/metrics").body.contains(failed));
    registry.run(&["model", "export", "digits@1", late.to_str().unwrap()]).expect_success();
    wait_for("a folder that has come is not served", || server.post("/serve/two", ROW).status == 200);
    wait_for("it is told for ever", || !server.get("/metrics").body.contains("host_endpoint_failed"));
    assert_eq!(server.get("/serve").json()["failed"], json!([]));
    let told = server.stop().stderr;
    let reason = format!("endpoint `two`: there is no bundle in `{}`", late.display());
    assert_eq!(told.matches(&reason).count(), 1, "{told}");
    let reason = "odd/bundle.json`: expected a plain file, found a link, folder or device";
    assert!(told.contains(reason), "the cause is told too: {told}");
}

#[test]
fn a_folder_is_told_without_needless_dots() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let host = &registry.host;
    let folder = host.state_dir().join("exported");
    registry.run(&["model", "export", "digits@1", folder.to_str().unwrap()]).expect_success();
    write(host, "version: 1\nendpoints: { one: { model: ./exported }, two: { model: digits@champion } }\n");
    let mut command = host.command();
    command.current_dir(host.state_dir());
    let server = Server::start_serve(command, ["--endpoints", "endpoints.yaml"]);
    let told = server.get("/serve").json()["endpoints"][0]["versions"][0].clone();
    assert_eq!(told["asked_for"], "./exported");
    std::fs::write(folder.join("bundle.json"), "{").unwrap();
    // When this is followed twice, the folder has been looked at since.
    for version in ["digits@2", "digits@1"] {
        registry.run(&["model", "alias", version, "champion"]).expect_success();
        wait_for("the alias is not followed", || ask(&server, "/serve/two", &[]).1 == version);
    }
    let told = server.stop().stderr;
    assert!(told.contains("endpoint `one`: ") && told.contains("`./exported/bundle.json`"), "{told}");
}

#[test]
fn a_folder_that_is_called_like_a_model_does_not_take_its_place() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    let host = &registry.host;
    for called in ["digits@champion", "digits", "other"] {
        let folder = host.state_dir().join(called);
        registry.run(&["model", "export", "digits@1", folder.to_str().unwrap()]).expect_success();
    }
    let text = "version: 1\nendpoints: { one: { model: digits@champion }, two: { model: digits } }\n";
    let server = host.serve(["--endpoints", &write(host, text)]);
    for path in ["/serve/one", "/serve/two"] {
        assert_eq!(ask(&server, path, &[]).1, "digits@2", "{path}");
    }
    let told = server.stop().stderr;
    let warning =
        "`digits@champion` is a model's name: the bundle folder that is called so is `./digits@champion`";
    assert!(told.contains(warning), "{told}");
    let shown = |model: &str| {
        let mut command = host.command();
        command.current_dir(host.state_dir()).args(["model", "show", model]);
        let ran = command.output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    assert_eq!(shown("./other").0, Some(0));
    let (code, told) = shown("other");
    assert!(code == Some(2) && told.contains("the bundle folder that is called so is `./other`"), "{told}");
}

#[test]
fn a_bundle_that_takes_the_place_of_another_is_seen_whatever_its_age() {
    let registry = two_versions();
    let folder = registry.host.state_dir().join("bundle");
    let place = folder.to_str().unwrap();
    let export = |version: &str| {
        let staged = registry.host.state_dir().join(version);
        registry.run(&["model", "export", version, staged.to_str().unwrap()]).expect_success();
        // As archives have them.
        let manifest = std::fs::File::options().append(true).open(staged.join("bundle.json")).unwrap();
        manifest.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(staged, &folder).unwrap();
    };
    export("digits@1");
    let server = registry.host.serve(["--model", place, "--endpoint", "one"]);
    let first = ask(&server, "/serve/one", &[]).2;
    export("digits@2");
    wait_for("the bundle that is there now is not served", || ask(&server, "/serve/one", &[]).2 != first);
}

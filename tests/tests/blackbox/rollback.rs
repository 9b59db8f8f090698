//! `host endpoint rollback`: the version before answers again, and who was too late is told.

use std::process::{Child, Stdio};

use host_tests::{Host, Postgres, Ran, guest, ran};
use serde_json::{Value, json};

use super::endpoints::{ask, two_versions, wait_for, write};
use super::registry::Registry;

fn rollback(registry: &Registry, url: &str, arguments: &[&str]) -> Ran {
    registry.run(&[&["endpoint", "rollback", "--url", url][..], arguments].concat())
}

#[test]
fn an_endpoint_is_rolled_back_and_forth() {
    let registry = two_versions();
    for version in ["digits@1", "digits@2"] {
        registry.run(&["model", "alias", version, "champion"]).expect_success();
    }
    let bundle = registry.run(&["model", "show", "digits@1", "--json"]).json()["bundle"].clone();
    let bundle = format!("bundle={}", bundle.as_str().unwrap());
    let server =
        registry.host.serve(["--model", "digits@champion", "--model", "fixed=digits@1", "--model", &bundle]);
    let url = format!("http://{}", server.address());
    let rollback = |arguments: &[&str]| rollback(&registry, &url, arguments);
    assert_eq!(ask(&server, "/serve/digits", &[]).1, "digits@2");
    assert_eq!(rollback(&["digits"]).expect_success().trim(), "digits: digits@1 answers");
    assert_eq!(ask(&server, "/serve/digits", &[]).1, "digits@1");
    let told = rollback(&["digits", "--json"]).json();
    assert_eq!((&told["version"], &told["was"], &told["alias"]), (&json!(2), &json!(1), &json!("champion")));
    rollback(&["digits", "--to", "1"]).expect_success();
    let changes = registry.run(&["model", "history", "digits", "--alias", "champion", "--json"]).json();
    let versions: Vec<&Value> =
        changes["changes"].as_array().unwrap().iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, [1, 2, 1, 2, 1]);
    let refused = |arguments: &[&str], reason: &str| {
        let ran = rollback(arguments);
        assert!(ran.code == 2 && ran.stderr.contains(reason), "{arguments:?}: {} {}", ran.code, ran.stderr);
    };
    refused(&["digits", "--to", "x"], "expected a version's number, such as `3`");
    refused(&["digits", "--to", "1"], "is version 1 already");
    refused(&["digits", "--to", "9"], "model `digits` has no version 9: its highest is 2");
    refused(
        &["digits", "--model", "digits"],
        "`digits` is not asked to serve `digits`, but `digits@champion`",
    );
    refused(&["fixed"], "`fixed` is asked to serve exactly `digits@1`: name another version");
    refused(&["fixed"], "or an alias that can be moved, such as `digits@champion`");
    refused(&["bundle"], "`bundle` is asked to serve exactly `sha256:");
    refused(&["nothing"], "there is no endpoint `nothing`");
    let why = "host.yanked=learned from wrong labels";
    registry.run(&["model", "tag", "digits@2", why]).expect_success();
    refused(&["digits"], "has meant no other version that is still there, has a bundle and is not yanked");
    let yanked = "version 2 of model `digits` is yanked (`host.yanked` is `learned from wrong labels`): if it should answer \
                  again, take the mark away first by `host model tag digits@2 host.yanked --delete`";
    refused(&["digits", "--to", "2"], yanked);
    assert_eq!(ask(&server, "/serve/digits", &[]).1, "digits@1");
    let file = guest("picky");
    let replaced =
        registry.host.serve(["--model", "digits@1", "--plugin", &file, "--config", "picky={\"work\":0}"]);
    let replaced_url = format!("http://{}", replaced.address());
    let told = registry.run(&["endpoint", "rollback", "digits", "--url", &replaced_url]);
    let expected =
        "`digits` is served with other transformers than its bundle's, and follows no model: change";
    assert!(told.code == 2 && told.stderr.contains(expected), "{}", told.stderr);
    drop(server);
    let nobody = registry.run(&["endpoint", "list", "--url", &url]);
    assert!(
        nobody.code != 0 && nobody.stderr.contains("no answer of a `host serve` at"),
        "{}",
        nobody.stderr
    );
}

fn the_newest_version_is_rolled_back(registry: &Registry) {
    for rounds in ["1", "9", "5"] {
        registry.train(rounds);
    }
    let server = registry.host.serve(["--model", "digits"].into_iter().chain(registry.database()));
    let url = format!("http://{}", server.address());
    let rollback = |arguments: &[&str]| rollback(registry, &url, arguments);
    let answering = || ask(&server, "/serve/digits", &[]).1;
    assert_eq!(answering(), "digits@3");
    let told = rollback(&["digits"]);
    assert!(told.stderr.contains("digits: version 2, was 3"), "{}", told.stderr);
    assert!(told.stderr.contains("`host model tag digits@3 host.yanked --delete`"), "{}", told.stderr);
    assert_eq!(told.expect_success(), "digits: digits@2 answers\n");
    assert_eq!(answering(), "digits@2");
    let told = rollback(&["digits", "--json"]).json();
    let further = json!({ "endpoint": "digits", "model": "digits", "alias": null, "version": 1, "was": 2 });
    assert_eq!((told, answering()), (further, "digits@1".to_owned()));
    let refused = |arguments: &[&str], reason: &str| {
        let ran = rollback(arguments);
        assert!(ran.code == 2 && ran.stderr.contains(reason), "{arguments:?}: {} {}", ran.code, ran.stderr);
    };
    refused(&["digits"], "model `digits` has no version before 1 that has a bundle and is not yanked");
    refused(&["digits", "--to", "1"], "`digits` is version 1 already");
    refused(&["digits", "--to", "9"], "model `digits` has no version 9: its highest is 3");

    // What is yanked is shown, and still there for those who name it.
    let listed = registry.run(&["model", "list", "--json"]).json()[0]["versions"].clone();
    let tags: Vec<&Value> = listed.as_array().unwrap().iter().map(|version| &version["tags"]).collect();
    let yanked = json!({ "host.yanked": "rolled back at endpoint digits" });
    assert_eq!(tags, [&json!({}), &yanked, &yanked]);
    let table = registry.run(&["model", "list"]).expect_success();
    let marked: Vec<bool> = table.lines().skip(1).map(|line| line.ends_with("yanked")).collect();
    assert_eq!(marked, [true, true, false], "{table}");
    let shown = registry.run(&["model", "show", "digits@3"]).expect_success();
    assert!(shown.contains("host.yanked = rolled back at endpoint digits"), "{shown}");
    assert_eq!(registry.run(&["model", "show", "digits", "--json"]).json()["version"], 1);

    let yanked = "version 2 of model `digits` is yanked (`host.yanked` is `rolled back at endpoint digits`)";
    refused(&["digits", "--to", "2"], yanked);
    refused(&["digits", "--to", "2"], "`host model tag digits@2 host.yanked --delete`");
    for version in ["digits@2", "digits@3"] {
        registry.run(&["model", "tag", version, "host.yanked", "--delete"]).expect_success();
        wait_for("the mark is not taken away", || answering() == version);
    }
    assert_eq!(rollback(&["digits", "--to", "2"]).expect_success(), "digits: digits@2 answers\n");
    // Nothing new was registered, and what was there is not the newest.
    for again in [
        &["train", "--data", "t", "--name", "digits", "--rounds", "5"][..],
        &["model", "register", "digits@3", "digits"],
    ] {
        let told = registry.run(again).stderr;
        assert!(
            told.contains("digits@3 is yanked, and is not the newest: `host model tag digits@3"),
            "{told}"
        );
    }
    registry.train("3");
    wait_for("a version that was registered later is not served", || answering() == "digits@4");

    let of_model = registry.refused(&["model", "tag", "digits", "host.yanked=true"]);
    assert_eq!(of_model, "error: `host.yanked` is a tag of versions: name one, such as `digits@4`");
    for version in ["digits@1", "digits@2", "digits@4"] {
        registry.run(&["model", "tag", version, "host.yanked=learned from wrong labels"]).expect_success();
    }
    refused(&["digits"], "every version of model `digits` is yanked: name one, such as `digits@4`");
    let none = registry.refused(&["serve", "--port", "0", "--model", "digits"]);
    assert!(none.contains("`host model tag digits@4 host.yanked --delete`"), "{none}");
    assert_eq!(answering(), "digits@4");
    // As MLflow's client for Python writes what is not so.
    registry.run(&["model", "tag", "digits@2", "host.yanked=False"]).expect_success();
    wait_for("the mark is not taken away", || answering() == "digits@2");
}

#[test]
fn the_newest_version_is_rolled_back_on_sqlite() {
    the_newest_version_is_rolled_back(&Registry::new(None));
}

#[test]
fn the_newest_version_is_rolled_back_on_postgresql() {
    let postgres = Postgres::start();
    the_newest_version_is_rolled_back(&Registry::new(Some(&postgres)));
}

/// Starts a rollback of which nobody waits for the end.
fn rolling_back(registry: &Registry, url: &str, arguments: &[&str]) -> Child {
    let mut command = registry.host.command();
    command.args(["endpoint", "rollback", "--url", url]).args(arguments).args(registry.database());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn of_rollbacks_at_once_one_is_a_step_and_the_others_are_told(registry: &Registry) {
    for (rounds, version) in [("1", "digits@1"), ("9", "digits@2"), ("5", "digits@3"), ("3", "digits@4")] {
        registry.train(rounds);
        registry.run(&["model", "alias", version, "champion"]).expect_success();
    }
    // It never follows, as one that has not looked yet, or cannot load what it should.
    let arguments = ["--refresh", "0", "--model", "alias=digits@champion", "--model", "newest=digits"];
    let server = registry.host.serve(arguments.into_iter().chain(registry.database()));
    let url = format!("http://{}", server.address());
    let meant =
        |reference: &str| registry.run(&["model", "show", reference, "--json"]).json()["version"].clone();
    for (endpoint, reference) in [("alias", "digits@champion"), ("newest", "digits")] {
        let at_once = [(); 3].map(|()| rolling_back(registry, &url, &[endpoint, "--wait", "0"]));
        let told = at_once.map(|child| ran(child.wait_with_output().unwrap()).stderr);
        let (steps, others): (Vec<_>, Vec<_>) =
            told.iter().partition(|told| told.contains(&format!("{reference}: version 3, was 4")));
        assert_eq!((steps.len(), meant(reference)), (1, json!(3)), "{told:?}");
        let timed_out = "is version 3 there, but the server does not answer with it after 0 s: it could not load that version \
                         (see the server's standard error)";
        assert!(steps[0].contains(timed_out), "{}", steps[0]);
        let ahead = format!("`{reference}` means version 3 already, and the server still answers with 4");
        for told in others {
            assert!(
                told.contains("was changed by somebody else meanwhile") || told.contains(&ahead),
                "{told}"
            );
        }
        // Nor is it a moment later, until somebody says what should answer.
        let late = rollback(registry, &url, &[endpoint]);
        assert!(late.code == 2 && late.stderr.contains(&ahead), "{}", late.stderr);
        assert!(late.stderr.trim().ends_with("name by `--to` what should answer"), "{}", late.stderr);
        assert_eq!(meant(reference), 3);
        let named = rollback(registry, &url, &[endpoint, "--to", "2", "--wait", "0"]);
        assert!(named.stderr.contains(&format!("{reference}: version 2, was 3")), "{}", named.stderr);
        assert_eq!(meant(reference), 2);
    }
    registry.run(&["model", "tag", "digits@4", "host.yanked", "--delete"]).expect_success();
    registry.train("7");
    registry.run(&["model", "alias", "digits@5", "champion"]).expect_success();
    for (endpoint, reference) in [("alias", "digits@champion"), ("newest", "digits")] {
        let told = rollback(registry, &url, &[endpoint]);
        let ahead = format!("`{reference}` means version 5 already, and the server still answers with 4");
        assert!(told.code == 2 && told.stderr.contains(&ahead), "{}", told.stderr);
        assert!(told.stderr.trim().ends_with("what should answer, such as `--to 4`"), "{}", told.stderr);
        let told = rollback(registry, &url, &[endpoint, "--to", "4"]).expect_success();
        assert_eq!((told, meant(reference)), (format!("{endpoint}: digits@4 answers\n"), json!(4)));
    }
}

#[test]
fn of_rollbacks_at_once_one_is_a_step_and_the_others_are_told_on_sqlite() {
    of_rollbacks_at_once_one_is_a_step_and_the_others_are_told(&Registry::new(None));
}

#[test]
fn of_rollbacks_at_once_one_is_a_step_and_the_others_are_told_on_postgresql() {
    let postgres = Postgres::start();
    of_rollbacks_at_once_one_is_a_step_and_the_others_are_told(&Registry::new(Some(&postgres)));
}

#[test]
fn who_waits_for_a_rollback_is_told_what_became_of_it() {
    let registry = two_versions();
    for version in ["digits@1", "digits@2"] {
        registry.run(&["model", "alias", version, "champion"]).expect_success();
    }
    let meant = || registry.run(&["model", "show", "digits@champion", "--json"]).json()["version"].clone();
    let server = registry.host.serve(["--refresh", "0", "--model", "digits@champion"]);
    let url = format!("http://{}", server.address());
    let waiting = rolling_back(&registry, &url, &["digits", "--wait", "600"]);
    wait_for("the alias is not moved", || meant() == 1);
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    let told = ran(waiting.wait_with_output().unwrap());
    let expected = "`digits@champion` was made version 1, and was changed by somebody else before the server answered with it: \
                    it is version 2 now";
    assert!(told.code == 2 && told.stderr.contains(expected), "{}", told.stderr);

    let waiting = rolling_back(&registry, &url, &["digits", "--wait", "600"]);
    wait_for("the alias is not moved", || meant() == 1);
    drop(server);
    let told = ran(waiting.wait_with_output().unwrap());
    let expected = "the registry is changed, `digits@champion` is version 1 there, but whether the server follows is not known: \
                    no answer of a `host serve` at";
    assert!(told.code != 0 && told.stderr.contains(expected), "{}", told.stderr);
}

#[test]
fn lines_of_help_stay_as_they_were_written() {
    let host = Host::new();
    for (command, line) in [
        (
            &["endpoint", "rollback", "--help"],
            "An alias that the endpoint follows is moved back; rolled back twice, it is where it was. Where it",
        ),
        (
            &["model", "tag", "--help"],
            "The tag `host.yanked` sets a version aside: it is not the newest of its model any more, whatever",
        ),
    ] {
        let help = host.run(command.iter().copied()).expect_success();
        assert!(help.lines().any(|shown| shown == line), "{help}");
    }
}

#[test]
fn of_models_that_share_requests_one_is_rolled_back() {
    let registry = two_versions();
    for (version, alias) in [("1", "challenger"), ("2", "challenger"), ("1", "champion")] {
        registry.run(&["model", "alias", &format!("digits@{version}"), alias]).expect_success();
    }
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  shared:
    traffic:
      - { model: digits@champion, weight: 90 }
      - { model: digits@challenger, weight: 5 }
      - { model: digits, weight: 5 }
  some: { traffic: [{ model: digits@2, weight: 1 }, { model: digits@champion, weight: 1 }] }
  those: { traffic: [{ model: digits@1, weight: 1 }, { model: digits@2, weight: 1 }] }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let url = format!("http://{}", server.address());
    let rollback = |arguments: &[&str]| rollback(&registry, &url, &[&["shared"], arguments].concat());
    let versions = || {
        let routes = server.get("/serve").json()["endpoints"][0]["routes"].clone();
        let versions = routes.as_array().unwrap().iter().map(|route| route["version"].as_i64().unwrap());
        versions.collect::<Vec<_>>()
    };
    let followed = || registry.run(&["endpoint", "list", "--url", &url]).expect_success();
    assert_eq!(versions(), [1, 2, 2]);
    let table = followed();
    assert!(table.contains("digits@challenger, digits  "), "{table}");
    let unnamed = rollback(&[]);
    assert!(
        unnamed.code == 2
            && unnamed.stderr.contains(
                "`digits@champion` and `digits@challenger` and `digits` share the requests of `shared`: name by `--model` \
                 which is rolled back"
            ),
        "{}",
        unnamed.stderr
    );
    let other = rollback(&["--model", "digits@9"]);
    assert!(
        other.code == 2 && other.stderr.contains("`shared` is not asked to serve `digits@9`, but"),
        "{}",
        other.stderr
    );
    for (arguments, reason) in [
        // The only one that can be rolled back.
        (&["some"][..], "`digits@champion` has meant no other version"),
        (
            &["some", "--model", "digits@2"],
            "`some` is asked to serve exactly `digits@2`: name another version",
        ),
        (&["those"], "`those` is asked to serve exactly `digits@1` and `digits@2`: change what `host serve`"),
    ] {
        let told = registry.run(&[&["endpoint", "rollback", "--url", &url][..], arguments].concat());
        assert!(told.code == 2 && told.stderr.contains(reason), "{arguments:?}: {}", told.stderr);
    }
    // The version is loaded for another one already.
    let told = rollback(&["--model", "digits@challenger", "--json"]).json();
    assert_eq!(
        (&told["alias"], &told["version"], &told["was"]),
        (&json!("challenger"), &json!(1), &json!(2))
    );
    assert_eq!(versions(), [1, 1, 2]);
    let told = rollback(&["--model", "digits", "--json"]).json();
    assert_eq!((&told["alias"], &told["version"], &told["was"]), (&Value::Null, &json!(1), &json!(2)));
    assert_eq!(versions(), [1, 1, 1]);
    let table = followed();
    assert!(table.contains("digits@champion, digits@challenger, digits  "), "{table}");
}

//! `host model history`, `register`, `promote`, `compare` and `diff`.

use std::process::Stdio;

use host_tests::{Host, Postgres, python, ran};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::registry::{Registry, post};

/// Text without what differs from run to run.
fn stable(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.lines() {
        let word = |word: &str| {
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let before = word.find("sha256:").map(|start| &word[..start]);
            match before {
                Some(before) => format!("{before}[DIGEST]"),
                None if word.len() == 12 && is_hex(word) => "[DIGEST]".to_owned(),
                None if word.len() == 24 && word.ends_with('Z') => "[TIME]".to_owned(),
                None => word.to_owned(),
            }
        };
        words.push(line.split_whitespace().map(word).collect::<Vec<_>>().join(" "));
    }
    words.join("\n")
}

/// Versions that an alias meant, oldest first.
fn meanings(registry: &Registry, alias: &str) -> Vec<Value> {
    let told = registry.run(&["model", "history", "digits", "--alias", alias, "--json"]).json();
    assert_eq!(told["model"], "digits");
    told["changes"].as_array().unwrap().iter().map(|change| change["version"].clone()).collect()
}

fn aliases_have_a_history(registry: &Registry) {
    let (first, second) = (registry.train("1"), registry.train("2"));
    let alias = |version: &str, alias: &str| {
        registry.run(&["model", "alias", version, alias]).expect_success();
    };
    alias("digits@1", "champion");
    alias("digits@1", "champion");
    alias("digits@2", "challenger");
    {
        // Clients of MLflow change the same aliases.
        let server = registry.server();
        let body = json!({ "name": "digits", "alias": "champion", "version": "2" });
        post(&server, "registered-models/alias", &body);
        post(&server, "registered-models/alias", &body);
    }
    assert_eq!(meanings(registry, "champion"), [1, 2], "what changes nothing is no change");
    let table = registry.run(&["model", "history", "digits"]).expect_success();
    assert_snapshot!(stable(&table), @r"
    TIME ALIAS VERSION BUNDLE
    [TIME] champion 1 [DIGEST]
    [TIME] challenger 2 [DIGEST]
    [TIME] champion 2 [DIGEST]
    ");
    // What served at the moment of the first change, and at that of the last.
    let time = |line: usize| table.lines().nth(line).unwrap().split_whitespace().next().unwrap().to_owned();
    let at = |time: &str, more: &[&str]| {
        let arguments = [&["model", "history", "digits", "--at", time, "--json"][..], more].concat();
        let told = registry.run(&arguments).json();
        told["aliases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|alias| (alias["alias"].clone(), alias["version"].clone(), alias["bundle"].clone()))
            .collect::<Vec<_>>()
    };
    let served = |alias: &str, version: i64, trained: &Value| {
        (json!(alias), json!(version), trained["bundle"].clone())
    };
    assert_eq!(at(&time(1), &[]), [served("champion", 1, &first)]);
    let now = [served("challenger", 2, &second), served("champion", 2, &second)];
    assert_eq!(at(&time(3), &[]), now);
    assert_eq!(at("2999-01-01T00:00:00+01:00", &["--alias", "champion"]), now[1..]);
    assert_eq!(at("2000-01-01T00:00:00Z", &[]), []);

    registry.run(&["model", "alias", "digits", "challenger", "--delete"]).expect_success();
    registry.run(&["model", "delete", "digits@2"]).expect_success();
    assert_eq!(meanings(registry, "challenger"), [json!(2), Value::Null]);
    assert_eq!(meanings(registry, "champion"), [json!(1), json!(2), Value::Null]);
    assert_eq!(at(&time(3), &[]), now, "what was is not forgotten with the version");
    assert_eq!(at("2999-01-01T00:00:00Z", &[]), []);
    assert_eq!(
        registry.refused(&["model", "history", "digits", "--alias", "best"]),
        "error: model `digits` has no alias `best`: it has `challenger`, `champion`"
    );
    assert_eq!(
        registry.refused(&["model", "history", "none"]),
        "error: there is no model `none`: there are `digits`"
    );
    let said = registry.refused(&["model", "history", "digits", "--at", "noon"]);
    assert!(said.contains("`noon` is no time: expected one such as `2026-11-25T12:00:00Z`"), "{said}");
}

#[test]
fn aliases_have_a_history_on_sqlite() {
    insta::allow_duplicates! {
    aliases_have_a_history(&Registry::new(None));
    }
}

#[test]
fn aliases_have_a_history_on_postgresql() {
    insta::allow_duplicates! {
    let postgres = Postgres::start();
    aliases_have_a_history(&Registry::new(Some(&postgres)));
    }
}

#[test]
fn aliases_of_earlier_builds_have_a_history_from_the_update_on() {
    let registry = Registry::new(None);
    registry.train("1");
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let earlier = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('DROP TABLE alias_history')\n\
                   [c.execute('DROP TABLE ' + name) for name in ('pipeline_steps', 'pipeline_runs', 'step_results', 'alerts', \
                   'pipeline_triggers', 'enabled_pipelines', 'step_identities')]\n\
                   c.execute('DROP INDEX dataset_versions_by_dataset')\n\
                   c.execute('ALTER TABLE dataset_versions DROP COLUMN pipelines')\n\
                   c.execute('UPDATE schema_version SET version = 4')\nc.commit()";
    let database = registry.host.state_dir().join("host.db");
    let done = std::process::Command::new(python()).args(["-c", earlier]).arg(database).output().unwrap();
    ran(done).expect_success();
    assert_eq!(meanings(&registry, "champion"), [1]);
    let told = registry.run(&["model", "history", "digits", "--json"]).json();
    assert!(told["changes"][0]["changed_at"].as_i64().unwrap() > 1_700_000_000_000, "{told}");
    assert_eq!(meanings(&registry, "champion"), [1], "once");
}

#[test]
fn archives_carry_the_history_of_aliases() {
    let registry = Registry::new(None);
    for rounds in ["1", "2", "3"] {
        registry.train(rounds);
    }
    for version in ["digits@1", "digits@2", "digits@3", "digits@1"] {
        registry.run(&["model", "alias", version, "champion"]).expect_success();
    }
    registry.run(&["model", "alias", "digits@3", "gone"]).expect_success();
    registry.run(&["model", "delete", "digits@3"]).expect_success();
    let archive = registry.host.state_dir().join("all.tar");
    registry.run(&["export", archive.to_str().unwrap()]).expect_success();
    let told = registry.run(&["model", "history", "digits", "--json"]).json();
    let elsewhere = Host::new();
    for _ in 0..2 {
        elsewhere.run(["import", archive.to_str().unwrap()]).expect_success();
        assert_eq!(elsewhere.run(["model", "history", "digits", "--json"]).json(), told);
    }
    // Where there is a model of the name, that keeps its own.
    let other = Registry::new(None);
    other.train("5");
    other.run(&["model", "alias", "digits", "champion"]).expect_success();
    other.run(&["import", archive.to_str().unwrap()]).expect_success();
    assert_eq!(meanings(&other, "champion"), [1]);
}

fn bundles_are_registered_once(registry: &Registry) {
    let trained = registry.train("1");
    let bundle = trained["bundle"].as_str().unwrap();
    let told = registry.run(&["model", "register", bundle, "copy", "--tag", "team=vision", "--json"]).json();
    assert_eq!(told, json!({ "model": "copy", "version": 1, "bundle": bundle }));
    let again = registry.run(&["model", "register", "digits@1", "copy", "--tag", "checked=yes", "--json"]);
    assert_eq!(again.json(), told);
    let folder = registry.host.state_dir().join("exported");
    let folder = folder.to_str().unwrap();
    registry.run(&["model", "export", bundle, folder]).expect_success();
    assert_eq!(registry.run(&["model", "register", folder, "copy", "--json"]).json(), told);
    let models = registry.run(&["model", "list", "--json"]).json();
    let copy = &models[0]["versions"];
    assert_eq!(copy.as_array().unwrap().len(), 1);
    assert_eq!(copy[0]["tags"], json!({ "checked": "yes", "team": "vision" }));
    assert_eq!(copy[0]["run_id"], trained["run_id"], "the run that made it");
    assert_snapshot!(stable(&registry.run(&["model", "register", bundle, "copy"]).expect_success()), @r"
    model copy@1
    bundle [DIGEST]
    ");
    let unknown = format!("sha256:{}", "0".repeat(64));
    let said = registry.refused(&["model", "register", &unknown, "copy"]);
    assert!(said.contains(&unknown), "{said}");
    registry.refused(&["model", "register", bundle, "copy", "--tag", "../a=b"]);
    registry.refused(&["model", "register", bundle, "a b"]);
}

#[test]
fn bundles_are_registered_once_on_sqlite() {
    insta::allow_duplicates! {
    bundles_are_registered_once(&Registry::new(None));
    }
}

#[test]
fn bundles_are_registered_once_on_postgresql() {
    insta::allow_duplicates! {
    let postgres = Postgres::start();
    bundles_are_registered_once(&Registry::new(Some(&postgres)));
    }
}

/// Damages the model file of a bundle.
fn damage(host: &Host, bundle: &str) {
    let manifest = host.run(["model", "show", bundle, "--json"]).json()["manifest"].clone();
    let hex =
        manifest["model"]["blob"]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let path = host.state_dir().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_damaged_bundle_is_neither_registered_nor_judged() {
    let registry = Registry::new(None);
    let trained = registry.train("1");
    let bundle = trained["bundle"].as_str().unwrap();
    damage(&registry.host, bundle);
    let commands: [&[&str]; 4] = [
        &["model", "register", bundle, "copy"],
        &["evaluate", "digits", "--data", "t"],
        &["model", "compare", "digits", "--data", "t", "--metric", "accuracy"],
        &["model", "promote", "digits", "--data", "t", "--metric", "accuracy"],
    ];
    for command in commands {
        let ran = registry.run(command);
        assert_ne!(ran.code, 0, "{command:?}");
        assert!(ran.stderr.contains("damaged") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    assert_eq!(registry.run(&["model", "list", "--json"]).json().as_array().unwrap().len(), 1);
    assert_eq!(registry.versions(), [(1, json!([]))]);
}

/// Log loss falls with every round here, so more rounds are better.
const BY_LOSS: [&str; 3] = ["--metric", "log_loss", "--json"];

fn promote(registry: &Registry, arguments: &[&str]) -> Value {
    registry.run(&[&["model", "promote"][..], arguments].concat()).json()
}

fn only_what_is_better_becomes_the_champion(registry: &Registry) {
    for rounds in ["1", "5", "3"] {
        registry.train(rounds);
    }
    let first = promote(registry, &[&["digits@1"][..], &BY_LOSS].concat());
    assert_eq!((&first["promoted"], &first["previous"]), (&json!(true), &Value::Null));
    assert_eq!(first["reason"], "no version was `champion`");
    let second = promote(registry, &[&["digits@2"][..], &BY_LOSS].concat());
    assert_eq!((&second["promoted"], &second["previous"]), (&json!(true), &json!(1)));
    assert_eq!(second["previous_value"], first["value"]);
    assert!(second["value"].as_f64().unwrap() < second["previous_value"].as_f64().unwrap(), "{second}");
    let third = promote(registry, &[&["digits"][..], &BY_LOSS].concat());
    assert_eq!(
        (&third["promoted"], &third["version"], &third["previous"]),
        (&json!(false), &json!(3), &json!(2))
    );
    assert_eq!((&third["alias"], &third["model"]), (&json!("champion"), &json!("digits")));
    let same = promote(registry, &[&["digits@champion"][..], &BY_LOSS].concat());
    assert_eq!(
        (&same["promoted"], &same["reason"]),
        (&json!(false), &json!("version 2 is `champion` already"))
    );
    // The other way round the worse one is better, and by what it is not by enough.
    let margin = ["digits@1", "--direction", "maximize", "--margin", "1"];
    assert_eq!(promote(registry, &[&margin[..], &BY_LOSS].concat())["promoted"], false);
    let worse = promote(registry, &[&margin[..3], &BY_LOSS].concat());
    assert_eq!((&worse["promoted"], &worse["version"]), (&json!(true), &json!(1)));
    // Both on the same rows: here the same as those that training tested on.
    let on_data = ["digits@2", "--data", "t"];
    let judged = promote(registry, &[&on_data[..], &BY_LOSS].concat());
    assert_eq!((&judged["promoted"], &judged["value"]), (&json!(true), &second["value"]));
    assert_eq!(judged["previous_value"], second["previous_value"]);
    // Without a metric, and under another name.
    let forced = registry.run(&["model", "promote", "digits@1", "--alias", "shadow", "--json"]).json();
    assert_eq!((&forced["promoted"], &forced["metric"]), (&json!(true), &Value::Null));
    let line = registry.run(&["model", "promote", "digits@3", "--alias", "shadow"]).expect_success();
    assert_eq!(line, "digits@shadow is version 3 now: no metric was asked for\n");
    assert_eq!(meanings(registry, "champion"), [1, 2, 1, 2]);

    assert_eq!(
        registry.refused(&["model", "promote", "digits", "--metric", "logloss"]),
        "error: version 3: there is no metric `logloss`: did you mean `log_loss`?"
    );
    let said = registry.refused(&["model", "promote", "digits", "--metric", "rmse"]);
    assert!(
        said.starts_with("error: version 3: there is no metric `rmse`: there are `accuracy`, "),
        "{said}"
    );
    assert_eq!(
        registry.refused(&["model", "promote", "digits@7"]),
        "error: model `digits` has no version 7: its highest is 3"
    );
    for wrong in [
        &["digits", "--alias", "latest"][..],
        &["digits", "--alias", "7"],
        &["digits", "--margin", "1"],
        &["digits", "--metric", "accuracy", "--margin", "-1"],
        &["digits", "--metric", "accuracy", "--margin", "NaN"],
        &["digits", "--metric", "accuracy", "--direction", "up"],
        &["digits", "--data", "t"],
        &["digits", "--metric", "accuracy", "--data", "none"],
        &["digits", "--metric", "accuracy", "--data", "t", "--label", "none"],
        &["none"],
    ] {
        registry.refused(&[&["model", "promote"][..], wrong].concat());
    }
    assert_eq!(meanings(registry, "champion"), [1, 2, 1, 2]);
}

#[test]
fn only_what_is_better_becomes_the_champion_on_sqlite() {
    only_what_is_better_becomes_the_champion(&Registry::new(None));
}

#[test]
fn only_what_is_better_becomes_the_champion_on_postgresql() {
    let postgres = Postgres::start();
    only_what_is_better_becomes_the_champion(&Registry::new(Some(&postgres)));
}

#[test]
fn what_was_tested_on_other_data_is_compared_on_the_same() {
    let registry = Registry::new(None);
    registry.train("1");
    let file = registry.host.state_dir().join("other.csv");
    let rows: String = (0..50).map(|row| format!("{},{},{}\n", row % 7, row % 3, row % 2)).collect();
    std::fs::write(&file, format!("a,b,label\n{rows}")).unwrap();
    registry.run(&["data", "add", "other", file.to_str().unwrap()]).expect_success();
    registry.run(&["train", "--data", "other", "--name", "digits", "--rounds", "5"]).expect_success();
    promote(&registry, &["digits@1", "--json"]);
    let said = registry.refused(&["model", "promote", "digits@2", "--metric", "accuracy"]);
    assert_snapshot!(stable(&said), @r"
    error: version 2 was tested on `other@[DIGEST] and version 1 on `t@[DIGEST] their metrics cannot be compared
    hint: give `--data DATASET` to test both on the same rows
    ");
    let told = promote(&registry, &["digits@2", "--metric", "accuracy", "--data", "t", "--json"]);
    assert_eq!(told["promoted"], false, "{told}");
}

fn of_promotions_at_once_the_best_wins(registry: &Registry) {
    let rounds = ["1", "6", "2", "4", "3", "5"];
    for rounds in rounds {
        registry.train(rounds);
    }
    let children: Vec<_> = (1..=rounds.len())
        .map(|version| {
            let mut promote = registry.host.command();
            promote.args(["model", "promote", &format!("digits@{version}"), "--data", "t"]);
            promote.args(BY_LOSS).args(registry.database());
            promote.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        ran(child.wait_with_output().unwrap()).expect_success();
    }
    let changes = meanings(registry, "champion");
    assert_eq!(changes.last(), Some(&json!(2)), "{changes:?}");
    let rounds_of = |version: &Value| rounds[usize::try_from(version.as_u64().unwrap()).unwrap() - 1];
    assert!(changes.is_sorted_by_key(rounds_of), "every change was to a better one: {changes:?}");
}

#[test]
fn of_promotions_at_once_the_best_wins_on_sqlite() {
    of_promotions_at_once_the_best_wins(&Registry::new(None));
}

#[test]
fn of_promotions_at_once_the_best_wins_on_postgresql() {
    let postgres = Postgres::start();
    of_promotions_at_once_the_best_wins(&Registry::new(Some(&postgres)));
}

#[test]
fn the_best_of_several_is_told() {
    let registry = Registry::new(None);
    for rounds in ["1", "5", "3"] {
        registry.train(rounds);
    }
    let compare = |arguments: &[&str]| {
        let all = ["model", "compare", "--data", "t", "--metric", "log_loss"];
        registry.run(&[&all[..], arguments].concat())
    };
    let ran = compare(&["digits@1", "digits", "--champion", "digits@champion"]);
    assert_snapshot!(ran.stderr.trim(), @"there is no champion yet: model `digits` has no alias `champion`: it has none");
    assert_eq!(ran.code, 0);
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    let ran = compare(&["digits@1", "digits", "--champion", "digits@champion"]);
    let table = stable(&ran.expect_success());
    let shape: Vec<&str> = table.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(shape, ["MODEL", "digits@1", "digits", "*"], "{table}");
    assert!(table.ends_with("[DIGEST] champion"), "{table}");
    let told = compare(&["digits@1", "digits", "--champion", "digits@champion", "--json"]).json();
    assert_eq!((&told["is_champion"], &told["candidates"][2]["is_champion"]), (&json!(true), &json!(true)));
    assert_eq!(told["candidates"][2]["reference"], "digits@champion");
    assert_eq!(told["bundle"], told["candidates"][2]["bundle"]);
    assert_eq!(told["metrics"]["log_loss"], told["candidates"][2]["value"]);
    // A candidate that is the champion is judged and told once; of equals it wins.
    let told = compare(&["digits@1", "digits@2", "--champion", "digits@champion", "--json"]).json();
    assert_eq!(told["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(told["candidates"][1]["is_champion"], true);
    let told = compare(&["digits@3", "digits@1", "--direction", "maximize", "--json"]).json();
    assert_eq!((&told["bundle"], &told["is_champion"]), (&told["candidates"][1]["bundle"], &json!(false)));

    let refused = |arguments: &[&str]| {
        let ran = compare(arguments);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        ran.stderr.trim().to_owned()
    };
    assert_eq!(
        refused(&["digits", "--champion", "digits"]),
        "error: `digits` cannot be the champion: expected `name@alias`, such as `mnist@champion`"
    );
    assert_eq!(refused(&["digits@9"]), "error: model `digits` has no version 9: its highest is 3");
    let said = refused(&["digits", "--label", "none"]);
    assert_snapshot!(said, @"error: `digits`: dataset `t` has no column `none` to predict: it has `a`, `b`, `label`");
    let said = registry.refused(&["model", "compare", "digits", "--data", "t", "--metric", "acuracy"]);
    assert_snapshot!(said, @"error: `digits`: there is no metric `acuracy`: did you mean `accuracy`?");
}

#[test]
fn differences_of_bundles_are_told() {
    let registry = Registry::new(None);
    registry.train("1");
    registry.train("2");
    let diff = |arguments: &[&str]| registry.run(&[&["model", "diff"][..], arguments].concat());
    let told = diff(&["digits@1", "digits@2", "--json"]).json();
    let part = |part: &str, name: &str| {
        let all = told["differences"].as_array().unwrap();
        all.iter()
            .find(|difference| difference["part"] == part && difference["name"] == name)
            .cloned()
            .unwrap()
    };
    let loss = part("metric", "log_loss");
    assert_eq!(loss["delta"], loss["b"].as_f64().unwrap() - loss["a"].as_f64().unwrap());
    assert!(part("model", "digest")["a"].as_str().unwrap().starts_with("sha256:"));
    assert!(part("reference", "digest")["delta"].is_null());
    let table = stable(&diff(&["digits@1", "digits"]).expect_success());
    assert!(table.starts_with("PART NAME A B DELTA\nmodel digest [DIGEST] [DIGEST]\n"), "{table}");
    assert_eq!(diff(&["digits@1", "digits@2", "--exit-code"]).code, 1);
    let same = diff(&["digits@2", "digits", "--exit-code"]);
    assert_eq!((same.code, same.stdout.as_str(), same.stderr.trim()), (0, "", "both are the same bundle"));
    assert_eq!(diff(&["digits@1", "digits@1", "--json"]).json()["differences"], json!([]));
    assert_eq!(
        registry.refused(&["model", "diff", "digits@1", "digits@best"]),
        "error: model `digits` has no alias `best`: it has none"
    );
}

#[test]
fn a_version_whose_manifest_is_gone_hides_no_other() {
    let registry = Registry::new(None);
    registry.train("1");
    registry.train("2");
    let bundle = registry.run(&["model", "show", "digits@1", "--json"]).json()["bundle"].clone();
    let hex = bundle.as_str().unwrap().trim_start_matches("sha256:");
    std::fs::remove_file(registry.host.state_dir().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap();
    let listed = registry.run(&["model", "list"]);
    let warning = format!("digits@1: there is no blob sha256:{hex}");
    assert!(listed.stderr.contains(&warning), "{}", listed.stderr);
    let table = listed.expect_success();
    let (damaged, others): (Vec<&str>, Vec<&str>) =
        table.lines().skip(1).partition(|line| line.ends_with("damaged"));
    assert!(damaged.len() == 1 && others.len() == 1, "{table}");
    assert!(damaged[0].contains(&hex[..12]) && !others[0].contains(&hex[..12]), "{table}");
}

#[test]
fn nothing_of_a_bundle_is_obeyed_by_a_terminal() {
    let registry = Registry::new(None);
    registry.train("1");
    let folder = registry.host.state_dir().join("odd");
    registry.run(&["model", "export", "digits@1", folder.to_str().unwrap()]).expect_success();
    let manifest = folder.join("bundle.json");
    let mut told: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    told["parameters"]["a\u{1b}[2J"] = json!("b\r\nbundle sha256:forged\u{1b}]0;title\u{7}");
    std::fs::write(&manifest, told.to_string()).unwrap();
    let shown = registry.run(&["model", "show", folder.to_str().unwrap()]).expect_success();
    assert!(shown.contains("a\\u{1b}[2J = b\\r\\nbundle sha256:forged\\u{1b}]0;title\\u{7}"), "{shown}");
    assert!(!shown.chars().any(|letter| letter.is_control() && letter != '\n'), "{shown:?}");
}

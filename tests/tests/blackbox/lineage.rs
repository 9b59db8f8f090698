//! What was made from what: `host lineage`.

use host_tests::{Host, plugin};
use serde_json::Value;

/// The lines of an answer without digests and ids, which differ.
fn words(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words = line.split(' ').filter(|word| {
            let word = word.trim_matches(['(', ')', ',']);
            !(word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
        });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect()
}

#[test]
fn leads_from_data_to_the_model_and_back() {
    let host = Host::trained();
    let down = words(&host.run(["lineage", "data:mnist", "--down"]).expect_success());
    assert_eq!(down[..2], ["dataset mnist@1", "led to"], "{down:?}");
    let is_there =
        |lines: &[String]| lines[0].ends_with("bundle (xgboost)") && lines[1].ends_with("model mnist@1");
    assert!(down.windows(2).any(is_there), "{down:?}");

    let up = words(&host.run(["lineage", "model:mnist@1", "--up"]).expect_success());
    assert_eq!(up[0], "model mnist@1");
    assert_eq!(up[1..3], ["made from", "└─ bundle (xgboost)"], "{up:?}");
    assert!(up[3].starts_with("   └─ run ") && up[3].ends_with(" finished"), "{up:?}");
    let mut read = up[4..].to_vec();
    read.sort();
    let names: Vec<&str> = read.iter().map(|line| line.trim_start_matches([' ', '├', '└', '─'])).collect();
    assert!(names.contains(&"dataset mnist@1") && names.contains(&"component mnist-pixels"), "{names:?}");
}

#[test]
fn a_component_leads_to_the_models_that_it_went_into() {
    let host = Host::trained();
    let answer = host.run(["lineage", &plugin("mnist-pixels"), "--json"]).json();
    let nodes = answer["nodes"].as_array().unwrap();
    assert_eq!(nodes[0]["kind"], "component", "{answer}");
    let place = |kind: &str| nodes.iter().position(|node| node["kind"] == kind).unwrap();
    let leads = |from: usize, to: usize| {
        let edges = answer["edges"].as_array().unwrap();
        edges.iter().any(|edge: &Value| edge["from"] == from && edge["to"] == to)
    };
    assert!(leads(0, place("run")) && leads(place("run"), place("bundle")), "{answer}");
    assert!(leads(place("bundle"), place("model")), "{answer}");
}

#[test]
fn a_name_of_two_things_is_asked_back() {
    let asked = Host::trained().run(["lineage", "mnist"]);
    assert_eq!(asked.code, 2);
    assert!(asked.stderr.contains("say `data:mnist` or `model:mnist`"), "{}", asked.stderr);
}

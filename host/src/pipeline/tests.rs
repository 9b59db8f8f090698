//! Pairs of `cases/NAME.yaml` and `cases/NAME.err` (what is told) or `cases/NAME.json` (the plan): a new case needs no
//! Rust. A first line `# -p name=value …` gives parameters. With `UPDATE_CASES=1` the answers are written anew.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::*;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/pipeline/cases");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    paths.sort();
    paths
}

fn given(text: &str) -> Vec<(String, String)> {
    let first = text.lines().next().unwrap_or_default();
    let parameters = first.strip_prefix("# ").unwrap_or_default().split("-p ").skip(1);
    parameters
        .map(|parameter| {
            let (name, value) = parameter.trim().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn shown(plan: &Plan) -> Json {
    let steps: Vec<Json> = plan
        .steps
        .iter()
        .map(|step| {
            let needs: Vec<&str> = step.needs.iter().map(|index| plan.steps[*index].id.as_str()).collect();
            let mut shown =
                json!({"id": step.id, "uses": step.uses.name, "needs": needs, "with": step.with_shown()});
            if let Some(when) = &step.when {
                shown["when"] = when.to_string().into();
            }
            shown
        })
        .collect();
    json!({"parameters": plan.parameters, "steps": steps})
}

#[test]
fn every_case_gives_its_answer() {
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let planned = PipelineSpec::parse("pipeline.yaml", &text).and_then(|spec| spec.plan(&given(&text)));
        let (extension, answer) = match planned {
            Ok(plan) => ("json", format!("{:#}\n", shown(&plan))),
            Err(error) => ("err", format!("{error}\n")),
        };
        let expected = path.with_extension(extension);
        if update {
            std::fs::write(&expected, &answer).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != answer {
            wrong.push(format!("{}:\n{answer}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases().len() > 20);
}

fn plan(text: &str) -> Plan {
    let text = format!("version: 1\nname: test\n{text}");
    PipelineSpec::parse("pipeline.yaml", &text).unwrap().plan(&[]).unwrap()
}

fn done(outputs: Json) -> Option<Finished> {
    let Json::Object(outputs) = outputs else { panic!("{outputs}") };
    Some(Finished::Done(outputs))
}

fn run(decision: Result<Decision, ResolveError>) -> Json {
    match decision {
        Ok(Decision::Run(values)) => Json::Object(values),
        other => panic!("{other:?}"),
    }
}

const COMPARE: &str = "\
steps:
  train: { uses: train, with: { data: d }, matrix: { depth: [1, 2] } }
  other: { uses: command, with: { run: x } }
  compare:
    uses: compare
    with:
      candidates: ['${{ steps.train.outputs.bundle }}', '${{ steps.other.outputs.b }}', fixed]
      data: d
      metric: accuracy
      label: of-${{ steps.other.outputs.b }}
";

#[test]
fn a_matrix_is_a_list_of_what_its_members_put_out() {
    let plan = plan(COMPARE);
    let index = plan.index_of("compare").unwrap();
    let mut finished = vec![None; plan.steps.len()];
    assert_eq!(plan.decide(index, &finished), Ok(Decision::Wait(0)));
    finished[0] = done(json!({"bundle": "one"}));
    finished[1] = done(json!({"bundle": "two"}));
    assert_eq!(plan.decide(index, &finished), Ok(Decision::Wait(2)));
    finished[2] = done(json!({"b": 3}));
    let values = run(plan.decide(index, &finished));
    assert_eq!(values["candidates"], json!(["one", "two", "3", "fixed"]));
    assert_eq!(values["label"], "of-3");
    finished[1] = Some(Finished::Skipped);
    assert_eq!(run(plan.decide(index, &finished))["candidates"], json!(["one", "3", "fixed"]));
    finished[0] = Some(Finished::Failed);
    assert_eq!(plan.decide(index, &finished), Ok(Decision::Blocked(0)));
}

#[test]
fn what_refers_to_a_skipped_step_is_skipped_unless_in_a_list() {
    let plan = plan(COMPARE);
    let index = plan.index_of("compare").unwrap();
    let finished = [done(json!({"bundle": "one"})), done(json!({"bundle": "two"})), Some(Finished::Skipped)];
    assert_eq!(plan.decide(index, &finished), Ok(Decision::Skip("`other` was skipped".to_owned())));
    let plan = self::plan(
        "steps:\n  a: { uses: command, with: { run: x }, when: false }\n  b: { uses: command, with: { run: x }, \
         needs: a }\n  c: { uses: command, with: { run: [x, '${{ steps.a.outputs.x }}'] } }\n  d: { uses: command, \
         with: { run: ['${{ steps.a.outputs.x }}'] } }\n  e: { uses: command, with: { run: x }, when: '${{ \
         steps.a.outputs.x }} == 1' }\n",
    );
    let skip = |text: &str| Ok(Decision::Skip(text.to_owned()));
    let finished = [Some(Finished::Skipped)];
    assert_eq!(plan.decide(0, &[]), skip("`when` is false: false"));
    assert_eq!(run(plan.decide(1, &finished)), json!({"run": "x"}));
    assert_eq!(run(plan.decide(2, &finished)), json!({"run": ["x"]}));
    assert_eq!(plan.decide(3, &finished), skip("`a` was skipped"));
    assert_eq!(plan.decide(4, &finished), skip("`a` was skipped"));
}

#[test]
fn what_steps_put_out_is_checked_when_it_is_used() {
    let plan = plan(
        "steps:\n  a: { uses: command, with: { run: x } }\n  b: { uses: train, with: { data: '${{ steps.a.outputs.data \
         }}', seed: '${{ steps.a.outputs.seed }}', params: '${{ steps.a.outputs.params }}' }, when: '${{ \
         steps.a.outputs.go }}' }\n  c: { uses: command, with: { run: '${{ steps.a.outputs.m.a.b }}' } }\n",
    );
    let decided = |index, outputs| match plan.decide(index, &[done(outputs)]) {
        Ok(Decision::Run(values)) => Json::Object(values).to_string(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    };
    let outputs = json!({"data": 1, "seed": "7", "params": {"a": 1}, "go": true});
    assert_eq!(decided(1, outputs), r#"{"data":"1","seed":7,"params":{"a":1}}"#);
    for (outputs, expected) in [
        (json!({"go": 1}), "step `b`: the condition needs true or false, found `1`"),
        (json!({"go": true}), "step `b`: step `a` did not put out `data`: it put out `go`"),
        (
            json!({"go": true, "data": "d", "seed": "many", "params": {}}),
            "step `b`: `with.seed`: expected an integer, found the text `many`",
        ),
        (
            json!({"go": true, "data": ["d"], "seed": 1, "params": {}}),
            "step `b`: `with.data`: expected a string, found a list",
        ),
    ] {
        assert_eq!(decided(1, outputs), expected);
    }
    for (outputs, expected) in [
        (json!({}), "step `c`: step `a` did not put out `m`: it put out nothing"),
        (json!({"m": 1}), "step `c`: `m` of step `a`: expected a mapping with `a`, found the number `1`"),
        (json!({"m": {"a": {"c": 1}}}), "step `c`: `a` of step `a` did not put out `b`: it put out `c`"),
        (json!({"m": {"a": {"b": "x"}}}), r#"{"run":"x"}"#),
    ] {
        assert_eq!(decided(2, outputs), expected);
    }
    let large = "x".repeat(RESOLVED_MAX_BYTES);
    assert_eq!(
        decided(2, json!({"m": {"a": {"b": large}}})),
        "step `c`: templates make the values too large"
    );
}

#[test]
fn a_key_depends_on_values_and_inputs_and_on_nothing_else() {
    use crate::domain::Digest;
    let plan = plan(
        "steps:\n  a: { uses: command, with: { run: x, env: { a: 1, b: 2 } } }\n  b: { uses: command, with: { env: { b: \
         2, a: 1 }, run: x }, needs: a, retry: 3, timeout: 5s }\n  c: { uses: command, with: { run: x, env: { a: 1, b: \
         2 } }, outputs: [x] }\n",
    );
    let finished = [done(json!({}))];
    let values = |index| match plan.decide(index, &finished) {
        Ok(Decision::Run(values)) => values,
        other => panic!("{other:?}"),
    };
    let key = |index: usize| cache_key(&plan.steps[index], &values(index), "0.1.0");
    assert_eq!(key(0), key(1));
    assert_ne!(key(0), key(2));
    assert_ne!(key(0), cache_key(&plan.steps[0], &values(0), "0.1.1"));
    let text =
        r#"{"host":"0.1.0","key":1,"outputs":[],"uses":"command","with":{"env":{"a":1,"b":2},"run":"x"}}"#;
    assert_eq!(key(0), Digest::of(text.as_bytes()));
}

#[test]
fn files_beyond_the_limits_are_refused() {
    let told = |text: &str| {
        PipelineSpec::parse("p.yaml", text).and_then(|spec| spec.plan(&[])).unwrap_err().to_string()
    };
    let steps = |step: &str, count: usize| {
        let steps: String = (0..count).map(|index| format!("  s{index}: {step}\n")).collect();
        format!("version: 1\nname: a\nsteps:\n{steps}")
    };
    assert_eq!(
        told(&" ".repeat(FILE_MAX_BYTES + 1)),
        format!("p.yaml:1:1: has 1048577 bytes: expected at most {FILE_MAX_BYTES}")
    );
    let command = "{ uses: command, with: { run: x } }";
    assert_eq!(
        told(&steps(command, STEPS_MAX + 1)),
        "p.yaml:10004:3: too many steps: expected at most 10000"
    );
    let list: Vec<String> = (0..1_000).map(|index| index.to_string()).collect();
    let matrix = format!("{{ uses: command, with: {{ run: x }}, matrix: {{ x: [{}] }} }}", list.join(","));
    assert_eq!(
        told(&steps(&matrix, 11)),
        "p.yaml:14:3: too many steps: expected at most 10000, matrices expanded"
    );
    let long = "x".repeat(100_000);
    let matrix = matrix.replace("run: x", &format!("run: {long}"));
    assert_eq!(told(&steps(&matrix, 1)), "p.yaml:4:3: step `s0`: templates make the values too large");
    let mut dense =
        steps(&format!("{{ uses: command, with: {{ run: x }}, matrix: {{ x: [{}] }} }}", list.join(",")), 2);
    dense = dense.replacen("s1: {", "s1: { needs: s0,", 1);
    dense.push_str(&format!(
        "  t: {{ uses: command, needs: s1, with: {{ run: x }}, matrix: {{ x: [{}] }} }}\n",
        list.join(",")
    ));
    assert_eq!(
        told(&dense),
        "p.yaml:6:3: steps need each other in more than 1000000 ways, matrices expanded"
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// A pipeline of as many steps, each with the ones before it that it needs; written from last to first.
    fn pipelines() -> impl Strategy<Value = (Vec<Vec<usize>>, String)> {
        (1..25_usize)
            .prop_flat_map(|count| prop::collection::vec(prop::collection::vec(0..count, 0..4), count))
            .prop_map(|needs| {
                let needs: Vec<Vec<usize>> = needs
                    .into_iter()
                    .enumerate()
                    .map(|(step, mut needs)| {
                        needs.retain(|needed| *needed < step);
                        needs.sort_unstable();
                        needs.dedup();
                        needs
                    })
                    .collect();
                let mut text = "version: 1\nname: a\nsteps:\n".to_owned();
                for (step, needs) in needs.iter().enumerate().rev() {
                    let names: Vec<String> = needs.iter().map(|needed| format!("s{needed}")).collect();
                    let matrix = if step % 3 == 0 { "matrix: { x: [1, 2] }," } else { "" };
                    text.push_str(&format!(
                        "  s{step}: {{ uses: command, {matrix} needs: [{}], with: {{ run: x }} }}\n",
                        names.join(", ")
                    ));
                }
                (needs, text)
            })
    }

    proptest! {
        #[test]
        fn every_step_comes_after_all_that_it_needs((needs, text) in pipelines()) {
            let plan = PipelineSpec::parse("p.yaml", &text).unwrap().plan(&[]).unwrap();
            let count: usize = (0..needs.len()).map(|step| if step % 3 == 0 { 2 } else { 1 }).sum();
            prop_assert_eq!(plan.steps.len(), count);
            for (index, step) in plan.steps.iter().enumerate() {
                let own: usize = step.name[1..].parse().unwrap();
                let mut found: Vec<usize> = step
                    .needs
                    .iter()
                    .map(|needed| {
                        assert!(*needed < index);
                        plan.steps[*needed].name[1..].parse().unwrap()
                    })
                    .collect();
                found.sort_unstable();
                found.dedup();
                prop_assert_eq!(&found, &needs[own]);
            }
        }

        #[test]
        fn an_edited_file_never_panics(
            case in 0..64_usize,
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, "[ -~\n]{0,6}"), 1..6),
        ) {
            let paths = cases();
            let mut text: Vec<char> =
                std::fs::read_to_string(&paths[case % paths.len()]).unwrap().chars().collect();
            for (at, removed, put) in edits {
                let at = at.index(text.len() + 1);
                let end = (at + removed).min(text.len());
                text.splice(at..end, put.chars());
            }
            let text: String = text.into_iter().collect();
            if let Ok(plan) = PipelineSpec::parse("p.yaml", &text).and_then(|spec| spec.plan(&[])) {
                let finished = vec![Some(Finished::Skipped); plan.steps.len()];
                for index in 0..plan.steps.len() {
                    let _ = plan.decide(index, &finished);
                }
            }
        }
    }
}

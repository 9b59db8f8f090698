//! Calls in process, by criterion: a component's beside the same function's, and the stages of a request.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::model::ServedModel;
use super::report;
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// What criterion measured of one function.
#[derive(Debug, PartialEq)]
struct Measured {
    group: String,
    function: String,
    /// Time of a call in each sample.
    samples_us: Vec<f64>,
}

/// `chosen` are arguments of criterion; with any of them the results are printed only.
pub(super) fn run(layout: &Layout, chosen: &[String]) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let result = measure(layout, &ServedModel::ensure(layout)?, chosen)?;
    if !chosen.is_empty() {
        return Ok(());
    }
    terminal::line(&format!("\n{result}"));
    report::write(layout, "calls", "cargo xtask bench calls", &result)
}

/// Runs criterion with the arguments `chosen`; gives its results as a table.
pub(super) fn measure(layout: &Layout, model: &ServedModel<'_>, chosen: &[String]) -> Result<String> {
    let results = layout.target().join("criterion");
    if results.is_dir() {
        std::fs::remove_dir_all(&results).context(format_args!("remove `{}`", results.display()))?;
    }
    let mut bench = setup::cargo(layout);
    bench.args(["bench", "--package", "host", "--benches", "--"]).args(chosen);
    bench.env("HOST_PLUGINS_DIR", layout.plugins()).env("HOST_BENCH_FOLDER", &model.folder);
    process::run(&mut bench, "run the benches")?;
    // Arguments may have it measure nothing, as `--list` does.
    if results.is_dir() { Ok(summary(&read(&results)?)) } else { Ok(String::new()) }
}

/// Everything in criterion's folder, by group and function.
fn read(results: &Path) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for group in folders(results)? {
        for function in folders(&group)? {
            let newest = function.join("new");
            if newest.is_dir() {
                measured.push(parse(
                    &json(&newest.join("benchmark.json"))?,
                    &json(&newest.join("sample.json"))?,
                )?);
            }
        }
    }
    measured.sort_by(|a: &Measured, b| (&a.group, &a.function).cmp(&(&b.group, &b.function)));
    Ok(measured)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).context(format_args!("read `{}`", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).context(format_args!("read `{}`", path.display()))?;
    serde_json::from_str(&text).context(format_args!("read `{}`", path.display()))
}

fn parse(benchmark: &Value, sample: &Value) -> Result<Measured> {
    let text = |name: &str| Some(benchmark.get(name)?.as_str()?.to_owned());
    let numbers = |name: &str| -> Option<Vec<f64>> {
        sample.get(name)?.as_array()?.iter().map(Value::as_f64).collect()
    };
    let measured = || {
        let (calls, nanoseconds) = (numbers("iters")?, numbers("times")?);
        let samples_us = nanoseconds.iter().zip(&calls).map(|(time, calls)| time / calls / 1e3).collect();
        Some(Measured { group: text("group_id")?, function: text("function_id")?, samples_us })
    };
    measured().ok_or_else(|| Error::new("criterion wrote its results in another form than was expected"))
}

fn summary(measured: &[Measured]) -> String {
    let mut rows = vec![
        ["measured", "fastest sample, µs", "median, µs", "of native, by medians"].map(str::to_owned).to_vec(),
    ];
    for one in measured {
        let native = measured.iter().find(|other| other.group == one.group && other.function == "native");
        let ratio =
            native.map(|native| format!("{:.1}", median(&one.samples_us) / median(&native.samples_us)));
        rows.push(vec![
            format!("{}, {}", one.group, one.function),
            format!("{:.2}", one.samples_us.iter().copied().fold(f64::INFINITY, f64::min)),
            format!("{:.2}", median(&one.samples_us)),
            ratio.unwrap_or_default(),
        ]);
    }
    report::table(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(group: &str, function: &str, times: [f64; 3]) -> Measured {
        let benchmark = serde_json::json!({ "group_id": group, "function_id": function });
        parse(&benchmark, &serde_json::json!({ "iters": [1, 2, 4], "times": times })).unwrap()
    }

    #[test]
    fn tells_time_of_a_call_and_ratio() {
        let native = measured("transform/1", "native", [1_000.0, 2_200.0, 6_000.0]);
        assert_eq!(native.samples_us, [1.0, 1.1, 1.5]);
        let text = summary(&[native, measured("transform/1", "pooled", [3_300.0, 6_000.0, 20_000.0])]);
        assert!(text.contains("| transform/1, pooled | 3.00 | 3.30 | 3.0 |"), "{text}");
    }

    #[test]
    fn refuses_another_form() {
        parse(&serde_json::json!({ "group_id": "g" }), &serde_json::json!({})).unwrap_err();
    }
}

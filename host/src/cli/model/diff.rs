//! `host model diff`: how one bundle differs from another.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::output::{Output, Table, number_text, printable};
use crate::cli::state::StateArguments;
use crate::domain::Digest;
use crate::registry::{Difference, ModelReference, differences};

/// The bundles differ, and the user asked for a code.
const DIFFERENT: u8 = 1;

/// Longest text of a cell; `--json` has all.
const CELL_MAX_CHARS: usize = 40;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host model diff mnist@champion mnist")]
pub(in crate::cli) struct DiffArguments {
    /// The first: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`.
    a: ModelReference,
    /// The second.
    b: ModelReference,
    /// Exit with code 1 if there are differences, as `git diff --exit-code` does.
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(
    arguments: DiffArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let store = state.open_store()?;
    let a = state.resolve_model(&store, &arguments.a)?;
    let b = state.resolve_model(&store, &arguments.b)?;
    let found = differences(&a.manifest, &b.manifest);
    if output.is_json() {
        output.value(&json!({ "a": a.digest, "b": b.digest, "differences": found }))?;
    } else if found.is_empty() {
        output.note("both are the same bundle");
    } else {
        table(&found, output)?;
    }
    let is_told = arguments.exit_code && a.digest != b.digest;
    Ok(if is_told { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

fn table(found: &[Difference], output: &Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["PART", "NAME", "A", "B", ">DELTA"]);
    for difference in found {
        let delta = difference.delta.map(|delta| {
            let sign = if delta > 0.0 { "+" } else { "" };
            format!("{sign}{}", number_text(delta))
        });
        table.row(vec![
            difference.part.to_owned(),
            printable(&difference.name),
            cell(difference.a.as_ref()),
            cell(difference.b.as_ref()),
            delta.unwrap_or_default(),
        ]);
    }
    Ok(output.table(&table)?)
}

/// A value as people read it: digests short, numbers rounded, the rest cut where it is long.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None => "-".to_owned(),
        Some(Value::String(text)) => match text.rsplit_once("sha256:") {
            Some((before, _)) => {
                let digest = text.get(before.len()..).and_then(|digest| digest.parse::<Digest>().ok());
                digest.map_or_else(|| text.clone(), |digest| format!("{before}{}", digest.short()))
            }
            None => text.clone(),
        },
        Some(Value::Number(number)) => number.as_f64().map_or_else(|| number.to_string(), number_text),
        Some(Value::Null) => "none".to_owned(),
        Some(other) => other.to_string(),
    };
    let text = printable(&text);
    match text.chars().count() > CELL_MAX_CHARS {
        true => text.chars().take(CELL_MAX_CHARS - 1).chain(['…']).collect(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short() {
        let digest = Digest::of(b"");
        let told = |value: Value| cell(Some(&value));
        assert_eq!(told(json!(digest)), digest.short());
        assert_eq!(told(json!(format!("d@{digest}"))), format!("d@{}", digest.short()));
        assert_eq!(told(json!("sha256:x")), "sha256:x");
        assert_eq!(told(json!({ "a": 1 })), "{\"a\":1}");
        assert_eq!(told(json!(0.123456)), "0.1235");
        assert_eq!(told(json!("x".repeat(50))).chars().count(), CELL_MAX_CHARS);
        assert_eq!((cell(None), told(Value::Null)), ("-".to_owned(), "none".to_owned()));
    }
}

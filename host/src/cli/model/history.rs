//! `host model history`: what aliases meant, and when.

use anyhow::bail;
use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use crate::cli::output::{Output, Table};
use crate::domain::Name;
use crate::registry::{AliasChange, Registry, RegistryError};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, what served at noon:
  host model history mnist --alias champion --at 2026-11-25T12:00:00Z")]
pub(in crate::cli) struct HistoryArguments {
    /// The model.
    model: Name,
    /// Only this alias.
    #[arg(long)]
    alias: Option<String>,
    /// Tell what the aliases meant at this time, such as `2026-11-25T12:00:00Z` or `2026-11-25T13:00:00+01:00`.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<i64>,
}

pub(super) async fn run(
    arguments: HistoryArguments,
    registry: &Registry,
    output: &Output,
) -> anyhow::Result<()> {
    let HistoryArguments { model, alias, at } = arguments;
    let found = registry.find_model(&model).await?;
    let all = registry.alias_history(&found.name, None).await?;
    if let Some(alias) = &alias
        && !all.iter().any(|change| change.alias == *alias)
    {
        let mut aliases: Vec<String> = all.into_iter().map(|change| change.alias).collect();
        aliases.sort();
        aliases.dedup();
        return Err(RegistryError::UnknownAlias { name: model, alias: alias.clone(), aliases }.into());
    }
    let changes: Vec<AliasChange> =
        all.into_iter().filter(|change| alias.as_ref().is_none_or(|alias| change.alias == *alias)).collect();
    match at {
        Some(at) => tell_meanings(&model, at, &meanings(&changes, at), output),
        None => tell_changes(&model, &changes, output),
    }
}

/// The last change of each alias at a time, by alias. The order of changes counts: clocks may go back.
fn meanings(changes: &[AliasChange], at: i64) -> Vec<&AliasChange> {
    let mut last: Vec<&AliasChange> = Vec::new();
    for change in changes.iter().filter(|change| change.changed_at <= at) {
        last.retain(|other| other.alias != change.alias);
        last.push(change);
    }
    last.retain(|change| change.version.is_some());
    last.sort_by(|one, other| one.alias.cmp(&other.alias));
    last
}

fn tell_changes(model: &Name, changes: &[AliasChange], output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&json!({ "model": model, "changes": changes }));
    }
    let mut table = Table::new(&["TIME", "ALIAS", ">VERSION", "BUNDLE"]);
    for change in changes {
        let mut cells = vec![time_text(change.changed_at), change.alias.clone()];
        cells.extend(version_cells(change));
        table.row(cells);
    }
    Ok(output.table(&table)?)
}

fn tell_meanings(model: &Name, at: i64, meanings: &[&AliasChange], output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        let told = meanings.iter().map(|change| {
            let AliasChange { alias, version, bundle, changed_at } = change;
            json!({ "alias": alias, "version": version, "bundle": bundle, "since": changed_at })
        });
        return output.value(&json!({ "model": model, "at": at, "aliases": told.collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&["ALIAS", ">VERSION", "BUNDLE", "SINCE"]);
    for change in meanings {
        let mut cells = vec![change.alias.clone()];
        cells.extend(version_cells(change));
        cells.push(time_text(change.changed_at));
        table.row(cells);
    }
    output.table(&table)?;
    if meanings.is_empty() {
        output.note(&format!("no version is known to have been meant at {}", time_text(at)));
    }
    Ok(())
}

fn version_cells(change: &AliasChange) -> [String; 2] {
    let none = || "none".to_owned();
    let bundle = change.bundle.map_or_else(none, |bundle| bundle.short());
    [change.version.map_or_else(none, |version| version.to_string()), bundle]
}

/// Milliseconds since 1970 as people write them, in UTC.
fn time_text(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms);
    time.map_or_else(|| ms.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn parse_time(text: &str) -> anyhow::Result<i64> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.timestamp_millis()),
        Err(_) => bail!("`{text}` is no time: expected one such as `2026-11-25T12:00:00Z`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(alias: &str, version: Option<i64>, changed_at: i64) -> AliasChange {
        AliasChange { alias: alias.to_owned(), version, bundle: None, changed_at }
    }

    #[test]
    fn an_alias_means_what_it_was_last_moved_to() {
        let changes = [
            change("champion", Some(1), 10),
            change("challenger", Some(2), 20),
            change("champion", Some(2), 30),
            change("challenger", None, 30),
            // A clock that went back.
            change("champion", Some(3), 25),
        ];
        let told = |at| -> Vec<(String, i64)> {
            meanings(&changes, at)
                .iter()
                .map(|change| (change.alias.clone(), change.version.unwrap()))
                .collect()
        };
        let pair = |alias: &str, version| (alias.to_owned(), version);
        assert_eq!(told(9), []);
        assert_eq!(told(10), [pair("champion", 1)]);
        assert_eq!(told(24), [pair("challenger", 2), pair("champion", 1)]);
        assert_eq!(told(30), [pair("champion", 3)]);
    }

    #[test]
    fn times_have_a_zone() {
        assert_eq!(parse_time("2026-11-25T13:00:00+01:00").unwrap(), 1_795_608_000_000);
        assert_eq!(time_text(1_795_608_000_000), "2026-11-25T12:00:00.000Z");
        for text in ["", "now", "2026-11-25", "2026-11-25T12:00:00", "2026-13-01T00:00:00Z"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}

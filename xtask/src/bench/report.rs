//! Tables in docs/benchmarks.md, between marks, so that the words around them stay.

use std::process::Command;

use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::process;

/// What a new file begins with.
const SKELETON: &str = "# Benchmarks\n\nMeasured, and written between the marks, by `cargo xtask bench`.\n";

/// Replaces what bench `name` wrote before. `command` is what was typed.
pub(super) fn write(layout: &Layout, name: &str, command: &str, result: &str) -> Result<()> {
    let path = layout.benchmarks();
    let old = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => SKELETON.to_owned(),
        read => read.context(format_args!("read `{}`", path.display()))?,
    };
    let section = format!("`{command}`  \n{}\n\n{}\n", machine(layout), result.trim_end());
    let new = replace(&old, name, &section)?;
    let staged = path.with_added_extension("new");
    let written = std::fs::write(&staged, new).and_then(|()| std::fs::rename(&staged, &path));
    written.context(format_args!("write `{}`", path.display()))
}

/// A Markdown table: the first row is the head, and all columns but `left` are aligned to the right.
pub(super) fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut rule: Vec<&str> = vec!["---:"; columns];
    if let Some(cell) = rule.get_mut(left) {
        *cell = "---";
    }
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if index == 0 {
            text.push_str(&format!("| {} |\n", rule.join(" | ")));
        }
    }
    text
}

/// Puts `section` between the marks of bench `name`, which are added at the end where they are missing.
fn replace(text: &str, name: &str, section: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench:{name}:begin -->"), format!("<!-- bench:{name}:end -->"));
    let marked = format!("{begin}\n{section}{end}");
    match (text.split_once(&begin), text.split_once(&end)) {
        (None, None) => Ok(format!("{}\n\n## {name}\n\n{marked}\n", text.trim_end())),
        (Some((before, rest)), Some(_)) if rest.contains(&end) => {
            let after = rest.split_once(&end).map(|(_, after)| after).unwrap_or_default();
            Ok(format!("{before}{marked}{after}"))
        }
        _ => Err(Error::new(format!(
            "docs/benchmarks.md has not both `{begin}` and, after it, `{end}`: add them"
        ))),
    }
}

/// The machine, the compiler and the commit, for whoever compares.
fn machine(layout: &Layout) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    // Not those that this thread keeps to.
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok());
    let gibibytes = kilobytes.unwrap_or(0.0_f64) / 1024.0 / 1024.0;
    let mut parts = vec![format!("{cores} cores of {model}, {gibibytes:.0} GiB")];
    parts.extend(said(Command::new("uname").arg("-sr")));
    parts.extend(said(Command::new("rustc").arg("--version")).map(|text| first_words(&text, 2)));
    let mut describe = Command::new("git");
    describe.args(["describe", "--always"]).current_dir(layout.root());
    let mut is_clean = Command::new("git");
    // The results themselves change nothing of what is measured.
    is_clean.args(["diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs/benchmarks.md"]);
    let dirty = if process::succeeds(is_clean.current_dir(layout.root())) { "" } else { "-dirty" };
    parts.extend(said(&mut describe).map(|text| format!("commit {text}{dirty}")));
    parts.extend(said(Command::new("date").arg("+%F")));
    parts.join(", ")
}

/// What a program says, or nothing where it cannot be asked.
fn said(command: &mut Command) -> Option<String> {
    process::read_text(command, "describe the machine").ok().filter(|text| !text.is_empty())
}

fn first_words(text: &str, count: usize) -> String {
    text.split(' ').take(count).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_what_was_written_before_and_nothing_else() {
        let first = replace("# Title\n\nWords.\n", "a", "one\n").unwrap();
        let expected = "# Title\n\nWords.\n\n## a\n\n<!-- bench:a:begin -->\none\n<!-- bench:a:end -->\n";
        assert_eq!(first, expected);
        let both = replace(&format!("{first}\nMore.\n"), "b", "two\n").unwrap();
        let again = replace(&both, "a", "three\n").unwrap();
        assert_eq!(again, both.replace("one\n", "three\n"));
    }

    #[test]
    fn refuses_half_a_pair_of_marks() {
        for text in ["<!-- bench:a:begin -->", "<!-- bench:a:end --> <!-- bench:a:begin -->"] {
            let error = replace(text, "a", "x\n").unwrap_err().to_string();
            assert!(error.starts_with("docs/benchmarks.md has not both"), "{error}");
        }
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [["n", "server", "ms"], ["1", "host", "0.1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, 1), "| n | server | ms |\n| ---: | --- | ---: |\n| 1 | host | 0.1 |\n");
    }
}

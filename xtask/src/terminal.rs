//! What the user sees. The only file that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where it is done")]

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::error::Error;

/// A line of output.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Begins a part.
pub(crate) fn heading(text: &str) {
    println!("\n{}", painted(text, "1;36"));
}

/// Shows a command as the user would type it.
pub(crate) fn command(text: &str) {
    println!("{} {}", painted("$", "2"), painted(text, "1"));
}

/// Says in passing what is being done, to standard error as every tool does.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Tells what failed.
pub(crate) fn error(error: &Error) {
    eprintln!("error: {error}");
}

/// A time for people: `0.4 s`, `12 s`, `3 min 20 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..60.0 => format!("{seconds:.0} s"),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// Aligns columns: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn painted(text: &str, style: &str) -> String {
    let plain = !std::io::stdout().is_terminal()
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { text.to_owned() } else { format!("\x1b[{style}m{text}\x1b[0m") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["name", "rows"], ["é", "10,000"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "name    rows\né     10,000\n");
    }

    #[test]
    fn times_read_well() {
        let times = [0.44, 12.4, 200.9].map(|seconds| duration(Duration::from_secs_f64(seconds)));
        assert_eq!(times, ["0.4 s", "12 s", "3 min 20 s"]);
    }
}

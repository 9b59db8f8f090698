pub(super) mod standard_error;
mod told_progress;

use std::io::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use console::{Alignment, Term, measure_text_width, pad_str, style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

/// How results reach the user: text for people or JSON for programs on standard output, the rest on standard error.
pub(super) struct Output {
    json: bool,
    quiet: bool,
}

/// A value as JSON, with `more` fields in it or in place of its own.
pub(super) fn with_fields(
    value: &impl Serialize,
    more: impl IntoIterator<Item = (&'static str, Value)>,
) -> serde_json::Result<Value> {
    let mut told = serde_json::to_value(value)?;
    if let Value::Object(fields) = &mut told {
        fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    Ok(told)
}

/// A table of text; columns are as wide as their widest cell.
pub(super) struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether the user asked for JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether the user wants to be told of failures only.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// Writes a line of data.
    pub(super) fn line(&self, text: &str) -> std::io::Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Writes a value as indented JSON.
    pub(super) fn value(&self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(self.line(&serde_json::to_string_pretty(value)?)?)
    }

    /// Writes a name and what it is, aligned with its neighbours.
    pub(super) fn field(&self, name: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
        self.styled_field(name, printable(&value.to_string()))
    }

    /// The same of a value with a style, of which nothing is from outside.
    pub(super) fn styled_field(&self, name: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
        let name = style(printable(name)).dim().to_string();
        self.line(&format!("{} {value}", pad_str(&name, 14, Alignment::Left, None)))
    }

    /// Writes a table.
    pub(super) fn table(&self, table: &Table) -> std::io::Result<()> {
        self.bytes(table.to_string().as_bytes())
    }

    /// Tells what was done.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(&message(text));
        }
    }

    /// Tells what was done, in a text that is fit for a terminal already.
    pub(super) fn raw_note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Tells what may go wrong.
    pub(super) fn warn(&self, text: &str) {
        to_stderr(&format!("{} {}", style("warning:").for_stderr().yellow().bold(), message(text)));
    }

    /// Tells what went wrong.
    pub(super) fn error(&self, text: &str) {
        to_stderr(&format!("{} {}", style("error:").for_stderr().red().bold(), message(text)));
    }

    /// A progress bar on standard error; hidden where nobody watches.
    pub(super) fn progress(&self, length: u64, what: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(length), self.target()).with_prefix(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Room for several bars on standard error, one below the other; hidden where nobody watches.
    pub(super) fn progress_lines(&self) -> MultiProgress {
        MultiProgress::with_draw_target(self.target())
    }

    /// Where bars are drawn.
    fn target(&self) -> ProgressDrawTarget {
        match told_progress::target() {
            Some(target) => target,
            None if self.quiet || !Term::stderr().is_term() => ProgressDrawTarget::hidden(),
            None => ProgressDrawTarget::stderr_with_hz(10),
        }
    }

    /// A progress bar of bytes on standard error; hidden where nobody watches.
    pub(super) fn progress_bytes(&self, length: u64, what: &str) -> ProgressBar {
        let bar = self.progress(length, what);
        let template =
            "{prefix:10} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar
    }
}

impl Table {
    /// A table with these columns; a name that starts with `>` is right-aligned.
    pub(super) fn new(header: &[&str]) -> Self {
        let right = header.iter().map(|name| name.starts_with('>')).collect();
        let header = header.iter().map(|name| printable(name.trim_start_matches('>'))).collect();
        Self { header, right, rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.styled_row(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Adds a row of which some cells have styles; what is from outside in it is printable.
    pub(super) fn styled_row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header: Vec<String> = self.header.iter().map(|name| style(name).bold().to_string()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain(std::iter::once(&header)).filter_map(|row| row.get(column));
            cells.map(|cell| measure_text_width(cell)).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                let side = if right { Alignment::Right } else { Alignment::Left };
                line.push_str(&pad_str(cell, width, side, None));
                line.push_str("  ");
            }
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Sends the program's own log and the plugins' to standard error.
pub(super) fn start_log(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => tracing::Level::ERROR,
        (false, 0) => tracing::Level::WARN,
        (false, 1) => tracing::Level::INFO,
        (false, _) => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| standard_error::LogWriter)
        .with_ansi(console::colors_enabled_stderr())
        .init();
}

fn to_stderr(text: &str) {
    standard_error::write(format!("{text}\n").as_bytes());
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the unit that fits.
pub(super) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A number with the digits that people read.
pub(super) fn number_text(value: f64) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    if value.is_infinite() {
        return value.to_string();
    }
    if value.abs() >= 1e15 {
        let text = format!("{value:.4e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    if value.abs() < 5e-4 {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Values as bars, as high as their share of the range. Those that are no numbers leave a gap.
pub(super) fn sparkline(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (Some(least), Some(most)) = (finite().reduce(f64::min), finite().reduce(f64::max)) else {
        return String::new();
    };
    let block = |value: &f64| {
        if !value.is_finite() {
            return ' ';
        }
        let share = if most > least { (value - least) / (most - least) } else { 0.0 };
        BLOCKS.get((share * 7.0).round() as usize).copied().unwrap_or(' ')
    };
    if values.len() < 2 { String::new() } else { values.iter().map(block).collect() }
}

/// Text from outside without characters that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let escape = |letter: char| -> String {
        if letter.is_control() { letter.escape_debug().collect() } else { letter.to_string() }
    };
    text.chars().map(escape).collect()
}

/// A message, which may name what comes from outside; a hint stays on a line of its own.
fn message(text: &str) -> String {
    const HINT: &str = "\nhint: ";
    match text.rsplit_once(HINT) {
        Some((text, hint)) => format!("{}{HINT}{}", printable(text), printable(hint)),
        None => printable(text),
    }
}

/// How long ago something was.
pub(super) fn age_text(ms: i64) -> String {
    format!("{} ago", duration_text(ms))
}

/// A time of the calendar, in UTC.
pub(super) fn time_text(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms);
    time.map_or_else(|| ms.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A length of time in the units that people read.
pub(super) fn duration_text(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        0 => format!("{} ms", ms.max(0)),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 15_600, 22_000_000].map(bytes_text), ["999 B", "15.6 kB", "22.0 MB"]);
        assert_eq!([33.318421, 255.0, f64::NAN].map(number_text), ["33.3184", "255", "-"]);
        let (large, small) = ([f64::MAX, -1.7e18, 1e15], [1e-7, f64::MIN_POSITIVE]);
        assert_eq!(large.map(number_text), ["1.7977e308", "-1.7e18", "1e15"]);
        assert_eq!(small.map(number_text), ["1.00e-7", "2.23e-308"]);
        assert_eq!(number_text(f64::INFINITY), "inf");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">ROWS"]);
        table.row(vec!["mnist".into(), "70,000".into()]);
        table.row(vec!["ä".into(), "1".into()]);
        console::set_colors_enabled(false);
        assert_eq!(table.to_string(), "NAME     ROWS\nmnist  70,000\nä           1\n");
    }

    #[test]
    fn draws_histories() {
        assert_eq!(sparkline(&[0.0, 1.0, 0.5, f64::NAN, 1.0]), "▁█▅ █");
        assert_eq!(sparkline(&[2.0, 2.0]), "▁▁");
        assert_eq!(sparkline(&[1.0]), "");
        assert_eq!(sparkline(&[f64::NAN, f64::INFINITY]), "");
    }

    #[test]
    fn says_how_long() {
        let texts = [5, 5_000, 65_000, 3_700_000, 200_000_000].map(duration_text);
        assert_eq!(texts, ["5 ms", "5 s", "1 min 5 s", "1 h 1 min", "2 d"]);
        assert_eq!(time_text(1_795_608_000_789), "2026-11-25T12:00:00Z");
    }

    #[test]
    fn a_terminal_obeys_nothing_from_outside() {
        assert_eq!(printable("a\u{1b}[31m\nü"), "a\\u{1b}[31m\\nü");
        assert_eq!(message("no `a\nb\u{1b}`\nhint: give\tone"), "no `a\\nb\\u{1b}`\nhint: give\\tone");
        console::set_colors_enabled(false);
        let mut table = Table::new(&["a\u{1b}[2J", "b"]);
        table.row(vec!["c\u{1b}]0;d\u{7}".into(), "e\r\nf".into()]);
        table.styled_row(vec![style("g").force_styling(true).red().to_string(), String::new()]);
        let told = table.to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines[0].starts_with("a\\u{1b}[2J") && lines[1] == "c\\u{1b}]0;d\\u{7}  e\\r\\nf",
            "{told:?}"
        );
        assert!(lines.len() == 3 && lines[2].starts_with("\u{1b}[31mg"), "{told:?}");
    }
}

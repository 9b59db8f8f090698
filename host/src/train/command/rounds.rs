//! What a program tells of its rounds: lines `ROUND NAME=VALUE …` that it appends to a file, read while it runs.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use crate::train::{RoundMetric, RoundReport, RowSet};

/// Longest line.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Bytes that are read at a time, so that a program which writes faster than this reads is not waited for.
const READ_MAX_BYTES: u64 = 1024 * 1024;

/// The file, as far as it has been read.
#[derive(Debug)]
pub(super) struct RoundLines {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not there yet.
    begun: Vec<u8>,
    line: u64,
    /// A line was no report: it is told once.
    was_told: bool,
}

impl RoundLines {
    /// Lines of a file that need not be there yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, begun: Vec::new(), line: 0, was_told: false }
    }

    /// The reports that have come since the last call; none where there is nothing new. Lines that are no reports are left
    /// out with a warning: a model is not worth less because a line was written badly.
    pub(super) fn read(&mut self) -> Vec<RoundReport> {
        if self.file.is_none() {
            // A pipe would be waited for.
            let is_file = std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.is_file());
            self.file = is_file.then(|| File::open(&self.path).ok()).flatten();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        if file.by_ref().take(READ_MAX_BYTES).read_to_end(&mut self.begun).is_err() {
            return Vec::new();
        }
        let end = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        let rest = self.begun.split_off(end);
        let lines = std::mem::replace(&mut self.begun, rest);
        if self.begun.len() > LINE_MAX_BYTES {
            self.begun.clear();
            self.tell(&format!("it has more than {LINE_MAX_BYTES} bytes"));
        }
        let mut reports = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.line += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match report(&String::from_utf8_lossy(line)) {
                Ok(report) => reports.push(report),
                Err(reason) => self.tell(&reason),
            }
        }
        reports
    }

    fn tell(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.was_told, true) {
            tracing::warn!("line {} of the program's metrics is left out: {reason}", self.line);
        }
    }
}

/// Reads a line.
fn report(line: &str) -> Result<RoundReport, String> {
    let expected = "expected `ROUND NAME=VALUE …`, such as `3 train-loss=0.2 test-loss=0.3`";
    let shown: String = line.chars().filter(|character| !character.is_control()).take(80).collect();
    let refuse = || format!("{expected}, found `{shown}`");
    let mut words = line.split_whitespace();
    let round: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(refuse)?;
    let metrics = words.map(|word| metric(word).ok_or_else(refuse)).collect::<Result<Vec<_>, _>>()?;
    // How many there will be is not known: as far as anybody can tell, this is the last.
    Ok(RoundReport { round, of: round, metrics })
}

fn metric(word: &str) -> Option<RoundMetric> {
    let (name, value) = word.split_once('=')?;
    let (set, name) = [RowSet::Train, RowSet::Test]
        .into_iter()
        .find_map(|set| Some((set, name.strip_prefix(set.name())?.strip_prefix('-')?)))?;
    let value = value.parse().ok()?;
    (!name.is_empty()).then(|| RoundMetric { set, name: name.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_read_as_they_come_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let mut lines = RoundLines::new(path.clone());
        assert!(lines.read().is_empty());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"1 train-loss=0.5 test-loss=nan\n\n2 test-l").unwrap();
        let metric = |set, name: &str, value| RoundMetric { set, name: name.to_owned(), value };
        let first = lines.read();
        assert_eq!((first.len(), first[0].round, first[0].of), (1, 1, 1));
        assert_eq!(first[0].metrics[0], metric(RowSet::Train, "loss", 0.5));
        assert!(first[0].metrics[1].value.is_nan());
        assert!(lines.read().is_empty());
        file.write_all(b"oss=0.25\n").unwrap();
        let second = lines.read();
        assert_eq!(second[0].metrics, [metric(RowSet::Test, "loss", 0.25)]);
        assert_eq!(second.len(), 1);
    }

    #[test]
    fn what_is_no_report_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let mut text =
            b"one train-loss=1\n1 loss=1\n1 train-loss\n1 train-=1\n-1 train-loss=1\n\xff\n".to_vec();
        text.extend_from_slice(b"7 test-f1/macro=1e-3\n");
        text.extend(vec![b'x'; LINE_MAX_BYTES + 1]);
        std::fs::write(&path, text).unwrap();
        let mut lines = RoundLines::new(path);
        let found = lines.read();
        assert_eq!((found.len(), found[0].round, found[0].metrics[0].name.as_str()), (1, 7, "f1/macro"));
        assert!(lines.begun.is_empty());
        assert!(report("x").unwrap_err().ends_with("found `x`"));
    }
}

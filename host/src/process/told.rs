//! Tells apart what a program of this host prints and how it says how far it is.

use super::PROGRESS_MARK;

/// Longest line of progress; a longer one is not shown.
const LINE_MAX_BYTES: usize = 1_024;

/// Takes bytes as they come and splits them at marked lines, wherever the pieces end.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The marked line that has begun.
    line: Option<Vec<u8>>,
    /// Whether the next byte begins a line.
    is_inside_line: bool,
}

impl Told {
    /// Hands on all that is no progress to `log`, and each line of progress to `progress`.
    pub(super) fn split(
        &mut self,
        bytes: &[u8],
        mut log: impl FnMut(&[u8]),
        mut progress: impl FnMut(String),
    ) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = line.last() == Some(&b'\n');
            let mut rest = line;
            if !self.is_inside_line && line.first() == Some(&PROGRESS_MARK) {
                self.line = Some(Vec::new());
                rest = line.get(1..).unwrap_or_default();
            }
            match &mut self.line {
                Some(told) => {
                    let room = LINE_MAX_BYTES.saturating_sub(told.len());
                    told.extend_from_slice(rest.get(..rest.len().min(room)).unwrap_or_default());
                    if ends && let Some(told) = self.line.take() {
                        progress(readable(&told));
                    }
                }
                None => log(rest),
            }
            self.is_inside_line = !ends;
        }
    }
}

/// What may be shown in a terminal.
fn readable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
        let (mut told, mut log, mut progress) = (Told::default(), Vec::new(), Vec::new());
        for piece in pieces {
            told.split(piece, |bytes| log.extend_from_slice(bytes), |line| progress.push(line));
        }
        (log, progress)
    }

    #[test]
    fn progress_is_no_part_of_the_log_wherever_pieces_end() {
        let all = b"first\n\x1etraining 3/10\nsecond \x1e no mark\n\x1etraining 4/10\nend";
        let whole = split(&[all]);
        assert_eq!(whole.0, b"first\nsecond \x1e no mark\nend");
        assert_eq!(whole.1, ["training 3/10", "training 4/10"]);
        for at in 0..all.len() {
            assert_eq!(split(&[&all[..at], &all[at..]]), whole, "{at}");
        }
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(split(&bytes), whole);
    }

    #[test]
    fn nothing_drives_a_terminal_or_fills_memory() {
        let (log, progress) = split(&[b"\x1e\x1b[31mred\n\x1e", &[b'x'; 10_000], b"\n"]);
        assert!(log.is_empty());
        assert_eq!(progress[0], "[31mred");
        assert_eq!(progress[1].len(), LINE_MAX_BYTES);
    }
}

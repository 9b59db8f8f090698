use std::collections::VecDeque;

/// Bytes that are kept of the beginning and of the end of what a program prints.
const KEPT_BYTES: usize = 256 * 1024;

/// What a program prints: the beginning and the end of it, however much there is.
#[derive(Debug, Default)]
pub struct Log {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Log {
    /// Adds what it has just printed.
    pub fn add(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(KEPT_BYTES - self.head.len().min(KEPT_BYTES)));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(KEPT_BYTES);
        let rest = rest.get(skipped..).unwrap_or_default();
        let overflow = (self.tail.len() + rest.len()).saturating_sub(KEPT_BYTES);
        self.tail.drain(..overflow);
        self.tail.extend(rest);
        self.left_out += (skipped + overflow) as u64;
    }

    /// All that was kept, with a line where something is missing.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.head;
        if self.left_out > 0 {
            bytes.extend_from_slice(format!("\n[… {} bytes left out …]\n", self.left_out).as_bytes());
        }
        bytes.extend(self.tail);
        bytes
    }

    /// The last line that says something, for an error.
    pub fn last_line(&self) -> Option<String> {
        let (front, back) = self.tail.as_slices();
        let text = [self.head.as_slice(), front, back].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_kept_whole() {
        let mut log = Log::default();
        log.add(b"one\n");
        log.add(b"two\n\n");
        assert_eq!(log.last_line().unwrap(), "two");
        assert_eq!(log.into_bytes(), b"one\ntwo\n\n");
    }

    #[test]
    fn much_keeps_its_beginning_and_its_end() {
        for piece in [1_000, KEPT_BYTES, 3 * KEPT_BYTES] {
            let all: Vec<u8> = (0..6 * KEPT_BYTES).map(|index| b'a' + (index % 26) as u8).collect();
            let mut log = Log::default();
            all.chunks(piece).for_each(|piece| log.add(piece));
            let kept = log.into_bytes();
            assert!(kept.len() < 2 * KEPT_BYTES + 100);
            assert_eq!(kept[..KEPT_BYTES], all[..KEPT_BYTES]);
            assert_eq!(kept[kept.len() - KEPT_BYTES..], all[all.len() - KEPT_BYTES..]);
            let note = format!("[… {} bytes left out …]", 4 * KEPT_BYTES);
            assert!(kept.windows(note.len()).any(|window| window == note.as_bytes()), "{piece}");
        }
    }
}

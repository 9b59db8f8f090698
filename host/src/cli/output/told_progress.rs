//! Progress bars of a program that no terminal watches but a pipeline does: each change is a marked line on standard error.

use std::io;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressDrawTarget, TermLike};

use crate::process::{PROGRESS, PROGRESS_MARK};

/// Columns that a line may have.
const WIDTH: u16 = 120;

/// Lines in a second.
const RATE: u8 = 2;

/// Where bars are drawn if a pipeline has asked to be told.
pub(super) fn target() -> Option<ProgressDrawTarget> {
    let is_asked = std::env::var_os(PROGRESS).is_some_and(|value| !value.is_empty());
    is_asked.then(|| ProgressDrawTarget::term_like_with_hz(Box::new(ToldProgress::default()), RATE))
}

/// Takes what is drawn and tells its last line where that has changed.
#[derive(Debug, Default)]
struct ToldProgress {
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    drawn: Option<String>,
    told: String,
}

impl Lines {
    fn draw(&mut self, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            self.drawn = Some(text.to_owned());
        }
    }

    /// What is to be told now.
    fn take(&mut self) -> Option<String> {
        let drawn = self.drawn.take().filter(|drawn| *drawn != self.told)?;
        self.told.clone_from(&drawn);
        Some(format!("{}{drawn}\n", char::from(PROGRESS_MARK)))
    }
}

impl TermLike for ToldProgress {
    fn width(&self) -> u16 {
        WIDTH
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).draw(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        use io::Write as _;
        let told = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        match told {
            // In one piece, so that nothing that others print comes between.
            Some(told) => io::stderr().lock().write_all(told.as_bytes()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_last_line_of_each_drawing_once() {
        let mut lines = Lines::default();
        let mut draw = |texts: &[&str]| {
            texts.iter().for_each(|text| lines.draw(text));
            lines.take()
        };
        assert_eq!(draw(&["\r", "trials 1/8", "      "]).unwrap(), "\u{1e}trials 1/8\n");
        assert_eq!(draw(&["trials 1/8"]), None);
        assert_eq!(draw(&["trial 3", " ", "trials 2/8"]).unwrap(), "\u{1e}trials 2/8\n");
        assert_eq!(draw(&[" "]), None);
    }
}

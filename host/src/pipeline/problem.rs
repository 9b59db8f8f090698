use std::fmt;

/// Problems that are told of one file; further ones are only counted, since a reader mends the first ones first.
pub const PROBLEMS_MAX: usize = 20;

/// Longest piece of a user's text within a message, in characters.
const QUOTED_MAX_CHARS: usize = 60;

/// Where something stands in the file: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

/// One thing that is wrong with a pipeline: where, and one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; none for what came from the command line (`-p`).
    pub place: Option<Place>,
    /// What was expected and what was found.
    pub message: String,
}

/// What is wrong with a pipeline file or the parameters given for it: all problems, in the order of the file.
///
/// Displayed as one line each, `pipeline.yaml:12:7: unknown key …`, so that editors can jump there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PipelineError {
    file: String,
    problems: Vec<Problem>,
    untold: usize,
}

impl PipelineError {
    /// The problems that are told, at most [`PROBLEMS_MAX`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for PipelineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            match problem.place {
                Some(place) => write!(formatter, "{}:{}:{}: ", self.file, place.line, place.column)?,
                None => write!(formatter, "{}: ", self.file)?,
            }
            formatter.write_str(&problem.message)?;
        }
        if self.untold > 0 {
            write!(formatter, "\nand {} more", self.untold)?;
        }
        Ok(())
    }
}

/// Collects problems while a file is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn add(&mut self, place: Place, message: impl Into<String>) {
        self.found.push(Problem { place: Some(place), message: message.into() });
    }

    pub(super) fn add_without_place(&mut self, message: impl Into<String>) {
        self.found.push(Problem { place: None, message: message.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether so many were found that looking for more is a waste of time.
    pub(super) fn are_plenty(&self) -> bool {
        self.found.len() > 100 * PROBLEMS_MAX
    }

    /// `value` if nothing was wrong; all problems otherwise, those of the same place and words once.
    pub(super) fn or<T>(mut self, file: &str, value: T) -> Result<T, PipelineError> {
        if self.found.is_empty() { Ok(value) } else { Err(self.take(file)) }
    }

    pub(super) fn into_error(mut self, file: &str) -> PipelineError {
        self.take(file)
    }

    fn take(&mut self, file: &str) -> PipelineError {
        let mut problems = std::mem::take(&mut self.found);
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        let untold = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        PipelineError { file: file.to_owned(), problems, untold }
    }
}

/// A user's text for a message: on one line and not longer than a line.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars
        .by_ref()
        .take(QUOTED_MAX_CHARS)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// `: did you mean `x`?` if a known name is close to `name`; nothing otherwise.
pub(super) fn suggestion<'known>(name: &str, known: impl IntoIterator<Item = &'known str>) -> String {
    crate::domain::closest(name, known).map(|known| format!(": did you mean `{known}`?")).unwrap_or_default()
}

/// Names for a message: `a`, `b`, `c`; of many only the first ones.
pub(super) fn listed<'name>(names: impl IntoIterator<Item = &'name str>) -> String {
    const SHOWN: usize = 12;
    let all: Vec<&str> = names.into_iter().collect();
    let mut text = all.iter().take(SHOWN).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN {
        text.push_str(&format!(" and {} more", all.len() - SHOWN));
    }
    text
}

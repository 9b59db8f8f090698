use serde::Serialize;

/// How far a step is. In the order in which the state of one tells most of several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Its result was there already.
    Cached,
    /// It has been run.
    Finished,
    /// Its condition was not met, or it refers to what one would have answered whose was not.
    Skipped,
    /// It has not begun.
    Waiting,
    /// It is being run, or was when the pipeline's process was killed.
    Running,
    /// Somebody said stop.
    Cancelled,
    /// It needs a step that has failed.
    Blocked,
    /// All its attempts have failed.
    Failed,
}

impl StepStatus {
    const ALL: [Self; 8] = [
        Self::Cached,
        Self::Finished,
        Self::Skipped,
        Self::Waiting,
        Self::Running,
        Self::Cancelled,
        Self::Blocked,
        Self::Failed,
    ];

    /// One word, lower-case, as people and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Finished => "finished",
            Self::Skipped => "skipped",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Cancelled => "cancelled",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }

    /// The status of that word.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

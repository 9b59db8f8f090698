//! Checkpoints of a training: artifacts of its run, of which the newest two stay.
//!
//! Two, because one that has just been written may turn out to be of no use when the disk fails.

use std::io::Read as _;

use crate::track::{ArtifactPath, Run, TrackError, Tracker};

const FOLDER: &str = "checkpoints";

/// Checkpoints that are kept.
const KEPT: usize = 2;

/// Keeps the checkpoint after `round`, and lets go of those that are too many.
pub(super) async fn keep(
    tracker: &Tracker,
    run_id: &str,
    round: u32,
    bytes: Vec<u8>,
) -> Result<(), TrackError> {
    let run = tracker.run(run_id).await?;
    tracker.put_run_artifact(&run, &format!("{FOLDER}/round-{round:06}"), bytes).await?;
    let rounds = rounds(tracker, &run).await?;
    for (_, path) in rounds.iter().rev().skip(KEPT) {
        tracker.delete_artifact(path.clone()).await?;
    }
    Ok(())
}

/// The newest checkpoint of a run: the round after which it was made, and its bytes.
pub(super) async fn newest(tracker: &Tracker, run: &Run) -> Result<Option<(u32, Vec<u8>)>, TrackError> {
    let Some((round, path)) = rounds(tracker, run).await?.pop() else { return Ok(None) };
    let (mut file, size) = tracker.open_artifact(&path).await?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.read_to_end(&mut bytes).map_err(|error| TrackError::internal(error.to_string()))?;
    Ok(Some((round, bytes)))
}

/// The checkpoints there are, the newest last.
async fn rounds(tracker: &Tracker, run: &Run) -> Result<Vec<(u32, ArtifactPath)>, TrackError> {
    let entries =
        tracker.list_artifacts(&tracker.artifact_folder(run)?.join(&ArtifactPath::parse(FOLDER)?)).await?;
    let mut rounds = Vec::new();
    for entry in entries {
        let number = entry.path.rsplit_once("/round-").and_then(|(_, number)| number.parse().ok());
        if let Some(round) = number {
            rounds.push((round, ArtifactPath::parse(&entry.path)?));
        }
    }
    rounds.sort_by_key(|(round, _)| *round);
    Ok(rounds)
}

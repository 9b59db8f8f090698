use std::collections::BTreeMap;
use std::io::Read;

use super::artifacts::{ARTIFACT_MAX_BYTES, internal};
use super::{ArtifactPath, ErrorCode, TrackError, Tracker};
use crate::domain::Digest;
use crate::store::{PartUpload, PartUploadError, Store};

/// Parts of one artifact, as many as S3 takes.
const PARTS_MAX: u32 = 10_000;

impl Tracker {
    /// Begins an artifact that is sent in `parts` parts; gives the upload's identifier.
    pub async fn begin_multipart(&self, path: ArtifactPath, parts: i64) -> Result<String, TrackError> {
        let count = u32::try_from(parts).ok().filter(|count| *count <= PARTS_MAX);
        let count = count.ok_or_else(|| {
            TrackError::invalid(format!(
                "Invalid value {parts} for parameter 'num_parts' supplied: expected 0 to {PARTS_MAX}"
            ))
        })?;
        self.blocking(move |store| store.begin_upload(path.as_str(), count)).await
    }

    /// Most bytes of a part, by the upload's identifier and the part's number: parts are of one size but for the last, so
    /// each has its share of the largest artifact.
    pub async fn part_max_bytes(&self, id: String, number: u32) -> Result<u64, TrackError> {
        let upload = self.blocking(move |store| store.find_upload(&id)).await?;
        check_number(&upload, number)?;
        Ok(ARTIFACT_MAX_BYTES / u64::from(upload.parts().saturating_sub(1).max(1)))
    }

    /// Stores a part, in place of one of the same number; gives the digest of its bytes.
    pub async fn put_part(
        &self,
        id: String,
        number: u32,
        mut content: impl Read + Send + 'static,
    ) -> Result<Digest, TrackError> {
        self.blocking(move |store| store.find_upload(&id)?.put_part(number, &mut content)).await
    }

    /// Makes an artifact of the parts, which are named by their numbers with the digests that they must have. Durable when
    /// it returns, and harmless to repeat.
    pub async fn complete_multipart(
        &self,
        id: String,
        path: ArtifactPath,
        parts: Vec<(i64, Digest)>,
    ) -> Result<(), TrackError> {
        let upload = self.find_multipart(id, &path).await?;
        let parts = in_order(&upload, parts)?;
        let assembled =
            self.blocking(move |store| store.assemble_upload(upload, parts, ARTIFACT_MAX_BYTES)).await?;
        let Some(assembled) = assembled else { return Ok(()) };
        let blob = assembled.blob();
        self.link_artifacts(vec![(path, blob.digest, blob.size)]).await?;
        // The artifact is there: an upload that cannot be ended is forgotten later.
        if let Err(error) = self.blocking(move |_| Ok(assembled.finish()?)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an upload was completed but not ended");
        }
        Ok(())
    }

    /// Ends an upload and forgets its parts; harmless to repeat.
    pub async fn abort_multipart(&self, id: String, path: ArtifactPath) -> Result<(), TrackError> {
        let upload = self.find_multipart(id, &path).await?;
        self.blocking(move |_| upload.abort()).await
    }

    async fn find_multipart(&self, id: String, path: &ArtifactPath) -> Result<PartUpload, TrackError> {
        let upload = self.blocking(move |store| store.find_upload(&id)).await?;
        if upload.name() != path.as_str() {
            return Err(TrackError::invalid(format!(
                "Invalid artifact path: the upload is of '{}', not of '{}'",
                upload.name(),
                path.as_str()
            )));
        }
        Ok(upload)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, PartUploadError> + Send + 'static,
    ) -> Result<T, TrackError> {
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || work(&store)).await.map_err(internal)??)
    }
}

fn check_number(upload: &PartUpload, number: u32) -> Result<(), TrackError> {
    if (1..=upload.parts()).contains(&number) {
        return Ok(());
    }
    Err(wrong_number(upload, i64::from(number)))
}

fn wrong_number(upload: &PartUpload, number: i64) -> TrackError {
    TrackError::invalid(format!("Invalid part number {number}: expected 1 to {}", upload.parts()))
}

/// The digests of all parts by their numbers, where each is named once.
fn in_order(upload: &PartUpload, parts: Vec<(i64, Digest)>) -> Result<Vec<Digest>, TrackError> {
    let mut sorted = BTreeMap::new();
    for (number, digest) in parts {
        let valid = u32::try_from(number).map_err(|_| wrong_number(upload, number))?;
        check_number(upload, valid)?;
        if sorted.insert(valid, digest).is_some() {
            return Err(TrackError::invalid(format!("Part {number} is named twice")));
        }
    }
    match (1..=upload.parts()).find(|number| !sorted.contains_key(number)) {
        Some(number) => Err(TrackError::invalid(format!("Part {number} is not among the parts"))),
        None => Ok(sorted.into_values().collect()),
    }
}

impl From<PartUploadError> for TrackError {
    fn from(error: PartUploadError) -> Self {
        let code = match error {
            PartUploadError::Store(error) => return error.into(),
            PartUploadError::Unknown { .. } => ErrorCode::ResourceDoesNotExist,
            PartUploadError::TooMany | PartUploadError::Busy { .. } => ErrorCode::TemporarilyUnavailable,
            PartUploadError::Ended { .. }
            | PartUploadError::MissingPart { .. }
            | PartUploadError::DifferentPart { .. }
            | PartUploadError::TooLarge { .. } => ErrorCode::InvalidParameterValue,
        };
        Self::new(code, error.to_string())
    }
}

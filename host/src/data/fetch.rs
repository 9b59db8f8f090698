//! Files of other people's buckets, copied here to be added.

use std::path::PathBuf;

use super::DataError;
use crate::store::{Store, TemporaryFolder};

/// Whether a path is the URL of a bucket.
pub(super) fn is_url(path: &str) -> bool {
    ["s3://", "gs://", "az://"].iter().any(|scheme| path.starts_with(scheme))
}

/// Copies all objects below the URLs into a temporary folder; none if there are no URLs. Names start after the URL's
/// last part, or are that part where the URL is an object's own.
pub(super) fn fetch_folders(urls: &[PathBuf], store: &Store) -> Result<Option<TemporaryFolder>, DataError> {
    if urls.is_empty() {
        return Ok(None);
    }
    let folder = store.temporary_folder()?;
    for url in urls.iter().filter_map(|url| url.to_str()) {
        let accept = |name: &str| super::dataset::check_path(name).is_ok();
        let fetched = crate::store::fetch_bucket(url, folder.path(), &accept)?;
        if fetched == 0 {
            return Err(DataError::NoData { paths: format!("`{url}`") });
        }
    }
    Ok(Some(folder))
}

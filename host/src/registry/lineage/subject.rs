use std::str::FromStr;

use sqlx::Row as _;

use super::LineageNode;
use super::neighbours::{component, dataset, model, run_node};
use crate::data::{Catalog, DataError};
use crate::domain::Digest;
use crate::registry::{ModelReference, Registry, RegistryError};
use crate::track::{PLUGIN_TAG, TrackError};

/// Digits of a run's id that are enough to look for it.
const RUN_ID_MIN_DIGITS: usize = 4;

/// What a user may ask the lineage of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineageSubject {
    /// A version of a dataset, as [`Catalog::resolve`] takes it.
    Dataset(String),
    /// A version of a model, as [`ModelReference`] takes it.
    Model(String),
    /// A run, by its id or the first digits of it.
    Run(String),
    /// A bundle, a component or a version of a dataset.
    Digest(Digest),
    /// Whichever of these has the name.
    Any(String),
}

impl FromStr for LineageSubject {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':') {
            Some(("data", name)) => Self::Dataset(name.to_owned()),
            Some(("model", name)) => Self::Model(name.to_owned()),
            Some(("run", id)) => Self::Run(id.to_owned()),
            _ => text.parse().map_or_else(|_| Self::Any(text.to_owned()), Self::Digest),
        })
    }
}

impl Registry {
    /// The node that `subject` means.
    pub(super) async fn lineage_root(
        &self,
        catalog: &Catalog,
        subject: &LineageSubject,
    ) -> Result<LineageNode, RegistryError> {
        let found = match subject {
            LineageSubject::Dataset(text) => return find_dataset(catalog, text).await,
            LineageSubject::Model(text) => return self.find_model_version(text).await,
            LineageSubject::Run(text) => self.find_run(text).await?,
            LineageSubject::Digest(digest) => self.find_digest(catalog, *digest).await?,
            LineageSubject::Any(text) => self.find_any(catalog, text).await?,
        };
        found.ok_or_else(|| RegistryError::UnknownSubject {
            text: match subject {
                LineageSubject::Run(text) | LineageSubject::Any(text) => text.chars().take(200).collect(),
                LineageSubject::Digest(digest) => digest.to_string(),
                LineageSubject::Dataset(_) | LineageSubject::Model(_) => String::new(),
            },
        })
    }

    async fn find_any(&self, catalog: &Catalog, text: &str) -> Result<Option<LineageNode>, RegistryError> {
        let of_dataset = match find_dataset(catalog, text).await {
            Ok(found) => Some(found),
            Err(RegistryError::Data(DataError::UnknownDataset { .. } | DataError::Reference { .. })) => None,
            // There is such a dataset, but perhaps a model too, which has the version.
            Err(error @ RegistryError::Data(DataError::UnknownVersion { .. })) => {
                return self.find_model_version(text).await.map(Some).map_err(|_| error);
            }
            Err(error) => return Err(error),
        };
        let of_model = match self.find_model_version(text).await {
            Ok(found) => Some(found),
            Err(RegistryError::UnknownModel { .. } | RegistryError::Reference { .. }) => None,
            Err(_) if of_dataset.is_some() => None,
            Err(error) => return Err(error),
        };
        match (of_dataset, of_model) {
            (Some(_), Some(_)) => Err(RegistryError::AmbiguousSubject { text: text.to_owned() }),
            (Some(found), None) | (None, Some(found)) => Ok(Some(found)),
            (None, None) => self.find_run(text).await,
        }
    }

    async fn find_model_version(&self, text: &str) -> Result<LineageNode, RegistryError> {
        match text.parse()? {
            ModelReference::Name(name, selector) => Ok(model(self.find_version(&name, &selector).await?)),
            ModelReference::Bundle(digest) => Ok(self.lineage_bundle(digest).await),
            ModelReference::Folder(_) => Err(RegistryError::Reference { text: text.to_owned() }),
        }
    }

    async fn find_run(&self, text: &str) -> Result<Option<LineageNode>, RegistryError> {
        if text.len() < RUN_ID_MIN_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let sql = "SELECT run_id FROM runs WHERE SUBSTR(run_id, 1, LENGTH($1)) = $1 LIMIT 2";
        let query = sqlx::query(sql).bind(text.to_ascii_lowercase());
        let rows = query.fetch_all(self.database().readers()).await.map_err(TrackError::from)?;
        match rows.as_slice() {
            [] => Ok(None),
            [row] => {
                let run_id: &str = row.try_get(0).map_err(TrackError::from)?;
                Ok(Some(run_node(&self.tracker().run(run_id).await?)))
            }
            _ => Err(RegistryError::AmbiguousRun { text: text.to_owned() }),
        }
    }

    async fn find_digest(
        &self,
        catalog: &Catalog,
        digest: Digest,
    ) -> Result<Option<LineageNode>, RegistryError> {
        if let Some((name, version)) = catalog.with_digest(digest).await?.first() {
            return Ok(Some(dataset(name, version)));
        }
        if let found @ LineageNode::Bundle { framework: Some(_), .. } = self.lineage_bundle(digest).await {
            return Ok(Some(found));
        }
        let sql = "SELECT key FROM run_tags WHERE key LIKE 'host.plugin.%' AND value = $1 LIMIT 1";
        let query = sqlx::query(sql).bind(digest.to_string());
        let row = query.fetch_optional(self.database().readers()).await.map_err(TrackError::from)?;
        let Some(row) = row else { return Ok(None) };
        let key: &str = row.try_get(0).map_err(TrackError::from)?;
        Ok(Some(component(key.strip_prefix(PLUGIN_TAG).unwrap_or(key).to_owned(), digest)))
    }
}

async fn find_dataset(catalog: &Catalog, text: &str) -> Result<LineageNode, RegistryError> {
    let (name, version) = catalog.find_version(text).await?;
    Ok(dataset(&name, &version))
}

//! What a user of the command line calls a model, and the bundle that it means.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::bundle::{BLOBS_FOLDER, MANIFEST_FILE, import_bundle};
use super::names::{check_alias, is_latest};
use super::search::RegistrySearch;
use super::{BundleManifest, ModelVersion, RegisteredModel, Registry, RegistryError, read_bundle};
use crate::domain::{Digest, Name};
use crate::store::Store;
use crate::track::{ErrorCode, Pair, TrackError};

/// Names that an error tells.
const NAMES_SHOWN: i64 = 10;

/// Models that are read at once.
const MODELS_READ: i64 = 100;

/// Files of a bundle folder that are looked at for a change; a bundle has a few.
const FILES_WATCHED_MAX: usize = 1_000;

/// By what the files of a bundle folder are told from others that take their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderState {
    manifest: FileState,
    /// Sorted: a folder lists them in any order.
    blobs: Vec<FileState>,
}

/// By what a file is told from another that takes its place. Its times are not enough, which archives keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileState {
    /// Its device and number.
    file: (u64, u64),
    size: u64,
    /// When the system saw it change last, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl FolderState {
    /// Whether a folder that was taken in in the other state holds the same bundle: the manifest names all else by digests.
    pub fn is_of_same_bundle(&self, other: &Self) -> bool {
        self.manifest == other.manifest
    }
}

impl FileState {
    fn of(file: &Metadata) -> Self {
        let changed = (file.ctime(), file.ctime_nsec());
        Self { file: (file.dev(), file.ino()), size: file.size(), changed }
    }
}

/// What a user may write for a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelReference {
    /// A version of a name.
    Name(Name, VersionSelector),
    /// A bundle in the store.
    Bundle(Digest),
    /// A bundle folder.
    Folder(PathBuf),
}

/// What a user may write after a model's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VersionSelector {
    /// Nothing, or `@latest`: the version of the highest number that is not yanked.
    Newest,
    /// Its number.
    Number(i64),
    /// One of its aliases.
    Alias(String),
}

/// A bundle that was found, and under which name.
#[derive(Debug, Clone)]
pub struct ResolvedModel {
    /// The model's name; for a folder or digest there is none.
    pub name: Option<Name>,
    /// The version's number, where there is a name.
    pub version: Option<i64>,
    /// The version's tags, where there is a name.
    pub tags: Vec<Pair>,
    /// Digest of the bundle.
    pub digest: Digest,
    /// The bundle's manifest.
    pub manifest: BundleManifest,
}

impl FromStr for ModelReference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        Self::parse_in(Path::new(""), text)
    }
}

impl ModelReference {
    /// Like [`str::parse`], with bundle folders that start from `folder`.
    ///
    /// What no name can be, for it has a `/` or begins with `.`, is a folder, whether it is there or not: who needs the bundle
    /// tells that. What may be a name is one, whatever lies there: who may write beside a file of endpoints must not decide which
    /// model is served. What is neither, such as `a=1`, is a folder that is there.
    pub fn parse_in(folder: &Path, text: &str) -> Result<Self, RegistryError> {
        let wrong = || RegistryError::Reference { text: text.chars().take(200).collect() };
        if text.starts_with("sha256:") {
            return text.parse().map(Self::Bundle).map_err(|_| wrong());
        }
        if let Some(of_model) = text.strip_prefix("models:/") {
            return Self::parse_uri(of_model).ok_or_else(wrong);
        }
        let path = folder.join(text);
        if text.contains('/') || text.starts_with('.') {
            return Ok(Self::Folder(path));
        }
        let is_there = path.join(MANIFEST_FILE).is_file();
        match Self::parse_name(text) {
            Some(named) => {
                if is_there {
                    tracing::warn!(
                        "`{text}` is a model's name: the bundle folder that is called so is `./{text}`"
                    );
                }
                Ok(named)
            }
            None if is_there => Ok(Self::Folder(path)),
            None => Err(wrong()),
        }
    }

    /// Reads `name` or `name@version`.
    fn parse_name(text: &str) -> Option<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, version.parse().ok()?),
            None => (text, VersionSelector::Newest),
        };
        Some(Self::Name(name.parse().ok()?, version))
    }

    /// Reads what stands after `models:/` in a URI of MLflow's: `name@alias`, `name/2` or `name/latest`. A name alone is the id of
    /// a logged model there.
    fn parse_uri(text: &str) -> Option<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, alias)) => (name, alias.parse().ok()?),
            None => {
                let (name, version) = text.split_once('/')?;
                // What is no number is a stage.
                let version =
                    version.parse().ok().filter(|version| !matches!(version, VersionSelector::Alias(_)))?;
                (name, version)
            }
        };
        Some(Self::Name(name.parse().ok()?, version))
    }
}

impl ModelReference {
    /// By what a change of the folder that it names is told; none where it names none.
    pub fn folder_state(&self) -> Option<FolderState> {
        let Self::Folder(folder) = self else { return None };
        let manifest = FileState::of(&std::fs::metadata(folder.join(MANIFEST_FILE)).ok()?);
        let blobs = std::fs::read_dir(folder.join(BLOBS_FOLDER)).into_iter().flatten();
        let blobs = blobs.take(FILES_WATCHED_MAX).filter_map(|blob| blob.ok()?.metadata().ok());
        let mut blobs: Vec<FileState> = blobs.map(|blob| FileState::of(&blob)).collect();
        blobs.sort_unstable();
        Some(FolderState { manifest, blobs })
    }
}

impl std::fmt::Display for ModelReference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name, VersionSelector::Newest) => write!(formatter, "{name}"),
            Self::Name(name, VersionSelector::Number(number)) => write!(formatter, "{name}@{number}"),
            Self::Name(name, VersionSelector::Alias(alias)) => write!(formatter, "{name}@{alias}"),
            Self::Bundle(digest) => write!(formatter, "{digest}"),
            Self::Folder(folder) => write!(formatter, "{}", folder.display()),
        }
    }
}

impl FromStr for VersionSelector {
    type Err = TrackError;

    fn from_str(text: &str) -> Result<Self, TrackError> {
        if is_latest(text) {
            return Ok(Self::Newest);
        }
        check_alias(text)?;
        // An alias that looks like a number could not be told from one.
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().map_err(|_| TrackError::invalid(format!("{text} is no version")))?;
            return Ok(Self::Number(number));
        }
        Ok(Self::Alias(text.to_owned()))
    }
}

/// The bundle that `reference` means where it is no name; a folder is taken into the store first.
pub fn resolve_unnamed(
    store: &Store,
    reference: &ModelReference,
) -> Result<Option<ResolvedModel>, RegistryError> {
    let digest = match reference {
        ModelReference::Name(..) => return Ok(None),
        ModelReference::Bundle(digest) => *digest,
        ModelReference::Folder(folder) => import_bundle(store, folder)?,
    };
    let manifest = read_bundle(store, digest)?;
    Ok(Some(ResolvedModel { name: None, version: None, tags: Vec::new(), digest, manifest }))
}

impl Registry {
    /// Finds the bundle that `reference` means; a folder is taken into the store first.
    pub async fn resolve(&self, reference: &ModelReference) -> Result<ResolvedModel, RegistryError> {
        let (name, selector) = match reference {
            ModelReference::Name(name, selector) => (name, selector),
            unnamed => {
                let (store, reference) = (self.store().clone(), unnamed.clone());
                let resolved = tokio::task::spawn_blocking(move || resolve_unnamed(&store, &reference)).await;
                let resolved = resolved.map_err(|error| TrackError::internal(error.to_string()))??;
                let text = unnamed.to_string();
                return resolved.ok_or(RegistryError::Reference { text });
            }
        };
        let version = self.find_version(name, selector).await?;
        let digest = version
            .bundle
            .ok_or_else(|| RegistryError::NoBundle { name: name.clone(), version: version.number })?;
        let manifest = self.manifest(digest).await?;
        let (name, number) = (Some(name.clone()), Some(version.number));
        Ok(ResolvedModel { name, version: number, tags: version.tags, digest, manifest })
    }

    /// The version that a user means.
    pub async fn find_version(
        &self,
        name: &Name,
        selector: &VersionSelector,
    ) -> Result<ModelVersion, RegistryError> {
        let found = match selector {
            VersionSelector::Newest => self.newest_version(name.as_str()).await,
            VersionSelector::Number(number) => self.numbered_version(name.as_str(), *number).await,
            VersionSelector::Alias(alias) => self.version_by_alias(name.as_str(), alias).await,
        };
        match found {
            // Servers look every second, and nearly always find it: why not is asked only then.
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::ResourceDoesNotExist | ErrorCode::InvalidParameterValue
                ) =>
            {
                Err(self.not_found(name, selector).await?)
            }
            found => Ok(found?),
        }
    }

    /// Why there is no version that a user means.
    async fn not_found(
        &self,
        name: &Name,
        selector: &VersionSelector,
    ) -> Result<RegistryError, RegistryError> {
        let model = self.find_model(name).await?;
        let name = name.clone();
        let highest = model.latest_versions.iter().map(|version| version.number).max();
        let Some(highest) = highest else { return Ok(RegistryError::NoVersions { name }) };
        Ok(match selector {
            VersionSelector::Newest => RegistryError::AllYanked { name, highest },
            VersionSelector::Number(version) => {
                RegistryError::UnknownVersion { name, version: *version, highest }
            }
            VersionSelector::Alias(alias) => RegistryError::UnknownAlias {
                name,
                alias: alias.clone(),
                aliases: model.aliases.into_iter().map(|found| found.alias).collect(),
            },
        })
    }

    /// The model that a user names.
    pub async fn find_model(&self, name: &Name) -> Result<RegisteredModel, RegistryError> {
        match self.model(name.as_str()).await {
            Err(error) if error.code() == ErrorCode::ResourceDoesNotExist => {
                let search = RegistrySearch { max_results: Some(NAMES_SHOWN), ..RegistrySearch::default() };
                let models = self.search_models(search).await?.found.into_iter().map(|model| model.name);
                let is_folder = Path::new(name.as_str()).join(MANIFEST_FILE).is_file();
                Err(RegistryError::UnknownModel { name: name.clone(), models: models.collect(), is_folder })
            }
            found => Ok(found?),
        }
    }

    /// Every model by name, with its versions, the newest first.
    pub async fn list_models(&self) -> Result<Vec<(RegisteredModel, Vec<ModelVersion>)>, RegistryError> {
        let mut listed = Vec::new();
        let mut token = String::new();
        loop {
            let search = RegistrySearch {
                max_results: Some(MODELS_READ),
                page_token: token,
                ..RegistrySearch::default()
            };
            let page = self.search_models(search).await?;
            for model in page.found {
                let versions = self.versions_of(&model.name).await?;
                listed.push((model, versions));
            }
            match page.next_page_token {
                Some(next) => token = next,
                None => return Ok(listed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_user_writes() {
        let name = |selector| ModelReference::Name("digits".parse().unwrap(), selector);
        let read = |text: &str| text.parse::<ModelReference>();
        assert_eq!(read("digits").unwrap(), name(VersionSelector::Newest));
        assert_eq!(read("digits@latest").unwrap(), name(VersionSelector::Newest));
        assert_eq!(read("digits@12").unwrap(), name(VersionSelector::Number(12)));
        assert_eq!(read("digits@champion").unwrap(), name(VersionSelector::Alias("champion".to_owned())));
        assert_eq!(read("models:/digits@champion").unwrap(), read("digits@champion").unwrap());
        assert_eq!(read("models:/digits/12").unwrap(), read("digits@12").unwrap());
        assert_eq!(read("models:/digits/latest").unwrap(), read("digits").unwrap());
        for text in [
            "models:/",
            "models:/digits",
            "models:/digits/",
            "models:/digits/Production",
            "models:/digits/1/2",
            "models:/digits@1@2",
            "",
            "@",
            "digits@",
            "@1",
            "digits@1@2",
            "digits@a.b",
            "digits@99999999999999999999",
            "a b",
            "A@1",
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains("names no model"), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_is_a_folder_whether_it_is_there_or_not() {
        for path in ["./gone", "../gone", "gone/", "/gone/bundle", "gone@1/bundle", ".", ".gone"] {
            let read = path.parse::<ModelReference>().unwrap();
            assert_eq!(read, ModelReference::Folder(PathBuf::from(path)), "{path}");
            assert_eq!(read.folder_state(), None);
        }
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(base.path()).unwrap();
        let gone = ModelReference::parse_in(base.path(), "./gone").unwrap();
        let error = resolve_unnamed(&store, &gone).unwrap_err();
        assert!(matches!(error, RegistryError::NoFolder { .. }), "{error}");
        // What may be a name is one, also where a folder is called so; the folder is `./bundle`.
        let in_base = |text| ModelReference::parse_in(base.path(), text);
        let called = ["bundle", "bundle@2", "bundle@champion"];
        let before = called.map(|text| in_base(text).unwrap());
        for text in called.into_iter().chain(["a=1"]) {
            std::fs::create_dir(base.path().join(text)).unwrap();
            std::fs::write(base.path().join(text).join(MANIFEST_FILE), "{}").unwrap();
        }
        assert_eq!(called.map(|text| in_base(text).unwrap()), before);
        assert!(before.iter().all(|model| matches!(model, ModelReference::Name(..))), "{before:?}");
        for (text, folder) in [("./bundle", "./bundle"), ("a=1", "a=1")] {
            assert_eq!(in_base(text).unwrap(), ModelReference::Folder(base.path().join(folder)));
        }
        assert!(in_base("b=1").is_err());
    }
}

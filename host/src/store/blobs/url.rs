use std::path::PathBuf;
use std::str::FromStr;

use ::url::Url;

/// Where blobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BlobsUrl {
    /// In the state folder.
    #[default]
    InStateFolder,
    /// In another folder: `file:///mnt/blobs`.
    Folder(PathBuf),
    /// In a bucket: `s3://bucket/prefix`, `gs://…` or `az://…`.
    Bucket(Url),
}

/// Text that names no place for blobs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`, found {found}")]
pub struct BlobsUrlError {
    found: String,
}

impl FromStr for BlobsUrl {
    type Err = BlobsUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The text may hold a secret where none should be, so errors repeat little of it.
        let wrong = |found: &str| BlobsUrlError { found: found.to_owned() };
        let url = Url::parse(text).map_err(|_| wrong("no URL"))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong(
                "a URL with a user, password or parameters: credentials are taken from variables",
            ));
        }
        if url.fragment().is_some() {
            return Err(wrong("a URL with a fragment"));
        }
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) if path.parent().is_some() => Ok(Self::Folder(path)),
                _ => Err(wrong("a `file:` URL without a folder of this machine")),
            },
            "s3" | "gs" | "az" if url.host_str().is_some_and(|bucket| !bucket.is_empty()) => {
                Ok(Self::Bucket(url))
            }
            "s3" | "gs" | "az" => Err(wrong("a URL without a bucket")),
            other => Err(wrong(&format!("a URL of `{}`", other.chars().take(20).collect::<String>()))),
        }
    }
}

impl std::fmt::Display for BlobsUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InStateFolder => formatter.write_str("the state folder"),
            Self::Folder(folder) => write!(formatter, "file://{}", folder.display()),
            Self::Bucket(url) => formatter.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_their_scheme() {
        assert_eq!("file:///mnt/b".parse(), Ok(BlobsUrl::Folder("/mnt/b".into())));
        for text in ["s3://bucket", "s3://bucket/a/b", "gs://bucket/x", "az://container"] {
            assert_eq!(text.parse::<BlobsUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused_without_repeating_secrets() {
        for text in [
            "",
            "bucket",
            "/mnt/b",
            "s3:",
            "s3://",
            "file://",
            "file:///",
            "file://machine/b",
            "http://machine/bucket",
            "ftp://x/y",
            "s3://key:secret@bucket",
            "s3://bucket?secret=secret",
            "s3://bucket#secret",
        ] {
            let error = text.parse::<BlobsUrl>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}

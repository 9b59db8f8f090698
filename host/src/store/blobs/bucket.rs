use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as ObjectPath;
use url::Url;

use super::super::StoreError;
use super::connect::{Bucket, connect};
use super::download;

/// Objects that are fetched at the same time.
const DOWNLOADS_AT_ONCE: usize = 16;

/// Copies all objects below the URL of a bucket into `folder`, under the rest of their names; gives their number. An
/// object that has the URL's own name is copied under the last part of it. Names that `accept` refuses are an error.
pub fn fetch_bucket(
    url: &str,
    folder: &Path,
    accept: &(dyn Fn(&str) -> bool + Sync),
) -> Result<usize, StoreError> {
    let failed = |source| StoreError::remote("read", url, source);
    let parsed: super::BlobsUrl = url.parse().map_err(|error: super::BlobsUrlError| {
        failed(object_store::Error::Generic { store: "bucket", source: error.into() })
    })?;
    let super::BlobsUrl::Bucket(parsed) = parsed else { return Ok(0) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StoreError::io("start threads for", folder))?;
    // On a thread of its own: who asks may be one of another runtime.
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| {
            let bucket = connect_from_environment(&parsed)?;
            let names = runtime.block_on(list(&bucket)).map_err(failed)?;
            for (_, name) in &names {
                if !accept(name) {
                    let reason = format!("object `{}` cannot be a file", name.escape_debug());
                    let source = std::io::Error::other(reason).into();
                    return Err(failed(object_store::Error::Generic { store: "bucket", source }));
                }
                if let Some(parent) = folder.join(name).parent() {
                    std::fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
                }
            }
            runtime.block_on(fetch(&bucket, &names, folder)).map_err(failed)?;
            Ok(names.len())
        });
        fetching.join().unwrap_or(Err(StoreError::Closed))
    })
}

/// Prepares to speak to a bucket as the environment says.
pub(super) fn connect_from_environment(url: &Url) -> Result<Bucket, StoreError> {
    let text = |text: std::ffi::OsString| text.into_string().ok();
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    connect(url, variables)
}

/// Every object below the prefix, with what follows the prefix; or the object that the prefix names.
async fn list(bucket: &Bucket) -> Result<Vec<(ObjectPath, String)>, object_store::Error> {
    let mut names = Vec::new();
    let mut empty = HashSet::new();
    let mut objects = bucket.objects.list(Some(&bucket.prefix));
    while let Some(found) = objects.try_next().await? {
        let Some(rest) = found.location.prefix_match(&bucket.prefix) else { continue };
        let rest = rest.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        if found.size == 0 {
            empty.insert(rest.clone());
        }
        names.push((found.location, rest));
    }
    // Consoles show a folder by an empty object of its name.
    let folders: HashSet<String> = names
        .iter()
        .flat_map(|(_, name)| {
            name.match_indices('/').filter_map(|(end, _)| Some(name.get(..end)?.to_owned()))
        })
        .chain([String::new()])
        .collect();
    names.retain(|(_, name)| !(empty.contains(name) && folders.contains(name)));
    if let (true, Some(own)) = (names.is_empty(), bucket.prefix.filename()) {
        let found = bucket.objects.head(&bucket.prefix).await?;
        names.push((found.location, own.to_owned()));
    }
    Ok(names)
}

async fn fetch(
    bucket: &Bucket,
    names: &[(ObjectPath, String)],
    folder: &Path,
) -> Result<(), object_store::Error> {
    let io = |error: std::io::Error| object_store::Error::Generic {
        store: "the local file",
        source: error.into(),
    };
    let fetched = futures_util::stream::iter(names).map(|(location, name)| async move {
        let file = File::create(folder.join(name)).map_err(io)?;
        download::fetch(&*bucket.objects, location, file).await
    });
    fetched.buffer_unordered(DOWNLOADS_AT_ONCE).try_collect().await
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn empty_objects_that_stand_for_folders_are_no_files() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = std::sync::Arc::new(InMemory::new());
        for (name, text) in [("a", ""), ("a/sub", ""), ("a/sub/b.csv", "x"), ("a/empty", ""), ("a/sub2", "")]
        {
            runtime.block_on(store.put(&ObjectPath::from(name), PutPayload::from(text))).unwrap();
        }
        let bucket = Bucket { objects: store.clone(), parts: store, prefix: ObjectPath::from("a") };
        let mut names: Vec<String> =
            runtime.block_on(list(&bucket)).unwrap().into_iter().map(|(_, name)| name).collect();
        names.sort();
        assert_eq!(names, ["empty", "sub/b.csv", "sub2"]);
    }
}

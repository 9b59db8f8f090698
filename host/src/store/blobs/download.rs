use std::fs::File;
use std::io::Write as _;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};

/// Bytes of one request. A request has a limit of time, which a large object in one would always pass.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Pieces that are asked for at the same time; each is in memory.
const PIECES_AT_ONCE: usize = 4;

/// Fetches the object at `path` into `file`, which may hold its beginning already; it is written at the end.
pub(super) async fn fetch(objects: &dyn ObjectStore, path: &Path, mut file: File) -> Result<(), Error> {
    let mut have = file.metadata().map_err(io)?.len();
    if have > 0 {
        let size = objects.head(path).await?.size;
        if have == size {
            return Ok(());
        }
        if have > size {
            file.set_len(0).map_err(io)?;
            have = 0;
        }
        tracing::debug!(have, size, %path, "going on with a download");
    }
    // Into the system's memory, mostly: not worth a change of threads.
    each_piece(objects, path, have, |piece| file.write_all(piece).map_err(io)).await
}

/// Gives `each` the bytes of the object at `path`, from `from` on, in order.
pub(super) async fn each_piece(
    objects: &dyn ObjectStore,
    path: &Path,
    from: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let size = if from > 0 {
        objects.head(path).await?.size
    } else {
        let found = objects.get(path).await?;
        let size = found.meta.size;
        // Most objects are small. Of a large one this answer is let go.
        if size <= PIECE_BYTES {
            let mut pieces = found.into_stream();
            while let Some(piece) = pieces.try_next().await? {
                each(&piece)?;
            }
            return Ok(());
        }
        size
    };
    let starts = (from..size).step_by(PIECE_BYTES as usize);
    let asked = starts.map(|start| objects.get_range(path, start..(start + PIECE_BYTES).min(size)));
    let mut pieces = futures_util::stream::iter(asked).buffered(PIECES_AT_ONCE);
    while let Some(piece) = pieces.try_next().await? {
        each(&piece)?;
    }
    Ok(())
}

fn io(error: std::io::Error) -> Error {
    Error::Generic { store: "the local file", source: error.into() }
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn objects_arrive_whole_whatever_their_size_and_what_was_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let objects = InMemory::new();
        let path = Path::from("a/b");
        let piece = PIECE_BYTES as usize;
        for size in [0, 1, piece - 1, piece, piece + 1, 6 * piece + 7] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 1_000) as u8).collect();
            runtime.block_on(objects.put(&path, PutPayload::from(bytes.clone()))).unwrap();
            for have in [0, 1, size / 2, size, size + 5] {
                let file = tempfile::NamedTempFile::new().unwrap();
                let start: Vec<u8> = bytes.iter().copied().chain([7; 5]).take(have).collect();
                std::fs::write(file.path(), start).unwrap();
                let appending = File::options().append(true).open(file.path()).unwrap();
                runtime.block_on(fetch(&objects, &path, appending)).unwrap();
                assert!(std::fs::read(file.path()).unwrap() == bytes, "{size} bytes, {have} were there");
            }
        }
    }
}

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody as _};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::{ErrorCode, TrackError};

/// Longest time in which nothing of a body arrives.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Slowest body, on the average from its start on.
const BYTES_PER_S_MIN: u64 = 1024;

/// Files that are sent or fetched at the same time. Each has a thread that blocks, of which the runtime has 512 for everybody.
const TRANSFERS_MAX: usize = 256;

/// One for the program, as its threads are.
static FREE_TRANSFERS: Semaphore = Semaphore::const_new(TRANSFERS_MAX);

/// The right to send or fetch a file; to be kept until that is over.
pub(super) type Transfer = SemaphorePermit<'static>;

/// Begins to send or fetch a file, unless too many do.
pub(super) fn begin_transfer() -> Result<Transfer, TrackError> {
    FREE_TRANSFERS.try_acquire().map_err(|_| {
        let message =
            format!("{TRANSFERS_MAX} files are being sent or fetched, which is the limit: try again later");
        TrackError::new(ErrorCode::TemporarilyUnavailable, message)
    })
}

/// Pieces that wait for the thread that stores them.
const WAITING_MAX: usize = 4;

/// A body for a thread that blocks: gives what the thread reads, and what sends it there. An error ends both.
pub(super) fn reader_of(
    body: Body,
    max_bytes: u64,
) -> Result<(BodyReader, impl Future<Output = ()>), TrackError> {
    let transfer = begin_transfer()?;
    let (sender, pieces) = tokio::sync::mpsc::channel(WAITING_MAX);
    let reader = BodyReader { pieces, current: Bytes::new(), ended: false, _transfer: transfer };
    Ok((reader, send(body, max_bytes, sender)))
}

/// Sends what arrives, and at its end an empty piece: a request that is let go must not look like one that ended.
async fn send(mut body: Body, max_bytes: u64, pieces: Sender<std::io::Result<Bytes>>) {
    let too_large = || std::io::Error::other(format!("it is larger than the limit of {max_bytes} bytes"));
    if body.size_hint().lower() > max_bytes {
        let _ = pieces.send(Err(too_large())).await;
        return;
    }
    let (mut size, started) = (0_u64, Instant::now());
    loop {
        let piece = match tokio::time::timeout(IDLE_MAX, body.frame()).await {
            Ok(None) => Ok(Bytes::new()),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if !data.is_empty() => Ok(data),
                _ => continue,
            },
            Ok(Some(Err(error))) => Err(std::io::Error::other(error)),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        size += piece.as_ref().map_or(0, |data| data.len() as u64);
        let is_slow = started.elapsed() > IDLE_MAX + Duration::from_secs(size / BYTES_PER_S_MIN);
        let piece = match piece {
            Ok(_) if size > max_bytes => Err(too_large()),
            Ok(more) if is_slow && !more.is_empty() => Err(std::io::ErrorKind::TimedOut.into()),
            piece => piece,
        };
        let is_last = piece.as_ref().map_or(true, Bytes::is_empty);
        // Whoever stores it has given up: that error is the one to tell.
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// What arrives, for a thread that blocks.
pub(super) struct BodyReader {
    pieces: Receiver<std::io::Result<Bytes>>,
    current: Bytes,
    ended: bool,
    _transfer: Transfer,
}

impl std::io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            self.current = self.pieces.blocking_recv().ok_or(std::io::ErrorKind::UnexpectedEof)??;
            self.ended = self.current.is_empty();
        }
        let count = self.current.len().min(buffer.len());
        let piece = self.current.split_to(count);
        if let Some(place) = buffer.get_mut(..count) {
            place.copy_from_slice(&piece);
        }
        Ok(count)
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;

use super::super::body::{BodyReader, RequestBody, Share, UNCOUNTED_MAX_BYTES, broken_off};
use super::super::inference::ContentEncoding;
use super::super::{ApiError, ErrorCode};
use super::GrpcError;
use super::error::shown;

/// Bytes before each message: whether it is packed, and its length.
pub(super) const FRAME_HEAD_BYTES: usize = 5;

/// The messages of a call, one after the other.
pub(super) struct MessageReader {
    body: Body,
    encoding: ContentEncoding,
    /// What has come and is not read yet.
    pending: Bytes,
    received: Received,
}

/// How many bytes of a body have come, packed as they were sent.
#[derive(Clone, Default)]
pub(super) struct Received(Arc<AtomicU64>);

impl Received {
    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl MessageReader {
    /// Reads the body of a request with these headers.
    pub(super) fn new(headers: &HeaderMap, body: Body) -> Result<Self, GrpcError> {
        let named = headers.get("grpc-encoding").map(|value| value.to_str().unwrap_or("�"));
        let encoding = ContentEncoding::of_request(named)
            .map_err(|_| GrpcError::Encoding { found: shown(named.unwrap_or_default()) })?;
        Ok(Self { body, encoding, pending: Bytes::new(), received: Received::default() })
    }

    /// Waits for the first byte of the next message; false if there comes none.
    pub(super) async fn begins(&mut self) -> Result<bool, ApiError> {
        while self.pending.is_empty() {
            let Some(frame) = self.body.frame().await else { return Ok(false) };
            // What is no data are trailers, which mean nothing here.
            self.pending = frame.map_err(|error| broken_off(&error))?.into_data().unwrap_or_default();
            self.received.add(self.pending.len());
        }
        Ok(true)
    }

    /// The next message; none if there comes none. Nothing of it is kept that there is no room for.
    pub(super) async fn next(&mut self, bodies: &BodyReader) -> Result<Option<RequestBody>, ApiError> {
        let mut is_packed = false;
        let message = bodies
            .read_message(async {
                if !self.begins().await? {
                    return Ok(None);
                }
                let mut share = Share::default();
                let head = self.take(FRAME_HEAD_BYTES, bodies, &mut share).await?;
                let (flag, length) = match head.first_chunk::<FRAME_HEAD_BYTES>() {
                    Some([flag, length @ ..]) => (*flag, u32::from_be_bytes(*length) as usize),
                    None => return Err(wrong_frame("its head is cut off")),
                };
                is_packed = match flag {
                    0 => false,
                    1 if self.encoding != ContentEncoding::Identity => true,
                    1 => return Err(wrong_frame("it is packed, and no `grpc-encoding` says how")),
                    _ => return Err(wrong_frame("its first byte is neither 0 nor 1")),
                };
                bodies.check_size(length)?;
                let bytes = self.take(length, bodies, &mut share).await?;
                Ok(Some((bytes, share)))
            })
            .await?;
        let encoding = if is_packed { self.encoding } else { ContentEncoding::Identity };
        match message {
            Some(message) => bodies.unpack(message, encoding).await.map(Some),
            None => Ok(None),
        }
    }

    /// How many bytes of the body were read, packed as they were sent.
    pub(super) fn read(&self) -> u64 {
        self.received.bytes() - self.pending.len() as u64
    }

    /// What has come, which goes on being counted.
    pub(super) fn received(&self) -> Received {
        self.received.clone()
    }

    /// The message of a call that takes one.
    pub(super) async fn only(&mut self, bodies: &BodyReader) -> Result<RequestBody, ApiError> {
        let Some(message) = self.next(bodies).await? else {
            return Err(GrpcError::MessageCount { found: "none" }.into());
        };
        match self.next(bodies).await? {
            None => Ok(message),
            Some(_) => Err(GrpcError::MessageCount { found: "more" }.into()),
        }
    }

    /// Takes so many bytes, for which `share` grows as they come.
    async fn take(
        &mut self,
        count: usize,
        bodies: &BodyReader,
        share: &mut Share,
    ) -> Result<Vec<u8>, ApiError> {
        let mut taken = Vec::with_capacity(count.min(UNCOUNTED_MAX_BYTES));
        while taken.len() < count {
            if !self.begins().await? {
                return Err(wrong_frame("it is cut off"));
            }
            let piece = self.pending.split_to(self.pending.len().min(count - taken.len()));
            bodies.grow(share, taken.len() + piece.len())?;
            taken.extend_from_slice(&piece);
        }
        Ok(taken)
    }
}

/// What comes before a message of so many bytes.
pub(super) fn frame_head(length: usize) -> Result<[u8; FRAME_HEAD_BYTES], ApiError> {
    let length = u32::try_from(length).map_err(|_| {
        let message =
            format!("the answer would be too large: expected less than 4 GiB, found {length} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::AnswerTooLarge, message)
    })?;
    let [first, second, third, fourth] = length.to_be_bytes();
    Ok([0, first, second, third, fourth])
}

/// A message as it is sent.
pub(super) fn framed(message: &impl prost::Message) -> Result<Vec<u8>, ApiError> {
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(FRAME_HEAD_BYTES.saturating_add(length));
    framed.extend_from_slice(&frame_head(length)?);
    message.encode_raw(&mut framed);
    Ok(framed)
}

fn wrong_frame(found: &'static str) -> ApiError {
    GrpcError::Frame { found }.into()
}

#[cfg(test)]
mod tests {
    use super::super::super::ServeLimits;
    use super::*;

    fn bodies() -> BodyReader {
        BodyReader::new(ServeLimits { body_max_bytes: 1_000, ..ServeLimits::default() })
    }

    fn reader(encoding: Option<&'static str>, pieces: Vec<Vec<u8>>) -> MessageReader {
        let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
        let headers = encoding.map(|name| ("grpc-encoding".parse().unwrap(), name.parse().unwrap()));
        MessageReader::new(&headers.into_iter().collect(), Body::from_stream(tokio_stream::iter(pieces)))
            .unwrap()
    }

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    async fn all(mut reader: MessageReader) -> Result<Vec<Vec<u8>>, String> {
        let (bodies, mut messages) = (bodies(), Vec::new());
        while let Some(message) = reader.next(&bodies).await.map_err(|error| error.message().to_owned())? {
            messages.push(message.bytes().to_vec());
        }
        Ok(messages)
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut() {
        let sent = [frame(0, b"one"), frame(0, b""), frame(0, &[7; 1_000])].concat();
        let expected = vec![b"one".to_vec(), Vec::new(), vec![7; 1_000]];
        for size in [1, 2, 3, 5, 8, 13, sent.len()] {
            let pieces = sent.chunks(size).flat_map(|piece| [piece.to_vec(), Vec::new()]).collect();
            assert_eq!(all(reader(None, pieces)).await.unwrap(), expected, "{size}");
        }
        assert_eq!(all(reader(None, Vec::new())).await.unwrap(), Vec::<Vec<u8>>::new());
    }

    #[tokio::test]
    async fn each_message_has_its_own_bytes_however_they_come() {
        let sent = [frame(0, b"one"), frame(0, &[7; 900])].concat();
        for size in [7, sent.len()] {
            let mut reader = reader(None, sent.chunks(size).map(<[u8]>::to_vec).collect());
            let mut lengths = Vec::new();
            while reader.begins().await.unwrap() {
                let before = reader.read();
                reader.next(&bodies()).await.unwrap();
                lengths.push(reader.read() - before);
            }
            assert_eq!((lengths, reader.received().bytes()), (vec![8, 905], 913), "{size}");
        }
    }

    #[tokio::test]
    async fn packed_messages_are_unpacked() {
        for (name, encoding) in [("gzip", ContentEncoding::Gzip), ("deflate", ContentEncoding::Deflate)] {
            let packed = |bytes: Vec<u8>| frame(1, &encoding.pack(bytes).unwrap());
            let sent = vec![packed(vec![1; 900]), frame(0, b"plain")];
            assert_eq!(all(reader(Some(name), sent)).await.unwrap(), [vec![1; 900], b"plain".to_vec()]);
            let bomb = all(reader(Some(name), vec![packed(vec![0; 1_001])])).await.unwrap_err();
            assert_eq!(bomb, "the unpacked body is larger than the limit of 1000 bytes");
            assert!(all(reader(Some(name), vec![frame(1, b"no")])).await.is_err());
        }
    }

    #[tokio::test]
    async fn frames_that_lie_are_refused() {
        for (sent, expected) in [
            (b"\0".to_vec(), "expected a message of gRPC: it is cut off"),
            (b"\0\0\0\0\x05abcd".to_vec(), "expected a message of gRPC: it is cut off"),
            (frame(1, b"a"), "expected a message of gRPC: it is packed, and no `grpc-encoding` says how"),
            (frame(2, b"a"), "expected a message of gRPC: its first byte is neither 0 nor 1"),
            (b"\0\xff\xff\xff\xff".to_vec(), "the body is larger than the limit of 1000 bytes"),
            (b"\0\0\0\x03\xe9".to_vec(), "the body is larger than the limit of 1000 bytes"),
        ] {
            assert_eq!(all(reader(None, vec![sent])).await.unwrap_err(), expected);
        }
        let only = |sent| async {
            let only = reader(None, sent).only(&bodies()).await;
            only.map(|message| message.bytes().to_vec()).map_err(|error| error.message().to_owned())
        };
        assert_eq!(only(vec![frame(0, b"one")]).await.unwrap(), b"one");
        assert_eq!(only(Vec::new()).await.unwrap_err(), "expected one message, found none");
        assert_eq!(only(vec![frame(0, b"one"); 2]).await.unwrap_err(), "expected one message, found more");
        let headers = [("grpc-encoding".parse().unwrap(), "snappy".parse().unwrap())].into_iter().collect();
        assert_eq!(
            MessageReader::new(&headers, Body::empty()).err().unwrap().to_string(),
            "`grpc-encoding` is `snappy`: expected `gzip`, `deflate` or `identity`"
        );
    }
}

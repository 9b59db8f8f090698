use std::cell::Cell;
use std::io::{BufRead, Error, ErrorKind, Read, Write as _};

use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::CompressionError;

/// The largest window of a body packed by zstd, as a power of two: the 8 MiB that RFC 9659 allows HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Bytes that are unpacked before it is asked whether there is room for more.
const PIECE_BYTES: usize = 64 * 1024;

/// Packed bytes that are unpacked before it is asked whether anybody still waits: those that come to nothing, such as the beginnings
/// and ends of blocks without bytes, cost as much as others.
const PACKED_PIECE_BYTES: usize = 4 * 1024;

/// Packed bytes that may come to nothing, and those that may be used for each byte that comes of them. No program packs so badly.
const BARREN_MAX_BYTES: usize = 128 * 1024;
const BARREN_RATIO_MAX: usize = 4;

/// How hard zstd packs an answer: fast rather than small.
const ZSTD_LEVEL: i32 = 1;

/// How a body is packed: HTTP's `gzip`, `zstd`, and `deflate`, which is zlib's format (RFC 9110, section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentEncoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl ContentEncoding {
    /// Bytes of an answer from which on packing it may be worth the time; less fits a packet or two.
    pub const PACKED_MIN_BYTES: usize = 2_048;

    /// What the `Content-Encoding` of a request says.
    pub fn of_request(header: Option<&str>) -> Result<Self, CompressionError> {
        match header.map_or("", str::trim) {
            "" => Ok(Self::Identity),
            named => Self::named(named)
                .ok_or_else(|| CompressionError::Encoding { found: super::error::shown(named) }),
        }
    }

    /// What the `Accept-Encoding` of a request likes best; not packed where it says nothing.
    pub fn accepted(header: Option<&str>) -> Self {
        let mut best = (0.0, Self::Identity);
        for item in header.unwrap_or_default().split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let Some(encoding) = Self::named(name.trim()) else { continue };
            let weight = match parameters.trim().strip_prefix("q=") {
                Some(weight) => weight.trim().parse().unwrap_or(0.0),
                None => 1.0,
            };
            if weight > best.0 {
                best = (weight, encoding);
            }
        }
        best.1
    }

    /// What a name in a head means, in letters of any size (RFC 9110, section 8.4.1).
    fn named(name: &str) -> Option<Self> {
        let names = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("zstd", Self::Zstd),
            ("identity", Self::Identity),
        ];
        names.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| encoding)
    }

    /// Its name in a head; none where there is nothing to name.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// Unpacks a whole body, of at most `limit` bytes however many its packed bytes promise, for as long as it `is_wanted`. Before it
    /// takes memory for so many bytes in all it asks whether there is `room`.
    pub fn unpack<E: From<CompressionError>>(
        self,
        body: Vec<u8>,
        limit: usize,
        is_wanted: impl Fn() -> bool,
        room: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let made = Cell::new(0);
        let packed = Packed { rest: &body, taken: 0, made: &made, is_wanted: &is_wanted };
        match self {
            Self::Identity if body.len() > limit => Err(CompressionError::TooLarge { limit }.into()),
            Self::Identity => Ok(body),
            Self::Gzip => read_to_limit(&mut MultiGzDecoder::new(packed), "gzip", limit, &made, room),
            Self::Zstd => {
                let damaged = |source| CompressionError::Damaged { encoding: "zstd", source };
                if body.is_empty() {
                    return Err(damaged(std::io::ErrorKind::UnexpectedEof.into()).into());
                }
                let decoder = zstd::stream::read::Decoder::with_buffer(packed);
                let mut decoder = decoder.map_err(damaged)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(damaged)?;
                read_to_limit(&mut decoder, "zstd", limit, &made, room)
            }
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(packed);
                let unpacked = read_to_limit(&mut decoder, "deflate", limit, &made, room)?;
                match decoder.into_inner().rest.len() {
                    0 => Ok(unpacked),
                    found => Err(CompressionError::Trailing { encoding: "deflate", found }.into()),
                }
            }
        }
    }

    /// Packs an answer, fast rather than small.
    pub fn pack(self, body: impl AsRef<[u8]>) -> Result<Vec<u8>, std::io::Error> {
        let body = body.as_ref();
        let packed = || Vec::with_capacity(body.len() / 2);
        match self {
            Self::Identity => Ok(body.to_vec()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(packed(), Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(packed(), Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

/// A packed body, from which a decoder takes its bytes.
struct Packed<'a> {
    rest: &'a [u8],
    taken: usize,
    /// Bytes that have come of those that were taken.
    made: &'a Cell<usize>,
    is_wanted: &'a dyn Fn() -> bool,
}

impl BufRead for Packed<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if !(self.is_wanted)() {
            return Err(Error::new(ErrorKind::TimedOut, "nobody waits for it any more"));
        }
        if self.taken > BARREN_MAX_BYTES.saturating_add(self.made.get().saturating_mul(BARREN_RATIO_MAX)) {
            return Err(Error::new(ErrorKind::InvalidData, "next to nothing comes of it"));
        }
        Ok(self.rest.get(..PACKED_PIECE_BYTES).unwrap_or(self.rest))
    }

    fn consume(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
        self.taken = self.taken.saturating_add(count);
    }
}

impl Read for Packed<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// Reads all that `decoder` makes of its bytes, and looks no further than `limit`.
fn read_to_limit<E: From<CompressionError>>(
    decoder: &mut impl Read,
    encoding: &'static str,
    limit: usize,
    made: &Cell<usize>,
    mut room: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let mut unpacked = Vec::new();
    loop {
        let end = unpacked.len().saturating_add(PIECE_BYTES).min(limit.saturating_add(1));
        room(end)?;
        let piece = (end - unpacked.len()) as u64;
        let read = decoder.by_ref().take(piece).read_to_end(&mut unpacked);
        read.map_err(|source| CompressionError::Damaged { encoding, source })?;
        made.set(unpacked.len());
        if unpacked.len() > limit {
            return Err(CompressionError::TooLarge { limit }.into());
        }
        if unpacked.len() < end {
            return Ok(unpacked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100_000;

    const PACKED: [ContentEncoding; 3] =
        [ContentEncoding::Gzip, ContentEncoding::Deflate, ContentEncoding::Zstd];

    fn unpack(encoding: ContentEncoding, packed: Vec<u8>) -> Result<Vec<u8>, CompressionError> {
        encoding.unpack(packed, LIMIT, || true, |_| Ok(()))
    }

    /// Blocks of deflate that come to nothing, four in five bytes.
    const EMPTY_BLOCKS: [u8; 5] = [0x02, 0x08, 0x20, 0x80, 0x00];

    fn sample() -> Vec<u8> {
        (0..50_000_u32).map(|index| (index * index / 7) as u8).collect()
    }

    #[test]
    fn packed_bodies_come_back() {
        for encoding in [ContentEncoding::Identity].into_iter().chain(PACKED) {
            for body in [Vec::new(), vec![7], sample(), vec![0; LIMIT]] {
                let packed = encoding.pack(body.clone()).unwrap();
                assert_eq!(unpack(encoding, packed).unwrap(), body);
            }
        }
    }

    #[test]
    fn half_a_body_and_one_with_more_behind_it_are_refused() {
        for encoding in PACKED {
            let packed = encoding.pack(sample()).unwrap();
            for length in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
                let error = unpack(encoding, packed[..length].to_vec()).unwrap_err();
                assert!(matches!(error, CompressionError::Damaged { .. }), "{encoding:?} {length} {error}");
            }
            assert!(unpack(encoding, [&packed[..], b"{}"].concat()).is_err());
            // zstd has a checksum only where the sender likes.
            if encoding != ContentEncoding::Zstd {
                let mut damaged = packed;
                let middle = damaged.len() / 2;
                damaged[middle] ^= 0x55;
                assert!(unpack(encoding, damaged).is_err());
            }
            assert!(unpack(encoding, sample()).is_err());
        }
    }

    #[test]
    fn a_small_body_that_unpacks_to_much_stops_at_the_limit() {
        for encoding in PACKED {
            let bomb = encoding.pack(vec![0; 64 << 20]).unwrap();
            assert!(bomb.len() < 400_000);
            let error = unpack(encoding, bomb).unwrap_err();
            assert_eq!(error.to_string(), "the unpacked body is larger than the limit of 100000 bytes");
            let one_more = encoding.pack(vec![0; LIMIT + 1]).unwrap();
            assert!(unpack(encoding, one_more).is_err());
        }
        assert!(unpack(ContentEncoding::Identity, vec![0; LIMIT + 1]).is_err());
    }

    #[test]
    fn it_is_asked_whether_there_is_room_before_it_is_taken() {
        for encoding in PACKED {
            let packed = encoding.pack(vec![7; LIMIT]).unwrap();
            let mut asked = Vec::new();
            let unpacked: Result<_, CompressionError> = encoding.unpack(
                packed.clone(),
                LIMIT,
                || true,
                |bytes| {
                    asked.push(bytes);
                    Ok(())
                },
            );
            assert_eq!((unpacked.unwrap().len(), asked), (LIMIT, vec![PIECE_BYTES, LIMIT + 1]));
            let full = || CompressionError::TooLarge { limit: 0 };
            let refused = |bytes| if bytes > PIECE_BYTES { Err(full()) } else { Ok(()) };
            assert!(encoding.unpack(packed, LIMIT, || true, refused).is_err());
        }
    }

    #[test]
    fn what_comes_to_nothing_is_not_unpacked_to_its_end() {
        let pack = |encoding: ContentEncoding| encoding.pack(b"{}").unwrap();
        let nothing = ContentEncoding::Gzip.pack(b"").unwrap();
        let gzip = |count: usize| [nothing.repeat(count), pack(ContentEncoding::Gzip)].concat();
        let zlib = |count: usize| {
            let packed = pack(ContentEncoding::Deflate);
            [&packed[..2], &EMPTY_BLOCKS.repeat(count), &packed[2..]].concat()
        };
        for (encoding, few, many) in [
            (ContentEncoding::Gzip, gzip(1_000), gzip(20_000)),
            (ContentEncoding::Deflate, zlib(1_000), zlib(80_000)),
        ] {
            assert_eq!(unpack(encoding, few).unwrap(), b"{}");
            let error = std::error::Error::source(&unpack(encoding, many).unwrap_err()).unwrap().to_string();
            assert_eq!(error, "next to nothing comes of it");
        }
    }

    #[test]
    fn what_nobody_waits_for_is_not_unpacked_to_its_end() {
        for encoding in PACKED {
            let looks = Cell::new(0);
            let is_wanted = || looks.replace(looks.get() + 1) < 1;
            let unpacked: Result<_, CompressionError> =
                encoding.unpack(encoding.pack(sample()).unwrap(), LIMIT, is_wanted, |_| Ok(()));
            assert!(unpacked.is_err(), "{encoding:?}");
            assert_eq!(looks.get(), 2, "{encoding:?}");
        }
    }

    #[test]
    fn heads_are_read_as_http_says() {
        let of_request = |header| ContentEncoding::of_request(header).ok();
        assert_eq!(of_request(None), Some(ContentEncoding::Identity));
        assert_eq!(of_request(Some("gzip")), Some(ContentEncoding::Gzip));
        assert_eq!(of_request(Some(" deflate ")), Some(ContentEncoding::Deflate));
        assert_eq!(of_request(Some("GZIP")), Some(ContentEncoding::Gzip));
        assert_eq!(
            ContentEncoding::of_request(Some("br")).unwrap_err().to_string(),
            "`Content-Encoding` is `br`: expected `gzip`, `deflate`, `zstd` or `identity`"
        );
        assert!(of_request(Some("gzip, gzip")).is_none());
        for (header, expected) in [
            ("", ContentEncoding::Identity),
            ("*", ContentEncoding::Identity),
            ("br", ContentEncoding::Identity),
            ("gzip, deflate", ContentEncoding::Gzip),
            ("deflate", ContentEncoding::Deflate),
            ("zstd, gzip;q=0.9", ContentEncoding::Zstd),
            ("gzip;q=0.5, deflate;q=0.8", ContentEncoding::Deflate),
            ("gzip;q=0", ContentEncoding::Identity),
            ("identity, gzip;q=0.9", ContentEncoding::Identity),
            ("gzip;q=x", ContentEncoding::Identity),
            ("Zstd", ContentEncoding::Zstd),
        ] {
            assert_eq!(ContentEncoding::accepted(Some(header)), expected, "{header}");
        }
        assert_eq!(ContentEncoding::accepted(None), ContentEncoding::Identity);
    }
}

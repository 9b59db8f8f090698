//! The shape of an archive: a tar file of plain files, nothing else.
//!
//! Only headers are left to the library. Its reader follows long names, links and extensions wherever they lead and holds
//! them in memory; none of that is ever in an archive of ours, so here every block is either what was expected or an error.

use std::io::{Read, Write};

use tar::{EntryType, Header};

use super::{ArchiveError, shown};

/// Bytes of a header, and what contents are filled up to.
const BLOCK: usize = 512;

/// Zeros that may follow the end: programs that copy archives fill them up to a multiple of what a tape takes.
const PADDING_MAX_BYTES: u64 = 1024 * 1024;

/// Writes files one after the other.
pub(super) struct ArchiveWriter<W> {
    writer: W,
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer }
    }

    /// Begins a file of `size` bytes; gives where they are to be written, after which [`Self::end_file`] is called.
    pub(super) fn begin_file(&mut self, name: &str, size: u64) -> std::io::Result<&mut W> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        self.writer.write_all(header.as_bytes())?;
        Ok(&mut self.writer)
    }

    /// Fills the last block of a file of `size` bytes.
    pub(super) fn end_file(&mut self, size: u64) -> std::io::Result<()> {
        let zeros = [0; BLOCK];
        self.writer.write_all(zeros.get(..padding(size)).unwrap_or_default())
    }

    /// Ends the archive; gives what it was written to.
    pub(super) fn finish(mut self) -> std::io::Result<W> {
        self.writer.write_all(&[0; 2 * BLOCK])?;
        self.writer.flush()?;
        Ok(self.writer)
    }
}

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArchiveEntry {
    pub(super) name: String,
    pub(super) size: u64,
}

/// Reads files one after the other.
pub(super) struct ArchiveReader<R> {
    reader: R,
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader }
    }

    /// The next file; none at the end, after which nothing else may follow. Its bytes must be read by
    /// [`Self::content`], all of them, before the next call.
    pub(super) fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let mut block = [0; BLOCK];
        self.reader.read_exact(&mut block).map_err(unreadable)?;
        if block == [0; BLOCK] {
            self.read_end()?;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        let sum = block.iter().enumerate().map(|(place, byte)| match place {
            // The sum is of the header with blanks in its own place.
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        });
        let told = header.cksum().map_err(|_| ArchiveError::format(NO_TAR))?;
        if sum.sum::<u32>() != told {
            return Err(ArchiveError::format(NO_TAR));
        }
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let kind = header.entry_type();
        if kind != EntryType::Regular {
            let (name, kind) = (shown(&name), describe(kind));
            return Err(ArchiveError::format(format!("expected plain files only, found {kind} `{name}`")));
        }
        let size = header.entry_size();
        let size = size.map_err(|_| ArchiveError::format(format!("`{}` has no size", shown(&name))))?;
        Ok(Some(ArchiveEntry { name, size }))
    }

    /// The bytes of `entry`; to be read to their end.
    pub(super) fn content(&mut self, entry: &ArchiveEntry) -> Content<'_, R> {
        Content { reader: &mut self.reader, left: entry.size, padding: padding(entry.size) }
    }

    /// A second block of zeros, and only zeros after it.
    fn read_end(&mut self) -> Result<(), ArchiveError> {
        let mut block = [0; BLOCK];
        self.reader.read_exact(&mut block).map_err(unreadable)?;
        let mut is_zero = block == [0; BLOCK];
        let mut found = 0;
        while is_zero {
            let count = match self.reader.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            found += count as u64;
            is_zero = block.iter().take(count).all(|byte| *byte == 0) && found <= PADDING_MAX_BYTES;
        }
        Err(ArchiveError::format("expected nothing after its end, found more bytes"))
    }
}

const NO_TAR: &str = "expected a tar file that `host export` wrote, found something else";

/// The bytes of a file in an archive; an end before their time is an error.
pub(super) struct Content<'a, R> {
    reader: &'a mut R,
    left: u64,
    padding: usize,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut filled = [0; BLOCK];
            let padding = filled.get_mut(..std::mem::take(&mut self.padding)).unwrap_or_default();
            self.reader.read_exact(padding)?;
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.reader.read(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 && most > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Why the file ended or failed.
pub(super) fn unreadable(error: std::io::Error) -> ArchiveError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ArchiveError::format("it is cut off: expected more bytes"),
        _ => ArchiveError::Io { action: "read", path: "the archive".into(), source: error },
    }
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if over == 0 { 0 } else { BLOCK - over }
}

fn describe(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink | EntryType::Link => "a link",
        EntryType::Directory => "a folder",
        EntryType::Char | EntryType::Block | EntryType::Fifo => "a device",
        _ => "an extension",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ArchiveWriter::new(Vec::new());
        for (name, content) in files {
            let size = content.len() as u64;
            writer.begin_file(name, size).unwrap().write_all(content).unwrap();
            writer.end_file(size).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
        let mut reader = ArchiveReader::new(bytes);
        let mut files = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            reader.content(&entry).read_to_end(&mut content).map_err(unreadable)?;
            files.push((entry.name, content));
        }
        Ok(files)
    }

    #[test]
    fn gives_back_what_was_written() {
        let long = vec![7; 1_500];
        let files: [(&str, &[u8]); 4] = [("a", b"1"), ("b/c", b""), ("d", &long), ("e", &[1; 512])];
        let found = read(&archive(&files)).unwrap();
        let expected = files.map(|(name, content)| (name.to_owned(), content.to_vec()));
        assert_eq!(found, expected);
        let mut padded = archive(&files);
        padded.resize(10_240, 0);
        assert_eq!(read(&padded).unwrap(), expected, "what copies of tapes look like");
    }

    #[test]
    fn every_cut_is_found() {
        let whole = archive(&[("a", b"12345"), ("b", &[1; 600])]);
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(error.to_string().ends_with("it is cut off: expected more bytes"), "{length}: {error}");
        }
    }

    #[test]
    fn refuses_what_is_no_plain_file() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Char,
            EntryType::Fifo,
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNUSparse,
        ] {
            let mut header = Header::new_gnu();
            header.set_path("a").unwrap();
            header.set_size(u64::MAX);
            header.set_entry_type(kind);
            header.set_cksum();
            let error = read(header.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("expected plain files only"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn refuses_noise_and_what_follows_the_end() {
        let whole = archive(&[("a", b"12345")]);
        for (place, error) in [(0, NO_TAR), (130, NO_TAR), (whole.len() - 1, "found more bytes")] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(read(&changed).unwrap_err().to_string().ends_with(error), "{place}");
        }
        let more = [whole.as_slice(), b"x"].concat();
        assert!(read(&more).unwrap_err().to_string().contains("found more bytes"));
        let endless = [whole.as_slice(), &vec![0; 2 << 20]].concat();
        assert!(read(&endless).unwrap_err().to_string().contains("found more bytes"));
        assert!(read(&[b'x'; 4_096]).unwrap_err().to_string().ends_with(NO_TAR));
    }
}

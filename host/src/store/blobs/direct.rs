//! Writing past the page cache (`O_DIRECT`): where many files are kept and none is read again soon, taking memory for them
//! and copying them into it costs more than hashing them.
//!
//! The price: who reads such a file next, reads it from the disk. What is written is as durable as after an ordinary write:
//! not before a sync.

use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};

use rustix::fs::{OFlags, fcntl_setfl};

/// What addresses, offsets and lengths of direct writes are multiples of. Disks ask for their block, 512 or 4096 bytes.
const ALIGNMENT: usize = 4096;

/// Below, waiting for the disk takes longer than the page cache.
const DIRECT_MIN_BYTES: usize = 32 * 1024;

/// Memory for a piece of a file, from where it can be written directly.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Piece {
    /// Most bytes that it holds: so many that a disk is not the slower for writing them piece by piece.
    pub(super) const MAX_BYTES: usize = 1024 * 1024;

    /// Has no memory before it is filled.
    pub(super) const fn new() -> Self {
        Self { memory: Vec::new(), start: 0, len: 0 }
    }

    /// Reads the next piece of what `reader` gives; it is full unless that was the last.
    pub(super) fn fill(&mut self, reader: &mut dyn Read) -> std::io::Result<()> {
        self.len = 0;
        if self.memory.is_empty() {
            self.memory = vec![0; Self::MAX_BYTES + ALIGNMENT];
            // It may say that it does not know; then the kernel refuses direct writes, and they are made ordinarily.
            self.start = self.memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        }
        let room = self.memory.get_mut(self.start..self.start + Self::MAX_BYTES).unwrap_or_default();
        while let Some(rest) = room.get_mut(self.len..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(0) => break,
                Ok(count) => self.len += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What was read.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }

    /// Whether there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.len == Self::MAX_BYTES
    }
}

/// Writes `bytes` as [`Write::write_all`](std::io::Write::write_all) does, but past the page cache where that is quicker
/// and the file system can: all but the last bytes, which fill no block.
pub(super) fn write_direct(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    // Set on the open file, because kernels left an empty file behind where they refused to create one with the flag.
    if bytes.len() < DIRECT_MIN_BYTES || fcntl_setfl(&*file, OFlags::DIRECT).is_err() {
        return file.write_all(bytes);
    }
    while let Some(blocks) = bytes.get(..bytes.len() / ALIGNMENT * ALIGNMENT).filter(|it| !it.is_empty()) {
        match file.write(blocks) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Larger blocks than expected, or a write that ended within one.
            Err(error) if error.kind() == ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    fcntl_setfl(&*file, OFlags::empty())?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Where files lie on a disk, and in memory.
    const FOLDERS: [&str; 2] = [env!("CARGO_MANIFEST_DIR"), "/dev/shm"];

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    /// Writes it piece by piece, and gives what can be read then.
    fn written(folder: &Path, content: &[u8]) -> Vec<u8> {
        let path = folder.join("file");
        let (mut file, mut reader, mut piece) = (File::create(&path).unwrap(), content, Piece::new());
        loop {
            piece.fill(&mut reader).unwrap();
            write_direct(&mut file, piece.bytes()).unwrap();
            if !piece.is_full() {
                return std::fs::read(path).unwrap();
            }
        }
    }

    #[test]
    fn every_size_is_written_whole() {
        const MIB: usize = 1024 * 1024;
        for place in FOLDERS {
            let folder = tempfile::tempdir_in(place).unwrap();
            for len in [0, 1, 4_095, 4_096, 4_097, 32_767, 32_768, 100_000, MIB - 1, MIB, MIB + 1, 3 * MIB] {
                let content = noise(len);
                assert!(written(folder.path(), &content) == content, "{len} bytes in {place}");
            }
        }
    }

    #[test]
    fn what_does_not_begin_at_a_block_is_written_too() {
        let content = noise(200_001);
        for place in FOLDERS {
            let folder = tempfile::tempdir_in(place).unwrap();
            let path = folder.path().join("file");
            let mut file = File::create(&path).unwrap();
            // Neither the memory of the second write nor its place in the file.
            let (first, second) = content.split_at(50_001);
            write_direct(&mut file, first).unwrap();
            write_direct(&mut file, second).unwrap();
            assert!(std::fs::read(&path).unwrap() == content, "in {place}");
        }
    }

    #[test]
    fn a_file_that_takes_no_direct_writes_is_written_ordinarily() {
        let mut piece = Piece::new();
        piece.fill(&mut std::io::repeat(7)).unwrap();
        write_direct(&mut File::create("/dev/null").unwrap(), piece.bytes()).unwrap();
        let error = write_direct(&mut File::create("/dev/full").unwrap(), piece.bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_piece_is_filled_from_reads_of_any_size() {
        struct Few<'a>(&'a [u8]);
        impl Read for Few<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let most = buffer.len().min(1_000);
                self.0.read(&mut buffer[..most])
            }
        }
        let content = noise(Piece::MAX_BYTES + 10);
        let (mut reader, mut piece) = (Few(&content), Piece::new());
        piece.fill(&mut reader).unwrap();
        assert!(piece.is_full() && piece.bytes() == &content[..Piece::MAX_BYTES]);
        assert_eq!(piece.bytes().as_ptr().align_offset(ALIGNMENT), 0);
        piece.fill(&mut reader).unwrap();
        assert!(!piece.is_full() && piece.bytes() == &content[Piece::MAX_BYTES..]);
        piece.fill(&mut reader).unwrap();
        assert_eq!(piece.bytes(), b"");
    }
}

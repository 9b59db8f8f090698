//! Adding many files to a dataset, beside `sha256sum` on the same cores and `cp` to the same disk.
//!
//! Adding hashes every byte and keeps a durable copy of it, so it can be no quicker than either. On a disk that writes more
//! slowly than the cores hash, the copy decides; so a smaller tree is added in memory too.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{fresh_folder, report};
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::session::Session;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// Bytes of a file; of the size of a photograph that was made small for training.
const FILE_BYTES: usize = 100_000;

/// Files of a folder.
const FOLDER_FILES: usize = 1_000;

/// Files that are added to a disk: 10 GB.
const DISK_FILES: usize = 100_000;

/// Files that are added in memory, where they are three times: as they are, as `cp` and as the program keeps them.
const MEMORY_FILES: usize = 20_000;

/// A file system in memory, as Linux has it.
const MEMORY: &str = "/dev/shm";

/// How long what was removed from a disk is waited for: ext4 without a journal passes over the inodes of removed files for a
/// minute, one by one, whenever it makes a file. What removing a copy costs the next step is none of its own time.
const REMOVED: Duration = Duration::from_secs(65);

/// What is timed, in this order.
const MEASURED: [&str; 4] = ["`sha256sum`", "`cp -r`, `sync`", "`host data add`", "the same again"];

/// Where files are added, and how many.
struct Place {
    name: &'static str,
    folder: PathBuf,
    files: usize,
    /// How long it is slower after files were removed.
    removed: Duration,
}

pub(super) fn run(layout: &Layout, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let places = [
        Place {
            name: "disk",
            folder: layout.cache().join("bench/data"),
            files: DISK_FILES,
            removed: REMOVED,
        },
        Place {
            name: "memory",
            folder: Path::new(MEMORY).join("host-bench-data"),
            files: MEMORY_FILES,
            removed: Duration::ZERO,
        },
    ];
    let mut rows = vec![head()];
    for place in &places {
        terminal::heading(&format!("Adding {} files in {}", place.files, place.folder.display()));
        let measured = measure(layout, place, rounds);
        // A folder in memory takes it from whatever runs next, and the other one ten times as much from the disk.
        let removed = std::fs::remove_dir_all(&place.folder);
        rows.push(row(place, &measured?));
        removed.context(format_args!("remove `{}`", place.folder.display()))?;
    }
    let result = report::table(&rows, 0);
    terminal::line(&format!("\n{result}"));
    report::write(layout, "data", &format!("cargo xtask bench data --rounds {rounds}"), &result)
}

/// Times of each round, in the order of [`MEASURED`].
fn measure(layout: &Layout, place: &Place, rounds: u32) -> Result<Vec<[f64; MEASURED.len()]>> {
    fresh_folder(&place.folder)?;
    let tree = place.folder.join("tree");
    write_tree(&tree, place.files)?;
    process::run(Command::new("sync").arg("-f").arg(&tree), "wait for the disk")?;
    let (state, copy) = (place.folder.join("state"), place.folder.join("copy"));
    let session = Session::new(layout, state.clone());
    let mut times = Vec::new();
    for round in 1..=rounds {
        let hash = timed(Command::new("sh").args(["-c", &hash_all(&tree)?]), "hash the files")?;
        let copied = timed(Command::new("sh").args(["-c", &copy_all(&tree, &copy)?]), "copy the files")?;
        remove(&copy, place)?;
        let add = || {
            let mut add = session.host(["--quiet", "data", "add", "tree"]);
            add.arg(&tree);
            add
        };
        let (added, again) = (timed(&mut add(), "add the files")?, timed(&mut add(), "add the files again")?);
        remove(&state, place)?;
        terminal::line(&format!(
            "round {round}  sha256sum {hash:.1} s  cp {copied:.1} s  host {added:.1} s  again {again:.2} s"
        ));
        times.push([hash, copied, added, again]);
    }
    Ok(times)
}

/// Removes one of a place's folders, and waits until that slows nothing any more.
fn remove(folder: &Path, place: &Place) -> Result<()> {
    std::fs::remove_dir_all(folder).context(format_args!("remove `{}`", folder.display()))?;
    process::run(Command::new("sync").arg("-f").arg(&place.folder), "wait for the disk")?;
    std::thread::sleep(place.removed);
    Ok(())
}

/// Every core hashes, as the program does it.
fn hash_all(tree: &Path) -> Result<String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!("find {} -type f -print0 | xargs -0 -P {threads} -n 256 sha256sum > /dev/null", word(tree)?))
}

/// As durable as what the program keeps.
fn copy_all(tree: &Path, copy: &Path) -> Result<String> {
    Ok(format!("cp -r {} {} && sync -f {}", word(tree)?, word(copy)?, word(copy)?))
}

/// A path as a word of a shell.
fn word(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains('\''));
    let text = text.ok_or_else(|| Error::new(format!("`{}` cannot be told to a shell", path.display())))?;
    Ok(format!("'{text}'"))
}

fn timed(command: &mut Command, what: &str) -> Result<f64> {
    let started = Instant::now();
    process::run(command, what)?;
    Ok(started.elapsed().as_secs_f64())
}

/// Writes files of noise: no two are the same, and nothing can make them smaller.
fn write_tree(tree: &Path, files: usize) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(FILE_BYTES + 8);
    for number in 0..files {
        let folder = tree.join(format!("{:03}", number / FOLDER_FILES));
        if number % FOLDER_FILES == 0 {
            std::fs::create_dir_all(&folder).context(format_args!("create `{}`", folder.display()))?;
        }
        bytes.clear();
        while bytes.len() < FILE_BYTES {
            // Marsaglia's xorshift with 64 bits.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(FILE_BYTES);
        let path = folder.join(format!("{:03}.bin", number % FOLDER_FILES));
        let written = File::create(&path).and_then(|mut file| file.write_all(&bytes));
        written.context(format_args!("write `{}`", path.display()))?;
    }
    Ok(())
}

fn head() -> Vec<String> {
    let fixed = ["where", "files", "GB"].map(str::to_owned);
    let seconds = MEASURED.map(|what| format!("{what}, s"));
    let shares = ["speed of `sha256sum`", "speed of `cp`"].map(str::to_owned);
    fixed.into_iter().chain(seconds).chain(shares).collect()
}

/// Medians, and what they are relative to the peers'.
fn row(place: &Place, times: &[[f64; MEASURED.len()]]) -> Vec<String> {
    let of = |which: fn(&[f64; MEASURED.len()]) -> f64| median(&times.iter().map(which).collect::<Vec<_>>());
    let (hash, copied) = (of(|[hash, ..]| *hash), of(|[_, copied, ..]| *copied));
    let (added, again) = (of(|[_, _, added, _]| *added), of(|[.., again]| *again));
    vec![
        place.name.to_owned(),
        place.files.to_string(),
        format!("{:.0}", (place.files * FILE_BYTES) as f64 / 1e9),
        format!("{hash:.1}"),
        format!("{copied:.1}"),
        format!("{added:.1}"),
        format!("{again:.2}"),
        format!("{:.0} %", 100.0 * hash / added),
        format!("{:.0} %", 100.0 * copied / added),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_and_speeds() {
        let place = Place { name: "disk", folder: PathBuf::new(), files: 20_000, removed: REMOVED };
        let row = row(&place, &[[3.0, 6.0, 4.0, 0.5], [3.0, 6.0, 4.0, 0.5], [9.0, 9.0, 9.0, 9.0]]);
        assert_eq!(row.join(" "), "disk 20000 2 3.0 6.0 4.0 0.50 75 % 150 %");
        assert_eq!(head().len(), row.len());
    }

    #[test]
    fn writes_files_of_which_no_two_are_the_same() {
        let folder = std::env::temp_dir().join(format!("host-bench-data-{}", std::process::id()));
        write_tree(&folder, 2).unwrap();
        let read = |name: &str| std::fs::read(folder.join("000").join(name)).unwrap();
        let (first, second) = (read("000.bin"), read("001.bin"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((first.len(), second.len()), (FILE_BYTES, FILE_BYTES));
        assert!(first != second && first != vec![first[0]; FILE_BYTES]);
    }

    #[test]
    fn paths_are_single_words() {
        assert_eq!(word(Path::new("/a b/c")).unwrap(), "'/a b/c'");
        assert!(word(Path::new("/it's")).is_err());
    }
}

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::data::DataError;
use crate::store::Stamp;

/// Most files of a version.
pub(super) const FILES_MAX: usize = 1_000_000;

/// Longest path of a file in a dataset, in bytes; systems allow 4,096 with the folder that it is written to.
const PATH_MAX_BYTES: usize = 2_048;

/// Longest part of a path, as file systems have it.
const PART_MAX_BYTES: usize = 255;

/// How a file is read; IDX and CSV may also be packed by gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// One column, as MNIST has them.
    Idx,
    /// Comma-separated cells with a header row.
    Csv,
    /// Parquet.
    Parquet,
    /// Safetensors, each tensor a column.
    Safetensors,
    /// Anything else, which is kept and holds no rows.
    Plain,
}

impl FileFormat {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idx => "IDX",
            Self::Csv => "CSV",
            Self::Parquet => "Parquet",
            Self::Safetensors => "safetensors",
            Self::Plain => "any file",
        }
    }
}

/// A file of the user, and what its name says about it.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    /// Its name in the dataset, with folders.
    pub(super) name: String,
    pub(super) format: FileFormat,
    pub(super) split: &'static str,
    pub(super) column: Option<String>,
    pub(super) stamp: Stamp,
}

/// What was found at the user's paths.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By split and name.
    pub(super) files: Vec<FoundFile>,
    /// What is no data, such as a README; names of folders end with `/`.
    pub(super) left_out: Vec<String>,
}

/// Finds the files at `paths`: files, folders with all that is in them, and patterns such as `data/**/*.csv`. Where
/// `rows` is false, no file is read as rows, whatever its name.
pub(super) fn find_files(paths: &[PathBuf], rows: bool) -> Result<Found, DataError> {
    let mut found = Found::default();
    for path in paths {
        let is_there = std::fs::symlink_metadata(path).is_ok();
        match path.to_str().filter(|text| !is_there && text.contains(['*', '?', '['])) {
            Some(pattern) => add_matches(pattern, rows, &mut found)?,
            None => {
                let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
                add_path(path, folder, rows, &mut found)?;
            }
        }
    }
    if found.files.is_empty() {
        let paths: Vec<_> = paths.iter().take(5).map(|path| format!("`{}`", path.display())).collect();
        return Err(DataError::NoData { paths: paths.join(", ") });
    }
    found.files.sort_by(|a: &FoundFile, b| (a.split, &a.name).cmp(&(b.split, &b.name)));
    let mut names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| matches!(pair, [a, b] if a == b)).and_then(|pair| pair.first());
    if let Some(&file) = twice {
        return Err(DataError::DuplicateFile { file: file.to_owned() });
    }
    Ok(found)
}

/// Adds what a pattern matches, folders with all that is in them; names start after the folders that the pattern names
/// outright.
fn add_matches(pattern: &str, rows: bool, found: &mut Found) -> Result<(), DataError> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let wrong = |error: glob::PatternError| DataError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.msg.to_owned(),
    };
    let plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let folder: PathBuf = Path::new(pattern).components().take_while(plain).collect();
    // At its end `**` would match folders alone, and not the files beside them.
    let whole = match Path::new(pattern).ends_with("**") {
        true => Path::new(pattern).join("*").to_string_lossy().into_owned(),
        false => pattern.to_owned(),
    };
    let mut folders: HashSet<PathBuf> = HashSet::new();
    for path in glob::glob_with(&whole, options).map_err(wrong)? {
        let path = path.map_err(|error| {
            let at = error.path().to_path_buf();
            DataError::read(&at)(error.into())
        })?;
        // A folder comes before what is in it, which is found with it, whether it matches too or not.
        if path.ancestors().skip(1).any(|above| folders.contains(above)) {
            continue;
        }
        add_path(&path, &folder, rows, found)?;
        if path.is_dir() {
            folders.insert(path);
        }
    }
    Ok(())
}

/// Adds a file or all files of a folder; names start after `folder`. Follows links, so that a folder of links to large
/// files can be added.
fn add_path(path: &Path, folder: &Path, rows: bool, found: &mut Found) -> Result<(), DataError> {
    let mut entries = WalkDir::new(path).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|error| {
            let at = error.path().unwrap_or(path).to_path_buf();
            DataError::read(&at)(error.into())
        })?;
        let path = entry.path();
        if entry.file_type().is_dir() {
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if entry.depth() > 0 && is_hidden {
                let name = path.strip_prefix(folder).unwrap_or(path);
                found.left_out.push(format!("{}/", name.to_string_lossy()));
                entries.skip_current_dir();
            }
            continue;
        }
        let metadata = entry.metadata().map_err(|error| DataError::read(path)(error.into()))?;
        // Pipes and devices might never end.
        if !metadata.is_file() {
            let (expected, found) = ("a file", "a pipe, socket or device");
            return Err(DataError::Path { path: path.to_path_buf(), expected, found });
        }
        add_file(path, folder, rows, Stamp::of(&metadata), found)?;
    }
    Ok(())
}

fn add_file(
    path: &Path,
    folder: &Path,
    rows: bool,
    stamp: Stamp,
    found: &mut Found,
) -> Result<(), DataError> {
    let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) else {
        return Err(DataError::FileName { path: path.to_path_buf(), expected: "UTF-8" });
    };
    check_path(name).map_err(|expected| DataError::FileName { path: path.to_path_buf(), expected })?;
    let base = name.rsplit('/').next().unwrap_or(name);
    let readable = format_of(base).filter(|_| rows);
    if base.starts_with('.') || goes_along(base) {
        found.left_out.push(name.to_owned());
        return Ok(());
    }
    if found.files.len() == FILES_MAX {
        return Err(DataError::TooManyFiles { limit: FILES_MAX });
    }
    let format = readable.unwrap_or(FileFormat::Plain);
    let column = (format == FileFormat::Idx).then(|| idx_column(base));
    let split = if format == FileFormat::Plain { "" } else { split_of(name) };
    found.files.push(FoundFile {
        path: path.to_path_buf(),
        name: name.to_owned(),
        format,
        split,
        column,
        stamp,
    });
    Ok(())
}

/// Whether `path` can be the name of a file in a dataset; says what one is if it cannot. A name leads to a place below
/// any folder that it is written to, and nowhere else.
pub(in crate::data) fn check_path(path: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "a relative path without `..`, of at most 2,048 bytes and 255 a part";
    if path.contains(['\0', '\\']) {
        return Err("no backslash, which is between folders elsewhere, and no zero byte");
    }
    let part_is_good =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= PART_MAX_BYTES;
    let is_good = path.len() <= PATH_MAX_BYTES && path.split('/').all(part_is_good);
    if is_good { Ok(()) } else { Err(EXPECTED) }
}

/// Files that lie beside data and hold none.
fn goes_along(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let (stem, extension) = upper.split_once('.').unwrap_or((&upper, ""));
    ["README", "LICENSE", "LICENCE", "SHA256SUMS", "SHA512SUMS", "MD5SUMS", "CHECKSUMS"].contains(&stem)
        && ["", "MD", "TXT", "RST", "HTML"].contains(&extension)
}

fn format_of(name: &str) -> Option<FileFormat> {
    let lower = name.to_ascii_lowercase();
    let base = lower.strip_suffix(".gz").unwrap_or(&lower);
    if base.ends_with(".csv") {
        Some(FileFormat::Csv)
    } else if lower.ends_with(".parquet") {
        Some(FileFormat::Parquet)
    } else if lower.ends_with(".safetensors") {
        Some(FileFormat::Safetensors)
    } else {
        idx_stem(base).map(|_| FileFormat::Idx)
    }
}

/// What stands before `-idx3-ubyte`, `.idx3-ubyte` or `.idx`.
fn idx_stem(base: &str) -> Option<&str> {
    base.strip_suffix(".idx").or_else(|| {
        let (stem, mark) = base.rsplit_once("idx")?;
        let dimensions = mark.as_bytes().first()?.is_ascii_digit();
        let typed = mark.get(1..)?.strip_prefix('-')?.chars().all(|letter| letter.is_ascii_alphanumeric());
        (dimensions && typed).then(|| stem.strip_suffix(['-', '.'])).flatten()
    })
}

/// `test` where a word of the name says so: `test.csv`, `iris_test.csv`, `test-0001.parquet`, `t10k-images…`.
fn split_of(name: &str) -> &'static str {
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|letter: char| !letter.is_alphanumeric());
    let is_test =
        |word: &str| word == "t10k" || word.trim_end_matches(|c: char| c.is_ascii_digit()) == "test";
    if words.any(is_test) { "test" } else { "train" }
}

/// The column that an IDX file holds: `pixels` for images, `label` for labels, else what its name says.
fn idx_column(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let base = lower.strip_suffix(".gz").unwrap_or(&lower);
    let words = idx_stem(base).unwrap_or(base).split(|letter: char| !letter.is_alphanumeric());
    let words: Vec<_> = words.filter(|word| !["", "train", "test", "t10k"].contains(word)).collect();
    match words.last() {
        Some(&"images") => "pixels".to_owned(),
        Some(&"labels") => "label".to_owned(),
        Some(_) => words.join("_").chars().take(64).collect(),
        None => "value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_format_split_and_column() {
        let cases = [
            ("train-images-idx3-ubyte.gz", FileFormat::Idx, "train", Some("pixels")),
            ("t10k-labels-idx1-ubyte", FileFormat::Idx, "test", Some("label")),
            ("t10k-labels.idx1-ubyte", FileFormat::Idx, "test", Some("label")),
            ("Train-weights-idx1-float.gz", FileFormat::Idx, "train", Some("weights")),
            ("test.idx", FileFormat::Idx, "test", Some("value")),
            ("train.csv", FileFormat::Csv, "train", None),
            ("TEST.CSV.GZ", FileFormat::Csv, "test", None),
            ("sales 2024 ü.csv", FileFormat::Csv, "train", None),
            ("test-0001.parquet", FileFormat::Parquet, "test", None),
            ("Train-0001.Safetensors", FileFormat::Safetensors, "train", None),
            ("iris_test.csv", FileFormat::Csv, "test", None),
            ("test2.csv", FileFormat::Csv, "test", None),
            ("testimonials.csv", FileFormat::Csv, "train", None),
            ("latest.csv", FileFormat::Csv, "train", None),
        ];
        for (name, format, split, column) in cases {
            assert_eq!(format_of(name), Some(format), "{name}");
            assert_eq!(split_of(name), split, "{name}");
            let found = (format == FileFormat::Idx).then(|| idx_column(name));
            assert_eq!(found.as_deref(), column, "{name}");
        }
        assert_eq!(split_of("cats/test/1.csv"), "test");
        for name in [
            "a.txt",
            "a.parquet.gz",
            "a.safetensors.gz",
            "idx",
            "a-idx",
            "a-idxx-ubyte",
            "a-idx3-",
            "csv",
            "",
        ] {
            assert!(format_of(name).is_none() || name == "a-idx3-", "{name}");
        }
    }

    #[test]
    fn only_whole_names_go_along_with_data() {
        for name in ["README", "readme.md", "LICENSE.txt", "Licence", "SHA256SUMS", "md5sums.txt"] {
            assert!(goes_along(name), "{name}");
        }
        for name in ["license_plate_001.jpg", "readme_scan.png", "README.csv", "LICENSES.md", "README.png"] {
            assert!(!goes_along(name), "{name}");
        }
    }

    #[test]
    fn paths_stay_below_a_folder() {
        for path in ["a", "a/b.csv", "a b/ü/c", "..a/b..", "a;b", "%2e%2e/a"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(1_024) + "x";
        for path in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a\\b", &long, &deep]
        {
            assert!(check_path(path).is_err(), "{path}");
        }
    }
}

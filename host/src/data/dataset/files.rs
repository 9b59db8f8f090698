use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::DataError;

/// How a file is read; any but Parquet may also be packed by gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// One column, as MNIST has them.
    Idx,
    /// Comma-separated cells with a header row.
    Csv,
    /// Parquet.
    Parquet,
}

impl FileFormat {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idx => "IDX",
            Self::Csv => "CSV",
            Self::Parquet => "Parquet",
        }
    }
}

/// A file of the user, and what its name says about it.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) format: FileFormat,
    pub(super) split: &'static str,
    pub(super) column: Option<String>,
}

/// Finds the data files in `paths`, sorted by split and name, and notes what it left out. A file that is neither data
/// nor known to go along with data is an error: leaving out a misnamed file would quietly change the dataset.
pub(super) fn find_files(paths: &[PathBuf]) -> Result<(Vec<FoundFile>, Vec<String>), DataError> {
    let mut found = Vec::new();
    let mut notes = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(DataError::read(path))?;
        if !metadata.is_dir() {
            add_file(path, &mut found, &mut notes)?;
            continue;
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).map_err(DataError::read(path))? {
            entries.push(entry.map_err(DataError::read(path))?.path());
        }
        entries.sort();
        for entry in entries {
            add_file(&entry, &mut found, &mut notes)?;
        }
    }
    if found.is_empty() {
        let paths: Vec<_> = paths.iter().take(5).map(|path| format!("`{}`", path.display())).collect();
        return Err(DataError::NoData { paths: paths.join(", ") });
    }
    found.sort_by(|a: &FoundFile, b| (a.split, &a.name).cmp(&(b.split, &b.name)));
    let twice = found.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name));
    if let Some([file, _]) = twice {
        return Err(DataError::DuplicateFile { file: file.name.clone() });
    }
    Ok((found, notes))
}

fn add_file(path: &Path, found: &mut Vec<FoundFile>, notes: &mut Vec<String>) -> Result<(), DataError> {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        let (expected, found) = ("a name of UTF-8", "something else");
        return Err(DataError::Path { path: path.to_path_buf(), expected, found });
    };
    if goes_along(name) && (name.starts_with('.') || format_of(name).is_none()) {
        notes.push(format!("`{}` was left out: it is no data", path.display()));
        return Ok(());
    }
    // Follows links, so that a folder of links to large files can be added. Pipes and devices might never end.
    let metadata = std::fs::metadata(path).map_err(DataError::read(path))?;
    let wrong =
        |found| DataError::Path { path: path.to_path_buf(), expected: "an IDX, CSV or Parquet file", found };
    if metadata.is_dir() {
        return Err(wrong("a folder in a folder"));
    }
    if !metadata.is_file() {
        return Err(wrong("a pipe, socket or device"));
    }
    let Some(format) = format_of(name) else {
        return Err(wrong("a file with another name"));
    };
    let column = (format == FileFormat::Idx).then(|| idx_column(name));
    let split = split_of(name);
    found.push(FoundFile { path: path.to_path_buf(), name: name.to_owned(), format, split, column });
    Ok(())
}

/// Files that lie beside data and hold none.
fn goes_along(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let starts = |prefix: &&str| upper.starts_with(prefix);
    ["README", "LICENSE", "LICENCE", "."].iter().any(starts)
        || ["SHA256SUMS", "SHA512SUMS", "MD5SUMS", "CHECKSUMS"].contains(&upper.as_str())
}

fn format_of(name: &str) -> Option<FileFormat> {
    let lower = name.to_ascii_lowercase();
    let base = lower.strip_suffix(".gz").unwrap_or(&lower);
    if base.ends_with(".csv") {
        Some(FileFormat::Csv)
    } else if lower.ends_with(".parquet") {
        Some(FileFormat::Parquet)
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
        for name in ["a.txt", "a.parquet.gz", "idx", "a-idx", "a-idxx-ubyte", "a-idx3-", "csv", ""] {
            assert!(format_of(name).is_none() || name == "a-idx3-", "{name}");
        }
    }
}

mod preview;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Subcommand;
use indicatif::ProgressBar;
use serde_json::json;

use super::lineage::{lineage_of, show as show_lineage};
use super::output::{Output, Table, bytes_text, printable, thousands, with_fields};
use super::state::{StateArguments, wait};
use crate::data::{
    self, AddProgress, AddWatcher, AddedDataset, Catalog, DatasetVersion, FileProblem, NewDataset,
};
use crate::domain::Name;
use crate::registry::{LineageDirection, LineageSubject};
use crate::track::now_ms;

/// Files that a list shows where nobody asks for all.
const SHOWN_FILES: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Add files as a new version of a dataset.
    ///
    /// IDX (as MNIST has them), CSV, Parquet and safetensors files are read as rows. A word such as `test` or `t10k` in a file's name
    /// or folder puts it into the split `test`; others belong to `train`. All other files are kept as they are.
    #[command(after_help = "\
Examples:
  host data add mnist examples/mnist/data
  host data add photos 'raw/**/*.png' s3://bucket/photos/2024
  host data add photos new/ --parent photos --remove 'drafts/*'")]
    Add {
        /// The dataset.
        name: Name,
        /// Files, folders with all that is in them, patterns such as 'data/**/*.csv', and s3://, gs:// and az:// URLs.
        #[arg(required_unless_present = "parent")]
        paths: Vec<PathBuf>,
        /// Start from the files of this version; those of the same name are replaced.
        #[arg(long, value_name = "DATASET")]
        parent: Option<String>,
        /// Leave out files of the parent: a name, a folder or a pattern; may be given more than once.
        #[arg(long, value_name = "PATTERN", requires = "parent")]
        remove: Vec<String>,
        /// Read no rows from any file.
        #[arg(long)]
        no_rows: bool,
        /// Read files again that have not changed since they were last added, and store them again, which mends damaged ones.
        #[arg(long)]
        reread: bool,
    },
    /// List the datasets.
    List,
    /// Show a version's files, schema, statistics and rows.
    Show {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
        /// Show all files.
        #[arg(long)]
        files: bool,
        /// Show the first rows, images as pictures.
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
        rows: u16,
        /// The split whose rows are shown [default: the first].
        #[arg(long)]
        split: Option<String>,
    },
    /// Show how one version differs from another.
    Diff {
        /// The version before: a name, `name@version`, `name@tag` or `name@sha256:…`.
        before: String,
        /// The version after.
        after: String,
    },
    /// Write a version's files into a folder; what was interrupted goes on where it was.
    Get {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
        /// The folder.
        folder: PathBuf,
        /// Replace files of other content.
        #[arg(long)]
        force: bool,
    },
    /// Check that every byte of a version is what it was.
    Verify {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
        /// Compare this folder with the version, rather than the store.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    /// Give a version a name, such as `stable`; it leaves the version that had it.
    Tag {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
        /// The tag.
        tag: String,
        /// Take the tag away, from whichever version has it where a name alone is given.
        #[arg(long)]
        delete: bool,
    },
    /// Make one version of several; of files with the same name the last one's is taken.
    Squash {
        /// The dataset that gets the version.
        name: Name,
        /// The versions.
        #[arg(required = true)]
        datasets: Vec<String>,
    },
    /// Publish a version: it can no longer be deleted.
    Publish {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
    },
    /// Forget a version that is not published; `host gc` frees what nothing else needs.
    Delete {
        /// The version: `name@version` or `name@tag`.
        dataset: String,
    },
    /// Show what a version was made from and what it led to, as `host lineage` does.
    Lineage {
        /// The version: a name, `name@version`, `name@tag` or `name@sha256:…`.
        dataset: String,
    },
}

pub(super) fn run(command: DataCommand, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    wait(async {
        if let DataCommand::Lineage { dataset } = &command {
            let subject = LineageSubject::Dataset(dataset.clone());
            let lineage = lineage_of(&state.open_registry().await?, &subject).await?;
            return show_lineage(&lineage, &[LineageDirection::Up, LineageDirection::Down], output);
        }
        run_with(command, &state.open_catalog().await?, output).await
    })
}

async fn run_with(command: DataCommand, catalog: &Catalog, output: &Output) -> anyhow::Result<()> {
    match command {
        DataCommand::Add { name, paths, parent, remove, no_rows, reread } => {
            let now_ms = now_ms();
            let new = NewDataset { name, paths, parent, remove, rows: !no_rows, reread, now_ms };
            let (bar, watcher) = watch(output);
            let added = catalog.add(new, watcher).await;
            bar.finish_and_clear();
            tell_added(&added?, output)
        }
        DataCommand::Squash { name, datasets } => {
            tell_added(&catalog.squash(name, &datasets, now_ms()).await?, output)
        }
        DataCommand::List => list(catalog, output).await,
        DataCommand::Show { dataset, files, rows, split } => {
            let dataset = catalog.resolve(&dataset).await?;
            let rows = preview::rows(catalog.store(), &dataset, split.as_deref(), rows)?;
            show::show(&dataset, files, &rows, output)
        }
        DataCommand::Diff { before, after } => {
            let (before, after) = (catalog.resolve(&before).await?, catalog.resolve(&after).await?);
            show::diff(&before, &after, output)
        }
        DataCommand::Get { dataset, folder, force } => {
            let dataset = catalog.resolve(&dataset).await?;
            let bar = output.progress_bytes(dataset.manifest.bytes(), "getting");
            let each = |bytes| bar.inc(bytes);
            let got = data::get_files(catalog.store(), &dataset.manifest, &folder, force, &each);
            bar.finish_and_clear();
            let got = got?;
            if output.is_json() {
                return output.value(&got);
            }
            let wrote = format!("{} files, {}", thousands(got.written), bytes_text(got.bytes));
            let there = thousands(got.present);
            Ok(output.line(&format!("wrote {wrote} to {}; {there} were there", folder.display()))?)
        }
        DataCommand::Verify { dataset, folder } => {
            let dataset = catalog.resolve(&dataset).await?;
            let bar = output.progress_bytes(dataset.manifest.bytes(), "checking");
            let each = |bytes| bar.inc(bytes);
            let found = match &folder {
                Some(folder) => data::verify_folder(&dataset.manifest, folder, &each),
                None => data::verify_files(catalog.store(), &dataset.manifest, &each),
            };
            bar.finish_and_clear();
            tell_problems(&found?, dataset.manifest.files.len(), folder.is_some(), output)
        }
        named => change(named, catalog, output).await,
    }
}

/// Commands that change what a version is called.
async fn change(command: DataCommand, catalog: &Catalog, output: &Output) -> anyhow::Result<()> {
    let (told, line) = match command {
        DataCommand::Tag { dataset, tag, delete } => {
            let (name, version) = catalog.find_version(&dataset).await?;
            let (number, line) = if delete {
                // A name alone means whichever version has the tag.
                let wanted = dataset.contains('@').then_some(version.number);
                (untag(catalog, &name, &tag, wanted).await?, format!("{name}@{tag} is no more"))
            } else {
                catalog.tag(&name, version.number, tag.clone()).await?;
                (version.number, format!("{name}@{tag} is version {}", version.number))
            };
            (json!({ "name": name, "version": number, "tag": tag }), line)
        }
        DataCommand::Publish { dataset } => {
            let (name, version) = catalog.find_version(&dataset).await?;
            let was = if catalog.publish(&name, version.number, now_ms()).await? { "is" } else { "was" };
            let told = json!({ "name": name, "version": version.number, "digest": version.digest });
            (told, format!("{name}@{} {was} published", version.number))
        }
        DataCommand::Delete { dataset } => {
            if !dataset.contains('@') {
                bail!("`{}` names no version: expected `name@version`", printable(&dataset));
            }
            let (name, version) = catalog.find_version(&dataset).await?;
            catalog.delete(&name, version.number).await?;
            let told = json!({ "name": name, "version": version.number, "digest": version.digest });
            (told, format!("deleted {name}@{}", version.number))
        }
        _ => return Ok(()),
    };
    if output.is_json() {
        return output.value(&told);
    }
    Ok(output.line(&line)?)
}

/// Takes a tag from the version that has it, which must be `wanted` if that is given; gives the version's number.
async fn untag(catalog: &Catalog, name: &Name, tag: &str, wanted: Option<u32>) -> anyhow::Result<u32> {
    let versions = catalog.versions(name).await?;
    let tagged = versions.iter().find(|version| version.tags.iter().any(|own| own == tag));
    let Some(number) = tagged.map(|version| version.number) else {
        bail!("`{name}` has no tag `{tag}`");
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != number) {
        bail!("`{name}@{wanted}` has no tag `{tag}`: it is that of version {number}");
    }
    if !catalog.untag(name, number, tag.to_owned()).await? {
        bail!("`{name}@{number}` has lost the tag `{tag}` meanwhile");
    }
    Ok(number)
}

/// A bar that shows what adding is at.
fn watch(output: &Output) -> (ProgressBar, AddWatcher) {
    let bar = output.progress_bytes(0, "reading");
    let watched = bar.clone();
    let watcher: AddWatcher = Arc::new(move |progress| match progress {
        AddProgress::Found { bytes, .. } => watched.set_length(bytes),
        AddProgress::Hashed(bytes) => watched.inc(bytes),
        AddProgress::Describing => watched.set_prefix("describing"),
        AddProgress::Storing => watched.set_prefix("storing"),
    });
    (bar, watcher)
}

/// Prints what became of adding a version.
pub(super) fn tell_added(added: &AddedDataset, output: &Output) -> anyhow::Result<()> {
    for note in &added.notes {
        output.note(note);
    }
    let (name, version) = (&added.dataset.name, &added.dataset.version);
    if output.is_json() {
        let more = [
            ("name", json!(name)),
            ("unchanged", json!(added.unchanged)),
            ("files_read", json!(added.files_read)),
        ];
        return output.value(&with_fields(version, more)?);
    }
    let verb = if added.unchanged { "unchanged" } else { "added" };
    let line = format!("{verb} {name}@{} ({}): {}", version.number, version.digest.short(), holds(version));
    Ok(output.line(&line)?)
}

async fn list(catalog: &Catalog, output: &Output) -> anyhow::Result<()> {
    let datasets = catalog.list().await?;
    if output.is_json() {
        let list = datasets.iter().map(|(name, versions)| json!({ "name": name, "versions": versions }));
        return output.value(&list.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["DATASET", ">VERSION", "ROWS", ">FILES", ">SIZE", "TAGS", "DIGEST"]);
    for (name, versions) in &datasets {
        for version in versions.iter().rev() {
            let mut tags = version.tags.clone();
            tags.extend(version.published_at.map(|_| "(published)".to_owned()));
            table.row(vec![
                name.to_string(),
                version.number.to_string(),
                rows_text(version),
                thousands(version.files),
                bytes_text(version.bytes),
                tags.join(" "),
                version.digest.short(),
            ]);
        }
    }
    Ok(output.table(&table)?)
}

fn tell_problems(
    problems: &[FileProblem],
    files: usize,
    is_folder: bool,
    output: &Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.value(&json!({ "files": files, "problems": problems }))?;
    } else if problems.is_empty() {
        output.line(&format!("{} files are what they were", thousands(files as u64)))?;
    } else {
        for problem in problems {
            output.line(&format!("{}  {}", problem.problem, printable(&problem.path)))?;
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 if is_folder => bail!("1 file is not that of the dataset"),
        count if is_folder => bail!("{count} files are not those of the dataset"),
        count => Err(crate::store::StoreError::DamagedFiles { count }.into()),
    }
}

/// The rows of a version, or its files where it has no rows.
fn holds(version: &DatasetVersion) -> String {
    match version.rows.is_empty() {
        true => {
            let files = if version.files == 1 { "file" } else { "files" };
            format!("{} {files}, {}", thousands(version.files), bytes_text(version.bytes))
        }
        false => rows_text(version),
    }
}

fn rows_text(version: &DatasetVersion) -> String {
    let text = |(split, rows): (&String, &u64)| format!("{} {split}", thousands(*rows));
    version.rows.iter().map(text).collect::<Vec<_>>().join(", ")
}

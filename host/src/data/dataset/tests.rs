use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{FILES_MAX, check_path};
use super::manifest::check_files;
use super::*;
use crate::data::catalog::{Catalog, DatasetVersion};
use crate::data::statistics::Distinct;
use crate::data::{DataError, ResolvedDataset};
use crate::domain::{Digest, Name};
use crate::store::{Database, DatabaseUrl, Store};

struct Place {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    catalog: Catalog,
    store: Store,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let database = runtime.block_on(Database::open(&DatabaseUrl::default(), store.folder())).unwrap();
    let catalog = Catalog::new(database, store.clone());
    Place { folder, runtime, catalog, store }
}

impl Place {
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join("data").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn add(&self) -> Result<AddedDataset, DataError> {
        self.add_paths([self.data()])
    }

    fn add_paths<const N: usize>(&self, paths: [PathBuf; N]) -> Result<AddedDataset, DataError> {
        self.add_new(|new| new.paths = paths.to_vec())
    }

    fn add_new(&self, change: impl FnOnce(&mut NewDataset)) -> Result<AddedDataset, DataError> {
        let mut new = NewDataset {
            name: name(),
            paths: Vec::new(),
            parent: None,
            remove: Vec::new(),
            rows: true,
            reread: false,
            now_ms: 7,
        };
        change(&mut new);
        self.runtime.block_on(self.catalog.add(new, Arc::new(|_| {})))
    }

    fn resolve(&self, text: &str) -> Result<ResolvedDataset, DataError> {
        self.runtime.block_on(self.catalog.resolve(text))
    }

    fn versions(&self) -> Vec<DatasetVersion> {
        self.runtime.block_on(self.catalog.versions(&name())).unwrap()
    }

    fn blobs(&self) -> usize {
        let folders = std::fs::read_dir(self.folder.path().join("state/blobs/sha256")).unwrap();
        let folders = folders.map(|folder| folder.unwrap().path()).filter(|path| path.is_dir());
        folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).sum()
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.path().join("state/blobs/sha256").join(&hex[..2]).join(&hex)
    }

    fn refused(&self) -> String {
        let error = self.add().unwrap_err().to_string();
        assert_eq!(self.blobs(), 0, "a refused dataset leaves nothing: {error}");
        assert!(self.runtime.block_on(self.catalog.list()).unwrap().is_empty());
        error.replace(&format!("{}/", self.data().display()), "")
    }
}

fn name() -> Name {
    "d".parse().unwrap()
}

fn idx(shape: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, shape.len() as u8];
    shape.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn digits() -> Place {
    let place = place();
    place
        .write("train-images-idx3-ubyte.gz", gzip(&idx(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])));
    place.write("train-labels-idx1-ubyte", idx(&[3], &[5, 6, 5]));
    place.write("t10k-images-idx3-ubyte", idx(&[1, 2, 2], &[1, 1, 1, 1]));
    place.write("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[1], &[9])));
    place.write("README.md", "about");
    place.write("SHA256SUMS", "…");
    place
}

#[test]
fn zips_images_and_labels_of_each_split() {
    let place = digits();
    let added = place.add().unwrap();
    assert!(!added.unchanged);
    assert_eq!(added.notes, ["`README.md`, `SHA256SUMS` were left out: they are no data"]);
    let manifest = added.dataset.manifest;
    let schema: Vec<_> =
        manifest.schema.iter().map(|spec| format!("{} {} {:?}", spec.name, spec.dtype, spec.shape)).collect();
    assert_eq!(schema, ["pixels UINT8 [2, 2]", "label UINT8 []"]);
    let [test, train] = &manifest.splits[..] else { panic!("two splits") };
    assert_eq!((test.name.as_str(), test.rows, train.name.as_str(), train.rows), ("test", 1, "train", 3));
    assert_eq!(train.statistics[1].distinct, Distinct::Exactly(2));
    let batches: Vec<_> =
        open_split(&place.store, &manifest, "train", 2).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.rows()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(batches[1].column("pixels").unwrap().data(), [8, 9, 10, 11]);
    assert_eq!(batches[1].column("label").unwrap().data(), [5]);
    let error = open_split(&place.store, &manifest, "dev", 2).err().unwrap().to_string();
    assert_eq!(error, "dataset `d` has no split `dev`: expected `test` or `train`");
}

#[test]
fn the_same_files_are_the_same_version() {
    let place = digits();
    let first = place.add().unwrap().dataset.version;
    let again = place.add().unwrap();
    assert!(again.unchanged);
    assert_eq!(again.dataset.version, first);
    place.write("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[1], &[8])));
    let second = place.add().unwrap().dataset.version;
    assert_eq!((first.number, second.number), (1, 2));
    let resolve = |text: &str| place.resolve(text);
    assert_eq!(resolve("d").unwrap().version, second);
    assert_eq!(resolve("d@1").unwrap().version, first);
    assert_eq!(resolve(&format!("d@{}", first.digest)).unwrap().version, first);
    assert_eq!(
        resolve("d@3").unwrap_err().to_string(),
        "dataset `d` has no version or tag `3`: its newest is 2"
    );
    assert_eq!(resolve("e").unwrap_err().to_string(), "there is no dataset `e`: there are `d`");
    for text in ["D", "d@", "d@X", "d@-1", "../d", "d@sha256:12"] {
        assert!(matches!(resolve(text), Err(DataError::Reference { .. })), "{text}");
    }
    // Elsewhere the same files have the same digest: nothing of this machine is in the manifest.
    assert_eq!(digits().add().unwrap().dataset.version.digest, first.digest);
}

#[test]
fn tables_of_a_split_follow_each_other_and_agree_on_types() {
    let place = place();
    place.write("train-1.csv", "a,b,c\n1,x,true\n");
    place.write("train-2.csv.gz", gzip(b"b,a,c\n3,2.5,\n"));
    place.write("test.csv", "a,b,c\n,y,false\n");
    let manifest = place.add().unwrap().dataset.manifest;
    let types: Vec<_> = manifest.schema.iter().map(|spec| spec.dtype.as_str()).collect();
    assert_eq!(types, ["FP64", "BYTES", "FP64"]);
    let mut all = crate::domain::Batch::default();
    for batch in open_split(&place.store, &manifest, "train", BATCH_ROWS).unwrap() {
        all.append(&batch.unwrap()).unwrap();
    }
    assert_eq!(all.column("a").unwrap().to_f64().unwrap(), [1.0, 2.5]);
    assert_eq!(all.column("b").unwrap().byte_strings().collect::<Vec<_>>(), [b"x", b"3"]);
    assert_eq!(manifest.splits[0].statistics[0].missing, 1);
}

#[test]
fn refuses_files_that_contradict_each_other() {
    let place = digits();
    place.write("train-labels-idx1-ubyte", idx(&[2], &[5, 6]));
    assert_eq!(
        place.refused(),
        "`train-labels-idx1-ubyte`: expected 3 rows, as in `train-images-idx3-ubyte.gz`, found 2"
    );
    let place = digits();
    place.write("t10k-images-idx3-ubyte", idx(&[1, 2, 3], &[1; 6]));
    assert!(place.refused().contains("column `pixels` to be UINT8 [2, 3], as in `t10k-images-idx3-ubyte`"));
    let place = digits();
    std::fs::remove_file(place.data().join("t10k-labels-idx1-ubyte.gz")).unwrap();
    assert!(
        place
            .refused()
            .ends_with("expected 1 columns, as in `t10k-images-idx3-ubyte`, found one more, `label`")
    );
    let place = digits();
    place.write("train-images.idx3-ubyte", idx(&[3, 2, 2], &[0; 12]));
    assert!(place.refused().contains("expected another column than `pixels`"));
    let place = digits();
    place.write("train.csv", "a\n1\n");
    assert_eq!(place.refused(), "`train.csv`: expected IDX, as in `t10k-images-idx3-ubyte`, found CSV");
}

#[test]
fn refuses_what_is_no_data() {
    let place = self::place();
    assert!(place.refused().contains("there is no data in"));
    place.write("README", "");
    place.write(".hidden", "");
    assert!(place.refused().contains("there is no data in"));
    let missing = place.add_paths([place.data().join("none")]).unwrap_err();
    assert!(missing.to_string().starts_with("failed to read `"));
    let device = place.add_paths(["/dev/zero".into()]).unwrap_err();
    assert!(device.to_string().starts_with("`/dev/zero` is a pipe, socket or device"), "{device}");
    place.write("a\\b.txt", "");
    assert!(place.refused().contains("cannot be the name of a file of a dataset: expected no backslash"));
}

#[test]
fn refuses_empty_and_damaged_files() {
    for (file, expected) in [
        ("train-labels-idx1-ubyte", "expected an IDX header of 4 bytes, found 0 bytes"),
        ("train.csv", "expected a header row, found no line"),
        ("train.parquet", "is not Parquet that can be read"),
    ] {
        let place = place();
        place.write(file, "");
        assert!(place.refused().ends_with(expected), "{file}");
    }
    let place = place();
    place.write("train.csv", "a,b\n");
    assert_eq!(place.refused(), "`train.csv`: expected at least one row, found none");
    place.write("train.csv", "a,b\n1,2\n3\n");
    assert_eq!(place.refused(), "`train.csv` line 3: expected 2 cells, as in the header, found 1");
}

#[test]
fn takes_odd_names_and_links_and_refuses_two_of_one_name() {
    let place = place();
    let path = place.write("train \"ü\"\n'*;.csv", "a\n1\n2\n\n");
    std::os::unix::fs::symlink(&path, place.data().join("test.csv")).unwrap();
    let manifest = place.add().unwrap().dataset.manifest;
    assert_eq!(manifest.splits.iter().map(|split| split.rows).collect::<Vec<_>>(), [2, 2]);
    let twice = place.add_paths([path.clone(), path]).unwrap_err().to_string();
    assert!(twice.starts_with("two files are named"), "{twice}");
    std::os::unix::fs::symlink(place.data().join("nowhere"), place.data().join("train-b.csv")).unwrap();
    assert!(place.add().unwrap_err().to_string().starts_with("failed to read"));
}

#[test]
fn a_damaged_blob_is_named_before_a_row_is_read() {
    let place = digits();
    let dataset = place.add().unwrap().dataset;
    let labels = dataset.manifest.files.iter().find(|file| file.path == "train-labels-idx1-ubyte").unwrap();
    std::fs::write(place.blob_path(labels.digest), idx(&[3], &[5, 6, 6])).unwrap();
    let error = open_split(&place.store, &dataset.manifest, "train", 2).err().unwrap().to_string();
    assert!(error.starts_with(&format!("blob {} is damaged", labels.digest)), "{error}");
}

#[test]
fn the_manifest_on_disk_stays() {
    let place = place();
    place.write("train.csv", "a\n1\n2\n");
    let dataset = place.add().unwrap().dataset;
    let text = String::from_utf8(place.store.get(dataset.version.digest).unwrap()).unwrap();
    let expected = r#"{"format":2,"name":"d","files":[{"path":"train.csv","digest":"sha256:f5a8fee2de6fa67e36d5bc42b39ce6d69ba8d06bc4f5acd06e35a0b8ec3ba5d6","size":6,"format":"csv","split":"train"}],"schema":[{"name":"a","dtype":"INT64","shape":[]}],"splits":[{"name":"train","rows":2,"statistics":[{"name":"a","count":2,"missing":0,"distinct":{"exactly":2},"moments":{"min":1.0,"max":2.0,"mean":1.5,"std":0.5},"values":[{"value":1,"count":1},{"value":2,"count":1}],"quantiles":{"p01":1.01,"p05":1.05,"p25":1.25,"p50":1.5,"p75":1.75,"p95":1.95,"p99":1.99},"histogram":{"min":1.0,"max":2.0,"counts":[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]}}]}]}"#;
    let digest = Digest::of(b"a\n1\n2\n").to_string();
    assert_eq!(
        text,
        expected.replace("sha256:f5a8fee2de6fa67e36d5bc42b39ce6d69ba8d06bc4f5acd06e35a0b8ec3ba5d6", &digest)
    );
}

#[test]
fn any_files_are_kept_with_their_folders() {
    let place = place();
    place.write("train/cat/1.png", "cat");
    place.write("train/dog/1.png", "dog");
    place.write("notes.txt", "about");
    place.write(".git/config", "hidden");
    place.write("license_plate_001.jpg", "a picture");
    std::os::unix::fs::symlink(place.data().join("notes.txt"), place.data().join("linked.txt")).unwrap();
    let added = place.add().unwrap();
    assert_eq!(added.notes, ["`.git/` was left out: it is no data"]);
    let manifest = added.dataset.manifest;
    let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        ["license_plate_001.jpg", "linked.txt", "notes.txt", "train/cat/1.png", "train/dog/1.png"]
    );
    assert!(manifest.splits.is_empty() && manifest.schema.is_empty());
    assert_eq!(manifest.bytes(), 25);
    place.write("train/x.csv", "a\n1\n");
    let added = place.add().unwrap();
    assert_eq!(added.notes.len(), 2, "{:?}", added.notes);
    assert!(added.notes[1].contains("hold no rows"), "{:?}", added.notes);
    assert_eq!(added.dataset.version.rows, BTreeMap::from([("train".to_owned(), 1)]));
    let untyped = place.add_new(|new| (new.paths, new.rows) = (vec![place.data()], false)).unwrap();
    assert!(untyped.dataset.manifest.splits.is_empty());
    std::os::unix::fs::symlink(place.data(), place.data().join("loop")).unwrap();
    assert!(place.add().unwrap_err().to_string().starts_with("failed to read"));
}

#[test]
fn patterns_choose_files_and_names_start_after_their_folder() {
    let place = place();
    for path in ["a/1.txt", "a/b/2.txt", "a/b/3.bin", "4.txt", "a/.hidden.txt"] {
        place.write(path, path);
    }
    let paths = |pattern: &str| {
        let added = place.add_paths([place.data().join(pattern)])?;
        Ok::<_, DataError>(added.dataset.manifest.files.into_iter().map(|file| file.path).collect::<Vec<_>>())
    };
    assert_eq!(paths("a/**/*.txt").unwrap(), ["1.txt", "b/2.txt"]);
    assert_eq!(paths("*.txt").unwrap(), ["4.txt"]);
    assert_eq!(paths("*/b/[12].txt").unwrap(), ["a/b/2.txt"]);
    // Folders that match come with all that is in them, once.
    for pattern in ["a/*", "a/**", "a/**/", "a/**/*"] {
        let mut found = paths(pattern).unwrap();
        found.sort();
        assert_eq!(found, ["1.txt", "b/2.txt", "b/3.bin"], "{pattern}");
    }
    assert_eq!(paths("[a]").unwrap().len(), 3);
    assert!(paths("*.exe").unwrap_err().to_string().starts_with("there is no data in"));
    assert!(paths("a/**b").unwrap_err().to_string().contains("is no pattern"));
    // A file of that name is meant by it, not what it matches.
    place.write("[4].txt", "odd");
    assert_eq!(paths("[4].txt").unwrap(), ["[4].txt"]);
}

#[test]
fn a_parent_that_is_deleted_meanwhile_gets_no_child() {
    let place = place();
    place.write("a.txt", "a");
    place.add().unwrap();
    let paths = vec![place.write("b.txt", "b")];
    let (catalog, handle) = (place.catalog.clone(), place.runtime.handle().clone());
    let watcher: AddWatcher = Arc::new(move |progress| {
        if progress == AddProgress::Storing {
            handle.block_on(catalog.delete(&name(), 1)).unwrap();
        }
    });
    let new = NewDataset {
        name: name(),
        paths,
        parent: Some("d@1".to_owned()),
        remove: Vec::new(),
        rows: true,
        reread: false,
        now_ms: 7,
    };
    let error = place.runtime.block_on(place.catalog.add(new, watcher)).unwrap_err();
    assert!(matches!(error, DataError::Superseded { .. }), "{error}");
    assert!(place.runtime.block_on(place.catalog.versions(&name())).unwrap().is_empty());
}

#[test]
fn a_child_holds_its_parents_files_and_writes_what_changed() {
    let place = place();
    for number in 0..100 {
        place.write(&format!("f{number:03}"), format!("{number}"));
    }
    let first = place.add().unwrap().dataset;
    let before = place.blobs();
    let more = self::place();
    more.write("f100", "100");
    more.write("f001", "other");
    let add = |remove: &[&str]| {
        place.add_new(|new| {
            new.paths = vec![more.data()];
            new.parent = Some("d@1".to_owned());
            new.remove = remove.iter().map(|text| (*text).to_owned()).collect();
        })
    };
    let child = add(&["f00[2-4]"]).unwrap().dataset;
    assert_eq!(child.manifest.parents, [first.version.digest]);
    assert_eq!(child.manifest.files.len(), 98);
    assert_eq!(place.blobs() - before, 3, "two files and a manifest");
    assert!(place.store.blob_len(child.version.digest).unwrap() < 2_000, "it lists the changes only");
    let found = place.resolve("d").unwrap();
    assert_eq!(found.manifest, child.manifest);
    let change = diff(&first.manifest, &found.manifest);
    let changed: Vec<_> = change.files.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(changed, ["f001", "f002", "f003", "f004", "f100"]);
    let error = add(&["nothing*"]).unwrap_err().to_string();
    assert_eq!(error, "`nothing*` matches no file of `d@1`");
    assert!(add(&["f00[2-4]"]).unwrap().unchanged);

    let squashed = place.runtime.block_on(place.catalog.squash(name(), &["d@1".into(), "d@2".into()], 9));
    let squashed = squashed.unwrap().dataset;
    assert_eq!(squashed.manifest.files.len(), 101);
    assert_eq!(squashed.manifest.parents, [first.version.digest, child.version.digest]);
    // It needs neither.
    std::fs::remove_file(place.blob_path(first.version.digest)).unwrap();
    assert_eq!(place.resolve("d@3").unwrap().manifest, squashed.manifest);
    assert!(place.resolve("d@2").is_err());
    let children = place.runtime.block_on(place.catalog.children(first.version.digest)).unwrap();
    assert_eq!(children.iter().map(|(_, version)| version.number).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_long_chain_of_children_starts_anew() {
    let place = place();
    for number in 0..10 {
        place.write(&format!("f{number}"), format!("{number}"));
    }
    place.add().unwrap();
    for round in 0..40 {
        place.write("f0", format!("round {round}"));
        let added = place.add_new(|new| {
            (new.paths, new.parent) = (vec![place.data().join("f0")], Some("d".to_owned()));
        });
        added.unwrap();
    }
    let newest = place.resolve("d").unwrap();
    assert_eq!((newest.version.number, newest.manifest.files.len()), (41, 10));
    let (_, chain) = DatasetManifest::load_chain(&place.store, newest.version.digest).unwrap();
    assert!(chain.len() < 32, "{}", chain.len());
}

#[test]
fn tags_move_and_published_versions_stay() {
    let place = place();
    let wait = &place.runtime;
    for text in ["1", "2"] {
        place.write("a.txt", text);
        place.add().unwrap();
    }
    wait.block_on(place.catalog.tag(&name(), 1, "stable".to_owned())).unwrap();
    assert_eq!(place.resolve("d@stable").unwrap().version.number, 1);
    wait.block_on(place.catalog.tag(&name(), 2, "stable".to_owned())).unwrap();
    assert_eq!(place.resolve("d@stable").unwrap().version.number, 2);
    for tag in ["7", "", "a b", "@", "../x"] {
        let error = wait.block_on(place.catalog.tag(&name(), 1, tag.to_owned())).unwrap_err();
        assert!(matches!(error, DataError::Tag { .. }), "{tag}");
    }
    assert!(wait.block_on(place.catalog.publish(&name(), 2, 9)).unwrap());
    assert!(!wait.block_on(place.catalog.publish(&name(), 2, 10)).unwrap());
    let error = wait.block_on(place.catalog.delete(&name(), 2)).unwrap_err().to_string();
    assert_eq!(error, "`d@2` is published: it cannot be deleted");
    wait.block_on(place.catalog.delete(&name(), 1)).unwrap();
    assert!(matches!(place.resolve("d@1"), Err(DataError::UnknownVersion { .. })));
    place.write("a.txt", "0");
    place.add().unwrap();
    let untag = |number| wait.block_on(place.catalog.untag(&name(), number, "stable".to_owned())).unwrap();
    assert_eq!([untag(3), untag(2), untag(2)], [false, true, false], "it is that of version 2");
    // A number is not given twice.
    place.write("a.txt", "3");
    wait.block_on(place.catalog.delete(&name(), 3)).unwrap();
    assert_eq!(place.add().unwrap().dataset.version.number, 4);
    assert_eq!(place.versions().iter().map(|version| version.number).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn unchanged_files_are_not_read_and_lost_blobs_come_back() {
    let place = place();
    place.write("a.txt", "content");
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let digest = place.add().unwrap().dataset.manifest.files[0].digest;
    // What is known of it is believed.
    let other = place.store.put_bytes(b"another").unwrap();
    let known = place.folder.path().join("state/known-files/d.json");
    let text = std::fs::read_to_string(&known).unwrap();
    assert!(text.contains(&digest.to_string()), "{text}");
    std::fs::write(&known, text.replace(&digest.to_string(), &other.to_string())).unwrap();
    let misled = place.add().unwrap().dataset;
    assert_eq!((misled.version.number, misled.manifest.files[0].digest), (2, other));
    // Until somebody asks for it to be read.
    let reread = place.add_new(|new| (new.paths, new.reread) = (vec![place.data()], true)).unwrap();
    assert_eq!((reread.unchanged, reread.dataset.version.number), (true, 1));
    std::fs::remove_file(place.blob_path(digest)).unwrap();
    assert!(place.add().unwrap().unchanged);
    assert_eq!(place.store.get(digest).unwrap(), b"content", "it was put back");
}

#[test]
fn what_was_got_is_what_was_added() {
    let place = place();
    place.write("a/b/1.txt", "one");
    place.write("2.txt", "two");
    let manifest = place.add().unwrap().dataset.manifest;
    let folder = place.folder.path().join("got");
    let get = |force| get_files(&place.store, &manifest, &folder, force, &|_| {});
    assert_eq!(get(false).unwrap(), GetReport { written: 2, present: 0, bytes: 6 });
    assert_eq!(std::fs::read(folder.join("a/b/1.txt")).unwrap(), b"one");
    std::fs::remove_file(folder.join("2.txt")).unwrap();
    assert_eq!(get(false).unwrap(), GetReport { written: 1, present: 1, bytes: 3 });
    assert!(verify_folder(&manifest, &folder, &|_| {}).unwrap().is_empty());
    std::fs::write(folder.join("2.txt"), "TWO").unwrap();
    std::fs::write(folder.join("a/3.txt"), "new").unwrap();
    let problems: Vec<_> = verify_folder(&manifest, &folder, &|_| {}).unwrap();
    let problems: Vec<_> = problems.iter().map(|found| (found.path.as_str(), found.problem)).collect();
    assert_eq!(problems, [("2.txt", "changed"), ("a/3.txt", "unknown")]);
    assert!(get(false).unwrap_err().to_string().ends_with("expected nothing, or the file of the dataset"));
    assert_eq!(get(true).unwrap().written, 1);
    std::fs::write(place.blob_path(Digest::of(b"two")), b"TWO").unwrap();
    std::fs::remove_file(folder.join("2.txt")).unwrap();
    assert!(get(false).unwrap_err().to_string().contains("is damaged"));
    assert!(!folder.join("2.txt").exists(), "a damaged file does not appear");
    std::fs::remove_file(place.blob_path(Digest::of(b"one"))).unwrap();
    let problems = verify_files(&place.store, &manifest, &|_| {}).unwrap();
    let problems: Vec<_> = problems.iter().map(|found| (found.path.as_str(), found.problem)).collect();
    assert_eq!(problems, [("2.txt", "damaged"), ("a/b/1.txt", "missing")]);
}

#[test]
fn a_copy_for_now_is_what_was_added_and_cannot_be_written_by_mistake() {
    let place = place();
    place.write("a/b/1.txt", "one");
    place.write("2.txt", "two");
    let manifest = place.add().unwrap().dataset.manifest;
    let folder = place.folder.path().join("copied");
    copy_files(&place.store, &manifest, &folder).unwrap();
    assert!(verify_folder(&manifest, &folder, &|_| {}).unwrap().is_empty());
    assert!(std::fs::metadata(folder.join("2.txt")).unwrap().permissions().readonly());
    assert!(copy_files(&place.store, &manifest, &folder).is_err(), "the folder is not new");
    std::fs::write(place.blob_path(Digest::of(b"two")), b"TWO").unwrap();
    let error = copy_files(&place.store, &manifest, &place.folder.path().join("other")).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[test]
fn getting_never_leaves_the_folder() {
    let place = place();
    place.write("a/1.txt", "one");
    let manifest = place.add().unwrap().dataset.manifest;
    let (folder, elsewhere) = (place.folder.path().join("got"), place.folder.path().join("elsewhere"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.join("a")).unwrap();
    assert!(get_files(&place.store, &manifest, &folder, true, &|_| {}).is_err());
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    // A manifest that somebody else made.
    let bytes = place.store.get(place.versions()[0].digest).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    for path in ["../up", "/etc/x", "a/../../up", "a//b"] {
        assert!(check_path(path).is_err());
        let digest = place.store.put_bytes(text.replace("a/1.txt", path).as_bytes()).unwrap();
        assert!(matches!(DatasetManifest::load(&place.store, digest), Err(DataError::Manifest { .. })));
    }
}

#[test]
fn a_file_and_a_folder_of_one_name_are_no_version() {
    let place = place();
    place.write("one/x", "file");
    place.write("one/x-1", "between them by bytes");
    place.write("two/x/y", "in a folder");
    place.add_paths([place.data().join("one")]).unwrap();
    let two = place.data().join("two");
    let add = |remove: &[&str]| {
        place.add_new(|new| {
            (new.paths, new.parent) = (vec![two.clone()], Some("d@1".to_owned()));
            new.remove = remove.iter().map(|text| (*text).to_owned()).collect();
        })
    };
    let expected = "`x` is a file, and a folder in `x/y`: expected one of them";
    assert_eq!(add(&[]).unwrap_err().to_string(), expected);
    assert_eq!(add(&["x"]).unwrap().dataset.manifest.files.len(), 2);
    let squashed = place.runtime.block_on(place.catalog.squash(name(), &["d@1".into(), "d@2".into()], 9));
    assert_eq!(squashed.unwrap_err().to_string(), expected);
    assert_eq!(place.versions().len(), 2);
    // A manifest that somebody else made.
    let text = String::from_utf8(place.store.get(place.versions()[0].digest).unwrap()).unwrap();
    for path in ["x/y", "x"] {
        let digest = place.store.put_bytes(text.replace("x-1", path).as_bytes()).unwrap();
        assert!(matches!(DatasetManifest::load(&place.store, digest), Err(DataError::Manifest { .. })));
    }
}

#[test]
fn a_version_has_as_many_files_as_fit() {
    let file = |number: usize| FileEntry {
        path: number.to_string(),
        digest: Digest::of(b""),
        size: 0,
        format: FileFormat::Plain,
        split: String::new(),
        column: None,
    };
    let mut files: Vec<_> = (0..FILES_MAX).map(file).collect();
    check_files(&files).unwrap();
    files.push(file(FILES_MAX));
    assert!(matches!(check_files(&files), Err(DataError::TooManyFiles { .. })));
}

#[test]
fn a_file_that_changes_during_a_long_add_is_read_again() {
    let place = place();
    place.write("a.txt", "content");
    let slow: AddWatcher = Arc::new(|progress| {
        if matches!(progress, AddProgress::Found { .. }) {
            std::thread::sleep(std::time::Duration::from_millis(2_100));
        }
    });
    let new = NewDataset {
        name: name(),
        paths: vec![place.data()],
        parent: None,
        remove: Vec::new(),
        rows: true,
        reread: false,
        now_ms: 7,
    };
    place.runtime.block_on(place.catalog.add(new, slow)).unwrap();
    assert_eq!(place.add().unwrap().files_read, 1, "its last change was just before it was found");
}

#[test]
fn a_get_that_was_killed_goes_on_and_leaves_nothing() {
    let place = place();
    let content: Vec<u8> = (0..3_000_000_u32).map(|place| (place % 251) as u8).collect();
    place.write("a/large", &content);
    let manifest = place.add().unwrap().dataset.manifest;
    let folder = place.folder.path().join("got");
    std::fs::create_dir_all(folder.join("a")).unwrap();
    let part = folder.join("a").join(super::get::part_name(&manifest.files[0]));
    let mut damaged = content[..2_000_000].to_vec();
    damaged[1_500_000] ^= 1;
    let longer = [&content[..], b"more"].concat();
    for there in [&content[..2_000_000], &damaged, &content, &longer, b""] {
        std::fs::write(&part, there).unwrap();
        let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&part).unwrap());
        let report = get_files(&place.store, &manifest, &folder, true, &|_| {}).unwrap();
        assert_eq!((report.written, report.bytes), (1, 3_000_000));
        let target = folder.join("a/large");
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&target).unwrap()), before);
        assert!(std::fs::read(&target).unwrap() == content && !part.exists());
        std::fs::remove_file(target).unwrap();
    }
    std::fs::write(&part, "left").unwrap();
    let problems = verify_folder(&manifest, &folder, &|_| {}).unwrap();
    assert_eq!(problems.iter().map(|found| found.problem).collect::<Vec<_>>(), ["missing", "unknown"]);
}

#[test]
fn a_get_leaves_a_part_that_another_writes() {
    let place = place();
    place.write("file", "content");
    let manifest = place.add().unwrap().dataset.manifest;
    let folder = place.folder.path().join("got");
    std::fs::create_dir(&folder).unwrap();
    let part = folder.join(super::get::part_name(&manifest.files[0]));
    let other = std::fs::File::create(&part).unwrap();
    other.lock().unwrap();
    let got = std::thread::scope(|scope| {
        let getting = scope.spawn(|| get_files(&place.store, &manifest, &folder, false, &|_| {}));
        std::fs::write(&part, "content").unwrap();
        std::fs::rename(&part, folder.join("file")).unwrap();
        drop(other);
        getting.join().unwrap()
    });
    got.unwrap();
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"content");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn whatever_is_in_a_folder_is_told() {
    let place = place();
    for path in ["a/1", "b", "c", "d/1", "e/1", "f"] {
        place.write(path, path);
    }
    let manifest = place.add().unwrap().dataset.manifest;
    let folder = place.folder.path().join("got");
    get_files(&place.store, &manifest, &folder, false, &|_| {}).unwrap();
    let path = |name: &str| folder.join(name);
    std::fs::remove_dir_all(path("a")).unwrap();
    std::fs::write(path("a"), "a file in place of a folder").unwrap();
    std::fs::remove_file(path("b")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path("b")).status().unwrap().success());
    std::fs::remove_file(path("c")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("c")).unwrap();
    std::fs::rename(path("d"), place.folder.path().join("d")).unwrap();
    std::os::unix::fs::symlink(place.folder.path().join("d"), path("d")).unwrap();
    std::fs::create_dir(path(".hidden")).unwrap();
    for name in [".hidden/1", "README", "e\\1"] {
        std::fs::write(path(name), "").unwrap();
    }
    let problems = verify_folder(&manifest, &folder, &|_| {}).unwrap();
    let problems: Vec<_> = problems.iter().map(|found| (found.path.as_str(), found.problem)).collect();
    assert_eq!(
        problems,
        [
            ("a/1", "missing"),
            ("b", "changed"),
            ("c", "changed"),
            ("d/1", "missing"),
            (".hidden/1", "unknown"),
            ("README", "unknown"),
            ("a", "unknown"),
            ("d", "unknown"),
            ("e\\1", "unknown"),
        ]
    );
    assert!(verify_folder(&manifest, &path("none"), &|_| {}).is_err());
}

#[test]
fn large_integers_keep_every_digit() {
    let place = place();
    place.write("train-1.csv", "id\n9007199254740993\n");
    place.write("train-2.csv", "id\n0.5\n");
    let manifest = place.add().unwrap().dataset.manifest;
    assert_eq!(manifest.schema[0].dtype.as_str(), "BYTES", "one of them would be rounded in FP64");
    let batches = open_split(&place.store, &manifest, "train", BATCH_ROWS).unwrap();
    let ids: Vec<_> = batches
        .flat_map(|batch| batch.unwrap().tensors()[0].byte_strings().map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    assert_eq!(ids, [&b"9007199254740993"[..], b"0.5"]);
}

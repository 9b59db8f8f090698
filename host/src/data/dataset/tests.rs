use std::io::Write as _;

use super::*;
use crate::data::statistics::Distinct;

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    Place { folder, store }
}

impl Place {
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join("data").join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn add(&self) -> Result<AddedDataset, DataError> {
        add_dataset(&self.store, &name(), &[self.data()], 7)
    }

    fn refused(&self) -> String {
        let error = self.add().unwrap_err().to_string();
        let blobs = std::fs::read_dir(self.folder.path().join("state/blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 0, "a refused dataset leaves nothing: {error}");
        assert!(list_datasets(&self.store).unwrap().is_empty());
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
    assert_eq!(added.notes.len(), 2);
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
    let resolve = |text: &str| resolve_dataset(&place.store, text);
    assert_eq!(resolve("d").unwrap().version, second);
    assert_eq!(resolve("d@1").unwrap().version, first);
    assert_eq!(resolve(&format!("d@{}", first.digest)).unwrap().version, first);
    assert_eq!(resolve("d@3").unwrap_err().to_string(), "dataset `d` has no version `3`: its newest is 2");
    assert_eq!(resolve("e").unwrap_err().to_string(), "there is no dataset `e`: there are `d`");
    for text in ["D", "d@", "d@x", "d@-1", "../d", "d@sha256:12"] {
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
    assert!(place.refused().contains("expected IDX, CSV or Parquet files"));
    let path = place.write("model.bin", "");
    assert_eq!(
        place.refused(),
        "`model.bin` is a file with another name: expected an IDX, CSV or Parquet file"
    );
    std::fs::remove_file(path).unwrap();
    std::fs::create_dir(place.data().join("train.csv")).unwrap();
    assert_eq!(place.refused(), "`train.csv` is a folder in a folder: expected an IDX, CSV or Parquet file");
    let missing = add_dataset(&place.store, &name(), &[place.data().join("none")], 0).unwrap_err();
    assert!(missing.to_string().starts_with("failed to read `"));
    let device = add_dataset(&place.store, &name(), &["/dev/zero".into()], 0).unwrap_err();
    assert!(device.to_string().starts_with("`/dev/zero` is a pipe, socket or device"), "{device}");
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
    let twice = add_dataset(&place.store, &name(), &[path.clone(), path], 0).unwrap_err().to_string();
    assert!(twice.starts_with("two files are named"), "{twice}");
    std::os::unix::fs::symlink(place.data().join("nowhere"), place.data().join("train-b.csv")).unwrap();
    assert!(place.add().unwrap_err().to_string().starts_with("failed to read"));
}

#[test]
fn a_damaged_blob_is_named_before_a_row_is_read() {
    let place = digits();
    let dataset = place.add().unwrap().dataset;
    let labels = dataset.manifest.files.iter().find(|file| file.path == "train-labels-idx1-ubyte").unwrap();
    let hex = labels.digest.hex();
    let blob = place.folder.path().join("state/blobs/sha256").join(&hex[..2]).join(&hex);
    std::fs::write(blob, idx(&[3], &[5, 6, 6])).unwrap();
    let error = open_split(&place.store, &dataset.manifest, "train", 2).err().unwrap().to_string();
    assert!(error.starts_with(&format!("blob {} is damaged", labels.digest)), "{error}");
}

#[test]
fn the_manifest_on_disk_stays() {
    let place = place();
    place.write("train.csv", "a\n1\n2\n");
    let dataset = place.add().unwrap().dataset;
    let text = String::from_utf8(place.store.get(dataset.version.digest).unwrap()).unwrap();
    let expected = r#"{"format":1,"name":"d","files":[{"path":"train.csv","digest":"sha256:f5a8fee2de6fa67e36d5bc42b39ce6d69ba8d06bc4f5acd06e35a0b8ec3ba5d6","size":6,"format":"csv","split":"train"}],"schema":[{"name":"a","dtype":"INT64","shape":[]}],"splits":[{"name":"train","rows":2,"statistics":[{"name":"a","count":2,"missing":0,"distinct":{"exactly":2},"moments":{"min":1.0,"max":2.0,"mean":1.5,"std":0.5},"histogram":[{"value":1,"count":1},{"value":2,"count":1}]}]}]}"#;
    let digest = Digest::of(b"a\n1\n2\n").to_string();
    assert_eq!(
        text,
        expected.replace("sha256:f5a8fee2de6fa67e36d5bc42b39ce6d69ba8d06bc4f5acd06e35a0b8ec3ba5d6", &digest)
    );
}

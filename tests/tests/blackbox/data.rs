//! `host data`: adding, listing and showing datasets, and files that are none.

use std::path::Path;
use std::process::Command;

use host_tests::{Host, mnist_files, python};

#[test]
fn mnist_is_added_listed_and_shown() {
    let host = Host::new();
    let added = host.run(["data", "add", "mnist", &mnist_files(), "--json"]).json();
    assert_eq!(added["name"], "mnist");
    let again = host.run(["data", "add", "mnist", &mnist_files(), "--json"]).json();
    assert_eq!(added["digest"], again["digest"]);
    let listed = host.run(["data", "list", "--json"]).json();
    assert_eq!(listed[0]["name"], "mnist");
    assert_eq!(listed[0]["versions"].as_array().unwrap().len(), 1, "the same content is the same version");
    let shown = host.run(["data", "show", "mnist", "--json"]).json();
    assert_eq!(shown["digest"], added["digest"]);
    assert_eq!(shown["rows"]["train"], 60_000);
    assert_eq!(shown["rows"]["test"], 10_000);
    let text = host.run(["data", "show", "mnist"]).expect_success();
    for word in ["pixels", "label", "UINT8", "60,000", "10,000", "33.3"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn other_content_is_another_version_and_the_old_one_stays() {
    let host = Host::new();
    let file = host.state_dir().join("iris.csv");
    std::fs::write(&file, "width,label\n1.5,0\n2.5,1\n").unwrap();
    let path = file.to_str().unwrap();
    let first = host.run(["data", "add", "iris", path, "--json"]).json();
    std::fs::write(&file, "width,label\n1.5,0\n2.5,1\n3.5,1\n").unwrap();
    let second = host.run(["data", "add", "iris", path, "--json"]).json();
    assert_ne!(first["digest"], second["digest"]);
    assert_eq!(host.run(["data", "show", "iris@1", "--json"]).json()["rows"]["train"], 2);
    assert_eq!(host.run(["data", "show", "iris", "--json"]).json()["rows"]["train"], 3);
    let unknown = host.run(["data", "show", "iris@7"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("7"), "{}", unknown.stderr);
}

#[test]
fn csv_and_parquet_of_the_same_table_read_alike() {
    let host = Host::new();
    let folder = host.state_dir();
    std::fs::write(folder.join("train.csv"), "x,n,city,label\n1.5,3,Ulm,0\n,4,Köln,1\n2.5,5,\"a, b\",0\n")
        .unwrap();
    let script = "import sys, pyarrow.csv as c, pyarrow.parquet as p; p.write_table(c.read_csv(sys.argv[1]), sys.argv[2])";
    let converted = Command::new(python())
        .args(["-c", script])
        .args([folder.join("train.csv"), folder.join("train.parquet")])
        .status()
        .unwrap();
    assert!(converted.success());
    let show = |name: &str, file: &str| {
        host.run(["data", "add", name, folder.join(file).to_str().unwrap()]).expect_success();
        host.run(["data", "show", name, "--json"]).json()["schema"].clone()
    };
    let (csv, parquet) = (show("from-csv", "train.csv"), show("from-parquet", "train.parquet"));
    assert_eq!(csv, parquet);
    assert_eq!(csv[0]["dtype"], "FP64");
    assert_eq!(csv[1]["dtype"], "INT64");
    assert_eq!(csv[2]["dtype"], "BYTES");
}

#[test]
fn wrong_files_are_told_by_name_and_leave_nothing_behind() {
    let host = Host::new();
    let folder = host.state_dir().join("files");
    std::fs::create_dir(&folder).unwrap();
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28];
    idx.extend(vec![7; 2 * 784 - 1]);
    let mut too_long = idx.clone();
    too_long.extend([0, 0, 0]);
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("train-images-idx3-ubyte", idx.clone(), "expected 1584 bytes"),
        ("train-images-idx3-ubyte", too_long, "1584 bytes"),
        ("train-images-idx3-ubyte", vec![1, 2, 3, 4, 5], "IDX"),
        ("train-images-idx3-ubyte.gz", vec![0x1f, 0x8b, 8, 0, 0], "unexpected end of file"),
        ("train.csv", b"a,b\n1,2\n3\n".to_vec(), "line 3"),
        ("train.csv", b"".to_vec(), "header"),
        ("train.csv", vec![b'a', b'\n', 0xff, 0xfe, b'\n'], "UTF-8"),
        ("train.parquet", b"PAR1 and nothing else".to_vec(), "Parquet"),
        ("train.exe", b"MZ".to_vec(), "train.exe"),
    ];
    for (name, bytes, word) in cases {
        let path = folder.join(name);
        std::fs::write(&path, &bytes).unwrap();
        let ran = host.run(["data", "add", "broken", path.to_str().unwrap()]);
        assert_eq!(ran.code, 2, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(name), "{name}: {}", ran.stderr);
        assert!(ran.stderr.to_lowercase().contains(&word.to_lowercase()), "{name}, {word}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{}", ran.stderr);
        std::fs::remove_file(&path).unwrap();
    }
    let missing = host.run(["data", "add", "broken", folder.join("nowhere").to_str().unwrap()]);
    assert_eq!(missing.code, 2);
    let empty = host.run(["data", "add", "broken", folder.to_str().unwrap()]);
    assert_eq!(empty.code, 2, "{}", empty.stderr);
    assert_eq!(host.run(["data", "list", "--json"]).json(), serde_json::json!([]));
    assert_eq!(host.run(["data", "add", "../up", &mnist_files()]).code, 2);
    assert!(!Path::new(&host.state_dir().join("up")).exists());
}

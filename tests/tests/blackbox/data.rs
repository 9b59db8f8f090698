//! `host data`: adding, listing and showing datasets, and files that are none.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use host_tests::{Bucket, Host, Postgres, Ran, mnist_files, python, ran};

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
fn safetensors_files_follow_each_other_and_keep_the_shape_of_rows() {
    let host = Host::new();
    let folder = host.state_dir().join("files");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, pixel: u8, rows: usize| {
        let header = format!(
            r#"{{"pixels":{{"dtype":"U8","shape":[{rows},2,2],"data_offsets":[0,{}]}},"half":{{"dtype":"F16","shape":[{rows}],"data_offsets":[{},{}]}}}}"#,
            rows * 4,
            rows * 4,
            rows * 6
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![pixel; rows * 4]);
        bytes.extend([0x00, 0x3c].repeat(rows));
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    write("train-2.safetensors", 200, 1);
    write("train-1.safetensors", 0, 2);
    write("test.safetensors", 7, 1);
    let added = host.run(["data", "add", "d", folder.to_str().unwrap(), "--json"]).json();
    assert_eq!(added["rows"], serde_json::json!({ "test": 1, "train": 3 }));
    let shown = host.run(["data", "show", "d", "--rows", "5", "--split", "train", "--json"]).json();
    assert_eq!(
        shown["schema"][0],
        serde_json::json!({ "name": "pixels", "dtype": "UINT8", "shape": [2, 2] })
    );
    let statistics = &shown["splits"][1]["statistics"];
    assert_eq!((&statistics[0]["count"], &statistics[0]["moments"]["max"]), (&12.into(), &200.0.into()));
    assert_eq!(statistics[1]["moments"]["mean"], 1.0);
    assert_eq!(shown["preview"]["rows"][0], serde_json::json!({ "pixels": [[0, 0], [0, 0]], "half": 1.0 }));
    let text = host.run(["data", "show", "d", "--rows", "2", "--split", "train"]).expect_success();
    assert!(text.contains("row 1, pixels") && text.contains("UINT8 × 2 × 2"), "{text}");
    std::fs::write(folder.join("more.csv"), "a\n1\n").unwrap();
    let mixed = host.run(["data", "add", "d", folder.to_str().unwrap()]);
    assert!(mixed.code == 2 && mixed.stderr.contains("found CSV"), "{}", mixed.stderr);
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
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let lie = header(r#"{"x":{"dtype":"F32","shape":[1000000000,784],"data_offsets":[0,3136000000000]}}"#);
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("train-images-idx3-ubyte", idx.clone(), "expected 1584 bytes"),
        ("train-images-idx3-ubyte", too_long, "1584 bytes"),
        ("train-images-idx3-ubyte", vec![1, 2, 3, 4, 5], "IDX"),
        ("train-images-idx3-ubyte.gz", vec![0x1f, 0x8b, 8, 0, 0], "unexpected end of file"),
        ("train.csv", b"a,b\n1,2\n3\n".to_vec(), "line 3"),
        ("train.csv", b"".to_vec(), "header"),
        ("train.csv", vec![b'a', b'\n', 0xff, 0xfe, b'\n'], "UTF-8"),
        ("train.parquet", b"PAR1 and nothing else".to_vec(), "Parquet"),
        ("train.safetensors", lie, "3136000000087 bytes, as its header says"),
        ("train.safetensors", vec![255; 64], "a safetensors header of at most 56 bytes"),
        ("train.safetensors", header("{\"x\":"), "JSON"),
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

/// The program on a store of its own.
struct Catalog<'a> {
    host: Host,
    environment: Vec<(&'a str, String)>,
}

impl Catalog<'_> {
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.host.command();
        ran(command.envs(self.environment.iter().cloned()).args(arguments).output().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn folder(&self) -> std::path::PathBuf {
        self.host.state_dir().join("files")
    }
}

/// Versions from the first to the one that is deleted.
fn versions_live(catalog: &Catalog<'_>) {
    let folder = catalog.folder();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let json = |arguments: &[&str]| catalog.run(&[arguments, &["--json"]].concat()).json();
    catalog.write("tree/train/a.csv", "x,y\n1,0\n2,1\n");
    catalog.write("tree/pictures/1.png", "one");
    catalog.write("tree/pictures/2.png", "two");
    catalog.write("new/pictures/2.png", "TWO");
    let first = json(&["data", "add", "d", &path("tree")]);
    assert_eq!(
        (&first["version"], &first["files"], &first["rows"]["train"]),
        (&1.into(), &3.into(), &2.into())
    );
    assert_eq!(json(&["data", "add", "d", &path("tree")])["unchanged"], true);
    let child = json(&["data", "add", "d", &path("new"), "--parent", "d@1", "--remove", "pictures/1.png"]);
    assert_eq!((&child["version"], &child["files"]), (&2.into(), &2.into()));
    let changes = json(&["data", "diff", "d@1", "d@2"])["files"].as_array().unwrap().clone();
    assert_eq!(changes.len(), 2, "{changes:?}");
    catalog.run(&["data", "tag", "d@1", "stable"]).expect_success();
    assert_eq!(json(&["data", "show", "d@stable"])["version"], 1);
    let wrong = catalog.run(&["data", "tag", "d@2", "stable", "--delete"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("it is that of version 1"), "{}", wrong.stderr);
    assert_eq!(json(&["data", "tag", "d", "stable", "--delete"])["version"], 1);
    catalog.run(&["data", "tag", "d@1", "stable"]).expect_success();
    let twice = json(&["data", "squash", "all", "d@1", "d@2"]);
    assert_eq!((&twice["files"], &twice["version"]), (&3.into(), &1.into()));

    let got = path("got");
    assert_eq!(json(&["data", "get", "d@2", &got])["written"], 2);
    assert_eq!(std::fs::read_to_string(folder.join("got/pictures/2.png")).unwrap(), "TWO");
    assert_eq!(json(&["data", "get", "d@2", &got])["present"], 2);
    catalog.run(&["data", "verify", "d@2"]).expect_success();
    catalog.run(&["data", "verify", "d@2", "--folder", &got]).expect_success();
    std::fs::write(folder.join("got/pictures/2.png"), "two").unwrap();
    let changed = catalog.run(&["data", "verify", "d@2", "--folder", &got]);
    assert_eq!((changed.code, changed.stdout.trim()), (2, "changed  pictures/2.png"));
    assert_eq!(catalog.run(&["data", "get", "d@2", &got]).code, 2, "nothing of the user's is replaced");
    catalog.run(&["data", "get", "d@2", &got, "--force"]).expect_success();

    let lineage = catalog.run(&["data", "lineage", "d@1"]).expect_success();
    assert!(lineage.contains("dataset d@2 (") && lineage.contains("dataset all@1 ("), "{lineage}");
    catalog.run(&["data", "publish", "d@1"]).expect_success();
    assert!(catalog.run(&["data", "delete", "d@1"]).stderr.contains("is published"));
    catalog.run(&["data", "delete", "d@2"]).expect_success();
    assert_eq!(catalog.run(&["data", "show", "d@2"]).code, 2);
    let versions = json(&["data", "list"])[1]["versions"].as_array().unwrap().clone();
    assert_eq!(versions.len(), 1);
    let rows = catalog.run(&["data", "show", "d", "--rows", "1"]).expect_success();
    assert!(rows.contains("first rows of train") && rows.contains("pictures/1.png"), "{rows}");
}

#[test]
fn versions_live_on_sqlite() {
    versions_live(&Catalog { host: Host::new(), environment: Vec::new() });
}

#[test]
fn versions_live_on_postgresql_and_s3() {
    let (postgres, bucket) = (Postgres::start(), Bucket::shared());
    let mut environment = bucket.environment().to_vec();
    environment.push(("HOST_DATABASE", postgres.url()));
    environment.push(("HOST_BLOBS", bucket.url("versions")));
    let catalog = Catalog { host: Host::new(), environment };
    versions_live(&catalog);
    assert!(!catalog.host.state_dir().join("host.db").exists());
    // Another machine has the same datasets.
    let other = Catalog { host: Host::new(), environment: catalog.environment.clone() };
    let got = other.folder().join("got");
    other.run(&["data", "get", "d@stable", got.to_str().unwrap()]).expect_success();
    assert_eq!(std::fs::read_to_string(got.join("pictures/1.png")).unwrap(), "one");
}

/// Adds a tree again and again, and looks how many of its files were read.
fn what_has_not_changed_is_not_read_again(catalog: &Catalog<'_>) {
    catalog.write("tree/a.csv", "x\n1\n");
    catalog.write("tree/b.png", "b");
    let tree = catalog.folder().join("tree").to_str().unwrap().to_owned();
    let add = |more: &[&str]| catalog.run(&[&["data", "add", "d", &tree, "--json"], more].concat()).json();
    let add_until = |files_read: u64| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let added = add(&[]);
            if added["files_read"] == files_read {
                return added;
            }
            assert!(Instant::now() < deadline, "{added}");
        }
    };
    let added = add(&[]);
    assert_eq!(added["files_read"], 2);
    // What changed a moment ago may be changing still, and is read again until that is over.
    let again = add_until(0);
    assert_eq!((&again["digest"], &again["unchanged"]), (&added["digest"], &true.into()));
    catalog.write("tree/a.csv", "x\n2\n");
    let changed = add(&[]);
    assert_eq!((&changed["version"], &changed["files_read"]), (&2.into(), &1.into()));
    add_until(0);
    assert_eq!(add(&["--reread"])["files_read"], 2);
    // Files of a version that is gone are stored again.
    catalog.run(&["data", "delete", "d@2"]).expect_success();
    let restored = add(&[]);
    assert_eq!((&restored["version"], &restored["digest"]), (&3.into(), &changed["digest"]));
    catalog.run(&["data", "verify", "d"]).expect_success();
}

#[test]
fn a_damaged_file_is_mended_by_adding_it_again() {
    let catalog = Catalog { host: Host::new(), environment: Vec::new() };
    catalog.write("a.bin", "hello");
    let file = catalog.folder().join("a.bin").to_str().unwrap().to_owned();
    catalog.run(&["data", "add", "d", &file]).expect_success();
    let digest = host_tests::sha256(b"hello");
    let blob = catalog.host.state_dir().join("blobs/sha256").join(&digest[..2]).join(&digest);
    std::fs::write(&blob, "HELLO").unwrap();
    let damaged = catalog.run(&["data", "verify", "d"]);
    assert!(damaged.code == 1 && damaged.stderr.contains("--reread"), "{}", damaged.stderr);
    let mended = catalog.run(&["data", "add", "d", &file, "--reread", "--json"]).json();
    assert_eq!(mended["unchanged"], true);
    catalog.run(&["data", "verify", "d"]).expect_success();
    assert_eq!(std::fs::read_to_string(blob).unwrap(), "hello");
}

#[test]
fn a_version_that_is_damaged_does_not_keep_others_from_being_added() {
    let catalog = Catalog { host: Host::new(), environment: Vec::new() };
    catalog.write("a.bin", "1");
    let file = catalog.folder().join("a.bin").to_str().unwrap().to_owned();
    let added = catalog.run(&["data", "add", "d", &file, "--json"]).json();
    let hex = added["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    std::fs::write(catalog.host.state_dir().join("blobs/sha256").join(&hex[..2]).join(hex), "{}").unwrap();
    assert_eq!(catalog.run(&["data", "show", "d"]).code, 1);
    catalog.write("a.bin", "2");
    let next = catalog.run(&["data", "add", "d", &file, "--json"]).json();
    assert_eq!(next["version"], 2);
    catalog.run(&["data", "verify", "d@2"]).expect_success();
}

#[test]
fn what_has_not_changed_is_not_read_again_for_a_folder() {
    what_has_not_changed_is_not_read_again(&Catalog { host: Host::new(), environment: Vec::new() });
}

#[test]
fn what_has_not_changed_is_not_read_again_for_a_bucket() {
    let bucket = Bucket::shared();
    let mut environment = bucket.environment().to_vec();
    environment.push(("HOST_BLOBS", bucket.url("again")));
    what_has_not_changed_is_not_read_again(&Catalog { host: Host::new(), environment });
}

#[test]
fn files_are_added_from_a_bucket() {
    let bucket = Bucket::shared();
    for (object, text) in [("a/train.csv", "x\n1\n"), ("a/b/test.csv", "x\n2\n"), ("other.csv", "x\n3\n")] {
        bucket.replace(&format!("sources/{object}"), text.as_bytes());
    }
    let catalog = Catalog { host: Host::new(), environment: bucket.environment().to_vec() };
    let add = |prefix: &str| catalog.run(&["data", "add", "d", &bucket.url(prefix), "--json"]);
    let added = add("sources/a").json();
    assert_eq!(added["rows"], serde_json::json!({ "test": 1, "train": 1 }));
    let files = catalog.run(&["data", "show", "d", "--json"]).json()["files"].clone();
    assert_eq!((&files[0]["path"], &files[1]["path"]), (&"b/test.csv".into(), &"train.csv".into()));
    assert_eq!(add("sources/a/train.csv").json()["rows"], serde_json::json!({ "train": 1 }));
    let nothing = add("sources/none");
    assert_eq!(nothing.code, 1, "{}", nothing.stderr);
    assert_eq!(std::fs::read_dir(catalog.host.state_dir().join("temporary")).unwrap().count(), 0);
}

#[test]
fn versions_that_share_parents_are_told_once() {
    let catalog = Catalog { host: Host::new(), environment: Vec::new() };
    let json = |arguments: &[&str]| catalog.run(&[arguments, &["--json"]].concat()).json();
    let add = |name: &str| {
        catalog.write(name, "");
        json(&["data", "add", "d", catalog.folder().join(name).to_str().unwrap()]);
    };
    // Each generation has the two before it as its parents: the ways up are as many as Fibonacci's numbers.
    add("1");
    json(&["data", "squash", "s", "d@1"]);
    for generation in 2..=24 {
        add(&generation.to_string());
        let (newest, before) = (format!("s@{}", generation - 1), format!("s@{}", (generation - 2).max(1)));
        json(&["data", "squash", "s", &before, &newest, &format!("d@{generation}")]);
    }
    let lineage = catalog.run(&["data", "lineage", "s"]).expect_success();
    assert!(lineage.contains("s@23") && lineage.lines().count() < 100, "{lineage}");
    json(&["data", "squash", "twice", "s@2", "s@1"]);
    let twice = catalog.run(&["data", "lineage", "twice"]).expect_success();
    let lines: Vec<&str> = twice.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "dataset twice@1",
            "made from",
            "├─ dataset s@2",
            "│  ├─ dataset s@1",
            "│  │  └─ dataset d@1",
            "│  └─ dataset d@2",
            "└─ dataset s@1",
            "led to nothing that is known",
        ]
    );
    assert!(twice.contains(", see above\n"), "{twice}");
}

#[test]
fn names_in_a_terminal_are_only_names() {
    let host = Host::new();
    let folder = host.state_dir().join("files");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("\u{1b}[31mred.csv"), "\u{1b}[31mx\n1\n").unwrap();
    host.run(["data", "add", "d", folder.to_str().unwrap()]).expect_success();
    let shown = host.run(["data", "show", "d"]).expect_success();
    assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}[31mred.csv"), "{shown}");
    let missing = host.run(["data", "add", "d", "no\u{1b}[31m\nfile"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("`no\\u{1b}[31m\\nfile`"), "{}", missing.stderr);
    let none = host.run(["data", "add", "plain", "--no-rows", folder.to_str().unwrap()]);
    assert_eq!(none.code, 0, "{}", none.stderr);
    let split = host.run(["data", "show", "plain", "--rows", "1", "--split", "x"]);
    assert!(split.code == 2 && split.stderr.contains("`plain@1` holds no rows"), "{}", split.stderr);
}

#[test]
fn a_killed_add_leaves_nothing_and_can_be_repeated() {
    let catalog = Catalog { host: Host::new(), environment: Vec::new() };
    for number in 0..400 {
        catalog.write(&format!("tree/{number}"), &format!("{number}").repeat(20_000));
    }
    let tree = catalog.folder().join("tree").to_str().unwrap().to_owned();
    for wait_ms in [5, 20, 40, 80] {
        let mut adding = catalog.host.command().args(["data", "add", "d", &tree]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        adding.kill().unwrap();
        adding.wait().unwrap();
    }
    let added = catalog.run(&["data", "add", "d", &tree, "--json"]).json();
    assert_eq!((&added["version"], &added["files"]), (&1.into(), &400.into()));
    catalog.run(&["data", "verify", "d"]).expect_success();
}

#[test]
fn a_killed_get_goes_on_and_leaves_nothing_else() {
    let catalog = Catalog { host: Host::new(), environment: Vec::new() };
    for number in 0..200 {
        catalog.write(&format!("tree/{number}"), &format!("{number}").repeat(50_000));
    }
    let path = |name: &str| catalog.folder().join(name).to_str().unwrap().to_owned();
    catalog.run(&["data", "add", "d", &path("tree")]).expect_success();
    for wait_ms in [5, 20, 40, 80] {
        let mut getting = catalog.host.command().args(["data", "get", "d", &path("got")]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        getting.kill().unwrap();
        getting.wait().unwrap();
    }
    let got = catalog.run(&["data", "get", "d", &path("got"), "--json"]).json();
    assert_eq!(got["written"].as_u64().unwrap() + got["present"].as_u64().unwrap(), 200);
    catalog.run(&["data", "verify", "d", "--folder", &path("got")]).expect_success();
    assert_eq!(std::fs::read_dir(path("got")).unwrap().count(), 200);
}

#[test]
fn a_full_disk_is_told_in_one_sentence_and_leaves_nothing() {
    let (host, folder) = (Host::new(), tempfile::tempdir().unwrap());
    // Many that fill it together, and one that is written piece by piece.
    let (many, one) = (folder.path().join("many"), folder.path().join("one"));
    std::fs::create_dir_all(&many).unwrap();
    for number in 0..100_u8 {
        std::fs::write(many.join(format!("{number}.bin")), vec![number; 100_000]).unwrap();
    }
    std::fs::write(&one, vec![7; 9_000_000]).unwrap();
    // A file system of 6 MB in a mount namespace of its own.
    let script = r#"
        mount -t tmpfs -o size=6m none "$HOST_STATE_DIR" || exit 90
        "$@" data add many "$MANY" && exit 91
        "$@" data add one "$ONE" && exit 92
        find "$HOST_STATE_DIR/temporary" "$HOST_STATE_DIR/blobs" -type f -size +1k
        "$@" --quiet data add fits "$MANY/1.bin" >&2
    "#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-c", script, "bash"])
        .arg(host.command().get_program())
        .env("HOST_STATE_DIR", host.state_dir())
        .env("MANY", &many)
        .env("ONE", &one)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let ran = ran(output);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let errors: Vec<_> = ran.stderr.lines().filter(|line| line.contains("No space left on device")).collect();
    assert!(
        errors.len() == 2 && errors.iter().all(|line| line.contains("failed to write")),
        "{}",
        ran.stderr
    );
}

//! The rules of ARCHITECTURE.md that a program can check.

use std::path::{Path, PathBuf};

/// Layers from top to bottom; a module may use those after it.
const LAYERS: [&str; 11] =
    ["cli", "server", "serve", "monitor", "train", "registry", "model", "data", "plugin", "store", "domain"];

fn source_folder() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../host/src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn layer_of(path: &Path) -> Option<usize> {
    let first = path.strip_prefix(source_folder()).unwrap().components().next().unwrap();
    let name = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
    LAYERS.iter().position(|layer| *layer == name)
}

/// Names of the layers that a file uses through `crate::`.
fn used_layers(text: &str) -> Vec<usize> {
    let mut used = Vec::new();
    for after in text.split("crate::").skip(1) {
        let name: String = after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        used.extend(LAYERS.iter().position(|layer| *layer == name));
    }
    used
}

#[test]
fn arrows_between_layers_point_down() {
    let mut checked = 0;
    for path in rust_files(&source_folder()) {
        let Some(own) = layer_of(&path) else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        for used in used_layers(&text) {
            checked += 1;
            assert!(used >= own, "{} uses `{}`, which is above it", path.display(), LAYERS[used]);
        }
    }
    assert!(checked > 50, "only {checked} uses were found: the check itself is broken");
}

#[test]
fn only_plugin_knows_wasmtime_and_only_the_library_binding_is_unsafe() {
    for path in rust_files(&source_folder()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let relative = path.strip_prefix(source_folder()).unwrap().to_str().unwrap().to_owned();
        for line in code {
            if !relative.starts_with("plugin") {
                assert!(!line.contains("wasmtime::"), "{relative}: {line}");
            }
            let may_be_unsafe = ["train/xgboost_library.rs", "train/xgboost_library/"];
            if !may_be_unsafe.iter().any(|allowed| relative.starts_with(allowed)) {
                assert!(!line.contains("unsafe "), "{relative}: {line}");
            }
        }
    }
}

#[test]
fn every_dependency_version_stands_in_the_workspace_manifest() {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    for member in ["host", "tests", "xtask"] {
        let manifest = std::fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
        let versions = manifest.lines().filter(|line| line.contains("version = \"")).count();
        assert_eq!(versions, 0, "{member}/Cargo.toml names a version of its own");
    }
}

//! The rules of ARCHITECTURE.md that a program can check.

use std::path::{Path, PathBuf};

/// Layers from top to bottom; a module may use those after it.
const LAYERS: [&str; 16] = [
    "cli", "server", "serve", "monitor", "train", "project", "pipeline", "registry", "track", "model",
    "data", "plugin", "process", "store", "task", "domain",
];

/// The files of `pipeline`, without their ending, and folders that only plan.
const PLANNER: [&str; 17] = [
    "cache_key",
    "check",
    "condition",
    "file",
    "graph",
    "node",
    "order",
    "parameter",
    "plan",
    "problem",
    "quantity",
    "schema",
    "template",
    "tree",
    "trigger/due",
    "trigger/schedule",
    "uses",
];

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

fn is_in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The name that `text` begins with; empty if it begins with something else.
fn first_name(text: &str) -> &str {
    text.split(|character| !is_in_names(character)).next().unwrap()
}

/// First names of the paths in the braces that `group` is the inside of: of `a, b::{c, d}}…`, `a` and `b`.
fn names_in_group(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut at_start = true;
    for (index, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '{' => depth += 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && is_in_names(character) => {
                names.push(first_name(&group[index..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

/// The layers that a file uses through `crate::`.
fn used_layers(text: &str) -> Vec<usize> {
    let mut used = Vec::new();
    for after in text.split("crate::").skip(1) {
        let names = after.strip_prefix('{').map_or_else(|| vec![first_name(after)], names_in_group);
        used.extend(names.iter().filter_map(|name| LAYERS.iter().position(|layer| layer == name)));
    }
    used
}

/// Whether `line` has `word` in its code, and not as part of another word.
fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap();
    code.split(|character| !is_in_names(character)).any(|found| found == word)
}

/// The dependencies of a manifest that are neither the workspace's nor a folder of the repository.
fn own_dependencies(manifest: &str) -> Vec<&str> {
    let mut own = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            // A section for each dependency would need another check than of lines; nobody needs one.
            if section.contains("dependencies.") {
                own.push(line);
            }
        } else if section.ends_with("dependencies")
            && !["workspace = true", "path = \""].iter().any(|source| line.contains(source))
        {
            own.push(line);
        }
    }
    own
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
fn only_plugin_knows_wasmtime_and_only_the_libraries_and_the_walk_through_trees_are_unsafe() {
    for path in rust_files(&source_folder()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let relative = path.strip_prefix(source_folder()).unwrap().to_str().unwrap().to_owned();
        for line in code {
            if !relative.starts_with("plugin") {
                assert!(!has_word(line, "wasmtime"), "{relative}: {line}");
            }
            let may_be_unsafe = [
                "train/xgboost_library.rs",
                "train/xgboost_library/",
                "model/trees/packed.rs",
                "model/onnx/library.rs",
            ];
            if !may_be_unsafe.iter().any(|allowed| relative.starts_with(allowed)) {
                assert!(!has_word(line, "unsafe"), "{relative}: {line}");
            }
        }
    }
}

#[test]
fn domain_and_the_planner_touch_neither_clock_nor_disk_nor_network_nor_randomness() {
    let mut checked = 0;
    for path in rust_files(&source_folder()) {
        let relative = path.strip_prefix(source_folder()).unwrap().to_str().unwrap().to_owned();
        let is_pure = relative.starts_with("domain/")
            || PLANNER.iter().any(|part| {
                let rest = relative.strip_prefix("pipeline/").and_then(|path| path.strip_prefix(part));
                rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
        if !is_pure || relative.ends_with("tests.rs") {
            continue;
        }
        checked += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in ["fs", "net", "Instant", "SystemTime", "File", "tokio", "Uuid"] {
                assert!(!has_word(line, word), "{relative}: {line}");
            }
        }
    }
    assert!(checked > 20, "only {checked} files were found: the check itself is broken");
}

#[test]
fn every_dependency_version_stands_in_the_workspace_manifest() {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    for member in ["host", "tests", "xtask"] {
        let manifest = std::fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
        let own = own_dependencies(&manifest);
        assert!(own.is_empty(), "{member}/Cargo.toml: {own:?} should be `workspace = true`");
    }
}

#[test]
fn the_checks_see_every_way_to_write_it() {
    let layers = |text| used_layers(text).into_iter().map(|used| LAYERS[used]).collect::<Vec<_>>();
    assert_eq!(layers("use crate::cli::output;"), ["cli"]);
    assert_eq!(
        layers("use crate::{data, domain::{Name, cli}, Other,\n    serve};"),
        ["data", "domain", "serve"]
    );
    assert_eq!(layers("use crate::data; use super::{cli};"), ["data"]);
    for line in ["use wasmtime;", "use wasmtime as w;", "let engine = wasmtime::Engine::default();"] {
        assert!(has_word(line, "wasmtime"), "{line}");
    }
    assert!(!has_word("use wasmtime_environ; // not wasmtime", "wasmtime"));
    let manifest = "[package]\nversion.workspace = true\nedition = \"2024\"\n\n[dependencies]\n# wasm\n\
        serde = \"1\"\ntokio = { version = \"1\" }\nanyhow.workspace = true\n\
        clap = { workspace = true, features = [\"env\"] }\nsdk = { path = \"../sdk\" }\n\n\
        [dependencies.csv]\nversion = \"1\"\n\n[target.'cfg(unix)'.dev-dependencies]\nlibc = \"0.2\"\n";
    let own = ["serde = \"1\"", "tokio = { version = \"1\" }", "[dependencies.csv]", "libc = \"0.2\""];
    assert_eq!(own_dependencies(manifest), own);
}

//! Asks cargo what lies in a folder, and lets it compile that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::toolchain::Compiler;
use super::{BuildError, TARGET};

/// A package that can become a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) target_directory: PathBuf,
    /// Cargo's own name, which tells it from its dependencies.
    id: String,
    workspace_root: PathBuf,
}

/// The parts that are used of `cargo metadata --format-version 1`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    id: String,
    manifest_path: PathBuf,
    targets: Vec<MetadataTarget>,
}

#[derive(Deserialize)]
struct MetadataTarget {
    kind: Vec<String>,
}

/// The parts that are used of a line of `cargo build --message-format json`.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        package_id: String,
        target: MetadataTarget,
        filenames: Vec<PathBuf>,
    },
    #[serde(other)]
    Other,
}

const CDYLIB: &str = "cdylib";

/// The package whose manifest lies in `directory`, which is an absolute path.
pub(super) fn package(directory: &Path) -> Result<Package, BuildError> {
    let manifest = directory.join("Cargo.toml");
    let not_package = |reason| BuildError::NotPackage { directory: directory.to_owned(), reason };
    // Cargo would look for a manifest in the folders above.
    if !manifest.is_file() {
        return Err(not_package("could not find `Cargo.toml`".to_owned()));
    }
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(directory)
        .output()
        .map_err(|source| BuildError::Cargo { source })?;
    if !output.status.success() {
        return Err(not_package(first_error(&output.stderr)));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|error| not_package(error.to_string()))?;
    select(metadata, directory, &manifest)
}

fn select(metadata: Metadata, directory: &Path, manifest: &Path) -> Result<Package, BuildError> {
    let Metadata { packages, target_directory, workspace_root } = metadata;
    let names = packages.iter().map(|package| package.name.clone()).collect();
    let Some(package) = packages.into_iter().find(|package| package.manifest_path == manifest) else {
        return Err(BuildError::Workspace { directory: directory.to_owned(), packages: names });
    };
    if package.targets.iter().any(MetadataTarget::is_cdylib) {
        Ok(Package { name: package.name, target_directory, id: package.id, workspace_root })
    } else {
        Err(BuildError::NotCdylib { package: package.name })
    }
}

/// Compiles the package and returns the path of its core module.
pub(super) fn compile(
    directory: &Path,
    package: &Package,
    compiler: &Compiler,
) -> Result<PathBuf, BuildError> {
    let output = Command::new("cargo")
        .args(["build", "--release", "--lib", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .args(["--config", &flags(package)])
        .args(&compiler.arguments)
        // Either would replace the flags above, and does for whoever has `RUSTFLAGS=-Dwarnings` for a crate of their own.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(compiler.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| BuildError::Cargo { source })?;
    if !output.status.success() {
        return Err(BuildError::Compile { package: package.name.clone() });
    }
    module_path(&output.stdout, &package.id)
        .ok_or_else(|| BuildError::NoModule { package: package.name.clone() })
}

/// Compiler flags of every plugin, added to those of the folder's own cargo configuration.
///
/// SIMD, because every host has it. Paths of this machine are replaced in messages of panics: they are nobody's business
/// where the component goes, and would change its digest from one machine to the next.
fn flags(package: &Package) -> String {
    let mut flags = vec!["-Ctarget-feature=+simd128".to_owned()];
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    for (from, to) in [(Some(&package.workspace_root), "/plugin"), (home.as_ref(), "/cargo")] {
        if let Some(from) = from.and_then(|path| path.to_str()) {
            flags.push(format!("--remap-path-prefix={from}={to}"));
        }
    }
    // A JSON list of strings is one of TOML too.
    format!("target.{TARGET}.rustflags={}", serde_json::Value::from(flags))
}

/// The module that cargo's messages name for the package.
fn module_path(messages: &[u8], package: &str) -> Option<PathBuf> {
    messages.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).find_map(
        |message| match message {
            Message::CompilerArtifact { package_id, target, filenames }
                if package_id == package && target.is_cdylib() =>
            {
                filenames
                    .into_iter()
                    .find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
            }
            Message::CompilerArtifact { .. } | Message::Other => None,
        },
    )
}

impl MetadataTarget {
    fn is_cdylib(&self) -> bool {
        self.kind.iter().any(|kind| kind == CDYLIB)
    }
}

/// The first line of what a tool said that tells an error, without the word.
pub(super) fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: "));
    error.or_else(|| lines().next_back()).unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_module_among_messages() {
        let messages = br#"
            not json
            {"reason":"compiler-artifact","package_id":"sdk","target":{"kind":["cdylib"]},"filenames":["/t/sdk.wasm"]}
            {"reason":"compiler-artifact","package_id":"mine","target":{"kind":["bin"]},"filenames":["/t/bin.wasm"]}
            {"reason":"compiler-message","package_id":"mine","message":{"level":"warning"}}
            {"reason":"compiler-artifact","package_id":"mine","target":{"kind":["cdylib","rlib"]},"filenames":["/t/mine.rlib","/t/mine.wasm"]}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(module_path(messages, "mine"), Some(PathBuf::from("/t/mine.wasm")));
        assert_eq!(module_path(messages, "other"), None);
    }

    #[test]
    fn finds_the_package_of_the_folder() {
        let metadata = || {
            serde_json::from_str(
                r#"{
                    "packages": [
                        {"name": "sdk", "id": "1", "manifest_path": "/w/sdk/Cargo.toml", "targets": [{"kind": ["lib"]}]},
                        {"name": "a", "id": "2", "manifest_path": "/w/a/Cargo.toml", "targets": [{"kind": ["cdylib"]}]}
                    ],
                    "target_directory": "/w/target", "workspace_root": "/w", "version": 1
                }"#,
            )
            .unwrap()
        };
        let select =
            |folder: &str| select(metadata(), Path::new(folder), &Path::new(folder).join("Cargo.toml"));
        let package = select("/w/a").unwrap();
        assert_eq!((package.name.as_str(), package.target_directory), ("a", PathBuf::from("/w/target")));
        assert!(matches!(select("/w/sdk"), Err(BuildError::NotCdylib { package }) if package == "sdk"));
        assert!(
            matches!(select("/w"), Err(BuildError::Workspace { packages, .. }) if packages == ["sdk", "a"])
        );
    }

    #[test]
    fn flags_are_toml_whatever_the_path() {
        let package = Package {
            name: "a".into(),
            target_directory: PathBuf::new(),
            id: String::new(),
            workspace_root: PathBuf::from("/my \"own\" folder"),
        };
        let flags = flags(&package);
        assert!(
            flags.starts_with(r#"target.wasm32-unknown-unknown.rustflags=["-Ctarget-feature=+simd128","#)
        );
        assert!(flags.contains(r#""--remap-path-prefix=/my \"own\" folder=/plugin""#), "{flags}");
    }

    #[test]
    fn tells_the_error_among_other_lines() {
        assert_eq!(first_error(b"warning: x\nerror: no such thing\n\nCaused by:\n  y\n"), "no such thing");
        assert_eq!(first_error(b"first\nlast\n\n"), "last");
        assert_eq!(first_error(b""), "it said nothing");
    }
}

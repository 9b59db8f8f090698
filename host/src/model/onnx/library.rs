//! ONNX Runtime, opened when the first model needs it, and once for the process: a host without ONNX models does not have
//! to have it, and one build works with every version from 1.20.
//!
//! The crate `ort` panics where a library is not what it expects, so the file is opened and looked at here before.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::model::LibrarySearch;

/// Names the library's file; nothing else is tried then.
pub const VARIABLE: &str = "HOST_ONNXRUNTIME";

/// Name of the library where folders are searched.
const NAME: &str = "libonnxruntime.so";

/// The first minor version of 1 that has the functions which are called here, as the features of `ort` in Cargo.toml say.
const MINOR_MIN: u32 = ort::MINOR_VERSION;

/// The loaded library.
#[derive(Debug)]
pub(super) struct Library {
    /// What sessions are made in.
    pub(super) environment: Environment,
    /// As in `1.32.0`.
    pub(super) version: String,
}

/// ONNX Runtime cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// It is nowhere.
    #[error(
        "ONNX Runtime was not found in {}\nhint: run `cargo xtask setup` in a checkout, or `pip install onnxruntime==1.32.0` \
         and set {VARIABLE} to its onnxruntime/capi/libonnxruntime.so.1.32.0",
        looked.join(", ")
    )]
    NotFound {
        /// Every place, in order.
        looked: Vec<String>,
    },
    /// A file that is there cannot be loaded.
    #[error("failed to load `{path}` as ONNX Runtime: {reason}")]
    Load {
        /// The file.
        path: String,
        /// What the loader says.
        reason: String,
    },
    /// A library, but not the one.
    #[error("`{path}` is not ONNX Runtime: it has no function `OrtGetApiBase`")]
    Other {
        /// The file.
        path: String,
    },
    /// A version that is too old.
    #[error("`{path}` is ONNX Runtime {version}: expected 1.{MINOR_MIN} or newer")]
    Version {
        /// The file.
        path: String,
        /// What it says it is.
        version: String,
    },
}

impl Library {
    /// The library of this process, or why there is none: what is found at the first time stays.
    pub(super) fn get() -> Result<&'static Self, LibraryError> {
        static LIBRARY: OnceLock<Result<Library, LibraryError>> = OnceLock::new();
        let explicit = || std::env::var_os(VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
        let library = LIBRARY.get_or_init(|| Self::load(&LibrarySearch::from_environment(explicit())));
        library.as_ref().map_err(Clone::clone)
    }

    fn load(search: &LibrarySearch) -> Result<Self, LibraryError> {
        let files = search.files("onnxruntime", NAME);
        if let Some(file) = files.iter().find(|file| file.exists()) {
            return Self::open(file);
        }
        if search.explicit.is_none() {
            match Self::open(Path::new(NAME)) {
                Err(LibraryError::Load { .. }) => {}
                found => return found,
            }
        }
        let system = search.explicit.is_none().then(|| "the system's libraries".to_owned());
        let looked = files.iter().map(|file| format!("`{}`", file.display())).chain(system).collect();
        Err(LibraryError::NotFound { looked })
    }

    fn open(file: &Path) -> Result<Self, LibraryError> {
        let path = file.display().to_string();
        // A name without a slash would be looked for in the system's folders instead of here; ours has none on purpose.
        let file = match file.exists() {
            true => std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()),
            false => file.to_path_buf(),
        };
        let version = version(&file, &path)?;
        let load = |reason: String| LibraryError::Load { path: path.clone(), reason };
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        if (parts.next(), parts.next().unwrap_or_default()) < (Some(1), MINOR_MIN) {
            return Err(LibraryError::Version { path, version });
        }
        let builder = ort::init_from(&file).map_err(|error| load(error.to_string()))?;
        // It reports to its makers otherwise, where it is built so.
        let environment = builder.with_name("host").with_telemetry(false).build();
        let environment = environment.map_err(|error| load(error.to_string()))?;
        environment.set_log_level(LogLevel::Fatal);
        Ok(Self { environment, version })
    }
}

/// The version that a library says it is; `path` names it in errors.
fn version(file: &Path, path: &str) -> Result<String, LibraryError> {
    let other = || LibraryError::Other { path: path.to_owned() };
    // SAFETY: loading runs the initialisers of a library that the operator installed or named; trusting it is the
    // operator's decision, as it is for a program. It stays loaded, since `ort` opens it too and never closes it.
    let library = unsafe { libloading::Library::new(file) };
    let library =
        library.map_err(|error| LibraryError::Load { path: path.to_owned(), reason: error.to_string() })?;
    // SAFETY: a library with a function of this name is ONNX Runtime, whose header gives it this type.
    let function =
        unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") };
    let function = function.map_err(|_| other())?;
    // SAFETY: it takes nothing, and gives null or a table that lives as long as the library, with a function that gives
    // null or a text that does.
    let text = unsafe {
        let table = function().as_ref().ok_or_else(other)?;
        let text = (table.GetVersionString)();
        if text.is_null() {
            return Err(other());
        }
        CStr::from_ptr(text)
    };
    Ok(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(explicit: &Path) -> String {
        let explicit = Some(explicit.to_path_buf());
        Library::load(&LibrarySearch { explicit, ..Default::default() }).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_the_library_is_told() {
        let missing = load(Path::new("/nowhere/libonnxruntime.so"));
        assert!(missing.starts_with("ONNX Runtime was not found in `/nowhere/libonnxruntime.so`\nhint: "));
        assert!(missing.contains("pip install onnxruntime==") && missing.contains(VARIABLE), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.so");
        std::fs::write(&text, "no library").unwrap();
        assert!(load(&text).starts_with("failed to load `"), "{}", load(&text));
        // A library that every system has; the loader knows where.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
        assert!(load(Path::new(libc)).ends_with("is not ONNX Runtime: it has no function `OrtGetApiBase`"));
    }
}

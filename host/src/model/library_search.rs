//! Where the shared libraries lie that the program opens when it needs them.

use std::path::{Path, PathBuf};

/// Where a library is looked for.
#[derive(Debug, Clone, Default)]
pub struct LibrarySearch {
    /// The file that the user named; nothing else is tried then.
    pub explicit: Option<PathBuf>,
    /// Directory of the program: `lib/` and the library's own folder below it are tried.
    pub executable_directory: Option<PathBuf>,
    /// `$XDG_DATA_HOME` or `~/.local/share`: the library's own folder in `host/lib/` under it is tried.
    pub data_directory: Option<PathBuf>,
}

impl LibrarySearch {
    /// Looks around this program and user. `explicit` is what a flag or a variable of the environment names.
    pub fn from_environment(explicit: Option<PathBuf>) -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let executable = std::env::current_exe().ok();
        Self {
            explicit,
            executable_directory: executable.and_then(|path| path.parent().map(Path::to_owned)),
            data_directory: absolute("XDG_DATA_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/share"))),
        }
    }

    /// The files to try, in order: `name` in `lib/` and in `lib/folder/`.
    pub fn files(&self, folder: &str, name: &str) -> Vec<PathBuf> {
        if let Some(explicit) = &self.explicit {
            return vec![explicit.clone()];
        }
        let own = Path::new("lib").join(folder);
        let beside = self.executable_directory.iter();
        let beside = beside.flat_map(|directory| [directory.join("lib"), directory.join(&own)]);
        let installed = self.data_directory.iter().map(|directory| directory.join("host").join(&own));
        beside.chain(installed).map(|directory| directory.join(name)).collect()
    }
}

//! The program of a command line: where it is, which files it needs, and what else its result depends on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{CommandError, is_own_variable};
use crate::domain::Digest;
use crate::process::LimitedCommand;
use crate::store::Store;
use crate::track::TrackError;
use crate::train::{RunLog, TrainError};

/// Most files that a program may need.
const FILES_MAX: usize = 10_000;

/// Variables that results depend on often enough to be recorded where they are set.
const RECORDED: [&str; 8] = [
    "CONDA_PREFIX",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTHONPATH",
    "VIRTUAL_ENV",
];

/// A program as the user names it.
#[derive(Debug, Clone)]
pub struct ProgramSpec {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Files and folders that it needs, besides those that `words` name.
    pub inputs: Vec<PathBuf>,
    /// Variables that it gets.
    pub environment: Vec<(String, String)>,
    /// Where the user stands: what paths start from.
    pub folder: PathBuf,
}

/// A program that can be run: found, its files kept in the store.
#[derive(Debug)]
pub struct Program {
    store: Store,
    /// As the user wrote it.
    words: Vec<String>,
    /// As it is started.
    command: Vec<OsString>,
    digest: Digest,
    /// What it needs, by name.
    files: BTreeMap<String, ProgramFile>,
    /// What it is given.
    given: Vec<(String, String)>,
    /// What it is given or finds, as far as it is recorded.
    environment: BTreeMap<String, String>,
}

#[derive(Debug)]
struct ProgramFile {
    digest: Digest,
    size: u64,
    is_executable: bool,
    /// Whether it is put into the program's folder, under its name; or else it is called by its own path.
    is_placed: bool,
}

impl Program {
    /// Finds a program, and keeps the files that it needs in the store.
    pub fn open(store: &Store, spec: ProgramSpec) -> Result<Self, CommandError> {
        let (first, rest) = spec.words.split_first().ok_or(CommandError::NoProgram)?;
        if let Some((name, _)) = spec.environment.iter().find(|(name, _)| is_own_variable(name)) {
            return Err(CommandError::Variable { name: name.clone() });
        }
        let path = find(first, &spec.folder)?;
        let mut hasher = Sha256::new();
        File::open(&path)
            .and_then(|mut file| std::io::copy(&mut file, &mut hasher))
            .map_err(CommandError::io("read", &path))?;
        let mut files = BTreeMap::new();
        for input in &spec.inputs {
            add_input(store, &spec.folder, input, &mut files)?;
        }
        let mut command = vec![path.into_os_string()];
        for word in rest {
            command.push(add_word(store, &spec.folder, word, &mut files)?);
        }
        let found = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
        let environment = RECORDED.into_iter().filter_map(found).chain(spec.environment.iter().cloned());
        Ok(Self {
            store: store.clone(),
            command,
            digest: Digest::from_hasher(hasher),
            files,
            environment: environment.collect(),
            given: spec.environment,
            words: spec.words,
        })
    }

    /// The store that keeps its files.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What starts it by way of `host`, this program, so that it does not outlive it.
    pub(super) fn to_command(&self, host: &Path) -> Command {
        let mut command = LimitedCommand::of_this_process(self.command.clone()).to_command(host);
        command.envs(self.given.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What is recorded of it.
    pub(super) fn tags(&self) -> BTreeMap<String, String> {
        let path = self.command.first().map(|path| path.display().to_string()).unwrap_or_default();
        let mut tags = BTreeMap::from([
            ("host.command".to_owned(), json!(self.words).to_string()),
            ("host.command.program".to_owned(), format!("{path}@{}", self.digest)),
        ]);
        if !self.files.is_empty() {
            let digests: BTreeMap<&String, Digest> =
                self.files.iter().map(|(name, file)| (name, file.digest)).collect();
            tags.insert("host.command.inputs".to_owned(), json!(digests).to_string());
        }
        if !self.environment.is_empty() {
            tags.insert("host.command.environment".to_owned(), json!(self.environment).to_string());
        }
        tags
    }

    /// Copies its files into the folder that it runs in.
    pub(super) fn place(&self, folder: &Path) -> Result<(), TrainError> {
        for (name, file) in self.files.iter().filter(|(_, file)| file.is_placed) {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            std::fs::create_dir_all(parent).map_err(CommandError::io("create", parent))?;
            let mut copy = File::create_new(&path).map_err(CommandError::io("write", &path))?;
            self.store.copy_blob(file.digest, &mut copy)?;
            if file.is_executable {
                let mode = std::fs::Permissions::from_mode(0o755);
                copy.set_permissions(mode).map_err(CommandError::io("write", &path))?;
            }
        }
        Ok(())
    }

    /// Shows its files among those of the run.
    pub(super) fn keep(&self, log: &RunLog) -> Result<(), TrackError> {
        let link = |(name, file): (&String, &ProgramFile)| {
            (format!("inputs/{}", name.trim_start_matches('/')), file.digest, file.size)
        };
        log.link(&self.files.iter().map(link).collect::<Vec<_>>())
    }
}

/// Where a program is: a path, or a name to be looked up in the folders of `PATH`.
fn find(program: &str, folder: &Path) -> Result<PathBuf, CommandError> {
    let refuse = |reason| Err(CommandError::Program { program: program.to_owned(), reason });
    if program.contains('/') {
        let path = folder.join(program);
        return match std::fs::metadata(&path) {
            Err(_) => refuse("there is no such file"),
            Ok(metadata) if !is_executable(&metadata) => refuse("it is no executable file"),
            Ok(_) => Ok(path),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = std::env::split_paths(&folders).map(|path| folder.join(path).join(program));
    match paths.find(|path| std::fs::metadata(path).is_ok_and(|metadata| is_executable(&metadata))) {
        Some(path) if !program.is_empty() => Ok(path),
        _ => refuse("it is in no folder of `PATH`"),
    }
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Adds the file that an argument names, if it does; gives the argument as the program sees it.
fn add_word(
    store: &Store,
    folder: &Path,
    word: &str,
    files: &mut BTreeMap<String, ProgramFile>,
) -> Result<OsString, CommandError> {
    let source = folder.join(word);
    if !source.is_file() {
        return Ok(word.into());
    }
    if let Some(name) = name_inside(Path::new(word)) {
        add(store, &source, name, true, files)?;
        return Ok(word.into());
    }
    let path = source.canonicalize().map_err(CommandError::io("read", &source))?;
    add(store, &path, path.display().to_string(), false, files)?;
    Ok(if Path::new(word).is_absolute() { word.into() } else { path.into_os_string() })
}

/// Adds a file, or all files of a folder.
fn add_input(
    store: &Store,
    folder: &Path,
    input: &Path,
    files: &mut BTreeMap<String, ProgramFile>,
) -> Result<(), CommandError> {
    let refuse = |path: &Path, reason: &str| CommandError::Input {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    };
    name_inside(input).ok_or_else(|| refuse(input, "expected a path below the current folder"))?;
    let source = folder.join(input);
    if source.is_file() {
        let name = name_inside(input).unwrap_or_default();
        return add(store, &source, name, true, files);
    }
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
            refuse(error.path().unwrap_or(input), &reason)
        })?;
        if entry.file_type().is_dir() {
            continue;
        }
        let path = entry.path();
        let name = path.strip_prefix(folder).ok().and_then(name_inside);
        let name = name.ok_or_else(|| refuse(path, "its name is not UTF-8"))?;
        if !entry.file_type().is_file() {
            return Err(refuse(path, "it is no plain file"));
        }
        add(store, path, name, true, files)?;
    }
    Ok(())
}

fn add(
    store: &Store,
    source: &Path,
    name: String,
    is_placed: bool,
    files: &mut BTreeMap<String, ProgramFile>,
) -> Result<(), CommandError> {
    if files.contains_key(&name) {
        return Ok(());
    }
    if files.len() == FILES_MAX {
        let reason = format!("there are more files than the {FILES_MAX} that a program may need");
        return Err(CommandError::Input { path: source.display().to_string(), reason });
    }
    let unreadable = || CommandError::io("read", source);
    let mut file = File::open(source).map_err(unreadable())?;
    let is_executable = is_executable(&file.metadata().map_err(unreadable())?);
    let stored = store.put(&mut file)?;
    files.insert(name, ProgramFile { digest: stored.digest, size: stored.size, is_executable, is_placed });
    Ok(())
}

/// The path as it is called in the program's folder; none if it leads elsewhere.
fn name_inside(path: &Path) -> Option<String> {
    let parts = path.components().filter_map(|part| match part {
        Component::CurDir => None,
        Component::Normal(name) => Some(name.to_str()),
        _ => Some(None),
    });
    let parts: Vec<&str> = parts.collect::<Option<_>>()?;
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        store: Store,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("state")).unwrap();
            Self { folder, store }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.folder.path().join("user").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn open(&self, words: &[&str], inputs: &[&str]) -> Result<Program, CommandError> {
            let spec = ProgramSpec {
                words: words.iter().map(|&word| word.to_owned()).collect(),
                inputs: inputs.iter().map(PathBuf::from).collect(),
                environment: vec![("MODE".to_owned(), "fast".to_owned())],
                folder: self.folder.path().join("user"),
            };
            Program::open(&self.store, spec)
        }
    }

    #[test]
    fn what_the_command_line_names_goes_with_the_program() {
        let place = Place::new();
        for path in ["train.py", "lib/a.py", "lib/b/c.py", "other.txt"] {
            place.write(path, path);
        }
        std::fs::write(place.folder.path().join("beside.txt"), "beside").unwrap();
        let words = ["sh", "./train.py", "--depth", "6", "../beside.txt", "lib"];
        let program = place.open(&words, &["lib"]).unwrap();
        let names: Vec<&String> = program.files.keys().collect();
        let beside = place.folder.path().canonicalize().unwrap().join("beside.txt");
        assert_eq!(names, [beside.to_str().unwrap(), "lib/a.py", "lib/b/c.py", "train.py"]);
        assert_eq!(program.command[1..5], ["./train.py", "--depth", "6", beside.to_str().unwrap()]);
        let work = place.folder.path().join("work");
        program.place(&work).unwrap();
        assert_eq!(std::fs::read(work.join("lib/b/c.py")).unwrap(), b"lib/b/c.py");
        assert!(!work.join("other.txt").exists());
        let tags = program.tags();
        assert_eq!(tags["host.command"], json!(words).to_string());
        assert!(tags["host.command.program"].contains("/sh@sha256:"), "{tags:?}");
        assert!(tags["host.command.inputs"].contains(&Digest::of(b"train.py").to_string()), "{tags:?}");
        assert!(tags["host.command.environment"].contains(r#""MODE":"fast""#), "{tags:?}");
    }

    #[test]
    fn what_cannot_be_run_is_told() {
        let place = Place::new();
        place.write("train.sh", "#!/bin/sh\n");
        let refusal = |words: &[&str], inputs: &[&str]| place.open(words, inputs).unwrap_err().to_string();
        assert_eq!(
            refusal(&["no-such-program"], &[]),
            "program `no-such-program` cannot be run: it is in no folder of `PATH`"
        );
        assert_eq!(refusal(&["./no.sh"], &[]), "program `./no.sh` cannot be run: there is no such file");
        assert_eq!(
            refusal(&["./train.sh"], &[]),
            "program `./train.sh` cannot be run: it is no executable file"
        );
        assert!(refusal(&[], &[]).starts_with("there is no program"));
        assert!(refusal(&["sh"], &["../up"]).ends_with("expected a path below the current folder"));
        assert!(refusal(&["sh"], &["nothing"]).contains("`"), "names the file");
    }

    #[test]
    fn a_script_that_can_be_run_can_still_be_run_where_it_is_put() {
        let place = Place::new();
        place.write("step.sh", "#!/bin/sh\n");
        let script = place.folder.path().join("user/step.sh");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let work = place.folder.path().join("work");
        place.open(&["sh"], &["step.sh"]).unwrap().place(&work).unwrap();
        assert!(is_executable(&std::fs::metadata(work.join("step.sh")).unwrap()));
    }
}

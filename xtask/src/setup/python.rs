//! Python environments: made again whenever what they are to hold, or the Python that they are made with, has changed.

use std::path::Path;
use std::process::Command;

use crate::error::{Context as _, Result};
use crate::{process, terminal};

/// Makes the environment in `folder` hold `requirements`; without any, pip alone is enough.
pub(super) fn ensure(folder: &Path, requirements: Option<&Path>) -> Result<()> {
    let version = process::read_text(Command::new("python3").arg("--version"), "find Python")?;
    let listed = match requirements {
        Some(file) => std::fs::read_to_string(file).context(format_args!("read `{}`", file.display()))?,
        None => String::new(),
    };
    // Written last, and holds what was installed, so that an interrupted set-up is seen.
    let marker = folder.join("installed.txt");
    let bare = format!("# {version}\n");
    let wanted = format!("{bare}{listed}");
    let found = std::fs::read_to_string(&marker).ok().filter(|_| folder.join("bin/python").exists());
    match found {
        Some(found) if found == wanted || (requirements.is_none() && found.starts_with(&bare)) => {
            return Ok(());
        }
        Some(found) if found == bare => {}
        _ => {
            let mut python = Command::new("python3");
            process::run(python.args(["-m", "venv", "--clear"]).arg(folder), "make a Python environment")?;
        }
    }
    if let Some(file) = requirements {
        terminal::note(&format!("installing Python packages into {}", process::display_path(folder)));
        // Until the marker is written anew, what is there is neither bare nor complete.
        match std::fs::remove_file(&marker) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("begin anew");
            }
            _ => {}
        }
        let mut pip = pip(folder);
        pip.args(["install", "--only-binary=:all:", "--requirement"]).arg(file);
        process::run(&mut pip, "install Python packages")?;
    }
    std::fs::write(&marker, wanted).context(format_args!("write `{}`", marker.display()))
}

/// Pip of an environment.
pub(super) fn pip(folder: &Path) -> Command {
    let mut command = Command::new(folder.join("bin/python"));
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
}

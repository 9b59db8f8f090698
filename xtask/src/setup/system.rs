//! Programs of the system, from Debian's and Ubuntu's packages. Looks for the program first: apt is slow, and wants root.

use std::io::IsTerminal as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::{layout, process, terminal};

/// A program, how to see that it works, and the packages that have it.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    packages: &'static [&'static str],
    probe: (&'static str, &'static [&'static str]),
}

impl Tool {
    /// Links Rust programs, and compiles the few C sources of our dependencies.
    pub(crate) const COMPILER: Self =
        Self { name: "cc", packages: &["gcc", "libc6-dev"], probe: ("cc", &["--version"]) };
    /// Debian has `venv` and the pip that it installs in a package of their own.
    pub(crate) const PYTHON: Self = Self {
        name: "python3 with its venv module",
        packages: &["python3", "python3-venv"],
        probe: ("python3", &["-c", "import venv, ensurepip"]),
    };
    /// Keeps experiments and runs where many write at once. Debian's program is in no folder of the path.
    pub(crate) const POSTGRESQL: Self = Self {
        name: "postgresql",
        packages: &["postgresql"],
        probe: ("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"]),
    };
    /// Checks metrics as Prometheus reads them.
    pub(crate) const PROMTOOL: Self =
        Self { name: "promtool", packages: &["prometheus"], probe: ("promtool", &["--version"]) };
    /// Puts load on servers, for the benches.
    // Asked for its version, wrk prints it and fails.
    pub(crate) const WRK: Self =
        Self { name: "wrk", packages: &["wrk"], probe: ("sh", &["-c", "command -v wrk"]) };

    fn is_there(&self) -> bool {
        process::succeeds(&mut self.probe())
    }

    fn probe(&self) -> Command {
        let (program, arguments) = self.probe;
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }
}

/// Installs those of `tools` that are missing.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    install(&packages).map_err(|error| Error::new(format!("{} is missing: {error}", names.join(" and "))))?;
    match missing.iter().find(|tool| !tool.is_there()) {
        None => Ok(()),
        Some(tool) => Err(Error::new(format!(
            "{} does not work though its packages are installed: see what `{}` says",
            tool.name,
            process::display(&tool.probe())
        ))),
    }
}

/// Installs packages by apt-get.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    static IS_UPDATED: AtomicBool = AtomicBool::new(false);
    let typed = format!("apt-get install {}", packages.join(" "));
    if !process::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Error::new(format!(
            "there is no apt-get here, so install what Debian calls `{}` with your system's own tool",
            packages.join(" ")
        )));
    }
    let is_root = process::read_text(Command::new("id").arg("-u"), "ask who you are")? == "0";
    if !is_root && !process::succeeds(Command::new("sudo").arg("--version")) {
        return Err(Error::new(format!("there is no sudo here, so run `{typed}` as root")));
    }
    terminal::note(&format!("installing packages of the system: {}", packages.join(", ")));
    let apt_get = || {
        let mut command = Command::new(if is_root { "env" } else { "sudo" });
        if !is_root {
            // A password that nobody can type is better refused than waited for.
            command.args(if layout::is_ci() { &["-n", "env"][..] } else { &["env"] });
        }
        // Fresh machines update themselves at start and hold apt's lock meanwhile.
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    if !IS_UPDATED.swap(true, Ordering::Relaxed) {
        // One source of many may be out of reach; whether that matters is seen when the packages are fetched.
        process::status(apt_get().arg("update"), "update the list of packages")?;
    }
    let mut command = apt_get();
    command.args(["install", "--no-install-recommends"]);
    if layout::is_ci() || !std::io::stdin().is_terminal() {
        command.arg("-y");
    }
    process::run(command.args(packages), "install packages of the system").map_err(|error| {
        Error::new(format!("{error}; mend it with `{}{typed}`", if is_root { "" } else { "sudo " }))
    })
}

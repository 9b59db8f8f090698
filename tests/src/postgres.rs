//! A PostgreSQL of a test's own, in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running PostgreSQL; stopped when dropped.
pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
}

/// Where Debian and Ubuntu keep the server's programs: a folder for each version.
fn programs() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: run `cargo xtask setup`");
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").is_file());
    folders.sort();
    folders.pop().expect("PostgreSQL is missing: run `cargo xtask setup`")
}

/// A program of PostgreSQL, which refuses to run as root.
fn program(name: &str, folder: &Path) -> Command {
    let path = programs().join(name);
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Postgres {
    /// Starts a server with an empty database.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chowned = Command::new("sh")
            .args(["-c", "[ \"$(id -u)\" != 0 ] || chown postgres: \"$0\""])
            .arg(folder.path())
            .status();
        assert!(chowned.unwrap().success());
        let data = folder.path().join("data");
        let mut initdb = program("initdb", folder.path());
        initdb.args([
            "-U",
            "tests",
            "--auth=trust",
            "--no-sync",
            "--no-instructions",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        assert!(initdb.arg("-D").arg(&data).status().unwrap().success(), "initdb failed");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postgres = Self { folder, port };
        postgres.control("start");
        postgres
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("postgres://tests@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it at once, as a crash would, and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Starts it after [`Postgres::stop`], with what it had.
    pub fn start_again(&self) {
        self.control("start");
    }

    /// Stops it at once, as a crash would.
    pub fn stop(&self) {
        self.control("stop");
    }

    fn control(&self, action: &str) {
        let folder = self.folder.path();
        let options = format!(
            "-c listen_addresses=127.0.0.1 -p {} -k {} -c fsync=on -c shared_buffers=32MB",
            self.port,
            folder.display()
        );
        let mut control = program("pg_ctl", folder);
        control.arg("-D").arg(folder.join("data")).arg("-l").arg(folder.join("log"));
        match action {
            "start" => control.args(["-w", "-t", "60", "-o", &options, "start"]),
            _ => control.args(["-m", "immediate", "-w", "stop"]),
        };
        assert!(control.status().unwrap().success(), "PostgreSQL did not {action}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let folder = self.folder.path();
        let mut stop = program("pg_ctl", folder);
        let _ = stop.arg("-D").arg(folder.join("data")).args(["-m", "immediate", "-w", "stop"]).status();
    }
}

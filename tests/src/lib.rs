//! Support for black-box tests: starts the real binary and talks to it.
//!
//! `cargo xtask test` builds what is needed and says where it is: `HOST_BIN`, `HOST_PLUGINS_DIR`, `HOST_GUESTS_DIR`,
//! `HOST_PYTHON`.

mod bucket;
mod http2;
mod postgres;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use bucket::Bucket;
pub use http2::{Frame, Http2};
pub use postgres::Postgres;
use serde_json::Value;

/// Longest that anything may take which a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows and rounds of the model that most tests share: small, yet good enough to recognise digits.
const SHARED_MODEL: [&str; 6] = ["--train-rows", "4000", "--rounds", "10", "--set", "max_depth=5"];

fn from_environment(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(
        value.unwrap_or_else(|| panic!("{variable} is not set: run the tests by `cargo xtask test`")),
    )
}

/// A first-party plugin.
pub fn plugin(name: &str) -> String {
    let path = from_environment("HOST_PLUGINS_DIR").join(format!("{name}.wasm"));
    path.to_str().unwrap().to_owned()
}

/// A deliberately bad component.
pub fn guest(name: &str) -> String {
    let path = from_environment("HOST_GUESTS_DIR").join(format!("{name}.wasm"));
    path.to_str().unwrap().to_owned()
}

/// Config of the guest `misbehaving`.
pub fn misbehaviour(behaviour: &str) -> String {
    // A few megabytes that look like four gigabytes, because every tensor is the same memory.
    let alias = behaviour == "huge-output";
    serde_json::json!({ "behaviour": behaviour, "alias": alias }).to_string()
}

/// The Python interpreter that has XGBoost.
pub fn python() -> PathBuf {
    from_environment("HOST_PYTHON")
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..").canonicalize().unwrap()
}

/// The MNIST files.
pub fn mnist_files() -> String {
    repository().join("examples/mnist/data").to_str().unwrap().to_owned()
}

/// What a run of the program printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// The output of a run that succeeded.
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The JSON that a run printed which succeeded.
    pub fn json(self) -> Value {
        serde_json::from_str(&self.expect_success()).unwrap()
    }

    /// Code and message of a run that failed, with folders of this machine replaced.
    pub fn failure(&self, state: &Host) -> String {
        let folder = state.state_dir().to_str().unwrap().to_owned();
        let text = self.stderr.replace(&folder, "[STATE]");
        let text = text.replace(from_environment("HOST_GUESTS_DIR").to_str().unwrap(), "[GUESTS]");
        let text = text.replace(from_environment("HOST_PLUGINS_DIR").to_str().unwrap(), "[PLUGINS]");
        assert!(!text.contains("panicked at"), "{text}");
        format!("exit {}\n{}", self.code, text.trim_end())
    }
}

/// The program with a state folder of its own.
pub struct Host {
    state: tempfile::TempDir,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// An empty state folder.
    pub fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap() }
    }

    /// A state folder with the dataset `mnist` and a model of that name, which all tests share.
    pub fn trained() -> &'static Self {
        static SHARED: OnceLock<Host> = OnceLock::new();
        SHARED.get_or_init(|| {
            let host = Self::new();
            remove_at_the_end(host.state_dir());
            host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
            let (before, after) = (plugin("mnist-pixels"), plugin("argmax-label"));
            let transformers = ["train", "--data", "mnist", "--preprocess", &before, "--postprocess", &after];
            host.run(transformers.into_iter().chain(SHARED_MODEL)).expect_success();
            host
        })
    }

    /// Where the state is.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// The program, ready for more arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(from_environment("HOST_BIN"));
        command.env_remove("HOST_DATABASE").env_remove("HOST_BLOBS");
        command.env("HOST_STATE_DIR", self.state_dir()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        ran(self.command().args(arguments).output().unwrap())
    }

    /// Starts `host serve` with these arguments on a free port, and waits until it is ready.
    pub fn serve<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Server {
        self.start("serve", arguments)
    }

    /// Starts `host server` with these arguments on a free port, and waits until it is ready.
    pub fn server<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Server {
        self.start("server", arguments)
    }

    /// Like [`Host::server`], with blobs in `bucket` below `prefix`.
    pub fn server_with_bucket<'a>(
        &self,
        bucket: &Bucket,
        prefix: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Server {
        let mut command = self.command();
        command.envs(bucket.environment()).arg("--blobs").arg(bucket.url(prefix));
        start(command, "server", arguments)
    }

    /// Like [`Host::server`], with these variables.
    pub fn server_with_environment(&self, environment: &[(&str, &str)]) -> Server {
        let mut command = self.command();
        command.envs(environment.iter().copied());
        start(command, "server", [])
    }

    /// Like [`Host::server`], with the state on a file system of its own that holds `size`, as `8m`. Only the server sees
    /// it; others by [`Server::path`].
    pub fn server_on_small_disk(&self, size: &str) -> Server {
        let host = self.command();
        let mut command = Command::new("unshare");
        let script = r#"mount -t tmpfs -o size="$SIZE" none "$HOST_STATE_DIR" && exec "$@""#;
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(host.get_program());
        command.env_remove("HOST_DATABASE").env_remove("HOST_BLOBS").env("NO_COLOR", "1").env("SIZE", size);
        command.env("HOST_STATE_DIR", self.state_dir()).stdin(Stdio::null());
        start(command, "server", [])
    }

    fn start<'a>(&self, command: &str, arguments: impl IntoIterator<Item = &'a str>) -> Server {
        start(self.command(), command, arguments)
    }
}

fn start<'a>(mut host: Command, command: &str, arguments: impl IntoIterator<Item = &'a str>) -> Server {
    let mut child = host
        .args([command, "--port", "0", "--json"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    if line.is_empty() {
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        panic!("the server did not start: {stderr}");
    }
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address = ready["address"].as_str().unwrap().to_owned();
    Server { child, address, agent: agent() }
}

/// Removes a folder when this process has ended: what lies in a static is never dropped.
///
/// A shell waits for the end of its input, which comes when nobody holds the other end of the pipe any more.
fn remove_at_the_end(folder: &Path) {
    let shell = Command::new("sh")
        .args(["-c", "trap '' INT TERM; read -r nothing; rm -rf \"$0\""])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    std::mem::forget(shell.unwrap());
}

/// Kills a process and removes its folder when this process has ended, as [`remove_at_the_end`] does.
fn kill_at_the_end(process: u32, folder: &Path) {
    let shell = Command::new("sh")
        .args(["-c", "trap '' INT TERM; read -r nothing; kill -9 \"$1\"; sleep 1; rm -rf \"$0\""])
        .arg(folder)
        .arg(process.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    std::mem::forget(shell.unwrap());
}

/// Turns what the system says of a finished process into text.
pub fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The digest of `bytes`, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A client that keeps connections and treats every status as an answer.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    agent: ureq::Agent,
}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Server {
    /// Starts `host server` by a command that was made ready, and waits until it is too.
    pub fn start(command: Command) -> Self {
        start(command, "server", [])
    }

    /// Starts `host serve` by a command that was made ready, and waits until it is too.
    pub fn start_serve<'a>(command: Command, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        start(command, "serve", arguments)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Where the process finds `path`.
    pub fn path(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(path.strip_prefix("/").unwrap())
    }

    /// The most memory that the process ever held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Sends bytes as they are on a connection of their own, and reads until the server closes it.
    pub fn send_raw(&self, request: &[u8]) -> String {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a body.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let response = self.agent.post(format!("http://{}{path}", self.address)).send(body).unwrap();
        answer(response)
    }

    /// Sends a body with headers; also gives the headers of the answer.
    pub fn post_with_headers(
        &self,
        path: &str,
        body: &(impl AsRef<[u8]> + ?Sized),
        headers: &[(&str, &str)],
    ) -> (Answer, BTreeMap<String, String>) {
        let mut request = self.agent.post(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send(body.as_ref()).unwrap();
        let text = |value: &ureq::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers =
            response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        (answer(response), headers)
    }

    /// Asks for a page.
    pub fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(format!("http://{}{path}", self.address)).call().unwrap())
    }

    /// Sends a file.
    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        let response = self.agent.put(format!("http://{}{path}", self.address)).send(body).unwrap();
        answer(response)
    }

    /// Kills the process, which can do nothing about it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until so many rows are in the endpoint's window.
    pub fn wait_for_window(&self, rows: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/serve").json()["endpoints"][0]["window_rows"].as_u64().unwrap() < rows {
            assert!(Instant::now() < deadline, "the window was not written");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it takes no more connections, as it does once it has been told to stop.
    pub fn wait_until_it_refuses(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.address).is_ok() {
            assert!(Instant::now() < deadline, "the server still takes connections");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the process to stop, and waits until it has.
    pub fn stop(self) -> Ran {
        self.terminate();
        self.wait()
    }

    /// Asks the process to stop.
    pub fn terminate(&self) {
        self.send_signal("TERM");
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn send_signal(&self, name: &str) {
        let id = self.child.id().to_string();
        // The shell's own `kill`: small systems have no other.
        let killed = Command::new("sh").args(["-c", "kill -s \"$1\" \"$0\"", &id, name]).status().unwrap();
        assert!(killed.success());
    }

    /// Waits until the process has ended.
    pub fn wait(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server did not stop");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ran { code: status.code().unwrap_or(-1), stdout: String::new(), stderr }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let status = response.status().as_u16();
    Answer { status, body: response.body_mut().read_to_string().unwrap() }
}

/// The MNIST test images, 784 pixels each.
pub fn test_images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let file = Path::new(&mnist_files()).join("t10k-images-idx3-ubyte.gz");
        let unpacked = Command::new("gzip").arg("-dc").arg(file).output().unwrap();
        assert!(unpacked.status.success());
        unpacked.stdout.get(16..).unwrap().chunks(784).map(<[u8]>::to_vec).collect()
    })
}

/// A request's body for one image.
pub fn pixels_json(image: &[u8]) -> String {
    serde_json::json!({ "pixels": image }).to_string()
}

//! S3 of a test's own: SeaweedFS, in a temporary folder.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{PATIENCE, agent, kill_at_the_end, python};

/// Name of the bucket that every server has.
const BUCKET: &str = "tests";

/// The one key that every server knows.
const KEY: (&str, &str) = ("tests", "tests-secret");

/// A running S3 server; killed when dropped.
pub struct Bucket {
    folder: tempfile::TempDir,
    ports: Vec<u16>,
    server: Child,
}

impl Bucket {
    /// Starts a server with an empty bucket.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, secret) = KEY;
        let identity = serde_json::json!({ "identities": [{
            "name": "tests",
            "credentials": [{ "accessKey": key, "secretKey": secret }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(folder.path().join("s3.json"), identity.to_string()).unwrap();
        // Held together, so that they differ.
        let listeners: Vec<_> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let server = launch(&folder.path().to_path_buf(), &ports);
        let bucket = Self { folder, ports, server };
        bucket.wait_until_ready();
        let made = agent().post(bucket.file_url("")).send_empty().unwrap();
        assert!(made.status().is_success(), "the bucket was not made: {}", made.status());
        bucket
    }

    /// The server that tests share which leave it running; each uses a prefix of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Bucket> = OnceLock::new();
        SHARED.get_or_init(|| {
            let bucket = Self::start();
            kill_at_the_end(bucket.server.id(), bucket.folder.path());
            bucket
        })
    }

    /// The URL of a prefix in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// What a program must have in its environment to reach the server.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.ports[0])),
            ("AWS_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.1.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// Puts other bytes in place of an object, behind the back of S3.
    pub fn replace(&self, object: &str, bytes: &[u8]) {
        let replaced = agent().put(self.file_url(object)).send(bytes).unwrap();
        assert!(replaced.status().is_success(), "{}", replaced.status());
    }

    /// Kills the server, which can do nothing about it.
    pub fn stop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts it again, with what it had.
    pub fn restart(&mut self) {
        self.server = launch(&self.folder.path().to_path_buf(), &self.ports);
        self.wait_until_ready();
    }

    /// SeaweedFS keeps buckets as folders of its file server.
    fn file_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/buckets/{BUCKET}/{path}", self.ports[4])
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        let health = format!("http://127.0.0.1:{}/healthz", self.ports[0]);
        let files = format!("http://127.0.0.1:{}/", self.ports[4]);
        for url in [health, files] {
            while !agent().get(&url).call().is_ok_and(|answer| answer.status().is_success()) {
                assert!(Instant::now() < deadline, "SeaweedFS did not start");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn launch(folder: &PathBuf, ports: &[u16]) -> Child {
    let names = [
        "s3",
        "master",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
        "master.port.grpc",
        "s3.port.grpc",
    ];
    let mut command = Command::new(python().with_file_name("weed"));
    command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
    command.args([
        "-master.volumeSizeLimitMB=64",
        "-master.volumePreallocate=false",
        "-master.telemetry=false",
    ]);
    command.args([
        "-volume.max=64",
        "-volume.minFreeSpace=1",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
    ]);
    command.arg(format!("-dir={}", folder.display())).arg("-s3.config=s3.json");
    for (name, port) in names.iter().zip(ports) {
        let name = if name.contains(".port") { (*name).to_owned() } else { format!("{name}.port") };
        command.arg(format!("-{name}={port}"));
    }
    let log = std::fs::File::create(folder.join("log")).unwrap();
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("SeaweedFS is missing: run `cargo xtask setup`")
}

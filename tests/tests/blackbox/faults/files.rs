//! A server that may open few files.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use host_tests::{Host, Server};

/// Opens so many connections that ask once, get their answer and idle.
fn idle(server: &Server, count: usize) -> Vec<TcpStream> {
    let ask = |index| {
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut status = [0; 15];
        client.read_exact(&mut status).unwrap_or_else(|error| panic!("{index} waits: {error}"));
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        client
    };
    (0..count).map(ask).collect()
}

#[test]
fn connections_that_idle_make_room_where_few_files_may_be_open() {
    let host = Host::trained();
    let mut limited = Command::new("sh");
    let own = host.command();
    limited.args(["-c", "ulimit -n 128 && exec \"$@\"", "sh"]).arg(own.get_program());
    limited.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start_serve(limited, ["--model", "mnist"]);
    let clients = idle(&server, 150);
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.process_id())).unwrap().count();
    assert!(files < 128 - 16, "the server has no file left for itself: {files}");
    drop(clients);
    let told = server.stop().stderr;
    assert!(told.contains("connections at once"), "{told}");
    assert!(!told.contains("Too many open files"), "{told}");
}

#[test]
fn connections_that_idle_make_room_where_no_file_is_left() {
    let server = Host::trained().serve(["--model", "mnist"]);
    idle(&server, 1);
    let process = server.process_id().to_string();
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", files + 10);
    assert!(Command::new("prlimit").args(["--pid", &process, &limit]).status().unwrap().success());
    drop(idle(&server, 40));
    let stderr = server.stop().stderr;
    assert_eq!(stderr.matches("could not accept a connection").count(), 1, "{stderr}");
}

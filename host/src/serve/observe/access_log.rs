use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use opentelemetry::TraceId;
use serde_json::{Map, Value, json};

use super::{Client, Seen, SeenError, Told};

/// Lines that wait to be written; more are dropped, so that a slow disk holds up no request.
const WAITING_MAX: usize = 8_192;

/// Time between two looks whether the file was moved.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last lines may take when the server stops.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Longest path that is told.
const PATH_MAX_CHARS: usize = 500;

/// A file, or standard output, with a line of JSON for each request.
pub struct AccessLog {
    lines: SyncSender<Message>,
    /// Lines that were not written, for they were too many or the file took no more.
    dropped: Arc<AtomicU64>,
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the access log `{path}`")]
pub struct AccessLogError {
    path: String,
    #[source]
    source: std::io::Error,
}

enum Message {
    Line(String),
    /// The file may have been moved.
    Reopen,
    /// Everything before it is to be written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Appends to a file, which is made if it is not there, also after it was moved away; `-` is standard output.
    pub fn open(path: &Path) -> Result<Self, AccessLogError> {
        let failed = |source| AccessLogError { path: path.display().to_string(), source };
        let target = match path.as_os_str() == "-" {
            true => Target::new(Box::new(std::io::stdout()), None),
            false => {
                let (file, followed) = Followed::open(path).map_err(failed)?;
                Target::new(Box::new(file), Some(followed))
            }
        };
        let (lines, arriving) = sync_channel(WAITING_MAX);
        let writing = std::thread::Builder::new().name("access log".to_owned());
        let dropped = Arc::clone(&target.dropped);
        writing.spawn(move || write(target, &arriving)).map_err(failed)?;
        Ok(Self { lines, dropped })
    }

    pub(super) fn tell(&self, told: &Told<'_>, trace: Option<TraceId>) {
        if self.lines.try_send(Message::Line(line(told, trace).to_string())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks now whether the file was moved, and not only with a later line.
    pub(super) fn reopen(&self) {
        // Where there is no room there are lines, which look too.
        let _ = self.lines.try_send(Message::Reopen);
    }

    /// Waits until every line is written, as long as somebody takes them: a pipe that nobody reads must not keep the program.
    pub(super) fn finish(&self) {
        if !self.flush(Instant::now() + FINISH_MAX) {
            tracing::warn!(
                "the last lines of the access log could not be written within {} s",
                FINISH_MAX.as_secs()
            );
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "lines of the access log were not written");
        }
    }

    /// Whether all is written by `deadline`.
    fn flush(&self, deadline: Instant) -> bool {
        let (done, is_done) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.lines.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(unsent)) if Instant::now() < deadline => message = unsent,
                Err(TrySendError::Full(_)) => return false,
                // The thread has ended.
                Err(TrySendError::Disconnected(_)) => return true,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        !matches!(is_done.recv_timeout(left), Err(RecvTimeoutError::Timeout))
    }
}

/// Where lines go.
struct Target {
    lines: BufWriter<Box<dyn Write + Send>>,
    followed: Option<Followed>,
    /// Counts lines that are lost.
    dropped: Arc<AtomicU64>,
}

/// The file that lines go to, by its path: another one where whoever keeps logs short has moved it.
struct Followed {
    path: PathBuf,
    /// Device and number of the open one.
    file: (u64, u64),
    looked_at: Instant,
    /// Whether the file was moved and there is no other yet, since none can be made.
    is_away: bool,
}

impl Followed {
    fn open(path: &Path) -> std::io::Result<(File, Self)> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let known = file.metadata()?;
        let followed = Self {
            path: path.to_owned(),
            file: (known.dev(), known.ino()),
            looked_at: Instant::now(),
            is_away: false,
        };
        Ok((file, followed))
    }

    /// Whether another file, or none, is where the open one was.
    fn is_moved(&mut self, looks_now: bool) -> bool {
        if !looks_now && self.looked_at.elapsed() < LOOK_INTERVAL {
            return false;
        }
        self.looked_at = Instant::now();
        let there = std::fs::metadata(&self.path);
        let is_moved = there.map_or_else(
            |error| error.kind() == ErrorKind::NotFound,
            |there| (there.dev(), there.ino()) != self.file,
        );
        self.is_away &= is_moved;
        is_moved
    }
}

impl Target {
    fn new(lines: Box<dyn Write + Send>, followed: Option<Followed>) -> Self {
        Self { lines: BufWriter::new(lines), followed, dropped: Arc::default() }
    }

    /// Writes a line; one that finds no place is lost.
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let followed = self.follow(false);
        let written = writeln!(self.lines, "{line}");
        if written.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        followed.and(written)
    }

    /// Goes on in another file where the one before was moved.
    fn follow(&mut self, looks_now: bool) -> std::io::Result<()> {
        let Some(followed) = &mut self.followed else { return Ok(()) };
        if !followed.is_moved(looks_now) {
            return Ok(());
        }
        // What was told before belongs to the file before, which is let go of also where it takes no more: its disk may be full.
        let flushed = self.lines.flush();
        // The file before still takes lines where there is no other, and the next look tries again.
        let opened = Followed::open(&followed.path);
        followed.is_away = opened.is_err();
        let (file, followed) = opened?;
        if flushed.is_err() {
            self.give_up();
        }
        *self = Self {
            lines: BufWriter::new(Box::new(file)),
            followed: Some(followed),
            dropped: Arc::clone(&self.dropped),
        };
        flushed
    }

    /// Counts the lines that wait to be written as lost.
    fn give_up(&self) {
        let lines = self.lines.buffer().iter().filter(|byte| **byte == b'\n').count();
        self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.lines.flush()
    }

    /// Whether lines go to a file that was moved, since no other can be made.
    fn is_away(&self) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.is_away)
    }
}

fn write(mut target: Target, lines: &Receiver<Message>) {
    let mut is_broken = false;
    loop {
        let message = match lines.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                is_broken = report(target.flush(), is_broken) || target.is_away();
                let Ok(message) = lines.recv() else { return };
                message
            }
        };
        match message {
            // What is only buffered is not written yet, and says nothing of whether it can be.
            Message::Line(line) => is_broken |= report(target.write(&line), is_broken),
            Message::Reopen => is_broken |= report(target.follow(true), is_broken),
            // Which comes last.
            Message::Flush(done) => {
                is_broken = report(target.flush(), is_broken) || target.is_away();
                if is_broken {
                    target.give_up();
                }
                let _ = done.send(());
            }
        }
    }
}

/// Tells once that the log cannot be written, until it can be again.
fn report(written: std::io::Result<()>, was_broken: bool) -> bool {
    if let Err(error) = &written
        && !was_broken
    {
        tracing::error!(%error, "the access log cannot be written");
    }
    written.is_err()
}

/// The line of a request.
fn line(told: &Told<'_>, trace: Option<TraceId>) -> Value {
    let started_at: DateTime<Utc> = told.started_at.into();
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            line.insert(name.to_owned(), value);
        }
    };
    put("time", json!(started_at.to_rfc3339_opts(SecondsFormat::Micros, true)));
    put("client", json!(told.client.map(|Client(address)| address.ip().to_canonical())));
    put("trace", json!(trace.map(|trace| trace.to_string())));
    put("method", json!(told.method));
    put("path", json!(told.path.chars().take(PATH_MAX_CHARS).collect::<String>()));
    put("status", json!(told.status));
    put("grpc_status", json!(told.call.and_then(|call| call.status)));
    put("duration_us", json!(told.micros));
    put("request_bytes", json!(told.request_bytes));
    put("response_bytes", json!(told.response_bytes));
    put("requests", json!(told.requests));
    put("error", json!(told.error.map(|error| error.code.as_str())));
    put("message", json!(told.error.map(SeenError::line)));
    if let Some(asked) = told.seen.and_then(|seen| seen.asked.as_ref()) {
        put("endpoint", json!(asked.endpoint));
        put("version", json!(told.seen.and_then(Seen::version)));
        put("bundle", json!(told.seen.and_then(Seen::bundle)));
    }
    if let Some(answer) = told.seen.and_then(|seen| seen.answered.as_ref()) {
        put("prediction", json!(answer.prediction));
        put("rows", json!(answer.rows));
        put("cached", json!(answer.is_cached));
        let micros =
            answer.times.stages().map(|(stage, time)| (stage.to_owned(), json!(time.as_micros() as u64)));
        put("stages_us", Value::Object(micros.into_iter().collect()));
    }
    Value::Object(line)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_request_is_a_line_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.jsonl");
        let message = format!("there is no\nroute {}", "x".repeat(1_000));
        let error = SeenError { code: super::super::ErrorCode::NotFound, message: message.into() };
        let told = Told {
            client: Some(Client(([192, 0, 2, 1], 80).into())),
            method: "GET",
            path: "/a\n\"b",
            route: None,
            status: 404,
            started_at: SystemTime::UNIX_EPOCH,
            micros: 12,
            request_bytes: Some(0),
            response_bytes: None,
            requests: None,
            seen: None,
            error: Some(&error),
            call: None,
        };
        for _ in 0..2 {
            // The second appends to what the first has written.
            let log = AccessLog::open(&path).unwrap();
            log.tell(&told, Some(TraceId::from(10)));
            log.finish();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({
            "time": "1970-01-01T00:00:00.000000Z",
            "client": "192.0.2.1",
            "trace": "0000000000000000000000000000000a",
            "method": "GET",
            "path": "/a\n\"b",
            "status": 404,
            "duration_us": 12,
            "request_bytes": 0,
            "error": "not_found",
            "message": format!("there is no route {}", "x".repeat(282)),
        });
        assert_eq!(lines, [expected.clone(), expected]);
        let error = AccessLog::open(folder.path()).err().unwrap();
        assert!(error.to_string().starts_with("failed to open the access log `"), "{error}");
    }

    #[test]
    fn a_file_that_is_moved_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.jsonl"), folder.path().join("access.jsonl.1"));
        let (file, followed) = Followed::open(&path).unwrap();
        let mut target = Target::new(Box::new(file), Some(followed));
        let look_in = |seconds: u64, target: &mut Target| {
            let last = Instant::now().checked_sub(LOOK_INTERVAL).unwrap();
            target.followed.as_mut().unwrap().looked_at = last + Duration::from_secs(seconds);
        };
        let look = |target: &mut Target| look_in(0, target);
        target.write("first").unwrap();
        look(&mut target);
        target.write("second").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        look_in(3_600, &mut target);
        target.write("not looked yet").unwrap();
        look(&mut target);
        target.write("third").unwrap();
        // Another has taken its place.
        std::fs::rename(&path, folder.path().join("access.jsonl.2")).unwrap();
        std::fs::write(&path, "theirs\n").unwrap();
        look(&mut target);
        target.write("fourth").unwrap();
        target.flush().unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&moved), "first\nsecond\nnot looked yet\n");
        assert_eq!(read(&folder.path().join("access.jsonl.2")), "third\n");
        assert_eq!(read(&path), "theirs\nfourth\n");
        // Where it cannot be made, that is an error, and the line goes where those before it are.
        let again = folder.path().join("access.jsonl.3");
        std::fs::rename(&path, &again).unwrap();
        std::fs::create_dir(&path).unwrap();
        look(&mut target);
        assert!(target.write("not made").is_err());
        std::fs::remove_dir(&path).unwrap();
        look(&mut target);
        target.write("fifth").unwrap();
        target.flush().unwrap();
        assert_eq!(
            (read(&again), read(&path)),
            ("theirs\nfourth\nnot made\n".to_owned(), "fifth\n".to_owned())
        );
        // One whose disk is full is let go of all the same.
        let (_, followed) = Followed::open(&path).unwrap();
        let mut target = Target::new(Box::new(Full), Some(followed));
        target.write("of no use").unwrap();
        std::fs::remove_file(&path).unwrap();
        look(&mut target);
        assert!(target.write("sixth").is_err(), "what could not be written is told");
        target.flush().unwrap();
        assert_eq!(read(&path), "sixth\n");
        assert_eq!(target.dropped.load(Ordering::Relaxed), 1, "what the file before did not take is lost");
    }

    /// A disk that is full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn that_the_disk_is_full_is_told_once() {
        let (kept, subscriber) = Kept::subscriber();
        let (lines, waiting) = sync_channel(64);
        for _ in 0..8 {
            lines.send(Message::Line("{}".to_owned())).unwrap();
            lines.send(Message::Flush(sync_channel(1).0)).unwrap();
        }
        drop(lines);
        tracing::subscriber::with_default(subscriber, || write(Target::new(Box::new(Full), None), &waiting));
        let told = kept.text();
        assert_eq!(told.matches("the access log cannot be written").count(), 1, "{told}");
    }

    #[test]
    fn that_the_folder_is_away_is_told_once_until_it_is_back() {
        let (kept, subscriber) = Kept::subscriber();
        let folder = tempfile::tempdir().unwrap();
        let (logs, away) = (folder.path().join("logs"), folder.path().join("away"));
        std::fs::create_dir(&logs).unwrap();
        let (file, followed) = Followed::open(&logs.join("access.jsonl")).unwrap();
        let target = Target::new(Box::new(file), Some(followed));
        let (lines, waiting) = sync_channel(64);
        let writing = std::thread::spawn(move || {
            tracing::subscriber::with_default(subscriber, || write(target, &waiting));
        });
        let look = || {
            let (done, is_done) = sync_channel(1);
            lines.send(Message::Reopen).unwrap();
            lines.send(Message::Flush(done)).unwrap();
            is_done.recv().unwrap();
        };
        for _ in 0..2 {
            std::fs::rename(&logs, &away).unwrap();
            (0..3).for_each(|_| look());
            std::fs::rename(&away, &logs).unwrap();
            (0..3).for_each(|_| look());
        }
        drop(lines);
        writing.join().unwrap();
        let told = kept.text();
        assert_eq!(told.matches("the access log cannot be written").count(), 2, "{told}");
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted() {
        let target = Target::new(Box::new(Full), None);
        let (dropped, (lines, waiting)) = (Arc::clone(&target.dropped), sync_channel(2_048));
        // More than wait in memory.
        for _ in 0..1_000 {
            lines.send(Message::Line("0123456789abcdef".to_owned())).unwrap();
        }
        lines.send(Message::Flush(sync_channel(1).0)).unwrap();
        drop(lines);
        write(target, &waiting);
        assert_eq!(dropped.load(Ordering::Relaxed), 1_000);
    }

    /// What was told, in memory.
    #[derive(Clone, Default)]
    pub(in crate::serve) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        /// Keeps what is told to the subscriber.
        pub(in crate::serve) fn subscriber() -> (Self, impl tracing::Subscriber + Send + Sync) {
            let kept = Self::default();
            let writer = kept.clone();
            let told = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
            (kept, told.finish())
        }

        pub(in crate::serve) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}

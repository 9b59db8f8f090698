//! Standard error. Servers write it from a thread of its own: a pipe that nobody reads would hold up whoever writes to it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes that may wait to be written; what comes beyond them is dropped and counted.
const WAITING_MAX_BYTES: usize = 4 << 20;

/// Longest that the program's end waits for what is still to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

static BACKGROUND: OnceLock<Background> = OnceLock::new();

/// Texts that a thread writes.
struct Background {
    messages: Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Text(Vec<u8>),
    /// Tells when all before it is written.
    Flush(SyncSender<()>),
}

/// Writes from a thread from now on.
pub(in crate::cli) fn write_from_a_thread() -> io::Result<()> {
    if BACKGROUND.get().is_none() {
        // Not by way of the standard library, which has a lock that panics wait for.
        let target = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        // Of two that start at once the one that is too late has nothing to write.
        _ = BACKGROUND.set(Background::start(target)?);
    }
    Ok(())
}

/// Writes `text`, which is one message or several, as a whole.
pub(super) fn write(text: &[u8]) {
    match BACKGROUND.get() {
        Some(background) => background.offer(text),
        // Nothing can be done where even standard error is gone.
        None => _ = io::stderr().lock().write_all(text),
    }
}

/// Waits until all is written, but not for ever.
pub(in crate::cli) fn flush() {
    if let Some(background) = BACKGROUND.get() {
        background.flush(FLUSH_MAX);
    }
}

/// Where the log is written: an event at a time.
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        write(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Background {
    fn start(target: impl Write + Send + 'static) -> io::Result<Self> {
        let (messages, arriving) = channel();
        let counts = Arc::new(Counts::default());
        let known = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("standard error".to_owned())
            .spawn(move || write_all(target, &arriving, &known))?;
        Ok(Self { messages, counts })
    }

    fn offer(&self, text: &[u8]) {
        let before = self.counts.waiting_bytes.fetch_add(text.len(), Ordering::Relaxed);
        let is_too_much = before.saturating_add(text.len()) > WAITING_MAX_BYTES;
        if is_too_much || self.messages.send(Message::Text(text.to_vec())).is_err() {
            self.counts.waiting_bytes.fetch_sub(text.len(), Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, at_most: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.messages.send(Message::Flush(done)).is_ok() {
            _ = is_done.recv_timeout(at_most);
        }
    }
}

fn write_all(mut target: impl Write, messages: &Receiver<Message>, counts: &Counts) {
    for message in messages {
        match message {
            Message::Text(text) => {
                _ = target.write_all(&text);
                counts.waiting_bytes.fetch_sub(text.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => _ = done.send(()),
        }
        match counts.dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            dropped => _ = writeln!(target, "warning: {dropped} messages were dropped: nobody has read them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes nothing before it is told to.
    struct Gate {
        open: Receiver<()>,
        is_open: bool,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                self.open.recv().unwrap();
                self.is_open = true;
            }
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_writes_waits_for_nobody_and_what_is_too_much_is_told() {
        let (let_in, open) = channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { open, is_open: false, taken: Arc::clone(&taken) };
        let background = Background::start(gate).unwrap();
        let text = vec![b'x'; WAITING_MAX_BYTES / 4];
        (0..7).for_each(|_| background.offer(&text));
        background.flush(Duration::from_millis(1));
        assert!(taken.lock().unwrap().is_empty());
        let_in.send(()).unwrap();
        background.flush(Duration::from_secs(60));
        background.offer(b"more\n");
        background.flush(Duration::from_secs(60));
        let taken = taken.lock().unwrap();
        let told = String::from_utf8_lossy(&taken[4 * text.len()..]).into_owned();
        let (before, after) = ("warning: 3 messages were dropped", "more\n");
        assert!(taken.starts_with(&text) || taken.starts_with(b"x"), "the first is written");
        assert!(told.contains(after), "{told}");
        assert!(String::from_utf8_lossy(&taken).contains(before));
        assert_eq!(taken.iter().filter(|&&byte| byte == b'x').count(), 4 * text.len());
    }
}

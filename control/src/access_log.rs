//! The access log's writer: takes finished records from the workers, formats and writes them on a
//! thread of its own, in batches.
//!
//! Each worker has a [`Sink`]: two bounded queues of its own, one with finished records towards the
//! writer, one with empty records back. Workers share nothing with each other here, and once the
//! records' buffers have grown to size nothing is allocated. When the writer cannot keep up, the
//! queue is full and the record is dropped and counted: a stuck output never blocks a worker.
//!
//! Lines of one worker keep their order; between workers the order is that of the batches. A line
//! is written no later than [`FLUSH_WITHIN`] after its record was pushed, unless the output holds
//! the writer up.
//!
//! The writer knows nothing of what a record is: `R` comes with a function that appends its line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

/// Finished records that may wait, per worker: 10 ms of a worker at 200,000 requests per second.
/// As many records are ever made, give or take the one in the writer's hands, since a new one is
/// made only when all others wait or are being written.
const RECORDS_MAX: usize = 2048;
/// A worker wakes the writer after so many records, before [`FLUSH_WITHIN`] is over.
const RECORDS_PER_WAKE: u32 = 256;
/// A batch is written when it has so many bytes, or nothing more is waiting.
const BATCH_BYTES: usize = 64 * 1024;
/// The longest that a finished record waits for the writer.
const FLUSH_WITHIN: Duration = Duration::from_millis(100);
/// How often a full non-blocking output is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);
/// How long [`AccessLog::shutdown`] waits for an output that is stuck.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

/// Where the lines go; the words of the config key `access_log.output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
    /// Appended to, made if it is not there.
    File(PathBuf),
    /// Thrown away.
    Nowhere,
}

impl Output {
    fn open(&self) -> io::Result<File> {
        match self {
            Output::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Output::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
            Output::Nowhere => OpenOptions::new().write(true).open("/dev/null"),
            Output::File(path) => open_file(path).map_err(|error| {
                let hint = hint(error.kind());
                let text = format!("cannot open {}: {error}{hint}", path.display());
                io::Error::new(error.kind(), text)
            }),
        }
    }
}

/// A pipe is opened for reading too: to open one only for writing would wait until somebody reads.
fn open_file(path: &Path) -> io::Result<File> {
    let is_pipe = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    OpenOptions::new().append(true).create(true).read(is_pipe).open(path)
}

/// What to do, by the kind of failure.
fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "; make the folder first",
        ErrorKind::PermissionDenied => "; this user may not write there",
        ErrorKind::IsADirectory => "; that is a folder: name a file in it",
        ErrorKind::NotADirectory => "; a part of the path is a file, not a folder",
        ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written to",
        _ => "",
    }
}

/// The running writer. Dropping it leaves the thread to end with the process: call
/// [`AccessLog::shutdown`].
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// One worker's end of the access log.
#[derive(Debug)]
pub struct Sink<R> {
    lane: Arc<Lane<R>>,
    shared: Arc<Shared>,
    writer: Thread,
    /// Since this sink last woke the writer; below [`RECORDS_PER_WAKE`].
    pushed: u32,
}

/// The two queues between one worker and the writer.
#[derive(Debug)]
struct Lane<R> {
    finished: ArrayQueue<R>,
    empty: ArrayQueue<R>,
}

/// What the writer shares with all others. Workers read `asleep` and write nothing here but when
/// the writer sleeps or a record is lost.
#[derive(Debug)]
struct Shared {
    /// The writer waits without a time limit: whoever pushes must wake it.
    asleep: AtomicBool,
    /// Write what is there and end.
    ending: AtomicBool,
    dropped: AtomicU64,
    /// The file to go on with, after [`AccessLog::redirect`].
    reopened: Mutex<Option<File>>,
}

impl AccessLog {
    /// Opens the output and starts the writer, with one sink for each worker. `format` appends a
    /// record's line, newline included.
    ///
    /// # Errors
    /// The output cannot be opened, or the thread not be made.
    pub fn start<R: Default + Send + 'static>(
        output: &Output,
        workers: usize,
        format: fn(&R, &mut Vec<u8>),
    ) -> io::Result<(AccessLog, Vec<Sink<R>>)> {
        let file = output.open()?;
        let lane =
            || Lane { finished: ArrayQueue::new(RECORDS_MAX), empty: ArrayQueue::new(RECORDS_MAX) };
        let lanes: Vec<Arc<Lane<R>>> = (0..workers).map(|_| Arc::new(lane())).collect();
        let shared = Arc::new(Shared {
            asleep: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            reopened: Mutex::new(None),
        });
        let writer = Writer {
            lanes: lanes.clone(),
            shared: shared.clone(),
            format,
            file,
            batch: Vec::with_capacity(BATCH_BYTES),
            torn: false,
            give_up_at: None,
        };
        let name = "access-log".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || writer.run())?;
        let sink = |lane| Sink {
            lane,
            shared: shared.clone(),
            writer: thread.thread().clone(),
            pushed: 0,
        };
        let sinks = lanes.into_iter().map(sink).collect();
        Ok((AccessLog { shared, thread }, sinks))
    }

    /// How many records were lost since the start: the queue was full, or the output failed.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Goes on with another output, or with the same file opened anew, for after a rotation (SIGUSR1).
    /// What was pushed before goes to either.
    ///
    /// # Errors
    /// It cannot be opened; then the old one stays in use.
    pub fn redirect(&self, output: &Output) -> io::Result<()> {
        let file = output.open()?;
        *self.shared.reopened.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        self.thread.thread().unpark();
        Ok(())
    }

    /// Writes what was pushed until now and ends the writer. An output that stays stuck for 2 s is
    /// left alone, and what could not be written is lost; `false` says so.
    pub fn shutdown(self) -> bool {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        let deadline = Instant::now() + SHUTDOWN_WITHIN;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(RETRY_AFTER);
        }
        self.thread.join().is_ok()
    }
}

impl<R: Default> Sink<R> {
    /// Hands over one record, filled in by `fill`; `false` if it was dropped. The record that
    /// `fill` gets has been used before: every field of it has to be set.
    pub fn push(&mut self, fill: impl FnOnce(&mut R)) -> bool {
        if self.lane.finished.is_full() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            self.wake();
            return false;
        }
        let mut record = self.lane.empty.pop().unwrap_or_default();
        fill(&mut record);
        // There is room: only this worker pushes here.
        let pushed = self.lane.finished.push(record).is_ok();
        debug_assert!(pushed);
        self.wake_if_due();
        pushed
    }

    fn wake_if_due(&mut self) {
        self.pushed += 1;
        // The record must be seen to be there before `asleep` is read; the writer does the same
        // the other way round, so one of the two notices.
        fence(Ordering::SeqCst);
        if self.pushed >= RECORDS_PER_WAKE || self.shared.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.pushed = 0;
        self.shared.asleep.store(false, Ordering::Relaxed);
        self.writer.unpark();
    }
}

/// The thread's own state.
struct Writer<R> {
    lanes: Vec<Arc<Lane<R>>>,
    shared: Arc<Shared>,
    format: fn(&R, &mut Vec<u8>),
    file: File,
    /// Formatted lines that are not written yet; whole lines only.
    batch: Vec<u8>,
    /// The last write ended within a line.
    torn: bool,
    /// Set at the end, so that a full non-blocking output does not hold us for ever.
    give_up_at: Option<Instant>,
}

impl<R> Writer<R> {
    fn run(mut self) {
        loop {
            // Read before the queues are emptied: what was pushed before the end is written.
            let ending = self.shared.ending.load(Ordering::SeqCst);
            if ending && self.give_up_at.is_none() {
                self.give_up_at = Some(Instant::now() + SHUTDOWN_WITHIN);
            }
            self.take_reopened();
            let wrote = self.write_all_waiting();
            match (ending, wrote) {
                (true, false) => return,
                (true, true) => {}
                (false, true) => thread::park_timeout(FLUSH_WITHIN),
                (false, false) => self.sleep(),
            }
        }
    }

    /// Waits, for as long as it takes, for somebody to wake us.
    fn sleep(&self) {
        self.shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.lanes.iter().all(|lane| lane.finished.is_empty());
        if idle && !self.shared.ending.load(Ordering::SeqCst) {
            thread::park();
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    fn take_reopened(&mut self) {
        let mut reopened = self.shared.reopened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = reopened.take() {
            self.file = file;
            self.torn = false;
        }
    }

    /// Whether there was anything.
    fn write_all_waiting(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.lanes.len() {
            let lane = self.lanes[index].clone();
            // At most one queue's worth, so that one busy worker does not keep the others waiting.
            for _ in 0..RECORDS_MAX {
                let Some(record) = lane.finished.pop() else { break };
                any = true;
                (self.format)(&record, &mut self.batch);
                // Full only if the worker has made more records than the queue holds: let it go.
                let _ = lane.empty.push(record);
                if self.batch.len() >= BATCH_BYTES {
                    self.write_batch();
                }
            }
        }
        self.write_batch();
        any
    }

    /// Writes the batch, or counts the lines of it that could not be written as dropped.
    fn write_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        let (written, torn) = self.write(&batch);
        let lost = batch[written..].iter().filter(|byte| **byte == b'\n').count();
        self.shared.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        self.torn = torn;
        batch.clear();
        self.batch = batch;
    }

    /// How many bytes of `lines` the output took, and whether that ended within a line.
    fn write(&mut self, lines: &[u8]) -> (usize, bool) {
        // A line that was cut short must not run into the next one.
        if self.torn && !lines.is_empty() && self.write_some(b"\n").is_err() {
            return (0, true);
        }
        let mut written = 0;
        while written < lines.len() {
            match self.write_some(&lines[written..]) {
                Ok(count) => written += count,
                Err(_) => return (written, written > 0 && lines[written - 1] != b'\n'),
            }
        }
        (written, false)
    }

    /// One write that took at least a byte. A full non-blocking output (a pipe shared with a
    /// program that made it so) is waited for, except beyond the end.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.gives_up() => {
                    thread::sleep(RETRY_AFTER);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn gives_up(&mut self) -> bool {
        if self.give_up_at.is_none() && self.shared.ending.load(Ordering::SeqCst) {
            self.give_up_at = Some(Instant::now() + SHUTDOWN_WITHIN);
        }
        self.give_up_at.is_some_and(|at| Instant::now() >= at)
    }
}

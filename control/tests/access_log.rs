//! The access log's writer, with records that are plain text.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use control::{AccessLog, Output, Sink};

type Record = Vec<u8>;

fn line(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(record);
    out.push(b'\n');
}

/// An empty folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("access-log").join(test);
    // It is there from the last run, or not yet.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn start(path: &Path, workers: usize) -> (AccessLog, Vec<Sink<Record>>) {
    AccessLog::start(&Output::File(path.to_path_buf()), workers, line).unwrap()
}

fn push(sink: &mut Sink<Record>, text: &str) -> bool {
    sink.push(|record| {
        record.clear();
        record.extend_from_slice(text.as_bytes());
    })
}

/// Waits until the file holds `expected`.
#[track_caller]
fn comes_to_hold(path: &Path, expected: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(path).unwrap_or_default() != expected {
        assert!(Instant::now() < deadline, "{:?}", fs::read_to_string(path));
        thread::sleep(Duration::from_millis(5));
    }
}

/// A named pipe that nobody reads until the test does: what a stuck output looks like.
fn pipe(test: &str) -> PathBuf {
    let path = folder(test).join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn every_worker_keeps_its_order_and_the_end_flushes() {
    let path = folder("order").join("access.log");
    let (log, sinks) = start(&path, 3);
    let worker = |(number, mut sink): (usize, Sink<Record>)| {
        thread::spawn(move || {
            for count in 0..20_000 {
                // What a worker never does: here every record has to arrive.
                while !push(&mut sink, &format!("{number} {count}")) {
                    thread::yield_now();
                }
            }
        })
    };
    let workers: Vec<_> = sinks.into_iter().enumerate().map(worker).collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert!(log.shutdown());
    let mut next = [0; 3];
    for line in BufReader::new(File::open(path).unwrap()).lines() {
        let line = line.unwrap();
        let (number, count) = line.split_once(' ').unwrap();
        let next = &mut next[number.parse::<usize>().unwrap()];
        assert_eq!(count.parse::<usize>().unwrap(), *next);
        *next += 1;
    }
    assert_eq!(next, [20_000; 3]);
}

#[test]
fn a_single_record_does_not_wait_for_more() {
    let path = folder("single").join("access.log");
    let (log, mut sinks) = start(&path, 2);
    let mut expected = String::new();
    for round in 0..3 {
        let begin = Instant::now();
        assert!(push(&mut sinks[1], "here"));
        expected.push_str("here\n");
        comes_to_hold(&path, &expected);
        // Promised are 100 ms; the rest is for a machine that is busy with other tests.
        assert!(begin.elapsed() < Duration::from_secs(1), "round {round}");
        // Long enough for the writer to fall asleep.
        thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(log.dropped(), 0);
    assert!(log.shutdown());
}

#[test]
fn records_come_back_to_be_used_again() {
    let path = folder("recycle").join("access.log");
    let (log, mut sinks) = start(&path, 1);
    assert!(push(&mut sinks[0], "a record with a buffer of some size"));
    comes_to_hold(&path, "a record with a buffer of some size\n");
    let mut capacity = 0;
    sinks[0].push(|record| {
        capacity = record.capacity();
        record.clear();
    });
    assert!(capacity >= 35, "{capacity}");
    assert!(log.shutdown());
}

#[test]
fn a_stuck_output_drops_and_counts_but_never_blocks() {
    let path = pipe("stuck");
    // Open for reading and writing, so that opening the other end does not wait for a reader.
    let mut reader = File::options().read(true).write(true).open(&path).unwrap();
    let (log, mut sinks) = start(&path, 1);
    let text = "x".repeat(99);
    let begin = Instant::now();
    let taken = (0..50_000).filter(|_| push(&mut sinks[0], &text)).count();
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert!(taken < 50_000);
    assert_eq!(log.dropped(), 50_000 - taken as u64);

    // When the output moves again, all that was taken arrives, in whole lines.
    let read = thread::spawn(move || {
        let mut all = vec![0; taken * 100];
        reader.read_exact(&mut all).unwrap();
        all
    });
    assert!(log.shutdown());
    let all = read.join().unwrap();
    assert!(all.chunks(100).all(|line| line == format!("{text}\n").as_bytes()));
}

#[test]
fn an_output_that_stays_stuck_does_not_hold_the_end() {
    let path = pipe("end");
    let _reader = File::options().read(true).write(true).open(&path).unwrap();
    let (log, mut sinks) = start(&path, 1);
    while push(&mut sinks[0], &"x".repeat(999)) {}
    let begin = Instant::now();
    assert!(!log.shutdown());
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_rotated_file_is_made_anew() {
    let path = folder("rotate").join("access.log");
    let rotated = path.with_extension("log.1");
    let (log, mut sinks) = start(&path, 1);
    assert!(push(&mut sinks[0], "before"));
    comes_to_hold(&path, "before\n");
    fs::rename(&path, &rotated).unwrap();
    log.redirect(&Output::File(path.clone())).unwrap();
    assert!(push(&mut sinks[0], "after"));
    comes_to_hold(&path, "after\n");
    assert_eq!(fs::read_to_string(rotated).unwrap(), "before\n");
    assert!(log.shutdown());
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let folder = folder("gone");
    let (here, moved) = (folder.join("here"), folder.join("moved"));
    fs::create_dir(&here).unwrap();
    let (log, mut sinks) = start(&here.join("access.log"), 1);
    fs::rename(&here, &moved).unwrap();
    let error = log.redirect(&Output::File(here.join("access.log"))).unwrap_err();
    assert!(error.to_string().contains("make the folder first"), "{error}");
    assert!(push(&mut sinks[0], "still"));
    comes_to_hold(&moved.join("access.log"), "still\n");
    assert!(log.shutdown());
}

#[test]
fn a_full_disk_is_counted() {
    let (log, mut sinks) = start(Path::new("/dev/full"), 1);
    for _ in 0..10 {
        assert!(push(&mut sinks[0], "lost"));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while log.dropped() < 10 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(log.dropped(), 10);
    assert!(log.shutdown());
}

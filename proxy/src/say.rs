//! What the process says to whoever started it: one line per fact, on standard error.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Facts of workers that wait to be written; what is more is left out.
const WAITING_MAX: usize = 64;

/// Says a fact. That nobody listens any more is no reason to stop, as `eprintln` would.
pub fn say(fact: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "ringside: {fact}");
}

/// Says a fact without waiting for whoever reads it: what a worker has to say is written by a thread
/// of its own, since a pipe that nobody empties would hold up all that the worker serves.
pub fn say_aside(fact: fmt::Arguments<'_>) {
    static WRITER: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    let writer = WRITER.get_or_init(|| {
        let (sender, facts) = sync_channel::<String>(WAITING_MAX);
        let write = move || facts.iter().for_each(|fact| say(format_args!("{fact}")));
        thread::Builder::new().name("say".to_owned()).spawn(write).ok().map(|_| sender)
    });
    if let Some(writer) = writer {
        let _ = writer.try_send(fact.to_string());
    }
}

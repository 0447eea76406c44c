//! The process' access log: begun, moved and silenced as configs ask for it.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use config::LogOutput;
use control::{AccessLog, Output, Sink};

use crate::telemetry::access::AccessRecord;

/// The access log, as far as there is one.
pub struct AccessWriter {
    workers: usize,
    running: Mutex<Option<Running>>,
}

/// Once begun it stays: without a config that wants it, it has nothing to write, and no file.
struct Running {
    log: AccessLog,
    output: Output,
}

impl AccessWriter {
    /// For so many workers.
    pub fn new(workers: usize) -> AccessWriter {
        AccessWriter { workers, running: Mutex::default() }
    }

    /// Opens what a config asks for. Where the log begins, each worker has to be given one of the sinks
    /// that come back.
    ///
    /// # Errors
    /// It cannot be opened; all is as it was.
    pub fn follow(
        &self,
        wanted: Option<&config::AccessLog>,
    ) -> io::Result<Vec<Sink<AccessRecord>>> {
        let mut running = self.running();
        let output = wanted.map_or(Output::Nowhere, |wanted| output(&wanted.output));
        match &mut *running {
            None if wanted.is_none() => Ok(Vec::new()),
            None => {
                let start = AccessLog::start(&output, self.workers, AccessRecord::write_json);
                let (log, sinks) = start?;
                *running = Some(Running { log, output });
                Ok(sinks)
            }
            Some(same) if same.output == output => Ok(Vec::new()),
            Some(other) => {
                other.log.redirect(&output)?;
                other.output = output;
                Ok(Vec::new())
            }
        }
    }

    /// Opens the file again, for after a rotation.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        match &*self.running() {
            Some(running) => running.log.redirect(&running.output),
            None => Ok(()),
        }
    }

    /// How many records were lost since the start; `None` where there was never a log.
    pub fn dropped(&self) -> Option<u64> {
        self.running().as_ref().map(|running| running.log.dropped())
    }

    /// Writes what is there and ends.
    pub fn shutdown(&self) {
        if let Some(running) = self.running().take() {
            // One that is stuck ends with the process.
            running.log.shutdown();
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn output(wanted: &LogOutput) -> Output {
    match wanted {
        LogOutput::Stdout => Output::Stdout,
        LogOutput::Stderr => Output::Stderr,
        LogOutput::File(path) => Output::File(path.clone()),
    }
}

//! Notices that config files may have changed.
//!
//! The folders are watched, not the files: an editor renames, `mv` replaces, and Kubernetes swaps the
//! symlink `..data` beside the file. What changed is not asked; whoever listens reads and compares.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};

/// A change is often several: so long it has to be quiet.
const SETTLE: Duration = Duration::from_millis(100);
/// Somebody who writes all the time is read this often.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether a folder that is gone is back.
const LOOK: Duration = Duration::from_secs(1);

/// Watches the folders of some files.
pub(crate) struct Watch {
    folders: HashSet<PathBuf>,
    events: EventStream<[u8; 4096]>,
    /// Those that could not be watched when they were tried last.
    missing: HashSet<PathBuf>,
}

impl Watch {
    /// # Errors
    /// The kernel has no watch left for us.
    pub(crate) fn new(files: &[PathBuf]) -> io::Result<Watch> {
        let folders: HashSet<PathBuf> = files.iter().map(|file| folder_of(file)).collect();
        let events = Inotify::init()?.into_event_stream([0; 4096])?;
        let mut watch = Watch { missing: folders.clone(), folders, events };
        watch.add_missing()?;
        Ok(watch)
    }

    /// Waits until something in a folder has changed, and for a moment after that.
    pub(crate) async fn changed(&mut self) {
        if self.missing.is_empty() {
            self.event().await;
        } else {
            // Whatever comes first: an event elsewhere, or the folder.
            let _ = timeout(LOOK, self.event()).await;
            let before = self.missing.len();
            // It is tried again after the next look.
            let _ = self.add_missing();
            if self.missing.len() == before {
                return;
            }
        }
        let settled = async { while timeout(SETTLE, self.event()).await.is_ok() {} };
        let _ = timeout(SETTLE_MAX, settled).await;
    }

    async fn event(&mut self) {
        let next = std::future::poll_fn(|cx| Pin::new(&mut self.events).poll_next(cx)).await;
        match next {
            Some(Ok(event)) if event.mask.contains(EventMask::IGNORED) => {
                // The folder is gone, or another one in its place.
                self.missing = self.folders.clone();
            }
            Some(Ok(_)) => {}
            // Not to spin where the kernel says nothing useful.
            Some(Err(_)) | None => sleep(LOOK).await,
        }
    }

    fn add_missing(&mut self) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut result = Ok(());
        let mut watches = self.events.watches();
        self.missing.retain(|folder| match watches.add(folder, mask) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                result = Err(error);
                true
            }
        });
        result
    }
}

/// The folder that a path is in; a folder is its own.
fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

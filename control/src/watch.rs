//! Notices that config files may have changed.
//!
//! The folders are watched, not the files: an editor renames, `mv` replaces, Kubernetes swaps the
//! symlink `..data` beside the file, and a deployment the symlink `current` far above it. So it is
//! every folder that a path leads through, by way of its symlinks, and in each the one name that it
//! leads through. What changed is not asked; whoever listens reads and compares.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{sleep, timeout};

/// A change is often several: so long it has to be quiet.
const SETTLE: Duration = Duration::from_millis(100);
/// Somebody who writes all the time is read this often.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Not to spin where the kernel says nothing useful.
const PAUSE: Duration = Duration::from_secs(1);
/// As many as Linux follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Symlinks in a folder of configs that are followed.
const ENTRIES_MAX: usize = 1_000;

/// Watches what some paths lead through.
pub(crate) struct Watch {
    paths: Vec<PathBuf>,
    events: EventStream<[u8; 4096]>,
    watched: HashMap<WatchDescriptor, Names>,
}

/// The names in a folder whose changes count.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    All,
    These(HashSet<OsString>),
}

impl Watch {
    /// # Errors
    /// The kernel has no watch left for us.
    pub(crate) fn new(paths: &[PathBuf]) -> io::Result<Watch> {
        let events = Inotify::init()?.into_event_stream([0; 4096])?;
        let mut watch = Watch { paths: paths.to_vec(), events, watched: HashMap::new() };
        watch.follow()?;
        Ok(watch)
    }

    /// Waits until something has changed that the paths lead through, and for a moment after that.
    pub(crate) async fn changed(&mut self) {
        self.event().await;
        let settled = async { while timeout(SETTLE, self.event()).await.is_ok() {} };
        let _ = timeout(SETTLE_MAX, settled).await;
        // They may lead elsewhere now. What cannot be watched now is tried with the next change.
        let _ = self.follow();
    }

    /// The next event that counts.
    async fn event(&mut self) {
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut self.events).poll_next(cx)).await;
            match next {
                Some(Ok(event)) if self.counts(&event) => return,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return sleep(PAUSE).await,
            }
        }
    }

    fn counts(&self, event: &EventOwned) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        match (self.watched.get(&event.wd), &event.name) {
            (None, _) => false,
            // Of the folder itself.
            (Some(_), None) => true,
            (Some(Names::All), Some(_)) => true,
            (Some(Names::These(names)), Some(name)) => names.contains(name),
        }
    }

    /// Watches what the paths lead through now, and nothing else.
    fn follow(&mut self) -> io::Result<()> {
        let mut ways = BTreeMap::new();
        self.paths.iter().for_each(|path| follow(path, &mut ways));
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            // It may be read now.
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut result = Ok(());
        let mut watched: HashMap<WatchDescriptor, Names> = HashMap::new();
        let mut watches = self.events.watches();
        for (folder, names) in ways {
            match watches.add(&folder, mask) {
                Ok(watch) => match watched.entry(watch) {
                    Entry::Vacant(entry) => drop(entry.insert(names)),
                    // The same folder by another way, such as a mount.
                    Entry::Occupied(mut entry) => {
                        entry.get_mut().add(names);
                    }
                },
                // The folder above says when it is there; one that may be passed and not read, like
                // another user's home, is not ours to watch.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                    ) => {}
                Err(error) => result = Err(error),
            }
        }
        for (gone, _) in std::mem::take(&mut self.watched) {
            if !watched.contains_key(&gone) {
                // It may have gone by itself.
                let _ = watches.remove(gone);
            }
        }
        self.watched = watched;
        result
    }
}

impl Names {
    fn add(&mut self, more: Names) {
        match (&mut *self, more) {
            (Names::These(names), Names::These(more)) => names.extend(more),
            (_, _) => *self = Names::All,
        }
    }
}

/// Adds the folders that a path leads through. A path to a folder leads to all that is in it.
fn follow(path: &Path, ways: &mut BTreeMap<PathBuf, Names>) {
    let Some(end) = walk(path, ways) else { return };
    let Ok(entries) = fs::read_dir(&end) else { return };
    ways.insert(end, Names::All);
    for entry in entries.flatten().take(ENTRIES_MAX) {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            walk(&entry.path(), ways);
        }
    }
}

/// Where a path leads, without any symlink; `None`: nowhere, as yet.
fn walk(path: &Path, ways: &mut BTreeMap<PathBuf, Names>) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    // What is still to go, the next last.
    let mut ahead: Vec<OsString> = Vec::new();
    let mut here = PathBuf::from("/");
    push(&path, &mut ahead);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let these = Names::These(HashSet::from([name.clone()]));
        match ways.get_mut(&here) {
            Some(known) => known.add(these),
            None => drop(ways.insert(here.clone(), these)),
        }
        let next = here.join(&name);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                push(&target, &mut ahead);
            }
            // No symlink, or nothing there.
            Err(_) if next.symlink_metadata().is_ok() => here = next,
            Err(_) => return None,
        }
    }
    Some(here)
}

/// Puts a path's components before what is still to go.
fn push(path: &Path, ahead: &mut Vec<OsString>) {
    let names = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let names: Vec<OsString> = names.map(|part| part.as_os_str().to_owned()).collect();
    ahead.extend(names.into_iter().rev());
}

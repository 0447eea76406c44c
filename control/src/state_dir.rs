//! What outlives the process: the last config that was live, and pushed endpoints.
//!
//! Files are written beside the old one, synced and renamed: after a crash or on a full disk the old
//! one is still whole. They are for our own eyes, as there may be secrets in a config, and the folder
//! is one process' at a time. What was pushed last where pushes have the last word is not what the files
//! said last: whoever begins the other way once finds both again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::{Document, EndpointPush, Format};
use serde_json::{Value as Json, json};

use crate::desired::Source;

/// Where it is where nobody says otherwise, if that is there.
pub const STATE_DIR_USUAL: &str = "/var/lib/ringside";

/// The last config that was live, by who had the last word on it.
const CONFIG: &str = "config.json";
const PUSHED: &str = "pushed.json";
const ENDPOINTS: &str = "endpoints.json";
/// Pushed endpoints that are not yet in there, and those that are about to be.
const NOTES: &str = "endpoints.notes";
const NOTES_BEFORE: &str = "endpoints.notes.before";
/// They are begun anew every second.
const NOTES_BYTES_MAX: u64 = 256 << 20;
const LOCK: &str = "lock";
/// So long a process that begins waits for the one before it to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// A config, and what is said of it.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A folder that this process may write.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Open for as long as the folder is ours.
    _lock: Arc<File>,
}

/// A config that was live.
pub struct Saved {
    pub document: Document,
    /// Where it came from, in words.
    pub origin: String,
    /// When it went live, in seconds since 1970.
    pub at_s: u64,
}

/// A file that is written and synced, and not yet in its place.
struct Written {
    from: PathBuf,
    to: PathBuf,
}

/// A config that is in its place, while it is not live yet.
pub(crate) struct Kept {
    place: PathBuf,
    /// What was there, if anything was.
    before: Option<PathBuf>,
}

impl StateDir {
    /// Makes the folder if it is not there, and tries whether it can be written.
    ///
    /// # Errors
    /// It cannot, or, as [`io::ErrorKind::WouldBlock`], another process has it.
    pub fn open(path: &Path) -> io::Result<StateDir> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = private_file(&path.join(LOCK))?;
        let until = SystemTime::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if SystemTime::now() < until => {
                    sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let state = StateDir { path: path.to_owned(), _lock: Arc::new(lock) };
        let probe = state.write("probe", b"")?;
        fs::remove_file(probe.from)?;
        Ok(state)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is read at this path would be what is written here: the folder, or one of its files
    /// that are ours.
    pub fn is_read_at(&self, path: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let Some((ours, read)) = real(&self.path).zip(real(path)) else { return false };
        let is_of_ours = |name: &str| {
            let names = [CONFIG, PUSHED, ENDPOINTS, NOTES, NOTES_BEFORE, LOCK];
            names.contains(&name.trim_end_matches(".new").trim_end_matches(".before"))
        };
        let name = read.file_name().and_then(|name| name.to_str());
        read == ours || read.parent() == Some(&*ours) && name.is_some_and(is_of_ours)
    }

    /// The last config that was live where this had the last word; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn config(&self, source: Source) -> io::Result<Option<Saved>> {
        let Some(saved) = self.read(name_of(source))? else { return Ok(None) };
        if !saved["config"].is_object() {
            return Err(io::Error::other("there is no config in it"));
        }
        let name = self.path.join(name_of(source)).display().to_string();
        let text = saved["config"].to_string();
        let document = Document::parse(&name, text.as_bytes(), Format::Json)
            .map_err(|found| io::Error::other(found.to_string()))?;
        Ok(Some(Saved {
            document,
            origin: saved["origin"].as_str().unwrap_or_default().to_owned(),
            at_s: saved["saved_at_s"].as_u64().unwrap_or_default(),
        }))
    }

    /// Keeps a config, so that it is there before anybody is told that it is live.
    pub(crate) fn keep_config(
        &self,
        document: &Document,
        origin: &str,
        source: Source,
    ) -> io::Result<Kept> {
        let saved = json!({
            "saved_at_s": seconds_since_1970(SystemTime::now()),
            "origin": origin,
            "config": document.to_json(),
        });
        let name = name_of(source);
        let (place, before) = (self.path.join(name), self.path.join(format!("{name}.before")));
        let written = self.write(name, saved.to_string().as_bytes())?;
        match set_aside(&place, &before) {
            Ok(was_there) => {
                let kept = Kept { place, before: was_there.then_some(before) };
                written.put_in_place().map(|()| kept)
            }
            Err(error) => {
                written.discard();
                Err(error)
            }
        }
    }

    /// The endpoints that were pushed: each service with its push and when that was.
    pub fn endpoints(&self) -> io::Result<Vec<(String, EndpointPush, SystemTime)>> {
        let saved = self.read(ENDPOINTS)?.unwrap_or_else(|| json!({}));
        if !saved.is_object() {
            return Err(io::Error::other("there are no endpoints in endpoints.json"));
        }
        let mut notes = vec![saved];
        notes.extend(self.notes(NOTES_BEFORE)?);
        notes.extend(self.notes(NOTES)?);
        let mut newest: BTreeMap<&String, &Json> = BTreeMap::new();
        for (name, set) in notes.iter().filter_map(Json::as_object).flatten() {
            let is_newer = |known: &&Json| known["version"].as_u64() < set["version"].as_u64();
            if newest.get(name).is_none_or(is_newer) {
                newest.insert(name, set);
            }
        }
        let mut list = Vec::new();
        for (name, set) in newest {
            let at = UNIX_EPOCH + Duration::from_secs(set["at_s"].as_u64().unwrap_or_default());
            let push = json!({ "version": set["version"], "endpoints": set["endpoints"] });
            let push = EndpointPush::replacement(ENDPOINTS, push.to_string().as_bytes())
                .map_err(|found| io::Error::other(found.to_string()))?;
            list.push((name.clone(), push, at));
        }
        Ok(list)
    }

    /// Writes all pushed endpoints down; the notes before [`StateDir::begin_notes_anew`] have served.
    pub(crate) fn save_endpoints(&self, sets: &Json) -> io::Result<()> {
        self.write(ENDPOINTS, sets.to_string().as_bytes())?.put_in_place()?;
        match fs::remove_file(self.path.join(NOTES_BEFORE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds a line to the notes: sets that are live before all are written down again. It is there
    /// when the process is killed; a machine that fails may lose it.
    pub(crate) fn note_endpoints(&self, sets: &Json) -> io::Result<()> {
        let path = self.path.join(NOTES);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let before = file.metadata()?.len();
        if before > NOTES_BYTES_MAX {
            return Err(io::Error::other("endpoints.json has not been writable for long"));
        }
        // What was cut off before it, as by a crash, ends there.
        let written = file.write_all(format!("\n{sets}").as_bytes());
        if written.is_err() {
            // Where that cannot be helped, half a line stays that says nothing.
            let _ = file.set_len(before);
        }
        written
    }

    /// What is noted from now on is not among what was noted before.
    pub(crate) fn begin_notes_anew(&self) -> io::Result<()> {
        let (notes, before) = (self.path.join(NOTES), self.path.join(NOTES_BEFORE));
        // Those of a save that failed count still.
        if before.exists() {
            return Ok(());
        }
        match fs::rename(notes, before) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The sets in notes, without lines that were cut off: nobody was told that those are live.
    fn notes(&self, name: &str) -> io::Result<Vec<Json>> {
        let text = match fs::read(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let lines = text.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Json>> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.metadata()?.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("it is too large to be ours"));
        }
        Ok(Some(serde_json::from_reader(io::BufReader::new(file))?))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<Written> {
        let (from, to) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let written = private_file(&from).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if written.is_err() {
            // Half a file helps nobody, and its room may be what is missing.
            let _ = fs::remove_file(&from);
        }
        written.map(|()| Written { from, to })
    }
}

impl Written {
    /// Replaces what was there before.
    fn put_in_place(self) -> io::Result<()> {
        let placed = fs::rename(&self.from, &self.to);
        if placed.is_err() {
            self.discard();
        }
        placed
    }

    /// Takes it back.
    fn discard(self) {
        // It is of no meaning where it is.
        let _ = fs::remove_file(self.from);
    }
}

impl Kept {
    /// It is live.
    pub(crate) fn stay(self) {
        if let Some(before) = self.before {
            // It is of no meaning where it is.
            let _ = fs::remove_file(before);
        }
    }

    /// It did not become live: what was there before is there again.
    pub(crate) fn undo(self) -> io::Result<()> {
        match self.before {
            Some(before) => fs::rename(before, self.place),
            None => fs::remove_file(self.place),
        }
    }
}

fn name_of(source: Source) -> &'static str {
    match source {
        Source::File => CONFIG,
        Source::Push => PUSHED,
    }
}

/// Gives a file a second name; false if there is none.
fn set_aside(file: &Path, name: &Path) -> io::Result<bool> {
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::hard_link(file, name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Not every file system has second names.
        Err(_) => fs::copy(file, name).map(|_| true),
    }
}

/// Empty, and nobody else's to read.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(crate) fn seconds_since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_saved_comes_back() {
        let path = std::env::temp_dir().join(format!("ringside-state-{}", std::process::id()));
        let state = StateDir::open(&path).unwrap();
        let other = StateDir::open(&path).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::WouldBlock, "it is ours");
        assert!(state.config(Source::File).unwrap().is_none());
        assert!(state.endpoints().unwrap().is_empty());
        let text = b"listeners: [{ name: web, address: \"127.0.0.1:1\", http: {} }]";
        let document = Document::parse("test", text, Format::Yaml).unwrap();
        let keep = |origin| state.keep_config(&document, origin, Source::Push).unwrap();
        let origin = || Some(state.config(Source::Push).unwrap()?.origin);
        keep("refused").undo().unwrap();
        assert_eq!(origin(), None, "as before");
        keep("a test").stay();
        keep("refused").undo().unwrap();
        assert_eq!(origin().as_deref(), Some("a test"), "as before");
        assert!(state.config(Source::File).unwrap().is_none(), "the files said nothing");
        let mode = fs::metadata(path.join(PUSHED)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "there may be secrets in it");
        let saved = state.config(Source::Push).unwrap().unwrap();
        assert_eq!(saved.document.hash(), document.hash());
        assert!(saved.at_s > 1_700_000_000);
        for (read, is_ours) in [("", true), ("pushed.json", true), ("../x", false), ("mine", false)]
        {
            let read = path.join(read);
            fs::write(path.join("mine"), "").unwrap();
            assert_eq!(state.is_read_at(&read), is_ours, "{}", read.display());
        }
        let sets =
            json!({ "a": { "version": 3, "at_s": 5, "endpoints": [{ "address": "1.2.3.4:5" }] } });
        state.save_endpoints(&sets).unwrap();
        let [(name, push, at)] = &state.endpoints().unwrap()[..] else { panic!() };
        assert_eq!((name.as_str(), push.version), ("a", 3));
        assert_eq!(*at, UNIX_EPOCH + Duration::from_secs(5));
        let set = |version: u64| json!({ "version": version, "at_s": 5, "endpoints": [] });
        let versions = || -> Vec<(String, u64)> {
            let sets = state.endpoints().unwrap().into_iter();
            sets.map(|(name, push, _)| (name, push.version)).collect()
        };
        state.note_endpoints(&json!({ "a": set(4) })).unwrap();
        state.begin_notes_anew().unwrap();
        // One that was cut off, as by a crash, hides none that follows.
        let notes = path.join(NOTES);
        fs::write(&notes, "\n{\"a\": {").unwrap();
        state.note_endpoints(&json!({ "a": set(5), "b": set(1) })).unwrap();
        assert_eq!(versions(), [("a".to_owned(), 5), ("b".to_owned(), 1)]);
        state.save_endpoints(&json!({ "a": set(4) })).unwrap();
        assert!(!path.join(NOTES_BEFORE).exists());
        assert_eq!(versions(), [("a".to_owned(), 5), ("b".to_owned(), 1)], "noted since then");
        for text in ["{", "[]", "{}"] {
            fs::write(path.join(CONFIG), text).unwrap();
            assert!(state.config(Source::File).is_err(), "said, not ignored: {text}");
        }
        fs::write(path.join(ENDPOINTS), "[1]").unwrap();
        assert!(state.endpoints().is_err(), "said, not ignored");
        fs::remove_dir_all(path).unwrap();
    }
}

//! What outlives the process: the last config that was live, and pushed endpoints.
//!
//! Files are written beside the old one, synced and renamed: after a crash or on a full disk the old
//! one is still whole. They are for our own eyes, as there may be secrets in a config, and the folder
//! is one process' at a time.

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

/// Where it is where nobody says otherwise, if that is there.
pub const STATE_DIR_USUAL: &str = "/var/lib/ringside";

const CONFIG: &str = "config.json";
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
    /// It came by a push.
    pub is_pushed: bool,
}

/// A file that is written and synced, and not yet in its place.
pub(crate) struct Written {
    from: PathBuf,
    to: PathBuf,
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

    /// The last config that was live; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn config(&self) -> io::Result<Option<Saved>> {
        let Some(saved) = self.read(CONFIG)? else { return Ok(None) };
        let name = self.path.join(CONFIG).display().to_string();
        let text = saved["config"].to_string();
        let document = Document::parse(&name, text.as_bytes(), Format::Json)
            .map_err(|found| io::Error::other(found.to_string()))?;
        Ok(Some(Saved {
            document,
            origin: saved["origin"].as_str().unwrap_or_default().to_owned(),
            at_s: saved["saved_at_s"].as_u64().unwrap_or_default(),
            is_pushed: saved["pushed"] == true,
        }))
    }

    /// Writes a config; it counts once it is [put in place](Written::put_in_place).
    pub(crate) fn write_config(
        &self,
        document: &Document,
        origin: &str,
        is_pushed: bool,
    ) -> io::Result<Written> {
        let saved = json!({
            "saved_at_s": seconds_since_1970(SystemTime::now()),
            "origin": origin,
            "pushed": is_pushed,
            "config": document.to_json(),
        });
        self.write(CONFIG, saved.to_string().as_bytes())
    }

    /// The endpoints that were pushed: each service with its push and when that was.
    pub fn endpoints(&self) -> io::Result<Vec<(String, EndpointPush, SystemTime)>> {
        let mut notes = vec![self.read(ENDPOINTS)?.unwrap_or_default()];
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
        let written = file.write_all(format!("{sets}\n").as_bytes());
        if written.is_err() {
            // Half a line would hide those that follow. Where that cannot be helped, it was the last.
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

    /// The sets in notes, up to a line that was cut off.
    fn notes(&self, name: &str) -> io::Result<Vec<Json>> {
        let text = match fs::read(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let lines = text.split(|byte| *byte == b'\n');
        Ok(lines.map_while(|line| serde_json::from_slice(line).ok()).collect())
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
    pub(crate) fn put_in_place(self) -> io::Result<()> {
        fs::rename(&self.from, &self.to)
    }

    /// Takes it back.
    pub(crate) fn discard(self) {
        // It is of no meaning where it is.
        let _ = fs::remove_file(self.from);
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
        assert!(state.config().unwrap().is_none() && state.endpoints().unwrap().is_empty());
        let text = b"listeners: [{ name: web, address: \"127.0.0.1:1\", http: {} }]";
        let document = Document::parse("test", text, Format::Yaml).unwrap();
        let written = state.write_config(&document, "a test", true).unwrap();
        assert!(state.config().unwrap().is_none(), "not yet in its place");
        written.put_in_place().unwrap();
        let mode = fs::metadata(path.join(CONFIG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "there may be secrets in it");
        let saved = state.config().unwrap().unwrap();
        assert_eq!(saved.document.hash(), document.hash());
        assert!(saved.is_pushed && saved.origin == "a test" && saved.at_s > 1_700_000_000);
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
        state.note_endpoints(&json!({ "a": set(5), "b": set(1) })).unwrap();
        // One that was cut off, as by a crash.
        let notes = path.join(NOTES);
        fs::write(&notes, [&fs::read(&notes).unwrap()[..], b"{\"a\": {"].concat()).unwrap();
        assert_eq!(versions(), [("a".to_owned(), 5), ("b".to_owned(), 1)]);
        state.save_endpoints(&json!({ "a": set(4) })).unwrap();
        assert!(!path.join(NOTES_BEFORE).exists());
        assert_eq!(versions(), [("a".to_owned(), 5), ("b".to_owned(), 1)], "noted since then");
        fs::write(path.join(CONFIG), "{").unwrap();
        assert!(state.config().is_err(), "said, not ignored");
        fs::remove_dir_all(path).unwrap();
    }
}

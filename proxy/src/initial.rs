//! What a process begins with: the files, what was pushed last, or the last config that was good.

use std::io;
use std::path::{Path, PathBuf};

use config::{Auth, Diagnostics, Document, Failure, Loaded, State};
use control::{Initial, STATE_DIR_USUAL, Saved, Source, StateDir};

use crate::check::colours;
use crate::run::{Overrides, StartError, admin_auth};
use crate::say::say;

/// Reads the files, and decides what to begin with. Says what it decides otherwise than usual.
pub fn initial(files: &[PathBuf], overrides: &Overrides) -> Result<Initial, StartError> {
    let read = Document::load(files);
    let checked = match &read {
        Ok(document) => check(document, overrides.source).map_err(Failure::Invalid),
        Err(_) => Err(read.as_ref().err().map(again).expect("it is one")),
    };
    let wanted = match (&overrides.state, &checked) {
        (Some(path), _) if path.as_os_str() == "none" => State::Nowhere,
        (Some(path), _) => State::In(path.clone()),
        (None, Ok(loaded)) => loaded.config.state.clone(),
        (None, Err(_)) => {
            let said = match &read {
                Ok(document) => document.state(),
                Err(_) => Document::state_of_lines(files),
            };
            said.unwrap_or(State::Usual)
        }
    };
    let mut state = open(&wanted, overrides.source)?;
    if let (None, State::Usual, Ok(loaded)) = (&state, &wanted, &checked)
        && admin_auth(&loaded.config, overrides) == Auth::Token(Vec::new())
    {
        // A token has to be made, so the usual place is made too, where that is allowed.
        state = StateDir::open(Path::new(STATE_DIR_USUAL)).ok();
    }
    if let Some(dir) = &state
        && let Some(path) = files.iter().find(|path| dir.is_read_at(path))
    {
        let (path, dir) = (path.display(), dir.path().display());
        let why = format!(
            "the config is read from {path}, and {dir} is where ringside writes: give another \
             directory by --state"
        );
        return Err(StartError::State(io::Error::other(why)));
    }
    let (document, loaded) = match (read, checked) {
        (Ok(document), Ok(loaded)) => (document, loaded),
        (_, Err(failure)) => return last_good(files, overrides, state, failure),
        (Err(failure), Ok(_)) => return Err(StartError::Config(failure)),
    };
    let begin =
        Begin { document, loaded, origin: "the files at start".to_owned(), is_pushed: false };
    let (file_hash, file_texts) = (begin.document.hash(), begin.document.text_hash());
    let begin = match overrides.source {
        Source::File => begin,
        Source::Push => pushed_last(begin, state.as_ref()),
    };
    Ok(begin.initial(file_hash, file_texts, files, overrides.source, state))
}

/// What to begin with.
struct Begin {
    document: Document,
    loaded: Loaded,
    origin: String,
    is_pushed: bool,
}

impl Begin {
    fn initial(
        self,
        file_hash: String,
        file_texts: u64,
        files: &[PathBuf],
        source: Source,
        state: Option<StateDir>,
    ) -> Initial {
        let Begin { document, loaded, origin, is_pushed } = self;
        let document = document.rest();
        // Made among what reading took, of which the rest is free now: again, and close together.
        let loaded = loaded.clone();
        let files = files.to_vec();
        Initial { document, loaded, origin, file_hash, file_texts, files, source, state, is_pushed }
    }
}

fn check(document: &Document, source: Source) -> Result<Loaded, Diagnostics> {
    match source {
        Source::File => document.check(),
        Source::Push => document.check_boot(),
    }
}

/// A failure cannot be cloned, and is told twice: as the reason, and where nothing else helps.
fn again(failure: &Failure) -> Failure {
    match failure {
        Failure::Invalid(found) => Failure::Invalid(found.clone()),
        Failure::Unreadable { path, error } => Failure::Unreadable {
            path: path.clone(),
            error: io::Error::new(error.kind(), error.to_string()),
        },
    }
}

/// The state directory. That the usual one is not there is no fault; that a named one cannot be
/// written is.
fn open(wanted: &State, source: Source) -> Result<Option<StateDir>, StartError> {
    let path = match wanted {
        State::Nowhere if source == Source::File => return Ok(None),
        State::Nowhere => {
            let why = "--source push keeps what is pushed, and `state_dir: none` keeps nothing";
            return Err(StartError::State(io::Error::other(why)));
        }
        State::Usual if source == Source::File => {
            let usual = PathBuf::from(STATE_DIR_USUAL);
            let opened = usual.is_dir().then(|| StateDir::open(&usual));
            if let Some(Err(error)) = &opened
                && error.kind() == io::ErrorKind::WouldBlock
            {
                say(format_args!(
                    "{STATE_DIR_USUAL} is another ringside's: nothing is kept for a restart; give \
                     this one its own by --state"
                ));
            }
            return Ok(opened.and_then(Result::ok));
        }
        State::Usual => PathBuf::from(STATE_DIR_USUAL),
        State::In(path) => path.clone(),
    };
    StateDir::open(&path).map(Some).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::WouldBlock => "is another ringside's".to_owned(),
            _ => format!("cannot be written: {error}"),
        };
        let why = format!("{} {what}; give another by --state", path.display());
        StartError::State(io::Error::new(error.kind(), why))
    })
}

/// The files are no good: what was live before is, loudly.
fn last_good(
    files: &[PathBuf],
    overrides: &Overrides,
    state: Option<StateDir>,
    failure: Failure,
) -> Result<Initial, StartError> {
    let Some(dir) = &state else { return Err(StartError::Config(failure)) };
    let saved = match dir.config(overrides.source) {
        Ok(Some(saved)) => saved,
        Ok(None) => return Err(StartError::Config(failure)),
        Err(error) => {
            say(format_args!(
                "{}: the last good config cannot be used: {error}",
                dir.path().display()
            ));
            return Err(StartError::Config(failure));
        }
    };
    let loaded = match check(&saved.document, overrides.source) {
        Ok(loaded) => loaded,
        Err(found) => {
            say(format_args!(
                "{}: the last good config is not good any more\n{found}",
                dir.path().display()
            ));
            return Err(StartError::Config(failure));
        }
    };
    match &failure {
        Failure::Invalid(found) => {
            for line in found.render(colours()).lines() {
                say(format_args!("{line}"));
            }
        }
        Failure::Unreadable { .. } => say(format_args!("{failure}")),
    }
    say(format_args!(
        "THE CONFIG IS NOT USED: see above. Running with the last good one, of {}, from {}; correct \
         the file and send SIGHUP",
        saved.origin,
        dir.path().display()
    ));
    let Saved { document, origin, .. } = saved;
    let origin = format!("the last good config, of {origin}");
    let is_pushed = overrides.source == Source::Push;
    let begin = Begin { document, loaded, origin, is_pushed };
    // Whatever the files say next is new.
    let (file_hash, file_texts) = (String::new(), 0);
    Ok(begin.initial(file_hash, file_texts, files, overrides.source, state))
}

/// With what was pushed last on top of what the files hold; as it is where nothing was, or where that
/// is not good any more.
fn pushed_last(mut begin: Begin, state: Option<&StateDir>) -> Begin {
    let Some(dir) = state else { return begin };
    match dir.config(Source::Push) {
        Ok(Some(saved)) => {
            let document = begin.document.replaced_by(&saved.document.without_boot_keys());
            match document.check_boot() {
                Ok(loaded) => {
                    begin.origin = format!("the last push: {}", saved.origin);
                    (begin.document, begin.loaded) = (document, loaded);
                    begin.is_pushed = true;
                }
                Err(found) => say(format_args!(
                    "what was pushed last does not fit to the files any more, and is not used\n{found}"
                )),
            }
        }
        Ok(None) => say(format_args!("nothing was pushed yet: not ready before there is a config")),
        Err(error) => say(format_args!("what was pushed last cannot be used: {error}")),
    }
    begin
}

//! The config that ought to be live, how a new one becomes it, and those that were before.
//!
//! A change is made of the document that is live, checked whole, opened, and told to every worker:
//! or nothing of it happens. Changes take turns, so each is made on top of the one before.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::{Change, Diagnostic, Diagnostics, Document, Failure, Loaded, Resting};
use serde_json::{Value as Json, json};
use tokio::sync::{Mutex as Turn, MutexGuard as TurnGuard, Notify, oneshot, watch};
use tokio::time::timeout;

use crate::data_plane::{Answer, DataPlane, Refusal};
use crate::dns::{self, Found};
use crate::phase::Phase;
use crate::pushed::Pushed;
use crate::state::State;
use crate::state_dir::{Kept, StateDir};

/// So many earlier generations can be looked at and gone back to, as far as they have room.
const PAST_MAX: usize = 32;
const PAST_BYTES_MAX: usize = 64 << 20;

/// Who has the last word on the config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The files: a push lives until they say something new, or the process restarts.
    #[default]
    File,
    /// Pushes: the files hold what is read at start, and what was pushed last is live after a restart.
    Push,
}

/// Why the files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// Somebody said so.
    Told,
    /// They may have changed.
    Changed,
}

/// What control starts with.
pub struct Initial {
    /// The rest of the program finds it at rest: what reading it took is free again by then.
    pub document: Resting,
    pub loaded: Loaded,
    /// Where it came from, in words.
    pub origin: String,
    /// The hash of what the files say.
    pub file_hash: String,
    /// The hash of the texts in which they say it.
    pub file_texts: u64,
    pub files: Vec<PathBuf>,
    pub source: Source,
    /// Where it is kept, if anywhere.
    pub state: Option<StateDir>,
    /// It came by a push, before a restart.
    pub is_pushed: bool,
}

impl Initial {
    /// Of a text alone, that nothing outlives.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(document: Document) -> Result<Initial, Diagnostics> {
        Ok(Initial {
            loaded: document.check()?,
            origin: "a text".to_owned(),
            file_hash: document.hash(),
            file_texts: document.text_hash(),
            files: Vec::new(),
            source: Source::File,
            state: None,
            is_pushed: false,
            document: document.rest(),
        })
    }
}

/// The desired config.
pub(crate) struct Desired {
    files: Vec<PathBuf>,
    source: Source,
    /// What is live came by a push, now or before a restart.
    has_push: AtomicBool,
    pub(crate) state_dir: Option<StateDir>,
    /// Pushed endpoints are about to be written down.
    pub(crate) saves_endpoints: AtomicBool,
    say: fn(fmt::Arguments<'_>),
    /// Whoever changes the config has it.
    turn: Turn<()>,
    told: Mutex<Told>,
    /// Endpoints that came by themselves.
    pub(crate) pushed: Pushed,
    pub(crate) found: Found,
    /// There is a new generation.
    succeeded: Notify,
}

/// What the workers were told.
struct Told {
    newest: Arc<Generation>,
    /// Those before, the oldest first.
    past: VecDeque<Arc<Past>>,
    /// The hash of what the files said when they were read last.
    file_hash: String,
    /// The hash of the texts in which they said it.
    file_texts: u64,
    /// What was wrong with the files when they were read last; empty if nothing was.
    complaint: String,
    /// How many configs were refused.
    rejected: u64,
}

/// A config that was made live.
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) document: Resting,
    /// Without its routes.
    pub(crate) loaded: Loaded,
    /// Where it came from, in words.
    pub(crate) origin: String,
    pub(crate) applied_at: SystemTime,
    /// What it changed in the one before.
    pub(crate) changes: Vec<Change>,
    /// How many workers have it.
    live: watch::Receiver<usize>,
}

/// A config that was live before.
pub(crate) struct Past {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) description: Json,
    pub(crate) document: Resting,
}

/// Where a change comes from, and on what terms.
pub(crate) struct Terms {
    pub(crate) origin: String,
    /// Hashes of which one has to be live, or the change is not made.
    pub(crate) if_match: Option<Vec<String>>,
    /// Say what would happen, and do nothing.
    pub(crate) dry_run: bool,
}

/// What came of a change.
pub(crate) enum Outcome {
    /// It was live already.
    Unchanged(Arc<Generation>),
    /// It would be this.
    Tried { changes: Vec<Change>, warnings: Diagnostics, hash: String },
    /// The workers were told.
    Applied(Arc<Generation>),
}

/// Why a change was not made; nothing has changed.
pub(crate) enum Denial {
    Draining,
    /// What runs has this hash, or is not there.
    Stale(Option<String>),
    /// Not a document.
    Unparseable(Diagnostics),
    Invalid(Diagnostics),
    /// This key is read at start only.
    RestartRequired(&'static str, Diagnostics),
    /// Valid, but not to be had here.
    Refused(Diagnostics),
    /// It could not be written down, so a restart would lose it.
    NotSaved(io::Error),
    /// What it was to change is not there.
    NotFound(String),
}

impl Generation {
    /// How many workers have it now.
    pub(crate) fn live(&self) -> usize {
        *self.live.borrow()
    }

    /// What is told of it.
    pub(crate) fn describe(&self, workers: usize) -> Json {
        let applied_at = self.applied_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "generation": self.number,
            "etag": self.loaded.hash,
            "live": self.live(),
            "workers": workers,
            "origin": self.origin,
            "applied_at_s": applied_at.as_secs_f64(),
            "changed": changed(&self.changes),
            "warnings": list(&self.loaded.warnings),
        })
    }

    /// Waits until all workers have it, or for so long.
    pub(crate) async fn settled(&self, workers: usize, patience: Duration) {
        let mut live = self.live.clone();
        // Nobody is left to tell of more: as settled as it gets.
        let settled = live.wait_for(|live| *live >= workers);
        let _ = tokio::time::timeout(patience, settled).await;
    }
}

/// Changes as JSON.
pub(crate) fn changed(changes: &[Change]) -> Json {
    let one = |change: &Change| json!({ "path": change.path, "change": change.what.as_str() });
    Json::from(changes.iter().map(one).collect::<Vec<_>>())
}

/// Diagnostics as JSON.
pub(crate) fn list(diagnostics: &Diagnostics) -> Json {
    serde_json::from_str(&diagnostics.to_json()).unwrap_or_default()
}

impl Desired {
    pub(crate) fn new(initial: Initial, workers: usize, say: fn(fmt::Arguments<'_>)) -> Desired {
        let Initial { document, loaded, origin, file_hash, file_texts, .. } = initial;
        let Initial { files, source, state, is_pushed, .. } = initial;
        let (_, live) = watch::channel(workers);
        let rejected = u64::from(file_hash.is_empty());
        let applied_at = SystemTime::now();
        let (changes, loaded) = (Vec::new(), loaded.without_routes());
        let first = Generation { number: 1, document, loaded, origin, applied_at, changes, live };
        let newest = Arc::new(first);
        Desired {
            files,
            source,
            has_push: AtomicBool::new(is_pushed),
            state_dir: state,
            saves_endpoints: AtomicBool::new(false),
            say,
            turn: Turn::new(()),
            told: Mutex::new(Told {
                newest,
                past: VecDeque::new(),
                file_hash,
                file_texts,
                complaint: String::new(),
                // Where the files were no good at start, it is the last good config.
                rejected,
            }),
            pushed: Pushed::default(),
            found: Found::default(),
            succeeded: Notify::new(),
        }
    }

    /// Whether there is nothing to serve before somebody pushes it.
    pub(crate) fn awaits_push(&self) -> bool {
        self.source == Source::Push && !self.has_push.load(Ordering::Acquire)
    }

    /// Waits until nobody else changes anything.
    pub(crate) async fn take_turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The same for those who may block.
    pub(crate) fn take_turn_blocking(&self) -> TurnGuard<'_, ()> {
        self.turn.blocking_lock()
    }

    /// The newest generation.
    pub(crate) fn newest(&self) -> Arc<Generation> {
        self.told().newest.clone()
    }

    /// Those before it that are remembered, the oldest first.
    pub(crate) fn past(&self) -> Vec<Arc<Past>> {
        self.told().past.iter().cloned().collect()
    }

    /// The first generation that can be gone back to, or the newest.
    fn oldest(&self) -> u64 {
        let told = self.told();
        told.past.front().map_or(told.newest.number, |past| past.number)
    }

    /// Whether what is live would not come back from the files.
    pub(crate) fn is_unsaved(&self) -> bool {
        if self.source == Source::Push {
            return false;
        }
        let told = self.told();
        told.newest.loaded.hash != told.file_hash
    }

    /// Appends what is counted here as Prometheus text.
    pub(crate) fn render(&self, out: &mut String) {
        let rejected = self.told().rejected;
        let unsaved = u8::from(self.is_unsaved());
        out.push_str(&format!(
            "# HELP ringside_config_rejected_total Configs that were refused.\n\
             # TYPE ringside_config_rejected_total counter\n\
             ringside_config_rejected_total {rejected}\n\
             # HELP ringside_config_unsaved Whether the config that is live would not come back \
             after a restart.\n\
             # TYPE ringside_config_unsaved gauge\n\
             ringside_config_unsaved {unsaved}\n"
        ));
        self.render_updated(out);
        self.found.render(out);
    }

    /// Appends when each set of endpoints came, as Prometheus text.
    fn render_updated(&self, out: &mut String) {
        let mut times = self.pushed.times();
        times.extend(self.found.times());
        if times.is_empty() {
            return;
        }
        times.sort();
        let name = "ringside_endpoint_set_updated_timestamp_seconds";
        out.push_str(&format!(
            "# HELP {name} When the service's endpoints were pushed or found last.\n\
             # TYPE {name} gauge\n"
        ));
        for (service, at) in times {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            out.push_str(&format!("{name}{{service=\"{service}\"}} {at}\n"));
        }
    }

    /// The files whose changes are made live.
    pub(crate) fn watched(&self) -> Option<&[PathBuf]> {
        (self.source == Source::File && !self.files.is_empty()).then_some(&self.files[..])
    }

    /// What is live is what the files say.
    fn heed(&self, file_hash: String, file_texts: u64) {
        let mut told = self.told();
        (told.file_hash, told.file_texts) = (file_hash, file_texts);
        told.complaint.clear();
    }

    /// The files say what they said: a push lives until they say something new.
    fn heed_nothing(&self, because: Because) {
        self.told().complaint.clear();
        if because == Because::Told {
            self.say(format_args!("reload: nothing has changed"));
        }
    }

    /// Whether the files were good when the process began.
    pub(crate) fn began_with_files(&self) -> bool {
        !self.told().file_hash.is_empty()
    }

    /// What was wrong with the files when they were read last, if anything was.
    pub(crate) fn files_refused_because(&self) -> Option<String> {
        let told = self.told();
        match told.complaint.as_str() {
            // They are read again only when they change.
            "" if told.file_hash.is_empty() => Some("they were not good at start".to_owned()),
            "" => None,
            why => Some(why.to_owned()),
        }
    }

    fn complain(&self, because: Because, why: String) {
        let mut told = self.told();
        if because == Because::Changed && told.complaint == why {
            return;
        }
        told.complaint = why.clone();
        drop(told);
        self.say(format_args!("reload: {why}"));
    }

    /// A generation takes the place of the newest, of which its document stays.
    fn succeed(&self, newest: Arc<Generation>, workers: usize) {
        let before = self.newest();
        let past = Past {
            number: before.number,
            hash: before.loaded.hash.clone(),
            description: before.describe(workers),
            document: before.document.clone(),
        };
        let mut told = self.told();
        told.newest = newest;
        told.past.push_back(Arc::new(past));
        let bytes =
            |told: &Told| Resting::bytes(told.past.iter().map(|past: &Arc<Past>| &past.document));
        while told.past.len() > PAST_MAX || bytes(&told) > PAST_BYTES_MAX {
            told.past.pop_front();
        }
        drop(told);
        self.succeeded.notify_one();
    }

    /// Waits for the next generation; for one listener.
    pub(crate) async fn changed(&self) {
        self.succeeded.notified().await;
    }

    pub(crate) fn say(&self, fact: fmt::Arguments<'_>) {
        (self.say)(fact);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: DataPlane> State<P> {
    /// Makes a change to what is live. `edit` makes the new document of the one that is. To be run
    /// [`to_the_end`] by whoever may leave: dropped halfway, the workers have what nobody knows of.
    pub(crate) async fn change(
        self: &Arc<Self>,
        terms: Terms,
        edit: impl FnOnce(&Document) -> Result<Document, Denial> + Send + 'static,
    ) -> Result<Outcome, Denial> {
        let _turn = self.desired.turn.lock().await;
        let is_meant = !terms.dry_run;
        let changed = self.change_in_turn(terms, edit).await;
        match &changed {
            Err(denial) if is_meant && denial.is_about_the_config() => {
                self.rejected(&denial.to_string());
            }
            _ => {}
        }
        changed
    }

    /// Keeps what the files said at start, once it is live: they may be no good at the next one.
    pub(crate) async fn keep_files(self: Arc<Self>) {
        let desired = &self.desired;
        let Some(dir) = desired.state_dir.clone() else { return };
        let _turn = desired.take_turn().await;
        let newest = desired.newest();
        if desired.source != Source::File || newest.number != 1 || !desired.began_with_files() {
            return;
        }
        let (document, origin) = (newest.document.clone(), newest.origin.clone());
        let kept = in_background(move || {
            dir.keep_config(&document.document(), &origin, Source::File).map(Kept::stay)
        });
        if let Err(error) = kept.await {
            desired.say(format_args!("the config is live and not kept for a restart: {error}"));
        }
        self.given_back.notify_one();
    }

    /// What the files say was pushed too: it runs already, and has to outlive them.
    async fn keep_first_push(&self, document: Document, origin: &str) -> Result<(), Denial> {
        if let Some(dir) = self.desired.state_dir.clone() {
            let origin = origin.to_owned();
            let kept = in_background(move || {
                dir.keep_config(&document, &origin, Source::Push).map(Kept::stay)
            });
            kept.await.map_err(Denial::NotSaved)?;
        }
        self.desired.has_push.store(true, Ordering::Release);
        Ok(())
    }

    async fn change_in_turn(
        self: &Arc<Self>,
        terms: Terms,
        edit: impl FnOnce(&Document) -> Result<Document, Denial> + Send + 'static,
    ) -> Result<Outcome, Denial> {
        if *self.phase.borrow() == Phase::Draining {
            return Err(Denial::Draining);
        }
        let newest = self.desired.newest();
        if let Some(hashes) = &terms.if_match
            && !is_among(&newest.loaded.hash, hashes)
        {
            return Err(Denial::Stale(Some(newest.loaded.hash.clone())));
        }
        let before = newest.clone();
        // A large config takes a second, in which probes want their answer.
        let checked = in_background(move || {
            let running = before.document.document();
            let document = edit(&running)?;
            let loaded = document.check().map_err(Denial::Invalid)?;
            if let Some(key) = before.loaded.config.boot_change(&loaded.config) {
                let hint = "leave it out of the push, or change the file and restart";
                let found = document.fault(key, "this is read at start only", hint);
                return Err(Denial::RestartRequired(key, found));
            }
            let changes = running.changes(&document);
            Ok((document, loaded, changes))
        });
        let (document, loaded, changes) = checked.await?;
        if terms.dry_run {
            let hash = loaded.hash;
            return Ok(Outcome::Tried { changes, warnings: loaded.warnings, hash });
        }
        if loaded.hash == newest.loaded.hash {
            if self.desired.awaits_push() {
                self.keep_first_push(document, &terms.origin).await?;
            }
            return Ok(Outcome::Unchanged(newest));
        }
        let (answers, heard): (Vec<_>, Vec<_>) =
            (0..self.plane.workers()).map(|_| oneshot::channel()).unzip();
        let answers = answers.into_iter().map(Answer).collect();
        let number = newest.number + 1;
        let state = self.clone();
        let origin = terms.origin.clone();
        let first =
            dns::first_answers(&self.desired.found, &newest.loaded.config, &loaded.config).await;
        let mut known = self.desired.pushed.left(&loaded.config);
        known.extend(first.iter().map(|(name, known)| (name.clone(), known.endpoints.clone())));
        let applied = in_background(move || {
            let desired = &state.desired;
            let keep = |dir: &StateDir| dir.keep_config(&document, &origin, desired.source);
            let kept =
                desired.state_dir.as_ref().map(keep).transpose().map_err(Denial::NotSaved)?;
            if let Err(Refusal { path, message, hint }) =
                state.plane.apply(&loaded, &known, number, answers)
            {
                if let Some(Err(error)) = kept.map(Kept::undo) {
                    desired.say(format_args!(
                        "a config that is not live is kept for a restart: {error}"
                    ));
                }
                // The drain began since then, and closed the listeners.
                if *state.phase.borrow() == Phase::Draining {
                    return Err(Denial::Draining);
                }
                return Err(Denial::Refused(document.fault(&path, &message, &hint)));
            }
            kept.into_iter().for_each(Kept::stay);
            Ok((document.rest(), loaded.without_routes()))
        });
        let (document, loaded) = applied.await?;
        self.desired.has_push.store(true, Ordering::Release);
        self.desired.found.follow(&loaded.config, first);
        let (count, live) = watch::channel(0);
        tokio::spawn(self.clone().count(heard, count));
        let generation = Arc::new(Generation {
            number,
            document,
            loaded,
            origin: terms.origin,
            applied_at: SystemTime::now(),
            changes,
            live,
        });
        self.desired.succeed(generation.clone(), self.plane.workers());
        let config = &generation.loaded.config;
        let oldest = self.desired.oldest();
        if self.desired.pushed.follow(config, newest.number, oldest) {
            self.save_endpoints_soon();
        }
        let data = json!({
            "generation": number,
            "etag": generation.loaded.hash,
            "origin": generation.origin,
            "changed": changed(&generation.changes),
        });
        self.events.tell("config_applied", &data);
        Ok(Outcome::Applied(generation))
    }

    /// Counts the workers that have taken something up; what they had before they give back.
    pub(crate) async fn count(
        self: Arc<Self>,
        heard: Vec<oneshot::Receiver<()>>,
        count: watch::Sender<usize>,
    ) {
        for answer in heard {
            if answer.await.is_ok() {
                count.send_modify(|count| *count += 1);
            }
        }
        self.given_back.notify_one();
    }

    /// Frees what workers give back: at once, and what exchanges that are longer on their way have of
    /// it, later.
    pub(crate) async fn tidy_up(self: Arc<Self>) {
        loop {
            self.given_back.notified().await;
            self.plane.tidy();
            for pause in [Duration::from_secs(1), Duration::from_secs(30)] {
                if timeout(pause, self.given_back.notified()).await.is_ok() {
                    // There is more: from the start.
                    self.given_back.notify_one();
                    break;
                }
                self.plane.tidy();
                self.plane.give_memory_back();
            }
        }
    }

    /// Reads the files again, and makes live what is new in them. Says what came of it; where nobody
    /// asked, not that nothing did, and nothing twice.
    pub(crate) async fn reload(self: &Arc<Self>, because: Because) {
        let desired = &self.desired;
        if desired.source == Source::Push {
            return desired.say(format_args!(
                "reload: the config comes by pushes (--source push), and what the files hold is read \
                 at start only"
            ));
        }
        if *self.phase.borrow() == Phase::Draining {
            if because == Because::Told {
                let why = format!("{}; the config stays as it is", Denial::Draining);
                self.refuse(because, why);
            }
            return;
        }
        let (files, known) = (desired.files.clone(), desired.told().file_texts);
        // What is read is a hundred times what it was read from: not for a touch.
        let read = in_background(move || Document::load_if_other(&files, known)).await;
        self.given_back.notify_one();
        let document = match read {
            Ok(Some(document)) => document,
            Ok(None) => return desired.heed_nothing(because),
            Err(Failure::Invalid(found)) => {
                let why = format!("the config is invalid, the old one stays\n{found}");
                return self.refuse(because, why);
            }
            Err(unreadable) => {
                return self.refuse(because, format!("{unreadable}; the config stays as it is"));
            }
        };
        let (hash, texts) = (document.hash(), document.text_hash());
        if desired.told().file_hash == hash {
            desired.told().file_texts = texts;
            return desired.heed_nothing(because);
        }
        let terms = Terms { origin: "the files".to_owned(), if_match: None, dry_run: false };
        let outcome = self.change(terms, move |_| Ok(document)).await;
        match outcome {
            Ok(outcome) => {
                desired.heed(hash, texts);
                self.say_outcome(&outcome).await;
            }
            // The change was counted as refused already.
            Err(denial) => {
                desired.complain(because, format!("{denial}; the config stays as it is"))
            }
        }
    }

    /// What the files say is not made live.
    fn refuse(&self, because: Because, why: String) {
        let is_new = self.desired.told().complaint != why;
        if because == Because::Told || is_new {
            self.rejected(&why);
        }
        self.desired.complain(because, why);
    }

    /// Counts a config that was refused, and tells those who listen.
    fn rejected(&self, why: &str) {
        self.desired.told().rejected += 1;
        self.events.tell("config_rejected", &json!({ "reason": why }));
    }

    /// Says which generation is live, on how many workers.
    async fn say_outcome(&self, outcome: &Outcome) {
        let Outcome::Applied(generation) = outcome else {
            return self.desired.say(format_args!("reload: nothing has changed"));
        };
        let workers = self.plane.workers();
        generation.settled(workers, Duration::from_secs(2)).await;
        self.desired.say(format_args!(
            "config generation {}, hash {}, is live on {} of {workers} workers",
            generation.number,
            generation.loaded.hash,
            generation.live(),
        ));
    }
}

/// Looks at a document where that keeps nobody waiting: to have a large one again takes its time.
pub(crate) async fn look<T: Send + 'static>(
    document: &Resting,
    look: impl FnOnce(Document) -> T + Send + 'static,
) -> T {
    let document = document.clone();
    in_background(move || look(document.document())).await
}

/// Whether a hash is one of those that are expected; `*` is any.
pub(crate) fn is_among(hash: &str, expected: &[String]) -> bool {
    expected.iter().any(|expected| expected == "*" || expected == hash)
}

/// Goes on even where nobody waits for it any more: a client that has left must not leave half of a
/// change behind. A panic there is passed on.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs on a thread that may block. A panic there is passed on.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Denial {
    /// Whether the config is at fault, and not the moment at which it came.
    fn is_about_the_config(&self) -> bool {
        match self {
            Denial::Unparseable(_)
            | Denial::Invalid(_)
            | Denial::RestartRequired(..)
            | Denial::Refused(_)
            | Denial::NotSaved(_) => true,
            Denial::Draining | Denial::Stale(_) | Denial::NotFound(_) => false,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::Draining => f.write_str("draining"),
            Denial::Stale(Some(hash)) => write!(f, "stale: what is live has the hash {hash}"),
            Denial::Stale(None) => f.write_str("stale: it is not there, so it has no hash"),
            Denial::Unparseable(diagnostics) | Denial::Invalid(diagnostics) => {
                write!(f, "the config is invalid, the old one stays\n{diagnostics}")
            }
            Denial::RestartRequired(key, _) => {
                write!(f, "restart_required: `{key}` is read at start only")
            }
            Denial::Refused(found) => match found.list.first() {
                Some(Diagnostic { path, item, message, hint, .. }) => {
                    let (place, hint) = (item.as_ref().unwrap_or(path), hint.as_deref());
                    write!(f, "{place}: {message}; {}", hint.unwrap_or_default())
                }
                None => f.write_str("it is not to be had here"),
            },
            Denial::NotSaved(error) => {
                write!(
                    f,
                    "the state directory cannot be written: {error}; free some room there, or let it be written"
                )
            }
            Denial::NotFound(what) => write!(f, "there is no {what}"),
        }
    }
}

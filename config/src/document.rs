//! A config as a document: read, not yet checked, so that parts of it can be replaced and the whole
//! checked again.
//!
//! Every value knows the text that it came from, the file at start or the body of a push, so what is
//! wrong with a document that was put together from several is still told at its place.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::config::{CONFIG, Role, config};
use crate::defaults::with_defaults;
use crate::definition::{Kind as Shape, Object, Presence};
use crate::diagnostic::{Diagnostics, quoted};
use crate::environment::warn_of_variables;
use crate::fingerprint::{fingerprint, of_texts};
use crate::load::{Failure, Format, Loaded, Text, read, read_texts};
use crate::process::{State, state_dir};
use crate::reader::default_node;
use crate::report::{Problem, Report};
use crate::resting::Resting;
use crate::source::{Sources, Span};
use crate::tree::{Entry, Node, Style, Value};

/// Texts of pushes that are kept before those nobody refers to are let go.
const SOURCES_MAX: usize = 256;
/// Texts may be so much larger than what is in them, and so many bytes more: comments, indentation,
/// and what was replaced since.
const TEXTS_RATIO_MAX: usize = 4;
const TEXTS_SLACK_BYTES: usize = 1 << 20;

/// The keys that are read at start only: a push that leaves them out means what is running.
const BOOT_KEYS: [&str; 8] =
    ["node", "admin", "probes", "workers", "pin", "io", "state_dir", "limits"];

/// A config that was read. Cheap to clone.
#[derive(Clone)]
pub struct Document {
    sources: Arc<Sources>,
    tree: Arc<Node>,
    /// What was wrong with it when it was read, beside what is wrong with its keys.
    faults: Arc<[Problem]>,
}

/// The lists of a config whose items have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Listeners,
    Services,
    Routes,
    TcpRoutes,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Listeners, Kind::Services, Kind::Routes, Kind::TcpRoutes];

    /// As the config spells it, and as URLs do.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Listeners => "listeners",
            Kind::Services => "services",
            Kind::Routes => "routes",
            Kind::TcpRoutes => "tcp_routes",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Kind, ()> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// A difference between two documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `services/cart`, or a top-level key.
    pub path: String,
    pub what: What,
}

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Added,
    Removed,
    Changed,
}

impl Change {
    /// It is read at start only: a push that changes it is refused.
    pub fn needs_restart(&self) -> bool {
        BOOT_KEYS.contains(&self.path.as_str())
    }
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            What::Added => "added",
            What::Removed => "removed",
            What::Changed => "changed",
        }
    }
}

impl Document {
    /// Reads files and folders (their `.yaml`, `.yml`, `.toml` and `.json` files, by name) as one
    /// document. Lists join; `${NAME}` is taken from the environment.
    pub fn load(paths: &[PathBuf]) -> Result<Document, Failure> {
        Document::of_files(read_texts(paths)?)
    }

    /// The same, unless the files hold the very texts of which this is the [`Document::text_hash`].
    pub fn load_if_other(paths: &[PathBuf], known: u64) -> Result<Option<Document>, Failure> {
        let texts = read_texts(paths)?;
        if of_texts(texts.iter().map(Text::parts)) == known {
            return Ok(None);
        }
        Document::of_files(texts).map(Some)
    }

    /// What it says of `state_dir`, whatever is wrong with the rest.
    pub fn state(&self) -> Option<State> {
        let mut report = Report::new(&self.sources);
        state_dir(self.tree.get("state_dir")?, &mut report)
    }

    /// What files say of `state_dir` that are no document, cut off somewhere: of their lines, the whole
    /// one that says it.
    pub fn state_of_lines(paths: &[PathBuf]) -> Option<State> {
        let texts = read_texts(paths).ok()?;
        texts.iter().find_map(|text| {
            let ((name, bytes), format) = (text.parts(), text.format());
            let (whole, _cut) = bytes.split_at(bytes.iter().rposition(|byte| *byte == b'\n')?);
            let whole = String::from_utf8_lossy(whole);
            whole.lines().find_map(|line| {
                let line = match format {
                    Format::Json => format!("{{{}}}", line.trim().trim_end_matches(',')),
                    Format::Yaml | Format::Toml => line.to_owned(),
                };
                let says = line.trim_start_matches(['{', '"', ' ']).starts_with("state_dir");
                says.then(|| Document::parse(name, line.as_bytes(), format).ok()?.state())?
            })
        })
    }

    /// Reads files and folders as [`Document::load`] does, but as a push: `${NAME}` stays what it is.
    pub fn load_for_push(paths: &[PathBuf]) -> Result<Document, Failure> {
        let document = read(read_texts(paths)?, None).map_err(Failure::Invalid)?;
        match document.faults.is_empty() {
            true => Ok(document),
            false => Err(Failure::Invalid(document.report().finish())),
        }
    }

    fn of_files(texts: Vec<Text>) -> Result<Document, Failure> {
        let from_environment = |name: &str| std::env::var(name).ok();
        read(texts, Some(&from_environment)).map_err(Failure::Invalid)
    }

    /// Changes when a byte of its texts does, or what they are called.
    pub fn text_hash(&self) -> u64 {
        of_texts(self.sources.texts().map(|(name, text)| (name, text.as_bytes())))
    }

    /// Reads one text, as a push brings it: `${NAME}` stays what it is.
    pub fn parse(name: &str, text: &[u8], format: Format) -> Result<Document, Diagnostics> {
        let document = read(vec![Text::new(name, text, format)], None)?;
        match document.faults.is_empty() {
            true => Ok(document),
            false => Err(document.report().finish()),
        }
    }

    /// One that has no faults: it was checked.
    pub(crate) fn of(sources: Arc<Sources>, tree: Node) -> Document {
        Document { sources, tree: Arc::new(tree), faults: Arc::new([]) }
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(crate) fn tree(&self) -> &Node {
        &self.tree
    }

    /// In the form in which it is small. For one that was checked: faults of its texts are not kept.
    pub fn rest(&self) -> Resting {
        Resting::new(&self.sources, &self.tree)
    }

    pub(crate) fn new(sources: Sources, tree: Node, faults: Vec<Problem>) -> Document {
        Document { sources: Arc::new(sources), tree: Arc::new(tree), faults: faults.into() }
    }

    /// Checks the whole of it.
    pub fn check(&self) -> Result<Loaded, Diagnostics> {
        self.check_as(Role::Whole)
    }

    /// Checks it as what is read at start, where the rest comes by a push: there may be no listener.
    pub fn check_boot(&self) -> Result<Loaded, Diagnostics> {
        self.check_as(Role::Boot)
    }

    fn check_as(&self, role: Role) -> Result<Loaded, Diagnostics> {
        let mut report = self.report();
        warn_of_variables(&self.tree, &mut report);
        let merged = with_defaults(&self.tree, &mut report);
        let config = config(merged.as_ref().unwrap_or(&self.tree), role, &mut report);
        let has_errors = report.has_errors();
        let mut found = report.finish();
        for one in &mut found.list {
            one.item = self.item_of(&one.path);
        }
        match config {
            Some(config) if !has_errors => {
                Ok(Loaded { config, warnings: found, hash: self.hash() })
            }
            _ => Err(found),
        }
    }

    /// What is wrong with a valid config for reasons that lie outside it, told at the key that a path
    /// such as `listeners[1].address` leads to.
    pub fn fault(&self, path: &str, message: &str, hint: &str) -> Diagnostics {
        let mut node = &*self.tree;
        for step in path.split(['.', '[']) {
            let next = match (step.strip_suffix(']'), &node.value) {
                (Some(index), Value::List(items)) => {
                    index.parse().ok().and_then(|at: usize| items.get(at))
                }
                _ => node.get(step),
            };
            // A key that is left out is where it would be.
            node = next.unwrap_or(node);
        }
        let mut report = Report::new(&self.sources);
        report.add(Problem::error(node.span, message).path(path).hint(hint));
        let mut found = report.finish();
        found.list.iter_mut().for_each(|one| one.item = self.item_of(path));
        found
    }

    /// The named item that a path such as `services[2].endpoints` leads into.
    fn item_of(&self, path: &str) -> Option<String> {
        let (kind, rest) = path.split_once('[')?;
        let kind = Kind::from_str(kind).ok()?;
        let index: usize = rest.split(']').next()?.parse().ok()?;
        let name = name_of(items(&self.tree, kind).get(index)?)?;
        Some(format!("{kind}/{}", name.escape_debug()))
    }

    /// 16 hexadecimal digits that change when the content does.
    pub fn hash(&self) -> String {
        fingerprint(&self.tree)
    }

    /// As it was written. Read again it is the same document.
    pub fn to_json(&self) -> Json {
        written(&self.tree, &Shape::Object(&CONFIG))
    }

    /// With its `defaults` merged and every key that was left out and has a default.
    pub fn effective_json(&self) -> Json {
        let merged = with_defaults(&self.tree, &mut Report::new(&self.sources));
        effective(merged.as_ref().unwrap_or(&self.tree), &CONFIG)
    }

    /// One named item as it was written, and the hash of it.
    pub fn item(&self, kind: Kind, name: &str) -> Option<(Json, String)> {
        let item = items(&self.tree, kind).iter().find(|item| name_of(item) == Some(name))?;
        let shape = CONFIG.keys.iter().find(|key| key.name == kind.as_str()).map(|key| &key.kind);
        let json = match shape {
            Some(Shape::List(one)) => written(item, one),
            _ => as_json(item),
        };
        Some((json, fingerprint(item)))
    }

    /// The document that a push of a whole config asks for: `self` is what runs, whose boot keys hold
    /// where the push leaves them out.
    pub fn replaced_by(&self, pushed: &Document) -> Document {
        let mut sources = Sources::clone(&self.sources);
        let mut tree = Node::clone(&pushed.tree);
        tree.move_to(sources.adopt(&pushed.sources));
        if let Value::Map(entries) = &mut tree.value {
            for key in BOOT_KEYS.into_iter().filter(|key| pushed.tree.get(key).is_none()) {
                entries.extend(entry(&self.tree, key).cloned());
            }
        }
        Document::new(sources, tree, Vec::new()).compact()
    }

    /// Without what is read at start only.
    pub fn without_boot_keys(&self) -> Document {
        let mut tree = Node::clone(&self.tree);
        if let Value::Map(entries) = &mut tree.value {
            entries.retain(|entry| !BOOT_KEYS.contains(&entry.key.as_str()));
        }
        Document { tree: Arc::new(tree), ..self.clone() }
    }

    /// With one item put in place of the one that has its name, or at the end. `body` is the item;
    /// its `name` may be left out.
    pub fn with_item(
        &self,
        kind: Kind,
        name: &str,
        body: &Document,
    ) -> Result<Document, Diagnostics> {
        let mut item = Node::clone(&body.tree);
        if let Value::Map(entries) = &mut item.value {
            match entries.iter().find(|entry| entry.key == "name").map(|entry| &entry.value) {
                None => {
                    let value = Node::scalar(item.span, name, Style::Quoted);
                    let key_span = item.span;
                    entries.insert(0, Entry { key: "name".into(), key_span, value });
                }
                Some(given) if given.as_scalar().is_some_and(|given| given.text == name) => {}
                Some(given) => {
                    let message = format!("this is about {}, so its name is that", quoted(name));
                    let problem = Problem::error(given.span, message).path("name");
                    return Err(
                        body.only(problem.hint("leave `name` out, or PUT it to its own URL"))
                    );
                }
            }
        }
        let mut sources = Sources::clone(&self.sources);
        item.move_to(sources.adopt(&body.sources));
        let mut tree = Node::clone(&self.tree);
        put(&mut tree, kind, item);
        Ok(Document::new(sources, tree, Vec::new()).compact())
    }

    /// Without the item of this name; `None` if there is none.
    pub fn without_item(&self, kind: Kind, name: &str) -> Option<Document> {
        let mut tree = Node::clone(&self.tree);
        let list = items_mut(&mut tree, kind);
        let place = list.iter().position(|item| name_of(item) == Some(name))?;
        list.remove(place);
        Some(Document { tree: Arc::new(tree), ..self.clone() })
    }

    /// With everything that a batch says: `{put: {services: […]}, delete: {routes: [NAME]}}`.
    pub fn with_batch(&self, body: &Document) -> Result<Document, Diagnostics> {
        let mut report = body.report();
        let mut tree = Node::clone(&self.tree);
        let mut sources = Sources::clone(&self.sources);
        let first = sources.adopt(&body.sources);
        let mut seen = HashMap::new();
        let mut places: HashMap<Kind, Places> = HashMap::new();
        for (key, value) in map(&body.tree, "a batch", &["put", "delete"], &mut report) {
            let kinds = Kind::ALL.map(Kind::as_str);
            for (kind, list) in map(value, "this", &kinds, &mut report) {
                let Ok(kind) = Kind::from_str(kind) else { continue };
                let Value::List(list) = &list.value else {
                    let message = format!("this is a list, not {}", list.describe());
                    report.add(Problem::error(list.span, message).path(format!("{key}.{kind}")));
                    continue;
                };
                let places = places.entry(kind).or_insert_with(|| Places::of(items(&tree, kind)));
                for (place, item) in list.iter().enumerate() {
                    let path = format!("{key}.{kind}[{place}]");
                    let name = name_of(item).or(item.as_scalar().map(|name| name.text.as_str()));
                    if let Some(first) = name.and_then(|name| seen.insert((kind, name), item.span))
                    {
                        let message = "a batch says one thing of each item, and this is its second";
                        let problem = Problem::error(item.span, message).path(path);
                        report.add(problem.related(first, "the first one"));
                        continue;
                    }
                    let done = match (key, name) {
                        ("put", Some(name)) if item.as_scalar().is_none() => {
                            let mut item = item.clone();
                            item.move_to(first);
                            places.put(items_mut(&mut tree, kind), name, item);
                            Ok(())
                        }
                        ("put", _) => Err("an item of a batch needs its `name`".to_owned()),
                        (_, Some(name)) if item.as_scalar().is_some() => places.delete(kind, name),
                        _ => Err(format!("this is a name, not {}", item.describe())),
                    };
                    if let Err(message) = done {
                        report.add(Problem::error(item.span, message).path(path));
                    }
                }
            }
        }
        for (kind, places) in places.into_iter().filter(|(_, places)| !places.deleted.is_empty()) {
            places.finish(items_mut(&mut tree, kind));
        }
        match report.has_errors() {
            true => Err(report.finish()),
            false => Ok(Document::new(sources, tree, Vec::new()).compact()),
        }
    }

    /// What differs in `newer`, by name; keys that have no items by key.
    pub fn changes(&self, newer: &Document) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut add = |path: String, old: Option<&Node>, new: Option<&Node>| {
            let what = match (old, new) {
                (None, Some(_)) => What::Added,
                (Some(_), None) => What::Removed,
                (Some(old), Some(new)) if fingerprint(old) != fingerprint(new) => What::Changed,
                _ => return,
            };
            changes.push(Change { path, what });
        };
        for kind in Kind::ALL {
            let named = |tree| -> HashMap<&str, &Node> {
                items(tree, kind).iter().filter_map(|item| Some((name_of(item)?, item))).collect()
            };
            let (old, new) = (named(&self.tree), named(&newer.tree));
            let mut names: Vec<&str> = old.keys().chain(new.keys()).copied().collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let path = format!("{kind}/{name}");
                add(path, old.get(name).copied(), new.get(name).copied());
            }
        }
        for key in CONFIG.keys.iter().map(|key| key.name) {
            if Kind::from_str(key).is_err() {
                add(key.to_owned(), self.tree.get(key), newer.tree.get(key));
            }
        }
        changes
    }

    /// Reads something else than a config from it.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Node, &mut Report<'_>) -> Option<T>,
    ) -> Result<T, Diagnostics> {
        let mut report = self.report();
        match read(&self.tree, &mut report) {
            Some(value) if !report.has_errors() => Ok(value),
            _ => Err(report.finish()),
        }
    }

    /// How many texts it was put together from and still refers to, or might.
    pub fn texts(&self) -> usize {
        self.sources.len()
    }

    fn report(&self) -> Report<'_> {
        let mut report = Report::new(&self.sources);
        self.faults.iter().cloned().for_each(|fault| report.add_reason(fault));
        report
    }

    /// The diagnostics that hold one problem.
    fn only(&self, problem: Problem) -> Diagnostics {
        let mut report = Report::new(&self.sources);
        report.add(problem);
        report.finish()
    }

    /// Lets go of texts that nothing refers to any more, once there are many or they are large. Where
    /// what is referred to is large for what is in it, it is written anew.
    fn compact(self) -> Document {
        if self.sources.len() <= SOURCES_MAX && !self.is_bloated() {
            return self;
        }
        let compact = self.without_unused_texts();
        if !compact.is_bloated() {
            return compact;
        }
        let text = format!("{:#}", compact.to_json());
        Document::parse("(what is live)", text.as_bytes(), Format::Json).unwrap_or(compact)
    }

    fn is_bloated(&self) -> bool {
        let texts: usize = self.sources.lengths().map(|(_, bytes)| bytes).sum();
        texts > TEXTS_SLACK_BYTES && {
            let content = self.tree.text_bytes();
            texts > TEXTS_SLACK_BYTES + content.saturating_mul(TEXTS_RATIO_MAX)
        }
    }

    fn without_unused_texts(mut self) -> Document {
        let mut used = vec![false; self.sources.len()];
        self.tree.each_span(&mut |span| {
            if let Some(used) = used.get_mut(span.file as usize) {
                *used = true;
            }
        });
        let (sources, places) = self.sources.only(&used);
        let tree = Arc::make_mut(&mut self.tree);
        tree.each_span_mut(&mut |span| {
            if let Some(place) = places.get(span.file as usize) {
                span.file = *place;
            }
        });
        self.sources = Arc::new(sources);
        self
    }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

fn items(tree: &Node, kind: Kind) -> &[Node] {
    tree.items(kind.as_str())
}

/// The list, made where there is none.
fn items_mut(tree: &mut Node, kind: Kind) -> &mut Vec<Node> {
    let Value::Map(entries) = &mut tree.value else {
        unreachable!("a document is a map: what joins files makes one")
    };
    let place = entries.iter().position(|entry| entry.key == kind.as_str());
    let place = place.unwrap_or_else(|| {
        let value = Node { span: Span::NOWHERE, value: Value::List(Vec::new()) };
        let key = kind.as_str().to_owned();
        entries.push(Entry { key, key_span: Span::NOWHERE, value });
        entries.len() - 1
    });
    let value = &mut entries[place].value.value;
    if !matches!(value, Value::List(_)) {
        *value = Value::List(Vec::new());
    }
    match value {
        Value::List(items) => items,
        _ => unreachable!("it was made one"),
    }
}

fn name_of(item: &Node) -> Option<&str> {
    item.get("name")?.as_scalar().map(|name| name.text.as_str())
}

fn put(tree: &mut Node, kind: Kind, item: Node) {
    let place = {
        let name = name_of(&item);
        items(tree, kind).iter().position(|known| name_of(known) == name)
    };
    let list = items_mut(tree, kind);
    match place {
        Some(place) => list[place] = item,
        None => list.push(item),
    }
}

/// Where the items of a list are, by name: a batch may be as long as the list.
struct Places {
    by_name: HashMap<String, usize>,
    deleted: HashSet<usize>,
}

impl Places {
    fn of(list: &[Node]) -> Places {
        let named = list.iter().enumerate();
        let named = named.filter_map(|(place, item)| Some((name_of(item)?.to_owned(), place)));
        Places { by_name: named.collect(), deleted: HashSet::new() }
    }

    fn put(&mut self, list: &mut Vec<Node>, name: &str, item: Node) {
        match self.by_name.get(name) {
            Some(place) => list[*place] = item,
            None => {
                self.by_name.insert(name.to_owned(), list.len());
                list.push(item);
            }
        }
    }

    fn delete(&mut self, kind: Kind, name: &str) -> Result<(), String> {
        let what = || kind.as_str().trim_end_matches('s').replace('_', " ");
        let missing = || format!("there is no {} with the name {}", what(), quoted(name));
        self.deleted.insert(*self.by_name.get(name).ok_or_else(missing)?);
        Ok(())
    }

    /// Takes out what was deleted, which until then has kept the places of the rest.
    fn finish(self, list: &mut Vec<Node>) {
        let mut places = 0..;
        list.retain(|_| !places.next().is_some_and(|place| self.deleted.contains(&place)));
    }
}

/// The entries of a map that may have these keys; everything else is reported.
fn map<'n>(
    node: &'n Node,
    what: &str,
    keys: &[&'static str],
    report: &mut Report<'_>,
) -> Vec<(&'static str, &'n Node)> {
    let hint = || format!("its keys: {}", keys.join(", "));
    let Value::Map(entries) = &node.value else {
        let message = format!("{what} is a map, not {}", node.describe());
        report.add(Problem::error(node.span, message).hint(hint()));
        return Vec::new();
    };
    let mut known = Vec::new();
    for entry in entries {
        match keys.iter().find(|key| **key == entry.key) {
            Some(key) => known.push((*key, &entry.value)),
            None => {
                let message = format!("unknown key {}", quoted(&entry.key));
                report.add(Problem::error(entry.key_span, message).hint(hint()));
            }
        }
    }
    known
}

/// As it was written: plain numbers and truth values are such, everything else is text.
pub(crate) fn as_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar(scalar) => match scalar.style {
            Style::Plain => serde_json::from_str(&scalar.text)
                .ok()
                .filter(|value: &Json| value.is_number() || value.is_boolean())
                .unwrap_or_else(|| Json::String(scalar.text.clone())),
            Style::Quoted | Style::Substituted => Json::String(scalar.text.clone()),
        },
        Value::List(items) => Json::Array(items.iter().map(as_json).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|e| (e.key.clone(), as_json(&e.value))).collect())
        }
    }
}

/// The same, with numbers where the tables say that there are some: what came by `${NAME}` is one there,
/// and a text elsewhere.
fn written(node: &Node, kind: &Shape) -> Json {
    match (kind, &node.value) {
        (Shape::OrNone(inner) | Shape::OrWords(_, inner), _) => written(node, inner),
        (Shape::Object(object) | Shape::Part(object), Value::Map(entries)) => {
            let value = |entry: &Entry| match object.keys.iter().find(|key| key.name == entry.key) {
                Some(key) => written(&entry.value, &key.kind),
                None => as_json(&entry.value),
            };
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), value(entry))).collect())
        }
        (Shape::List(inner), Value::List(items)) => {
            Json::Array(items.iter().map(|item| written(item, inner)).collect())
        }
        (Shape::Number | Shape::Status, Value::Scalar(scalar)) if scalar.style != Style::Quoted => {
            let number = scalar.text.parse::<i64>().map(Json::from);
            number.unwrap_or_else(|_| as_json(node))
        }
        _ => as_json(node),
    }
}

/// With what the tables say of keys that were left out.
fn effective(node: &Node, object: &'static Object) -> Json {
    let mut map = Map::new();
    let chosen = object.one_of.iter().find(|choice| node.get(choice).is_some());
    for key in object.keys {
        let is_idle = key.only_with.is_some_and(|choice| chosen.is_some_and(|it| *it != choice));
        match (node.get(key.name), key.presence) {
            (Some(value), _) => {
                map.insert(key.name.to_owned(), effective_value(value, &key.kind));
            }
            (None, Presence::Default(text)) if !is_idle => {
                let value = effective_value(&default_node(text), &key.kind);
                map.insert(key.name.to_owned(), value);
            }
            (None, _) => {}
        }
    }
    map.remove("defaults");
    Json::Object(map)
}

fn effective_value(node: &Node, kind: &Shape) -> Json {
    match (kind, &node.value) {
        (Shape::Object(object), Value::Map(_) | Value::Null) => effective(node, object),
        (Shape::OrNone(inner) | Shape::OrWords(_, inner), Value::Map(_)) => {
            effective_value(node, inner)
        }
        (Shape::List(inner), Value::List(items)) => {
            Json::Array(items.iter().map(|item| effective_value(item, inner)).collect())
        }
        _ => written(node, kind),
    }
}

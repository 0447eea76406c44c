//! The commands that talk to a running ringside: push, rollback, diff, status, endpoints, drain,
//! undrain, wait, and `explain --admin`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use config::{Document, Failure, Format, Name};
use control::{Listen, Method, Question, Reply};
use serde_json::{Value as Json, json};

use crate::check::{Output, colours};

const UNAUTHORIZED: u16 = 401;
/// Between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(100);

/// Whom to talk to.
#[derive(clap::Args, Debug)]
pub struct Admin {
    /// Where the running ringside's admin is: unix:PATH or IP:PORT.
    #[arg(long, env = "RINGSIDE_ADMIN", default_value = config::ADMIN_USUAL, value_name = "ADDR")]
    admin: config::Address,
    /// A file that holds the token.
    #[arg(long, env = "RINGSIDE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What to push, and on what terms.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub struct Push {
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only if this is what is live: the etag that `ringside status` shows.
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// How long to wait until all workers have it.
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration_text)]
    wait: String,
    #[command(flatten)]
    admin: Admin,
}

fn name(text: &str) -> Result<Name, String> {
    let letters = "a name is letters, digits, `.`, `_` and `-`, and begins with a letter or digit";
    Name::parse(text).ok_or_else(|| letters.to_owned())
}

/// As it was written, if that is a duration.
fn duration_text(text: &str) -> Result<String, String> {
    config::parse_time(text).map(|_| text.to_owned())
}

/// 0 live on all workers, 1 refused, 2 nobody to ask or unreadable, 3 not yet on all workers.
pub fn push(files: &[PathBuf], push: &Push) -> Result<ExitCode, String> {
    let (body, kind, file) = match files {
        [file] if !file.is_dir() => {
            let body = std::fs::read(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let kind = match Format::of(file) {
                Format::Yaml => "application/yaml",
                Format::Toml => "application/toml",
                Format::Json => "application/json",
            };
            (body, kind, Some(file.as_path()))
        }
        // Several are one document. Where in them something is wrong is known here alone.
        _ => {
            let document = Document::load_for_push(files).map_err(in_words)?;
            document.check().map_err(|found| in_words(Failure::Invalid(found)))?;
            (document.to_json().to_string().into_bytes(), "application/json", None)
        }
    };
    let reply = push.admin.ask(Question {
        method: Method::PUT,
        path: format!("/v1/config?dry_run={}&wait={}", push.dry_run, push.wait),
        body: Some((kind, body)),
        if_match: push.if_match.clone(),
        ..Question::default()
    })?;
    push.admin.tell_change(&reply, file)
}

fn in_words(failure: Failure) -> String {
    match failure {
        Failure::Invalid(found) => format!("the config is invalid\n{}", found.render(colours())),
        unreadable @ Failure::Unreadable { .. } => unreadable.to_string(),
    }
}

/// Goes back to an earlier generation; the one before where none is named.
pub fn rollback(admin: &Admin, generation: Option<u64>) -> Result<ExitCode, String> {
    let reply = admin.post("/v1/config/rollback", &json!({ "generation": generation }))?;
    admin.tell_change(&reply, None)
}

/// What a file would change in what is live: 0 nothing, 1 something, 2 nobody to ask or unreadable.
pub fn diff(admin: &Admin, files: &[PathBuf]) -> Result<ExitCode, String> {
    let document = Document::load(files).map_err(in_words)?;
    document.check().map_err(|found| in_words(Failure::Invalid(found)))?;
    let reply = admin.get("/v1/config")?;
    admin.expect_ok(&reply)?;
    let live = Document::parse("(live)", &reply.body, Format::Json);
    let live = live.map_err(|found| format!("admin sent no config: {found}"))?;
    // Boot keys that are left out mean what is running, as they do in a push.
    let changes = live.changes(&live.replaced_by(&document));
    let mut out = io::stdout().lock();
    let written = match admin.output {
        Output::Json => {
            let list: Vec<Json> = changes
                .iter()
                .map(|change| {
                    let (path, what) = (&change.path, change.what.as_str());
                    json!({ "path": path, "change": what, "needs_restart": change.needs_restart() })
                })
                .collect();
            writeln!(out, "{:#}", Json::from(list))
        }
        Output::Text => changes.iter().try_for_each(|change| {
            let restart = if change.needs_restart() { " (needs a restart)" } else { "" };
            writeln!(out, "{} {}{restart}", mark(change.what.as_str()), change.path)
        }),
    };
    written.map_err(|error| error.to_string())?;
    Ok(ExitCode::from(u8::from(!changes.is_empty())))
}

/// What runs: 0 ready, 1 not.
pub fn status(admin: &Admin) -> Result<ExitCode, String> {
    let reply = admin.get("/v1/status")?;
    admin.expect_ok(&reply)?;
    let status = json_of(&reply)?;
    if status["generation"].is_null() {
        return Err(format!("what answers at {} is not ringside's admin", admin.admin));
    }
    match admin.output {
        Output::Json => admin.print(&status)?,
        Output::Text => print_status(&status).map_err(|error| error.to_string())?,
    }
    Ok(ExitCode::from(u8::from(status["ready"] != true)))
}

fn print_status(status: &Json) -> io::Result<()> {
    let text = |key: &str| plain(&status[key]);
    let mut out = io::stdout().lock();
    let unsaved = if status["unsaved"] == true { "  (unsaved: gone after a restart)" } else { "" };
    let uptime = status["uptime_s"].as_f64().unwrap_or_default();
    writeln!(out, "version     {}", text("version"))?;
    let why = text("not_ready_because");
    let why = if why.is_empty() { why } else { format!(", not ready: {why}") };
    writeln!(out, "phase       {}{why}", text("phase"))?;
    writeln!(out, "uptime      {uptime:.0} s")?;
    writeln!(out, "config      generation {}, etag {}{unsaved}", text("generation"), text("etag"))?;
    writeln!(out, "from        {}", text("origin"))?;
    for line in text("files_refused_because").lines() {
        writeln!(out, "files       not used: {line}")?;
    }
    writeln!(out, "live on     {} of {} workers", text("live"), text("workers"))?;
    let in_use = status["generations_in_use"].as_array().map_or(&[][..], Vec::as_slice);
    if let [earlier @ .., _] = in_use
        && !earlier.is_empty()
    {
        let earlier: Vec<String> = earlier.iter().map(plain).collect();
        writeln!(out, "earlier     requests that go on see generation {}", earlier.join(", "))?;
    }
    writeln!(out, "io          {}", text("io_backend"))?;
    if !status["silent_workers"].is_null() {
        writeln!(out, "trouble     {}", text("silent_workers"))?;
    }
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let [name, kind, address] = ["name", "kind", "address"].map(|key| plain(&listener[key]));
        writeln!(
            out,
            "listener    {name} {kind} {address}, {} connections",
            plain(&listener["connections"])
        )?;
    }
    Ok(())
}

/// The endpoints of a running ringside, and what to make of one of them.
#[derive(clap::Args, Debug)]
pub struct Endpoints {
    /// What to make of an endpoint; left out, all endpoints are listed.
    #[arg(value_enum, requires_all = ["service", "endpoint"])]
    change: Option<EndpointChange>,
    #[arg(value_parser = name)]
    service: Option<Name>,
    /// Its address, as the list shows it.
    endpoint: Option<String>,
    #[command(flatten)]
    admin: Admin,
}

/// Ends with the endpoint's removal, a restart, or the next of these.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EndpointChange {
    /// No more requests.
    Eject,
    /// Requests again.
    Restore,
    /// No more requests, and its connections are closed as they rest.
    Drain,
}

/// 0 done, 1 refused, 2 nobody to ask.
pub fn endpoints(endpoints: &Endpoints) -> Result<ExitCode, String> {
    let Endpoints { change, service, endpoint, admin } = endpoints;
    let (Some(change), Some(service), Some(endpoint)) = (change, service, endpoint) else {
        let reply = admin.get("/v1/endpoints")?;
        return match reply.status {
            200 => admin.tell(&reply, endpoint_table),
            _ => admin.tell_problem(&reply, None),
        };
    };
    let change = match change {
        EndpointChange::Eject => "eject",
        EndpointChange::Restore => "restore",
        EndpointChange::Drain => "drain",
    };
    let path = format!("/v1/services/{service}/{change}");
    let reply = admin.post(&path, &json!({ "endpoint": endpoint }))?;
    match reply.status {
        200 | 202 => admin.tell(&reply, |body| {
            let [state, live, workers] = ["state", "live", "workers"].map(|key| plain(&body[key]));
            format!("{endpoint} of {service} is {state} on {live} of {workers} workers\n")
        }),
        _ => admin.tell_problem(&reply, None),
    }
}

fn endpoint_table(list: &Json) -> String {
    let head = ["SERVICE", "ENDPOINT", "STATE", "WEIGHT", "REQUESTS", "IDLE", "LABELS"];
    let rows = list.as_array().into_iter().flatten().map(|endpoint| {
        let labels = endpoint["labels"].as_object().into_iter().flatten();
        let labels: Vec<String> = labels.map(|(key, to)| format!("{key}={}", plain(to))).collect();
        let columns = ["service", "address", "state", "weight", "requests", "idle_connections"];
        let columns = columns.map(|key| plain(&endpoint[key])).into_iter();
        columns.chain([labels.join(",")]).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> =
        [head.map(str::to_owned).to_vec()].into_iter().chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let mut table = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        table.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

/// `drain` or `undrain`.
pub fn set_aside(admin: &Admin, command: &str) -> Result<ExitCode, String> {
    let reply = admin.post(&format!("/v1/{command}"), &json!({}))?;
    match reply.status {
        200 => admin.tell(&reply, |body| format!("{}\n", plain(&body["phase"]))),
        _ => admin.tell_problem(&reply, None),
    }
}

/// Waits until it is ready: 0 it is, 1 it is not in time, 2 it does not know us.
pub fn wait(admin: &Admin, timeout: Duration) -> Result<ExitCode, String> {
    let deadline = Instant::now() + timeout;
    loop {
        let question = Question { path: "/readyz".to_owned(), ..Question::default() };
        let why = match admin.answer(question) {
            Ok(reply) if reply.status == UNAUTHORIZED => return Err(admin.wants_token()),
            Ok(reply) if reply.status == 200 => {
                if admin.output == Output::Json {
                    admin.print(&json!({ "ready": true }))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            Ok(reply) => String::from_utf8_lossy(&reply.body).trim().to_owned(),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            if admin.output == Output::Json {
                admin.print(&json!({ "ready": false, "not_ready_because": why }))?;
            }
            crate::say::say(format_args!("not ready after {} s: {why}", timeout.as_secs_f64()));
            return Ok(ExitCode::from(1));
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks a running ringside where a request would go: 0 a route takes it, 1 none does.
pub fn explain(
    admin: &config::Address,
    token_file: Option<PathBuf>,
    output: Output,
    question: &Json,
) -> Result<ExitCode, String> {
    let admin = Admin { admin: admin.clone(), token_file, output };
    let reply = admin.post("/v1/explain", question)?;
    if reply.status != 200 {
        // A question that is unclear has no answer; 1 is one.
        return admin.tell_problem(&reply, None).map(|_| ExitCode::from(2));
    }
    let mut body = json_of(&reply)?;
    let text = body.as_object_mut().and_then(|body| body.remove("text"));
    let is_taken = body["outcome"] != "refused";
    match output {
        Output::Json => admin.print(&body)?,
        Output::Text => {
            write!(io::stdout(), "{}", plain(&text.unwrap_or_default()))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(ExitCode::from(u8::from(!is_taken)))
}

impl Admin {
    /// Asks; a token that is missing or not known is as good as nobody to ask.
    fn ask(&self, question: Question) -> Result<Reply, String> {
        let reply = self.answer(question)?;
        if reply.status == UNAUTHORIZED { Err(self.wants_token()) } else { Ok(reply) }
    }

    fn wants_token(&self) -> String {
        let token = match &self.token_file {
            Some(file) => format!("does not know the token in {}", file.display()),
            None => "wants a token: give its file by --token-file".to_owned(),
        };
        format!("admin at {} {token}", self.admin)
    }

    fn answer(&self, mut question: Question) -> Result<Reply, String> {
        if let Some(file) = &self.token_file {
            let token = std::fs::read(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let token =
                config::token_in(&token).map_err(|why| format!("{}: {why}", file.display()))?;
            question.token = Some(String::from_utf8_lossy(token).into_owned());
        }
        let listen = match &self.admin {
            config::Address::Ip(ip) => Listen::Tcp(*ip),
            config::Address::Unix(path) => Listen::Unix(path.clone()),
            config::Address::Abstract(name) => {
                return Err(format!("admin is never at an abstract socket such as @{name}"));
            }
        };
        control::ask(&listen, question).map_err(|error| {
            format!(
                "no answer from admin at {listen}: {error}; is it running, and is --admin right?"
            )
        })
    }

    /// Anything but a 200 is no answer.
    fn expect_ok(&self, reply: &Reply) -> Result<(), String> {
        if reply.status == 200 {
            return Ok(());
        }
        let said: Json = serde_json::from_slice(&reply.body).unwrap_or_default();
        let [title, detail] = ["title", "detail"].map(|key| plain(&said[key]));
        let (status, admin) = (reply.status, &self.admin);
        Err(format!("{admin} answered {status} {title}: {detail}; is --admin right?"))
    }

    fn get(&self, path: &str) -> Result<Reply, String> {
        self.ask(Question { path: path.to_owned(), ..Question::default() })
    }

    fn post(&self, path: &str, body: &Json) -> Result<Reply, String> {
        self.ask(Question {
            method: Method::POST,
            path: path.to_owned(),
            body: Some(("application/json", body.to_string().into_bytes())),
            ..Question::default()
        })
    }

    fn tell_change(&self, reply: &Reply, file: Option<&Path>) -> Result<ExitCode, String> {
        match reply.status {
            200 | 202 => {
                self.tell(reply, change_text)?;
                Ok(ExitCode::from(if reply.status == 200 { 0 } else { 3 }))
            }
            _ => self.tell_problem(reply, file),
        }
    }

    fn tell(&self, reply: &Reply, text: impl Fn(&Json) -> String) -> Result<ExitCode, String> {
        let body = json_of(reply)?;
        match self.output {
            Output::Json => self.print(&body)?,
            Output::Text => write!(io::stdout(), "{}", text(&body)).map_err(|e| e.to_string())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Says what was refused and why; `file` is where the text came from.
    fn tell_problem(&self, reply: &Reply, file: Option<&Path>) -> Result<ExitCode, String> {
        let mut body = json_of(reply)?;
        if self.output == Output::Json {
            for error in body["errors"].as_array_mut().into_iter().flatten() {
                if let Some(file) = file.filter(|_| error["file"] == "(body)") {
                    error["file"] = json!(file.display().to_string());
                }
            }
            self.print(&body)?;
            return Ok(ExitCode::from(1));
        }
        let mut out = io::stderr().lock();
        let written = (|| {
            writeln!(out, "ringside: {}: {}", plain(&body["title"]), plain(&body["detail"]))?;
            for error in body["errors"].as_array().into_iter().flatten() {
                let place = match (error["file"].as_str(), file) {
                    (Some("(body)"), Some(file)) => file.display().to_string(),
                    (known, _) => known.unwrap_or_default().to_owned(),
                };
                let [line, column] = ["line", "column"].map(|key| plain(&error[key]));
                let at = if line.is_empty() { place } else { format!("{place}:{line}:{column}") };
                let [path, message, hint] =
                    ["path", "message", "hint"].map(|key| plain(&error[key]));
                writeln!(out, "  {at} {path}: {message}")?;
                if !hint.is_empty() {
                    writeln!(out, "      {hint}")?;
                }
            }
            Ok(())
        })();
        written.map_err(|error: io::Error| error.to_string())?;
        Ok(ExitCode::from(1))
    }

    fn print(&self, body: &Json) -> Result<(), String> {
        writeln!(io::stdout(), "{body:#}").map_err(|error| error.to_string())
    }
}

fn change_text(body: &Json) -> String {
    let mut text = String::new();
    for change in body["changed"].as_array().into_iter().flatten() {
        let mark = mark(change["change"].as_str().unwrap_or_default());
        text.push_str(&format!("{mark} {}\n", plain(&change["path"])));
    }
    for warning in body["warnings"].as_array().into_iter().flatten() {
        text.push_str(&format!("warning: {}\n", plain(&warning["message"])));
    }
    let [generation, live, workers] =
        ["generation", "live", "workers"].map(|key| plain(&body[key]));
    text.push_str(&match (body["dry_run"] == true, text.is_empty()) {
        (true, true) => "nothing would change\n".to_owned(),
        (true, false) => "nothing was changed: --dry-run\n".to_owned(),
        (false, true) => format!("nothing new: generation {generation} stays\n"),
        (false, false) => {
            format!("generation {generation} is live on {live} of {workers} workers\n")
        }
    });
    text
}

fn mark(change: &str) -> char {
    match change {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    }
}

/// A value as text, without quotes; nothing for what is not there.
fn plain(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn json_of(reply: &Reply) -> Result<Json, String> {
    serde_json::from_slice(&reply.body)
        .map_err(|_| format!("admin answered {} with something that is no JSON", reply.status))
}

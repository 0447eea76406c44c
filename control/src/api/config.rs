//! The config: read, replaced whole or in parts, gone back to.

use std::sync::Arc;
use std::time::Duration;

use axum::extract;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use config::{Document, Format, Kind};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::body::{Named, Query, Text, expect_json, format, if_match, must_be_new, object};
use super::{Shared, json_response};
use crate::auth::Caller;
use crate::data_plane::DataPlane;
use crate::desired::{Denial, Outcome, Terms, changed, is_among, list, look, to_the_end};
use crate::problem::Problem;
use crate::state::State;

/// `GET /v1/config`
pub(super) async fn get_all<P: DataPlane>(
    extract::State(state): Shared<P>,
    query: Query,
) -> Response {
    let newest = state.desired.newest();
    let body = look(&newest.document, move |document| {
        let body = match query.effective {
            true => document.effective_json(),
            false => document.to_json(),
        };
        json_response(&body)
    });
    tagged(body.await, &newest.loaded.hash)
}

/// `PUT /v1/config`
pub(super) async fn put_all<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    let format = format(&headers)?;
    let edit = move |running: &Document| {
        let pushed = Document::parse(BODY, &body, format).map_err(Denial::Unparseable)?;
        Ok(running.replaced_by(&pushed))
    };
    let origin = format!("PUT /v1/config{}", caller.by());
    change(&state, &origin, &query, if_match(&headers), edit).await
}

/// `GET /v1/config/{kind}/{name}`
pub(super) async fn get_item<P: DataPlane>(
    extract::State(state): Shared<P>,
    Named((kind, name)): Named<(String, String)>,
) -> Result<Response, Problem> {
    let kind = parse_kind(&kind)?;
    let newest = state.desired.newest();
    let item = look(&newest.document, move |document| {
        let missing = || problem(Denial::NotFound(format!("{kind}/{name}")));
        document.item(kind, &name).ok_or_else(missing)
    });
    let (item, hash) = item.await?;
    Ok(tagged(json_response(&item), &hash))
}

/// `PUT /v1/config/{kind}/{name}`
pub(super) async fn put_item<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Named((kind, name)): Named<(String, String)>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    let (kind, format) = (parse_kind(&kind)?, format(&headers)?);
    let origin = format!("PUT /v1/config/{kind}/{}{}", name.escape_debug(), caller.by());
    let (expected, must_be_new) = (if_match(&headers), must_be_new(&headers));
    let item = name.clone();
    let edit = move |running: &Document| {
        expect_item(running, kind, &name, expected)?;
        if let Some((_, hash)) = running.item(kind, &name).filter(|_| must_be_new) {
            return Err(Denial::Stale(Some(hash)));
        }
        let body = Document::parse(BODY, &body, format).map_err(Denial::Unparseable)?;
        running.with_item(kind, &name, &body).map_err(Denial::Invalid)
    };
    let response = change(&state, &origin, &query, None, edit).await?;
    if query.dry_run {
        return Ok(response);
    }
    // The item's own, not the config's.
    let newest = state.desired.newest();
    let tag = look(&newest.document, move |document| document.item(kind, &item));
    Ok(match tag.await {
        Some((_, hash)) => tagged(response, &hash),
        None => response,
    })
}

/// `DELETE /v1/config/{kind}/{name}`
pub(super) async fn delete_item<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Named((kind, name)): Named<(String, String)>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kind = parse_kind(&kind)?;
    let shown = name.escape_debug().to_string();
    let origin = format!("DELETE /v1/config/{kind}/{shown}{}", caller.by());
    let (expected, of) = (if_match(&headers), shown.clone());
    let edit = move |running: &Document| {
        expect_item(running, kind, &name, expected)?;
        let without = running.without_item(kind, &name);
        without.ok_or_else(|| Denial::NotFound(format!("{kind}/{shown}")))
    };
    let changed = change(&state, &origin, &query, None, edit).await;
    changed.map_err(|problem| match problem.items() {
        users if users.is_empty() || problem.title != "invalid_config" => problem,
        users => {
            let users = users.join(", ");
            problem.because(format!(
                "{kind}/{of} is in use by {users}; take them out first, or in one batch"
            ))
        }
    })
}

/// `POST /v1/config/batch`
pub(super) async fn batch<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let edit = move |running: &Document| {
        // What is not JSON is not parseable; what is no batch is invalid.
        let body = Document::parse(BODY, &body, Format::Json).map_err(Denial::Unparseable)?;
        running.with_batch(&body).map_err(Denial::Invalid)
    };
    let origin = format!("POST /v1/config/batch{}", caller.by());
    change(&state, &origin, &query, if_match(&headers), edit).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Rollback {
    generation: Option<u64>,
}

/// `POST /v1/config/rollback`
pub(super) async fn rollback<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let asked = match body.is_empty() {
        true => Rollback::default(),
        false => object(&body, "{\"generation\": 3}")?,
    };
    let number = match asked.generation {
        Some(number) => number,
        None => state.desired.newest().number.saturating_sub(1),
    };
    let newest = state.desired.newest();
    let document = match state.desired.past().into_iter().find(|past| past.number == number) {
        Some(past) => past.document.clone(),
        None if newest.number == number => newest.document.clone(),
        None => return Err(problem(Denial::NotFound(format!("generation {number} (any more)")))),
    };
    let origin = format!("rollback to generation {number}{}", caller.by());
    change(&state, &origin, &query, if_match(&headers), move |_| Ok(document.document())).await
}

/// `GET /v1/config/generations`
pub(super) async fn generations<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest().describe(state.plane.workers());
    let past = state.desired.past();
    let past = past.iter().rev().map(|past| past.description.clone());
    json_response(&Json::from([newest].into_iter().chain(past).collect::<Vec<_>>()))
}

/// `GET /v1/config/generations/{number}`
pub(super) async fn generation<P: DataPlane>(
    extract::State(state): Shared<P>,
    Named(number): Named<String>,
    query: Query,
) -> Result<Response, Problem> {
    let newest = state.desired.newest();
    if newest.number.to_string() == number {
        if let Some(wait) = query.wait()? {
            newest.settled(state.plane.workers(), wait).await;
        }
        let mut body = newest.describe(state.plane.workers());
        body["config"] = look(&newest.document, |document| document.to_json()).await;
        return Ok(tagged(json_response(&body), &newest.loaded.hash));
    }
    let found = state.desired.past().into_iter().find(|past| past.number.to_string() == number);
    let missing = || problem(Denial::NotFound(format!("generation {number} (any more)")));
    let past = found.ok_or_else(missing)?;
    let mut body = past.description.clone();
    body["config"] = look(&past.document, |document| document.to_json()).await;
    Ok(tagged(json_response(&body), &past.hash))
}

/// What diagnostics call the text of a push.
const BODY: &str = "(body)";

/// Makes a change, waits for the workers as long as the request wants, and tells what came of it.
async fn change<P: DataPlane>(
    state: &Arc<State<P>>,
    origin: &str,
    query: &Query,
    if_match: Option<Vec<String>>,
    edit: impl FnOnce(&Document) -> Result<Document, Denial> + Send + 'static,
) -> Result<Response, Problem> {
    let wait = query.wait_or_usual()?;
    let terms = Terms { origin: origin.to_owned(), if_match, dry_run: query.dry_run };
    let (changing, origin) = (state.clone(), origin.to_owned());
    let outcome = to_the_end(async move {
        let outcome = changing.change(terms, edit).await;
        audit(&changing, &origin, &outcome);
        outcome
    });
    answer(state, outcome.await.map_err(problem)?, wait).await
}

/// Says what came of a change, and by whom it was.
fn audit<P: DataPlane>(state: &State<P>, origin: &str, outcome: &Result<Outcome, Denial>) {
    match outcome {
        Ok(Outcome::Tried { .. }) => {}
        Ok(Outcome::Unchanged(generation)) => state.desired.say(format_args!(
            "audit: {origin}: nothing new, generation {} stays",
            generation.number
        )),
        Ok(Outcome::Applied(generation)) => {
            let changed = generation.changes.iter();
            let changed: Vec<String> =
                changed.map(|change| format!("{} {}", change.path, change.what.as_str())).collect();
            state.desired.say(format_args!(
                "audit: {origin}: generation {}, hash {}: {}",
                generation.number,
                generation.loaded.hash,
                changed.join(", ")
            ));
        }
        Err(denial) => {
            let text = denial.to_string();
            let first = text.lines().next().unwrap_or_default();
            state.desired.say(format_args!("audit: {origin}: refused: {first}"));
        }
    }
}

async fn answer<P: DataPlane>(
    state: &Arc<State<P>>,
    outcome: Outcome,
    wait: Duration,
) -> Result<Response, Problem> {
    let workers = state.plane.workers();
    let generation = match outcome {
        Outcome::Tried { changes, warnings, hash } => {
            let body = json!({
                "dry_run": true,
                "etag": hash,
                "changed": changed(&changes),
                "warnings": list(&warnings),
            });
            return Ok(json_response(&body));
        }
        Outcome::Unchanged(generation) => {
            generation.settled(workers, wait).await;
            let mut body = generation.describe(workers);
            body["changed"] = json!([]);
            return Ok(tagged(json_response(&body), &generation.loaded.hash));
        }
        Outcome::Applied(generation) => generation,
    };
    generation.settled(workers, wait).await;
    let body = json_response(&generation.describe(workers));
    let response = tagged(body, &generation.loaded.hash);
    match generation.live() >= workers {
        true => Ok(response),
        false => Ok((StatusCode::ACCEPTED, response).into_response()),
    }
}

fn tagged(mut response: Response, hash: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// An item's If-Match is about the item: the config around it may have changed.
fn expect_item(
    running: &Document,
    kind: Kind,
    name: &str,
    expected: Option<Vec<String>>,
) -> Result<(), Denial> {
    let Some(expected) = expected else { return Ok(()) };
    match running.item(kind, name) {
        Some((_, hash)) if is_among(&hash, &expected) => Ok(()),
        Some((_, hash)) => Err(Denial::Stale(Some(hash))),
        None => Err(Denial::Stale(None)),
    }
}

fn parse_kind(text: &str) -> Result<Kind, Problem> {
    text.parse().map_err(|()| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        let detail = format!("a config has {kinds}");
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    })
}

fn problem(denial: Denial) -> Problem {
    let detail = match &denial {
        Denial::RestartRequired(key, _) => format!("`{key}` is read at start only"),
        // The title says so too.
        Denial::Stale(_) => denial.to_string().trim_start_matches("stale: ").to_owned(),
        Denial::Invalid(found) => {
            match found.list.iter().find_map(|one| Some((one.item.as_ref()?, one))) {
                Some((item, one)) => format!("{item}: {}; nothing has changed", one.message),
                None => denial.to_string(),
            }
        }
        other => other.to_string(),
    };
    let first_line = detail.lines().next().unwrap_or_default().to_owned();
    let (status, title) = match &denial {
        Denial::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Denial::Stale(_) => (StatusCode::PRECONDITION_FAILED, "stale"),
        Denial::Unparseable(_) => (StatusCode::BAD_REQUEST, "not_parseable"),
        Denial::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_config"),
        Denial::RestartRequired(..) => (StatusCode::UNPROCESSABLE_ENTITY, "restart_required"),
        Denial::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "not_possible_here"),
        Denial::NotSaved(_) => (StatusCode::INSUFFICIENT_STORAGE, "state_not_writable"),
        Denial::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
    };
    let problem = Problem::new(status, title, first_line);
    match denial {
        Denial::Unparseable(found)
        | Denial::Invalid(found)
        | Denial::RestartRequired(_, found)
        | Denial::Refused(found) => problem.diagnostics(&found),
        Denial::Stale(Some(hash)) => match HeaderValue::from_str(&format!("\"{hash}\"")) {
            Ok(tag) => problem.header(header::ETAG, tag),
            Err(_) => problem,
        },
        Denial::Stale(None) | Denial::Draining | Denial::NotSaved(_) | Denial::NotFound(_) => {
            problem
        }
    }
}

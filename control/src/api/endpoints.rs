//! Endpoints: pushed to services, and shown.

use std::sync::Arc;
use std::time::Duration;

use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use config::{Address, Diagnostics, EndpointPush, Source};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::body::{Named, Query, Text, expect_json, if_match, object};
use super::{Shared, json_response};
use crate::auth::Caller;
use crate::data_plane::{DataPlane, EndpointState};
use crate::desired::to_the_end;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::pushed::Refused;
use crate::state::State;

/// What diagnostics call the text of a push.
const BODY: &str = "(body)";

/// `PUT /v1/services/{name}/endpoints`
pub(super) async fn put<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Named(name): Named<String>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_versions(&headers)?;
    let wait = query.wait_or_usual()?;
    let what = format!("endpoints of {}", name.escape_debug());
    let push = EndpointPush::replacement(BODY, &body).map(|push| vec![(name, push)]);
    audited(&state, &caller, &what, apply(&state, &caller, push, wait).await)
}

/// `PATCH /v1/services/{name}/endpoints`
pub(super) async fn patch<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Named(name): Named<String>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_versions(&headers)?;
    let wait = query.wait_or_usual()?;
    let what = format!("endpoints of {}", name.escape_debug());
    let push = EndpointPush::edit(BODY, &body).map(|push| vec![(name, push)]);
    audited(&state, &caller, &what, apply(&state, &caller, push, wait).await)
}

/// `POST /v1/endpoints`
pub(super) async fn post<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_versions(&headers)?;
    let wait = query.wait_or_usual()?;
    let pushes = EndpointPush::several(BODY, &body);
    audited(&state, &caller, "endpoints", apply(&state, &caller, pushes, wait).await)
}

/// Endpoints have versions in their JSON, and no tags: none that is expected can be live.
fn expect_versions(headers: &HeaderMap) -> Result<(), Problem> {
    expect_json(headers)?;
    match if_match(headers) {
        Some(tags) if tags.iter().all(|tag| tag != "*") => {
            let detail = "endpoints have a `version` and no ETag: leave If-Match out";
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, "stale", detail))
        }
        _ => Ok(()),
    }
}

/// Says of a push that it was refused; what was done is said where it is.
fn audited<P: DataPlane>(
    state: &State<P>,
    caller: &Caller,
    what: &str,
    outcome: Result<Response, Problem>,
) -> Result<Response, Problem> {
    if let Err(problem) = &outcome {
        let (by, title, detail) = (caller.by(), problem.title, &problem.detail);
        state.desired.say(format_args!("audit: {what}{by}: refused: {title}: {detail}"));
    }
    outcome
}

/// `GET /v1/services`
pub(super) async fn services<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest();
    let services = newest.loaded.config.services.iter();
    let one = |service: &config::Service| match &service.source {
        Source::Endpoints(endpoints) => json!({
            "name": &*service.name, "source": "endpoints", "endpoints": endpoints.len(),
        }),
        Source::Pushed { .. } => {
            let set = state.desired.pushed.get(&service.name);
            let age = set.as_ref().and_then(|set| set.at.elapsed().ok());
            json!({
                "name": &*service.name,
                "source": "pushed",
                "endpoints": set.as_ref().map_or(0, |set| set.endpoints.len()),
                "version": set.as_ref().map(|set| set.version),
                "age_s": age.map(|age| age.as_secs_f64()),
            })
        }
        Source::Dns(_) => {
            let found = state.desired.found.get(&service.name);
            let age = found.as_ref().and_then(|found| found.at?.elapsed().ok());
            json!({
                "name": &*service.name,
                "source": "dns",
                "endpoints": found.as_ref().map_or(0, |found| found.endpoints.len()),
                "age_s": age.map(|age| age.as_secs_f64()),
                "failure": found.and_then(|found| found.failure),
            })
        }
    };
    json_response(&Json::from(services.map(one).collect::<Vec<_>>()))
}

/// `GET /v1/endpoints`
pub(super) async fn endpoints<P: DataPlane>(
    extract::State(state): Shared<P>,
) -> Result<Response, Problem> {
    Ok(json_response(&state.plane.endpoints().await?))
}

/// The body of `POST /v1/services/{name}/{eject|restore|drain}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    endpoint: String,
}

/// `POST /v1/services/{name}/{eject|restore|drain}`, each a state.
pub(super) fn set_state<P: DataPlane>(to: EndpointState) -> MethodRouter<Arc<State<P>>> {
    axum::routing::post(move |extract::State(state), caller, path, query, headers, body| {
        set(state, caller, path, query, headers, body, to)
    })
}

async fn set<P: DataPlane>(
    state: Arc<State<P>>,
    caller: Caller,
    Named(name): Named<String>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
    to: EndpointState,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let Which { endpoint } = object(&body, "{\"endpoint\": ADDRESS}")?;
    let address: Address = endpoint.parse().map_err(|why: String| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_endpoint", why)
    })?;
    let wait = query.wait_or_usual()?;
    let _turn = state.desired.take_turn().await;
    refuse_when_draining(&state)?;
    let told = state.tell(|answers| state.plane.set_endpoint(&name, &address, to, answers));
    let live = told.map_err(|what| {
        let detail = format!("{what}; GET /v1/endpoints lists them");
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    })?;
    let (by, to) = (caller.by(), to.name());
    state.desired.say(format_args!("audit: endpoint {address} of {name}{by}: {to}"));
    let body = json!({ "service": name, "endpoint": address.to_string(), "state": to });
    state.events.tell("endpoint_state", &body);
    Ok(answer_when_live(&state, live, wait, body).await)
}

fn refuse_when_draining<P: DataPlane>(state: &State<P>) -> Result<(), Problem> {
    if *state.phase.borrow() != Phase::Draining {
        return Ok(());
    }
    let detail = "the process is going down; push to the next one";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail))
}

/// 200 when all workers have it, 202 when they take longer than `wait`.
async fn answer_when_live<P: DataPlane>(
    state: &State<P>,
    mut live: watch::Receiver<usize>,
    wait: Duration,
    mut body: Json,
) -> Response {
    let workers = state.plane.workers();
    // Nobody is left to tell of more: as settled as it gets.
    let _ = tokio::time::timeout(wait, live.wait_for(|live| *live >= workers)).await;
    let live = *live.borrow();
    (body["live"], body["workers"]) = (live.into(), workers.into());
    let body = json_response(&body);
    match live >= workers {
        true => body,
        false => (StatusCode::ACCEPTED, body).into_response(),
    }
}

async fn apply<P: DataPlane>(
    state: &Arc<State<P>>,
    caller: &Caller,
    pushes: Result<Vec<(String, EndpointPush)>, Diagnostics>,
    wait: Duration,
) -> Result<Response, Problem> {
    let pushes = pushes.map_err(|found| invalid(&found))?;
    let Some(Accepted { live, changed }) =
        to_the_end(accept(state.clone(), caller.by(), pushes)).await?
    else {
        let workers = state.plane.workers();
        let body = json!({ "changed": [], "live": workers, "workers": workers });
        return Ok(json_response(&body));
    };
    Ok(answer_when_live(state, live, wait, json!({ "changed": changed })).await)
}

/// Sets that the workers were told.
struct Accepted {
    live: watch::Receiver<usize>,
    changed: Vec<Json>,
}

/// Keeps what was pushed and tells the workers; `None` where it was live already. To be run
/// [`to_the_end`].
async fn accept<P: DataPlane>(
    state: Arc<State<P>>,
    by: String,
    pushes: Vec<(String, EndpointPush)>,
) -> Result<Option<Accepted>, Problem> {
    let _turn = state.desired.take_turn().await;
    refuse_when_draining(&state)?;
    let newest = state.desired.newest();
    let accepted = state.desired.pushed.accept(&newest.loaded.config, pushes);
    let accepted = accepted.map_err(|refused| problem(&refused))?;
    if accepted.is_empty() {
        return Ok(None);
    }
    state.note_endpoints(&accepted).await.map_err(|error| {
        let detail = format!(
            "the state directory cannot be written: {error}; free some room there, or let it be written"
        );
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "state_not_writable", detail)
    })?;
    let sets: Vec<_> =
        accepted.iter().map(|(name, set)| (name.clone(), set.endpoints.clone())).collect();
    let live = state
        .tell_endpoints(&sets)
        .map_err(|why| Problem::new(StatusCode::NOT_FOUND, "not_found", why))?;
    let mut changed = Vec::new();
    for (name, set) in &accepted {
        let (version, count) = (set.version, set.endpoints.len());
        changed.push(json!({ "service": name, "version": version, "endpoints": count }));
        state
            .desired
            .say(format_args!("audit: endpoints of {name}{by}: version {version}, {count}"));
    }
    state.desired.pushed.keep(accepted);
    state.save_endpoints_soon();
    Ok(Some(Accepted { live, changed }))
}

fn invalid(found: &Diagnostics) -> Problem {
    let is_syntax = found.list.iter().any(|one| {
        ["this is not JSON", "this byte is not UTF-8"]
            .iter()
            .any(|what| one.message.starts_with(what))
    });
    let problem = match is_syntax {
        true => Problem::new(StatusCode::BAD_REQUEST, "not_parseable", "this is not JSON"),
        false => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_endpoints",
            "the endpoints stay as they are",
        ),
    };
    problem.diagnostics(found)
}

fn problem(refused: &Refused) -> Problem {
    match refused {
        Refused::NoService(name) => Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no service {}; GET /v1/services lists them", name.escape_debug()),
        ),
        Refused::NotPushed(name, whence) => Problem::new(
            StatusCode::CONFLICT,
            "not_pushed",
            format!("the endpoints of {name} {whence}; give it `pushed: {{}}` instead"),
        ),
        Refused::Stale { service, live } => Problem::new(
            StatusCode::CONFLICT,
            "stale_version",
            format!("version {live} of {service} is live; push a higher one"),
        ),
        Refused::NothingToEdit(name) => Problem::new(
            StatusCode::CONFLICT,
            "never_pushed",
            format!("nothing was pushed to {name} yet; PUT the whole set first"),
        ),
    }
}
